"""One run as plain data: a config, its directory, its inputs from other runs, its evaluation."""

from __future__ import annotations

import contextlib
import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from mask_rcnn_repro.config.stored_proposals import model_is
from mask_rcnn_repro.engine.checkpoint.checkpointer import FINAL_CHECKPOINT, POINTER
from mask_rcnn_repro.engine.checkpoint.init_classes import ClassMap
from mask_rcnn_repro.errors import RecordError
from mask_rcnn_repro.evaluation.coco.precision_recall import PrecisionRecall
from mask_rcnn_repro.records import Record, load_record

RECORD_FILE = "record.json"
INPUTS_FILE = "inputs.json"
METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class Run:
    """A config that is run in a directory.

    Attributes:
        config_id: As :func:`~mask_rcnn_repro.config.config_id` returns it.
        cfg: The validated config.
        folder: Output directory.
        device: Device of the model.
        overrides: Overrides of the command line, for the record.
        file: File of the config. May be None for an id below `configs`.
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
        """Path of the final weights, whether or not they exist."""
        return self.folder / FINAL_CHECKPOINT

    @property
    def is_rpn(self) -> bool:
        """Whether the model proposes regions and nothing else."""
        generator = OmegaConf.select(self.cfg, "model.proposal_generator")
        return generator is not None and OmegaConf.select(self.cfg, "model.roi_heads") is None

    @property
    def is_classifier(self) -> bool:
        """Whether it is a pre-training stage."""
        return model_is(self.cfg, "ImageClassifier")

    @property
    def has_begun(self) -> bool:
        """Whether the directory holds a record or a pointer to a checkpoint."""
        return any((self.folder / name).is_file() for name in (RECORD_FILE, POINTER))

    def finished_record(self) -> Record | None:
        """Returns the record of the complete training in the directory, or None."""
        file = self.folder / RECORD_FILE
        record = load_record(file) if file.is_file() else None
        if record is None or record.mode != "train":
            return None
        return record if record.ran_to_its_end else None


def began_with(folder: Path) -> dict[str, Any]:
    """Returns the runs and data that the training in a directory began with, as far as known.

    They are facts by field of a record, such as `proposals`.
    """
    if (folder / INPUTS_FILE).is_file():
        facts: dict[str, Any] = json.loads((folder / INPUTS_FILE).read_text(encoding="utf-8"))
        return facts
    with contextlib.suppress(RecordError):
        record = load_record(folder / RECORD_FILE)
        if record.mode == "train":
            return record.model_dump()
    return {}


@dataclass(frozen=True)
class Inputs:
    """What a run takes from the runs that it depends on. All fields are empty for joint training.

    Attributes:
        train_proposals: Directories of stored proposals, one per training data set.
        test_proposals: Directories of stored proposals, one per test data set.
        initial_weights: Checkpoint of the run named by `train.init_from`.
        rpn_weights: Checkpoint of the RPN stage, for a model that keeps its RPN.
        classes: Maps the classes of the initial weights. None if they are the same.
        proposals: Facts about the RPN stage, for the record.
        init_from: Facts about the run of the initial weights, for the record.
        pretrained: Weights of the pre-training stage in `train.init_checkpoint`.
        generated: File of generated annotations to train on beside the labeled ones.
        generated_data: Facts about that file, for the record.
        teacher: Facts about the run whose model generated it, for the record.
    """

    train_proposals: tuple[Path, ...] = ()
    test_proposals: tuple[Path, ...] = ()
    initial_weights: Path | None = None
    rpn_weights: Path | None = None
    classes: ClassMap | None = None
    proposals: dict[str, Any] | None = None
    init_from: dict[str, Any] | None = None
    pretrained: Path | None = None
    generated: Path | None = None
    generated_data: dict[str, Any] | None = None
    teacher: dict[str, Any] | None = None

    def fill(self, cfg: DictConfig) -> DictConfig:
        """Returns a copy of `cfg` that names these files. Records hash `cfg` itself."""
        filled = copy.deepcopy(cfg)
        for split, folders in (("train", self.train_proposals), ("test", self.test_proposals)):
            if folders:
                filled.dataloader[split].mapper.proposal_files = [str(f) for f in folders]
        if self.generated is not None:
            filled.dataloader.train.dataset.generated = str(self.generated)
        if self.pretrained is not None:
            filled.train.init_checkpoint = str(self.pretrained)
        return filled


@dataclass
class Evaluation:
    """The outcome of one evaluation.

    Attributes:
        metrics: Task ("bbox", "segm", "keypoints") to metric to percent. "per_class" maps class
            names. Empty in all processes but the first, and without annotations.
        seconds_per_image: Part ("data", "inference", ...) to seconds.
        computed_by: The evaluator's `computed_by`; None if it has no such attribute.
        curves: Task to precision over recall, where the evaluator has them.
    """

    metrics: dict[str, Any] = field(default_factory=dict)
    seconds_per_image: dict[str, float] = field(default_factory=dict)
    computed_by: str | None = None
    curves: Mapping[str, PrecisionRecall[str]] = field(default_factory=dict)

    def scalars(self) -> dict[str, dict[str, float]]:
        """Returns task to metric to value, without the per-class values and undefined ones."""
        return {
            task: {k: v for k, v in values.items() if isinstance(v, float) and math.isfinite(v)}
            for task, values in self.metrics.items()
            if isinstance(values, dict)
        }
