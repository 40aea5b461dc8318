"""The outcomes of all tables at each scale, worked out from records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mask_rcnn_repro.paper.numbers import load_tables
from mask_rcnn_repro.records.record import Record
from mask_rcnn_tools.evidence.claims import claims_to_test
from mask_rcnn_tools.evidence.outcomes import Evidence, RowOutcome, TableOutcome, collect_evidence
from mask_rcnn_tools.evidence.results import records_of, state_without_result
from mask_rcnn_tools.evidence.rows import Row
from mask_rcnn_tools.evidence.verdicts import ERROR, VERDICTS, Verdict
from mask_rcnn_tools.report.examples import Examples
from mask_rcnn_tools.report.runs import Runs, key_of

PROFILES = {
    "paper": "Full scale",
    "mini": "mini: embedded data, narrow networks with pre-training, about 1000 iterations",
    "tiny": "tiny: a handful of images, which show that rows run and nothing more",
}
"""Scales, and how a report calls them."""

NOTES = {
    "mini": "Numbers of this scale are not comparable with the paper's; differences between rows "
    "are what it is made for."
}
"""What has to be known about a scale."""

_ONE_SCALE = "quickstart"
"""Folder of configs that are on the embedded data without a profile: shown with `mini`."""

_SERVER_NOTE = (
    "The paper's numbers are of {split}. Only the servers have the annotations of test splits; "
    "the numbers here are of the validation split."
)


@dataclass(frozen=True)
class Scale:
    """Everything at one scale.

    Attributes:
        profile: of the runs.
        tables: one a table, run or not; with the claims whose first row is of the table.
        evidence: on all claims, in the paper's order.
    """

    profile: str
    tables: Sequence[TableOutcome]
    evidence: Sequence[Evidence]

    @property
    def title(self) -> str:
        """What it is called."""
        return PROFILES[self.profile]

    @property
    def was_run(self) -> bool:
        """Whether anything has a result."""
        return any(table.was_run for table in self.tables)

    @property
    def rows(self) -> list[RowOutcome]:
        """The rows of all tables."""
        return [row for table in self.tables for row in table.rows]

    def count_verdicts(self) -> dict[Verdict, int]:
        """Verdict to number of claims; a claim in several metrics counts by its main one."""
        by_claim = {item.claim.id: item.verdict for item in reversed(self.evidence)}
        counts = Counter(by_claim.values())
        return {verdict: counts[verdict] for verdict in VERDICTS}

    def false_confirmations(self) -> str:
        """What chance does to many claims, in two sentences."""
        planned = [i for i in self.evidence if not i.is_estimate]
        judged = sum(i.verdict in VERDICTS[:3] for i in planned)
        return (
            f"Up to {len(planned)} claims (each metric counted) can get a verdict; {judged} have "
            f"one. A false claim is confirmed with a chance of about {100 * ERROR:g} %: if all "
            f"were false, {ERROR * len(planned):.1f} false confirmations would be expected, "
            f"{ERROR * judged:.1f} so far."
        )

    def count_rows(self) -> tuple[int, int]:
        """Rows with numbers in the paper that have a result, and all of them."""
        rows = [row for row in self.rows if row.row.numbers]
        return sum(bool(row.runs) for row in rows), len(rows)

    def without_run(self) -> list[tuple[TableOutcome, list[str]]]:
        """Tables of which no row has a result, each with its rows and their state."""
        return [
            (t, [r.row.name + (f" ({r.missing})" * (r.missing != "not run")) for r in t.rows])
            for t in self.tables
            if not t.was_run
        ]

    def examples(self, runs: Runs) -> Iterator[tuple[str, Path, Examples]]:
        """Drawn examples of the runs that count: row, folder of the pictures, manifest.

        Each run's are shown once, with the first row that it is of.
        """
        seen = set()
        for table in self.tables:
            for row in table.rows:
                for record in row.runs.values():
                    found = runs.examples_of(record)
                    if found is not None and key_of(record) not in seen:
                        seen.add(key_of(record))
                        yield f"{table.title.partition(':')[0]}, {row.row.name}", *found


def counting_records(scales: Sequence[Scale]) -> list[Record]:
    """The records that count for some row."""
    return [record for scale in scales for row in scale.rows for record in row.runs.values()]


def build_scales(rows: Sequence[Row], runs: Runs) -> list[Scale]:
    """Works out what a report shows.

    Args:
        rows: all, in the order in which they are shown.
        runs: records and what lies beside them.

    Returns:
        One for each of :data:`PROFILES`; `tiny` only if anything was run at it.
    """
    found = {row.config: records_of(row.config, runs.records) for row in rows}

    def outcome(row: Row, profile: str) -> RowOutcome:
        if row.table == _ONE_SCALE and profile == "mini":
            profile = "paper"
        of_row = dict(sorted(found[row.config].get(profile, {}).items()))
        curves = {s: c for s, r in of_row.items() if (c := runs.curves_of(r)) is not None}
        missing = "" if of_row else state_without_result(row.config, runs.records, profile)
        return RowOutcome(row, of_row, missing, curves=curves)

    def scale(profile: str) -> Scale:
        shown = [row for row in rows if row.table != _ONE_SCALE or profile != "paper"]
        outcomes = [outcome(row, profile) for row in shown]
        runs_by_key = {o.row.key: o.runs for o in outcomes if o.runs}
        plan = runs.plan.planned(profile)
        evidence = collect_evidence(claims_to_test(), runs_by_key, plan, runs.replicates)
        tables = [
            TableOutcome(
                table,
                profile,
                [o for o in outcomes if o.row.table == table],
                [e for e in evidence if e.claim.terms[0].table == table],
                {o.row.config: o for o in outcomes},
                _note(table) if profile == "paper" else "",
            )
            for table in dict.fromkeys(row.table for row in shown)
        ]
        return Scale(profile, tables, evidence)

    scales = [scale(profile) for profile in PROFILES]
    return [scale for scale in scales if scale.was_run or scale.profile != "tiny"]


def _note(table: str) -> str:
    split = str(load_tables().get(table, {}).get("split", ""))
    return _SERVER_NOTE.format(split=split) if "test" in split else ""
