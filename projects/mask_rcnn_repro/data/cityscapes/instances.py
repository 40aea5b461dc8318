"""Reads the instances of one Cityscapes image from its annotation files.

Shapes: instance ids (H, W) uint16, see :mod:`mask_rcnn_repro.data.cityscapes.labels`. Boxes are
tight, absolute XYXY in continuous pixel coordinates: a single pixel in column x and row y has the
box (x, y, x + 1, y + 1).

The official scripts' function draws polygons in the order of their file, later ones over earlier
ones. The visible part of an object is its mask. The ``instanceIds`` files were drawn in the same
way, and both sources give the same pixels (up to the version of the drawing library).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from mask_rcnn_repro.data.cityscapes.labels import (
    LABEL_TO_CLASS,
    check_ids,
    is_group,
    is_known_name,
    label_id,
)
from mask_rcnn_repro.data.cityscapes.mask_outlines import mask_to_polygons
from mask_rcnn_repro.errors import DataError

Masks = Literal["instance_ids", "polygons"]

_IDS_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


class Instance(NamedTuple):
    """One instance or group."""

    category_id: int  # contiguous
    iscrowd: int  # 1 for groups
    bbox: list[int]  # x1, y1, x2, y2 in pixels, tight
    segmentation: str | list[list[int]]  # compressed run lengths, or polygons


def image_size(image_file: str) -> tuple[int, int]:
    """Returns height and width from an image's header; DataError where it cannot be read."""
    with _explained(image_file), Image.open(image_file) as image:
        return image.height, image.width


def read_instance_ids(file: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Reads a 16-bit PNG of instance ids.

    Args:
        file: The ``instanceIds`` PNG.
        size: Height and width of the image that it annotates. None: any.

    Returns:
        (H, W) uint16.

    Raises:
        DataError: The file is missing, truncated, not 16 bit or of another size, or it has ids of
            unknown labels or train ids.
    """
    with _explained(file), Image.open(file) as image:
        image.verify()  # all checksums, which decoding skips; the file must be opened anew
    with _explained(file), Image.open(file) as image:
        if image.mode not in _IDS_MODES:
            raise DataError(
                f"{file} is an image of mode {image.mode!r}, but instance ids (1000 * label id + "
                "number) need one channel of 16 bits. A labelIds or color file was taken for an "
                "instanceIds file, or a tool has converted it: fetch it again, or write it with "
                "cityscapesscripts' json2instanceImg."
            )
        ids = np.asarray(image).astype(np.uint16)
    _check_size(file, ids.shape, size or ids.shape)
    return _check_ids(file, ids)


def draw_polygons(file: str, size: tuple[int, int]) -> np.ndarray:
    """Draws a polygon file as the official scripts do.

    Args:
        file: The ``polygons`` json.
        size: See :func:`read_instance_ids`.

    Returns:
        Instance ids (H, W) uint16.

    Raises:
        DataError: The file is missing, broken or of another size, or it has unknown labels.
    """
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2instanceImg import createInstanceImage

    with _explained(file), open(file, encoding="utf-8-sig") as stream:
        text = stream.read()
    content = _check_polygons(file, text)
    _check_size(file, (content["imgHeight"], content["imgWidth"]), size)
    annotation = Annotation()
    with _explained(file), contextlib.redirect_stdout(io.StringIO()):
        annotation.fromJsonText(text)
        image = createInstanceImage(annotation, "ids")
    return _check_ids(file, np.asarray(image).astype(np.uint16))


READERS: dict[str, Callable[[str, tuple[int, int]], np.ndarray]] = {
    "instance_ids": read_instance_ids,
    "polygons": draw_polygons,
}


def find_instances(ids: np.ndarray, masks: Masks) -> list[Instance]:
    """Finds the instances and groups of evaluated classes in an image of instance ids.

    Args:
        ids: (H, W) uint16.
        masks: `"instance_ids"` for run lengths, `"polygons"` for polygons; the same pixels.

    Returns:
        Instances in the order of the ids. None is empty.
    """
    height, width = ids.shape
    wanted = np.zeros(2**16, bool)
    present = np.flatnonzero(np.bincount(ids.ravel(), minlength=2**16))
    wanted[[value for value in present if label_id(int(value)) in LABEL_TO_CLASS]] = True
    # In column order, the order of run lengths: column by column, each from the top.
    columns, rows = np.nonzero(wanted[ids.T])
    values = ids[rows, columns]
    order = np.argsort(values, kind="stable")
    values, columns, rows = values[order], columns[order], rows[order]
    edges = np.flatnonzero(np.diff(values.astype(np.int32), prepend=-1, append=-1))
    instances = []
    for begin, end in itertools.pairwise(edges):
        x, y, value = columns[begin:end], rows[begin:end], int(values[begin])
        x1, y1, x2, y2 = int(x[0]), int(y.min()), int(x[-1]) + 1, int(y.max()) + 1
        segmentation: str | list[list[int]]
        if masks == "polygons":
            segmentation = mask_to_polygons(ids[y1:y2, x1:x2] == value, x1, y1)
        else:
            segmentation = _run_lengths(x * height + y, height, width)
        category = LABEL_TO_CLASS[label_id(value)]
        instances.append(Instance(category, int(is_group(value)), [x1, y1, x2, y2], segmentation))
    return instances


def ids_digest(ids: np.ndarray) -> str:
    """Returns a SHA-256 of the annotation itself: it depends on neither file names nor formats."""
    digest = hashlib.sha256(f"{ids.shape[0]}x{ids.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(ids, dtype="<u2").tobytes())
    return digest.hexdigest()


def _run_lengths(positions: np.ndarray, height: int, width: int) -> str:
    """Compresses ascending pixel positions (column order) as COCO run lengths."""
    from pycocotools import mask as mask_util

    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    firsts = positions[np.concatenate(([0], breaks))]
    ends = positions[np.concatenate((breaks, [len(positions)])) - 1] + 1
    changes = np.stack((firsts, ends), axis=1).ravel()
    counts = np.diff(changes, prepend=0).tolist()
    if ends[-1] < height * width:
        counts.append(height * width - int(ends[-1]))
    encoded = mask_util.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return encoded["counts"].decode("ascii")


def _check_polygons(file: str, text: str) -> dict[str, Any]:
    """Returns the json's content after checking what the drawing function takes for granted."""

    def wrong(what: str) -> DataError:
        return DataError(
            f"{file} is not a Cityscapes polygon file: {what}. It needs 'imgHeight', 'imgWidth' "
            "and 'objects', a list of {'label': name, 'polygon': [[x, y], ...]}. Fetch it again."
        )

    try:
        content = json.loads(text)
    except ValueError as error:
        raise wrong(f"the json is damaged ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
        raise wrong("'objects' is missing or is no list")
    for key in ("imgHeight", "imgWidth"):
        if type(content.get(key)) is not int or content[key] < 1:
            raise wrong(f"{key!r} is {content.get(key)!r}, not a positive whole number")
    for index, entry in enumerate(content["objects"]):
        polygon = entry.get("polygon") if isinstance(entry, dict) else None
        points = polygon if isinstance(polygon, list) else [None]
        if len(points) < 2 or not all(_is_point(point) for point in points):
            raise wrong(f"objects[{index}] has no 'polygon' of at least two points [x, y]")
        if not is_known_name(entry.get("label")):
            raise DataError(
                f"{file}: objects[{index}] has the label {entry.get('label')!r}, which is not "
                "among the public Cityscapes labels (cityscapesscripts.helpers.labels) nor a group "
                "of them. Correct the label, or remove the object."
            )
    return content


def _is_point(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(c) in (int, float) and abs(c) < 2**31 for c in value)
    )


def _check_size(file: str, found: tuple[int, ...], size: tuple[int, int]) -> None:
    if found != size:
        raise DataError(
            f"{file} is {' x '.join(map(str, found))} (height x width), but its image is {size[0]} "
            f"x {size[1]}. Masks would be wrong: fetch the image and its annotations again, from "
            "the same release."
        )


def _check_ids(file: str, ids: np.ndarray) -> np.ndarray:
    check_ids(file, np.flatnonzero(np.bincount(ids.ravel(), minlength=1)))
    return ids


@contextlib.contextmanager
def _explained(file: str) -> Any:
    """Turns whatever a decoder raises into an error that names the file."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except FileNotFoundError:
        folder = os.path.dirname(file)
        state = "exists" if os.path.isdir(folder) else "does not exist either"
        raise DataError(f"{file} is missing (its folder {state}). Fetch it again.") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise DataError(
            f"{file} cannot be read: {type(error).__name__}: {error}. It is truncated, damaged or "
            "of another format; fetch it again."
        ) from error
