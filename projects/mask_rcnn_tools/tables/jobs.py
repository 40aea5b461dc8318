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

from omegaconf import DictConfig

from mask_rcnn_repro.config import config_hash, config_root
from mask_rcnn_repro.engine.checkpoint.checkpointer import FINAL_CHECKPOINT
from mask_rcnn_repro.engine.run import RECORD_FILE
from mask_rcnn_tools.common.commands import COMMANDS

_LONGEST = 120  # characters of a file's name

Kind = Literal["stage", "row", "server"]
"""An input of rows; a row itself; an evaluation of one for a server that has the annotations."""


@dataclass(frozen=True, eq=False)
class Job:
    """One run.

    Attributes:
        kind: what for.
        config: id below `configs`, or the path of a file elsewhere.
        cfg: the resolved config.
        folder: where it writes; what identifies the job.
        overrides: for its command line, beside the profile and the seed.
        inputs: jobs that must be finished before, by the key of a record: `proposals`, `init_from`
            (of pre-training stages, too) and `teacher`; for an evaluation `weights`.
        what: purpose, where the config's name is not enough.
        label: id of a config that is not below `configs`, whose path `config` is; else empty.
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
        """The config's id, as records have it."""
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
        """For people, such as `table2c/roi_pool_max seed 1`."""
        return f"{self.config_id} seed {self.seed}" + (f" {self.what}" if self.what else "")

    @property
    def slug(self) -> str:
        """For files, such as `table2c-roi_pool_max-seed1`."""
        text = re.sub(r"[^\w.=+-]+", "-", self.name.replace(" seed ", "-seed"))
        if len(text) <= _LONGEST:
            return text
        return f"{text[:_LONGEST]}-{hashlib.sha256(self.name.encode()).hexdigest()[:6]}"

    @functools.cached_property
    def hash(self) -> str:
        """Hash of the config, as records have it."""
        return config_hash(self.cfg)

    @property
    def iterations(self) -> int:
        """Training iterations; 0 for evaluations."""
        return 0 if self.kind == "server" else int(self.cfg.train.max_iter)

    @property
    def record_file(self) -> Path:
        """Where its record is or will be."""
        return self.folder / RECORD_FILE

    @property
    def checkpoint(self) -> Path:
        """Where its final weights are or will be."""
        return self.folder / FINAL_CHECKPOINT

    def arguments(self, extra: Sequence[str] = ()) -> list[str]:
        """The command line after `python train_net.py`.

        Args:
            extra: further overrides of where and how the job runs.
        """
        how = ["--eval-only"] if self.kind == "server" else ["--resume"]
        return [
            *("--config-file", self.config, "--profile", self.profile, "--seed", str(self.seed)),
            *how,
            *self.overrides,
            *extra,
        ]


def launcher(command: str = "train") -> list[str]:
    """How a command is started with this Python: by its script, or without a checkout as a module.

    Args:
        command: Its name for `mask-rcnn-repro`.
    """
    script = config_root().parent / COMMANDS[command].script
    if script.is_file():
        return [sys.executable, str(script)]
    return [sys.executable, "-m", "mask_rcnn_tools", command]
