"""Find what a run depends on, from configs alone: other runs, their configs and their data.

A row names its RPN stage in `train.proposals`, its pre-training stage in `train.init_checkpoint`
and another run that it starts from in `train.init_from`.
For data distillation it names the run that generates annotations in `dataset.teacher`.
:mod:`mask_rcnn_repro.engine.stages.prepare` makes what is missing.
"""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from mask_rcnn_repro.config import (
    config_id,
    config_root,
    default_output_dir,
    find_config,
    load_config,
    parse_override,
)
from mask_rcnn_repro.config.from_data import fit_to_data
from mask_rcnn_repro.data.generated.annotations import default_unlabeled
from mask_rcnn_repro.engine.run import Run
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.utils.checkpoint_paths import stage_of

_DATASET = "dataloader.train.dataset"

INHERITED = (
    "train.output_root",
    "train.device",
    "train.num_threads",
    "train.published_weights",
    "train.writers",
    "dataloader.train.num_workers",
    "dataloader.test.num_workers",
)
"""Keys that a run passes on to the runs that it depends on. None changes what is computed."""

_SIZES = ("short_edge_length", "max_size", "shape", "sample_style")
"""Parameters of Detectron2's augmentations that resize images."""


@dataclass(frozen=True)
class DataSet:
    """A data set that the `dataset` node of a loader names.

    Attributes:
        name: One registered name.
        json: Annotation file. Only for a user's own data set.
        image_root: Directory of its images.
        unlabeled: Whether it is trained on with generated annotations. The RPN stores as many
            proposals for these images as for its training data, in a directory of their own.
        image_bits: Bits that its 16-bit images are scaled from. None: from the images.
    """

    name: str
    json: str | None = None
    image_root: str | None = None
    unlabeled: bool = False
    image_bits: int | None = field(default=None, compare=False)

    @property
    def folder(self) -> str:
        """Name of the directory of its proposals."""
        return f"{self.name}.train" if self.unlabeled else self.name

    def keys(self) -> dict[str, Any]:
        """Returns the keys of a `dataset` node."""
        keys = ("json", "image_root", "image_bits")
        return {"names": self.name, **{key: getattr(self, key) for key in keys}}


def find_rpn(cfg: DictConfig, device: torch.device) -> Run:
    """Returns the RPN stage that a config names in `train.proposals`, trained or not.

    Raises:
        ConfigError: See :func:`check_rpn`.
    """
    run = Run("this config", cfg, Path(), device)
    rpn = dependency(run, cfg.train.proposals, ())
    check_rpn(run, rpn)
    return rpn


def check_rpn(run: Run, rpn: Run) -> None:
    """Checks that `rpn` is an RPN stage and stores as many proposals per image as `run` asks for.

    Raises:
        ConfigError: It is not, or it stores fewer.
    """
    if not rpn.is_rpn:
        raise ConfigError(
            f"train.proposals names {rpn.config_id}, which is no RPN stage: its model has RoI "
            "heads or no proposal generator. Name a config of configs/rpn/ or one like it."
        )
    counts = rpn.cfg.model.proposal_generator.post_nms_topk
    for split, stored in zip(("train", "test"), counts, strict=True):
        wanted = run.cfg.dataloader[split].mapper.get("precomputed_proposal_topk")
        if wanted is not None and wanted > stored:
            raise ConfigError(
                f"{run.config_id} asks for {wanted} proposals per image of its {split} data, but "
                f"{rpn.config_id} stores {stored}. Raise model.proposal_generator.post_nms_topk "
                f"there, or lower dataloader.{split}.mapper.precomputed_proposal_topk."
            )


STAGES = 2
"""Number of runs of a stage that the seeds of a row use in rotation."""


def stage_seed(train: DictConfig, path: str) -> int:
    """Returns the seed of a run that another one depends on.

    Seeds vary all that a person repeating the work would vary, so they do not share one RPN. A
    run without training evaluates weights of its own seed.

    Args:
        train: Section `train` of the run that depends on it.
        path: The other config, as `train` names it.
    """
    if train.max_iter == 0 and path == train.init_from:
        return int(train.seed)
    return int(train.seed % STAGES if train.stage_seed is None else train.stage_seed)


def check_stage_seeds(run: Run, used: Mapping[str, Any]) -> None:
    """Checks that a run stands on stages of the seeds that it would use now (else ConfigError).

    `used` is what :func:`~mask_rcnn_repro.engine.run.began_with` returns.
    """
    train = run.cfg.train
    named = {
        "proposals": train.proposals,
        "init_from": train.init_from or pretraining_of(run.cfg),
        "teacher": teacher_of(run.cfg),
    }
    for key, path in named.items():
        then: Any = used.get(key)
        known = then and path and then["id"] == config_id(find_config(path))
        if known and path and then["seed"] != (now := stage_seed(train, path)):
            raise ConfigError(
                f"The run in {run.folder} used seed {then['seed']} of {then['id']}; seed "
                f"{train.seed} now uses seed {now} of it. Delete the directory to run it "
                f"again, or repeat that run elsewhere with train.stage_seed={then['seed']}."
            )


def dependency(
    run: Run, path: str, chain: tuple[str, ...], load: Callable[..., DictConfig] = load_config
) -> Run:
    """Returns the run of another config that `run` depends on.

    It has the same profile, and the seed of :func:`stage_seed`. It has the same data, too, unless
    it is a pre-training stage or provides weights whose classes are mapped by name. Stages that
    read the same data scale its images from the same bits. An RPN is trained at the image sizes of
    the run.

    Args:
        run: The run that depends on it.
        path: Config, as `run` names it.
        chain: Ids of the configs that depend on it, `run` last.
        load: Loads its config; one that remembers saves time where many runs share stages.

    Raises:
        ConfigError: The configs depend on each other in a circle, or the config cannot be used.
    """
    file = find_config(path)
    name = config_id(file)
    if name in chain:
        raise ConfigError(f"Configs depend on each other: {' -> '.join((*chain, name))}.")
    handed = [override_text(key, OmegaConf.select(run.cfg, key)) for key in INHERITED]
    seed = stage_seed(run.cfg.train, path)
    plain = load(file, run.profile, tuple(handed), seed)
    fine_tunes = path == run.cfg.train.init_from and run.cfg.train.init_classes is not None
    own_data = fine_tunes or path == pretraining_of(run.cfg)
    same_data = data_sets(run.cfg, "train") == data_sets(plain, "train")
    if same_data:
        plain = fit_to_data(plain)  # which bits it would take
    data = [] if own_data and not same_data else _data_overrides(run.cfg, plain, same_data)
    if path == run.cfg.train.proposals:
        data += _size_overrides(run.cfg, plain)
    cfg = load_config(file, run.profile, [*handed, *data], seed) if data else plain
    cfg = cfg if cfg is plain and same_data else fit_to_data(cfg, data)
    root = str(cfg.train.output_root)
    folder = default_output_dir(name, run.profile, cfg.train.seed, data, root=root)
    return Run(name, cfg, Path(folder), run.device, tuple(data), file)


def override_text(key: str, value: Any) -> str:
    """Returns the override that sets a key. Text is quoted only if YAML would read it otherwise."""
    plain = f"{key}={value}"
    try:
        if isinstance(value, str) and parse_override(plain).value == value:
            return plain
    except ConfigError:
        pass
    value = OmegaConf.to_container(value) if OmegaConf.is_list(value) else value
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def _data_overrides(row: DictConfig, stage: DictConfig, same_data: bool = False) -> list[str]:
    """Returns overrides that give a stage the training and test data of a row."""
    overrides = []
    for split in ("train", "test"):
        if same_data and data_sets(row, split) != data_sets(stage, split):
            continue  # another test set needs other proposals, but no other RPN
        node = row.dataloader[split].dataset
        for key in ("image_bits",) if same_data else ("names", "json", "image_root", "image_bits"):
            value, theirs = node.get(key), stage.dataloader[split].dataset.get(key)
            if value != theirs and (value is not None or not same_data):
                overrides.append(override_text(f"dataloader.{split}.dataset.{key}", value))
    return overrides


def _size_overrides(row: DictConfig, rpn: DictConfig) -> list[str]:
    """Returns overrides that give an RPN the image sizes of a row that trains on other sizes."""
    found: dict[str, list[str]] = {"train": [], "test": []}
    for split, overrides in found.items():
        base = f"dataloader.{split}.mapper.augmentations"
        for place, key in itertools.product(range(len(OmegaConf.select(row, base) or [])), _SIZES):
            name = f"{base}.{place}.{key}"
            value, theirs = (OmegaConf.select(cfg, name) for cfg in (row, rpn))
            if value != theirs and None not in (value, theirs):
                overrides.append(override_text(name, value))
    # other sizes in tests alone need no other RPN
    return found["train"] and found["train"] + found["test"]


def data_sets(cfg: DictConfig, split: str) -> list[DataSet]:
    """Returns the data sets of `dataloader.train` or `dataloader.test`."""
    node = cfg.dataloader[split].dataset
    names = [node.names] if isinstance(node.names, str) else list(node.names)
    keys = {key: node.get(key) for key in ("json", "image_root", "image_bits")}
    return [DataSet(name, **keys) for name in names]


def teacher_of(cfg: DictConfig) -> str | None:
    """Returns the config that generates annotations, or None if no annotations are needed."""
    node = cfg.dataloader.train.dataset
    needed = cfg.train.max_iter != 0 and node.get("generated") is None
    teacher: str | None = node.get("teacher") if needed else None
    return teacher


def pretraining_of(cfg: DictConfig) -> str | None:
    """Returns the config of the pre-training stage that a config starts from, or None."""
    return None if cfg.train.init_from else stage_of(str(cfg.train.init_checkpoint))


def unlabeled_of(cfg: DictConfig) -> DataSet:
    """Returns the images that the teacher of a config annotates.

    Raises:
        ConfigError: The config does not name them, and none are known.
    """
    given = cfg.dataloader.train.dataset.get("unlabeled")
    return DataSet(given or default_unlabeled(data_sets(cfg, "train")[0].name))


def command(run: Run) -> str:
    """Returns the command that trains a run in its directory."""
    inside = run.file is None or run.file.is_relative_to(config_root().resolve())
    config = run.config_id if inside else str(run.file)
    words = ["python", "train_net.py", "--config-file", config, "--profile", run.profile]
    words += ["--seed", str(run.cfg.train.seed)] if run.cfg.train.seed else []
    words += run.overrides
    if run.cfg.train.output_root != "output":
        words.append(override_text("train.output_root", run.cfg.train.output_root))
    return shlex.join(words)
