"""Seconds from the start of `train_net.py` to the end of its first iteration, at `tiny`.

The quickstart at `tiny`, in processes of their own, in turns. "imports" only imports PyTorch,
torchvision and the parts of Detectron2 that a training needs. "kernels not compiled" begins with an
empty cache of Numba, as without `make setup`'s last step. Files are in the system's cache, and the
embedded data exist before. The goal is 5 s.

Run on an otherwise idle machine: python benchmarks/start_up.py --threads 2      (about 3 minutes)
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from harness import Benchmark
from mask_rcnn_tools.tables.process import Process, tail

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "quickstart" / "mask_rcnn_r18_fpn.py"
IMPORTS = "import torch, torchvision, detectron2.config, detectron2.engine, detectron2.modeling"
GOAL = 5.0


def first_iteration(folder: Path, threads: int, cache: Path | None) -> float:
    """Seconds to the first line of metrics of a training.

    Args:
        folder: the training's output directory, not made yet.
        threads: of PyTorch.
        cache: Numba's; None for the usual one.
    """
    command = [sys.executable, "-W", "ignore", str(ROOT / "train_net.py")]
    command += ["--config-file", str(CONFIG), "--profile", "tiny", "train.log_period=1"]
    command += [f"train.output_dir={folder}", "train.draw=0", f"train.num_threads={threads}"]
    environment = {"PYTHONPATH": str(ROOT / "projects")}
    if cache is not None:
        environment["NUMBA_CACHE_DIR"] = str(cache)
    file = folder / "metrics.json"
    begin = time.perf_counter()
    process = Process(command, folder.with_suffix(".txt"), environment)
    try:
        while not (file.is_file() and file.stat().st_size):
            if process.exit_code is not None:
                raise RuntimeError(f"{' '.join(command)} failed:\n{tail(process.log)}")
            time.sleep(0.005)
        return time.perf_counter() - begin
    finally:
        process.kill()
        process.wait(10)


def imports(folder: Path) -> float:
    """Seconds of a process that imports the libraries."""
    begin = time.perf_counter()
    process = Process([sys.executable, "-W", "ignore", "-c", IMPORTS], folder.with_suffix(".txt"))
    while not process.wait(0.005):
        pass
    if process.exit_code:
        raise RuntimeError(f"{IMPORTS} failed:\n{tail(process.log)}")
    return time.perf_counter() - begin


def main() -> None:
    """Measures, prints, and writes the record with --record."""
    bench = Benchmark("start_up", "Start of a training", __doc__)
    parser = bench.parser()
    parser.set_defaults(repeats=5)
    args = bench.parse(parser)
    threads = args.threads or os.cpu_count() or 1
    times: dict[str, list[float]] = {"imports": [], "ours": [], "ours, kernels not compiled": []}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        if not bench.quick:  # makes the data, and fills the system's cache of files
            first_iteration(root / "before", threads, None)
        for number in range(1 if bench.quick else args.repeats):
            folder = root / str(number)
            folder.mkdir()
            times["imports"].append(imports(folder / "imports"))
            times["ours"].append(first_iteration(folder / "ours", threads, None))
            if number == 0 and not bench.quick:
                seconds = first_iteration(folder / "cold", threads, folder / "numba")
                times["ours, kernels not compiled"].append(seconds)
    work = "first iteration of the quickstart at tiny"
    bench.add(work, {name: own for name, own in times.items() if own}, reference="imports")
    seconds = statistics.median(times["ours"])
    bench.equality(work, f"ours: {seconds:.1f} s; the goal is {GOAL:g} s")
    bench.finish()


if __name__ == "__main__":
    main()
