"""From COCO results and annotations to marks, with names and colours of the classes.

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
        names: In the order of the model's classes; empty: not known.
        category_ids: Of the annotations, in the same order.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]

    @staticmethod
    def of(metadata: Any) -> ClassNames:
        """Those of a data set, from Detectron2's metadata.

        Without ids in the metadata they are counted from 1.

        Raises:
            DataError: A data set whose files are missing and without which they are not known.
        """
        names = tuple(metadata.get("thing_classes") or ())
        mapping = metadata.get("thing_dataset_id_to_contiguous_id")
        if not mapping:
            return ClassNames(names, tuple(range(1, len(names) + 1)))
        return ClassNames(names, tuple(sorted(mapping, key=lambda category: mapping[category])))

    def name(self, index: int) -> str:
        """Name of a class of the model."""
        return self.names[index] if index < len(self.names) else f"class {index}"

    def index(self, category_id: int) -> int:
        """The model's class of a category id."""
        return self.category_ids.index(category_id)

    def color(self, index: int, instance: int, by: ColorBy = "auto") -> Color:
        """Colour of an instance; "auto" goes by class, or by instance where there is one class."""
        per_class = by == "class" or (by == "auto" and len(self.names) != 1)
        return color_of(index if per_class else instance)


def result_marks(
    results: Sequence[Mapping[str, Any]], classes: ClassNames, color_by: ColorBy = "auto"
) -> list[Mark]:
    """Marks of COCO results, labelled with class and score, those of high scores first.

    Args:
        results: R results of one image: `category_id` (the data set's), `bbox` XYWH, `score`;
            maybe `segmentation` and `keypoints`, whose places are indices of pixels.
        classes: Of the data set.
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
    """Marks of proposals: boxes, bright for high scores, labelled with the score."""
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
    """Marks of annotations in Detectron2's dataset format, crowd regions hatched.

    Args:
        annotations: With `bbox`, `bbox_mode`, `category_id` (the model's class); maybe
            `segmentation`, `keypoints`, `iscrowd`, `score`.
        classes: Of the data set.
        size: H, W of the image.
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
    """One mark of an annotation in Detectron2's dataset format; H, W of the image as `size`."""
    box = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)
    x0, y0, x1, y1 = (float(v) for v in box)
    points = annotation.get("keypoints")
    keypoints = None if points is None else np.array(points, dtype=np.float64).reshape(-1, 3)
    mask = decoded(annotation.get("segmentation"), *size[:2])
    return Mark(color, (x0, y0, x1, y1), mask, keypoints, label, kind)


def decoded(segmentation: Any, height: int, width: int) -> np.ndarray | list[np.ndarray] | None:
    """A mask as :class:`Mark` takes it.

    Args:
        segmentation: Polygons, run lengths (compressed or not) or an (H, W) array; None: none.
        height: H, of uncompressed run lengths.
        width: W, of the same.

    Returns:
        Polygons as float arrays, or (H, W) bool.
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
    """A score in percent, as Detectron2 shows it."""
    return f"{100 * score:.0f}%"
