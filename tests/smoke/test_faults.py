"""Signals, kills, damaged files and full disks: resumed runs end as if nothing had happened."""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from .fault_helpers import (
    fork,
    fork_two,
    iterations_logged,
    send,
    trigger,
    wait_for,
    when_logged,
)
from .run_helpers import assert_same, iterations, launch, load, metrics, results

KEYS = ["train.max_iter=10", "train.checkpointer.period=4", "train.draw=0", "train.log_period=1"]
KEYS.append("model.roi_heads.box_predictor.test_topk_per_image=10")  # masks take time
STOPS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
TRAINING = "detectron2.utils.events"
EVALUATION = "mask_rcnn_repro.evaluation.loop"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    launch(folder, *KEYS, "train.eval_period=6", "train.output_dir=run").succeeded()
    return folder / "run"


def assert_equal_runs(run: Path, other: Path) -> None:
    assert assert_same(load(run / "model_final.pth"), load(other / "model_final.pth")) > 400
    assert results(run) == results(other)
    ours, theirs = (json.loads((r / "record.json").read_text())["metrics"] for r in (run, other))
    assert ours == theirs


def evaluated(run: Path) -> list[int]:
    return [row["iteration"] for row in metrics(run) if "bbox/AP" in row]


def test_signals_stop_and_resuming_continues_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [*KEYS, "train.eval_period=6", f"train.output_dir={run}", "--resume"]
    stops = [
        (signal.SIGTERM, TRAINING, "iter: 2", 3),  # between checkpoints
        (signal.SIGINT, EVALUATION, "Evaluating about", 6),  # that of iteration 6
        (signal.SIGUSR1, TRAINING, "iter: 7", 8),  # where a checkpoint is due anyway
        (signal.SIGTERM, EVALUATION, "Evaluating about", 10),  # the last
    ]
    for number, logger, text, done in stops:
        with when_logged(logger, text, send(number)):
            outcome = launch(tmp_path, *command)
        assert outcome.code == 128 + number, outcome.out + outcome.err
        assert "Traceback" not in outcome.out + outcome.err
        assert outcome.err == (
            f"Stopped by {number.name}. --resume continues from the last checkpoint.\n"
        )
        assert f"Stopped by {number.name} after {done} iterations" in outcome.out
        last = (run / "last_checkpoint").read_text()
        assert last == ("model_final.pth" if done == 10 else f"model_{done - 1:07d}.pth")
        assert load(run / last)["iteration"] == done - 1
        assert not (run / "record.json").exists()
        assert len(list(run.glob("model_0*.pth"))) <= 3  # train.checkpointer.max_to_keep
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    launch(tmp_path, *command).succeeded()
    assert_equal_runs(run, whole)
    assert evaluated(run) == evaluated(whole)  # what was interrupted was made up for
    assert sorted(set(iterations(run))) == iterations(whole)


@pytest.mark.slow
def test_proposals_and_dependencies_stop_and_go_on(tmp_path: Path) -> None:
    """Stages before the row itself; the same command goes on from what is there."""
    config = "table2c/roi_align_ave"
    keys = ["train.output_root=root", "train.draw=0", "--resume"]
    stages = "mask_rcnn_repro.engine.stages.stored_proposals"
    outcome = launch(tmp_path, *keys, "train.output_root=whole", config=config)
    outcome.succeeded()
    for logger, text in ((TRAINING, "iter: "), (stages, "Storing the proposals")):
        with when_logged(logger, text, send(signal.SIGTERM)):
            outcome = launch(tmp_path, *keys, config=config)
        assert outcome.code == 143 and "Traceback" not in outcome.err + outcome.out
    rpn = tmp_path / "root" / "rpn" / "r50_c4@tiny" / "seed0"
    assert (rpn / "record.json").exists()
    assert not [p for p in (rpn / "proposals").glob("*/*") if p.is_file()]
    launch(tmp_path, *keys, config=config).succeeded()
    ours, theirs = (
        next((tmp_path / r).glob("table2c/*/*/model_final.pth")) for r in ("root", "whole")
    )
    assert_same(load(ours), load(theirs))


@pytest.mark.slow
def test_killed_at_random_moments(whole: Path, tmp_path: Path) -> None:
    """SIGKILL, also while saving (a save an iteration), costs one period at most."""
    run, rng = tmp_path / "run", random.Random(0)
    keys = ["train.checkpointer.period=1", "train.eval_period=6", f"train.output_dir={run}"]
    begun, while_saving = 0, 0

    def saving() -> bool:
        return any(f.name.endswith(".partial") for f in run.iterdir())

    for attempt in range(4):
        child = fork(tmp_path, *KEYS[:1], *KEYS[2:], *keys, "--resume")
        wait_for(lambda begun=begun: iterations_logged(run) > begun, child)
        if attempt % 2:
            wait_for(saving, child)
        else:
            time.sleep(rng.uniform(0, 0.1))
        child.kill(signal.SIGKILL)
        assert child.wait().code == -signal.SIGKILL
        while_saving += saving()
        last = load(run / (run / "last_checkpoint").read_text())["iteration"]
        assert iterations(run)[-1] - last <= 1, "more than one period is lost"
        begun = iterations_logged(run)
    assert while_saving > 0  # a kill did hit a save
    fork(tmp_path, *KEYS[:1], *KEYS[2:], *keys, "--resume").wait().succeeded()
    assert_same(load(run / "model_final.pth")["model"], load(whole / "model_final.pth")["model"])
    assert results(run) == results(whole)
    assert not list(run.glob(".*.partial"))


def flip(file: Path, place: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 4
    file.write_bytes(content)


def test_damaged_checkpoints_give_way_to_whole_ones(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    keys = [KEYS[0], *KEYS[2:], "train.checkpointer.period=2", "train.eval_period=6"]
    keys += [f"train.output_dir={run}", "--resume"]
    with when_logged(TRAINING, "iter: 8", send(signal.SIGTERM)):
        assert launch(tmp_path, *keys).code == 143
    names = [f.name for f in sorted(run.glob("*.pth"))]
    assert names == [f"model_000000{i}.pth" for i in (3, 5, 7, 8)]
    flip(run / names[3], 0.5)
    (run / names[2]).write_bytes((run / names[2]).read_bytes()[:-1000])
    out = launch(tmp_path, *keys).succeeded()
    assert f"Continuing from {run}/{names[1]}." in out and ".damaged" in out
    assert "Resuming after 6 iterations" in out
    assert sorted(f.name for f in run.glob("*.damaged")) == [f"{n}.damaged" for n in names[2:]]
    assert_equal_runs(run, whole)
    assert evaluated(run) == evaluated(whole)


def test_no_whole_checkpoint_is_said(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    keys = [*KEYS, f"train.output_dir={run}", "--resume"]
    with when_logged(TRAINING, "iter: 2", send(signal.SIGTERM)):
        assert launch(tmp_path, *keys).code == 143
    flip(run / "model_0000002.pth", 0.4)
    message = launch(tmp_path, *keys).failed_plainly()
    assert "damaged" in message and "model_0000002.pth" in message
    assert [f.name for f in run.glob("model*")] == ["model_0000002.pth"]  # nothing is taken away


def small_disk(folder: Path, megabytes: int) -> None:
    """A file system of its own for this process, mounted at a folder."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_users = 0 if os.geteuid() == 0 else 0x10000000
    options = f"size={megabytes}m".encode()
    if libc.unshare(0x20000 | new_users) or libc.mount(
        b"none", bytes(folder), b"tmpfs", 0, options
    ):
        print("no file system can be mounted here")
        os._exit(77)


def test_full_disk(whole: Path, tmp_path: Path) -> None:
    """A disk that holds one checkpoint, not two; made larger, the run goes on."""
    run, disk = tmp_path / "disk" / "run", tmp_path / "disk"
    disk.mkdir()
    size = (whole / "model_final.pth").stat().st_size
    keys = [*KEYS, "train.eval_period=6", f"train.output_dir={run}", "--resume"]
    kept = tmp_path / "kept"

    def before() -> None:
        small_disk(disk, 2 * size // 2**20)
        atexit_copy(run, kept)

    outcome = fork(tmp_path, *keys, before=before).wait()
    if outcome.code == 77:
        pytest.skip("no file system can be mounted here")
    assert outcome.code == 2 and "Traceback" not in outcome.out + outcome.err, outcome.err
    assert "No space left on device" in outcome.err and "--resume" in outcome.err
    assert sorted(f.name for f in kept.iterdir() if "model" in f.name) == ["model_0000003.pth"]
    assert (kept / "last_checkpoint").read_text() == "model_0000003.pth"
    shutil.copytree(kept, run)
    launch(tmp_path, *keys).succeeded()
    assert_equal_runs(run, whole)


def atexit_copy(source: Path, target: Path) -> None:
    """What is on the disk when the run ends, from where it can be seen."""
    exit_now = os._exit

    def copy_and_exit(code: int) -> None:
        shutil.copytree(source, target)
        exit_now(code)

    os._exit = copy_and_exit


def test_file_size_limit_is_a_full_disk_to_us(tmp_path: Path) -> None:
    def before() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    outcome = fork(tmp_path, *KEYS, "train.output_dir=run", before=before).wait()
    assert outcome.code == 2 and "Traceback" not in outcome.out + outcome.err
    assert "could not be written: File too large" in outcome.err
    assert not [f for f in (tmp_path / "run").iterdir() if "model" in f.name]


@pytest.mark.slow
def test_two_processes_stop_at_the_same_iteration(tmp_path: Path) -> None:
    keys = [*KEYS, "train.eval_period=6"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    for child in fork_two(tmp_path, *keys, f"train.output_dir={whole}"):
        child.wait().succeeded()
    keys += [f"train.output_dir={run}", "--resume"]

    for logger, text, done in (
        ("detectron2.engine.train_loop", "Starting training", 1),
        (EVALUATION, "Evaluating about", 6),
        (EVALUATION, "Evaluating about", 6),
    ):
        told = partial(trigger, logger, text, send(signal.SIGTERM))
        children = fork_two(tmp_path, *keys, before_second=told)  # the other one gets no signal
        outcomes = [child.wait() for child in children]
        assert [o.code for o in outcomes] == [143, 143], outcomes
        assert not any("Traceback" in o.out + o.err for o in outcomes)
        for file in ("log.txt", "log.txt.rank1"):
            stops = [x for x in (run / file).read_text().splitlines() if "Stopped by" in x]
            assert stops[-1].endswith(f"Stopped by SIGTERM after {done} iterations.")
        assert (run / "last_checkpoint").read_text() == f"model_{done - 1:07d}.pth"
    for child in fork_two(tmp_path, *keys):
        child.wait().succeeded()
    assert_equal_runs(run, whole)
    assert evaluated(run) == evaluated(whole)


def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    """Also where no Python code runs that could look."""

    def hang() -> None:
        print("hangs now", flush=True)
        mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
        libc.pthread_mutex_lock(mutex)
        libc.pthread_mutex_lock(mutex)

    before = partial(trigger, TRAINING, "iter: 2", hang)
    child = fork(tmp_path, *KEYS, "train.output_dir=run", before=before)
    wait_for(lambda: "hangs now" in child.said(), child)
    child.kill(signal.SIGTERM)
    wait_for(lambda: "stopping as soon as" in child.said("err"), child)
    child.kill(signal.SIGTERM)  # the same request, passed on by a launcher
    time.sleep(2.1)
    assert not child.ended()
    child.kill(signal.SIGINT)
    outcome = child.wait()
    assert outcome.code == 130 and "Second signal (SIGINT): stopped at once." in outcome.err


@pytest.mark.slow
def test_memory_does_not_grow(tmp_path: Path) -> None:
    """Images of many sizes, 200 steps; what the first 50 need must do for all."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    def before() -> None:
        for iteration in (49, 199):
            trigger(TRAINING, f"iter: {iteration} ", lambda: print("RSS", resident(), flush=True))

    sizes = "dataloader.train.mapper.augmentations.0.short_edge_length=[64,72,80,88]"
    keys = ["train.max_iter=201", "train.checkpointer.period=400", "train.eval_period=0"]
    keys += ["train.log_period=1", "train.draw=0", "dataloader.train.total_batch_size=1", sizes]
    out = fork(tmp_path, *keys, "train.output_dir=run", before=before).wait().succeeded()
    seen = [int(line.split()[1]) for line in out.splitlines() if line.startswith("RSS ")]
    assert len(seen) == 2
    assert seen[1] - seen[0] < 5 * 2**20, seen
