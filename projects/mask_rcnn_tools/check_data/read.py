"""A COCO json read for checking: nothing is refused that can be told about.

Annotations of ordinary files are read by compiled loops (:mod:`.scan_kernels`), hundreds of
thousands in seconds; what these do not take, and everything where Numba is not installed, is parsed
by Python. The result is the same.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

import numpy as np

from mask_rcnn_repro.data.coco.fields import missing_message, read_json
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.utils import compiled
from mask_rcnn_tools.check_data.columns import ODD, Columns, columns_of, empty_rows, fill_row

_BLOCK = 1 << 16
# Below this, Python has parsed a file before the compiled code is loaded.
_SMALLEST_COMPILED = 4 << 20


class _Unusual(Exception):
    """The compiled loops do not understand the file; Python reads it, or says what is wrong."""


def read_content(json_file: str) -> tuple[dict[str, Any], Columns | None]:
    """Reads a COCO json.

    Args:
        json_file: the file.

    Returns:
        The top level without "annotations", and these as columns; None where the file has none,
        or has something else than a list under this name (which then stays in the top level).

    Raises:
        DataError: no such file, not readable, not json, no object at the top.
    """
    try:
        size = os.path.getsize(json_file)
    except OSError:
        raise DataError(missing_message("annotation file", json_file)) from None
    if size >= _SMALLEST_COMPILED and compiled.HAVE_NUMBA:
        with contextlib.suppress(_Unusual):
            return scan_content(json_file)
    content = read_json(json_file)
    if type(content.get("annotations")) is not list:
        return content, None
    return content, columns_of(content.pop("annotations"))


def scan_content(json_file: str) -> tuple[dict[str, Any], Columns | None]:
    """Does what :func:`read_content` does by compiled loops.

    Raises:
        _Unusual: the file is not plainly what it should be.
        DataError: it cannot be read.
    """
    try:
        text = np.fromfile(json_file, np.uint8)
    except OSError as error:
        raise DataError(f"The annotation file {json_file} cannot be read: {error}.") from None
    from mask_rcnn_tools.check_data.scan_kernels import skip

    content: dict[str, Any] = {}
    annotations: Columns | None = None
    place = _expect(text, 0, b"{")
    more = True
    while more:
        end = int(skip(text, place)) if place < len(text) else -1
        key = _parse(text, place, end)
        if type(key) is not str or key in content or (key == "annotations" and annotations):
            raise _Unusual
        place = _expect(text, end, b":")
        if key == "annotations" and text[place : place + 1].tobytes() == b"[":
            annotations, place = _annotations(text, place)
        else:
            end = int(skip(text, place))
            content[key] = _parse(text, place, end)
            place = end
        place = _space(text, place)
        more = text[place : place + 1].tobytes() == b","
        place = _expect(text, place, b"," if more else b"}")
    if place != len(text):
        raise _Unusual
    return content, annotations


def _annotations(text: np.ndarray, place: int) -> tuple[Columns, int]:
    """The list that begins at `place`, and the position behind it."""
    from mask_rcnn_tools.check_data.scan_kernels import scan_block

    place = _expect(text, place, b"[")
    if text[place : place + 1].tobytes() == b"]":
        return columns_of([]), place + 1
    blocks, odd, start, more = [], {}, 0, True
    while more:
        ints, floats = empty_rows(_BLOCK)
        spans = np.zeros((_BLOCK, 2), np.int64)
        count, more, place = scan_block(text, place, ints, floats, spans)
        if place < 0:
            raise _Unusual
        for row in np.flatnonzero(ints[:count, ODD]).tolist():
            entry = _parse(text, *spans[row].tolist())
            ints[row], floats[row] = (array[0] for array in empty_rows(1))
            fill_row(entry, ints[row], floats[row])
            if ints[row, ODD]:
                odd[start + row] = entry
        blocks.append((ints[:count], floats[:count]))
        start += count
    joined = [np.concatenate(arrays) for arrays in zip(*blocks, strict=True)]
    return Columns(joined[0], joined[1], odd), int(place)


def _parse(text: np.ndarray, start: int, end: int) -> Any:
    if end < 0:
        raise _Unusual
    try:
        return json.loads(text[start:end].tobytes())
    except (ValueError, RecursionError):
        raise _Unusual from None


def _space(text: np.ndarray, place: int) -> int:
    while place < len(text) and text[place] in b" \t\n\r":
        place += 1
    return place


def _expect(text: np.ndarray, place: int, wanted: bytes) -> int:
    """The position of what follows the wanted character."""
    place = _space(text, place)
    if place >= len(text) or text[place] != wanted[0]:
        raise _Unusual
    return _space(text, place + 1)
