"""Stored proposals: per data set a folder of memory-mapped arrays, without pickle.

Shapes: N images, B boxes in all, n boxes of one image. ``boxes.npy`` (B, 4) float32, absolute XYXY
in the frame of the original image; ``scores.npy`` (B,) float32 objectness logits, descending
within an image; ``offsets.npy`` (N + 1,) int64: image i has the rows offsets[i] to offsets[i + 1].
``image_ids.json`` lists the images' ids in the order of the data set, ``info.json`` says what the
proposals belong to (:class:`ProposalInfo`). ``docs/proposals.md`` describes how to write them with
numpy alone; :mod:`mask_rcnn_repro.data.proposals.writer` writes what an RPN predicts.
"""

from __future__ import annotations

import json as json_module
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mask_rcnn_repro.errors import DataError

FORMAT_VERSION = 1

_FARTHEST = 1e6
"""Pixels; what flipped bits make of a coordinate mostly lies beyond."""

ImageId = int | str


class ProposalInfo(BaseModel):
    """What is in ``info.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format_version: int = Field(description="Version of the format, 1.")
    dataset: str = Field(min_length=1, description="Name of the data set.")
    fingerprint: str = Field(
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="Of its annotations: `dataset_fingerprint(...)['sha256']` after `sha256:`.",
    )
    num_images: int = Field(ge=0, description="Images, with or without proposals.")
    num_boxes: int = Field(ge=0, description="Boxes in all.")
    topk: int = Field(ge=1, description="No image has more boxes than this.")
    source: dict[str, Any] = Field(
        default={},
        description="What made the proposals. Of an RPN of this project: `config`, `profile`, "
        "`config_hash`, `seed`, `checkpoint_sha256`, `iterations`, `recall`, `image_bits`; else "
        "anything.",
    )


class _Content(NamedTuple):
    image_ids: list[ImageId]
    rows: dict[str, int]
    offsets: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


class ProposalFile:
    """Reads stored proposals, image by image, without loading the rest.

    Only ``info.json`` is read at once; arrays are memory-mapped when the first image is asked for.
    A pickled reader is its path, so that loader workers, forked or spawned, open their own.

    Args:
        folder: As :class:`mask_rcnn_repro.data.ProposalWriter` or somebody else wrote it.

    Attributes:
        folder: As given.
        info: Content of ``info.json``.

    Raises:
        DataError: The directory or its info.json is missing, broken or of an unknown version.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.info = _read_info(self.folder)
        self._content: _Content | None = None

    def __reduce__(self) -> tuple[type[ProposalFile], tuple[str]]:
        return type(self), (str(self.folder),)

    def __len__(self) -> int:
        return self.info.num_images

    def __contains__(self, image_id: object) -> bool:
        return str(image_id) in self.open().rows

    @property
    def image_ids(self) -> list[ImageId]:
        """Ids of the images in the order of the data set."""
        return list(self.open().image_ids)

    def get(self, image_id: ImageId) -> tuple[np.ndarray, np.ndarray]:
        """Reads the proposals of one image.

        Args:
            image_id: Compared as text, as in Detectron2.

        Returns:
            Boxes (n, 4) as absolute XYXY in the original image's frame and their objectness
            logits (n,), descending; both float32 and the caller's own. n may be 0.

        Raises:
            DataError: The image is not in it, or arrays are damaged.
        """
        content = self.open()
        row = content.rows.get(str(image_id))
        if row is None:
            raise DataError(
                f"The stored proposals in {self.folder} have no image {image_id!r}: they are of "
                f"{len(self)} images of {self.info.dataset!r}. Use the proposals of the data set "
                f"that is read; if these should be it, delete {self.folder} to have them made "
                "again."
            )
        begin, end = (int(x) for x in content.offsets[row : row + 2])
        boxes, logits = np.array(content.boxes[begin:end]), np.array(content.scores[begin:end])
        if not (np.isfinite(boxes).all() and np.isfinite(logits).all()):
            raise self._damaged(f"image {image_id!r} has boxes or scores that are not finite")
        if (boxes[:, 2:] < boxes[:, :2]).any():
            raise self._damaged(
                f"image {image_id!r} has boxes that are upside down (they are x1, y1, x2, y2)"
            )
        if (np.abs(boxes) > _FARTHEST).any():
            raise self._damaged(f"image {image_id!r} has boxes far outside of any image")
        if (logits[1:] > logits[:-1]).any():
            raise self._damaged(f"the scores of image {image_id!r} do not descend")
        return boxes, logits

    def open(self) -> _Content:
        """Maps the arrays, if that was not done before, and checks that they fit each other.

        Raises:
            DataError: A file is missing, truncated, pickled, or of another shape or type.
        """
        if self._content is None:
            self._content = self._open()
        return self._content

    def _open(self) -> _Content:
        image_ids = _read_json(self.folder / "image_ids.json")
        if not isinstance(image_ids, list) or not all(type(i) in (int, str) for i in image_ids):
            raise self._damaged("image_ids.json is not a list of numbers or texts")
        images, boxes = len(image_ids), self.info.num_boxes
        if images != self.info.num_images:
            raise self._damaged(
                f"image_ids.json lists {images} images, info.json says {self.info.num_images}"
            )
        rows = {str(image_id): row for row, image_id in enumerate(image_ids)}
        if len(rows) != images:
            raise self._damaged(f"{images - len(rows)} image ids occur more than once")
        content = _Content(
            image_ids,
            rows,
            self._map("offsets.npy", np.dtype(np.int64), (images + 1,)),
            self._map("boxes.npy", np.dtype(np.float32), (boxes, 4)),
            self._map("scores.npy", np.dtype(np.float32), (boxes,)),
        )
        counts = np.diff(content.offsets)
        if content.offsets[0] != 0 or content.offsets[-1] != boxes or (counts < 0).any():
            raise self._damaged(f"offsets.npy does not ascend from 0 to {boxes}, the boxes")
        if images and counts.max() > self.info.topk:
            raise self._damaged(f"an image has {counts.max()} boxes, topk is {self.info.topk}")
        return content

    def _map(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        path = self.folder / name
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise self._damaged(f"{name} is missing") from error
        except Exception as error:  # of many kinds: a header is parsed as Python source
            raise self._damaged(
                f"{name} is truncated or is not a plain .npy file ({error})"
            ) from error
        if not isinstance(array, np.memmap) or array.dtype != dtype or array.shape != shape:
            found = f"{getattr(array, 'dtype', type(array))} {getattr(array, 'shape', '')}"
            raise self._damaged(f"{name} is {found}, expected is {dtype} {shape}")
        return array

    def _damaged(self, what: str) -> DataError:
        return DataError(
            f"The stored proposals in {self.folder} are damaged: {what}. Delete the folder to have "
            "them made again; docs/proposals.md describes the format."
        )


def proposals_exist(folder: str | os.PathLike[str]) -> bool:
    """Whether something is stored there; :func:`check_proposals` checks whether it can be used.

    Writers let the folder appear in one step, so what exists is complete.
    """
    return Path(folder).is_dir() and any(Path(folder).iterdir())


def check_proposals(
    folder: str | os.PathLike[str],
    *,
    names: str | Sequence[str] | None = None,
    json: str | None = None,
    image_root: str | None = None,
    fingerprint: str | None = None,
    source_hash: str | None = None,
    topk: int | None = None,
) -> None:
    """Checks that stored proposals are whole and are those that are asked for.

    Args:
        folder: What exists (:func:`proposals_exist`).
        names: The data set, with `json` and `image_root` as for :func:`dataset_fingerprint`.
        json: See `names`.
        image_root: See `names`.
        fingerprint: "sha256:..." of the data set, in place of `names`; neither checks no data.
        source_hash: Hash of the RPN's config; None takes proposals from any source.
        topk: Wanted boxes per image. None takes as many as there are.

    Raises:
        DataError: Damaged, of another format version, or stale; names everything that is.
    """
    file = ProposalFile(folder)
    file.open()
    info, stale = file.info, []
    made_by = info.source.get("config_hash")
    if source_hash is not None and made_by != source_hash:
        stale.append(
            f"they were made by {_source_name(info.source)} with config hash {made_by}; the hash "
            f"is now {source_hash}"
        )
    if fingerprint is None and names is not None:
        from mask_rcnn_repro.data.fingerprint import dataset_fingerprint

        fingerprint = f"sha256:{dataset_fingerprint(names, json, image_root)['sha256']}"
    if fingerprint is not None and info.fingerprint != fingerprint:
        now = f" of {names}" if names else ""
        stale.append(
            f"they are of {info.dataset!r} with annotations {info.fingerprint}; the annotations"
            f"{now} are now {fingerprint}"
        )
    if topk is not None and info.topk < topk:
        stale.append(f"they keep {info.topk} boxes an image; {topk} are asked for")
    if stale:
        raise DataError(
            f"The stored proposals in {file.folder} cannot be used: {'; and '.join(stale)}. Delete "
            f"the folder {file.folder} to have them made again."
        )


def _source_name(source: Mapping[str, Any]) -> str:
    if "config" not in source:
        return "an unknown source"
    profile = f" ({source['profile']})" if source.get("profile") else ""
    return f"the RPN config {source['config']}{profile}"


def _read_info(folder: Path) -> ProposalInfo:
    if not folder.is_dir():
        raise DataError(
            f"There are no stored proposals in {folder}: the folder is missing. Run the RPN's "
            "config to have them made, or correct the path; docs/proposals.md describes the format."
        )
    content = _read_json(folder / "info.json")
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"The stored proposals in {folder} have format version {version}; this version of the "
            f"project reads version {FORMAT_VERSION}. Delete the folder {folder} to have them made "
            "again."
        )
    try:
        return ProposalInfo.model_validate(content)
    except ValidationError as error:
        lines = "; ".join(
            f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()
        )
        raise DataError(
            f"{folder / 'info.json'} does not describe stored proposals ({lines}). "
            f"docs/proposals.md describes the format; delete {folder} to have them made again."
        ) from error


def _read_json(path: Path) -> Any:
    try:
        return json_module.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"The stored proposals in {path.parent} are damaged: {path.name} is missing. Delete "
            "the folder to have them made again; docs/proposals.md describes the format."
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"The stored proposals in {path.parent} are damaged: {path.name} cannot be read "
            f"({error}). Delete the folder to have them made again."
        ) from error
