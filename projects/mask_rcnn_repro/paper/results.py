"""Records of a config's runs: which of them count, and their numbers in a few words.

A record counts if it is complete and its config is, by hash, the one of the file as it is now.
Records of rows that say the same count too; those of an older or overridden config do not. The
same holds for the runs that it stands on: the RPN of its proposals, the source of its initial
weights, the teacher that generated annotations.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from omegaconf import DictConfig

from mask_rcnn_repro.config import config_hash, get_config, list_configs
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.paper.numbers import paper_numbers
from mask_rcnn_repro.paper.report import compare
from mask_rcnn_repro.records.record import Record, load_record

COMPANIONS = ("curves.json", "examples.json")
"""Ends of names of files that lie beside records and are none."""

_TASKS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint", "cityscapes": "mask"}


def load_results(folder: Path) -> list[Record]:
    """Reads the records below a folder, oldest first.

    Raises:
        RecordError: a json file there is neither a record nor one of its companions.
    """
    files = (f for f in folder.rglob("*.json") if not f.name.endswith(COMPANIONS))
    return sorted((load_record(f) for f in files), key=lambda r: r.created)


@functools.cache
def loaded_config(config: str, profile: str = "paper", seed: int | None = None) -> DictConfig:
    """A config of this project, loaded once. Not to be changed."""
    return get_config(config, profile, seed=seed)


def stages_of(config: str) -> dict[str, str]:
    """What a config stands on: `proposals`, `init_from`, `teacher` to the config that gives it."""
    cfg = loaded_config(config)
    named = {key: cfg.train.get(key) for key in ("proposals", "init_from")}
    if cfg.train.max_iter > 0:
        named["teacher"] = cfg.dataloader.train.dataset.get("teacher")
    return {key: other for key, other in named.items() if other is not None}


@functools.cache
def same_run(config: str) -> list[str]:
    """Configs that say the same as this one, itself included, in order."""
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
        if _complete(record) and _is_current(config, record):
            found.setdefault(record.config.profile, {})[record.seed] = record
    return {profile: found[profile] for profile in sorted(found, key=lambda p: (p != "paper", p))}


def state_without_result(config: str, records: Iterable[Record], profile: str | None = None) -> str:
    """Why a config has no result: it was not run, or only a part of its schedule.

    Args:
        config: id below `configs`.
        records: any.
        profile: scale; None looks at all of them and names it.

    Returns:
        `not run`, or such as `partial: 12 % of the schedule`, of the run that came farthest.
    """
    begun = {
        record.iterations_done / record.iterations_planned: record
        for record in records
        if profile in (None, record.config.profile)
        and record.iterations_done is not None
        and record.iterations_done < record.iterations_planned
        and _is_current(config, record)
    }
    if not begun:
        return "not run"
    share, record = max(begun.items(), key=lambda item: item[0])
    scale = record.config.profile
    label = "" if profile is not None or scale == "paper" else f"{scale} "
    return f"{label}partial: {min(max(round(100 * share), 1), 99)} % of the schedule"


def format_results_of(
    config: str, records: Sequence[Record], table: str | None = None, row: str = ""
) -> str:
    """Results of a config: AP by task, the mean over seeds, for each profile that was run.

    Args:
        config: id below `configs`.
        records: any, oldest first; see :func:`records_of`.
        table: table of the paper whose tasks are shown; None for all that were measured.
        row: row of the table.

    Returns:
        Such as `mask AP 33.9; mini: mask AP 21.5 (2 seeds)`, or what :func:`state_without_result`
        says. Of an RPN the average recalls; for rows on timing the inference time, too.
    """
    parts = []
    for profile, by_seed in records_of(config, records).items():
        runs = list(by_seed.values())
        tasks = list(paper_numbers(table, row)) if table else []
        numbers = [
            f"{task_title(task)} {name} {fmean(known):.1f}"
            for task in tasks or runs[0].metrics
            for name in _main_metrics(runs[0], task)
            if (known := _known(compare(run, {task: {name: 0.0}})[0].ours for run in runs))
        ]
        if table == "timing":
            numbers += _milliseconds(runs, loaded_config(config).model.proposal_generator is None)
        seeds = f" ({len(runs)} seeds)" if len(runs) > 1 else ""
        label = "" if profile == "paper" else f"{profile}: "
        parts.append(f"{label}{', '.join(numbers) or 'no metrics'}{seeds}")
    return "; ".join(parts) or state_without_result(config, records)


def task_title(task: str) -> str:
    """A task in words: `segm` is mask, `bbox_person` box (person)."""
    kind, _, of = task.partition("_")
    return f"{_TASKS.get(kind, kind.capitalize())}{f' ({of})' if of else ''}"


def _is_current(config: str, record: Record) -> bool:
    """Whether a record's config, and those that it stands on, are as the config's are now."""
    rows = _rows_of_run(record.config.id)
    if rows is not None and config not in rows:
        return False
    current = record.config.hash == _hash(config, record.config.profile, record.seed)
    return current and _stands_on_current_stages(config, record)


@functools.cache
def _rows_of_run(config: str) -> frozenset[str] | None:
    """The configs that a record of a config can be of, None if any: of one that is gone.

    Spares loading every config at every scale: rows that differ at full scale do so at others.
    """
    return frozenset(same_run(config)) if config in list_configs() else None


def _complete(record: Record) -> bool:
    done = record.iterations_done
    return done == record.iterations_planned or (record.mode == "eval" and done is None)


@functools.cache
def _hash(config: str, profile: str, seed: int | None) -> str | None:
    try:
        return config_hash(loaded_config(config, profile, seed))
    except ConfigError:  # a profile of another version
        return None


def _stands_on_current_stages(config: str, record: Record) -> bool:
    for key, stage in stages_of(config).items():
        run = getattr(record, key)
        if run is None or run.hash != _hash(stage, record.config.profile, run.seed):
            return False
    return True


def _main_metrics(record: Record, task: str) -> list[str]:
    """AP, or where a task has none (proposals) its average recalls."""
    metrics = record.metrics.get(task)
    recalls = [name for name in metrics.values() if name.startswith("AR@")] if metrics else []
    return recalls or ["AP"]


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _milliseconds(runs: Sequence[Record], without_rpn: bool) -> list[str]:
    """Inference time on the device of the last run; empty where none was measured.

    A model whose proposals come from files is timed without its RPN, and this is said.
    """
    device = runs[-1].device.name
    times = [
        run.seconds_per_image.inference
        for run in runs
        if run.seconds_per_image is not None and run.device.name == device
    ]
    note = " without the RPN" if without_rpn else ""
    return [f"ms per image {1000 * fmean(times):.0f}{note} on {device}"] if times else []
