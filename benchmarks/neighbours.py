"""Seconds per training iteration beside busy processes, with and without the policy of threads.

Trains the quickstart for some iterations with `train_net.py`: on the machine as it is, beside one
busy process, and beside two, each in a session of its own, as another user's would be. "PyTorch's
default" has a thread per core and OpenMP's usual spinning; "one thread" never waits for another;
"ours" is what a training does by default (`mask_rcnn_repro/utils/threads.py`). "Two rows" trains
two at a time with half of the threads each, as `tools/run_table.py --jobs 2` does if that finishes
more; its seconds are divided by two. The mean of the later half of the iterations counts. A
training ends after `--iterations`, or `--seconds` after its first one.

Run on an otherwise idle machine: python benchmarks/neighbours.py --threads 2     (about 7 minutes)
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import Benchmark
from mask_rcnn_tools.tables.process import Process
from mask_rcnn_tools.tables.trial import seconds_per_iteration

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "quickstart" / "mask_rcnn_r18_fpn.py"
BUSY = [sys.executable, "-c", "while True: pass"]
GNU_OPENMP_SPINS = "300000"  # its default, if nothing is set


def start(folder: Path, threads: int | None, policy: bool, tiny: bool) -> Process:
    """Starts a training in a session of its own, with `folder` as its output directory."""
    environment = {"PYTHONPATH": str(ROOT / "projects")}
    if not policy:
        environment["GOMP_SPINCOUNT"] = GNU_OPENMP_SPINS
    command = [sys.executable, "-W", "ignore", str(ROOT / "train_net.py")]
    command += ["--config-file", str(CONFIG), *(["--profile", "tiny"] if tiny else [])]
    command += [f"train.output_dir={folder}", "train.log_period=1", "train.draw=0"]
    if threads is not None:
        command.append(f"train.num_threads={threads}")
    return Process(command, folder.with_suffix(".txt"), environment)


def main() -> None:
    """Measures, prints, and writes the record with --record."""
    bench = Benchmark("neighbours", "Training beside other processes", __doc__)
    parser = bench.parser()
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=60, help="most of a training")
    parser.set_defaults(repeats=1)
    args = bench.parse(parser)
    import torch

    cores = args.threads or torch.get_num_threads()
    for name in [name for name in os.environ if name.startswith(("OMP_", "GOMP_"))]:
        del os.environ[name]  # or it would hold for the trainings
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
                        runs = [start(f, threads, policy, bench.quick) for f in folders]
                        each = seconds_per_iteration(runs, folders, iterations, args.seconds)
                        times[name].append(each / count)
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
