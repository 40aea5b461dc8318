"""A job: one run of `train_net.py` that a table needs."""

from __future__ import annotations

import functools
import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from omegaconf import DictConfig

from mask_rcnn_repro.config import config_hash, config_root
from mask_rcnn_repro.engine.checkpoint.checkpointer import FINAL_CHECKPOINT
from mask_rcnn_repro.engine.run import RECORD_FILE, Run
from mask_rcnn_tools.common.commands import COMMANDS

_LONGEST = 120  # characters of a file's name

Kind = Literal["stage", "row", "server"]
"""An input of rows, a row, or an evaluation of a row for a server that has the annotations."""


@dataclass(frozen=True, eq=False)
class Job:
    """One run.

    Attributes:
        kind: Its purpose.
        config: Id below `configs`, or the path of a file elsewhere.
        cfg: The resolved config.
        folder: Output directory. It identifies the job.
        overrides: Overrides of its command line, without profile and seed.
        inputs: Jobs that must be finished before, by key of the record: `proposals`, `init_from`
            (also of pre-training stages) and `teacher`. For an evaluation `weights`.
        what: Its purpose in words, if the config's name is not enough.
        label: Id of a config that is not below `configs`, otherwise empty.
    """

    kind: Kind
    config: str
    cfg: DictConfig
    folder: Path
    overrides: tuple[str, ...] = ()
    inputs: tuple[tuple[str, Job], ...] = ()
    what: str = ""
    label: str = ""

    @property
    def config_id(self) -> str:
        """Id of the config, as in records."""
        return self.label or self.config

    @property
    def seed(self) -> int:
        """`train.seed`."""
        return int(self.cfg.train.seed)

    @property
    def profile(self) -> str:
        """The profile that scaled the config."""
        return str(self.cfg.train.profile)

    @property
    def name(self) -> str:
        """Name in messages, such as `table2c/roi_pool_max seed 1`."""
        return f"{self.config_id} seed {self.seed}" + (f" {self.what}" if self.what else "")

    @property
    def slug(self) -> str:
        """Name of its files, such as `table2c-roi_pool_max-seed1`."""
        text = re.sub(r"[^\w.=+-]+", "-", self.name.replace(" seed ", "-seed"))
        if len(text) <= _LONGEST:
            return text
        return f"{text[:_LONGEST]}-{hashlib.sha256(self.name.encode()).hexdigest()[:6]}"

    @property
    def run(self) -> Run:
        """The run, on any device."""
        return Run(self.config, self.cfg, self.folder, torch.device("cpu"))

    @functools.cached_property
    def hash(self) -> str:
        """Hash of the config, as in records."""
        return config_hash(self.cfg)

    @property
    def iterations(self) -> int:
        """Number of training iterations. 0 for evaluations."""
        return 0 if self.kind == "server" else int(self.cfg.train.max_iter)

    @property
    def record_file(self) -> Path:
        """Path of its record, whether or not it exists."""
        return self.folder / RECORD_FILE

    @property
    def checkpoint(self) -> Path:
        """Path of its final weights, whether or not they exist."""
        return self.folder / FINAL_CHECKPOINT

    def arguments(self, extra: Sequence[str] = ()) -> list[str]:
        """Returns the command line after `python train_net.py`.

        Args:
            extra: Further overrides of where and how the job runs.
        """
        how = ["--eval-only"] if self.kind == "server" else ["--resume"]
        return [
            *("--config-file", self.config, "--profile", self.profile, "--seed", str(self.seed)),
            *how,
            *self.overrides,
            *extra,
        ]


def launcher(command: str = "train") -> list[str]:
    """Returns how this Python starts a command: by its script, or as a module without a checkout.

    Args:
        command: Its name for `mask-rcnn-repro`.
    """
    script = config_root().parent / COMMANDS[command].script
    if script.is_file():
        return [sys.executable, str(script)]
    return [sys.executable, "-m", "mask_rcnn_tools", command]
