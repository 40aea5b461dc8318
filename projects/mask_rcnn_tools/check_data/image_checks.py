"""Checks that image files exist, can be read, have the stated size and are listed once.

By default only headers are read, by several threads, because reading mostly waits for the disk.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from mask_rcnn_repro.data.coco.fields import backslash_hint
from mask_rcnn_repro.data.deep_images import used_bits
from mask_rcnn_repro.data.loading.images import LARGEST_FILE, PLAIN_MODES, read_image
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.utils.threads import usable_cpus
from mask_rcnn_tools.check_data.findings import Report
from mask_rcnn_tools.check_data.tables import AnnotationTable

_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_THIN = 50
_EXIF_ORIENTATION = 0x0112
_TIFF_WIDTH = 256
_BATCH = 64
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")


@dataclass
class ImageFile:
    """What is known about a file.

    Attributes:
        size: Bytes. -1 if the file is missing.
        problem: Kind of finding and case in words, if the file cannot be used.
        pixels: Height and width, after the rotation that EXIF states.
        turned: Whether EXIF rotates it by 90 degrees.
        odd: What is unusual, in words.
        cut: Whether the end mark is missing.
        real: Path without links.
        digest: SHA-256 of the content, if it was asked for.
    """

    size: int = -1
    problem: tuple[str, str] | None = None
    pixels: tuple[int, int] = (0, 0)
    turned: bool = False
    odd: list[str] = field(default_factory=list)
    cut: bool = False
    real: str = ""
    digest: bytes = b""


def look_at(
    table: AnnotationTable,
    *,
    hashed: bool = False,
    decode: bool = False,
    threads: int | None = None,
    only: Iterable[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[int, ImageFile]:
    """Opens the images of a table.

    Args:
        table: The table of the images.
        hashed: Read and hash whole files.
        decode: Decode every image, as training does.
        threads: Number of threads. None: two per usable CPU, because they wait for the disk.
        only: Rows of images. None: all.
        progress: Called with the number of images checked since the last call.

    Returns:
        Facts about the files, by row.
    """
    rows = list(range(len(table)) if only is None else only)
    batches = [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]
    lock = threading.Lock()

    def batch(part: list[int]) -> list[ImageFile]:
        found = [_look(table, row, hashed, decode) for row in part]
        if progress is not None:
            with lock:
                progress(len(part))
        return found

    threads = threads or min(16, 2 * usable_cpus())
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore")  # of PIL: what matters is reported
        files = [file for part in pool.map(batch, batches) for file in part]
    return dict(zip(rows, files, strict=True))


def _look(table: AnnotationTable, row: int, hashed: bool, decode: bool) -> ImageFile:
    path, file = table.path(row), ImageFile()
    name = table.names[row]
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        hint = backslash_hint(str(name))
        file.problem = ("missing-image", f"{name} (image {table.ids[row]}){hint and '.'}{hint}")
        return file
    file.real = os.path.realpath(path)
    file.size = state.st_size
    if not stat.S_ISREG(state.st_mode) or state.st_size > LARGEST_FILE:
        what = "no file" if not stat.S_ISREG(state.st_mode) else f"{state.st_size} bytes"
        file.problem = ("unreadable-image", f"{name}: {what}")
        return file
    try:
        if hashed:
            with open(path, "rb") as stream:
                file.digest = hashlib.file_digest(stream, "sha256").digest()
        _read_header(path, file)
    except Exception as error:  # as many kinds as there are decoders
        file.problem = ("unreadable-image", f"{name}: {type(error).__name__}: {error}"[:300])
        return file
    height, width = (int(n) for n in table.sizes[row])
    if height and (height, width) != file.pixels:
        hint = ""
        if (width, height) == file.pixels:
            hint = "; sides exchanged"
            hint += ", as before EXIF turns it" if file.turned else ""
        seen = f"{file.pixels[0]} x {file.pixels[1]}"
        file.problem = (
            "wrong-size",
            f"{name}: {seen} (height x width), stated {height} x {width}{hint}",
        )
    elif decode:
        try:
            read_image({"file_name": path, "image_id": int(table.ids[row])}, "BGR")
        except DataError as error:
            file.problem = ("unreadable-image", str(error))
    return file


def _read_header(path: str, file: ImageFile) -> None:
    with open(path, "rb") as stream, Image.open(stream) as image:
        width, height = image.size
        orientation = 1
        if "exif" in image.info or image.format != "JPEG":
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        file.turned = orientation in (5, 6, 7, 8)
        # newer Pillow gives the size of a TIFF as turned
        stored = getattr(image, "tag_v2", {}).get(_TIFF_WIDTH, width)
        turns = file.turned and stored == width
        file.pixels = (width, height) if turns else (height, width)
        if image.mode not in PLAIN_MODES:
            file.odd.append(f"mode {image.mode}")
        if orientation in range(2, 9):
            file.odd.append(f"EXIF orientation {orientation}")
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            file.odd.append(f"{frames} frames")
        mark = _ENDS.get(image.format or "")
        if mark is not None:
            stream.seek(-min(file.size, 64), os.SEEK_END)
            file.cut = mark not in stream.read()


def check_images(
    table: AnnotationTable,
    files: dict[int, ImageFile],
    report: Report,
    split: str,
    *,
    sampled: bool = False,
    others: Iterable[AnnotationTable] = (),
) -> None:
    """Adds findings about the image files of a table.

    Args:
        table: The table of the images.
        files: From :func:`look_at`.
        report: Findings are added to it.
        split: `"train"` or `"test"`.
        sampled: Whether only some images were checked.
        others: Tables that list further images, possibly of the same directory.
    """

    def add(kind: str, examples: list[str]) -> None:
        report.add(kind, split, table.source, examples)

    for kind in ("missing-image", "unreadable-image", "wrong-size"):
        add(kind, [f.problem[1] for f in files.values() if f.problem and f.problem[0] == kind])
    read = {row: f for row, f in files.items() if f.pixels[0]}
    names = table.names
    add("truncated-image", [names[row] for row, f in read.items() if f.cut and not f.problem])
    limit = Image.MAX_IMAGE_PIXELS or np.inf
    for kind, wrong in (
        ("huge-image", lambda h, w: h * w > limit),
        ("thin-image", lambda h, w: max(h, w) > _THIN * min(h, w)),
    ):
        add(
            kind,
            [
                f"{names[row]}: {f.pixels[0]} x {f.pixels[1]} (height x width)"
                for row, f in read.items()
                if wrong(*f.pixels)
            ],
        )
    add("odd-image", [f"{names[row]}: {', '.join(f.odd)}" for row, f in read.items() if f.odd])
    bits = used_bits(table.path(row) for row, f in read.items())
    if bits is not None and bits < 16:
        add("unused-bits", [f"{bits} of 16 bits in use: dataset.image_bits={bits}"])
    if table.root:
        inside = os.path.join(os.path.realpath(table.root), "")
        out = [f"{names[r]} -> {f.real}" for r, f in files.items() if f.real and _out(f, inside)]
        add("symlink-outside", out)
    add("duplicate-file", _repeated({row: f.real or names[row] for row, f in files.items()}, table))
    digests = {row: f.digest for row, f in files.items() if f.digest}
    # one file under two records is reported above
    once = {digests[row] + f.real.encode(): row for row, f in files.items() if row in digests}
    add("duplicate-content", _repeated({row: digests[row] for row in once.values()}, table))
    if not sampled:
        add("unlisted-file", _unlisted(table, others))


def _out(file: ImageFile, inside: str) -> bool:
    return not file.real.startswith(inside)


def _repeated(keys: dict[int, str] | dict[int, bytes], table: AnnotationTable) -> list[str]:
    """Describes rows that have equal keys."""
    groups: dict[str | bytes, list[int]] = {}
    for row, key in keys.items():
        groups.setdefault(key, []).append(row)
    return [
        ", ".join(f"{table.names[row]} (image {table.ids[row]})" for row in rows[:4])
        for rows in groups.values()
        if len(rows) > 1
    ]


def _unlisted(table: AnnotationTable, others: Iterable[AnnotationTable]) -> list[str]:
    """Returns image files that are not listed. The json may be of another version of the data."""
    if not table.root or not os.path.isdir(table.root):
        return []
    listed = {os.path.normpath(name) for name in table.names}
    for other in others:
        if other.root == table.root:
            listed.update(os.path.normpath(name) for name in other.names)
    more = []
    for folder in sorted({os.path.dirname(os.path.normpath(name)) for name in table.names}):
        try:
            with os.scandir(os.path.join(table.root, folder)) as entries:
                found = [os.path.join(folder, entry.name) for entry in entries]
        except OSError:
            continue
        more += [n for n in found if n.lower().endswith(_SUFFIXES) and n not in listed]
    return sorted(more)


def check_coverage(table: AnnotationTable, report: Report, split: str) -> None:
    """Adds findings about images without annotations, or with crowd regions only."""
    if not len(table.columns):
        return
    listed = table.image_of >= 0
    crowd = table.columns.crowd == 1
    each = np.bincount(table.image_of[listed], minlength=len(table))
    alone = np.bincount(table.image_of[listed & crowd], minlength=len(table))
    for kind, rows in (
        ("image-without-annotations", np.flatnonzero(each == 0)),
        ("crowd-only", np.flatnonzero((each > 0) & (each == alone))),
    ):
        names = (table.names[row] for row in rows.tolist())
        report.add(kind, split, table.source, names, len(rows))
