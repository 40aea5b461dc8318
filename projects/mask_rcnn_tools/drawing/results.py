"""Conversion of COCO results and annotations to marks.

Shapes: R results of an image, K keypoints, (H, W) size of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BoxMode

from mask_rcnn_tools.drawing.colors import GREY, Color, color_of
from mask_rcnn_tools.drawing.marks import Kind, Mark

ColorBy = Literal["auto", "class", "instance"]


@dataclass(frozen=True)
class ClassNames:
    """The classes of a data set.

    Attributes:
        names: Names in the order of the model's classes; empty if unknown.
        category_ids: Category ids of the annotations in the same order.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]

    @staticmethod
    def of(metadata: Any) -> ClassNames:
        """Reads them from Detectron2's metadata. Ids default to 1, 2, ...

        Raises:
            DataError: The files of the data set are needed and missing.
        """
        names = tuple(metadata.get("thing_classes") or ())
        mapping = metadata.get("thing_dataset_id_to_contiguous_id")
        if not mapping:
            return ClassNames(names, tuple(range(1, len(names) + 1)))
        return ClassNames(names, tuple(sorted(mapping, key=lambda category: mapping[category])))

    def name(self, index: int) -> str:
        """Returns the name of a class of the model."""
        return self.names[index] if index < len(self.names) else f"class {index}"

    def index(self, category_id: int) -> int:
        """Returns the model's class of a category id."""
        return self.category_ids.index(category_id)

    def color(self, index: int, instance: int, by: ColorBy = "auto") -> Color:
        """Returns the color of an instance; "auto" is by instance if there is one class."""
        per_class = by == "class" or (by == "auto" and len(self.names) != 1)
        return color_of(index if per_class else instance)


def result_marks(
    results: Sequence[Mapping[str, Any]], classes: ClassNames, color_by: ColorBy = "auto"
) -> list[Mark]:
    """Converts COCO results to marks with class and score, in descending order of score.

    Args:
        results: R results of one image: `category_id` (of the data set), `bbox` XYWH, `score`, and
            optionally `segmentation` and `keypoints` (pixel indices).
        classes: Classes of the data set.
        color_by: See :meth:`ClassNames.color`.
    """
    ordered = sorted(results, key=lambda result: -result["score"])
    marks = []
    for number, result in enumerate(ordered):
        index = classes.index(result["category_id"])
        x, y, width, height = (float(v) for v in result["bbox"])
        keypoints = None
        if "keypoints" in result:
            keypoints = np.array(result["keypoints"], dtype=np.float64).reshape(-1, 3)
            keypoints[:, :2] += 0.5
        marks.append(
            Mark(
                classes.color(index, number, color_by),
                (x, y, x + width, y + height),
                decoded(result.get("segmentation"), 0, 0),
                keypoints,
                f"{classes.name(index)} {score_text(result['score'])}",
            )
        )
    return marks


def proposal_marks(results: Sequence[Mapping[str, Any]]) -> list[Mark]:
    """Converts proposals to marks with scores, in descending order of score."""
    marks = []
    for number, result in enumerate(sorted(results, key=lambda result: -result["score"])):
        x, y, width, height = (float(v) for v in result["bbox"])
        label = score_text(result["score"])
        box = (x, y, x + width, y + height)
        marks.append(Mark(color_of(number), box, label=label, kind="proposal"))
    return marks


def annotation_marks(
    annotations: Sequence[Mapping[str, Any]],
    classes: ClassNames,
    size: tuple[int, ...],
    color_by: ColorBy = "auto",
) -> list[Mark]:
    """Converts annotations in Detectron2's dataset format to marks.

    Args:
        annotations: `bbox`, `bbox_mode`, `category_id` (the model's class), and optionally
            `segmentation`, `keypoints`, `iscrowd`, `score`.
        classes: Classes of the data set.
        size: (H, W) of the image.
        color_by: See :meth:`ClassNames.color`.
    """
    marks = []
    for number, annotation in enumerate(annotations):
        index = int(annotation["category_id"])
        color, label, kind = classes.color(index, number, color_by), classes.name(index), "object"
        if annotation.get("iscrowd", 0):
            color, label, kind = GREY, f"{label} crowd", "crowd"
        elif "score" in annotation:
            label = f"{label} {score_text(annotation['score'])}"
        marks.append(annotation_mark(annotation, color, label, size, kind))  # type: ignore[arg-type]
    return marks


def annotation_mark(
    annotation: Mapping[str, Any], color: Color, label: str, size: Sequence[int], kind: Kind
) -> Mark:
    """Converts one annotation in Detectron2's dataset format; `size` is (H, W) of the image."""
    box = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)
    x0, y0, x1, y1 = (float(v) for v in box)
    points = annotation.get("keypoints")
    keypoints = None if points is None else np.array(points, dtype=np.float64).reshape(-1, 3)
    mask = decoded(annotation.get("segmentation"), *size[:2])
    return Mark(color, (x0, y0, x1, y1), mask, keypoints, label, kind)


def decoded(segmentation: Any, height: int, width: int) -> np.ndarray | list[np.ndarray] | None:
    """Converts a mask to the form of :attr:`Mark.mask`.

    Args:
        segmentation: Polygons, RLE (compressed or not), an (H, W) array, or None.
        height: H, for uncompressed RLE.
        width: W, for uncompressed RLE.

    Returns:
        Polygons as float arrays, or (H, W) bool, or None.
    """
    if segmentation is None or len(segmentation) == 0:
        return None
    if isinstance(segmentation, Mapping):
        rle: Any = segmentation
        if isinstance(rle["counts"], list):
            rle = mask_util.frPyObjects(dict(rle), height, width)
        return np.asarray(mask_util.decode(rle)).astype(bool)
    if isinstance(segmentation, np.ndarray) and segmentation.ndim == 2:
        return segmentation.astype(bool)
    return [np.asarray(polygon, dtype=np.float64).reshape(-1) for polygon in segmentation]


def score_text(score: float) -> str:
    """Formats a score in percent, as Detectron2 does."""
    return f"{100 * score:.0f}%"
