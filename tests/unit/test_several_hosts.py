"""What processes on several hosts agree on, and how detections travel between them."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from mask_rcnn_repro.config import get_config
from mask_rcnn_repro.config.overrides import apply_overrides
from mask_rcnn_tools.train.cli import parse_args

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECTS = REPOSITORY / "projects"

# Two processes, each on a host of its own as far as they can tell.
SCRIPT = """
import logging, sys, time
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from detectron2.utils import comm
from filelock import FileLock
from mask_rcnn_repro.utils import locks
from mask_rcnn_repro.engine.hosts import check_hosts_agree
from mask_rcnn_repro.errors import UserError
from mask_rcnn_repro.evaluation.coco import detections
from mask_rcnn_repro.evaluation.coco.detections import Detections, ResultStream, gather_detections

dist.init_process_group("gloo", timeout=timedelta(seconds=20))
comm.create_local_process_group(1)
rank = comm.get_rank()
folder = Path(sys.argv[1])
logging.basicConfig(level=logging.INFO, stream=sys.stdout)

def checked(name):
    try:
        check_hosts_agree(name)
    except UserError as error:
        return str(error)
    return "agreed"

shared, own = folder / "shared", folder / f"host{rank}"
for place in (shared, own):
    place.mkdir(exist_ok=True)
print("shared:", checked(shared))
print("empty:", checked(own))
(own / "model_1.pth").write_bytes(b"weights")
if rank == 0:
    (own / "last_checkpoint").write_text("model_1.pth")
print("one:", checked(own).replace("\\n", " "))
(own / "last_checkpoint").write_text("model_1.pth")
print("both:", checked(own))
(own / "model_1.pth").write_bytes(b"others" if rank else b"weights")
print("other:", checked(own).replace("\\n", " "))

# a folder that somebody holds for longer than the processes wait for each other in one go
locks._POLL_SECONDS = 0.2
lock = FileLock(shared / "busy" / ".lock", thread_local=False)
if rank == 1:
    (shared / "busy").mkdir()
    lock.acquire()
comm.synchronize()
began = time.monotonic()
if rank == 1:
    import threading
    threading.Timer(1.5, lambda: lock.release()).start()
with locks.exclusive(shared / "busy", purpose="a test", wait=True) as waited:
    print("waited:", waited, time.monotonic() - began > 1)

# detections, without pickle
def refused(*args, **options):
    raise AssertionError("pickled")
detections._CHUNK = 64
mine = Detections()
for image in range(rank, 7, 2):
    count = 0 if image == 2 else image + 1
    mask = {"size": [9, 8], "counts": "ab\\x7f" * image}
    mine.append(
        image if image < 5 else f"image {image}", 9, 8,
        [{"category_id": k % 2, "score": 0.1 * k, "bbox": [image, k, 2.5, 1 / 3],
          "segmentation": mask, "keypoints": [image, k, 1.0]} for k in range(count)],
        ["segm"] if rank else ["keypoints"],
    )
dist.gather_object = dist.all_gather_object = refused
parts = gather_detections(mine)
if rank == 0:
    ids = [6, 0, 1, 2, 3, 4]
    ids[0] = "image 6"
    ids.insert(1, "image 5")
    assert [sorted(p.tasks) for p in parts] == [["bbox", "keypoints"], ["bbox", "segm"]]
    for task in ("bbox", "segm", "keypoints"):
        found = list(ResultStream(parts, task, image_ids=ids, category_ids=[7, 8]))
        expected = [[i] * n for i, n in zip(ids, (7, 6, 1, 2, 0, 4, 5))]
        assert [d["image_id"] for d in found] == sum(expected, [])
        first = found[1]
        assert first["score"] == 0.1 and first["category_id"] == 8
    assert found[7]["keypoints"] == [5.0, 0.0, 1.0]
    masks = list(ResultStream(parts, "segm", image_ids=["image 5"], category_ids=[7, 8]))
    assert masks[0]["segmentation"] == {"size": [9, 8], "counts": "ab\\x7f" * 5}
else:
    assert parts == []
print("gathered")
comm._get_global_gloo_group()
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """What each of the two processes says, by its first word."""
    folder = tmp_path_factory.mktemp("hosts")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder)],
            env={**os.environ, **place, "RANK": str(rank), "PYTHONPATH": str(PROJECTS)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    told = []
    for process in started:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
        told.append({line.split(":")[0]: line for line in out.splitlines()})
    return told


@pytest.mark.slow
def test_a_shared_folder_needs_nothing(printed: list[dict[str, str]]) -> None:
    assert all(out["shared"] == "shared: agreed" for out in printed)


@pytest.mark.slow
def test_folders_of_their_own_may_begin_and_go_on_from_equal_checkpoints(
    printed: list[dict[str, str]],
) -> None:
    assert all(out["empty"] == "empty: agreed" for out in printed)
    assert all(out["both"] == "both: agreed" for out in printed)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["one", "other"])
def test_different_checkpoints_are_refused_on_all_hosts(
    printed: list[dict[str, str]], case: str
) -> None:
    for out in printed:
        assert "see different last checkpoints" in out[case]
        assert "(process 0): model_1.pth" in out[case]
        second = "no checkpoint" if case == "one" else "model_1.pth"
        assert f"(process 1): {second}" in out[case]
        assert "a disk that all hosts share, or copy it" in out[case]


@pytest.mark.slow
def test_all_wait_for_a_busy_folder(printed: list[dict[str, str]]) -> None:
    assert [out["waited"] for out in printed] == ["waited: True True"] * 2


def commands(page: str) -> list[str]:
    """The indented commands of a document, continued lines joined."""
    text = (REPOSITORY / "docs" / page).read_text().replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


@pytest.mark.parametrize("page", ["clusters.md", "reproducibility.md"])
def test_documented_commands_are_understood(page: str) -> None:
    """tests/smoke/test_hosts.py runs them, on hosts of one process."""
    found = [line for line in commands(page) if "train_net.py" in line]
    assert found
    for line in found:
        words = shlex.split(line)
        place = words.index("train_net.py")
        args = parse_args(words[place + 1 :])
        assert (REPOSITORY / args.config_file).is_file()
        apply_overrides(get_config("quickstart/mask_rcnn_r18_fpn"), args.overrides)
        if "torchrun" in words:
            launcher = words[words.index("torchrun") + 1 :]
            numbers = [w.replace("$SLURM_NNODES", "2") for w in launcher]
            torchrun = get_args_parser().parse_args(numbers)
            assert (torchrun.nnodes, torchrun.nproc_per_node) == ("2", "8")
            assert torchrun.training_script == "train_net.py"


def test_documented_batch_script_is_a_script() -> None:
    lines = (REPOSITORY / "docs" / "clusters.md").read_text().splitlines()
    begin = lines.index("    #!/bin/bash")
    end = next(n for n in range(begin, len(lines)) if not lines[n].startswith("    "))
    script = "\n".join(line[4:] for line in lines[begin:end])
    assert "srun torchrun" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.slow
def test_detections_travel_without_pickle(printed: list[dict[str, str]]) -> None:
    assert all("gathered" in out for out in printed)
