"""Annotate images with the model of a finished run, as stage-wise training asks for it."""

from __future__ import annotations

from pathlib import Path

from mask_rcnn_repro.distillation.predictions import StalePredictionsError
from mask_rcnn_repro.distillation.run import distill
from mask_rcnn_repro.engine.dependencies import DataSet
from mask_rcnn_repro.engine.run import Run
from mask_rcnn_repro.errors import ConfigError


def annotate(teacher: Run, folder: Path, unlabeled: DataSet) -> Path:
    """Annotates unlabeled images; see :class:`~mask_rcnn_repro.engine.extensions.Annotate`.

    Args:
        teacher: The finished run of the model.
        folder: Directory of predictions and annotations.
        unlabeled: The images.

    Returns:
        The file of annotations.

    Raises:
        ConfigError: The directory holds predictions that were made in another way.
        CheckpointError: The weights of the teacher's RPN are missing.
    """
    try:
        return distill(
            teacher.cfg,
            teacher.checkpoint,
            folder,
            config_id=teacher.config_id,
            unlabeled=unlabeled,
            device=teacher.device,
        )
    except StalePredictionsError as error:
        raise ConfigError(
            f"The predictions in {folder} are stale: they were made in another way than "
            f"{teacher.config_id} would make them now.\n{error.differences}\nDelete the "
            f"directory {folder} to have them made again."
        ) from None
