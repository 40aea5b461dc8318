"""Pictures of the best and the worst images: annotations on the left, detections on the right.

Annotations are marked as found or missed, detections in the color of their error type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from mask_rcnn_repro.data.loading.images import read_image
from mask_rcnn_tools.analyze.error_types import CORRECT, DETECTION_ERRORS, MEANING
from mask_rcnn_tools.analyze.image_scores import ImageScores
from mask_rcnn_tools.analyze.plots import COLORS
from mask_rcnn_tools.drawing.colors import GREY, Color
from mask_rcnn_tools.drawing.files import failure_logged, write_picture
from mask_rcnn_tools.drawing.labels import legend, with_caption
from mask_rcnn_tools.drawing.marks import Kind, Mark
from mask_rcnn_tools.drawing.painter import paint
from mask_rcnn_tools.drawing.sheet import contact_sheet, side_by_side

_MIN_SIDE, _MAX_SIDE = 560, 900  # pixels of the longer side of a drawn image
_COLUMNS = 2  # of pairs on a sheet
_LETTERS = 13


def draw_images(
    scores: ImageScores, records: Sequence[Mapping[str, Any]], folder: Path, count: int
) -> list[Path]:
    """Draws the best and worst images, each in its own file and together on a sheet.

    Args:
        scores: Quality and errors.
        records: Dataset dicts by index of the image.
        folder: Directory of `best.png`, `worst.png`, `images/best_01_<id>.png` and so on.
        count: Maximum number of best and of worst images, at least 1.

    Returns:
        The sheets; none if no image has objects or detections. An image that cannot be drawn is
        logged and omitted.
    """
    files = []
    for name, chosen in (("worst", scores.worst(count)), ("best", scores.best(count))):
        pictures = []
        for rank, index in enumerate(chosen, start=1):
            identity = str(records[index]["image_id"])
            with failure_logged(f"Image {identity}"):
                picture = draw_image(scores, index, records[index])
                safe = "".join(c if c.isalnum() else "_" for c in identity)
                write_picture(folder / "images" / f"{name}_{rank:02}_{safe}.png", picture)
                pictures.append(picture)
        if not pictures:
            continue
        with failure_logged(f"{name}.png"):
            sheet = contact_sheet(pictures, columns=min(_COLUMNS, len(pictures)))
            file = folder / f"{name}.png"
            write_picture(file, np.concatenate([sheet, _legend(sheet.shape[1])]))
            files.append(file)
    return files


def draw_image(scores: ImageScores, index: int, record: Mapping[str, Any]) -> np.ndarray:
    """Draws the annotations and the detections of one image side by side.

    Args:
        scores: Quality and errors.
        index: Index of the image.
        record: Dataset dict of the image.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    image = read_image(record, "RGB")
    longest = max(image.shape[:2])
    zoom = min(max(longest, _MIN_SIDE), _MAX_SIDE) / longest
    quality = (
        f"{record['image_id']}: quality {100 * scores.quality[index]:.0f}, "
        f"{scores.true[index]} right, {scores.false[index]} wrong, "
        f"{scores.unfound[index]} not found"
    )
    panels = [
        paint(image, _annotation_marks(scores, index), zoom=zoom),
        paint(image, _detection_marks(scores, index), zoom=zoom),
    ]
    pair = side_by_side(panels, 6)
    return with_caption(pair, [f"{quality}. Left: annotations, right: predictions"], _LETTERS)


def _annotation_marks(scores: ImageScores, index: int) -> list[Mark]:
    truth, matches = scores.data.annotations, scores.errors.matches
    masks = truth.masks if scores.errors.task == "segm" else None
    marks = []
    for i in np.flatnonzero(truth.image == index).tolist():
        color = _color("correct" if matches.detection[i] >= 0 else "Miss")
        label = scores.data.classes[truth.category[i]]
        kind: Kind = "object"
        if truth.crowd[i] or (masks and not truth.masked[i]):
            color, label, kind = GREY, "crowd" if truth.crowd[i] else "no mask", "crowd"
        mask = masks[i] if masks and truth.masked[i] else None
        marks.append(_mark(color, truth.boxes[i], mask, label, kind))
    return marks


def _detection_marks(scores: ImageScores, index: int) -> list[Mark]:
    found, errors = scores.data.detections, scores.errors
    masks = found.masks if errors.task == "segm" else None
    marks = []
    for i in np.flatnonzero(found.image == index).tolist():
        code = int(errors.kind[i])
        name = "correct" if code == CORRECT else DETECTION_ERRORS[code]
        color = _color(name)
        label = f"{scores.data.classes[found.category[i]]} {100 * found.score[i]:.0f}"
        if errors.matches.ignored[i]:
            color, label = GREY, f"{label} in crowd"
        elif code != CORRECT:
            label = f"{label} {name}"
        marks.append(_mark(color, found.boxes[i], masks and masks[i], label))
    return marks


def _mark(color: Color, box: np.ndarray, rle: Any, label: str, kind: Kind = "object") -> Mark:
    left, top, width, height = box.tolist()
    mask = mask_util.decode(rle).astype(bool) if rle else None
    return Mark(color, (left, top, left + width, top + height), mask, None, label, kind)


def _color(name: str) -> Color:
    red, green, blue = bytes.fromhex(COLORS[name][1:])
    return red, green, blue


def _legend(width: int) -> np.ndarray:
    texts = {"correct": "found, right", "Miss": "not found"}
    texts.update({name: f"{name}: {MEANING[name]}" for name in DETECTION_ERRORS})
    return legend([(_color(name), text) for name, text in texts.items()], width, _LETTERS)
