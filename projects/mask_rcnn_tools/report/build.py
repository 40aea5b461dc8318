"""A whole report: what is known, drawn, and ready to be set as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mask_rcnn_repro.paper.verdicts import Verdict
from mask_rcnn_repro.records.record import Record
from mask_rcnn_tools.report.examples import Examples
from mask_rcnn_tools.report.figures import Figures, figures_of
from mask_rcnn_tools.report.rows import ReportRow, Scale, Section, build_scales
from mask_rcnn_tools.report.store import Material, key_of

VERDICTS: tuple[Verdict, ...] = ("confirmed", "not confirmed", "undecided", "not run")


@dataclass(frozen=True)
class Report:
    """What pages are made from.

    Attributes:
        material: records and what lies beside them.
        scales: full scale first.
        figures: profile to its plots; without those at which nothing was run.
    """

    material: Material
    scales: Sequence[Scale]
    figures: Mapping[str, Figures]

    def examples(self, scale: Scale) -> Iterator[tuple[str, Path, Examples]]:
        """Drawn examples of the runs that count at a scale: row, folder of the pictures, manifest.

        Each run's are shown once, with the first row that it is of.
        """
        seen = set()
        for section in scale.sections:
            for row in section.rows:
                for record in row.runs.values():
                    found = self.material.examples_of(record)
                    if found is not None and key_of(record) not in seen:
                        seen.add(key_of(record))
                        yield row_title(section, row.row), *found


def build_report(
    rows: Sequence[ReportRow], titles: Mapping[str, str], material: Material
) -> Report:
    """Works out and draws everything; see :func:`~.data.build_scales` for the arguments."""
    scales = build_scales(rows, titles, material)
    return Report(material, scales, {s.profile: figures_of(s) for s in scales if s.was_run})


def counting_records(scales: Sequence[Scale]) -> list[Record]:
    """The records that count for some row."""
    rows = [row for scale in scales for section in scale.sections for row in section.rows]
    return [record for row in rows for record in row.runs.values()]


def row_title(section: Section, row: ReportRow) -> str:
    """A row with its table."""
    return f"{section.title.partition(':')[0]}, {row.name}"


def count_verdicts(scale: Scale) -> dict[Verdict, int]:
    """Verdict to the number of claims; a claim in several metrics counts by its main one."""
    by_claim = {item.claim.id: item.verdict for item in reversed(scale.evidence)}
    counts = Counter(by_claim.values())
    return {verdict: counts[verdict] for verdict in VERDICTS}


def count_rows(scale: Scale) -> tuple[int, int]:
    """Rows of the paper that have a result, and all of them."""
    rows = [row for section in scale.sections for row in section.rows if row.paper]
    return sum(bool(row.runs) for row in rows), len(rows)


def rows_without_run(scale: Scale) -> list[tuple[Section, list[str]]]:
    """Tables of which no row has a result, each with its rows and their state."""
    return [
        (s, [r.row.name if r.state == "not run" else f"{r.row.name} ({r.state})" for r in s.rows])
        for s in scale.sections
        if not s.was_run
    ]
