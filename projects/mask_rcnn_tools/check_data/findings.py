"""Findings, with their kinds, levels, examples and fixes, and the report that collects them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from mask_rcnn_tools.check_data.kinds import KINDS, LEVELS, Level

EXAMPLES = 5


@dataclass
class Finding:
    """All cases of one kind in one data set.

    Attributes:
        kind: Key in :data:`~mask_rcnn_tools.check_data.kinds.KINDS`.
        level: Level of the kind.
        split: Such as `"train"`, or `"train and test"` for both.
        source: Name of the data set, or its json.
        count: Number of cases.
        title: Title of the kind.
        examples: A few cases in words.
        fix: How to fix it.
    """

    kind: str
    level: Level
    split: str
    source: str
    count: int
    title: str
    examples: list[str]
    fix: str


@dataclass
class Report:
    """All findings and counts.

    Attributes:
        subject: What was checked.
        statistics: Of each data set, :func:`~mask_rcnn_tools.check_data.statistics.statistics`.
        findings: Errors first.
        looked_at: What was checked, and what was not, in words.
    """

    subject: str
    statistics: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    looked_at: list[str] = field(default_factory=list)

    def count(self, level: Level) -> int:
        """Returns the number of kinds with findings of a level."""
        return sum(finding.level == level for finding in self.findings)

    def add(
        self, kind: str, split: str, source: str, examples: Iterable[str], count: int | None = None
    ) -> None:
        """Adds a finding, unless it has no case.

        Args:
            kind: Key in ``KINDS``.
            split: See :class:`Finding`.
            source: See :class:`Finding`.
            examples: Cases in words. Only those that are shown are taken.
            count: Number of cases. None: the number of examples.
        """
        if count is None:
            examples = list(examples)
            count = len(examples)
        if not count:
            return
        shown = [text for text, _ in zip(examples, range(EXAMPLES), strict=False)]
        about = KINDS[kind]
        self.findings.append(
            Finding(kind, about.level, split, source, count, about.title, shown, about.fix)
        )

    def sort(self) -> None:
        """Sorts by level: errors, warnings, notes. The order within a level stays."""
        self.findings.sort(key=lambda finding: LEVELS.index(finding.level))

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain data, as `--json` prints it."""
        return {
            "subject": self.subject,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "notes": self.count("note"),
            "findings": [asdict(finding) for finding in self.findings],
            "statistics": self.statistics,
            "looked_at": self.looked_at,
        }
