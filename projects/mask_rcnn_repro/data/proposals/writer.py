"""Writing stored proposals: streamed to disk by every process, merged and renamed in one step.

Each process appends what it predicts to raw files in a temporary folder beside the target. At the
end the first process joins them in the order of the data set and gives the temporary folder its
name. Nothing but image ids and counts is kept in memory, and a writer that is killed leaves nothing
under the target's name. For the format see :mod:`mask_rcnn_repro.data.proposals.files`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from detectron2.utils import comm

from mask_rcnn_repro.data.proposals.files import (
    FORMAT_VERSION,
    ImageId,
    ProposalInfo,
    proposals_exist,
)
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.utils.atomic import sync_folder

_COLUMNS = {"boxes": (4,), "scores": ()}
"""Arrays that are streamed, and the shape of one row."""

_Part = tuple[list[ImageId], list[int]]
"""Image ids that a process has written, in its order, and their numbers of boxes."""


class ProposalWriter:
    """Writes the proposals of one data set.

    With several processes each makes a writer with equal arguments, adds its images, and calls
    :meth:`finish`; making and finishing are collective, and the folder must lie on a disk that
    all processes share. Until :meth:`finish` the disk holds the boxes once, during it twice.

    Args:
        folder: Where they shall appear; must not exist. Its parents are made.
        dataset: Name of the data set.
        fingerprint: "sha256:..." of its annotations.
        image_ids: All images of the data set, in order.
        topk: Boxes kept an image, those of the highest scores.
        source: What made them, see :class:`ProposalInfo`.

    Raises:
        DataError: Something is stored there already, or the folder cannot be made.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        dataset: str,
        fingerprint: str,
        image_ids: Sequence[ImageId],
        topk: int,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.topk = topk
        self._image_ids = [_plain_id(image_id) for image_id in image_ids]
        self._known = {str(image_id) for image_id in self._image_ids}
        self._facts: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "dataset": dataset,
            "fingerprint": fingerprint,
            "topk": topk,
            "source": dict(source or {}),
        }
        self._lock: IO[bytes] | None = None
        self._temporary = Path(str(_first_decides(self._prepare)))
        try:
            self._files = {
                name: open(self._part(name, comm.get_rank()), "wb")  # noqa: SIM115
                for name in _COLUMNS
            }
        except FileNotFoundError as error:
            raise DataError(
                f"Process {comm.get_rank()} does not see {self._temporary}, which the first has "
                "made. The folder must lie on a disk that all machines share."
            ) from error
        self._ids: list[ImageId] = []
        self._counts: list[int] = []

    def add(self, image_id: ImageId, boxes: np.ndarray, scores: np.ndarray) -> None:
        """Appends one image's proposals.

        Args:
            image_id: An image of the data set that was not added before.
            boxes: (n, 4), absolute XYXY in the original image's frame; n may be 0.
            scores: (n,) objectness logits, in any order.

        Raises:
            DataError: Shapes that do not fit, values that are not finite, boxes upside down, an
                unknown image.
        """
        boxes, scores = np.asarray(boxes, np.float32), np.asarray(scores, np.float32)
        if scores.ndim != 1 or boxes.shape != (len(scores), 4):
            raise DataError(
                f"Proposals of image {image_id!r}: boxes have shape {boxes.shape} and scores "
                f"{scores.shape}; expected are (n, 4) and (n,)."
            )
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise DataError(
                f"Proposals of image {image_id!r} are not finite: the RPN has diverged. Train it "
                "again, with a smaller learning rate."
            )
        if (boxes[:, 2:] < boxes[:, :2]).any():
            raise DataError(
                f"Proposals of image {image_id!r} are upside down: boxes are x1, y1, x2, y2, with "
                "x2 and y2 no less than x1 and y1."
            )
        if str(image_id) not in self._known:
            raise DataError(
                f"Proposals were made for image {image_id!r}, which is not in "
                f"{self._facts['dataset']!r}. The loader must read the data set that is named."
            )
        order = np.argsort(-scores, kind="stable")[: self.topk]
        for name, array in (("boxes", boxes), ("scores", scores)):
            self._files[name].write(array[order].astype("<f4").tobytes())
        self._ids.append(_plain_id(image_id))
        self._counts.append(len(order))

    def finish(self) -> None:
        """Joins all processes' parts and lets the folder appear. Collective.

        Raises:
            DataError: Images are missing or were added twice, parts do not lie on the same disk,
                or the folder has been made by somebody else meanwhile. Nothing is left then.
        """
        for file in self._files.values():
            file.close()
        parts: list[_Part] = comm.gather((self._ids, self._counts))
        try:
            _first_decides(lambda: self._publish(parts))
        except BaseException:
            self.abort()
            raise
        self._release()

    def abort(self) -> None:
        """Throws away what was added; safe to call again. Not collective."""
        for file in self._files.values():
            file.close()
        if comm.is_main_process():
            shutil.rmtree(self._temporary, ignore_errors=True)
        self._release()

    def _prepare(self) -> str:
        """Makes and locks the temporary folder, and clears away those of killed writers."""
        if proposals_exist(self.folder):
            raise DataError(
                f"{self.folder} already exists. Delete this directory to make the proposals again."
            )
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        _clean_leftovers(self.folder)
        temporary = self.folder.with_name(f".{self.folder.name}.{secrets.token_hex(8)}.partial")
        temporary.mkdir()
        self._lock = open(temporary / "lock", "xb")  # noqa: SIM115
        with suppress(OSError):  # a file system without locks
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        return str(temporary)

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _part(self, name: str, rank: int) -> Path:
        return self._temporary / f"{name}.{rank}.part"

    def _publish(self, parts: Sequence[_Part]) -> None:
        places = self._places(parts)
        counts = [places[str(image_id)][2] for image_id in self._image_ids]
        offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
        info = ProposalInfo(
            num_images=len(counts), num_boxes=int(offsets[-1]), **self._facts
        ).model_dump()
        for name, row in _COLUMNS.items():
            self._join(name, (info["num_boxes"], *row), places, len(parts))
        with _synced(self._temporary / "offsets.npy") as file:
            np.save(file, offsets, allow_pickle=False)
        for name, content in (("image_ids.json", self._image_ids), ("info.json", info)):
            with _synced(self._temporary / name) as file:
                indent = 2 if name == "info.json" else None
                file.write((json.dumps(content, indent=indent) + "\n").encode())
        try:
            os.rename(self._temporary, self.folder)
        except OSError as error:
            if not proposals_exist(self.folder):
                raise
            raise DataError(
                f"{self.folder} was made by another run meanwhile. Start again to use it."
            ) from error
        sync_folder(self.folder.parent)
        # Last: a folder without lock would not be known as the leftover of a killed writer.
        (self.folder / "lock").unlink()

    def _places(self, parts: Sequence[_Part]) -> dict[str, tuple[int, int, int]]:
        """Image id to process, first row in its part, and number of rows."""
        places: dict[str, tuple[int, int, int]] = {}
        twice = []
        for rank, (ids, counts) in enumerate(parts):
            begin = 0
            for image_id, count in zip(ids, counts, strict=True):
                if str(image_id) in places:
                    twice.append(image_id)
                places[str(image_id)] = (rank, begin, count)
                begin += count
            for name, row in _COLUMNS.items():
                path, size = self._part(name, rank), 4 * begin * int(np.prod(row))
                if not path.is_file() or path.stat().st_size != size:
                    raise DataError(
                        f"The part of process {rank}, {path}, is missing or incomplete. The "
                        "folder must lie on a disk that all machines share."
                    )
        missing = [i for i in self._image_ids if str(i) not in places]
        for what, some in (("were processed more than once", twice), ("are missing", missing)):
            if some:
                raise DataError(
                    f"{len(some)} of {len(self._image_ids)} images of {self._facts['dataset']!r} "
                    f"{what}, such as image {some[0]!r}. Each image of the data set must be "
                    "processed once; nothing was stored."
                )
        return places

    def _join(
        self,
        name: str,
        shape: tuple[int, ...],
        places: Mapping[str, tuple[int, int, int]],
        processes: int,
    ) -> None:
        """Writes an array from all parts, in the order of the data set, a few rows at a time."""
        row_bytes = 4 * int(np.prod(shape[1:]))
        paths = [self._part(name, rank) for rank in range(processes)]
        with ExitStack() as stack, _synced(self._temporary / f"{name}.npy") as file:
            parts = [stack.enter_context(open(path, "rb")) for path in paths]
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for image_id in self._image_ids:
                rank, begin, count = places[str(image_id)]
                parts[rank].seek(begin * row_bytes)
                file.write(parts[rank].read(count * row_bytes))
        for path in paths:
            path.unlink()


def _plain_id(image_id: Any) -> ImageId:
    """numpy's integers as Python's, which JSON knows."""
    return image_id if isinstance(image_id, str) else int(image_id)


def _first_decides(function: Any) -> Any:
    """Runs a function in the first process; all return its result or raise its error."""
    result, problem = None, None
    if comm.is_main_process():
        try:
            result = function()
        except Exception as error:
            problem = error
    result, problem = comm.all_gather((result, problem))[0]
    if problem is not None:
        raise problem
    return result


@contextmanager
def _synced(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file for writing and flushes it to the disk when the block ends."""
    with open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _clean_leftovers(folder: Path) -> None:
    """Removes the temporary folders of `folder` whose writers are dead: they can be large."""
    pattern = re.compile(rf"^\.{re.escape(folder.name)}\.[0-9a-f]{{16}}\.partial$")
    for candidate in folder.parent.iterdir():
        if not pattern.match(candidate.name) or not candidate.is_dir():
            continue
        with suppress(OSError), open(candidate / "lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(candidate, ignore_errors=True)
