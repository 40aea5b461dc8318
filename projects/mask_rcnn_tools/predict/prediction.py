"""What a model finds in one image, as arrays.

Shapes: N objects, K keypoints, (H, W) size of the original image in pixels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import detection_utils
from detectron2.structures import BoxMode
from PIL import Image, UnidentifiedImageError

from mask_rcnn_repro.data.loading.images import read_image
from mask_rcnn_repro.errors import DataError
from mask_rcnn_tools.drawing.marks import Skeleton
from mask_rcnn_tools.drawing.painter import paint
from mask_rcnn_tools.drawing.results import ClassNames, proposal_marks, result_marks

Results = list[dict[str, Any]]
"""COCO results of one image in descending order of score."""


@dataclass(frozen=True)
class Prediction:
    """Objects of one image, in descending order of score. All arrays are in its original frame.

    Attributes:
        image: (H, W, 3) uint8 RGB, the image.
        results: The objects as COCO results; see :meth:`~.predictor.Predictor.predict`.
        class_names: Names and category ids of all classes.
        skeleton: Connections of keypoints, for :meth:`draw`.
        is_rpn: Whether the objects are proposals of an RPN stage.
    """

    image: np.ndarray
    results: Results
    class_names: ClassNames
    skeleton: Skeleton
    is_rpn: bool = False

    def __len__(self) -> int:
        return len(self.results)

    @property
    def boxes(self) -> np.ndarray:
        """(N, 4) x0, y0, x1, y1 in pixels."""
        boxes = np.array([result["bbox"] for result in self.results], float).reshape(-1, 4)
        corners: np.ndarray = BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
        return corners

    @property
    def scores(self) -> np.ndarray:
        """(N,) probabilities."""
        return np.array([result["score"] for result in self.results], float)

    @property
    def classes(self) -> list[str]:
        """N names of classes."""
        return [self.class_names.name(self.class_names.index(i)) for i in self.category_ids]

    @property
    def category_ids(self) -> list[int]:
        """N category ids of the data set."""
        return [int(result["category_id"]) for result in self.results]

    @property
    def masks(self) -> np.ndarray | None:
        """(N, H, W) bool; None if the model predicts no masks, or there is no object."""
        runs = [result["segmentation"] for result in self.results if "segmentation" in result]
        if not runs:
            return None
        masks: np.ndarray = mask_util.decode(runs).transpose(2, 0, 1).astype(bool)
        return masks

    @property
    def keypoints(self) -> np.ndarray | None:
        """(N, K, 3) x, y in pixels and score; None if the model predicts none, or no object."""
        found = [result["keypoints"] for result in self.results if "keypoints" in result]
        return np.array(found, float).reshape(len(found), -1, 3) if found else None

    def above(self, score: float) -> Prediction:
        """Returns the objects of at least this score."""
        kept = [result for result in self.results if result["score"] >= score]
        return Prediction(self.image, kept, self.class_names, self.skeleton, self.is_rpn)

    def draw(
        self,
        *,
        color_by: Literal["auto", "class", "instance"] = "auto",
        zoom: float | None = None,
    ) -> Image.Image:
        """Draws all objects with masks, names and scores.

        Args:
            color_by: "class", "instance", or "auto": by instance if there is only one class.
            zoom: Scale of the picture relative to the image. None enlarges small images.
        """
        if self.is_rpn:
            marks = proposal_marks(self.results)
        else:
            marks = result_marks(self.results, self.class_names, color_by)
        return Image.fromarray(paint(self.image, marks, skeleton=self.skeleton, zoom=zoom))


def read_picture(
    image: Any, wanted: str, channels: str = "BGR", bits: int | None = None
) -> np.ndarray:
    """Reads a file, or converts an image in memory.

    Args:
        image: Path of a file, or see :func:`pixels_of`.
        wanted: "BGR" or "RGB", the order of the output.
        channels: See :func:`pixels_of`.
        bits: Bits that 16-bit files are scaled from; None: 16.

    Returns:
        (H, W, 3) uint8, turned as EXIF says.

    Raises:
        DataError: The file does not exist or is no image, or see :func:`pixels_of`.
    """
    if not isinstance(image, str | os.PathLike):
        return pixels_of(image, channels, wanted)
    path = Path(image).expanduser()
    if not path.is_file():
        state = "is a directory" if path.is_dir() else "does not exist"
        raise DataError(f"The image {path} {state} (current directory: {Path.cwd()}).")
    try:
        return read_image({"file_name": str(path), "image_bits": bits}, wanted)
    except DataError as error:
        raise DataError(f"The image {path}: {reason_of(error, path)}") from error


def reason_of(error: DataError, path: Path) -> str:
    """The reason of an error of `read_image`, without advice about annotated images."""
    cause = error.__cause__
    if isinstance(cause, UnidentifiedImageError):
        return "not an image of a known format, or its beginning is damaged"
    if cause is not None:
        return f"cannot be decoded: {type(cause).__name__}: {cause}"
    return str(error).removeprefix(f"Image (without id), file {path}, ")


def pixels_of(image: Any, channels: str, wanted: str) -> np.ndarray:
    """Converts an image in memory to (H, W, 3) uint8.

    Args:
        image: PIL image of any mode of 8 bits, turned as its EXIF orientation says; or an array
            (H, W, 3) in the order `channels`, or gray (H, W), uint8.
        channels: "BGR" or "RGB".
        wanted: "BGR" or "RGB", the order of the output.

    Raises:
        DataError: It is neither, or an array of another shape or type.
    """
    if isinstance(image, Image.Image):
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            raise DataError(
                f"A PIL image of mode {image.mode} has no known range. Give the path of its file, "
                "or convert it to 8 bits."
            )
        turned = detection_utils._apply_exif_orientation(image)
        pixels: np.ndarray = detection_utils.convert_PIL_to_numpy(turned, wanted)
        return pixels
    if channels not in ("BGR", "RGB"):
        raise DataError(f"channels must be 'BGR' or 'RGB', got {channels!r}.")
    if not isinstance(image, np.ndarray):
        raise DataError(
            "Give a path, a PIL image or a NumPy array (H, W, 3) of uint8, or a list of these; got "
            f"{type(image).__name__}."
        )
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise DataError(
            "An array must be (H, W, 3) or (H, W), of uint8 from 0 to 255; got "
            f"{tuple(image.shape)} of {image.dtype}. A batch is a list of images."
        )
    return np.ascontiguousarray(image if channels == wanted else image[:, :, ::-1])
