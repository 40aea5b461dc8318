"""Stored proposals: the format, the reader, the writer, and faults of all kinds."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mask_rcnn_repro.data import (
    ProposalFile,
    ProposalWriter,
    check_proposals,
    dataset_fingerprint,
    proposals_exist,
)
from mask_rcnn_repro.data.proposals import writer as proposal_writer
from mask_rcnn_repro.errors import DataError

from .data_helpers import content, write
from .proposal_helpers import FINGERPRINT, Proposals, random_proposals, write_folder

IDS = [30, "b", 10, 0, 7]


def writer(folder: Path, image_ids: Any = IDS, **options: Any) -> ProposalWriter:
    options = {"dataset": "some_data", "fingerprint": FINGERPRINT, "topk": 6, **options}
    return ProposalWriter(folder, image_ids=image_ids, **options)


def written(folder: Path, proposals: Proposals, order: Any = None, **options: Any) -> ProposalFile:
    made = writer(folder, list(proposals), **options)
    for image_id in order or proposals:
        made.add(image_id, *proposals[image_id])
    made.finish()
    return ProposalFile(folder)


def assert_holds(file: ProposalFile, proposals: Proposals) -> None:
    assert file.image_ids == list(proposals)
    for image_id, expected in proposals.items():
        for found, array in zip(file.get(image_id), expected, strict=True):
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, array)


# --- writing and reading ----------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    proposals = random_proposals(IDS)
    source = {"config": "rpn/r50_fpn", "config_hash": "abc", "seed": 3}
    file = written(tmp_path / "a" / "b", proposals, order=[7, 10, "b", 30, 0], source=source)
    assert_holds(file, proposals)
    assert file.info.model_dump() == {
        "format_version": 1,
        "dataset": "some_data",
        "fingerprint": FINGERPRINT,
        "num_images": 5,
        "num_boxes": sum(len(scores) for _, scores in proposals.values()),
        "topk": 6,
        "source": source,
    }
    names = ["boxes.npy", "image_ids.json", "info.json", "offsets.npy", "scores.npy"]
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == names
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]  # nothing temporary is left


def test_arrays_are_plain_npy_of_the_described_layout(tmp_path: Path) -> None:
    proposals = random_proposals(IDS)
    written(tmp_path / "ours", proposals)
    write_folder(tmp_path / "numpy", proposals)
    for name in ("boxes.npy", "scores.npy", "offsets.npy"):
        ours, plain = (np.load(tmp_path / f / name) for f in ("ours", "numpy"))
        assert ours.dtype == plain.dtype and ours.shape == plain.shape
        np.testing.assert_array_equal(ours, plain)
    assert_holds(ProposalFile(tmp_path / "numpy"), proposals)


def test_hand_written_bytes(tmp_path: Path) -> None:
    made = writer(tmp_path / "p", [5, 6], topk=2)
    made.add(6, np.zeros((0, 4)), np.zeros(0))
    boxes = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]])
    made.add(5, boxes, np.array([-1.5, 2.0, 0.25]))  # sorted and cut down to topk
    made.finish()
    assert np.load(tmp_path / "p" / "boxes.npy").tolist() == [[5, 6, 7, 8], [9, 10, 11, 12]]
    assert np.load(tmp_path / "p" / "scores.npy").tolist() == [2.0, 0.25]
    assert np.load(tmp_path / "p" / "offsets.npy").tolist() == [0, 2, 2]
    assert json.loads((tmp_path / "p" / "image_ids.json").read_text()) == [5, 6]


def test_equal_scores_keep_their_order(tmp_path: Path) -> None:
    boxes = np.arange(40, dtype=np.float32).reshape(10, 4)
    scores = np.array([1, 2] * 5, dtype=np.float32)
    made = writer(tmp_path / "p", [1], topk=7)
    made.add(1, boxes, scores)
    made.finish()
    kept, _ = ProposalFile(tmp_path / "p").get(1)
    np.testing.assert_array_equal(kept, boxes[[1, 3, 5, 7, 9, 0, 2]])


def test_no_proposals_at_all(tmp_path: Path) -> None:
    nothing = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    file = written(tmp_path / "p", dict.fromkeys([1, 2], nothing))
    boxes, logits = file.get(2)
    assert boxes.shape == (0, 4) and logits.shape == (0,)


def test_arrays_are_mapped_and_opened_late(tmp_path: Path) -> None:
    file = written(tmp_path / "p", random_proposals(IDS))
    (tmp_path / "p" / "boxes.npy").rename(tmp_path / "away")
    assert ProposalFile(tmp_path / "p").info == file.info  # info alone is read at once
    (tmp_path / "away").rename(tmp_path / "p" / "boxes.npy")
    opened = file.open()
    for array in (opened.boxes, opened.scores, opened.offsets):
        assert isinstance(array, np.memmap) and array.mode == "r"
    boxes, logits = file.get(30)
    assert not isinstance(boxes, np.memmap) and boxes.base is None and boxes.flags.writeable
    boxes += 1
    logits += 1
    assert not np.array_equal(file.get(30)[0], boxes)


def test_reading_an_image_touches_little_memory(tmp_path: Path) -> None:
    """A file of 400 MB with holes, of which almost nothing is resident after reading."""
    images, each = 10_000, 2000
    rows = images * each
    folder = write_folder(tmp_path / "p", {i: random_proposals([1])[1] for i in range(3)})
    np.save(folder / "offsets.npy", np.arange(images + 1, dtype=np.int64) * each)
    for name, shape in (("boxes", (rows, 4)), ("scores", (rows,))):
        with open(folder / f"{name}.npy", "wb") as out:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(out, header)
            out.truncate(out.tell() + 4 * int(np.prod(shape)))
    (folder / "image_ids.json").write_text(json.dumps(list(range(images))))
    info = json.loads((folder / "info.json").read_text())
    info.update(num_images=images, num_boxes=rows, topk=each)
    (folder / "info.json").write_text(json.dumps(info))

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    file, before = ProposalFile(folder), resident()
    assert file.get(9_999)[0].shape == (each, 4)
    assert file.get(5_000)[1].shape == (each,)
    assert resident() - before < 40 * 2**20


def test_pickled_readers_are_their_path(tmp_path: Path) -> None:
    proposals = random_proposals(IDS)
    file = written(tmp_path / "p", proposals)
    file.open()
    data = pickle.dumps(file)
    assert len(data) < 300
    assert_holds(pickle.loads(data), proposals)


def test_ids_are_compared_as_text(tmp_path: Path) -> None:
    file = written(tmp_path / "p", random_proposals(IDS))
    np.testing.assert_array_equal(file.get("10")[0], file.get(np.int64(10))[0])
    assert "10" in file and np.int64(10) in file and 11 not in file
    assert len(file) == 5


def test_numpy_integers_as_ids(tmp_path: Path) -> None:
    proposals = random_proposals([3, 4])
    made = writer(tmp_path / "p", list(np.array([3, 4])))
    for image_id in np.array([4, 3]):
        made.add(image_id, *proposals[int(image_id)])
    made.finish()
    assert_holds(ProposalFile(tmp_path / "p"), proposals)


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 5), max_size=8), data=st.data())
def test_any_order_and_any_counts(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], data: st.DataObject
) -> None:
    values = st.floats(-1e6, 1e6, width=32)
    proposals: Proposals = {}
    for image_id, n in enumerate(counts):
        boxes = data.draw(st.lists(st.tuples(*[values] * 4), min_size=n, max_size=n))
        scores = sorted(data.draw(st.lists(values, min_size=n, max_size=n)), reverse=True)
        corners = np.array(boxes, np.float32).reshape(-1, 2, 2)
        proposals[image_id] = (
            np.hstack([corners.min(axis=1), corners.max(axis=1)]),
            np.array(scores, np.float32),
        )
    order = data.draw(st.permutations(list(proposals)))
    folder = tmp_path_factory.mktemp("any") / "p"
    assert_holds(written(folder, proposals, order), proposals)


# --- faults in writing ------------------------------------------------------------------------


def test_missing_double_and_unknown_images(tmp_path: Path) -> None:
    proposals = random_proposals([1, 2])
    made = writer(tmp_path / "p", [1, 2])
    made.add(1, *proposals[1])
    with pytest.raises(DataError, match=r"1 of 2 images of 'some_data' .*missing.*image 2"):
        made.finish()
    made = writer(tmp_path / "p", [1, 2])
    for image_id in (1, 2, 1):
        made.add(image_id, *proposals[image_id])
    with pytest.raises(DataError, match=r"1 of 2 images .* more than once.* image 1"):
        made.finish()
    made = writer(tmp_path / "p", [1, 2])
    with pytest.raises(DataError, match=r"image 3, which is not in 'some_data'"):
        made.add(3, *proposals[1])
    made.abort()
    made.abort()
    assert list(tmp_path.iterdir()) == []


def test_values_that_cannot_be_stored(tmp_path: Path) -> None:
    made = writer(tmp_path / "p", [1])
    with pytest.raises(DataError, match=r"\(2, 4\) and scores \(3,\)"):
        made.add(1, np.zeros((2, 4)), np.zeros(3))
    with pytest.raises(DataError, match=r"\(3,\) and scores \(3,\)"):
        made.add(1, np.zeros(3), np.zeros(3))
    for place in ((0, 2), 1):
        arrays = [np.zeros((2, 4)), np.zeros(2)]
        arrays[not isinstance(place, tuple)][place] = np.nan
        with pytest.raises(DataError, match="not finite: the RPN has diverged"):
            made.add(1, *arrays)
    made.abort()


def test_existing_proposals_are_never_overwritten(tmp_path: Path) -> None:
    proposals = random_proposals([1, 2])
    late = writer(tmp_path / "p", [1, 2])
    file = written(tmp_path / "p", proposals)
    with pytest.raises(DataError, match=r"already exists. Delete"):
        writer(tmp_path / "p")
    nothing = (np.zeros((0, 4)), np.zeros(0))
    for image_id in (1, 2):
        late.add(image_id, *nothing)
    with pytest.raises(DataError, match=r"made by another run meanwhile"):
        late.finish()
    assert_holds(file, proposals)
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def _killed(folder: Path, moment: str) -> None:
    """Ends this process without any clean-up at a moment of writing."""
    die: Callable[..., Any] = lambda *_, **__: os._exit(9)  # noqa: E731
    made = writer(folder)
    proposals = random_proposals(IDS)
    if moment == "adding":
        made.add(30, *proposals[30])
        die()
    for image_id in IDS:
        made.add(image_id, *proposals[image_id])
    if moment == "arrays":
        write_header = np.lib.format.write_array_header_1_0

        def header(file: Any, facts: Any) -> None:
            write_header(file, facts)
            if len(facts["shape"]) == 1:
                die()  # between boxes.npy and the content of scores.npy

        np.lib.format.write_array_header_1_0 = header
    else:
        target, name = {
            "offsets": (np, "save"),
            "info": (proposal_writer.json, "dumps"),
            "renaming": (proposal_writer.os, "rename"),
            "renamed": (proposal_writer, "sync_folder"),
        }[moment]
        setattr(target, name, die)
    made.finish()


@pytest.mark.parametrize("moment", ["adding", "arrays", "offsets", "info", "renaming"])
def test_a_kill_leaves_nothing_that_looks_complete(tmp_path: Path, moment: str) -> None:
    folder = tmp_path / "p"
    child = multiprocessing.get_context("fork").Process(target=_killed, args=(folder, moment))
    child.start()
    child.join()
    assert child.exitcode == 9
    assert not proposals_exist(folder)
    (left,) = tmp_path.iterdir()
    living = writer(tmp_path / "other")  # of another target: does not clear p's leftovers
    assert left.exists()
    proposals = random_proposals(IDS)
    assert_holds(written(folder, proposals), proposals)
    assert not left.exists()  # leftovers of the dead are cleared away
    living.abort()


def test_a_kill_after_the_renaming_leaves_all(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    child = multiprocessing.get_context("fork").Process(target=_killed, args=(folder, "renamed"))
    child.start()
    child.join()
    assert child.exitcode == 9
    check_proposals(folder, fingerprint=FINGERPRINT)
    assert_holds(ProposalFile(folder), random_proposals(IDS))


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    proposals = random_proposals([1, 2])
    first = writer(tmp_path / "p", [1, 2])
    second = writer(tmp_path / "p", [1, 2])
    for image_id in (1, 2):
        first.add(image_id, *proposals[image_id])
    first.finish()
    second.abort()
    assert_holds(ProposalFile(tmp_path / "p"), proposals)


def _process(rank: int, size: int, rendezvous: str, folder: Path, images: int, fault: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size
    )
    proposals = random_proposals(list(range(images)))
    made = writer(folder, list(proposals))
    mine = list(proposals)[rank::size]
    if fault == "twice" and rank == 1:
        mine.append(0)
    for image_id in mine:
        made.add(image_id, *proposals[image_id])
    if fault == "lost" and rank == 1:
        made._part("boxes", 1).unlink()
    if not fault:
        made.finish()
        return
    with pytest.raises(DataError, match={"twice": "more than once", "lost": "all machines"}[fault]):
        made.finish()


@pytest.mark.parametrize(("images", "fault"), [(7, ""), (1, ""), (7, "twice"), (7, "lost")])
def test_processes_store_together(tmp_path: Path, images: int, fault: str) -> None:
    """Interleaved images, a process without any image, and faults that all processes report."""
    args = (2, str(tmp_path / "rendezvous"), tmp_path / "x" / "p", images, fault)
    torch.multiprocessing.start_processes(_process, args, nprocs=2, start_method="fork")
    if fault:
        assert list((tmp_path / "x").iterdir()) == []
        return
    proposals = random_proposals(list(range(images)))
    assert_holds(ProposalFile(tmp_path / "x" / "p"), proposals)
    written(tmp_path / "one", proposals)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "x" / "p" / file.name).read_bytes()


def test_a_disk_that_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = str(tmp_path / "on_another_machine")
    monkeypatch.setattr(ProposalWriter, "_prepare", lambda self: elsewhere)
    with pytest.raises(DataError, match=rf"Process 0 does not see {elsewhere}.* all machines"):
        writer(tmp_path / "p")


# --- faults in reading ------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "p", random_proposals(IDS))


def test_missing_folder(tmp_path: Path) -> None:
    assert not proposals_exist(tmp_path / "p")
    with pytest.raises(DataError, match=r"stored proposals in .*/p: .* missing"):
        ProposalFile(tmp_path / "p")
    (tmp_path / "p").mkdir()
    assert not proposals_exist(tmp_path / "p")


@pytest.mark.parametrize(
    "name", ["info.json", "image_ids.json", "offsets.npy", "boxes.npy", "scores.npy"]
)
@pytest.mark.parametrize("size", [None, 0, 5, -1])
def test_missing_and_truncated_files(stored: Path, name: str, size: int | None) -> None:
    file = stored / name
    if size is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:size])
    assert proposals_exist(stored)
    with pytest.raises(DataError, match=rf"{stored}.*{name}.*[Dd]elete") as caught:
        check_proposals(stored)
    assert ("is missing" in str(caught.value)) == (size is None)


class _Trap:
    def __reduce__(self) -> Any:
        return os.mkdir, (f"/tmp/never_{os.getpid()}",)


@pytest.mark.parametrize("inside", [True, False])
def test_pickles_are_refused_unopened(stored: Path, inside: bool) -> None:
    if inside:
        np.save(stored / "scores.npy", np.array([_Trap()], dtype=object), allow_pickle=True)
    else:
        (stored / "scores.npy").write_bytes(pickle.dumps(_Trap()))
    with pytest.raises(DataError, match=r"scores\.npy is truncated"):
        ProposalFile(stored).open()
    assert not os.path.exists(f"/tmp/never_{os.getpid()}")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("boxes", lambda a: a.astype(np.float64), r"boxes.npy is float64 .*float32 \(\d+, 4\)"),
        ("boxes", lambda a: a[:, :3], r"boxes.npy is float32 \(\d+, 3\)"),
        ("scores", lambda a: a[:-1], r"scores.npy is float32"),
        ("scores", lambda a: np.append(a, a[-1:]), r"scores.npy is float32"),
        ("offsets", lambda a: a.astype(np.int32), r"offsets.npy is int32"),
        ("offsets", lambda a: a[:-1], r"offsets.npy is int64 \(5,\), expected is int64 \(6,\)"),
        ("offsets", lambda a: np.append([1], a[1:]), r"does not ascend from 0"),
        ("offsets", lambda a: np.append(a[:-1], a[-1] + 1), r"does not ascend from 0"),
        ("offsets", lambda a: a[[0, 2, 1, 3, 4, 5]], r"does not ascend from 0"),
        ("offsets", lambda a: np.array([0] * 5 + [a[-1]]), r"an image has \d+ boxes, topk is"),
    ],
)
def test_arrays_that_do_not_fit(stored: Path, name: str, change: Any, message: str) -> None:
    file = stored / f"{name}.npy"
    np.save(file, change(np.load(file)))
    with pytest.raises(DataError, match=message):
        ProposalFile(stored).open()


def test_values_that_cannot_be_right(stored: Path) -> None:
    for name, index, value, message in (
        ("boxes", (0, 1), np.nan, "not finite"),
        ("scores", 0, np.inf, "not finite"),
        ("scores", 0, -99.0, "do not descend"),
    ):
        array = np.load(stored / f"{name}.npy")
        kept, array[index] = array.copy(), value
        np.save(stored / f"{name}.npy", array)
        with pytest.raises(DataError, match=message):
            ProposalFile(stored).get(30)
        np.save(stored / f"{name}.npy", kept)
    assert len(ProposalFile(stored).get(30)[0]) > 1  # otherwise nothing could fail to descend


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([30, "b", 10, 0], "lists 4 images, info.json says 5"),
        ([30, "b", 10, 0, "10"], "1 image ids occur more than once"),
        ([30, "b", 10, 0, True], "not a list of numbers or texts"),
        ({"30": 1}, "not a list"),
    ],
)
def test_wrong_ids(stored: Path, ids: Any, message: str) -> None:
    (stored / "image_ids.json").write_text(json.dumps(ids))
    with pytest.raises(DataError, match=message):
        ProposalFile(stored).open()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format_version": 2}, r"format version 2; this version of the project reads version 1"),
        ({"format_version": ...}, r"format version None"),
        ({"num_boxes": "3"}, r"num_boxes: Input should be a valid integer"),
        ({"fingerprint": "abc"}, r"fingerprint: String should match"),
        ({"topk": ...}, r"topk: Field required"),
        ({"extra": 1}, r"extra: Extra inputs are not permitted"),
    ],
)
def test_wrong_info(stored: Path, fields: dict[str, Any], message: str) -> None:
    info = {**json.loads((stored / "info.json").read_text()), **fields}
    info = {key: value for key, value in info.items() if value is not ...}
    (stored / "info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=rf"{message}(.|\n)*[Dd]elete"):
        ProposalFile(stored)


def test_unknown_image(stored: Path) -> None:
    with pytest.raises(
        DataError, match=rf"{stored} have no image 99: .* 5 images of 'some_data'.*delete {stored}"
    ):
        ProposalFile(stored).get(99)


# --- stale proposals --------------------------------------------------------------------------


def test_stale_proposals_are_named(tmp_path: Path) -> None:
    source = {"config": "rpn/r50_c4", "profile": "tiny", "config_hash": "a1"}
    folder = write_folder(tmp_path / "p", random_proposals(IDS), source=source, topk=300)
    check_proposals(folder)
    check_proposals(folder, fingerprint=FINGERPRINT, source_hash="a1", topk=300)
    other = "sha256:" + "f" * 64
    with pytest.raises(DataError) as caught:
        check_proposals(folder, fingerprint=other, source_hash="b2", topk=301)
    message = str(caught.value)
    for part in (
        "the RPN config rpn/r50_c4 (tiny) with config hash a1; the hash is now b2",
        f"'some_data' with annotations {FINGERPRINT}; the annotations are now {other}",
        "keep 300 boxes an image; 301 are asked for",
        f"Delete the folder {folder}",
    ):
        assert part in message
    with pytest.raises(DataError) as caught:
        check_proposals(folder, fingerprint=FINGERPRINT, source_hash="b2")
    assert "annotations" not in str(caught.value)


def test_proposals_from_elsewhere_have_no_hash(stored: Path) -> None:
    check_proposals(stored, fingerprint=FINGERPRINT)
    with pytest.raises(DataError, match=r"an unknown source with config hash None"):
        check_proposals(stored, source_hash="b2")


def test_the_data_set_is_fingerprinted(tmp_path: Path) -> None:
    file, root = write(tmp_path / "data", content(2))
    name = "proposals_data"
    digest = dataset_fingerprint(name, file, root)["sha256"]
    ids = random_proposals([10, 20])
    folder = write_folder(tmp_path / "p", ids, dataset=name, fingerprint=f"sha256:{digest}")
    check_proposals(folder, names=[name], json=file, image_root=root)
    changed = content(2)
    changed["annotations"][0]["bbox"][0] += 1
    Path(file).write_text(json.dumps(changed))
    with pytest.raises(DataError, match=rf"'{name}' with annotations sha256:{digest}; .* are now"):
        check_proposals(folder, names=name, json=file, image_root=root)
