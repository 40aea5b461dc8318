"""The plot of all claims: the paper's differences, ours with their intervals, and the verdicts.

Lengths are in points. The plot has one line per claim, grouped by table. Claims without a run are
omitted.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from mask_rcnn_tools.common import plot_style as style
from mask_rcnn_tools.evidence.outcomes import Evidence
from mask_rcnn_tools.evidence.titles import number, table_label
from mask_rcnn_tools.evidence.verdicts import VERDICTS, Verdict
from mask_rcnn_tools.report.scales import Scale, table_of


class Mark(NamedTuple):
    """The look of a verdict. Verdicts differ in shape, not only in color.

    Attributes:
        shape: Marker of matplotlib.
        color: Color of its edge.
        filled: Whether the shape is filled.
        sign: The shape as text.
    """

    shape: str
    color: str
    filled: bool
    sign: str


MARKS: dict[Verdict, Mark] = {
    "confirmed": Mark("o", style.series_color(2), True, "●"),
    "contradicted": Mark("X", style.series_color(1), True, "✖"),
    "undecided": Mark("D", style.series_color(0), False, "◇"),
    "estimate only": Mark("^", style.MUTED, False, "△"),
    "interim": Mark("s", style.MUTED, False, "□"),
}

_WIDTH = 634.0  # of a README, in which a plot is shown as large as it is
_TABLE, _CLAIM = 8.0, 38.0  # left ends of the columns of text
_LEFT, _RIGHT = 304.0, 464.0  # ends of the axis
_PAPER, _HERE, _VERDICT = 504.0, 546.0, 558.0  # right ends of two columns, left end of the last
_CHARACTERS = 50  # of a claim on a line
_LINE, _MORE = 15.5, 11.0  # height of a claim, and of each further line of its text
_ABOVE, _BELOW = 70.0, 36.0  # legend and heads of columns; axis
_BAR = 4.5  # half the height of the paper's bar
_TALL = 15  # claims from which the axis is labeled at both ends


def drawn_claims(scale: Scale) -> list[Evidence]:
    """Returns the claims in the plot: those with a run, each in its main metric."""
    return [item for item in scale.main_evidence if item.by_seed]


def short_label(table: str) -> str:
    """Returns a short name of a table: `2c`, or `§4.2` for numbers in the text."""
    return table_label(table).replace("section ", "§")


def claim_label(item: Evidence) -> str:
    """Returns a claim with a capital letter, without the part after a colon."""
    text = item.claim.text.partition(":")[0]
    return text[0].upper() + text[1:]


def draw_claims(scale: Scale) -> str | None:
    """Returns the plot as SVG. None if no claim has a run."""
    items = drawn_claims(scale)
    if not items:
        return None
    labels = [
        textwrap.fill(claim_label(item), _CHARACTERS, break_on_hyphens=False) for item in items
    ]
    heights = [_LINE + _MORE * label.count("\n") for label in labels]
    tops = [0.0, *itertools.accumulate(heights)]
    height = _ABOVE + tops[-1] + _BELOW
    with style.plot(_WIDTH / 72, height / 72, f"claims {scale.profile}") as (figure, result):
        figure.set_layout_engine("none")
        shape = (_BELOW / height, tops[-1] / height)
        page = figure.add_axes((0, shape[0], 1, shape[1]))
        page.set_axis_off()
        page.set_xlim(0, _WIDTH)
        axes = figure.add_axes((_LEFT / _WIDTH, shape[0], (_RIGHT - _LEFT) / _WIDTH, shape[1]))
        low, high = _limits(items)
        axes.set_xlim(low, high)
        for each in (page, axes):
            each.set_ylim(tops[-1], 0)
        _bands(page, items, tops)
        for item, label, top, tall in zip(items, labels, tops, heights, strict=False):
            middle = top + tall / 2
            _texts(page, item, label, middle)
            _claim(axes, item, middle)
        _finish(axes, len(items))
        for x, text, align in (
            (_TABLE, "table", "left"),
            (_CLAIM, "claim", "left"),
            (_PAPER, "paper", "right"),
            (_HERE, "here", "right"),
            (_VERDICT, "verdict", "left"),
        ):
            _text(page, x, -8.0 - 9.0 * (len(items) >= _TALL), text, align, style.MUTED)
        handles = _legend(axes, items)
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0, 1),
            ncols=4,
            handlelength=2.2,
            columnspacing=1.6,
        )
    return result[0]


def _limits(items: Sequence[Evidence]) -> tuple[float, float]:
    """Sets the limits to hold all means and bars. Wide intervals of few seeds may reach beyond."""
    solid = [0.0, *(i.claim.delta or 0.0 for i in items), *(i.mean or 0.0 for i in items)]
    margins = [i.claim.margin for i in items if i.claim.margin]
    solid += [sign * margin for margin in margins for sign in (-1, 1)]
    ends = [end for i in items if i.interval for end in i.interval]
    span = max(solid) - min(solid) or 1.0
    low = min(max(min(ends, default=0.0), min(solid) - 0.4 * span), min(solid))
    high = max(min(max(ends, default=0.0), max(solid) + 0.4 * span), max(solid))
    return low - 0.04 * span, high + 0.04 * span


def _bands(page: Any, items: Sequence[Evidence], tops: Sequence[float]) -> None:
    """Shades every second table, and writes its name at the first claim."""
    first = 0
    for count, (table, group) in enumerate(itertools.groupby(items, table_of)):
        last = first + len(list(group))
        if count % 2:
            page.axhspan(tops[first], tops[last], color=style.GRID, alpha=0.35, linewidth=0)
        _text(page, _TABLE, tops[first] + _LINE / 2, short_label(table), "left", style.MUTED)
        first = last


def _text(page: Any, x: float, y: float, text: str, align: str, color: str, **more: Any) -> None:
    page.text(x, y, text, ha=align, va="center_baseline", color=color, clip_on=False, **more)


def _texts(page: Any, item: Evidence, label: str, middle: float) -> None:
    decided = item.verdict in VERDICTS[:2]
    color, weight = (style.TEXT, "bold") if decided else (style.MUTED, "normal")
    page.text(_CLAIM, middle, label, va="center", linespacing=1.0)
    _text(page, _PAPER, middle, number(item.claim.delta, sign=True), "right", style.TEXT)
    _text(page, _HERE, middle, number(item.mean, sign=True), "right", style.TEXT)
    _text(page, _VERDICT, middle, item.verdict, "left", color, weight=weight)


def _claim(axes: Any, item: Evidence, middle: float) -> None:
    claim = item.claim
    if claim.margin:
        for end in (-claim.margin, claim.margin):
            axes.plot([end] * 2, [middle - _BAR - 2, middle + _BAR + 2], **_MARGIN)
    axes.barh(middle, claim.delta or 0.0, 2 * _BAR, **_THEIRS)
    if item.interval is not None:
        axes.plot(item.interval, [middle] * 2, color=style.TEXT, linewidth=1.4, zorder=3)
        low, high = axes.get_xlim()
        for end, beyond, arrow in (
            (low, item.interval.low < low, "<"),
            (high, item.interval.high > high, ">"),
        ):
            if beyond:
                axes.plot(end, middle, arrow, color=style.TEXT, markersize=4, clip_on=False)
    mean = item.mean or 0.0
    axes.plot(mean, middle, zorder=4, clip_on=False, **_look(MARKS[item.verdict]))


_THEIRS: dict[str, Any] = {
    "facecolor": style.THEIRS,
    "edgecolor": style.THEIRS_EDGE,
    "hatch": "////",
    "linewidth": 0.8,
}
_MARGIN: dict[str, Any] = {"color": style.MUTED, "linewidth": 1.0, "linestyle": (0, (2, 1.5))}


def _look(mark: Mark) -> dict[str, Any]:
    return {
        "marker": mark.shape,
        "color": mark.color if mark.filled else style.PAPER,
        "markeredgecolor": mark.color,
        "markeredgewidth": 0.8 if mark.filled else 1.6,
        "markersize": {"X": 8, "D": 5.5}.get(mark.shape, 6.5),
        "linestyle": "none",
    }


def _finish(axes: Any, count: int) -> None:
    axes.spines[["left"]].set_visible(False)
    axes.set_yticks([])
    axes.axvline(0, color=style.MUTED, linewidth=1, zorder=1)
    axes.grid(axis="x")
    axes.tick_params(axis="x", length=0, labeltop=count >= _TALL)
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel("difference between rows, points of AP")


def _legend(axes: Any, items: Sequence[Evidence]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    found = {item.verdict for item in items}
    handles: list[Any] = [
        Line2D([], [], label=f"here: {verdict}", **_look(mark))
        for verdict, mark in MARKS.items()
        if verdict in found
    ]
    handles.append(Patch(label="the paper", **_THEIRS))
    if any(item.interval for item in items):
        handles.append(Line2D([], [], label="90 % interval", color=style.TEXT, linewidth=1.4))
    margins = {item.claim.margin for item in items} - {0.0}
    if margins:
        text = " or ".join(f"±{margin:g}" for margin in sorted(margins))
        handles.append(Line2D([], [], label=f"{text}: nearly equal", **_MARGIN))
    return handles
