"""Own ablations as tables like the paper's: named rows, their control and what is expected.

Everything is checked when it is planned: :func:`own_group` needs no config, and
:func:`finished_group` compares the configs of a plan.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from omegaconf import DictConfig, OmegaConf

from mask_rcnn_repro.config import diff_configs
from mask_rcnn_repro.config.diff import format_value
from mask_rcnn_repro.config.serialization import to_plain
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_tools.evidence.claims import own_claim
from mask_rcnn_tools.evidence.groups import RowGroup, short_keys, short_overrides
from mask_rcnn_tools.evidence.rows import Expectation, Row
from mask_rcnn_tools.tables.named import find_control
from mask_rcnn_tools.tables.plan import Plan
from mask_rcnn_tools.tables.sweep import Sweep, combinations

_LONGEST = 60  # characters of a name


@dataclass(frozen=True)
class Asked:
    """Options of an ablation on the command line. They override what the files state.

    Attributes:
        control: Path or id of the config that all others are compared with. None: each row has the
            control that its file names.
        expectation: Only fields that are set count.
        sweep: Keys and their values. Empty without a sweep.
    """

    control: str | None = None
    expectation: Expectation = field(default_factory=Expectation)
    sweep: Sweep = ()

    @property
    def is_any(self) -> bool:
        """Whether any option is given."""
        return self != Asked()


def own_group(rows: Sequence[Row], asked: Asked, name: str = "") -> RowGroup:
    """Returns the table of an ablation: rows, combinations of a sweep, and controls.

    Args:
        rows: From :func:`~mask_rcnn_tools.tables.named.find_named`. May include rows of the paper.
        asked: Options of the command line.
        name: Name of the ablation. Empty: it is made from the rows' names.

    Raises:
        ConfigError: The control does not exist.
    """
    names = _short_names([row.config for row in rows])
    table = name or "+".join(dict.fromkeys(names.values()))
    swept = tuple(key.lstrip("+") for key, _ in asked.sweep)
    if swept:
        table += "-sweep-" + "-".join(short_keys(swept))
    table = re.sub(r"[^\w.+-]+", "-", table)[:_LONGEST].rstrip("-+.")
    named = {row.source for row in rows}
    given = find_control(asked.control, "--control") if asked.control else None
    members: dict[str, Row] = {}
    controls: dict[str, Row] = {}
    for row in rows:
        control = given
        if swept and control is None:
            control = row  # as it is
        elif control is None and row.control is not None:
            control = find_control(row.control, row.source)
            if row.printed == row.key and control.source not in named:
                control = None  # a row of the paper brings no other row with it
        if control is not None and (swept or control.config != row.config):
            controls.setdefault(control.id, control)
        else:
            control = None
        for overrides in combinations(asked.sweep) if swept else [()]:
            made = dataclasses.replace(
                row,
                overrides=overrides,
                control=None if control is None else control.id,
                expectation=_merged(row.expectation, asked.expectation),
                difference_of=None if overrides else _printed_pair(row, control),
            )
            members[made.id] = made
    extra = [
        dataclasses.replace(row, control=None, difference_of=None, expectation=None)
        for key, row in controls.items()
        if key not in members
    ]
    found = [*members.values(), *extra]
    names = _short_names([row.config for row in found])
    placed = tuple(
        dataclasses.replace(
            row,
            table=table,
            paper=None if row.overrides else row.printed,
            name=" ".join((names[row.config], *short_overrides(row.overrides))),
        )
        for row in found
    )
    return RowGroup(table, f"Ablation {table}", placed, swept=swept, own=True)


def _merged(stated: Expectation | None, asked: Expectation) -> Expectation:
    stated = stated or Expectation()
    margin = stated.margin if asked.margin is None else asked.margin
    return Expectation(asked.metric or stated.metric, asked.expect or stated.expect, margin)


def _printed_pair(row: Row, control: Row | None) -> tuple[tuple[str, str], tuple[str, str]] | None:
    """Returns the rows of the paper whose difference is shown beside ours."""
    if control is None or row.printed is None or control.printed is None:
        return None
    return (row.printed, control.printed) if row.printed != control.printed else None


def _short_names(configs: Sequence[str]) -> dict[str, str]:
    """Maps configs to the names of their files, or to whole ids where these names are equal."""
    last = {config: config.rpartition("/")[2] for config in configs}
    several = {n for n in last.values() if list(last.values()).count(n) > 1}
    return {config: config if name in several else name for config, name in last.items()}


def finished_group(group: RowGroup, plan: Plan) -> tuple[RowGroup, Plan]:
    """Adds what is known after loading the configs: claims, swept values, the sweep's control.

    In a sweep, the combination that changes nothing replaces the control.

    Raises:
        ConfigError: A row differs from its control in the evaluation or not at all, or it cannot
            have the metric.
    """
    planned = {p.row: p for p in plan.rows}
    cfgs = {row.id: next(iter(planned[row].jobs.values())).cfg for row in group.rows}
    hashes = {row.id: next(iter(planned[row].jobs.values())).hash for row in group.rows}
    replaced: dict[str, str] = {}  # controls whose config is that of a combination
    if group.swept:
        for row in group.rows:
            if row.control and hashes[row.id] == hashes[row.control]:
                replaced.setdefault(row.control, row.id)
    rows: dict[Row, Row] = {}
    for row in group.rows:
        if row.id in replaced and not row.overrides:
            continue
        control = replaced.get(row.control or "", row.control)
        if control is not None and hashes[row.id] == hashes[control]:
            if not group.swept:
                raise ConfigError(
                    f"{row.source} and its control {control} are one config at the profile "
                    f"{plan.profile}: every key is equal."
                )
            control = None
        settings = tuple((key, _setting(cfgs[row.id], key)) for key in group.swept)
        rows[row] = dataclasses.replace(row, control=control, settings=settings)
    by_id = {row.id: row for row in rows.values()}
    claims = []
    for row in rows.values():
        if row.control is None or row.expectation is None:
            continue
        against = by_id[row.control]
        _check_comparable(row, against, cfgs)
        claim = own_claim(row, against, cfgs[row.id])
        for each in (row, against):
            _check_metric(claim.metric, each.source, cfgs[each.id])
        claims.append(claim)
    note = _training_data_note(list(rows.values()), cfgs)
    finished = dataclasses.replace(
        group, rows=tuple(rows.values()), claims=tuple(claims), note=note
    )
    kept = tuple(
        dataclasses.replace(p, row=rows.get(p.row, p.row))
        for p in plan.rows
        if p.row not in group.rows or p.row in rows
    )
    return finished, dataclasses.replace(plan, rows=kept)


def _setting(cfg: DictConfig, key: str) -> str:
    try:
        return format_value(to_plain(OmegaConf.select(cfg, key)))
    except ConfigError:
        return "-"


_SAME = ("dataloader.test.dataset", "dataloader.evaluator")
"""Returns what a row and its control must share for their numbers to be comparable."""


def _check_comparable(row: Row, control: Row, cfgs: Mapping[str, DictConfig]) -> None:
    found = []
    for key in _SAME:
        parts = [
            OmegaConf.create({"at": to_plain(OmegaConf.select(cfgs[r.id], key))})
            for r in (control, row)
        ]
        found += [(key + name[2:], old, new) for name, old, new in diff_configs(*parts)]
    if found:
        lines = "; ".join(
            f"{k}: {format_value(a)} there, {format_value(b)} here" for k, a, b in found
        )
        raise ConfigError(
            f"{row.source} cannot be compared with its control {control.id}: they differ in the "
            f"evaluation ({lines}). Name another control, or evaluate both alike."
        )


def _training_data_note(rows: Sequence[Row], cfgs: Mapping[str, DictConfig]) -> str:
    """Logs rows that train on other data than their control, which may be intended."""
    data = {row.id: to_plain(cfgs[row.id].dataloader.train.dataset) for row in rows}
    names = [row.name for row in rows if row.control and data[row.id] != data[row.control]]
    return f"Trained on other data than the control: {', '.join(names)}." if names else ""


_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_NEEDS = {"segm": "mask_head", "keypoints": "keypoint_head", "bbox": ""}


def _check_metric(metric: str, source: str, cfg: DictConfig) -> None:
    task, slash, name = metric.partition("/")
    if not (task and slash and name):
        raise ConfigError(
            f"The metric {metric!r} is not a task and a name, such as segm/AP, bbox/AP75, "
            "keypoints/AP, proposals/AR@1000 or, of one class, segm/AP (person)."
        )
    if task in _NEEDS:
        if name not in _NAMES and not re.fullmatch(r"AP \(.+\)", name):
            near = difflib.get_close_matches(name.upper(), _NAMES, n=1) or ["AP"]
            raise ConfigError(
                f"There is no metric {metric!r}. Did you mean {task}/{near[0]}? Names: "
                f"{', '.join(_NAMES)} and, of one class, AP (person)."
            )
        head = f"model.roi_heads.{_NEEDS[task]}".rstrip(".")
        if OmegaConf.select(cfg, head) is None:
            raise ConfigError(f"{source} has no {head}, so it has no {metric}; choose --metric.")
