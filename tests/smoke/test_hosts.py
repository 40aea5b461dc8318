"""Two hosts with addresses of their own: `torchrun`, our own flags, and the loss of one of them."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mask_rcnn_repro.engine.train.resuming import periodic_checkpoints
from mask_rcnn_repro.records.record import load_record

from .run_helpers import (
    ITERATIONS,
    QUICKSTART,
    REPOSITORY,
    CommandResult,
    iterations,
    launch,
    results,
)
from .two_hosts import ADDRESSES, TwoHosts, outcome, two_hosts

pytestmark = pytest.mark.slow

TRAIN_NET = str(REPOSITORY / "train_net.py")
QUICK = ["--config-file", str(QUICKSTART), "--profile", "tiny", "train.draw=0"]
PERIODS = ["train.checkpointer.period=5", "train.eval_period=0"]

# torchrun keeps the address of its store from one start to the next, which a newcomer never learns
REBUILT = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}

# train_net.py, and a file of each process with what it has trained
WATCHED = """
import hashlib, os, sys
sys.path.insert(0, sys.argv.pop(1))
from mask_rcnn_tools.train.cli import parse_args
from mask_rcnn_repro.engine.train import run as runs
from mask_rcnn_tools.train.main import main
train = runs.train
def watched(*args, **options):
    result = train(*args, **options)
    digest = hashlib.sha256()
    for name, value in result.model.state_dict().items():
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    with open(f"weights.{os.environ['RANK']}", "w") as file:
        file.write(digest.hexdigest())
    return result
runs.train = watched
main(parse_args())
"""


@pytest.fixture(scope="module")
def network() -> Iterator[TwoHosts]:
    with two_hosts() as hosts:
        if isinstance(hosts, str):
            pytest.skip(hosts)
        yield hosts


@pytest.fixture
def hosts(network: TwoHosts) -> Iterator[TwoHosts]:
    yield network
    network.end()
    network.mend_wire()


def torchrun(host: int, port: int, *options: str) -> list[str]:
    """What docs/clusters.md says, for hosts whose names do not stand for their addresses."""
    return [
        *("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:{port}"),
        *("--rdzv-conf", f"is_host={str(host == 0).lower()}", "--local-addr", ADDRESSES[host]),
        *options,
    ]


def wait_for(
    condition: Callable[[], object], processes: list[subprocess.Popen[str]], seconds: float = 200
) -> None:
    """Waits until the condition holds; processes that end meanwhile are told with their output."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def test_trained_by_torchrun(hosts: TwoHosts, tmp_path: Path) -> None:
    script = tmp_path / "watched.py"
    script.write_text(WATCHED)
    run = tmp_path / "run"
    command = [str(script), str(REPOSITORY / "projects"), *QUICK, f"train.output_dir={run}"]
    started = [hosts.start(host, tmp_path, *torchrun(host, 29500), *command) for host in (0, 1)]
    first, second = (outcome(process) for process in started)
    # one host reports, and what it has trained is what the other has
    assert f"iteration {ITERATIONS} of {ITERATIONS}" in first.succeeded()
    assert "iteration" not in second.succeeded()
    assert "do not share" not in (run / "log.txt").read_text()
    weights = [(tmp_path / f"weights.{rank}").read_text() for rank in (0, 1)]
    assert weights[0] == weights[1]
    assert iterations(run) == sorted(set(iterations(run)))
    record = load_record(run / "record.json")
    assert record.world_size == 2
    # evaluation by two hosts is that by one process, to the last bit
    one = tmp_path / "one"
    launch(
        *(tmp_path, "--eval-only", "train.draw=0", f"train.output_dir={one}"),
        f"train.init_checkpoint={run / 'model_final.pth'}",
    ).succeeded()
    assert results(one) == results(run)
    alone, both = (json.loads((p / "record.json").read_text()) for p in (one, run))
    assert alone["metrics"] == both["metrics"]


def end_both(
    hosts: TwoHosts, folders: list[Path], *options: str
) -> tuple[CommandResult, CommandResult]:
    """Starts with our own flags, cuts the wire after a checkpoint, and waits for both to end."""
    flags = ["--num-machines", "2", "--dist-url", f"tcp://{ADDRESSES[0]}:29501"]
    command = [TRAIN_NET, *QUICK, *PERIODS, "train.max_iter=5000", *flags, *options]
    started = [
        hosts.start(host, folders[host], *command, "--machine-rank", str(host)) for host in (0, 1)
    ]
    wait_for((folders[0] / "run" / "last_checkpoint").is_file, started)
    hosts.cut_wire()
    first, second = (outcome(process, timeout=100) for process in started)
    return first, second


def test_lost_connection_and_folders_that_are_not_shared(hosts: TwoHosts, tmp_path: Path) -> None:
    folders = [tmp_path / "host0", tmp_path / "host1"]
    for folder in folders:
        folder.mkdir()
    options = ("train.output_dir=run", "train.process_timeout=5")
    for rank, left in enumerate(end_both(hosts, folders, *options)):
        # nobody is told that a wire is cut: each ends when it has waited for so long
        assert left.code == 1, left
        assert f"error (process {rank}): another process of this run" in left.err
        assert "--resume continues from the last checkpoint" in left.err
        assert "Traceback" not in left.err
    written = [{path.name for path in (folder / "run").iterdir()} for folder in folders]
    assert {"config.yaml", "log.txt", "last_checkpoint", "metrics.json"} <= written[0]
    assert written[1] == {"log.txt.rank1"}
    log = (folders[0] / "run" / "log.txt").read_text()
    assert "The hosts do not share run" in log
    assert not list((folders[0] / "run").glob(".seen*"))


def test_lost_host_is_replaced_and_the_run_goes_on(hosts: TwoHosts, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [TRAIN_NET, *QUICK, *PERIODS, "train.max_iter=60", f"train.output_dir={run}"]

    def start(host: int) -> subprocess.Popen[str]:
        again = torchrun(host, 29502, "--max-restarts", "2")
        return hosts.start(host, tmp_path, *again, *command, **REBUILT)

    first, lost = start(0), start(1)
    wait_for(lambda: periodic_checkpoints(run), [first, lost])
    hosts.lose(1)
    lost.communicate()
    second = start(1)
    assert outcome(second).code == 0
    left = outcome(first)
    assert left.code == 0, left
    assert "another process of this run has ended" in left.err
    assert "resuming" in left.out and "Resuming after" in left.out
    record = load_record(run / "record.json")
    assert (record.iterations_done, record.world_size) == (60, 2)
    assert iterations(run) == sorted(set(iterations(run)))
