"""Tables of cells, formatted as text, Markdown and HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tabulate import tabulate


class TableCell(NamedTuple):
    """One cell of a table.

    Attributes:
        text: Its content.
        config: Id of the config that it names, which Markdown links to.
        kind: "number", a verdict or a state. It is the class of the HTML cell.
    """

    text: str
    config: str | None = None
    kind: str = ""


class Table:
    """A table.

    Args:
        header: Names of the columns.
        lines: Cells or their texts, one per column in each line.
    """

    def __init__(self, header: Sequence[str], lines: Iterable[Sequence[TableCell | str]]) -> None:
        self.header = list(header)
        self.lines = [
            [c if isinstance(c, TableCell) else TableCell(c) for c in line] for line in lines
        ]

    def text(self, align: str = "left", widest: int | None = None) -> str:
        """Formats the table for a terminal.

        Args:
            align: "left" or "right".
            widest: Characters of a column. Longer cells are wrapped. None: no limit.
        """
        cells = [[cell.text for cell in line] for line in self.lines]
        widths = None if widest is None or not cells else [widest] * len(self.header)
        return tabulate(
            cells, self.header, "simple", stralign=align, disable_numparse=True, maxcolwidths=widths
        )

    def markdown(self, configs: str | None = None) -> str:
        """Formats the table in Markdown.

        Args:
            configs: Path of the configs, from the page, such as "configs/". None: no links.
        """
        lines = [[_markdown_cell(cell, configs) for cell in line] for line in self.lines]
        rows = [self.header, ["---"] * len(self.header), *lines]
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)

    def html(self) -> str:
        """Formats the table in HTML, inside a `div` of the class "wide"."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.header)
        body = "\n".join(
            f"<tr>{''.join(_html_cell(cell) for cell in line)}</tr>" for line in self.lines
        )
        return (
            f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody></table></div>"
        )


def _markdown_cell(cell: TableCell, configs: str | None) -> str:
    text = cell.text.replace("|", "\\|")
    if cell.config is not None and configs is not None:
        return f"[{text}]({configs}{cell.config}.py)"
    return f"**{text}**" if cell.kind in ("confirmed", "contradicted") else text


def _html_cell(cell: TableCell) -> str:
    kind = f' class="{cell.kind.replace(" ", "-")}"' if cell.kind else ""
    return f"<td{kind}>{html.escape(cell.text)}</td>"
