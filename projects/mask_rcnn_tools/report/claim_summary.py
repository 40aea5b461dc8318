"""Summary of the claims of the paper: counts of verdicts, causes, claims without a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mask_rcnn_repro.paper.numbers import load_claims
from mask_rcnn_tools.common.text_tables import Table, TableCell
from mask_rcnn_tools.evidence.causes import UNKNOWN, CauseKey, KnownCause
from mask_rcnn_tools.evidence.outcomes import Evidence
from mask_rcnn_tools.evidence.titles import metric_title, number, table_label
from mask_rcnn_tools.evidence.verdicts import ERROR, VERDICTS, Verdict
from mask_rcnn_tools.report.claims_plot import MARKS, claim_label, short_label
from mask_rcnn_tools.report.scales import Scale, table_of

_UNEXPLAINED = ("contradicted", "undecided")


def counts_text(scale: Scale) -> str:
    """Formats the counts, such as "3 confirmed, 1 contradicted, ..."."""
    return ", ".join(f"{count} {verdict}" for verdict, count in scale.count_verdicts().items())


def expected_false(counts: Mapping[Verdict, int]) -> float:
    """Returns an upper limit of the expected number of false verdicts.

    A claim that does not hold is confirmed with a chance of at most :data:`ERROR`, one that holds
    is contradicted with that chance. Each claim is one or the other.
    """
    return ERROR * sum(counts[verdict] for verdict in VERDICTS[:3])


def counts_table(scale: Scale) -> Table:
    """Makes the table of verdicts with numbers of claims and of expected false verdicts."""
    by_claim, by_metric = scale.count_verdicts(), scale.count_in_all_metrics()
    columns = (by_claim, by_metric)
    lines: list[list[TableCell | str]] = []
    for verdict in VERDICTS:
        sign = f"{MARKS[verdict].sign} " if verdict in MARKS else ""
        cells = [TableCell(str(counts[verdict]), kind="number") for counts in columns]
        lines.append([TableCell(f"{sign}{verdict}", kind=verdict), *cells])
    totals = [str(sum(counts.values())) for counts in columns]
    false = [f"at most {expected_false(counts):.1f}" for counts in columns]
    for name, texts in (("all", totals), ("false verdicts to expect", false)):
        lines.append([name, *(TableCell(text, kind="number") for text in texts)])
    return Table(["verdict", "claims", "each metric counted"], lines)


def chance(scale: Scale) -> str:
    """Explains how claims are counted, and how many verdicts are false by chance."""
    small = sum(item.is_estimate for item in scale.main_evidence)
    estimates = f"{small} can only be estimated: they are too small for the planned seeds. "
    seconds = sum(entry["metric"] == "seconds" for entry in load_claims())
    return (
        f"A claim counts by its main metric. {seconds} claims about seconds are left out: "
        "benchmarks/paper_timing.py measures them (docs/performance.md). "
        f"{estimates * bool(small)}"
        "A claim that does not hold is confirmed with a chance of at most about "
        f"{100 * ERROR:g} %, and one that holds is contradicted as rarely. So at most that share "
        "of the confirmed, contradicted and undecided claims is expected to have a false verdict."
    )


class Unexplained(NamedTuple):
    """A claim that the runs did not confirm.

    Attributes:
        label: The claim and its table.
        verdict: Verdict in its main metric.
        found: The result in words, with numbers.
        cause: The cause that a test showed. None if it is not known.
    """

    label: str
    verdict: Verdict
    found: str
    cause: KnownCause | None

    @property
    def sentence(self) -> str:
        """The cause in words."""
        return self.cause.cause.cause if self.cause else UNKNOWN


def not_confirmed(scale: Scale, causes: Mapping[CauseKey, KnownCause]) -> list[Unexplained]:
    """Lists claims that are contradicted or undecided, contradicted ones first.

    The verdict is that of the main metric. Claims that another metric contradicts are listed, too.
    So are claims about counterparts of the paper's rows, although they are not counted.
    """
    if scale.profile == "tiny":  # says nothing about any claim
        return []
    by_claim: dict[str, list[Evidence]] = {}
    of_paper = [table for table in scale.tables if not table.own]
    for item in [*scale.evidence, *(i for table in of_paper for i in table.claims)]:
        known = by_claim.setdefault(item.claim.id, [])
        if item not in known:
            known.append(item)
    found = []
    for claim_id, (main, *finer) in by_claim.items():
        shown = [main] * (main.verdict in _UNEXPLAINED)
        shown += [item for item in finer if item.verdict == "contradicted"]
        if shown:
            label = f"{claim_label(main)} ({table_label(table_of(main))})"
            words = ". ".join(_found(item) for item in shown)
            cause = causes.get((scale.profile, claim_id))
            found.append(Unexplained(label, main.verdict, words, cause))
    return sorted(found, key=lambda each: VERDICTS.index(each.verdict) or len(VERDICTS))


def _found(item: Evidence) -> str:
    metric = metric_title(item.claim.metric)
    paper = number(item.claim.delta, sign=True)
    verdict = f"{item.verdict}, {item.reason}"
    return f"{metric} {item.with_interval()}, in the paper {paper}: {verdict}"


def not_run(scale: Scale) -> list[tuple[str, str]]:
    """Lists tables with their claims without a run, and what is missing if some row was run."""
    run = {row.row.key for row in scale.rows if row.runs}
    found: dict[str, list[str]] = {}
    for item in scale.main_evidence:
        if item.verdict == "not run":
            rows = {(term.table, term.row) for term in item.claim.terms}
            why = f" ({item.reason})" if rows & run else ""
            found.setdefault(short_label(table_of(item)), []).append(claim_label(item) + why)
    return [(table, "; ".join(texts)) for table, texts in found.items()]


def links(each: Unexplained, folder: Path) -> str:
    """Formats in Markdown how a cause was tested: the command, and links to its files.

    Args:
        each: The claim.
        folder: Directory of the page.
    """
    if each.cause is None:
        return ""
    files = [Path(os.path.relpath(path, folder)).as_posix() for path in each.cause.records]
    named = ", ".join(f"[{Path(file).name}]({file})" for file in files)
    return f" Tested by `{each.cause.cause.command}` ({named})."
