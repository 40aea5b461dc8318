"""Annotate images with the model of a finished run, for stage-wise training."""

from __future__ import annotations

from pathlib import Path

from mask_rcnn_repro.distillation.predictions import StalePredictionsError
from mask_rcnn_repro.distillation.run import distill
from mask_rcnn_repro.engine.dependencies import DataSet
from mask_rcnn_repro.engine.run import Run
from mask_rcnn_repro.errors import ConfigError


def annotate(teacher: Run, folder: Path, unlabeled: DataSet) -> Path:
    """Annotates unlabeled images; see :class:`~mask_rcnn_repro.engine.extensions.Extensions`.

    Raises:
        ConfigError: The directory holds predictions of other settings.
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
            f"The predictions in {folder} are stale: they were made with other settings than "
            f"{teacher.config_id} has now.\n{error.differences}\nDelete the directory {folder} to "
            "predict again."
        ) from None
