"""Inputs, names of results, command line, frames of videos."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO

from mask_rcnn_repro.errors import ConfigError, DataError
from mask_rcnn_tools.predict import video_io
from mask_rcnn_tools.predict.cli import parse_args
from mask_rcnn_tools.predict.coco_writer import coco_writer
from mask_rcnn_tools.predict.output_files import plan_output_files
from mask_rcnn_tools.predict.sources import Source, find_sources, natural_key
from mask_rcnn_tools.predict.video_io import FrameReader, VideoWriter
from mask_rcnn_tools.predict.videos import repetitions


def make(folder: Path, *names: str) -> None:
    """Empty files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def found(*arguments: str | Path, leave_out: Path | None = None) -> list[str]:
    return [s.name for s in find_sources([str(a) for a in arguments], leave_out).files]


def test_folders_in_natural_order(tmp_path: Path) -> None:
    names = ("i10.jpg", "I9.JPG", "i1.png", "b/2.png", "b/10.png", "a1/x.webp", "clip.MP4")
    make(tmp_path, *names, "notes.txt", ".hidden.png", ".git/x.png", "c/readme")
    assert found(tmp_path) == [
        *("clip.MP4", "i1.png", "I9.JPG", "i10.jpg", "a1/x.webp", "b/2.png", "b/10.png"),
    ]
    sources = find_sources([str(tmp_path)])
    assert sources.left_out == {".txt": 1, "(no suffix)": 1} and sources.root == tmp_path
    assert [s.is_video for s in sources.files] == [True] + [False] * 6
    assert found(tmp_path / "i*.png", tmp_path / "b" / "*.png") == ["i1.png", "b/2.png", "b/10.png"]
    assert found(tmp_path / "**" / "2.png") == ["2.png"]
    assert found(tmp_path / "notes.txt") == ["notes.txt"]  # whoever names a file means it
    assert found(tmp_path, leave_out=tmp_path / "b") == [
        *("clip.MP4", "i1.png", "I9.JPG", "i10.jpg", "a1/x.webp"),
    ]


def test_equal_names_do_not_collide(tmp_path: Path) -> None:
    make(tmp_path, "a/x.jpg", "b/x.jpg", "b/[1].png")
    assert found(tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.jpg") == ["a/x.jpg", "b/x.jpg"]
    assert found(tmp_path / "a" / "x.jpg", tmp_path / "b" / ".." / "a" / "x.jpg") == ["x.jpg"]
    assert found(tmp_path / "b" / "[1].png") == ["[1].png"]  # a file, not a pattern


def test_links_in_folders(tmp_path: Path) -> None:
    make(tmp_path, "in/a.png", "other/b.png")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    assert found(tmp_path / "in") == ["a.png", "linked/b.png"]
    (tmp_path / "in" / "nowhere.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match="is a link to nothing"):
        found(tmp_path / "in" / "nowhere.png")


def test_nothing_is_told(tmp_path: Path) -> None:
    make(tmp_path, "notes.txt")
    with pytest.raises(DataError, match=r"no image .*: 1 \.txt"):
        found(tmp_path)
    with pytest.raises(DataError, match="does not exist either"):
        found(tmp_path / "a" / "b.jpg")
    with pytest.raises(DataError, match="No file matches the pattern"):
        found(tmp_path / "*.jpg")


@given(st.lists(st.text(st.characters(blacklist_characters="/\0"), min_size=1), max_size=6))
def test_natural_order_is_an_order(names: list[str]) -> None:
    ordered = sorted(names, key=natural_key)
    assert sorted(ordered, key=natural_key) == ordered
    assert sorted(["a²", "a1", "a٣"], key=natural_key)[0] == "a1"  # digits of other kinds


def test_results_keep_names_and_places(tmp_path: Path) -> None:
    names = ("a/x.JPG", "x.bmp", "x.bmp.png", "v.mp4", "v.mov", "v.mov.mp4")
    sources = [Source(tmp_path / n, n, n.startswith("v")) for n in names]
    planned = plan_output_files(Path("out"), sources)
    drawn = [planned[source].drawn.as_posix() for source in sources]
    assert drawn == [
        *("out/pictures/a/x.JPG", "out/pictures/x.bmp.png", "out/pictures/x.bmp.png.png"),
        *("out/videos/v.mp4", "out/videos/v.mov.mp4", "out/videos/v.mov.mp4.mp4"),
    ]
    frames = planned[sources[4]].frames
    assert frames is not None and frames.as_posix() == "out/frames/v.mov.jsonl"


def test_inputs_are_never_results(tmp_path: Path) -> None:
    make(tmp_path, "pictures/x.png", "real/y.png")
    with pytest.raises(ConfigError, match="would overwrite an input"):
        plan_output_files(tmp_path, [Source(tmp_path / "pictures" / "x.png", "x.png", False)])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "pictures").symlink_to(tmp_path / "real")
    with pytest.raises(ConfigError, match="would overwrite an input"):
        plan_output_files(tmp_path / "out", [Source(tmp_path / "real" / "y.png", "y.png", False)])
    plan_output_files(tmp_path / "other", [Source(tmp_path / "real" / "y.png", "y.png", False)])


def test_changes_are_told_from_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "a=b.jpg")
    argv = ["--config-file", "F", "train.seed=1", "--input", "x.jpg", "a=b.jpg", "dir/c=d.jpg"]
    args = parse_args([*argv, "+model.x=2", "~model.y", "~/z.jpg", "m[0-9]=*.png", "--tta"])
    assert args.input == ["x.jpg", "a=b.jpg", "dir/c=d.jpg", "~/z.jpg", "m[0-9]=*.png"]
    assert args.overrides == ["train.seed=1", "+model.x=2", "~model.y", "train.tta.enabled=true"]
    assert args.webcam is None
    args = parse_args(["--config-file", "F", "--webcam", "0", "--device", "cpu"])
    assert (args.webcam, args.overrides) == (0, ["train.device=cpu"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give --input PATH"),
        (["--input", "a", "--threshold", "1.5"], "must be at least 0 and at most 1, got 1.5"),
        (["--input", "a", "--scale", "0"], "must be above 0"),
        (["--input", "a", "--batch-size", "x"], "invalid int value: 'x'"),
        (["--input", "a", "--no-json", "--no-pictures"], "nothing to do"),
        (["--webcam", "-1"], "must be at least 0"),
    ],
)
def test_typing_errors(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_args(["--config-file", "F", *argv])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_frames_are_decoded_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Capture:
        """A video of 1000 frames that says 24 frames a second."""

        def isOpened(self) -> bool:
            return True

        def get(self, what: int) -> float:
            known = {cv2.CAP_PROP_FPS: 24.0, cv2.CAP_PROP_FRAME_COUNT: 1000.0}
            return known.get(what, 1000 * (len(calls) - 1) / 24)

        def grab(self) -> bool:
            calls.append("grab")
            return True

        def read(self) -> tuple[bool, np.ndarray]:
            calls.append("read")
            return True, np.zeros((2, 2, 3), np.uint8)

        def release(self) -> None:
            calls.append("release")

    monkeypatch.setattr(video_io, "open_capture", lambda source: Capture())
    reader = FrameReader(Path("v.mp4"), every=3, max_frames=2)
    assert (reader.rate, reader.expected) == (8.0, 1000)
    frames = iter(reader)
    assert calls == []
    assert next(frames).index == 0 and calls == ["read"]
    second = next(frames)
    assert (second.index, second.seconds) == (3, pytest.approx(3 / 24))
    assert calls == ["read", "grab", "grab", "read"]
    assert list(frames) == [] and not reader.ended_early(2)
    assert reader.ended_early(1)


def test_a_video_is_turned_as_its_header_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "v.mp4"
    writer = VideoWriter(file, 10)
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:, :16] = 220  # on the left, which a quarter turn to the right puts on top
    writer.write(picture, times=2)
    writer.close()
    content = bytearray(file.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    one, zero = 1 << 16, 0
    turn = (zero, one, zero, -one, zero, zero, 32 << 16, zero, 1 << 30)
    assert struct.unpack_from(">i", content, matrix) == (one,)  # as it was
    struct.pack_into(">9i", content, matrix, *turn)
    file.write_bytes(content)

    def not_turning(source: str) -> cv2.VideoCapture:  # by default, as some versions of OpenCV
        capture = opened(source)
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        return capture

    opened = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", not_turning)
    frames = [frame.pixels for frame in FrameReader(file)]
    assert [frame.shape for frame in frames] == [(48, 32, 3)] * 2
    assert frames[0][:12].mean() > 180 > 60 > frames[0][20:].mean()


def test_videos_of_odd_and_changing_sizes(tmp_path: Path) -> None:
    file = tmp_path / "v.mp4"
    writer = VideoWriter(file, 10)
    red = np.zeros((31, 45, 3), np.uint8)
    red[..., 0] = 200
    writer.write(red, times=2)
    assert not file.exists()  # it appears when it is complete
    writer.write(np.zeros((60, 90, 3), np.uint8))
    writer.close()
    assert os.listdir(tmp_path) == ["v.mp4"]
    frames = [frame.pixels for frame in FrameReader(file)]
    assert [frame.shape for frame in frames] == [(32, 46, 3)] * 3
    assert frames[0][..., 2].mean() > 180 > 30 > frames[2].mean()
    thrown = VideoWriter(tmp_path / "w.mp4", 10)
    thrown.write(red)
    thrown.discard()
    assert os.listdir(tmp_path) == ["v.mp4"]
    with pytest.raises(DataError, match="cannot be opened"):
        FrameReader(tmp_path / "nothing.mp4")
    with pytest.raises(DataError, match="cannot be written"):
        VideoWriter(tmp_path / "gone" / "v.mp4", 10).write(red)


def test_a_live_video_runs_as_fast_as_what_it_shows() -> None:
    shown = 0
    for seconds in (0.5, 0.55, 2.0, 2.01):  # at 10 frames a second
        shown += repetitions(seconds, 10, shown)
    assert shown == 21  # 5, then one though half a frame has passed, then up to 20, then one


def test_predictions_as_a_coco_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "predictions.json"
    result = {"image_id": 7, "category_id": 3, "bbox": [1.0, 2.0, 4.0, 5.0], "score": 0.5}
    info: dict[str, Any] = {"config": "x"}
    with coco_writer(file, [{"id": 3, "name": "cat"}], info) as opened:
        opened.add({"id": 7, "file_name": "a.jpg", "width": 9, "height": 8}, [result, result])
        opened.add({"id": 8, "file_name": "b.jpg", "width": 9, "height": 8}, [])
        info["stopped"] = True
        assert not file.exists()
    content = json.loads(file.read_text())
    assert content["info"] == {"config": "x", "stopped": True} and "videos" not in content
    coco = COCO(str(file))
    assert coco.getImgIds() == [7, 8] and coco.getAnnIds(imgIds=[7]) == [1, 2]
    assert coco.anns[2] == {"id": 2, **result, "area": 20.0, "iscrowd": 0}
    with pytest.raises(ZeroDivisionError), coco_writer(file, [], {}) as opened:
        opened.images.append({"id": 1 // 0})
    assert json.loads(file.read_text()) == content
