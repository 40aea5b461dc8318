"""Predictions as files in the format that the Cityscapes server and its scripts read.

A folder with a text file and 8-bit masks for each image::

    berlin_000000_000019_pred.txt            lines: mask file, label id, confidence
    berlin_000000_000019_000_person.png      0 and 255; one for each prediction

Scores are written in full (``repr``): read back, they are the same numbers.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pycocotools.mask as mask_util
from detectron2.utils import comm
from PIL import Image

from mask_rcnn_repro.errors import DataError

_STEM = re.compile(r"[A-Za-z0-9-]+_[0-9]{6}_[0-9]{6}")
"""The part of Cityscapes file names that all files of an image share. Of equal length, so that
the pattern ``<stem>*.txt``, by which the scripts look for a prediction, finds one file."""


def write_image(
    folder: str | os.PathLike[str],
    stem: str,
    rles: Sequence[Mapping[str, Any]],
    label_ids: Sequence[int],
    confidences: Sequence[float],
) -> None:
    """Writes the predictions of one image to an existing folder.

    Args:
        folder: Where to write.
        stem: Of the image, such as `berlin_000000_000019`.
        rles: R compressed RLEs; none gives an empty text file, which the scripts need.
        label_ids: R Cityscapes label ids.
        confidences: R scores.

    Raises:
        DataError: A stem that the scripts would not find, or an unknown label.
    """
    from cityscapesscripts.helpers.labels import id2label

    if not _STEM.fullmatch(stem):
        raise DataError(
            f"The image id {stem!r} is no stem of Cityscapes file names: expected is "
            "<city>_<6 digits>_<6 digits>, by which the official scripts find a prediction."
        )
    lines = []
    rows = zip(rles, label_ids, confidences, strict=True)
    for index, (rle, label, confidence) in enumerate(rows):
        if label not in id2label:
            raise DataError(f"{label} is no Cityscapes label id; known are {sorted(id2label)}.")
        # the scripts split lines at spaces
        name = f"{stem}_{index:03d}_{id2label[label].name.replace(' ', '-')}.png"
        Image.fromarray(mask_util.decode(rle) * 255).save(Path(folder, name))
        lines.append(f"{name} {label} {float(confidence)!r}\n")
    Path(folder, f"{stem}_pred.txt").write_text("".join(lines), encoding="ascii")


@contextmanager
def upload_folder(target: Path) -> Iterator[Path]:
    """A new folder for files of all processes, which takes its name when all are done.

    All processes must enter and leave it together. If one fails, what was written is removed, an
    older folder of that name is kept, and every process gets an error. Else it is replaced.

    Yields:
        The folder to write to, beside `target`. All processes must see both.
    """
    partial = target.with_name(f".{target.name}.partial")
    if comm.is_main_process():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    comm.synchronize()
    failure: BaseException | None = None
    try:
        yield partial
    except Exception as error:
        failure = error
    except BaseException:  # interrupted: the others may be gone, do not wait for them
        shutil.rmtree(partial, ignore_errors=True)
        raise
    failed = any(comm.all_gather(failure is not None))
    if comm.is_main_process():
        if failed:
            shutil.rmtree(partial, ignore_errors=True)
        else:
            shutil.rmtree(target, ignore_errors=True)
            os.replace(partial, target)
    comm.synchronize()
    if failure is not None:
        raise failure
    if failed:
        raise RuntimeError(f"Another process could not write its part of {target}.")
