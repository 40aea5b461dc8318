"""The style of all plots: one set of colors and marks, on paper and on a dark screen.

Plots are SVG with text as text. Equal numbers give equal bytes on one machine. On another machine,
the last digits of coordinates differ, and so do the ids that are derived from them.
:func:`same_plot` ignores both. Colors are fixed in the files. :func:`inline_svg` replaces them by
CSS variables, with which a plot follows the dark mode of its page.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

TEXT, MUTED, GRID, PAPER = "#1b1f24", "#5d6670", "#d7dce1", "#fefefe"
"""Text and axes, secondary text, grid lines, background."""

THEIRS, THEIRS_EDGE = "#e3e6e9", "#6e7680"
"""Bars of the paper's numbers, which are also hatched."""

# After Okabe and Ito's colors for the color-blind, darkened to 3:1 on white where they are paler;
# the second of each pair is for dark pages.
_SERIES = (
    ("#0072b2", "#56b4f0"),
    ("#d55e00", "#ff9248"),
    ("#008a63", "#35d0a0"),
    ("#b0337f", "#f089c3"),
    ("#8a6d00", "#e8c547"),
    ("#4b4f57", "#b8bec6"),
    ("#3d3a9c", "#9d9bff"),
    ("#7a3b12", "#d9a27c"),
)

LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = "osD^vPX*"

_DARK = {
    TEXT: "#e6e9ec",
    MUTED: "#a5adb6",
    GRID: "#343a41",
    PAPER: "#15181b",
    THEIRS: "#2c3238",
    THEIRS_EDGE: "#9aa3ad",
    **dict(_SERIES),
}

_FONT = 9.5  # points


def series_color(index: int) -> str:
    """Returns the color of the row with this index, from 0, in every plot of its table."""
    return _SERIES[index % len(_SERIES)][0]


def series_line(index: int) -> Any:
    """Returns the line style of the row with this index. Rows do not differ in color alone."""
    return LINES[index % len(LINES)]


def series_marker(index: int) -> str:
    """Returns the marker of the row with this index."""
    return MARKERS[index % len(MARKERS)]


def settings(salt: str) -> dict[Any, Any]:
    """Returns the style as rcParams of matplotlib.

    Args:
        salt: Text from which the ids in an SVG are derived, beside their content.
    """
    return {
        "svg.hashsalt": salt,
        "svg.fonttype": "none",
        "font.family": "DejaVu Sans",
        # names of classes and runs are text, not formulas
        "text.usetex": False,
        "text.parse_math": False,
        "font.size": _FONT,
        "axes.labelsize": _FONT,
        "axes.titlesize": _FONT + 0.5,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": TEXT,
        "axes.titlecolor": TEXT,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.facecolor": "none",
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": TEXT,
        "ytick.labelcolor": TEXT,
        "text.color": TEXT,
        "figure.facecolor": PAPER,
        "hatch.color": THEIRS_EDGE,
        "hatch.linewidth": 0.8,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
    }


@contextmanager
def plot(width: float, height: float, salt: str) -> Iterator[tuple[Figure, list[str]]]:
    """Yields a figure to draw into, and a list that holds its SVG after the block.

    Args:
        width: Inches.
        height: Inches.
        salt: Makes the names inside the SVG differ from those of other plots on a page.
    """
    import matplotlib
    from matplotlib.figure import Figure

    result: list[str] = []
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # independent of the user's matplotlibrc
        matplotlib.rcParams.update(settings(salt))
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, result
        buffer = io.StringIO()
        with warnings.catch_warnings():
            # the text of an SVG is shown in the viewer's fonts
            warnings.filterwarnings("ignore", "Glyph .* missing from")
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    # nothing refers to the names of groups, and a page holds many plots
    text = re.sub(
        r' id="(?:figure|axes|patch|text|line2d|matplotlib|xtick|ytick|legend)[\w.]*"', "", text
    )
    text = re.sub(r' id="(?:[A-Z]\w*Collection)[\w.]*"', "", text)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    # Verdana is as wide; without either, a browser's default would be a font with serifs
    text = text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    result.append(re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE))


def plain_log_labels(axis: Axis) -> None:
    """Labels a logarithmic axis with plain numbers, because the style draws no formulas."""
    from matplotlib.ticker import LogFormatter

    class PlainLogFormatter(LogFormatter):
        def __call__(self, x: float, pos: Any = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    axis.set_major_formatter(PlainLogFormatter())
    axis.set_minor_formatter(PlainLogFormatter())


def legend_above(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """Sets the legend of one of the axes above all of them."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=min(columns, len(handles)),
            handlelength=2.4,
            columnspacing=1.4,
        )


def inline_svg(svg: str, label: str) -> str:
    """Returns a plot for a page, with colors as variables and a label.

    Args:
        svg: Text of the file of a plot.
        label: Text for screen readers.
    """
    text = svg[svg.index("<svg") :]
    names = {color: f"var(--plot-{i})" for i, color in enumerate(_DARK)}
    text = re.sub(r"#[0-9a-f]{6}", lambda m: names.get(m[0], m[0]), text)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="([\d.]+)pt"', r'\1 style="max-width:\2pt"', text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1).strip()


def css_variables() -> tuple[str, str]:
    """Returns declarations of the variables of :func:`inline_svg`, for light and dark pages."""
    light = " ".join(f"--plot-{i}: {color};" for i, color in enumerate(_DARK))
    dark = " ".join(f"--plot-{i}: {color};" for i, color in enumerate(_DARK.values()))
    return light, dark


_ID = re.compile(r'(?<=["#])[mphC]\w*[0-9a-f]{10}\b')
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def same_plot(one: str, other: str, tolerance: float = 0.5) -> bool:
    """Returns whether two SVGs show the same: equal except for ids and nearly equal numbers.

    Args:
        one: Text of an SVG.
        other: Text of another one.
        tolerance: Points by which numbers may differ.
    """
    texts = [_with_plain_ids(text) for text in (one, other)]
    shapes = [_NUMBER.sub("0", text) for text in texts]
    pairs = zip(*(_NUMBER.findall(text) for text in texts), strict=False)
    return shapes[0] == shapes[1] and all(
        a == b or abs(float(a) - float(b)) <= tolerance for a, b in pairs
    )


def _with_plain_ids(svg: str) -> str:
    """Renames the ids that matplotlib derives from coordinates, in the order of their use."""
    names = {name: f"id{place}" for place, name in enumerate(dict.fromkeys(_ID.findall(svg)))}
    return _ID.sub(lambda match: names[match[0]], svg)
