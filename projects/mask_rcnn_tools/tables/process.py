"""One run in a process of its own: started, watched, ended, and never left behind."""

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

    It lives in a session of its own, so that Ctrl-C on a terminal reaches this program alone, which
    then asks it to stop; and where the system can do it (Linux) the kernel asks it when this
    program is killed outright.

    Args:
        command: program and arguments.
        log: where it writes, emptied first; its folder is made.
        environment: changes to that of this process.
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
        """None while it runs; negative for the signal that ended it."""
        return self._popen.poll()

    def ask_to_stop(self) -> None:
        """Sends SIGTERM to the process: a training ends in a state that can be continued."""
        self._send(signal.SIGTERM, whole_group=False)

    def kill(self) -> None:
        """Ends it and its own processes at once."""
        self._send(signal.SIGKILL, whole_group=True)

    def wait(self, seconds: float) -> bool:
        """Whether it ended within some seconds."""
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
    """What a child does between fork and exec, prepared before: nothing is imported there."""
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
    """Whether any process runs a training or evaluation in a folder."""
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
    """The last lines of a log, long ones cut, but for the very last; empty if there is none."""
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
