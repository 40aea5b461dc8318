"""What a report shows, worked out from records: rows beside the paper, differences, claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import NamedTuple

from mask_rcnn_repro.paper.claims import Evidence, claims_to_test, collect_evidence, number_of
from mask_rcnn_repro.paper.numbers import load_tables, paper_numbers
from mask_rcnn_repro.paper.results import records_of, state_without_result
from mask_rcnn_repro.paper.verdicts import Interval, interval_of
from mask_rcnn_repro.records.curves import Curves
from mask_rcnn_repro.records.record import Record
from mask_rcnn_tools.report.store import Material

PROFILES = {
    "paper": "Full scale",
    "mini": "mini: embedded data, narrow networks from random weights, about 1000 iterations",
}
"""Scales whose results say something, and how a report calls them."""

NOTES = {
    "mini": "Numbers of this scale are not comparable with the paper's; differences between rows "
    "are what it is made for."
}
"""What has to be known about a scale."""

_TINY = {"tiny": "tiny: a handful of images, which show that rows run and nothing more"}

_ONE_SCALE = "quickstart"
"""Folder of configs that are on the embedded data without a profile: shown with `mini`."""


class ReportRow(NamedTuple):
    """A row of the paper, or of another comparison.

    Attributes:
        table: id in tables.json, or the folder of a config that is no row of the paper.
        name: the row's name.
        config: id of its config.
        control: id of the config that it is compared with, if any.
        gains: task to the paper's difference of AP, for a row that is the paper's on another
            network, so that only differences can be compared.
    """

    table: str
    name: str
    config: str
    control: str | None = None
    gains: Mapping[str, float] | None = None


class Spread(NamedTuple):
    """Numbers of several seeds.

    Attributes:
        by_seed: seed to number.
    """

    by_seed: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return fmean(self.by_seed.values())

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds; None for fewer than two."""
        return stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None

    @property
    def interval(self) -> Interval | None:
        """Student's 90 % interval of the mean; None for fewer than two."""
        return interval_of(list(self.by_seed.values()))


@dataclass(frozen=True)
class RowResult:
    """A row, the paper's numbers for it and ours at one scale.

    Attributes:
        row: which.
        paper: task to metric to percent, as the paper prints them.
        runs: seed to record; empty if there is no complete run.
        curves: seed to curves, of those runs that have some.
        state: `not run` or `partial: 12 % of the schedule` where there is no complete run.
    """

    row: ReportRow
    paper: Mapping[str, Mapping[str, float]]
    runs: Mapping[int, Record]
    curves: Mapping[int, Curves]
    state: str

    @property
    def tasks(self) -> list[str]:
        """Tasks that are compared: the paper's, or without these all that were measured."""
        if self.paper or self.row.gains:
            return list(self.paper or self.row.gains or ())
        return list(next(iter(self.runs.values())).metrics) if self.runs else []

    @property
    def kinds(self) -> list[str]:
        """The tasks as records name them: `bbox` for the paper's `bbox_person`."""
        kinds = [
            "segm" if task.startswith("cityscapes") else task.partition("_")[0]
            for task in self.tasks
        ]
        return list(dict.fromkeys(kinds))

    def ours(self, task: str, metric: str = "AP") -> Spread | None:
        """Our numbers, in percent; None if there are none."""
        return _spread({s: number_of(r, f"{task}/{metric}") for s, r in self.runs.items()})

    def theirs(self, task: str, metric: str = "AP") -> float | None:
        """The paper's number, in percent; None if it prints none."""
        value = self.paper.get(task, {}).get(metric)
        return float(value) if isinstance(value, (int, float)) else None


@dataclass(frozen=True)
class Section:
    """One table of the paper at one scale.

    Attributes:
        table: id in tables.json, or a folder of configs.
        title: its heading.
        note: what has to be known to read it; may be empty.
        rows: in the paper's order.
        evidence: on the claims about it.
        controls: config to the row that others are compared with, of any table.
    """

    table: str
    title: str
    note: str
    rows: Sequence[RowResult]
    evidence: Sequence[Evidence]
    controls: Mapping[str, RowResult]

    @property
    def was_run(self) -> bool:
        """Whether any row of it has a result."""
        return any(row.runs for row in self.rows)

    def control_of(self, row: RowResult) -> RowResult | None:
        """The row that another one is compared with, if any."""
        return self.controls.get(row.row.control) if row.row.control else None


@dataclass(frozen=True)
class Scale:
    """Everything at one scale.

    Attributes:
        profile: of the runs.
        title: what it is called.
        sections: one a table, run or not.
        evidence: on all claims, in the paper's order.
    """

    profile: str
    title: str
    sections: Sequence[Section]
    evidence: Sequence[Evidence]

    @property
    def was_run(self) -> bool:
        """Whether anything has a result."""
        return any(section.was_run for section in self.sections)


def difference(row: RowResult, control: RowResult, task: str) -> Spread | None:
    """A row's AP minus its control's, seed by seed; None if no seed has both."""
    ours, theirs = row.ours(task), control.ours(task)
    if ours is None or theirs is None:
        return None
    return _spread(
        {s: v - theirs.by_seed[s] for s, v in ours.by_seed.items() if s in theirs.by_seed}
    )


def paper_difference(row: RowResult, control: RowResult, task: str) -> float | None:
    """The paper's AP of a row minus that of its control; None if it does not print both."""
    if row.row.gains is not None:
        return row.row.gains.get(task)
    better, worse = row.theirs(task), control.theirs(task)
    return None if better is None or worse is None else better - worse


def build_scales(
    rows: Sequence[ReportRow], titles: Mapping[str, str], material: Material
) -> list[Scale]:
    """Works out what a report shows.

    Args:
        rows: all, in the order in which they are shown.
        titles: table or folder to heading.
        material: records and what lies beside them.

    Returns:
        One for each of :data:`PROFILES`, whether anything was run at it or not; and `tiny` if
        anything was.
    """
    found = {row.config: records_of(row.config, material.records) for row in rows}
    scales = [
        _scale(profile, title, rows, titles, material, found)
        for profile, title in (PROFILES | _TINY).items()
    ]
    return [scale for scale in scales if scale.was_run or scale.profile in PROFILES]


def _scale(
    profile: str,
    title: str,
    rows: Sequence[ReportRow],
    titles: Mapping[str, str],
    material: Material,
    found: Mapping[str, Mapping[str, Mapping[int, Record]]],
) -> Scale:
    results = [_result(row, profile, material, found) for row in rows if _is_of(row, profile)]
    controls = {r.row.config: r for r in results}
    runs = {(r.row.table, r.row.name): r.runs for r in results if r.runs}
    evidence = collect_evidence(claims_to_test(), runs)
    tables = dict.fromkeys(r.row.table for r in results)
    sections = [
        Section(
            table,
            titles[table],
            _note(table, profile),
            [r for r in results if r.row.table == table],
            # a difference of differences belongs to the table that its first row is of
            [e for e in evidence if e.claim.terms[0].table == table],
            controls,
        )
        for table in tables
    ]
    return Scale(profile, title, sections, evidence)


def _result(
    row: ReportRow,
    profile: str,
    material: Material,
    found: Mapping[str, Mapping[str, Mapping[int, Record]]],
) -> RowResult:
    if row.table == _ONE_SCALE and profile == "mini":
        profile = "paper"
    runs = dict(sorted(found[row.config].get(profile, {}).items()))
    curves = {s: c for s, r in runs.items() if (c := material.curves_of(r)) is not None}
    state = "" if runs else state_without_result(row.config, material.records, profile)
    paper = paper_numbers(row.table, row.name) if row.table in load_tables() else {}
    return RowResult(row, paper, runs, curves, state)


def _is_of(row: ReportRow, profile: str) -> bool:
    return row.table != _ONE_SCALE or profile != "paper"


def _note(table: str, profile: str) -> str:
    split = load_tables().get(table, {}).get("split", "")
    if "test" not in str(split):
        return ""
    if profile == "paper":
        return (
            f"The paper's numbers are of {split}. Annotations of test splits are with their "
            "servers, so that only these can tell; here stands the validation split."
        )
    return ""


def _spread(by_seed: Mapping[int, float | None]) -> Spread | None:
    known = {seed: value for seed, value in by_seed.items() if value is not None}
    return Spread(known) if known else None
