"""The scan of Cityscapes: its cache, its processes, and who waits for whom."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mask_rcnn_repro.data.cityscapes import scan as cityscapes_scan
from mask_rcnn_repro.data.cityscapes.load import load_cityscapes
from mask_rcnn_repro.data.cityscapes.registration import register_cityscapes

from .cityscapes_data_helpers import (
    HEIGHT,
    WIDTH,
    flip,
    paths,
    truncate,
    write_ids,
    write_image,
    write_split,
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASK_RCNN_REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_cityscapes()
    return tmp_path / "cityscapes"


@pytest.fixture
def cache(root: Path) -> Path:
    return root.parent / "cache" / "cityscapes_scans"


def test_order_names_and_processes(root: Path, cache: Path) -> None:
    stems = write_split(root, count=6)
    results = []
    for workers in (1, 3):
        shutil.rmtree(cache, ignore_errors=True)
        results.append(load_cityscapes(str(root), "train", num_workers=workers))
    assert results[0] == results[1]
    assert [record["image_id"] for record in results[0]] == stems
    trucks = [[a for a in r["annotations"] if a["category_id"] == 3] for r in results[0]]
    assert [t[0]["bbox"][1] for t in trucks] == [25, 27, 29, 26, 28, 30]


def test_processes_are_chosen_by_the_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [cityscapes_scan._default_workers(n) for n in (1, 49, 50, 500)] == [1, 1, 2, 8]


CODE = """
import os, sys
import cv2, numpy as np, torch
from mask_rcnn_repro.data.cityscapes.load import load_cityscapes
from torch.utils.data import DataLoader

torch.set_num_threads(4)
cv2.setNumThreads(4)
cv2.GaussianBlur(np.zeros((2000, 2000), np.float32), (31, 31), 3)
(torch.ones(600, 600) @ torch.ones(600, 600)).sum().item()
assert len(os.listdir("/proc/self/task")) > 1, "no threads were started"
print(len(load_cityscapes(sys.argv[1], "train", num_workers=2)))

class Inside(torch.utils.data.Dataset):  # loader workers must not have processes
    def __len__(self):
        return 1
    def __getitem__(self, index):
        return len(load_cityscapes(sys.argv[1], "val", num_workers=2))

print(*[int(x) for x in DataLoader(Inside(), num_workers=1)])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_processes_of_a_process_with_threads(root: Path) -> None:
    write_split(root, "train", 4)
    write_split(root, "val", 3)
    sources = str(Path(__file__).resolve().parents[2] / "projects")
    done = subprocess.run(  # in a process of its own, which a hang cannot take the tests with
        [sys.executable, "-W", "ignore", "-c", CODE, str(root)],
        env={**os.environ, "PYTHONPATH": sources},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["4", "3"]


class Counter:
    """Counts the images that are really scanned."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        original = cityscapes_scan._scan_image

        def counted(files: Any, masks: Any) -> Any:
            self.seen.append(files.image_id)
            return original(files, masks)

        monkeypatch.setattr(cityscapes_scan, "_scan_image", counted)

    def take(self) -> list[str]:
        seen, self.seen = self.seen, []
        return seen


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


def test_cache_scans_what_has_changed(
    root: Path, cache: Path, counter: Counter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mask_rcnn_repro.data")
    stems = write_split(root)
    first = load_cityscapes(root, "train")
    assert counter.take() == stems
    assert load_cityscapes(root, "train") == first
    assert counter.take() == []
    assert "0 scanned, 3 taken from the cache" in caplog.messages[-1]
    assert len(caplog.messages) == 2
    # another source of masks is another scan, another annotation only its image's
    load_cityscapes(root, "train", "polygons")
    assert counter.take() == stems
    changed = paths(root, "train", stems[1])["instance_ids"]
    state = changed.stat()
    write_ids(changed, np.full((HEIGHT, WIDTH), 26, np.uint16))
    os.utime(changed, ns=(state.st_atime_ns, state.st_mtime_ns))  # its size tells
    second = load_cityscapes(root, "train")
    assert counter.take() == [stems[1]]
    assert [a["bbox"] for a in second[1]["annotations"]] == [[0, 0, WIDTH, HEIGHT]]
    assert (second[0], second[2]) == (first[0], first[2])
    os.utime(changed)  # the time alone
    load_cityscapes(root, "train")
    assert counter.take() == [stems[1]]
    # what is gone leaves, what is new comes
    for path in paths(root, "train", stems[0]).values():
        path.unlink()
    write_image(root, "train", "zurich_000000_000001")
    assert [r["image_id"] for r in load_cityscapes(root, "train")] == [
        *stems[1:],
        "zurich_000000_000001",
    ]
    assert counter.take() == ["zurich_000000_000001"]
    left = json.loads(
        gzip.decompress(next(cache.glob("train-instance_ids-*.json.gz")).read_bytes())
    )
    assert [e["image_id"] for e in left["images"]] == [*stems[1:], "zurich_000000_000001"]


def _other_version(path: Path) -> None:
    content = json.loads(gzip.decompress(path.read_bytes()))
    content["key"]["version"] = -1
    path.write_bytes(gzip.compress(json.dumps(content).encode()))


def _without_digests(path: Path) -> None:
    content = json.loads(gzip.decompress(path.read_bytes()))
    del content["images"][0]["digest"]
    path.write_bytes(gzip.compress(json.dumps(content).encode()))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (truncate, "damaged"),
        (flip, "damaged"),
        (_without_digests, "damaged"),
        (_other_version, "another version"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.write_bytes(gzip.compress(b"[]")), "damaged"),
        (lambda path: path.write_bytes(gzip.compress(b'{"key"')), "damaged"),
    ],
)
def test_damaged_cache_is_made_anew(
    root: Path,
    cache: Path,
    counter: Counter,
    caplog: pytest.LogCaptureFixture,
    damage: Any,
    told: str,
) -> None:
    caplog.set_level(logging.INFO, "mask_rcnn_repro.data")
    stems = write_split(root)
    first = load_cityscapes(root, "train")
    counter.take()
    damage(next(cache.glob("*.json.gz")))
    assert load_cityscapes(root, "train") == first
    assert counter.take() == stems
    assert told in caplog.messages[-1]
    assert load_cityscapes(root, "train") == first
    assert counter.take() == []


def test_cache_that_cannot_be_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mask_rcnn_repro.data")
    write_split(root)
    (tmp_path / "file").touch()  # where a folder is needed, which stops root, too
    monkeypatch.setenv("MASK_RCNN_REPRO_CACHE", str(tmp_path / "file"))
    assert len(load_cityscapes(root, "train")) == 3
    assert "cannot be written" in caplog.messages[-1]
    assert "MASK_RCNN_REPRO_CACHE" in caplog.messages[-1]


def test_one_scans_while_the_others_wait(
    root: Path, counter: Counter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mask_rcnn_embedded")
    stems = write_split(root)
    begun, go_on = threading.Event(), threading.Event()
    original = cityscapes_scan._scan_image

    def slow(files: Any, masks: Any) -> Any:
        begun.set()
        assert go_on.wait(60)
        return original(files, masks)

    monkeypatch.setattr(cityscapes_scan, "_scan_image", slow)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(load_cityscapes, root, "train")
        assert begun.wait(60)
        second = threads.submit(load_cityscapes, root, "train")
        while "waiting for it" not in caplog.text:
            assert not second.done()
            time.sleep(0.01)
        go_on.set()
        assert first.result(60) == second.result(60)
    assert counter.take() == stems


def test_roots_do_not_share_a_cache(root: Path, tmp_path: Path) -> None:
    write_split(root, count=2)
    write_split(tmp_path / "other", count=3)
    assert [len(load_cityscapes(r, "train")) for r in (root, tmp_path / "other", root)] == [2, 3, 2]
