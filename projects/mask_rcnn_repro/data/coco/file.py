"""COCO json files, each parsed once in a process for all who read it.

Before its first step, a training asks the same file for its categories, its fingerprint, its
annotations (to check them) and its records (to train on them).
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import gc
import hashlib
import json
import mmap
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from mask_rcnn_repro.data.coco.categories import Categories, parse_categories
from mask_rcnn_repro.data.coco.fields import missing_message
from mask_rcnn_repro.errors import DataError

MOST_PARSED = 1 << 30
"""Bytes of the files whose content is kept in memory. Content takes about ten times as much."""

_CATEGORIES = re.compile(rb'"categories"\s*:\s*')
# More classes than any data set has fit into this; a longer field needs the whole file.
_LONGEST_FIELD = 16 * 2**20


class FileFacts(NamedTuple):
    """What identifies the annotations of a file."""

    sha256: str  # of the file, hex digits
    num_images: int
    num_annotations: int


class CocoFile:
    """A COCO json file in the state of one modification time; see :func:`coco_file`.

    Attributes:
        path: The file.
        size: In bytes.
    """

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.size = size
        self._facts: tuple[str, list[int | None]] | None = None

    @property
    def content(self) -> dict[str, Any]:
        """The parsed file. It is shared: do not change it, and do not keep parts of it.

        Raises:
            DataError: If the file is missing, not readable, or not a json object.
        """
        content = _parsed.pop(self, None)
        _parsed[self] = self._parse() if content is None else content
        while len(_parsed) > 1 and sum(file.size for file in _parsed) > MOST_PARSED:
            _parsed.popitem(last=False)
        return _parsed[self]

    def take_content(self) -> dict[str, Any]:
        """Returns the parsed file to a caller that changes it or keeps parts of it.

        Raises:
            DataError: See :attr:`content`.
        """
        content = dict(self.content)
        if _shared:
            _shared[-1].add(self)
        else:
            del _parsed[self]
        return content

    @functools.cached_property
    def categories(self) -> Categories:
        """The classes.

        A file that is not parsed yet stays so if its bytes show where the categories are: a file of
        hundreds of megabytes takes gigabytes of memory and seconds to parse.

        Raises:
            DataError: If the file cannot be read, or has no usable categories.
        """
        found = _scan_categories(self.path) if self.size and self not in _parsed else None
        return found or parse_categories(self.content.get("categories"), self.path)

    def file_names(self, endings: Iterable[str]) -> list[str]:
        """Returns the images' file names; none if no quoted text of the file ends in an ending.

        A scan of the bytes tells: parsing a file of hundreds of megabytes takes seconds. Endings
        are looked for as given and in capitals.

        Raises:
            DataError: See :attr:`content`.
        """
        with (
            contextlib.suppress(OSError, ValueError),  # what is wrong is reported below
            open(self.path, "rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            texts = [f'{text}"'.encode() for e in endings for text in (e, e.upper())]
            if all(content.find(text) < 0 for text in texts):
                return []
        entries = self.content.get("images")
        entries = entries if isinstance(entries, list) else []
        return [str(e["file_name"]) for e in entries if isinstance(e, dict) and "file_name" in e]

    @property
    def facts(self) -> FileFacts:
        """What identifies the annotations.

        Raises:
            DataError: If the file cannot be read, or "images" or "annotations" is not a list.
        """
        if self._facts is None:
            self.content  # noqa: B018
        assert self._facts is not None
        sha256, (images, annotations) = self._facts
        if images is None or annotations is None:
            raise DataError(
                f"{self.path} is not in COCO format: 'images' and 'annotations' must be lists."
            )
        return FileFacts(sha256, images, annotations)

    def _parse(self) -> dict[str, Any]:
        data, content = _read(self.path)
        lists = (content.get(key, []) for key in ("images", "annotations"))
        counts = [len(value) if isinstance(value, list) else None for value in lists]
        self._facts = hashlib.sha256(data).hexdigest(), counts
        return content


_parsed: OrderedDict[CocoFile, dict[str, Any]] = OrderedDict()  # the last one used comes last
_shared: list[set[CocoFile]] = []  # files taken within each `shared_when_taken`


def coco_file(path: str | os.PathLike[str]) -> CocoFile:
    """Returns a file, the same object as long as the file's size and modification time are equal.

    Raises:
        DataError: If the file is missing.
    """
    path = os.fspath(path)
    try:
        state = os.stat(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return _coco_file(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _coco_file(path: str, size: int, mtime_ns: int) -> CocoFile:
    return CocoFile(path, size)


@contextlib.contextmanager
def shared_when_taken() -> Iterator[None]:
    """Parses a file once for all that take it within. They may change its top level only."""
    _shared.append(set())
    try:
        yield
    finally:
        for file in _shared.pop():
            _parsed.pop(file, None)


def release_parsed_files() -> None:
    """Frees the memory of all parsed files. Their facts and categories stay known."""
    _parsed.clear()


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pauses garbage collection, which halves the time for millions of small objects."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read(path: str) -> tuple[bytes, dict[str, Any]]:
    """Returns the bytes of a file and what they hold."""
    try:
        with open(path, "rb") as stream, gc_paused():
            data = stream.read()
            content = _parse_json(data)
    except OSError as error:
        raise _unreadable(path, error) from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"The annotation file {path} is not valid json: {error}. It may be truncated. Download "
            "it or write it again."
        ) from None
    if type(content) is not dict:
        raise DataError(
            f"{path} is not in COCO format: the top level must be an object with 'images', "
            f"'annotations' and 'categories', got {type(content).__name__}."
        )
    return data, content


def _parse_json(data: bytes) -> Any:
    data = data.removeprefix(codecs.BOM_UTF8)  # programs for Windows write it
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("it is encoded in UTF-16, not UTF-8; save it as UTF-8")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        # Python's parser takes more (NaN, Infinity, unpaired surrogates), and its errors stay the
        # same whichever parser is faster.
        return json.loads(data.decode("utf-8"))


def _unreadable(path: str, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return DataError(missing_message("annotation file", path))
    return DataError(f"The annotation file {path} cannot be read: {error}.")


def _scan_categories(path: str) -> Categories | None:
    """Parses the only "categories" of a file by themselves; None if that is not conclusive."""
    try:
        with (
            open(path, "rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            ends = [match.end() for match in _CATEGORIES.finditer(content)]
            if len(ends) != 1:
                return None
            text = content[ends[0] : ends[0] + _LONGEST_FIELD].decode("utf-8", errors="replace")
        value, _ = json.JSONDecoder().raw_decode(text)
        return parse_categories(value, path)
    except (OSError, ValueError, RecursionError, DataError):
        return None
