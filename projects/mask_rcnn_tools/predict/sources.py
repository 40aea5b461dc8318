"""Inputs of a prediction: files, directories and patterns from the command line."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mask_rcnn_repro.errors import DataError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".jp2"),
)
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


@dataclass(frozen=True)
class Source:
    """A file to predict on.

    Attributes:
        path: Absolute path; links are not resolved.
        name: Unique path relative to the common directory of all files, with slashes.
        is_video: Whether it is a video and not an image.
    """

    path: Path
    name: str
    is_video: bool


@dataclass(frozen=True)
class Sources:
    """All files to predict on.

    Attributes:
        files: In the order of the arguments; in natural order within directories and patterns.
        root: Common directory of all files.
        left_out: Number of skipped files, neither images nor videos, by suffix.
    """

    files: tuple[Source, ...]
    root: Path
    left_out: dict[str, int]


def find_sources(arguments: Sequence[str], leave_out: Path | None = None) -> Sources:
    """Finds the files that arguments name, without duplicates.

    Args:
        arguments: Files (of any suffix), directories (searched recursively for images and videos by
            suffix, without hidden files) and patterns (``*``, ``?``, ``[ab]``, ``**``).
        leave_out: Directory that is not searched: the output directory.

    Raises:
        DataError: An argument does not exist, a pattern matches nothing, or there is no file.
    """
    found: dict[str, None] = {}
    left_out: Counter[str] = Counter()
    for argument in arguments:
        matches = _existing(argument)
        for path in matches:
            if not os.path.isdir(path):
                found[os.path.abspath(path)] = None
                continue
            for file in _files_below(path, leave_out):
                suffix = os.path.splitext(file)[1].lower()
                if suffix in IMAGE_SUFFIXES + VIDEO_SUFFIXES:
                    found[os.path.abspath(file)] = None
                else:
                    left_out[suffix or "(no suffix)"] += 1
    if not found:
        others = ", ".join(f"{n} {suffix}" for suffix, n in left_out.most_common(5))
        raise DataError(
            f"There is no image and no video in {', '.join(arguments)}"
            f"{f' (other files: {others})' if others else ''}. Images end in "
            f"{', '.join(IMAGE_SUFFIXES)}, videos in {', '.join(VIDEO_SUFFIXES)}; a file with "
            "another suffix is read if it is named itself."
        )
    root = os.path.commonpath([os.path.dirname(path) for path in found])
    files = tuple(
        Source(
            Path(path),
            Path(os.path.relpath(path, root)).as_posix(),
            path.lower().endswith(VIDEO_SUFFIXES),
        )
        for path in found
    )
    return Sources(files, Path(root), dict(left_out))


def natural_key(path: str) -> list[list[tuple[int, int, str]]]:
    """Sort key of paths: directory by directory, 9 before 10, ignoring case."""
    return [
        [
            (0, int(piece), piece) if piece.isdecimal() else (1, 0, piece.casefold())
            for piece in re.split(r"(\d+)", part)
            if piece
        ]
        for part in Path(path).parts
    ]


def _existing(argument: str) -> list[str]:
    path = os.path.expanduser(argument)
    if os.path.exists(path):
        return [path]
    if glob.has_magic(path):
        matches = sorted(glob.glob(path, recursive=True), key=natural_key)
        if matches:
            return matches
        raise DataError(f"No file matches the pattern {argument!r} (in {os.getcwd()}).")
    folder = os.path.dirname(path) or "."
    state = "exists" if os.path.isdir(folder) else "does not exist either"
    what = "is a link to nothing" if os.path.islink(path) else "does not exist"
    raise DataError(
        f"The input {argument!r} {what} (in {os.getcwd()}; its directory {state}). Give "
        "images, videos, directories or patterns."
    )


def _files_below(folder: str, leave_out: Path | None) -> Iterator[str]:
    """Yields files in natural order, before those of subdirectories. Follows links."""
    skipped = leave_out.resolve() if leave_out is not None else None
    yield from _walk(folder, skipped, frozenset())


def _walk(folder: str, skipped: Path | None, above: frozenset[Path]) -> Iterator[str]:
    real = Path(folder).resolve()
    if real == skipped or real in above:  # a link may lead back up
        return
    try:
        entries = _visible(os.listdir(folder))
    except OSError as error:
        raise DataError(f"The directory {folder} cannot be read: {error}.") from None
    paths = [os.path.join(folder, name) for name in entries]
    yield from (path for path in paths if not os.path.isdir(path))
    for path in paths:
        if os.path.isdir(path):
            yield from _walk(path, skipped, above | {real})


def _visible(names: Iterable[str]) -> list[str]:
    return sorted((name for name in names if not name.startswith(".")), key=natural_key)
