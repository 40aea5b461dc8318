"""One run in its own process, which ends when this program ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from mask_rcnn_repro.utils.locks import LOCK_FILE

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Process:
    """A command whose output goes to a file.

    It has a session of its own: Ctrl-C on a terminal reaches this program alone, which then asks
    the command to stop. On Linux, the kernel asks it to stop if this program is killed.

    Args:
        command: Program and arguments.
        log: File for its output. It is emptied first, and its directory is created.
        environment: Changes to the environment of this process.
    """

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            self._popen = _start(command, file, {**os.environ, **(environment or {})})

    @property
    def exit_code(self) -> int | None:
        """Exit status. None while it runs; negative if a signal ended it."""
        return self._popen.poll()

    def ask_to_stop(self) -> None:
        """Sends SIGTERM. A training then ends in a state that can be resumed."""
        self._send(signal.SIGTERM, whole_group=False)

    def kill(self) -> None:
        """Kills the command and its child processes."""
        self._send(signal.SIGKILL, whole_group=True)

    def wait(self, seconds: float) -> bool:
        """Returns whether it ended within some seconds."""
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _send(self, number: signal.Signals, whole_group: bool) -> None:
        if self._popen.poll() is not None:
            return
        try:
            if whole_group:
                os.killpg(self._popen.pid, number)
            else:
                os.kill(self._popen.pid, number)
        except ProcessLookupError:  # it ended meanwhile
            return


def _start(
    command: Sequence[str], log: IO[bytes], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,
        preexec_fn=_ends_with_this_program(),
    )


def _ends_with_this_program() -> Callable[[], None] | None:
    """Returns what a child does between fork and exec, where nothing may be imported."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # killed between fork and here
            os.kill(os.getpid(), signal.SIGTERM)

    return tie


def is_held(folder: Path) -> bool:
    """Returns whether any process trains or evaluates in a directory."""
    if not (folder / LOCK_FILE).exists():
        return False
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # not ours to write; the run reports it
        return False
    lock.release()
    return False


def tail(log: Path, lines: int = 12) -> str:
    """Returns the last lines of a log. All but the very last are shortened if they are long."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 64 * 1024))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    last = text.replace("\r", "\n").rstrip().splitlines()[-lines:]
    cut = [line if len(line) <= 160 else f"{line[:157]}..." for line in last[:-1]]
    return "\n".join([*cut, *last[-1:]])  # the error message
