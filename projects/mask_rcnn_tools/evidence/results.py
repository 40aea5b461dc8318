"""Records of a config's runs, and which of them count.

A record counts if it is complete and its config is, by hash, the one of the file as it is now.
Records of rows with equal configs count too. Those of an older or overridden config do not. The
same holds for the inputs of a run: the RPN of its proposals, the source of its initial weights, the
teacher that generated annotations.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig

from mask_rcnn_repro.config import config_hash, get_config, list_configs
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.records.record import Record, load_record
from mask_rcnn_repro.utils.checkpoint_paths import stage_of

COMPANIONS = (
    "curves.json", "examples.json", "bootstrap.json", "plan.json", "causes.json", "ablation.json",
    "table.json", "check.json",
)  # fmt: skip
"""Ends of names of files that lie beside records and are none."""

EARLIER = "earlier"
"""Directory of records that count for no row, such as those of a layer that has changed since."""


def counting_files(folder: Path, pattern: str) -> list[Path]:
    """Returns the files below a directory that match a pattern, without those in `earlier`."""
    files = sorted(folder.rglob(pattern))
    return [file for file in files if EARLIER not in file.relative_to(folder).parts]


def record_files(folder: Path) -> list[Path]:
    """Returns the files of committed records below a directory that may count for a row."""
    files = counting_files(folder, "*.json")
    return [file for file in files if not file.name.endswith(COMPANIONS)]


def load_results(folder: Path) -> list[Record]:
    """Reads the records below a directory, oldest first, without those in `earlier`.

    Raises:
        RecordError: a json file there is neither a record nor one of its companions.
    """
    return sorted(map(load_record, record_files(folder)), key=lambda r: r.created)


def recorded_file(config: str, profile: str, seed: int, folder: Path) -> Path:
    """Where a record belongs below a folder: ``<config>[@<profile>]/seed<k>.json``."""
    suffix = "" if profile == "paper" else f"@{profile}"
    return folder / f"{config}{suffix}" / f"seed{seed}.json"


def loaded_config(config: str, profile: str = "paper", seed: int | None = None) -> DictConfig:
    """A config of this project, loaded once. Not to be changed."""
    return _loaded(config, profile, seed)


@functools.cache
def _loaded(config: str, profile: str, seed: int | None) -> DictConfig:
    return get_config(config, profile, seed=seed)


def stages_of(config: str, profile: str = "paper") -> dict[str, str]:
    """What a config stands on: `proposals`, `init_from`, `teacher` to the config that gives it."""
    cfg = loaded_config(config, profile)
    named = {key: cfg.train.get(key) for key in ("proposals", "init_from")}
    named["init_from"] = named["init_from"] or stage_of(str(cfg.train.init_checkpoint))
    if cfg.train.max_iter > 0:
        named["teacher"] = cfg.dataloader.train.dataset.get("teacher")
    return {key: other for key, other in named.items() if other is not None}


@functools.cache
def same_run(config: str) -> list[str]:
    """Configs that are equal to this one, itself included, in order."""
    own = _hash(config, "paper", None)
    return [other for other in list_configs() if _hash(other, "paper", None) == own]


def records_of(config: str, records: Iterable[Record]) -> dict[str, dict[int, Record]]:
    """The records that count for a config, of several for one seed the last.

    Args:
        config: id below `configs`.
        records: any, oldest first.

    Returns:
        Profile (`paper` first) to seed to record.
    """
    found: dict[str, dict[int, Record]] = {}
    for record in records:
        if is_complete(record) and _is_current(config, record):
            found.setdefault(record.config.profile, {})[record.seed] = record
    return {profile: found[profile] for profile in sorted(found, key=lambda p: (p != "paper", p))}


def state_without_result(config: str, records: Iterable[Record], profile: str) -> str:
    """Why a config has no result at a scale.

    Returns:
        `not run`, or such as `partial: 12 % of the schedule`, of the run that came farthest.
    """
    shares = [
        record.iterations_done / record.iterations_planned
        for record in records
        if record.config.profile == profile
        and record.iterations_done is not None
        and record.iterations_done < record.iterations_planned
        and not record.stopped_early
        and _is_current(config, record)
    ]
    if not shares:
        return "not run"
    return f"partial: {min(max(round(100 * max(shares)), 1), 99)} % of the schedule"


def _is_current(config: str, record: Record) -> bool:
    """Whether a record's config, and those that it stands on, are as the config's are now."""
    rows = _rows_of_run(record.config.id)
    if rows is not None and config not in rows:
        return False
    profile = record.config.profile
    if record.config.hash != _hash(config, profile, record.seed):
        return False
    runs = [(getattr(record, key), stage) for key, stage in stages_of(config, profile).items()]
    return all(run and run.hash == _hash(stage, profile, run.seed) for run, stage in runs)


@functools.cache
def _rows_of_run(config: str) -> frozenset[str] | None:
    """The configs that a record of a config can be of, None if any: of one that is gone.

    Spares loading every config at every scale: rows that differ at full scale do so at others.
    """
    return frozenset(same_run(config)) if config in list_configs() else None


def is_complete(record: Record) -> bool:
    """Whether a record is of the whole schedule, or of an evaluation."""
    return record.ran_to_its_end or (record.mode == "eval" and record.iterations_done is None)


@functools.cache
def _hash(config: str, profile: str, seed: int | None) -> str | None:
    try:
        return config_hash(loaded_config(config, profile, seed))
    except ConfigError:  # a profile of another version
        return None
