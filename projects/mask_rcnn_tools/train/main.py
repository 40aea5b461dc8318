"""Train and evaluate with everything that this project adds: data check, drawings, distillation."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from mask_rcnn_repro.distillation.predictions import StalePredictionsError
from mask_rcnn_repro.distillation.run import distill
from mask_rcnn_repro.engine.dependencies import DataSet
from mask_rcnn_repro.engine.extensions import Extensions
from mask_rcnn_repro.engine.run import Run
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_tools.check_data.before_training import check_before_training
from mask_rcnn_tools.common.command_line import run_command
from mask_rcnn_tools.drawing.evaluation import draw_results
from mask_rcnn_tools.evidence.image_bootstrap import write_bootstrap
from mask_rcnn_tools.evidence.summary import print_results
from mask_rcnn_tools.train.run import main as train_or_evaluate
from mask_rcnn_tools.train.verify import verifier
from mask_rcnn_tools.train.writers import build_writers


def _annotate(teacher: Run, folder: Path, unlabeled: DataSet) -> Path:
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


EXTENSIONS = Extensions(
    check_data=check_before_training,
    draw=draw_results,
    resample=write_bootstrap,
    annotate=_annotate,
    writers=build_writers,
    show=print_results,
    verify=verifier,
)


def main(args: argparse.Namespace) -> None:
    """Runs a parsed command line of `train_net.py`."""
    run_command(
        functools.partial(train_or_evaluate, extensions=EXTENSIONS),
        args,
        stopped="Stopped; --resume continues from the last checkpoint.",
    )
