"""The categories of a COCO json file without parsing its annotations."""

from __future__ import annotations

import functools
import json
import mmap
import os
import re

from mask_rcnn_repro.data.coco.categories import Categories, parse_categories
from mask_rcnn_repro.data.coco.fields import read_json
from mask_rcnn_repro.errors import DataError

_KEY = re.compile(rb'"categories"\s*:\s*')
# More classes than any data set has fit into this; longer fields take the slow way.
_LONGEST_FIELD = 16 * 2**20


def read_categories(json_file: str) -> Categories:
    """Returns the classes of a COCO json file, quickly for files of hundreds of megabytes.

    The one place where the key ``"categories"`` occurs is found by its bytes and parsed alone;
    where that is not conclusive the whole file is parsed.

    Raises:
        DataError: no such file, not json, or no usable categories.
    """
    try:
        state = os.stat(json_file)
    except OSError:
        read_json(json_file)  # raises with the full explanation
        raise
    return _read(json_file, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=64)
def _read(json_file: str, mtime_ns: int, size: int) -> Categories:
    categories = _scan(json_file) if size else None
    if categories is None:
        return parse_categories(read_json(json_file).get("categories"), json_file)
    return categories


def _scan(json_file: str) -> Categories | None:
    with (
        open(json_file, "rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        ends = [match.end() for match in _KEY.finditer(content)]
        if len(ends) != 1:
            return None
        text = content[ends[0] : ends[0] + _LONGEST_FIELD].decode("utf-8", errors="replace")
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
        return parse_categories(value, json_file)
    except (ValueError, RecursionError, DataError):
        return None
