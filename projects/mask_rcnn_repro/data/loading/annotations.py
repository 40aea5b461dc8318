"""Transforms all annotations of an image at once and converts them to ``Instances``.

Detectron2 transforms one instance at a time, with a dozen small calls for each. Its transforms take
arrays of boxes and of points. One call for all instances gives the same numbers.

Shapes: N instances; boxes (N, 4) XYXY in pixels of the augmented image.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import Boxes, BoxMode, Instances, Keypoints

from mask_rcnn_repro.data.loading.polygons import PolygonArrays

# Transforms that move each point by itself: those of several polygons may go together. Exact types,
# as a subclass may cut polygons, say.
_POINTWISE = frozenset(
    {T.ResizeTransform, T.HFlipTransform, T.VFlipTransform, T.NoOpTransform, T.BlendTransform}
)


def transform_to_instances(
    annotations: Sequence[dict[str, Any]],
    transforms: T.TransformList,
    image_shape: tuple[int, int],
    keypoint_hflip_indices: np.ndarray | None = None,
) -> Instances:
    """Replaces ``transform_instance_annotations`` and ``annotations_to_instances``.

    Args:
        annotations: In Detectron2's format, with lists of numbers as boxes, and with arrays of
            their own as polygons and keypoints, which are written to.
        transforms: Transforms of the image.
        image_shape: Height and width of the augmented image.
        keypoint_hflip_indices: As for Detectron2's function.

    Returns:
        Instances with ``gt_boxes`` (clipped to the image), ``gt_classes`` and, where annotations
        have them, ``gt_masks`` (polygons, or bit masks if any mask is given as run lengths) and
        ``gt_keypoints``. Without any annotation, only the first two.
    """
    instances = Instances(image_shape)
    instances.gt_boxes = Boxes(_boxes(annotations, transforms, image_shape))
    classes = [int(annotation["category_id"]) for annotation in annotations]
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    if annotations and "segmentation" in annotations[0]:
        masks = [annotation["segmentation"] for annotation in annotations]
        instances.gt_masks = _masks(masks, transforms, image_shape)
    if annotations and "keypoints" in annotations[0]:
        moved = [
            detection_utils.transform_keypoint_annotations(
                annotation["keypoints"], transforms, image_shape, keypoint_hflip_indices
            )
            for annotation in annotations
        ]
        instances.gt_keypoints = Keypoints(np.stack(moved))
    return instances


def _boxes(
    annotations: Sequence[dict[str, Any]], transforms: T.TransformList, image_shape: tuple[int, int]
) -> np.ndarray:
    """(N, 4) float64. Sides become corners in float32, as ``BoxMode.convert`` does with lists."""
    if not annotations:
        return np.zeros((0, 4))
    modes = {annotation["bbox_mode"] for annotation in annotations}
    if modes <= {BoxMode.XYXY_ABS, BoxMode.XYWH_ABS}:
        boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64)
        sides = np.array([a["bbox_mode"] == BoxMode.XYWH_ABS for a in annotations])
        single = boxes[sides].astype(np.float32)
        boxes[sides] = BoxMode.convert(single, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    else:
        boxes = np.array(
            [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
        )
    height, width = image_shape
    moved = transforms.apply_box(boxes).clip(min=0)
    return np.minimum(moved, [width, height, width, height])


def _masks(masks: list[Any], transforms: T.TransformList, image_shape: tuple[int, int]) -> Any:
    """Returns polygon masks, or bit masks if any mask is not given as polygons."""
    polygons = all(isinstance(mask, list) for mask in masks)
    if polygons and all(type(t) in _POINTWISE for t in transforms.transforms):
        flat = list(itertools.chain.from_iterable(masks))
        if flat and all(len(p) >= 6 and len(p) % 2 == 0 for p in flat):
            points = transforms.apply_coords(np.concatenate(flat).reshape(-1, 2))
            lengths, counts = [len(p) // 2 for p in flat], [len(mask) for mask in masks]
            return PolygonArrays.from_points(points, lengths, counts)
    # one by one with Detectron2's functions, with boxes that do not matter
    annotations = []
    box = {"bbox": [0.0, 0.0, 1.0, 1.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    for mask in masks:
        annotation: dict[str, Any] = {**box, "segmentation": mask}
        detection_utils.transform_instance_annotations(annotation, transforms, image_shape)
        mask = annotation["segmentation"]
        if isinstance(mask, np.ndarray) and not mask.flags.writeable:
            annotation["segmentation"] = mask.copy()  # resized by PIL; torch wants its own
        annotations.append(annotation)
    instances = detection_utils.annotations_to_instances(
        annotations, image_shape, mask_format="polygon" if polygons else "bitmask"
    )
    return PolygonArrays(instances.gt_masks.polygons) if polygons else instances.gt_masks
