"""What checking finds: kinds, levels, examples and how to fix each; and a whole report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from mask_rcnn_tools.check_data.kinds import KINDS, LEVELS, Level

EXAMPLES = 5


@dataclass
class Finding:
    """A kind of finding in one place.

    Attributes:
        kind: key in :data:`~mask_rcnn_tools.check_data.kinds.KINDS`.
        level: of the kind.
        split: such as `"train"`; `"train and test"` where both are meant.
        source: data set name, or its json.
        count: number of cases.
        title: of the kind.
        examples: a few cases in words.
        fix: of the kind.
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
    """All that was found and counted.

    Attributes:
        subject: what was checked.
        statistics: of each data set, as :func:`~mask_rcnn_tools.check_data.statistics.statistics`.
        findings: errors first.
        looked_at: what was looked at, and what was not, in words.
    """

    subject: str
    statistics: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    looked_at: list[str] = field(default_factory=list)

    def count(self, level: Level) -> int:
        """Number of kinds of finding of a level."""
        return sum(finding.level == level for finding in self.findings)

    def add(
        self, kind: str, split: str, source: str, examples: Iterable[str], count: int | None = None
    ) -> None:
        """Adds a finding; nothing where there is no case.

        Args:
            kind: key in ``KINDS``.
            split: see :class:`Finding`.
            source: see :class:`Finding`.
            examples: cases in words; no more are taken than are shown.
            count: number of cases; None: as many as examples.
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
        """Puts errors first, then warnings, then notes; the order within a level stays."""
        self.findings.sort(key=lambda finding: LEVELS.index(finding.level))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `--json` prints it."""
        return {
            "subject": self.subject,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "notes": self.count("note"),
            "findings": [asdict(finding) for finding in self.findings],
            "statistics": self.statistics,
            "looked_at": self.looked_at,
        }
