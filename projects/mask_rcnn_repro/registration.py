"""One call that puts everything of this project into Detectron2's registries and catalogues."""

from __future__ import annotations

import functools


@functools.cache
def register() -> None:
    """Registers models, poolers, losses, evaluators and data sets; safe to call repeatedly.

    No data set file is opened here: files are looked for when a data set is first read.
    """
    import mask_rcnn_repro.evaluation
    import mask_rcnn_repro.modeling  # noqa: F401
    from mask_rcnn_repro.data import register_all_datasets

    register_all_datasets()
