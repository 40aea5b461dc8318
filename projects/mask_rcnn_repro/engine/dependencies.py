"""What a run depends on, from configs alone: which runs, of which configs, on which data.

A row names its RPN stage in `train.proposals`, the run that it starts from in `train.init_from`
and, for data distillation, the run that generates annotations in `dataset.teacher`.
:mod:`mask_rcnn_repro.engine.stages.prepare` makes what is missing.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
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
from mask_rcnn_repro.config.rules import effective
from mask_rcnn_repro.config.stored_proposals import keeps_rpn
from mask_rcnn_repro.data import dataset_fingerprint
from mask_rcnn_repro.data.generated.annotations import default_unlabeled
from mask_rcnn_repro.data.generated.mixed_dataset import check_mixture
from mask_rcnn_repro.engine.builders import build_model, check_batch_size
from mask_rcnn_repro.engine.checkpoint.init_classes import class_map_of
from mask_rcnn_repro.engine.run import Run
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.utils.checkpoint_paths import check_exists

_DATASET = "dataloader.train.dataset"

_INHERITED = (
    "train.output_root",
    "train.device",
    "train.num_threads",
    "dataloader.train.num_workers",
    "dataloader.test.num_workers",
)
"""Keys that a run hands on to those that it depends on; all say where and how, none what."""


@dataclass(frozen=True)
class DataSet:
    """What a loader's `dataset` node names.

    Attributes:
        name: One registered name.
        json: Annotation file of a data set of the user's own.
        image_root: Its images.
        unlabeled: Trained on with generated annotations. The RPN was not trained on these images,
            but stores as many proposals of them as of its training data, in a folder apart from
            those for tests.
    """

    name: str
    json: str | None = None
    image_root: str | None = None
    unlabeled: bool = False

    @property
    def folder(self) -> str:
        """Name of the folder of its proposals."""
        return f"{self.name}.train" if self.unlabeled else self.name

    def keys(self) -> dict[str, Any]:
        """The keys of a `dataset` node."""
        return {"names": self.name, "json": self.json, "image_root": self.image_root}


def check_dependencies(run: Run, *, eval_only: bool = False, above: tuple[str, ...] = ()) -> None:
    """Looks at the configs that `run` depends on, before anything is written.

    Args:
        run: A run, which may depend on nothing.
        eval_only: See :func:`prepare`.
        above: Configs that depend on it.

    Raises:
        ConfigError: As :func:`prepare`, of the mistakes that the configs alone show.
        CheckpointError: `run` has yet to begin, and there is no file `train.init_checkpoint`.
    """
    if not eval_only:
        if not above and not run.has_begun and not run.cfg.train.init_from:
            check_exists(str(run.cfg.train.init_checkpoint))
        _check_early(run)
    chain = (*above, run.config_id)
    train = run.cfg.train
    source = None
    teacher = None if eval_only else teacher_of(run.cfg)
    for path in dict.fromkeys(filter(None, (train.init_from, train.proposals, teacher))):
        other = dependency(run, path, chain)
        if path == train.proposals:
            check_rpn(run, other)
        if path == train.init_from:
            source = other.cfg
        if path == teacher:
            check_teacher(run, other)
        check_dependencies(other, eval_only=eval_only, above=chain)
    if not eval_only:
        class_map_of(run.cfg, source)


def find_rpn(cfg: DictConfig, device: torch.device) -> Run:
    """The RPN stage that a config names in `train.proposals`, trained or not.

    Raises:
        ConfigError: As :func:`prepare`.
    """
    run = Run("this config", cfg, Path(), device)
    rpn = dependency(run, cfg.train.proposals, ())
    check_rpn(run, rpn)
    return rpn


def check_rpn(run: Run, rpn: Run) -> None:
    """Refuses what is no RPN stage, or stores fewer proposals than `run` asks for (ConfigError)."""
    if not rpn.is_rpn:
        raise ConfigError(
            f"train.proposals names {rpn.config_id}, which is no RPN stage: its model has RoI "
            "heads, or no proposal generator. Name one of configs/rpn/, or a config like them."
        )
    _check_counts(run, rpn)


def check_teacher(run: Run, teacher: Run) -> None:
    """Refuses a teacher that does not predict what `run` learns (ConfigError), and images that it
    cannot annotate because they are unknown or missing (ConfigError, DataError).
    """
    if OmegaConf.select(teacher.cfg, "model.roi_heads") is None:
        raise ConfigError(
            f"{_DATASET}.teacher names {teacher.config_id}, whose model detects nothing. Name the "
            "config of a detector."
        )
    for head in ("mask_head", "keypoint_head"):
        learned, made = (
            OmegaConf.select(cfg, f"model.roi_heads.{head}") for cfg in (run.cfg, teacher.cfg)
        )
        if learned is not None and made is None:
            raise ConfigError(
                f"{run.config_id} has a {head}, but its teacher {teacher.config_id} has none, so "
                f"that nothing is generated that it could learn from. Name another config in "
                f"{_DATASET}.teacher."
            )
    dataset_fingerprint(unlabeled_of(run.cfg).name)  # the images' list is there


def _check_early(run: Run) -> None:
    """Mistakes that would stop the run are told before the runs that it depends on, not after."""
    cfg = run.cfg
    part = effective(cfg, f"{_DATASET}.generated_part")
    if part is not None and cfg.train.max_iter > 0:
        node = cfg.dataloader.train.dataset
        check_mixture(node.get("generated"), part, node.get("teacher"))
    if not (cfg.train.proposals or cfg.train.init_from or teacher_of(cfg)):
        return
    check_batch_size(cfg)
    if cfg.train.proposals and keeps_rpn(cfg) and not cfg.train.init_from:
        raise ConfigError(
            f"{run.config_id} is a network that shares features with its RPN "
            f"({cfg.train.proposals}), but train.init_from is null, so that it would not begin "
            "with them. Name the config whose backbone that RPN was trained on in train.init_from."
        )
    if cfg.train.freeze:
        build_model(cfg, torch.device("cpu"))


def _check_counts(run: Run, rpn: Run) -> None:
    """Fewer proposals than a row asks for would be another experiment than its config says."""
    counts = rpn.cfg.model.proposal_generator.post_nms_topk
    for split, stored in zip(("train", "test"), counts, strict=True):
        wanted = run.cfg.dataloader[split].mapper.get("precomputed_proposal_topk")
        if wanted is not None and wanted > stored:
            raise ConfigError(
                f"{run.config_id} asks for {wanted} proposals an image of its {split} data, but "
                f"{rpn.config_id} stores {stored}. Lower model.proposal_generator.post_nms_topk, "
                "or name an RPN config that has more of them in train.proposals."
            )


def dependency(run: Run, path: str, chain: tuple[str, ...]) -> Run:
    """The run of another config that `run` stands on: same profile, seed 0, and the same data but
    for weights whose classes are taken over by name.
    """
    file = find_config(path)
    name = config_id(file)
    if name in chain:
        raise ConfigError(f"Configs depend on each other: {' -> '.join((*chain, name))}.")
    handed = [_override(key, OmegaConf.select(run.cfg, key)) for key in _INHERITED]
    plain = load_config(file, run.profile, handed)
    fine_tunes = path == run.cfg.train.init_from and run.cfg.train.init_classes is not None
    data = [] if fine_tunes else _data_overrides(run.cfg, plain)
    cfg = load_config(file, run.profile, [*handed, *data]) if data else plain
    cfg = fit_to_data(cfg, data)
    folder = default_output_dir(
        name, run.profile, cfg.train.seed, data, root=str(cfg.train.output_root)
    )
    return Run(name, cfg, Path(folder), run.device, tuple(data), file)


def _override(key: str, value: Any) -> str:
    """The override that sets a key; text is quoted only where it would be read otherwise."""
    plain = f"{key}={value}"
    try:
        if isinstance(value, str) and parse_override(plain).value == value:
            return plain
    except ConfigError:
        pass
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def _data_overrides(row: DictConfig, stage: DictConfig) -> list[str]:
    """Puts the row's data into a stage that was written for other data (a user's own, say)."""
    if data_sets(row, "train") == data_sets(stage, "train"):
        return []  # another test set alone needs no other RPN, only proposals for it
    overrides = []
    for split in ("train", "test"):
        node = row.dataloader[split].dataset
        for key in ("names", "json", "image_root"):
            value = node.get(key)
            if value != stage.dataloader[split].dataset.get(key):
                plain = list(value) if OmegaConf.is_list(value) else value
                overrides.append(_override(f"dataloader.{split}.dataset.{key}", plain))
    return overrides


def data_sets(cfg: DictConfig, split: str) -> list[DataSet]:
    """The data sets of `dataloader.train` or `dataloader.test`, one by one."""
    node = cfg.dataloader[split].dataset
    names = [node.names] if isinstance(node.names, str) else list(node.names)
    return [DataSet(name, node.get("json"), node.get("image_root")) for name in names]


def teacher_of(cfg: DictConfig) -> str | None:
    """The config whose model generates the annotations that a run is trained on, if it names one
    and no file of them. A run of no iterations, which evaluates another's weights, needs none.
    """
    node = cfg.dataloader.train.dataset
    if cfg.train.max_iter == 0 or node.get("generated") is not None:
        return None
    teacher: str | None = node.get("teacher")
    return teacher


def unlabeled_of(cfg: DictConfig) -> DataSet:
    """The images that the teacher of a config annotates.

    Raises:
        ConfigError: The config does not name them, and none are known.
    """
    given = cfg.dataloader.train.dataset.get("unlabeled")
    return DataSet(given or default_unlabeled(data_sets(cfg, "train")[0].name))


def command(run: Run) -> str:
    """The command line that trains a run in its folder."""
    inside = run.file is None or run.file.is_relative_to(config_root().resolve())
    config = run.config_id if inside else str(run.file)
    words = ["python", "train_net.py", "--config-file", config, "--profile", run.profile]
    words += run.overrides
    if run.cfg.train.output_root != "output":
        words.append(_override("train.output_root", run.cfg.train.output_root))
    return shlex.join(words)
