"""Damaged proposals are refused, or what is read is still boxes and scores as they must be."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mask_rcnn_repro.data import ProposalFile, ProposalWriter, check_proposals
from mask_rcnn_repro.errors import DataError

from .proposal_helpers import FINGERPRINT, random_proposals, write_folder

IDS = [30, "b", 10, 0, 7]
FILES = ("boxes.npy", "scores.npy", "offsets.npy", "image_ids.json", "info.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "proposals", random_proposals(IDS))


def read_all(folder: Path) -> None:
    """Reads what can be read; nothing but a `DataError` may come of damage."""
    refused = ""
    try:
        check_proposals(folder)
        file = ProposalFile(folder)
        for image_id in file.image_ids:
            boxes, scores = file.get(image_id)
            assert boxes.shape == (len(scores), 4) and len(scores) <= file.info.topk
            assert boxes.dtype == scores.dtype == np.float32
            assert np.isfinite(boxes).all() and np.isfinite(scores).all()
            assert (boxes[:, 2:] >= boxes[:, :2]).all() and (np.abs(boxes) <= 1e6).all()
            assert (np.diff(scores) <= 0).all()
    except DataError as error:
        refused = str(error)
    assert not refused or str(folder) in refused


def damaged(whole: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "copy")
        shutil.copytree(whole, folder)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(change(content))
        read_all(folder)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), name=st.sampled_from(FILES))
def test_flipped_bytes(whole: Path, data: st.DataObject, name: str) -> None:
    size = (whole / name).stat().st_size
    flips = data.draw(
        st.dictionaries(st.integers(0, size - 1), st.integers(1, 255), min_size=1, max_size=4)
    )

    def flip(content: bytes) -> bytes:
        changed = bytearray(content)
        for place, mask in flips.items():
            changed[place] ^= mask
        return bytes(changed)

    damaged(whole, name, flip)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(FILES), cut=st.floats(0, 1), tail=st.binary(max_size=20))
def test_cut_and_lengthened(whole: Path, name: str, cut: float, tail: bytes) -> None:
    damaged(whole, name, lambda content: content[: int(cut * len(content))] + tail)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(FILES[:3]),
    dtype=st.sampled_from(["f2", "f4", "f8", ">f4", "i4", "i8", ">i8", "u8", "?", "c8", "U3", "O"]),
    shape=st.sampled_from([(), (0,), (6,), (11,), (11, 4), (4, 11), (11, 5), (44,), (2, 2, 2)]),
    order=st.sampled_from("CF"),
)
def test_other_types_and_shapes(
    whole: Path, name: str, dtype: str, shape: tuple[int, ...], order: str
) -> None:
    array = np.zeros(shape, dtype=dtype, order=order)  # type: ignore[call-overload]
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, array, allow_pickle=True)
        content = Path(file.name).read_bytes()
    damaged(whole, name, lambda _: content)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([5, 5, 4, 9], "upside down"),  # x, y, width, height, most likely
        ([5, 5, 9, 4], "upside down"),
        ([0, 0, 1e7, 9], "far outside"),
        ([np.nan, 0, 3, 9], "not finite"),
        ([-np.inf, 0, 3, 9], "not finite"),
    ],
)
def test_boxes_that_are_none(tmp_path: Path, box: list[float], message: str) -> None:
    proposals = {7: (np.array([[0, 0, 5, 5], box], np.float32), np.array([1, 0], np.float32))}
    file = ProposalFile(write_folder(tmp_path / "proposals", proposals))
    with pytest.raises(DataError, match=message):
        file.get(7)


def test_boxes_upside_down_are_not_written(tmp_path: Path) -> None:
    writer = ProposalWriter(
        tmp_path / "p", dataset="some_data", fingerprint=FINGERPRINT, image_ids=[7], topk=6
    )
    with pytest.raises(DataError, match="image 7 are upside down"):
        writer.add(7, np.array([[5, 5, 4, 9]]), np.array([1]))
    writer.abort()
