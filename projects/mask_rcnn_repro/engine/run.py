"""One run: a config, the folder that it writes to, and what it takes from runs before it."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf

from mask_rcnn_repro.config import claim_output_dir
from mask_rcnn_repro.engine.checkpoint.checkpointer import (
    FINAL_CHECKPOINT,
    POINTER,
    find_last_checkpoint,
)
from mask_rcnn_repro.engine.checkpoint.init_classes import ClassMap
from mask_rcnn_repro.engine.evaluate import Evaluation
from mask_rcnn_repro.engine.launch.hosts import check_hosts_agree
from mask_rcnn_repro.engine.run_folder import setup_logging
from mask_rcnn_repro.engine.train.loop import train
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.records.curves import CURVES_FILE, make_curves, save_curves
from mask_rcnn_repro.records.record import Record, load_record, make_record, save_record
from mask_rcnn_repro.utils.atomic import atomic_write_text
from mask_rcnn_tools.check_data.before_training import check_before_training

logger = logging.getLogger(__name__)

RECORD_FILE = "record.json"
METRICS_FILE = "metrics.json"
INPUTS_FILE = "inputs.json"

_INPUTS = {
    "proposals": "the proposals of other weights",
    "init_from": "other initial weights",
    "generated_data": "other generated annotations",
}
"""What a run that stands on something else began with, by its key in `inputs.json`."""


@dataclass(frozen=True)
class Inputs:
    """What a run takes from the runs that it depends on (none of it for joint training).

    Attributes:
        train_proposals: Folders of stored proposals, one for each training data set.
        test_proposals: The same for the test data sets.
        initial_weights: Checkpoint of the run named by `train.init_from`.
        rpn_weights: Checkpoint of the RPN stage, for a model that keeps its RPN.
        classes: How the classes of the initial weights are taken over; None: they are the same.
        proposals: What a record says about the RPN stage.
        init_from: What a record says about the run that gave the initial weights.
        generated: Generated annotations that are trained on beside the labeled ones.
        generated_data: What a record says about them.
        teacher: What a record says about the run whose model made them.
    """

    train_proposals: tuple[Path, ...] = ()
    test_proposals: tuple[Path, ...] = ()
    initial_weights: Path | None = None
    rpn_weights: Path | None = None
    classes: ClassMap | None = None
    proposals: dict[str, Any] | None = None
    init_from: dict[str, Any] | None = None
    generated: Path | None = None
    generated_data: dict[str, Any] | None = None
    teacher: dict[str, Any] | None = None

    def fill(self, cfg: DictConfig) -> DictConfig:
        """Returns a copy of `cfg` whose loaders know the files; the hash is that of `cfg` alone."""
        filled = copy.deepcopy(cfg)
        for split, folders in (("train", self.train_proposals), ("test", self.test_proposals)):
            if folders:
                filled.dataloader[split].mapper.proposal_files = [str(f) for f in folders]
        if self.generated is not None:
            filled.dataloader.train.dataset.generated = str(self.generated)
        return filled


@dataclass(frozen=True)
class Run:
    """A config that is run in a folder.

    Attributes:
        config_id: As :func:`~mask_rcnn_repro.config.config_id` gives it.
        cfg: The validated config.
        folder: Output folder.
        device: Where it runs.
        overrides: As on the command line, for the record.
        file: The config's file, of a run that another one depends on.
    """

    config_id: str
    cfg: DictConfig
    folder: Path
    device: torch.device
    overrides: tuple[str, ...] = field(default=())
    file: Path | None = None

    @property
    def profile(self) -> str:
        """The profile that scaled the config."""
        return str(self.cfg.train.profile)

    @property
    def checkpoint(self) -> Path:
        """Where the final weights are or will be."""
        return self.folder / FINAL_CHECKPOINT

    @property
    def is_rpn(self) -> bool:
        """Whether the model proposes regions and nothing else."""
        heads, generator = (
            OmegaConf.select(self.cfg, f"model.{part}")
            for part in ("roi_heads", "proposal_generator")
        )
        return heads is None and generator is not None

    @property
    def has_begun(self) -> bool:
        """Whether the folder has a record or names a checkpoint, even one that is gone."""
        return any((self.folder / name).is_file() for name in (RECORD_FILE, POINTER))

    def open(self, earlier: Sequence[logging.LogRecord] = ()) -> None:
        """Takes the folder into possession and logs into it; a folder of another config refuses.

        Args:
            earlier: Log lines from before, which come first.

        Raises:
            ConfigError: See :func:`~mask_rcnn_repro.config.claim_output_dir`.
            UserError: See :func:`~mask_rcnn_repro.engine.launch.hosts.check_hosts_agree`.
        """
        if comm.is_main_process():
            claim_output_dir(self.folder, self.cfg)
        comm.synchronize()
        setup_logging(self.folder, earlier)
        check_hosts_agree(self.folder)

    def finished_record(self) -> Record | None:
        """The record of the complete training run in the folder, if there is one."""
        file = self.folder / RECORD_FILE
        record = load_record(file) if file.is_file() else None
        if record is None or record.mode != "train":
            return None
        return record if record.iterations_done == record.iterations_planned else None

    def train(self, inputs: Inputs, resume: bool) -> Record | None:
        """Trains, evaluates and writes the record.

        Args:
            inputs: What the run stands on.
            resume: See :func:`~mask_rcnn_repro.engine.train.loop.train`.

        Returns:
            The record; None off the first process.

        Raises:
            DataError: What the run stood on when it began has been made anew since.
        """
        self._keep_inputs(inputs)
        cfg = inputs.fill(self.cfg)
        check_before_training(cfg, str(self.file or self.config_id), self.overrides)
        result = train(
            cfg,
            self.folder,
            self.device,
            resume,
            detector_weights=inputs.initial_weights,
            rpn_weights=inputs.rpn_weights,
            classes=inputs.classes,
        )
        return self.write_record(
            result.evaluation,
            inputs,
            mode="train",
            iterations_done=result.iterations,
            checkpoint=self.checkpoint,
            train_seconds=result.seconds,
        )

    def _keep_inputs(self, inputs: Inputs) -> None:
        """Half a training on one RPN's proposals and half on another's would be no row at all."""
        file = self.folder / INPUTS_FILE
        now = {
            "proposals": inputs.proposals,
            "init_from": inputs.init_from,
            "generated_data": inputs.generated_data,
        }
        begun = find_last_checkpoint(self.folder) is not None and file.is_file()
        then = json.loads(file.read_text(encoding="utf-8")) if begun else now
        for key, facts in now.items():
            old, new = (_identity(f) for f in (then.get(key), facts))
            if old != new:
                raise DataError(
                    f"The run in {self.folder} began with {_INPUTS[key]} ({old}) than there are "
                    f"now ({new}). Delete the folder to begin anew, or put back what it began with."
                )
        comm.synchronize()
        if comm.is_main_process() and not begun:
            atomic_write_text(file, json.dumps(now, indent=2) + "\n")

    def write_record(
        self,
        evaluation: Evaluation,
        inputs: Inputs,
        *,
        mode: str,
        iterations_done: int | None,
        checkpoint: Path | str,
        train_seconds: float | None,
    ) -> Record | None:
        """Writes `record.json` into the folder, and `curves.json` beside it.

        See :func:`make_record` for the arguments.
        """
        if not comm.is_main_process():
            return None
        record = make_record(
            self.cfg,
            config_id=self.config_id,
            profile=self.profile,
            overrides=self.overrides,
            mode=mode,
            metrics=evaluation.metrics,
            seconds_per_image=evaluation.seconds_per_image,
            evaluator_backend=evaluation.computed_by,
            iterations_done=iterations_done,
            checkpoint=checkpoint,
            train_seconds=train_seconds,
            device=self.device,
            proposals=inputs.proposals,
            init_from=inputs.init_from if mode == "train" else None,
            generated_data=inputs.generated_data if mode == "train" else None,
            teacher=inputs.teacher if mode == "train" else None,
        )
        save_record(record, self.folder / RECORD_FILE)
        logger.info("Record written to %s", self.folder / RECORD_FILE)
        curves = make_curves(record, self.folder / METRICS_FILE, evaluation.curves)
        save_curves(curves, self.folder / CURVES_FILE)
        return record


def _identity(facts: Mapping[str, Any] | None) -> Any:
    """What tells one input from another: the weights, or the annotations."""
    return (facts or {}).get("fingerprint", (facts or {}).get("checkpoint"))
