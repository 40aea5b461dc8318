"""What `tests/soak` does after parsing: rounds of disturbed training, and the report."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from mask_rcnn_repro.errors import UserError
from mask_rcnn_repro.utils.atomic import atomic_write_text
from soak.compare import differences
from soak.faults import DAMAGING, FAULTS, LostError, expect
from soak.process import Training

REPORT_FILE = "soak.json"


def main(args: argparse.Namespace) -> None:
    """Runs a parsed command line; exits with 1 if anything was lost."""
    folder = Path(args.output).absolute()
    if (folder / "whole").exists():
        print(
            f"error: {folder} holds an earlier soak. Delete it, or give another --output.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    try:
        lost = soak(args, folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    raise SystemExit(1 if lost else 0)


def soak(args: argparse.Namespace, folder: Path) -> list[str]:
    """Trains undisturbed, then disturbed in rounds.

    Returns:
        What was lost, in words; empty if nothing was.
    """
    arguments = [
        *("--config-file", args.config_file, "--profile", args.profile),
        f"train.max_iter={args.iterations}",
        f"train.checkpointer.period={args.period}",
        f"train.eval_period={max(args.iterations // 4, 1)}",
        *("train.log_period=1", "train.draw=0", "dataloader.train.num_workers=1"),
        *args.overrides,
    ]
    whole = Training(folder / "whole", arguments)
    _tell(f"Undisturbed: {args.iterations} iterations in {whole.folder}")
    whole.start()
    if whole.exit_status() != 0:
        raise UserError(f"The undisturbed run failed:\n{whole.said()[-2000:]}")
    rng, faults, lost = random.Random(args.seed), Counter[str](), list[str]()
    begun, rounds, waiting = time.monotonic(), 0, list[str]()
    while not rounds or time.monotonic() - begun < 60 * args.minutes:
        run = Training(folder / f"round{rounds}", arguments)
        try:
            waiting = _round(run, args, rng, faults, waiting)
            differing = differences(run, whole)
        except LostError as error:
            differing = [str(error)]
        minutes = (time.monotonic() - begun) / 60
        told = f"differs in {'; '.join(differing)}" if differing else "equal to the undisturbed run"
        _tell(f"Round {rounds} after {minutes:.1f} min: {told}")
        lost += [f"round {rounds}: {text}" for text in differing]
        if not differing:
            shutil.rmtree(run.folder)
        rounds += 1
    minutes = (time.monotonic() - begun) / 60
    report = {
        "config": args.config_file,
        "profile": args.profile,
        "minutes": round(minutes, 1),
        "rounds": rounds,
        "iterations_of_a_round": args.iterations,
        "faults": {name: faults[name] for name in FAULTS},
        "lost": lost,
    }
    atomic_write_text(folder / REPORT_FILE, json.dumps(report, indent=2) + "\n")
    _tell(f"\n{rounds} rounds in {minutes:.1f} minutes with {sum(faults.values())} faults:")
    for name in FAULTS:
        _tell(f"  {faults[name]:4d}  {name}")
    _tell("Nothing was lost." if not lost else "LOST:\n  " + "\n  ".join(lost))
    return lost


def _round(
    run: Training,
    args: argparse.Namespace,
    rng: random.Random,
    faults: Counter[str],
    waiting: list[str],
) -> list[str]:
    """One training from its beginning to its end; returns the faults whose turn is next.

    Faults come in random order, each once before any comes twice.
    """
    allowed = args.period
    while True:
        run.start()
        begun, saved = run.iterations(), run.saved()
        # some way on, so that there is something to lose
        if not _reaches(run, max(saved, 1) + rng.randint(1, 2 * args.period)):
            status = run.exit_status()
            expect(status == 0, f"exit status {status} without a fault: {run.said()[-500:]}")
            return waiting
        expect(begun - saved <= allowed, f"{begun - saved} iterations were lost")
        if not waiting:
            waiting = rng.sample(list(FAULTS), len(FAULTS))
        name = waiting.pop()
        _tell(f"  iteration {run.iterations()}: {name}")
        FAULTS[name](run, rng)
        faults[name] += 1
        allowed = args.period * (2 if name in DAMAGING else 1)
        process = run.process
        if process is not None and process.poll() is None:  # it goes on by itself
            if _reaches(run, run.iterations() + args.period):
                run.kill(signal.SIGKILL)
            run.exit_status()


def _reaches(run: Training, iterations: int) -> bool:
    # what was logged before the start, beyond the checkpoint, is dropped only then
    started = run.wait_until(lambda: "Starting training" in run.said())
    return started and run.wait_until(lambda: run.iterations() > iterations)


def _tell(text: str) -> None:
    print(text, flush=True)
