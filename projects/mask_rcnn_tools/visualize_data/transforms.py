"""Recording, describing and repeating augmentations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from mask_rcnn_repro.errors import ConfigError

TRANSFORMS, ANNOTATIONS = "transforms", "annotations"
"""Keys that :class:`RecordingMapper` adds to what its mapper returns."""


class RecordingMapper:
    """Mapper that adds the applied transforms and the annotations to its result.

    Args:
        mapper: Mapper with ``augmentations``, as Detectron2's. It is changed.

    Raises:
        ConfigError: The mapper has no ``augmentations``.
    """

    def __init__(self, mapper: Any) -> None:
        if not callable(getattr(mapper, "augmentations", None)):
            raise ConfigError(
                f"The mapper is a {type(mapper).__name__}, which has no `augmentations`. Use a "
                "MaskRCNNMapper or another DatasetMapper of Detectron2."
            )
        self._mapper = mapper
        self._augment: Callable[[Any], T.TransformList] = mapper.augmentations
        self._last: T.TransformList | None = None
        mapper.augmentations = self._augment_and_keep

    def _augment_and_keep(self, image: Any) -> T.TransformList:
        self._last = self._augment(image)
        return self._last

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_mapper"], name)

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Returns the result of the mapper with two more keys."""
        mapped: dict[str, Any] = dict(self._mapper(record))
        mapped[TRANSFORMS] = self._last
        mapped[ANNOTATIONS] = list(record.get("annotations", ()))
        return mapped


def transform_words(transforms: T.TransformList) -> list[str]:
    """Describes transforms in order. Omits those without an effect."""
    words = [_words(transform) for transform in transforms.transforms]
    return [text for text in words if text]


def _words(transform: Any) -> str:
    t = transform
    if isinstance(t, T.NoOpTransform):
        return ""
    if isinstance(t, T.ResizeTransform):
        same = (t.h, t.w) == (t.new_h, t.new_w)
        return "" if same else f"resized x {t.new_h / t.h:.3g}"
    if isinstance(t, T.HFlipTransform):
        return "mirrored"
    if isinstance(t, T.VFlipTransform):
        return "upside down"
    if isinstance(t, T.CropTransform):
        return f"cropped to {t.w} x {t.h} at ({t.x0}, {t.y0})"
    if isinstance(t, T.RotationTransform):
        return f"rotated by {t.angle:.3g} degrees"
    if isinstance(t, T.BlendTransform):
        towards = np.round(np.mean(np.asarray(t.src_image, dtype=np.float64)), 1)
        return f"x {t.dst_weight:.3g} + {t.src_weight:.3g} x (mean {towards:g})"
    return _any_words(t)


def _any_words(transform: Any) -> str:
    """Returns the class name with all numbers and texts of the transform."""
    name = type(transform).__name__.removesuffix("Transform")
    facts = [
        f"{key}={value:.4g}" if isinstance(value, Real) else f"{key}={value}"
        for key, value in vars(transform).items()
        if isinstance(value, (Real, str)) and not key.startswith("_")
    ]
    return f"{name}({', '.join(facts)})"


def transform_annotation(
    annotation: Mapping[str, Any],
    transforms: T.TransformList,
    size: tuple[int, int],
    keypoint_flip_indices: np.ndarray | None = None,
) -> dict[str, Any]:
    """Applies the transforms of an image to a copy of an annotation.

    Args:
        annotation: Annotation in Detectron2's dataset format.
        transforms: Transforms of the image.
        size: (H, W) of the transformed image.
        keypoint_flip_indices: See Detectron2's function; None omits keypoints.

    Returns:
        The annotation in absolute XYXY, with RLE converted to an (H, W) array.
    """
    moved = copy.deepcopy(dict(annotation))
    box = BoxMode.convert(list(moved["bbox"]), moved["bbox_mode"], BoxMode.XYXY_ABS)
    moved.update(bbox=[float(v) for v in box], bbox_mode=BoxMode.XYXY_ABS)
    if not moved.get("segmentation"):
        moved.pop("segmentation", None)
    elif isinstance(moved["segmentation"], list):
        polygons = [np.asarray(p, dtype=np.float64) for p in moved["segmentation"]]
        moved["segmentation"] = polygons
    if keypoint_flip_indices is None:
        moved.pop("keypoints", None)
    elif "keypoints" in moved:
        moved["keypoints"] = np.asarray(moved["keypoints"], dtype=np.float64)
    result: dict[str, Any] = detection_utils.transform_instance_annotations(
        moved, transforms, size, keypoint_hflip_indices=keypoint_flip_indices
    )
    return result
