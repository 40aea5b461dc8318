"""Chooses the evaluator of a data set by its ``evaluator_type``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from fvcore.common.registry import Registry

from mask_rcnn_repro.errors import DataError

EVALUATOR_REGISTRY = Registry("EVALUATOR")
"""Evaluator classes.

Each is a ``DatasetEvaluator`` that is built with the data set's name and ``output_dir``. Its class
attribute ``evaluator_types`` names the types that it serves. Two more attributes are optional and
are read after ``evaluate()``:

- ``computed_by``: name of the library that computed the metrics, for the record (str or None).
- ``curves``: task to :class:`~mask_rcnn_repro.evaluation.coco.precision_recall.PrecisionRecall`.
"""


def evaluator_types() -> Mapping[str, type[DatasetEvaluator]]:
    """Returns evaluator type to class. The class that is registered last takes precedence."""
    return {kind: cls for _, cls in EVALUATOR_REGISTRY for kind in cls.evaluator_types}


def build_evaluator(
    dataset_name: str, output_dir: str | None = None, **options: Any
) -> DatasetEvaluator:
    """Builds the evaluator that the data set's metadata asks for.

    Args:
        dataset_name: A registered data set whose metadata has an ``evaluator_type``.
        output_dir: Directory for result files. None writes no files.
        **options: Options of the evaluator, such as `backend` for COCO.

    Raises:
        DataError: The data set is unknown, or no evaluator serves its type.
    """
    known = evaluator_types()
    allowed = f"Known types: {', '.join(sorted(known))}."
    if dataset_name not in MetadataCatalog.list():
        raise DataError(
            f"No data set is registered under {dataset_name!r}, so it cannot be evaluated. Check "
            f"dataloader.test.dataset.names. {allowed}"
        )
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in known:
        raise DataError(
            f"The data set {dataset_name!r} has evaluator_type {kind!r}, which no evaluator "
            f"serves. {allowed} Set it in the data set's metadata, or register an evaluator for it "
            "in mask_rcnn_repro.evaluation.EVALUATOR_REGISTRY."
        )
    return known[kind](dataset_name, output_dir=output_dir, **options)
