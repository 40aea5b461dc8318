"""Stopping on SIGINT, SIGTERM and SIGUSR1, at a safe point and in all processes together.

Inside :func:`deferred` (the training loop and all loops over images) a signal is only stored.
Training checks it after each iteration, and other loops check it after each batch
(:meth:`Phase.check`). All processes then stop together: they save and raise :class:`Interrupted`.
Elsewhere a signal raises :class:`Interrupted` at once. A second signal ends the process
immediately, also while it waits for a GPU or for another process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch.distributed as dist
from detectron2.utils import comm

# SIGUSR1 is the usual choice for Slurm's signal before the end of a job
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

# launchers forward signals that processes also got; within this time they are one request
_ONE_REQUEST_SECONDS = 2.0
_POLL_SECONDS = 0.02
_END = b"\0"  # no signal has this number


class Interrupted(SystemExit):
    """Raised when a signal stops this process; the run can be resumed.

    Args:
        number: Number of the signal. The exit status is 128 more, as in shells.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


@dataclass
class _State:
    """State of this process."""

    asked: int = 0  # the signal that requests a stop
    deferring: int = 0  # depth of `deferred`
    handling: bool = False
    phases: int = 0
    wakeup: tuple[socket.socket, socket.socket] | None = field(default=None, repr=False)


_state = _State()


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Handles :data:`SIGNALS` as described in this module, and restores the handlers afterwards.

    Does nothing outside the main thread.
    """
    if _state.handling or threading.current_thread() is not threading.main_thread():
        yield
        return
    _reset()
    _state.handling = True
    before = {number: signal.signal(number, _on_signal) for number in SIGNALS}
    # Python's handlers wait until C code returns; a socket receives the signal at once
    _state.wakeup = reader, writer = socket.socketpair()
    writer.setblocking(False)
    wakeup_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        writer.send(_END)
        watcher.join()
        writer.close()
        reader.close()
        _reset()


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Context in which signals are stored instead of raised; the code inside must check them."""
    _state.deferring += 1
    try:
        yield
    finally:
        _state.deferring -= 1


def stop_together_if_asked() -> None:
    """Raises :class:`Interrupted` in all processes if any of them got a signal.

    All processes must call it at the same point.
    """
    asked = max(comm.all_gather(_state.asked)) if _are_several() else _state.asked
    if asked:
        raise _interrupted(asked)


class Phase:
    """Context manager around a loop in which each process handles its own share of images.

    It ends when all processes have completed their loops. Either all of them complete, or none.

    Raises:
        Interrupted: From :meth:`check` or at the end, in all processes.
        ConnectionError: If other processes take longer than `train.process_timeout`.
    """

    def __init__(self) -> None:
        self._deferred = contextlib.ExitStack()

    def __enter__(self) -> Phase:
        self._deferred.enter_context(deferred())
        _state.phases += 1  # equal in all processes, which have the same phases
        self._key = f"mask_rcnn_repro/phase{_state.phases}"
        self._looked = time.monotonic()
        if _are_several():
            self._store = dist.distributed_c10d._get_default_store()
        return self

    def check(self, every: float = 0.5) -> None:
        """Checks for signals between images, in other processes at most once in `every` seconds."""
        if not _are_several():
            if _state.asked:
                raise _interrupted(_state.asked)
            return
        now = time.monotonic()
        if not _state.asked and now - self._looked < every:
            return
        self._looked = now
        if asked := self._asked():
            self._decide(str(asked))

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        with self._deferred:
            if kind is not None:
                return
            if not _are_several():
                self.check()
                return
            limit = self._store.timeout.total_seconds()
            deadline = time.monotonic() + limit
            arrived = self._store.add(f"{self._key}/arrived", 1)
            while arrived < comm.get_world_size():
                if time.monotonic() > deadline:
                    # a dead process of another host is not always detected otherwise
                    raise ConnectionError(
                        f"{comm.get_world_size() - arrived} of {comm.get_world_size()} processes "
                        f"did not reach the end of a loop over images within {limit:g} s."
                    )
                if asked := self._asked():
                    self._decide(str(asked))
                    return
                time.sleep(_POLL_SECONDS)
                arrived = self._store.add(f"{self._key}/arrived", 0)
            self._decide("all have finished")

    def _asked(self) -> int:
        """Returns the signal that this or another process got, or 0."""
        key = "mask_rcnn_repro/asked"
        if _state.asked:
            self._store.set(key, str(_state.asked))
        elif self._store.check([key]):
            return int(self._store.get(key))
        return _state.asked

    def _decide(self, proposed: str) -> None:
        """Follows the first process's proposal: continue, or stop because of a signal."""
        decision = self._store.compare_set(f"{self._key}/decision", "", proposed).decode()
        if decision.isdigit():
            raise _interrupted(int(decision))


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _interrupted(number: int) -> Interrupted:
    _state.asked = number
    return Interrupted(number)


def _on_signal(number: int, frame: object) -> None:
    first = not _state.asked
    _state.asked = _state.asked or number
    if first and not _state.deferring:
        raise _interrupted(number)


def _watch(reader: socket.socket) -> None:
    """Reports signals, and ends the process at the second request."""
    first = 0.0
    while _END not in (numbers := reader.recv(16)):
        for number in filter(SIGNALS.__contains__, numbers):
            now, name = time.monotonic(), signal.Signals(number).name
            if not first:
                first = now
                if _state.deferring and comm.is_main_process():
                    message = "stopping as soon as all is saved. A second signal stops at once."
                    _print(f"{name}: {message}")
            elif now - first >= _ONE_REQUEST_SECONDS:
                _print(f"Second signal ({name}): stopped at once.")
                os._exit(128 + number)


def _print(text: str) -> None:
    """Prints without the locks of logging and files, which a hanging thread may hold."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())


def _reset() -> None:
    _state.asked = _state.deferring = _state.phases = 0
    _state.handling = False
    _state.wakeup = None


def _in_forked_child() -> None:
    """Lets only SIGTERM end a process that loads data; its parent decides when it ends."""
    if not _state.handling:
        return
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to them too
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for end in _state.wakeup or ():
        end.close()
    _reset()


os.register_at_fork(after_in_child=_in_forked_child)
