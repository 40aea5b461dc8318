"""Own ablations in directories of records: planned by `run_table.py`, or stated by configs.

Rows of this project that were run with `key=value` are own rows, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from mask_rcnn_repro.config import config_hash, list_configs, load_config
from mask_rcnn_repro.config.config_files import CONFIG_FILE
from mask_rcnn_repro.config.from_data import fit_to_data
from mask_rcnn_repro.config.serialization import WHERE_KEYS
from mask_rcnn_repro.config.yaml_io import read_yaml
from mask_rcnn_repro.errors import UserError
from mask_rcnn_repro.records.record import Record
from mask_rcnn_tools.evidence.ablation_file import (
    Ablation,
    AblationRow,
    Expected,
    PlannedRun,
)
from mask_rcnn_tools.evidence.claims import own_claim
from mask_rcnn_tools.evidence.groups import short_overrides
from mask_rcnn_tools.evidence.results import is_complete, records_of
from mask_rcnn_tools.evidence.rows import Expectation, Row

_STAGE_TASKS = {"proposals", "classification"}
_OVERRIDDEN = "-overridden"  # ends the name of a table of rows of this project with overrides


_Key = tuple[str, ...]
"""A row: the id of its config, and the overrides that change what it computes."""


class _OwnRun(NamedTuple):
    record: Record
    sections: Mapping[str, Any]


def ablations_of_runs(
    files: Iterable[tuple[Path, Record]],
    counted: Collection[tuple[str, int]],
    records: Sequence[Record],
) -> list[Ablation]:
    """Returns own rows that were trained singly, as one table per directory of configs and profile.

    The `config.yaml` beside a record states what the row is compared with. A row with overrides is
    compared with that control with the same overrides, else with the row without overrides, else
    with the control without overrides. Nothing was planned, and therefore no verdict is given.

    Args:
        files: Records of runs, with their files.
        counted: Hash and seed of records that belong to some row.
        records: All records, oldest first, for the controls.
    """
    groups: dict[tuple[str, str], dict[_Key, list[_OwnRun]]] = {}
    inputs = {
        (used.hash, used.seed)
        for record in records
        for used in (record.proposals, record.init_from)
        if used is not None
    }
    for file, record in files:
        run = (record.config.hash, record.seed)
        if run in counted or not is_complete(record):
            continue
        table = record.config.id.rpartition("/")[0] or record.config.id
        if record.config.id in list_configs():
            is_stage = run in inputs and record.metrics.keys() <= _STAGE_TASKS
            if is_stage or not _is_variant(record):
                continue
            table += _OVERRIDDEN
        sections = _sections(file.with_name(CONFIG_FILE))
        if sections is None:
            continue
        rows = groups.setdefault((record.config.profile, table), {})
        rows.setdefault(_key(record), []).append(_OwnRun(record, sections))
    return [_ablation(table, profile, rows, records) for (profile, table), rows in groups.items()]


def _key(record: Record) -> _Key:
    """Returns the row of a run. The last override of a key counts, and their order does not."""
    by_key = {text.lstrip("+~").partition("=")[0]: text for text in record.config.overrides}
    ignored = {*WHERE_KEYS, "train.seed"}
    return record.config.id, *sorted(text for key, text in by_key.items() if key not in ignored)


def _is_variant(record: Record) -> bool:
    """Returns whether a run is of a current config of this project, with overrides."""
    config, *overrides = _key(record)
    if not overrides:
        return False
    try:
        cfg = load_config(config, record.config.profile, overrides, seed=record.seed)
        return config_hash(fit_to_data(cfg, overrides)) == record.config.hash
    except UserError:  # of another version
        return False


def _sections(file: Path) -> Mapping[str, Any] | None:
    """Returns the config of a run as plain data. None if there is none."""
    try:
        data = read_yaml(file) if file.is_file() else None
    except UserError:
        return None
    return data if isinstance(data, dict) else None


def _ablation(
    table: str, profile: str, own: Mapping[_Key, Sequence[_OwnRun]], records: Sequence[Record]
) -> Ablation:
    controls = {key: _control(key, runs[-1], records, profile) for key, runs in own.items()}
    name_of = _names([*own, *(c for c in controls.values() if c is not None)])
    rows: dict[_Key, AblationRow] = {}
    expected = []
    for key, runs in own.items():
        newest, control = runs[-1], controls[key]
        rows[key] = _row(key, name_of[key], [run.record for run in runs], control)
        if control is None:
            continue
        if control not in own and control not in rows:
            theirs = _runs_of(control, records, profile)
            rows[control] = _row(control, name_of[control], theirs, None)
        about = newest.sections.get("ablation") or {}
        names = ("metric", "expect", "margin")
        expectation = Expectation(**{k: about[k] for k in names if about.get(k) is not None})
        row_id, control_id = " ".join(key), " ".join(control)
        made = Row(table, name_of[key], row_id, control_id, expectation=expectation)
        against = Row(table, name_of[control], control_id)
        claim = own_claim(made, against, OmegaConf.create({"model": _model(newest.sections)}))
        expected.append(
            Expected(
                row=row_id,
                control=control_id,
                text=claim.text,
                metric=claim.metric,
                relation=claim.relation,  # type: ignore[arg-type]
                margin=claim.margin,
                seeds=None,
            )
        )
    folder = table.removesuffix(_OVERRIDDEN)
    title = f"Runs of {folder}" + (" with key=value" if folder != table else "")
    return Ablation(
        table=table, title=title, profile=profile, swept=[], rows=list(rows.values()),
        expected=expected,
    )  # fmt: skip


def _model(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Returns which heads there are. Interpolations of other sections are omitted."""
    model = sections.get("model") or {}
    heads = model.get("roi_heads")
    kept = {k: True for k, v in heads.items() if v is not None} if isinstance(heads, dict) else None
    return {"roi_heads": kept}


def _row(key: _Key, name: str, records: Sequence[Record], control: _Key | None) -> AblationRow:
    config, *overrides = key
    runs = {(r.seed, r.config.hash) for r in records}
    return AblationRow(
        name=name,
        config=config,
        overrides=overrides,
        settings={},
        control=None if control is None else " ".join(control),
        paper=None,
        runs=[PlannedRun(seed=seed, hash=digest) for seed, digest in sorted(runs)],
    )


def _names(keys: Iterable[_Key]) -> dict[_Key, str]:
    """Returns names of rows, with the last parts of overridden keys if these are unambiguous."""
    short = {key: " ".join((key[0], *short_overrides(key[1:]))) for key in keys}
    counts = Counter(short.values())
    return {key: name if counts[name] == 1 else " ".join(key) for key, name in short.items()}


def _runs_of(key: _Key, records: Sequence[Record], profile: str) -> list[Record]:
    """Returns the runs of a row at a profile: of a row of this project, those that count."""
    config, *overrides = key
    if config in list_configs() and not overrides:
        return list(records_of(config, records).get(profile, {}).values())
    return [r for r in records if r.config.profile == profile and _key(r) == key]


def _control(key: _Key, run: _OwnRun, records: Sequence[Record], profile: str) -> _Key | None:
    """Returns the control of a row. None if no such row has records on the same test data."""
    stated = (run.sections.get("ablation") or {}).get("control")
    stated = stated or (run.sections.get("paper") or {}).get("control")
    configs = {r.config.id for r in records if r.config.profile == profile}
    config, *overrides = key
    names: list[str] = []
    if stated is not None:
        path = stated.removesuffix(".py").removeprefix("./").removeprefix("configs/")
        of_name = {name for name in configs if name.rpartition("/")[2] == Path(path).name}
        names = [path, "/".join(Path(path).parts[-2:]), *(of_name if len(of_name) == 1 else ())]
    wanted = [(name, *overrides) for name in names]
    if overrides:
        wanted += [(config,), *((name,) for name in names)]
    for found in wanted:
        theirs = _runs_of(found, records, profile) if found != key else []
        if theirs and _test_data(theirs[-1]) == _test_data(run.record):
            return found
    return None


def _test_data(record: Record) -> str | None:
    return record.test_data.name if record.test_data is not None else None


def unique(ablations: Iterable[Ablation]) -> list[Ablation]:
    """Returns the last ablation of each name and profile."""
    return list({(a.profile, a.table): a for a in ablations}.values())
