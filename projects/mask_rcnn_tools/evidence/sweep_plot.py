"""The plot of a sweep: a metric over a swept number, with its interval."""

from __future__ import annotations

from mask_rcnn_tools.common import plot_style as style
from mask_rcnn_tools.evidence.groups import short_keys
from mask_rcnn_tools.evidence.outcomes import RowOutcome, TableOutcome
from mask_rcnn_tools.evidence.titles import metric_title

_WIDE_RANGE = 20  # largest over smallest value of a logarithmic axis


def numbers_of(outcome: TableOutcome, key: str) -> list[tuple[float, RowOutcome]]:
    """Rows that were run with a number for a swept key, in ascending order."""
    found = []
    for row in outcome.rows:
        try:
            value = float(dict(row.row.settings).get(key, ""))
        except ValueError:
            continue
        if row.runs:
            found.append((value, row))
    return sorted(found, key=lambda pair: pair[0])


def draw_sweep(outcome: TableOutcome, key: str) -> str | None:
    """The text of an SVG: mean over seeds with Student's 90 % interval; dots are single seeds.

    One line for each combination of the other keys. None where fewer than two numbers were run, or
    nothing is judged.

    Args:
        outcome: of a sweep.
        key: one of its keys.
    """
    metrics = list(dict.fromkeys(item.claim.metric for item in outcome.claims))
    rows = numbers_of(outcome, key)
    if not metrics or len({value for value, _ in rows}) < 2:
        return None
    others = [k for k in outcome.swept if k != key]
    lines: dict[str, list[tuple[float, RowOutcome]]] = {}
    for value, row in rows:
        settings = dict(row.row.settings)
        names = [f"{s}={settings[k]}" for s, k in zip(short_keys(others), others, strict=True)]
        lines.setdefault(", ".join(names), []).append((value, row))
    with style.plot(5.2, 3.2, f"sweep {outcome.table} {key}") as (figure, result):
        axes = figure.add_subplot()
        for index, (label, points) in enumerate(lines.items()):
            color = style.series_color(index)
            known = [(x, ours) for x, row in points if (ours := row.ours(metrics[0])).by_seed]
            axes.plot(
                [x for x, _ in known],
                [ours.mean or 0.0 for _, ours in known],
                style.series_marker(index),
                linestyle=style.series_line(index),
                color=color,
                markersize=5,
                label=label or None,
            )
            for x, ours in known:
                if ours.interval is not None:
                    axes.plot([x, x], ours.interval, color=color, linewidth=1.2)
                values = list(ours.by_seed.values())
                axes.plot([x] * len(values), values, ".", color=color, alpha=0.45)
        numbers = [value for value, _ in rows]
        if min(numbers) > 0 and max(numbers) >= _WIDE_RANGE * min(numbers):
            axes.set_xscale("log")
            style.plain_log_labels(axes.xaxis)
        axes.set_xlabel(key)
        axes.set_ylabel(f"{metric_title(metrics[0])}, %")
        axes.grid()
        style.legend_above(figure, axes)
    return result[0]
