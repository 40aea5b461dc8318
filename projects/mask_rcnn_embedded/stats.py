"""Tables of counts and sizes."""

from __future__ import annotations

from collections.abc import Iterable


def markdown_table(header: list[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; an empty string is an empty cell."""
    lines = [
        "|" + "".join(f" {c} |" if c != "" else " |" for c in line) for line in (header, *rows)
    ]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])
