#!/usr/bin/env python
"""Checks this project on a machine with one GPU, in ten minutes (docs/gpu.md).

`prepare` collects into `.gpu/` what the machine's Python lacks, for a machine without network.
`run` runs the checks one after the other, each in processes of their own and with its own time
limit. It writes the summary after each of them. The standard library suffices for both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BROUGHT = ROOT / ".gpu"
RECORD = ROOT / "results" / "gpu" / "check.json"

QUICKSTART = "configs/quickstart/mask_rcnn_r18_fpn.py"
ROWS = "roi_pool_max,roi_align_ave"
"""Rows of table 2c that have records, with which these runs are compared."""
PYTHON = sys.executable
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
COPIED = {
    "antlr4-python3-runtime": "antlr4",
    "fvcore": "fvcore",
    "iopath": "iopath",
    "sal-detectron2": "detectron2",
}
"""Packages of Python files alone and without a wheel, or with one for Python 3.10 alone.

Their folders are copied from this environment.
"""
ALONE = ("omegaconf", "hydra-core", "cityscapesscripts", "pyquaternion")
"""Packages that need one of them, which pip does not find, or more than is imported here."""
EXTRA = ("pytest", "hypothesis", "portalocker", "setuptools<81")
SHOWN = re.compile(
    r"^CHECK .*|^tests/.* (?:PASSED|FAILED|ERROR)|^.*\d+ (?:passed|failed|skipped).*"
    r"|^.* \(\d+\.\d+x\).*|^(?: box|mask) .*",
    re.M,
)
"""Lines of an output that the summary repeats."""


@dataclass(frozen=True)
class Check:
    """One part of the run: a command and the seconds it may take in ten minutes for all."""

    name: str
    seconds: int
    command: list[str]


def part(name: str, *arguments: str) -> list[str]:
    """Command of a part of `tools/gpu_check_parts.py`."""
    return [PYTHON, "-W", "ignore", "tools/gpu_check_parts.py", name, *arguments]


def gpu_tests() -> list[str]:
    """Files with tests for a GPU. Others may import what the machine lacks."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(f.relative_to(ROOT)) for f in files if "pytest.mark.gpu\n" in f.read_text()]


def checks(device: str, work: str) -> list[Check]:
    """The checks in their order: those that find faults first, those that measure last.

    On a CPU, where the checks themselves are tried, the sizes are small.
    """
    small = ["--quick"] if device == "cpu" else []
    pytest = [PYTHON, "-m", "pytest", "-v", "-p", "no:cacheprovider"]
    train = [PYTHON, "train_net.py", "--config-file"]
    bench = ["--device", device, "--repeats", "3", *small]
    torchrun = [PYTHON, "-m", "torch.distributed.run", "--nproc-per-node", "1", *train[1:]]
    recorded = [*train, QUICKSTART, "--verify", "recorded", "train.verify.tolerance=4"]
    table = [PYTHON, "tools/run_table.py", "2c", "--seeds", "3", "--reproduce"]
    here = f"train.device={'auto' if device == 'cuda' else 'cpu'}"
    parts = {
        "versions": (30, part("versions", device)),
        "tests": (120, [*pytest, "-m", "gpu", *gpu_tests()]),
        "rows": (120, part("rows", device, f"{work}/rows")),
        "two ranks by gloo": (45, part("ranks", device, f"{work}/ranks")),
        "one rank by NCCL": (
            45,
            [*torchrun, QUICKSTART, "--profile", "tiny", f"train.output_dir={work}/nccl", here],
        ),
        "killed worker": (30, part("worker")),
        "evaluation out of memory": (30, part("memory", device)),
        "steps of paper size": (150, part("steps", device, *small)),
        "benchmark of a step": (60, [PYTHON, "benchmarks/training_step.py", *bench]),
        "benchmark of inference": (60, [PYTHON, "benchmarks/inference.py", *bench]),
        "quickstart against its record": (
            120,
            [*recorded, here, f"train.output_dir={work}/quickstart"],
        ),
        "table 2c at mini": (
            3600,
            [*table, "--profile", "mini", "--rows", ROWS, f"train.output_root={work}"],
        ),
    }
    return [Check(name, *rest) for name, rest in parts.items()]


def run_check(check: Check, seconds: float, log: Path) -> str:
    """Runs a check with its output in a file. Returns "passed" or what happened."""
    if seconds < 1:
        return "not run: no time is left"
    paths = [str(BROUGHT / "site"), str(ROOT / "projects"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with log.open("w") as output:
        process = subprocess.Popen(
            check.command,
            cwd=ROOT,
            env={**environment, "PYTHONUNBUFFERED": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the limit ends all of its processes
        )
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds:.0f} s"
        finally:  # also if this process is stopped
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return "passed" if status == 0 else f"failed with exit status {status}"


def run(args: argparse.Namespace) -> int:
    """Runs the checks, and writes the summary and the record after each."""
    output = Path(args.output).resolve()
    output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    longer = max(1.0, args.minutes / 10)
    known = checks(args.device, str(output / "runs"))
    names = [check.name for check in known]
    if unknown := set(args.only) - set(names):
        print(f"error: unknown check {sorted(unknown)}. Known: {', '.join(names)}", file=sys.stderr)
        return 2
    results = []
    for check in known:
        if args.only and check.name not in args.only:
            continue
        log = output / f"{check.name.replace(' ', '_')}.txt"
        began = time.monotonic()
        outcome = run_check(check, min(check.seconds * longer, end - began), log)
        text = log.read_text(errors="replace") if log.exists() else ""
        lines = [line.strip() for line in SHOWN.findall(text)]
        seconds = round(time.monotonic() - began, 1)
        results.append({**asdict(check), "outcome": outcome, "took": seconds, "lines": lines})
        results[-1]["command"] = " ".join(["python", *check.command[1:]]).replace(
            str(output), "OUT"
        )
        print(f"{check.name}: {outcome}, {seconds:g} s", *lines, sep="\n    ", flush=True)
        record = {
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "device": args.device,
            "python": platform.python_version(),
            "checks": results,
        }
        for file in [output / "summary.json", *([RECORD] if args.record else [])]:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(record, indent=1) + "\n")
    return int(any(result["outcome"].startswith(("failed", "stopped")) for result in results))


def packages() -> tuple[list[str], list[str]]:
    """Pinned packages whose needs pip resolves, and those that are installed alone."""
    files = [ROOT / "requirements" / name for name in ("runtime.txt", "cityscapes.txt")]
    lines = [line for file in files for line in file.read_text().splitlines()]
    pins = {name_of(line): line for line in lines if line[:1] not in ("", "#")}
    alone = [pins.pop(name) for name in ALONE]
    return [*(pin for name, pin in pins.items() if name not in COPIED), *EXTRA], alone


def name_of(pin: str) -> str:
    """The name in a requirement, as the package index spells it."""
    return re.sub("[-_.]+", "-", re.split("[=<>]", pin)[0]).lower()


def prepare(args: argparse.Namespace) -> int:
    """Collects packages for the machine's Python in `.gpu/site`, without torch and torchvision."""
    shutil.rmtree(BROUGHT, ignore_errors=True)
    site = BROUGHT / "site"
    site.mkdir(parents=True)
    wanted, alone = packages()
    target = [f"--python-version={args.python}", "--implementation=cp", "--only-binary=:all:"]
    target += [f"--platform={name}" for name in PLATFORMS]
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--target", str(site), *target]
    report = BROUGHT / "report.json"
    resolve = [*pip, "--dry-run", "--ignore-installed", "--report", str(report)]
    subprocess.run([*resolve, *wanted], check=True)
    found = [each["metadata"] for each in json.loads(report.read_text())["install"]]
    pinned = [*alone, *(f"{each['name']}=={each['version']}" for each in found)]
    omitted = {name_of(name) for name in args.omit}
    pinned = [pin for pin in pinned if name_of(pin) not in omitted]
    subprocess.run([*pip, "--no-deps", "--no-compile", *pinned], check=True)
    here = Path(next(p for p in sys.path if (Path(p) / "detectron2").is_dir()))
    for name, folder in COPIED.items():
        metadata = here.glob(f"{name.replace('-', '_')}-*.dist-info")  # its version is recorded
        for source in (here / folder, *metadata):
            ignored = shutil.ignore_patterns("__pycache__", "_C*.so")
            shutil.copytree(source, site / source.name, ignore=ignored)
    size = sum(file.stat().st_size for file in BROUGHT.rglob("*") if file.is_file())
    print(f"{BROUGHT} contains {size / 2**20:.0f} MiB. Copy it to the machine with this checkout.")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and runs a command."""
    parser = argparse.ArgumentParser(prog="gpu_check.py", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("prepare", help=prepare.__doc__).add_argument
    add("--python", default="3.12", metavar="3.x", help="the machine's Python (default 3.12)")
    add("--omit", nargs="+", default=[], metavar="PACKAGE", help="packages that it has")
    add = commands.add_parser("run", help=run.__doc__).add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the checks themselves")
    add("--minutes", type=float, default=10, help="time for all checks (default 10)")
    add("--only", nargs="+", default=[], metavar="CHECK", help="checks by name")
    add("--output", default="output/gpu_check", help="directory of logs and summary.json")
    add("--record", action="store_true", help=f"also write {RECORD.relative_to(ROOT)}")
    args = parser.parse_args(argv)
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        return {"prepare": prepare, "run": run}[args.command](args)
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
