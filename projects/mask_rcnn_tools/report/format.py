"""Numbers and names in words, the same wherever a report shows them."""

from __future__ import annotations

import textwrap

from mask_rcnn_repro.paper.claims import Evidence
from mask_rcnn_repro.paper.results import task_title
from mask_rcnn_tools.report.rows import Spread

RELATIONS = {"nearly equal": "nearly equal", "at least": "at least as good"}


def in_words(metric: str) -> str:
    """A metric's name: `segm/AP50` is mask AP50; of no task, itself."""
    task, slash, name = metric.partition("/")
    if not slash:
        return "mask AP" if metric == "segm" else metric  # a difference of several metrics
    return f"{task_title(task)} {name}"


def table_label(table: str) -> str:
    """A table in a few letters: `2c`, or the section of numbers in the text."""
    if table.startswith("text-"):
        return f"section {table.split('-')[1]}"
    return "section 4.4" if table == "timing" else table


def wrapped(text: str, width: int) -> str:
    """A text on lines of at most `width` letters."""
    return "\n".join(textwrap.wrap(text, width))


def number(value: float | None, sign: bool = False) -> str:
    """One decimal; a dash for what was not measured."""
    if value is None:
        return "-"
    return f"{value:+.1f}" if sign else f"{value:.1f}"


def spread(values: Spread | None, sign: bool = False) -> str:
    """Mean and standard deviation over seeds; a dash for what was not measured."""
    if values is None:
        return "-"
    deviation = values.deviation
    text = number(values.mean, sign)
    return text if deviation is None else f"{text} ± {deviation:.1f}"


def with_interval(values: Spread | Evidence | None) -> str:
    """Mean difference and its 90 % interval; a dash where there is none."""
    if values is None or values.mean is None:
        return "-"
    if values.interval is None:
        return number(values.mean, sign=True)
    low, high = values.interval
    return f"{values.mean:+.1f} [{low:+.1f}, {high:+.1f}]"
