"""Own ablations in directories of records: planned by `run_table.py`, or stated by configs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from mask_rcnn_repro.config import list_configs
from mask_rcnn_repro.config.config_files import CONFIG_FILE
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
from mask_rcnn_tools.evidence.results import is_complete
from mask_rcnn_tools.evidence.rows import Expectation, Row


class _OwnRun(NamedTuple):
    record: Record
    sections: Mapping[str, Any]


def ablations_of_runs(
    files: Iterable[tuple[Path, Record]],
    counted: Collection[tuple[str, int]],
    records: Sequence[Record],
) -> list[Ablation]:
    """Returns own rows that were trained singly, as one table per directory of configs and profile.

    The `config.yaml` beside a record states what the row is compared with. Nothing was planned, and
    therefore no verdict is given.

    Args:
        files: Records of runs, with their files.
        counted: Hash and seed of records that belong to some row.
        records: All records, oldest first, for the controls.
    """
    groups: dict[tuple[str, str], dict[str, list[_OwnRun]]] = {}
    for file, record in files:
        if (record.config.hash, record.seed) in counted or not is_complete(record):
            continue
        if record.config.id in list_configs():  # of a row as it was earlier
            continue
        sections = _sections(file.with_name(CONFIG_FILE))
        if sections is None:
            continue
        table = record.config.id.rpartition("/")[0] or record.config.id
        rows = groups.setdefault((record.config.profile, table), {})
        rows.setdefault(_id(record), []).append(_OwnRun(record, sections))
    return [_ablation(table, profile, rows, records) for (profile, table), rows in groups.items()]


def _id(record: Record) -> str:
    return " ".join((record.config.id, *record.config.overrides))


def _sections(file: Path) -> Mapping[str, Any] | None:
    """Returns the config of a run as plain data. None if there is none."""
    try:
        data = read_yaml(file) if file.is_file() else None
    except UserError:
        return None
    return data if isinstance(data, dict) else None


def _ablation(
    table: str, profile: str, own: Mapping[str, Sequence[_OwnRun]], records: Sequence[Record]
) -> Ablation:
    rows: dict[str, AblationRow] = {}
    expected = []
    for row_id, runs in own.items():
        newest = runs[-1]
        about = newest.sections.get("ablation") or {}
        stated = about.get("control") or (newest.sections.get("paper") or {}).get("control")
        control = _control(stated, records, profile) if stated else None
        rows[row_id] = _row(row_id, [run.record for run in runs], control)
        if control is None or control == row_id:
            continue
        if control not in own and control not in rows:
            found = [r for r in records if _id(r) == control and r.config.profile == profile]
            rows[control] = _row(control, found, None)
        names = ("metric", "expect", "margin")
        expectation = Expectation(**{k: about[k] for k in names if about.get(k) is not None})
        made = Row(table, _name(row_id), row_id, control, expectation=expectation)
        against = Row(table, _name(control), control)
        claim = own_claim(made, against, OmegaConf.create({"model": _model(newest.sections)}))
        expected.append(
            Expected(
                row=row_id,
                control=control,
                text=claim.text,
                metric=claim.metric,
                relation=claim.relation,  # type: ignore[arg-type]
                margin=claim.margin,
                seeds=None,
            )
        )
    title = f"Runs of {table}"
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


def _row(row_id: str, records: Sequence[Record], control: str | None) -> AblationRow:
    config, *overrides = row_id.split(" ")
    runs = {(r.seed, r.config.hash) for r in records}
    return AblationRow(
        name=_name(row_id),
        config=config,
        overrides=overrides,
        settings={},
        control=control,
        paper=None,
        runs=[PlannedRun(seed=seed, hash=digest) for seed, digest in sorted(runs)],
    )


def _name(row_id: str) -> str:
    config, *overrides = row_id.split(" ")
    return " ".join((config, *short_overrides(overrides)))


def _control(stated: str, records: Sequence[Record], profile: str) -> str | None:
    """Returns the id of a control, as in its records. None without a record."""
    path = stated.removesuffix(".py").removeprefix("./").removeprefix("configs/")
    ids = [_id(r) for r in records if r.config.profile == profile and not r.config.overrides]
    for name in (path, "/".join(Path(path).parts[-2:])):
        if name in ids:
            return name
    of_name = {i for i in ids if i.rpartition("/")[2] == Path(path).name}
    return of_name.pop() if len(of_name) == 1 else None


def unique(ablations: Iterable[Ablation]) -> list[Ablation]:
    """Returns the last ablation of each name and profile."""
    return list({(a.profile, a.table): a for a in ablations}.values())
