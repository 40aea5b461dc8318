"""Plots of an analysis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter

from mask_rcnn_tools.analyze.error_types import MAIN_ERRORS, MEANING, SPECIAL_ERRORS
from mask_rcnn_tools.analyze.evaluation_data import TASKS
from mask_rcnn_tools.analyze.keypoint_errors import KEYPOINT_ERRORS, KINDS
from mask_rcnn_tools.analyze.mask_quality import MaskQuality, mean_or_nan
from mask_rcnn_tools.analyze.results import Analysis
from mask_rcnn_tools.common.fonts import font_families, missing_reported_once
from mask_rcnn_tools.common.plot_style import plain_log_labels, settings
from mask_rcnn_tools.drawing.files import failure_logged

# from Okabe and Ito, for color-blind people
COLORS = {
    "correct": "#009E73",
    "Cls": "#E69F00",
    "Loc": "#56B4E9",
    "Both": "#CC79A7",
    "Dupe": "#F0E442",
    "Bkg": "#0072B2",
    "Miss": "#D55E00",
    "FP": "#8C8C8C",
    "FN": "#8C8C8C",
}
"""Colors of error types in plots and pictures."""

_KEYPOINT_COLORS = dict(
    zip(KINDS, [COLORS[name] for name in ("correct", "Loc", "Cls", "Both", "Miss")], strict=True)
)
_IOU_COLORS = {"box": "#0072B2", "mask": "#009E73", "boundary": "#D55E00"}

_STYLE = {**settings("analysis"), "figure.dpi": 130, "savefig.dpi": 130}
_ANNOTATED_CLASSES = 15
_SIZE_BINS = 8


def draw_plots(
    analysis: Analysis, title: str, folder: Path, formats: Sequence[str] = ("png",)
) -> list[Path]:
    """Draws the plots of an analysis.

    Args:
        analysis: The analysis.
        title: Title of its run.
        folder: Existing output directory.
        formats: "png", "svg".

    Returns:
        The files.
    """
    plots: dict[str, tuple[bool, Callable[[Analysis], Figure]]] = {
        "error_types": (bool(analysis.errors), _error_types),
        "confusion": (
            analysis.confusion is not None
            and len(analysis.data.classes) > 1
            and len(analysis.confusion.occurring().classes) > 0,
            _confusion,
        ),
        "masks": (analysis.masks is not None and len(analysis.masks) > 0, _masks),
        "calibration": (bool(analysis.calibration) and len(analysis.data.detections) > 0, _scores),
        "keypoints": (analysis.keypoints is not None, _keypoints),
    }
    files = []
    style = {**_STYLE, "font.family": font_families()}
    with matplotlib.rc_context(style), missing_reported_once():
        for name, (there, draw) in plots.items():
            if not there:
                continue
            with failure_logged(f"The plot {name}"):
                figure = draw(analysis)
                figure.text(0.995, 0.004, title, ha="right", va="bottom", size=7, color="#666666")
                for suffix in formats:
                    file = folder / f"{name}.{suffix}"
                    metadata = {"Date": None} if suffix == "svg" else None
                    figure.savefig(file, metadata=metadata, facecolor="white")
                    files.append(file)
    return files


def _figure(width: float, height: float) -> Figure:
    # space for the title at the bottom
    layout = ConstrainedLayoutEngine(rect=(0, 0.03, 1, 0.97))
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def _error_types(analysis: Analysis) -> Figure:
    tasks = list(analysis.errors)
    figure = _figure(1.5 + 4.3 * len(tasks), 4.6)
    axes = figure.subplots(
        2, len(tasks), squeeze=False, height_ratios=[6, 2.2], sharex="row", sharey="row"
    )
    for column, task in enumerate(tasks):
        errors = analysis.errors[task]
        for row, names in enumerate((MAIN_ERRORS, SPECIAL_ERRORS)):
            axis = axes[row][column]
            values = [errors.delta[name] for name in names]
            labels = [f"{name}  {MEANING[name]}" for name in names]
            bars = axis.barh(labels, values, color=[COLORS[name] for name in names], height=0.7)
            numbers = [
                f"{value:.1f}" + (f"  (n = {errors.counts[name]:,})" if row == 0 else "")
                for name, value in zip(names, values, strict=True)
            ]
            axis.bar_label(bars, numbers, padding=3, size=9)
            axis.margins(x=0.34)
            axis.tick_params(axis="y", length=0)
        axes[0][column].set_title(
            f"{TASKS[task]} AP at IoU {analysis.iou_threshold:g}: {errors.ap:.1f}"
        )
        axes[1][column].set_xlabel("AP gained if all were fixed (dAP)")
    for row in axes:
        row[0].invert_yaxis()  # shared by the row
    return figure


def _confusion(analysis: Analysis) -> Figure:
    assert analysis.confusion is not None
    confusion = analysis.confusion.occurring()
    count, known = len(confusion.classes), len(analysis.confusion.classes)
    annotated = count <= _ANNOTATED_CLASSES
    side = max(4.5, 0.62 * (count + 1) if annotated else 0.16 * (count + 1))
    figure = _figure(side + 2.4, side + 1.2)
    axis = figure.subplots()
    shares = confusion.by_truth
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 9 if annotated else 6
    ticks = range(count + 1)
    axis.set_xticks(ticks, [*confusion.classes, "not found"], rotation=60, ha="right", size=size)
    axis.set_yticks(ticks, [*confusion.classes, "nothing there"], size=size)
    axis.set_xlabel("found as")
    axis.set_ylabel("is")
    what = "masks" if analysis.data.best_task == "segm" else "boxes"
    axis.set_title(
        f"{what}, score ≥ {confusion.score_threshold:g}, "
        f"IoU ≥ {confusion.iou_threshold:g}"
        + f"; {count} of {known} classes occur" * (count < known)
        + "; cells: % of the row, number" * annotated
    )
    axis.axhline(count - 0.5, color="#444444", linewidth=0.8)
    axis.axvline(count - 0.5, color="#444444", linewidth=0.8)
    figure.colorbar(image, shrink=0.8, label="share of the row", format=PercentFormatter(1))
    if annotated:
        for (row, column), number in np.ndenumerate(confusion.counts):
            if number:
                axis.text(
                    column,
                    row,
                    f"{100 * shares[row, column]:.0f}\n{number}",
                    ha="center",
                    va="center",
                    size=7.5,
                    linespacing=0.95,
                    color="white" if shares[row, column] > 0.55 else "black",
                )
    return figure


def _masks(analysis: Analysis) -> Figure:
    masks = analysis.masks
    assert masks is not None
    figure = _figure(13.5, 4.2)
    pairs, sizes, bars = figure.subplots(1, 3, width_ratios=[1.15, 1, 1])
    low = max(0.0, analysis.iou_threshold - 0.02)
    shown = pairs.hexbin(
        masks.box_iou,
        masks.mask_iou,
        gridsize=(24, 32),
        extent=(low, 1, 0, 1),
        cmap="viridis",
        bins="log" if len(masks) > 1 else None,
        mincnt=1,
        linewidths=0.1,
    )
    pairs.plot([low, 1], [low, 1], color="#444444", linewidth=0.8, linestyle="--")
    pairs.set(xlabel="box IoU", ylabel="mask IoU", xlim=(low, 1), ylim=(0, 1))
    pairs.set_title(f"{len(masks):,} detections whose box found an object")
    bar = figure.colorbar(shown, label="detections")
    if len(masks) > 1:
        plain_log_labels(bar.ax.yaxis)
    _by_size(sizes, masks)
    names = [name for name in analysis.mask_ap if name != "per_class"]
    places = np.arange(len(names))
    for offset, label, values in (
        (-0.2, "mask IoU", analysis.mask_ap),
        (0.2, "Boundary IoU", analysis.boundary_ap),
    ):
        color = _IOU_COLORS["mask" if offset < 0 else "boundary"]
        heights = [values[name] for name in names]
        drawn = bars.bar(places + offset, np.nan_to_num(heights), 0.38, label=label, color=color)
        bars.bar_label(drawn, ["-" if np.isnan(h) else f"{h:.0f}" for h in heights], size=8)
    bars.set_xticks(places, names)
    bars.set_ylim(bottom=0)
    bars.set_ylabel("mask AP")
    bars.set_title("AP by mask and by boundary")
    bars.legend(frameon=False)
    return figure


def _by_size(axis: Any, masks: MaskQuality) -> None:
    """Plots mean IoUs of objects in bins of equal numbers."""
    length = np.sqrt(masks.area)
    bins = min(_SIZE_BINS, max(1, len(masks) // 10))
    edges = np.unique(np.quantile(length, np.linspace(0, 1, bins + 1)))
    place = np.clip(np.searchsorted(edges, length, side="right") - 1, 0, max(len(edges) - 2, 0))
    groups = [place == index for index in range(max(len(edges) - 1, 1))]
    centres = [mean_or_nan(length[group]) for group in groups]
    for name, color in _IOU_COLORS.items():
        values = getattr(masks, f"{name}_iou")
        means = [mean_or_nan(values[group]) for group in groups]
        axis.plot(centres, means, marker="o", markersize=4, color=color, label=name)
    axis.set(xlabel="object's size: √area, pixels", ylabel="mean IoU", ylim=(0, 1))
    axis.set_title("the same by size")
    axis.legend(frameon=False, loc="lower left")


def _scores(analysis: Analysis) -> Figure:
    tasks = list(analysis.calibration)
    figure = _figure(1 + 4.0 * len(tasks), 5.0)
    axes = figure.subplots(
        2, len(tasks), squeeze=False, height_ratios=[3, 1], sharex=True, sharey="row"
    )
    for column, task in enumerate(tasks):
        values, best = analysis.calibration[task], analysis.threshold[task]
        width = np.diff(values.edges)
        top, bottom = axes[0][column], axes[1][column]
        top.bar(
            values.edges[:-1],
            np.nan_to_num(values.precision),
            width,
            align="edge",
            color=_IOU_COLORS[TASKS[task]],
            edgecolor="white",
        )
        top.plot([0, 1], [0, 1], color="#444444", linewidth=0.8, linestyle="--")
        top.plot(values.score, values.precision, "o", color="black", markersize=3.5)
        top.set(xlim=(0, 1), ylim=(0, 1))
        top.set_title(
            f"{TASKS[task]}: expected error {100 * values.expected_error:.1f} %, "
            f"best F1 at {best.score:.2f}"
        )
        bottom.bar(
            values.edges[:-1], values.count, width, align="edge", color="#8C8C8C", ec="white"
        )
        bottom.set(xlabel="score")
        if np.isfinite(best.score):
            for axis in (top, bottom):
                axis.axvline(best.score, color="#D55E00", linewidth=1)
    axes[0][0].set_ylabel(f"share that found an object\n(IoU ≥ {analysis.iou_threshold:g})")
    axes[1][0].set_ylabel("detections")
    return figure


def _keypoints(analysis: Analysis) -> Figure:
    keypoints = analysis.keypoints
    assert keypoints is not None
    counts = keypoints.counts()
    figure = _figure(10.5, 1.8 + 0.23 * len(keypoints.names))
    shares, gains = figure.subplots(1, 2, width_ratios=[2.2, 1])
    total = np.maximum(sum(counts.values()), 1)
    left = np.zeros(len(keypoints.names))
    for kind, values in counts.items():
        share = values / total
        shares.barh(
            list(keypoints.names), share, left=left, color=_KEYPOINT_COLORS[kind], label=kind
        )
        left += share
    shares.invert_yaxis()
    shares.set(xlim=(0, 1), xlabel="share of the labelled keypoints")
    shares.xaxis.set_major_formatter(PercentFormatter(1))
    shares.tick_params(axis="y", length=0)
    shares.set_title(f"keypoints of {len(keypoints.detection)} persons found", pad=24)
    shares.legend(
        ncols=len(KINDS), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=9
    )
    names = list(KEYPOINT_ERRORS)
    bars = gains.barh(
        names,
        [keypoints.delta[name] for name in names],
        color=[_KEYPOINT_COLORS[name] for name in names],
        height=0.6,
    )
    gains.bar_label(bars, [f"{keypoints.delta[name]:+.1f}" for name in names], padding=3)
    gains.invert_yaxis()
    gains.margins(x=0.25)
    gains.set_xlabel("AP gained if all were fixed (dAP)")
    gains.set_title(f"keypoint AP {keypoints.ap:.1f}", pad=24)
    return figure
