"""The faults, each with how a run must answer it."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from soak.process import Training

_FILE_LIMIT = 1 << 20


class LostError(Exception):
    """A run did not answer a fault as it must."""


def expect(so: bool, what: str) -> None:
    """Raises :class:`LostError` unless something is so."""
    if not so:
        raise LostError(what)


def killed(training: Training, rng: random.Random) -> None:
    """SIGKILL at any moment: it costs one checkpoint period at most."""
    training.kill(signal.SIGKILL)
    expect(training.exit_status() == -signal.SIGKILL, "SIGKILL did not kill")


def killed_while_saving(training: Training, rng: random.Random) -> None:
    """SIGKILL while a checkpoint is being written."""
    if training.wait_until(training.saving):
        killed(training, rng)


def killed_while_evaluating(training: Training, rng: random.Random) -> None:
    """SIGKILL during an evaluation, which is made up for."""
    if training.wait_until(lambda: "Evaluating about" in training.said()):
        killed(training, rng)


def stopped(number: int) -> Callable[[Training, random.Random], None]:
    """A signal that asks to stop: nothing is lost."""

    def fault(training: Training, rng: random.Random) -> None:
        before = training.iterations()
        training.kill(number)
        status = training.exit_status()
        if status == 0:  # it was in its last seconds
            return
        name = signal.Signals(number).name
        expect(status == 128 + number, f"exit status {status} after {name}")
        expect(training.saved() == 0 or training.saved() >= before, f"{name} lost iterations")

    return fault


def worker_killed(training: Training, rng: random.Random) -> None:
    """SIGKILL to a process that loads data: others take its place."""
    workers = training.workers()
    if workers:
        with suppress(ProcessLookupError):
            os.kill(rng.choice(workers), signal.SIGKILL)
        done = training.iterations()
        training.wait_until(lambda: training.iterations() > done + 1)


def _damage(training: Training, change: Callable[[bytes], bytes]) -> None:
    last = training.folder / f"model_{training.saved() - 1:07d}.pth"
    others = [f for f in training.folder.glob("model_0*.pth") if f != last]
    if last.exists() and others:  # what is to be gone back to
        last.write_bytes(change(last.read_bytes()))
        training.start()
        answered = training.wait_until(lambda: "Continuing from" in training.said())
        expect(answered, "a damaged checkpoint was not noticed")
        killed(training, random.Random(0))


def bit_flipped(training: Training, rng: random.Random) -> None:
    """A bit of the last checkpoint has changed: the one before it is used."""
    killed(training, rng)

    def flip(content: bytes) -> bytes:
        place = rng.randrange(len(content) // 4, len(content) * 3 // 4)
        return (
            content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
        )

    _damage(training, flip)


def cut_short(training: Training, rng: random.Random) -> None:
    """The last checkpoint has lost its end."""
    killed(training, rng)
    _damage(training, lambda content: content[: rng.randrange(len(content))])


def writing_fails(training: Training, rng: random.Random) -> None:
    """The next checkpoint cannot be written: the run ends, and what was there stays."""
    killed(training, rng)
    before = {f: f.read_bytes() for f in training.folder.glob("model_*.pth")}
    training.start(_FILE_LIMIT)
    status = training.exit_status()
    if status == 0:
        return
    expect(status == 2 and "could not be written" in training.said(), f"exit status {status}")
    expect(
        all(f.read_bytes() == content for f, content in before.items()),
        "a failed write changed earlier checkpoints",
    )
    expect(not _leftovers(training.folder), "a failed write left a part of a file")


def _leftovers(folder: Path) -> list[Path]:
    return list(folder.glob(".model_*.partial"))


FAULTS: dict[str, Callable[[Training, random.Random], None]] = {
    "SIGKILL": killed,
    "SIGKILL while saving": killed_while_saving,
    "SIGKILL while evaluating": killed_while_evaluating,
    "SIGTERM": stopped(signal.SIGTERM),
    "SIGINT": stopped(signal.SIGINT),
    "SIGUSR1": stopped(signal.SIGUSR1),
    "SIGKILL to a worker": worker_killed,
    "bit flipped": bit_flipped,
    "checkpoint cut short": cut_short,
    "writing fails": writing_fails,
}

DAMAGING = ("bit flipped", "checkpoint cut short")
"""Those after which the checkpoint before the last is used."""
