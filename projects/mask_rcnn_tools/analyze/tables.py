"""Tables of an analysis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from tabulate import tabulate

from mask_rcnn_tools.analyze.error_types import MAIN_ERRORS, MEANING, SPECIAL_ERRORS
from mask_rcnn_tools.analyze.evaluation_data import TASKS
from mask_rcnn_tools.analyze.keypoint_errors import KEYPOINT_ERRORS, KINDS
from mask_rcnn_tools.analyze.mask_quality import mask_quality_by_size
from mask_rcnn_tools.analyze.results import Analysis

if TYPE_CHECKING:
    from mask_rcnn_tools.analyze.inputs import AnalysisInputs

_PLURAL = {"bbox": "boxes", "segm": "masks"}

_MOST_CLASSES = 20
"""Tables by class list at most this many classes, those with the lowest AP."""


def format_tables(analysis: Analysis, inputs: AnalysisInputs) -> str:
    """Formats all parts of an analysis for a terminal."""
    data = analysis.data
    crowd = int(data.annotations.crowd.sum())
    head = (
        f"{inputs.title}: {len(data.image_ids)} images, {len(data.annotations) - crowd} objects"
        + f", {crowd} crowd regions" * bool(crowd)
        + f", {len(data.detections)} detections"
    )
    parts = [
        head,
        *_error_tables(analysis),
        *_confusion_table(analysis),
        *_mask_tables(analysis),
        *_calibration_table(analysis),
        *_keypoint_tables(analysis),
        *_image_table(analysis),
        *analysis.notes,
    ]
    return "\n\n".join(parts)


def _table(header: Sequence[str], rows: Sequence[Sequence[object]], names: int = 1) -> str:
    """Formats a table whose first `names` columns are text."""
    text = [[_text(cell) for cell in row] for row in rows]
    align = ["left"] * names + ["right"] * (len(header) - names)
    return tabulate(text, headers=header, colalign=align, disable_numparse=True)


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return "-" if math.isnan(cell) else f"{cell:.1f}"
    return str(cell)


def _error_tables(analysis: Analysis) -> list[str]:
    if not analysis.errors:
        return []
    tasks = list(analysis.errors)
    header = ["error", "", *(f"{TASKS[t]} dAP" for t in tasks), *(f"{TASKS[t]} n" for t in tasks)]
    rows: list[list[object]] = [
        [
            name,
            MEANING[name],
            *(analysis.errors[t].delta[name] for t in tasks),
            *(analysis.errors[t].counts.get(name, "") for t in tasks),
        ]
        for name in (*MAIN_ERRORS, *SPECIAL_ERRORS)
    ]
    aps = ", ".join(f"{TASKS[t]} {analysis.errors[t].ap:.1f}" for t in tasks)
    title = (
        f"Error types (TIDE), AP at IoU {analysis.iou_threshold:g}: {aps}; dAP: gain if all errors "
        "of a type were fixed"
    )
    parts = [f"{title}\n\n{_table(header, rows, names=2)}"]
    errors = analysis.errors[tasks[-1]]
    classes = analysis.data.classes
    if len(classes) > 1:
        order = np.argsort(errors.class_ap, kind="stable")[:_MOST_CLASSES]  # NaN comes last
        shown = order if len(classes) > _MOST_CLASSES else np.arange(len(classes))
        rows = [
            [classes[i], errors.class_ap[i], *(errors.class_delta[n][i] for n in MAIN_ERRORS)]
            for i in shown.tolist()
        ]
        note = f", the {_MOST_CLASSES} lowest" * (len(classes) > _MOST_CLASSES)
        header = ["class", "AP", *MAIN_ERRORS]
        parts.append(f"dAP by class, {_PLURAL[tasks[-1]]}{note}\n\n{_table(header, rows)}")
    return parts


def _confusion_table(analysis: Analysis) -> list[str]:
    confusion = analysis.confusion
    if confusion is None:
        return []
    counts = confusion.counts
    objects, detections = int(counts[:-1].sum()), int(counts[:, :-1].sum())
    right = int(np.trace(counts[:-1, :-1]))
    title = (
        f"Confusions of {_PLURAL[analysis.data.best_task]}, score >= "
        f"{confusion.score_threshold:g}, IoU >= {confusion.iou_threshold:g}: of {objects} objects "
        f"{right} found with the right class, {int(counts[:-1, -1].sum())} not found; of "
        f"{detections} detections {int(counts[-1, :-1].sum())} on nothing"
    )
    pairs = confusion.confused()
    if not pairs:
        return [title]
    rows = [[f"{a} taken for {b}", count, 100 * share] for a, b, count, share in pairs]
    return [f"{title}\n\n{_table(['most frequent', 'n', '% of objects'], rows)}"]


def _mask_tables(analysis: Analysis) -> list[str]:
    if analysis.masks is None:
        return []
    rows: list[list[object]] = [
        [name, int(v["pairs"]), *(100 * v[key] for key in ("box_iou", "mask_iou", "boundary_iou"))]
        for name, v in mask_quality_by_size(analysis.masks).items()
    ]
    title = (
        f"Masks of detections whose box found an object (IoU >= {analysis.iou_threshold:g}): mean "
        "IoU in %"
    )
    header = ["objects", "n", "box", "mask", "boundary"]
    parts = [f"{title}\n\n{_table(header, rows)}"]
    names = [name for name in analysis.mask_ap if name != "per_class"]
    rows = [
        ["mask IoU", *(analysis.mask_ap[name] for name in names)],
        ["Boundary IoU", *(analysis.boundary_ap[name] for name in names)],
    ]
    parts.append(f"AP of masks by\n\n{_table(['', *names], rows)}")
    return parts


def _calibration_table(analysis: Analysis) -> list[str]:
    if not analysis.calibration:
        return []
    rows = []
    for task, values in analysis.calibration.items():
        best = analysis.threshold[task]
        numbers = (values.expected_error, values.largest_error)
        rows.append(
            [
                TASKS[task],
                *(f"{100 * v:.1f}" if math.isfinite(v) else "-" for v in numbers),
                "-" if math.isnan(best.score) else f"{best.score:.2f}",
                *(f"{100 * v:.1f}" for v in (best.f1, best.precision, best.recall)),
            ]
        )
    header = ["", "expected error", "largest", "best threshold", "F1", "precision", "recall"]
    return [
        f"Scores as probabilities, in %; the threshold with the best F1\n\n{_table(header, rows)}"
    ]


def _keypoint_tables(analysis: Analysis) -> list[str]:
    keypoints = analysis.keypoints
    if keypoints is None:
        return []
    counts = keypoints.counts()
    total = sum(values.sum() for values in counts.values())
    rows: list[list[object]] = [
        [
            name,
            int(counts[name].sum()),
            100 * float(counts[name].sum()) / max(int(total), 1),
            keypoints.delta[name] if name in KEYPOINT_ERRORS else "",
        ]
        for name in KINDS
    ]
    title = (
        f"Keypoints of {len(keypoints.detection)} persons found (OKS >= 0.1), AP "
        f"{keypoints.ap:.1f}; dAP: gain if all errors of a type were fixed"
    )
    parts = [f"{title}\n\n{_table(['keypoints', 'n', '%', 'dAP'], rows)}"]
    labelled = np.maximum(sum(counts.values()), 1)
    rows = [
        [name, *(100 * float(counts[kind][i]) / float(labelled[i]) for kind in KINDS)]
        for i, name in enumerate(keypoints.names)
    ]
    parts.append(f"What became of each keypoint, in %\n\n{_table(['', *KINDS], rows)}")
    return parts


def _image_table(analysis: Analysis) -> list[str]:
    scores = analysis.images
    if scores is None:
        return []
    rows = []
    for name, chosen in (("worst", scores.worst(3)), ("best", scores.best(3))):
        rows += [
            [
                name,
                scores.data.image_ids[i],
                100 * float(scores.quality[i]),
                int(scores.true[i]),
                int(scores.false[i]),
                int(scores.unfound[i]),
            ]
            for i in chosen
        ]
    title = (
        "Images by quality: IoU of what was found / (TP + FP/2 + FN/2) in %, of detections with "
        f"score >= {analysis.score_threshold:g}; mean {100 * float(np.nanmean(scores.quality)):.1f}"
        if np.isfinite(scores.quality).any()
        else "No image has objects or detections"
    )
    header = ["", "image", "quality", "TP", "FP", "FN"]
    return [f"{title}\n\n{_table(header, rows)}"]
