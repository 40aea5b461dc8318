"""Checks of COCO json files and of single values in them: numbers, run lengths, file names.

Each function takes a ``where`` (file and record), which messages name.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from mask_rcnn_repro.data.coco.run_lengths import decode_counts
from mask_rcnn_repro.errors import DataError

# Control characters, which could also play tricks on a terminal, and halves of characters.
_NEVER_IN_NAMES = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def finite_numbers(value: Any, where: str, limit: float = sys.float_info.max) -> bool:
    """Checks whether a list of numbers is finite.

    Args:
        value: Content of the json, which must be a list of numbers.
        where: File, record and field, for the message.
        limit: Largest absolute value.

    Returns:
        False if a number is NaN, infinite or beyond the limit. True for an empty list.

    Raises:
        DataError: The value is not a list, or an element is not a number.
    """
    if type(value) is not list:
        raise DataError(
            f"{where} must be a list of numbers, got {type(value).__name__}: {short(value)}."
        )
    try:
        # One pass in C over what can be millions of lists: few have a norm beyond a useful limit.
        norm = math.hypot(*value)
        return norm <= limit or (math.isfinite(norm) and max(value) <= limit >= -min(value))
    except TypeError:
        raise DataError(f"{where} must hold numbers only, got {short(value)}.") from None
    except OverflowError:
        return False


def positive_int(value: Any, where: str) -> int:
    """Returns a size in pixels as int; ``640.0`` passes, because some tools write it.

    Raises:
        DataError: The value is not a whole number above 0.
    """
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 < value < 2**31:
        raise DataError(f"{where} must be a whole number above 0, got {short(value)}.")
    return value


def is_id(value: Any) -> bool:
    """Whether a value can be an id: a whole number of 64 bits (NumPy rounds larger ones)."""
    return type(value) is int and -(2**63) <= value < 2**63


def bad_id(value: Any, where: str) -> DataError:
    """Returns the error for a value that is no id; `where` as elsewhere, with the field."""
    got = short(value)
    if type(value) is float and abs(value) >= 2**63:  # orjson rounds such integers
        got = f"one that needs more than 64 bits, about {value:.3g}"
    return DataError(f"{where} must be a whole number from -2**63 to 2**63 - 1, got {got}.")


def relative_file_name(value: Any, where: str) -> str:
    """Returns an image's file name after checking that it stays below the image root.

    Links below the root are followed wherever they lead: a json cannot make them.

    Raises:
        DataError: The name is not a string, is empty or absolute, or has a ``..`` part or
            characters that no name has.
    """
    if type(value) is not str or not value or _NEVER_IN_NAMES.search(value):
        raise DataError(f"{where} must be a file name, got {short(value)}.")
    absolute = value[0] in "/\\" or value[1:3] in (":/", ":\\")
    if absolute or (".." in value and ".." in re.split(r"[/\\]", value)):
        raise DataError(
            f"{where} is {short(value)}, which leaves the image folder and is refused. File names "
            "must be relative to the image root, without '..'; fix the json, or give another "
            "image root."
        )
    return value


def run_lengths(segmentation: Mapping[str, Any], height: int, width: int, where: str) -> dict:
    """Checks a COCO run length encoding against its image.

    pycocotools decodes runs into a buffer of the stated size without checking their sum. It is
    checked here.

    Args:
        segmentation: ``{"size": [h, w], "counts": list, str or bytes}``, runs in column order.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        where: File and record, for the message.

    Returns:
        The compressed encoding, the same object if it was compressed already.

    Raises:
        DataError: Fields are missing, the size is not that of the image, or runs do not fill it.
    """
    missing = [key for key in ("size", "counts") if key not in segmentation]
    if missing:
        raise DataError(
            f"{where}: a run length encoding needs 'size' and 'counts', {missing} not found."
        )
    size, counts = segmentation["size"], segmentation["counts"]
    if size != [height, width] or any(type(side) is not int for side in size):
        raise DataError(
            f"{where}: the run length encoding's size is {short(size)}, but its image is "
            f"{height} x {width} (height x width). Encode the mask at the image's size, or fix "
            "the image record's 'height' and 'width'."
        )
    if type(counts) is list:
        whole = finite_numbers(counts, f"{where}: 'counts'") and all(type(c) is int for c in counts)
        runs = np.asarray(counts if whole else [-1], dtype=object)
    elif isinstance(counts, str | bytes):
        decoded = decode_counts(counts)
        if decoded is None:
            raise DataError(
                f"{where}: 'counts' is not a compressed run length encoding: {short(counts)}."
            )
        runs = decoded
    else:
        raise DataError(f"{where}: 'counts' must be a list or a string, got {short(counts)}.")
    total = int(runs.sum()) if len(runs) else 0
    if total != height * width or (len(runs) and runs.min() < 0):
        raise DataError(
            f"{where}: the runs of the encoding cover {total} pixels or are not whole numbers, but "
            f"the image has {height * width}. The encoding is damaged; encode the mask again."
        )
    if type(counts) is list:
        return mask_util.frPyObjects(segmentation, height, width)
    return dict(segmentation)


def short(value: Any, limit: int = 80) -> str:
    """Returns ``repr(value)``, cut to ``limit`` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def missing_message(what: str, path: str) -> str:
    """Returns the message for a missing file or folder: what, where, and how to fix it."""
    parent = os.path.abspath(path)
    while not os.path.isdir(parent):
        parent = os.path.dirname(parent)
    root = os.environ.get("DETECTRON2_DATASETS")
    return (
        f"The {what} {path} does not exist (the nearest existing folder is {parent}). Data sets "
        "known by name are looked for below DETECTRON2_DATASETS, which is "
        f"{'not set, so below ./datasets' if root is None else repr(root)}; datasets/README.md "
        "shows the expected tree."
    )


def backslash_hint(file: str) -> str:
    """Returns a sentence on a backslash in the name of a missing file, empty without one."""
    if "\\" not in file:
        return ""
    return " Its name contains a backslash. Separate directories by '/'."


def records(value: Any, field: str, file: str) -> list[dict[str, Any]]:
    """Returns a field of the top level after checking that it is a list of objects.

    Raises:
        DataError: The field is missing or not a list, or an element is not an object.
    """
    if value is None:
        raise DataError(
            f"{file} is not in COCO format: it has no '{field}'. Needed are 'images', "
            "'categories' and, for training and evaluation, 'annotations'."
        )
    if type(value) is not list:
        raise DataError(f"{file}: '{field}' must be a list, got {type(value).__name__}.")
    for index, entry in enumerate(value):
        if type(entry) is not dict:
            raise DataError(f"{file}: {field}[{index}] must be an object, got {short(entry)}.")
    return value


def required(entry: Mapping[str, Any], key: str, where: str) -> Any:
    """Returns a field that a record must have. Raises DataError if it is missing."""
    try:
        return entry[key]
    except KeyError:
        raise DataError(f"{where} has no '{key}'; it has {sorted(entry)}.") from None


class Findings:
    """Counts records that were dropped or changed, and reports them in one warning per file."""

    def __init__(self) -> None:
        self._ids: dict[str, list[Any]] = {}

    def add(self, kind: str, record_id: Any) -> None:
        """Notes one record under a kind of finding."""
        self._ids.setdefault(kind, []).append(record_id)

    def warn(self, logger: logging.Logger, file: str) -> None:
        """Logs one warning with counts and the first ids, if anything was found."""
        if not self._ids:
            return
        lines = []
        for kind, ids in self._ids.items():
            first = ", ".join(str(i) for i in ids[:5]) + (", ..." if len(ids) > 5 else "")
            lines.append(f"\n  {len(ids)} {kind} (ids {first})")
        logger.warning("%s: some annotations cannot be used as they are:%s", file, "".join(lines))
