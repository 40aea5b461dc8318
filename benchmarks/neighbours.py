"""Seconds per training iteration beside busy processes, with and without the policy of threads.

Trains the quickstart for some iterations with `train_net.py`: on the machine as it is, beside one
busy process, and beside two, each in a session of its own, as another user's would be. "PyTorch's
default" has a thread per core and OpenMP's usual spinning; "one thread" never waits for another;
"ours" is what a training does by default (`mask_rcnn_repro/utils/threads.py`). The median of the
later half of the iterations counts. "Two rows" trains two at a time with half of the threads each,
as `tools/run_table.py --jobs 2` does; its seconds are divided by two.

Run on an otherwise idle machine: python benchmarks/neighbours.py   (about 10 minutes)
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness import Benchmark

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "quickstart" / "mask_rcnn_r18_fpn.py"
BUSY = [sys.executable, "-c", "while True: pass"]
GNU_OPENMP_SPINS = "300000"  # its default, if nothing is set


def start(
    folder: Path, iterations: int, threads: int | None, policy: bool, tiny: bool
) -> subprocess.Popen[str]:
    """Starts a training whose metrics go to `folder`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    environment["PYTHONPATH"] = str(ROOT / "projects")
    if not policy:
        environment["GOMP_SPINCOUNT"] = GNU_OPENMP_SPINS
    command = [sys.executable, "-W", "ignore", str(ROOT / "train_net.py")]
    command += ["--config-file", str(CONFIG), *(["--profile", "tiny"] if tiny else [])]
    command += [f"train.max_iter={iterations}", "train.log_period=1"]
    command += [f"train.output_dir={folder}", "train.draw=0"]
    if threads is not None:
        command.append(f"train.num_threads={threads}")
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def seconds_per_iteration(processes: Sequence[subprocess.Popen[str]], folders: list[Path]) -> float:
    """Waits for trainings and returns the median of the later half of their iterations."""
    for process in processes:
        text, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{process.args} failed:\n{text[-4000:]}")
    times = []
    for folder in folders:
        lines = [json.loads(x) for x in (folder / "metrics.json").read_text().splitlines()]
        found = [line["time"] for line in lines if "time" in line]
        times += found[len(found) // 2 :]
    return statistics.median(times) / len(folders)


def main() -> None:
    """Measures, prints, and writes the record with --record."""
    bench = Benchmark("neighbours", "Training beside other processes", __doc__)
    parser = bench.parser()
    parser.add_argument("--iterations", type=int, default=40)
    parser.set_defaults(repeats=1)
    args = bench.parse(parser)
    import torch

    cores = args.threads or torch.get_num_threads()
    iterations = 6 if bench.quick else args.iterations
    # threads, whether the policy holds, trainings at a time
    contenders = {
        "PyTorch's default": (cores, False, 1),
        "one thread": (1, True, 1),
        "ours": (None, True, 1),
        "two rows": (max(1, cores // 2), True, 2),
    }
    idle: dict[str, float] = {}
    for neighbours in (0,) if bench.quick else (0, 1, 2):
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(args.repeats):
            for name, (threads, policy, count) in contenders.items():
                busy = [subprocess.Popen(BUSY, start_new_session=True) for _ in range(neighbours)]
                try:
                    with tempfile.TemporaryDirectory() as temporary:
                        folders = [Path(temporary) / str(number) for number in range(count)]
                        processes = [
                            start(f, iterations, threads, policy, bench.quick) for f in folders
                        ]
                        times[name].append(seconds_per_iteration(processes, folders))
                finally:
                    for process in busy:
                        process.kill()
                        process.wait()
        work = f"{neighbours} busy process{'' if neighbours == 1 else 'es'} beside it"
        bench.add(work, times, reference="PyTorch's default")
        if neighbours == 0:
            idle = {name: statistics.median(values) for name, values in times.items()}
        else:
            slower = statistics.median(times["ours"]) / idle["ours"]
            bench.equality(work, f"ours takes {slower:.2f} times the idle machine's time")
    bench.finish()


if __name__ == "__main__":
    main()
