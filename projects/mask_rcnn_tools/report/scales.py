"""Computes the outcomes of all tables at each scale from records."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mask_rcnn_repro.paper.numbers import load_tables
from mask_rcnn_repro.records.record import Record
from mask_rcnn_tools.evidence.ablation_file import Ablation
from mask_rcnn_tools.evidence.claims import claims_to_test, counterpart_claims
from mask_rcnn_tools.evidence.outcomes import Evidence, RowOutcome, TableOutcome, collect_evidence
from mask_rcnn_tools.evidence.results import records_of, state_without_result
from mask_rcnn_tools.evidence.rows import Row
from mask_rcnn_tools.evidence.verdicts import OWN_RULE, VERDICTS, Verdict
from mask_rcnn_tools.report.examples import Examples
from mask_rcnn_tools.report.own_runs import ablations_of_runs, unique
from mask_rcnn_tools.report.runs import Runs, key_of

PROFILES = {
    "paper": "Full scale",
    "mini": "mini: embedded data, narrow networks with pre-training, short schedules",
    "tiny": "tiny: a handful of images, which show that rows run and nothing more",
}
"""Scales and their titles in a report."""

NOTES = {
    "mini": "Numbers of this scale are not comparable with the paper's; differences between rows "
    "are what it is made for."
}
"""Notes about a scale."""

_ONE_SCALE = "quickstart"
"""Directory of configs that use the embedded data without a profile, shown with `mini`."""

_SERVER_NOTE = (
    "The paper's numbers are of {split}. Only the servers have the annotations of test splits; "
    "the numbers here are of the validation split."
)


@dataclass(frozen=True)
class Scale:
    """All outcomes at one scale.

    Attributes:
        profile: Profile of the runs.
        tables: Outcomes of all tables, run or not, with the claims whose first row is theirs.
        evidence: Evidence on all claims of the paper, in its order.
    """

    profile: str
    tables: Sequence[TableOutcome]
    evidence: Sequence[Evidence]

    @property
    def title(self) -> str:
        """Title of the scale."""
        return PROFILES[self.profile]

    @property
    def was_run(self) -> bool:
        """Whether any row has a result."""
        return any(table.was_run for table in self.tables)

    @property
    def rows(self) -> list[RowOutcome]:
        """Rows of all tables."""
        return [row for table in self.tables for row in table.rows]

    @property
    def main_evidence(self) -> list[Evidence]:
        """One entry per claim, in its main metric, in the order of the tables."""
        place = {table.table: index for index, table in enumerate(self.tables)}
        found: dict[str, Evidence] = {}
        for item in self.evidence:
            found.setdefault(item.claim.id, item)
        return sorted(found.values(), key=lambda i: place.get(table_of(i), len(place)))

    def count_verdicts(self) -> dict[Verdict, int]:
        """Maps verdicts to numbers of claims. A claim counts by its main metric."""
        return _counted(self.main_evidence)

    def count_in_all_metrics(self) -> dict[Verdict, int]:
        """Maps verdicts to numbers of claims, with each metric of a claim counted."""
        return _counted(self.evidence)

    def count_rows(self) -> tuple[int, int]:
        """Counts the rows with numbers in the paper: those with a result, and all."""
        printed = [table for table in self.tables if not table.own]
        rows = [row for table in printed for row in table.rows if row.row.numbers]
        return sum(bool(row.runs) for row in rows), len(rows)

    def without_run(self) -> list[tuple[TableOutcome, list[str]]]:
        """Returns tables without any result, with their rows and the state of these."""
        return [
            (t, [r.row.name + (f" ({r.missing})" * (r.missing != "not run")) for r in t.rows])
            for t in self.tables
            if not t.was_run
        ]

    def examples(self, runs: Runs) -> Iterator[tuple[str, Path, Examples]]:
        """Returns drawn examples of the runs that count: row, directory, manifest.

        Those of a run are shown once, with its first row.
        """
        seen = set()
        for table in self.tables:
            for row in table.rows:
                for record in row.runs.values():
                    found = runs.examples_of(record)
                    if found is not None and key_of(record) not in seen:
                        seen.add(key_of(record))
                        yield f"{table.title.partition(':')[0]}, {row.row.name}", *found


def table_of(item: Evidence) -> str:
    """Returns the table that shows a claim."""
    return item.claim.terms[0].table


def _counted(evidence: Sequence[Evidence]) -> dict[Verdict, int]:
    counts = Counter(item.verdict for item in evidence)
    return {verdict: counts[verdict] for verdict in VERDICTS}


def counting_records(scales: Sequence[Scale]) -> list[Record]:
    """Returns the records that count for some row."""
    return [record for scale in scales for row in scale.rows for record in row.runs.values()]


def build_scales(rows: Sequence[Row], runs: Runs) -> list[Scale]:
    """Computes the content of a report.

    Args:
        rows: All rows, in the order of the report.
        runs: Records and the files beside them.

    Returns:
        One scale for each of :data:`PROFILES`. `tiny` is omitted if nothing was run at it.
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
        others = collect_evidence(counterpart_claims(), runs_by_key, plan, runs.replicates)
        tables = [
            TableOutcome(
                table,
                profile,
                [o for o in outcomes if o.row.table == table],
                [e for e in (*evidence, *others) if table_of(e) == table],
                {o.row.id: o for o in outcomes},
                _note(table) if profile == "paper" else "",
            )
            for table in dict.fromkeys(row.table for row in shown)
        ]
        names = {a.table for a in runs.ablations if a.profile == profile}
        tables = [table for table in tables if table.table not in names]  # folders of one's own
        known = {(r.config.hash, s) for o in outcomes for s, r in o.runs.items()}
        for ablation in own_ablations(runs, profile, known):
            tables.append(_own_table(ablation, runs))
        return Scale(profile, tables, evidence)

    scales = [scale(profile) for profile in PROFILES]
    return [scale for scale in scales if scale.was_run or scale.profile != "tiny"]


def own_ablations(runs: Runs, profile: str, known: Collection[tuple[str, int]]) -> list[Ablation]:
    """Returns own ablations at a profile: planned ones, then runs that belong to no row.

    Args:
        runs: Records and the files beside them.
        profile: The scale.
        known: Hash and seed of records of this project's rows.
    """
    planned = unique(a for a in runs.ablations if a.profile == profile)
    counted = {(r.hash, r.seed) for a in planned for row in a.rows for r in row.runs}
    files = [(file, r) for file, r in runs.files if r.config.profile == profile]
    return planned + ablations_of_runs(files, counted | set(known), runs.records)


def _own_table(ablation: Ablation, runs: Runs) -> TableOutcome:
    group = ablation.group()
    outcomes = []
    for row in group.rows:
        of_row = dict(sorted(ablation.runs_of(row, runs.records).items()))
        curves = {s: c for s, r in of_row.items() if (c := runs.curves_of(r)) is not None}
        outcomes.append(RowOutcome(row, of_row, "" if of_row else "not run", curves=curves))
    of_rows = {o.row.key: o.runs for o in outcomes if o.runs}
    evidence = collect_evidence(group.claims, of_rows, group.planned, runs.replicates)
    table = TableOutcome(
        group.table,
        ablation.profile,
        outcomes,
        evidence,
        {o.row.id: o for o in outcomes},
        swept=group.swept,
        heading=group.title,
        own=True,
    )
    return dataclasses.replace(table, note=" ".join([*table.version_lines, _OWN_NOTE]))


_OWN_NOTE = " ".join(OWN_RULE.replace("*", "").split())


def _note(table: str) -> str:
    split = str(load_tables().get(table, {}).get("split", ""))
    return _SERVER_NOTE.format(split=split) if "test" in split else ""
