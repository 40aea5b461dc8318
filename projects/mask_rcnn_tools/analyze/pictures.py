"""The best and the worst images, with every mistake marked by its type.

Left the annotations: found ones and missed ones; right the detections, in the colour of their
error type. Coordinates are XYWH pixels of the original image until they are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import detection_utils as utils
from pycocotools import mask as mask_util

from mask_rcnn_tools.analyze.error_types import CORRECT, DETECTION_ERRORS, MEANING
from mask_rcnn_tools.analyze.image_scores import ImageScores
from mask_rcnn_tools.analyze.plots import COLOURS

_LEAST, _MOST = 560, 900  # length of the longer side of an image as drawn, pixels
_COLUMNS = 2  # of pairs on a sheet
_BAR = 26
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_CROWD = "#B0B0B0"


def draw_images(
    scores: ImageScores, records: Sequence[Mapping[str, Any]], folder: Path, count: int
) -> list[Path]:
    """Draws the best and worst images, each on its own and together on a sheet.

    Args:
        scores: quality and errors.
        records: the data set's dicts, by index of the image.
        folder: gets `best.png`, `worst.png` and `images/best_01_<id>.png` and so on.
        count: of best and of worst images, at most; at least 1.

    Returns:
        The sheets and pictures written; none where no image has objects or detections.
    """
    files = []
    (folder / "images").mkdir(exist_ok=True)
    for name, chosen in (("worst", scores.worst(count)), ("best", scores.best(count))):
        pictures = []
        for rank, index in enumerate(chosen, start=1):
            picture = draw_image(scores, index, records[index])
            safe = "".join(c if c.isalnum() else "_" for c in str(records[index]["image_id"]))
            cv2.imwrite(str(folder / "images" / f"{name}_{rank:02}_{safe}.png"), picture)
            pictures.append(picture)
        if pictures:
            files.append(folder / f"{name}.png")
            cv2.imwrite(str(files[-1]), _sheet(pictures))
    return files


def draw_image(scores: ImageScores, index: int, record: Mapping[str, Any]) -> np.ndarray:
    """Draws one image: annotations on the left, detections on the right.

    Args:
        scores: quality and errors.
        index: of the image.
        record: the image's dict.

    Returns:
        uint8 BGR (H', W', 3).
    """
    image = utils.read_image(record["file_name"], "BGR")
    longest = max(image.shape[:2])
    scale = min(max(longest, _LEAST), _MOST) / longest
    way = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=way)
    quality = (
        f"{record['image_id']}: quality {100 * scores.quality[index]:.0f}, "
        f"{scores.true[index]} right, {scores.false[index]} wrong, "
        f"{scores.unfound[index]} not found"
    )
    panels = [
        _titled(_truth_panel(scores, index, image, scale), quality),
        _titled(_found_panel(scores, index, image, scale), "predictions"),
    ]
    gap = np.full((panels[0].shape[0], 6, 3), 255, np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], axis=1)


def _truth_panel(scores: ImageScores, index: int, image: np.ndarray, scale: float) -> np.ndarray:
    truth, matches = scores.material.truth, scores.errors.matches
    panel = _Panel(image, scale)
    for i in np.flatnonzero(truth.image == index).tolist():
        if truth.crowd[i]:
            colour, label = _CROWD, "crowd"
        else:
            found = matches.detection[i] >= 0
            colour = COLOURS["correct" if found else "Miss"]
            label = scores.material.classes[truth.category[i]]
        mask = truth.masks[i] if scores.errors.task == "segm" and truth.masks else None
        panel.add(truth.boxes[i], mask, colour, label)
    return panel.finish()


def _found_panel(scores: ImageScores, index: int, image: np.ndarray, scale: float) -> np.ndarray:
    found, errors = scores.material.found, scores.errors
    panel = _Panel(image, scale)
    for i in np.flatnonzero(found.image == index).tolist()[::-1]:  # the highest score on top
        kind = int(errors.kind[i])
        name = "correct" if kind == CORRECT else DETECTION_ERRORS[kind]
        colour = COLOURS[name]
        label = f"{scores.material.classes[found.category[i]]} {100 * found.score[i]:.0f}"
        if errors.matches.ignored[i]:
            colour, label = _CROWD, f"{label} in crowd"
        elif kind != CORRECT:
            label = f"{label} {name}"
        mask = found.masks[i] if errors.task == "segm" and found.masks else None
        panel.add(found.boxes[i], mask, colour, label)
    return panel.finish()


class _Panel:
    """One drawing: outlines first, then all labels where they do not cover each other."""

    def __init__(self, image: np.ndarray, scale: float) -> None:
        # paler, so that lines stand out
        self._image = cv2.addWeighted(image, 0.75, np.full_like(image, 255), 0.25, 0)
        self._scale = scale
        self._labels: list[tuple[tuple[int, int], str, tuple[int, int, int]]] = []

    def add(self, box: np.ndarray, mask: dict[str, Any] | None, colour: str, label: str) -> None:
        """Draws a mask's outline and fill, or a box without one."""
        bgr = _bgr(colour)
        left, top, width, height = (box * self._scale).round().astype(int).tolist()
        if mask is None:
            cv2.rectangle(self._image, (left, top), (left + width, top + height), bgr, 2)
        else:
            pixels = cv2.resize(
                mask_util.decode(mask), self._image.shape[1::-1], interpolation=cv2.INTER_NEAREST
            )
            inside = pixels > 0
            self._image[inside] = (0.7 * self._image[inside] + 0.3 * np.array(bgr)).astype(np.uint8)
            outline, _ = cv2.findContours(pixels, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(self._image, outline, -1, bgr, 2, cv2.LINE_AA)
        self._labels.append(((left, top), label, bgr))

    def finish(self) -> np.ndarray:
        """Writes the labels and returns the picture."""
        taken: list[tuple[int, int, int, int]] = []
        for (left, top), label, bgr in self._labels[::-1]:
            (width, height), _ = cv2.getTextSize(label, _FONT, 0.42, 1)
            width, height = width + 6, height + 7
            left = max(0, min(left, self._image.shape[1] - width))
            lowest = self._image.shape[0] - height
            place = next(
                (
                    y
                    for y in range(max(0, min(top, lowest)), lowest + 1, 4)
                    if not any(_touch((left, y, width, height), other) for other in taken)
                ),
                max(0, min(top, lowest)),
            )
            taken.append((left, place, width, height))
            corner = (left + width, place + height)
            cv2.rectangle(self._image, (left, place), corner, bgr, cv2.FILLED)
            dark = sum(bgr) < 330
            text = (255, 255, 255) if dark else (0, 0, 0)
            at = (left + 3, place + height - 4)
            cv2.putText(self._image, label, at, _FONT, 0.42, text, 1, cv2.LINE_AA)
        return self._image


def _touch(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return all(one[i] < other[i] + other[i + 2] and other[i] < one[i] + one[i + 2] for i in (0, 1))


def _bgr(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return blue, green, red


def _titled(image: np.ndarray, title: str) -> np.ndarray:
    bar = np.full((_BAR, image.shape[1], 3), 255, np.uint8)
    width = cv2.getTextSize(title, _FONT, 0.45, 1)[0][0]
    size = min(0.45, 0.45 * (image.shape[1] - 8) / max(width, 1))
    cv2.putText(bar, title, (4, 18), _FONT, size, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([bar, image], axis=0)


def _sheet(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures in columns, and a legend below."""
    width = max(picture.shape[1] for picture in pictures) + 16
    columns = min(_COLUMNS, len(pictures))
    rows = []
    for first in range(0, len(pictures), columns):
        row = pictures[first : first + columns]
        height = max(picture.shape[0] for picture in row) + 14
        padded = np.concatenate([_padded(picture, width, height) for picture in row], axis=1)
        rows.append(_padded(padded, columns * width, height))
    return np.concatenate([*rows, _legend(columns * width)])


def _padded(image: np.ndarray, width: int, height: int) -> np.ndarray:
    result = np.full((height, width, 3), 255, np.uint8)
    result[: image.shape[0], : image.shape[1]] = image
    return result


def _legend(width: int) -> np.ndarray:
    entries = {"correct": "found, right", "Miss": "not found"}
    entries.update({name: f"{name}: {MEANING[name]}" for name in DETECTION_ERRORS})
    rows, left = [np.full((_BAR, width, 3), 255, np.uint8)], 6
    for name, text in entries.items():
        length = cv2.getTextSize(text, _FONT, 0.45, 1)[0][0]
        if left + length + 24 > width and left > 6:
            rows.append(np.full((_BAR, width, 3), 255, np.uint8))
            left = 6
        cv2.rectangle(rows[-1], (left, 7), (left + 14, 20), _bgr(COLOURS[name]), cv2.FILLED)
        cv2.putText(rows[-1], text, (left + 20, 18), _FONT, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        left += length + 42
    return np.concatenate(rows)
