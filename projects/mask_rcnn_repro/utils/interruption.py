"""Stopping on SIGINT, SIGTERM and SIGUSR1: at a safe place, in all processes together.

Inside of :func:`deferred` (the training loop, and every loop over images) a signal only leaves a
note. Training looks at it after each iteration (:meth:`Phase.check` in other loops after each
batch), agrees with the other processes, saves, and ends with :class:`Interrupted`. Anywhere else
the signal raises :class:`Interrupted` at once, as Ctrl-C does in any Python program. A second
signal ends the process wherever it is, also while it waits for a GPU or for another process.
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

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""SIGUSR1 is what Slurm is usually told to send some time before a job ends."""

_ONE_REQUEST_SECONDS = 2.0
"""Signals within this time are one request: launchers pass on what processes have got already."""

_POLL_SECONDS = 0.02
_END = b"\0"  # no signal has this number


class Interrupted(SystemExit):
    """A signal has stopped this process; what it had done can be resumed.

    Args:
        number: of the signal; the exit status is 128 more, as shells have it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


@dataclass
class _State:
    """Of this process, while it handles signals."""

    asked: int = 0  # the signal that asks to stop
    deferring: int = 0  # depth of `deferred`
    handling: bool = False
    phases: int = 0
    wakeup: tuple[socket.socket, socket.socket] | None = field(default=None, repr=False)


_state = _State()


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Handles :data:`SIGNALS` as this module says; does nothing outside of the main thread.

    What handled them before does so again afterwards.
    """
    if _state.handling or threading.current_thread() is not threading.main_thread():
        yield
        return
    _reset()
    _state.handling = True
    before = {number: signal.signal(number, _on_signal) for number in SIGNALS}
    # Python's handlers wait until C code returns; bytes in a socket are there at once
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
    """While it lasts, a signal does not raise; what is inside has to look for it."""
    _state.deferring += 1
    try:
        yield
    finally:
        _state.deferring -= 1


def stop_together_if_asked() -> None:
    """Raises in all processes if any of them got a signal; all call it at the same place.

    Raises:
        Interrupted: With the signal's exit status.
    """
    asked = max(comm.all_gather(_state.asked)) if _are_several() else _state.asked
    if asked:
        raise _interrupted(asked)


class Phase:
    """A loop that every process goes through at its own pace, over its own share of images.

    As a context manager around the loop: ends when all processes have ended theirs. Either all of
    them get through, or none does.

    Raises:
        Interrupted: From :meth:`check` or at the end, in all processes.
        ConnectionError: Other processes take longer than `train.process_timeout` to get through.
    """

    def __init__(self) -> None:
        self._deferred = contextlib.ExitStack()

    def __enter__(self) -> Phase:
        self._deferred.enter_context(deferred())
        _state.phases += 1  # the same in all processes: they go through the same phases
        self._key = f"mask_rcnn_repro/phase{_state.phases}"
        self._looked = time.monotonic()
        if _are_several():
            self._store = dist.distributed_c10d._get_default_store()
        return self

    def check(self, every: float = 0.5) -> None:
        """To be called between images.

        Args:
            every: seconds between looks at what other processes say.
        """
        if not _are_several():
            if _state.asked:
                raise _interrupted(_state.asked)
            return
        now = time.monotonic()
        if not _state.asked and now - self._looked < every:
            return
        self._looked = now
        asked = self._asked()
        if asked:
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
                    # where nobody watches over the processes of other hosts, one that has ended
                    # would be waited for without end
                    raise ConnectionError(
                        f"{comm.get_world_size() - arrived} of {comm.get_world_size()} processes "
                        f"did not come to the end of a loop over images within {limit:g} s."
                    )
                asked = self._asked()
                if asked:
                    self._decide(str(asked))
                    return
                time.sleep(_POLL_SECONDS)
                arrived = self._store.add(f"{self._key}/arrived", 0)
            self._decide("all have finished")

    def _asked(self) -> int:
        """The signal that this process got, or another one has told of."""
        key = "mask_rcnn_repro/asked"
        if _state.asked:
            self._store.set(key, str(_state.asked))
        elif self._store.check([key]):
            return int(self._store.get(key))
        return _state.asked

    def _decide(self, proposed: str) -> None:
        """The first to propose has it: go on, or the signal to stop for."""
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
    """Says what happens, and ends the process at the second request."""
    first = 0.0
    while _END not in (numbers := reader.recv(16)):
        for number in filter(SIGNALS.__contains__, numbers):
            now, name = time.monotonic(), signal.Signals(number).name
            if not first:
                first = now
                if _state.deferring and comm.is_main_process():
                    _tell(f"{name}: stopping as soon as all can be saved; once more stops at once.")
            elif now - first >= _ONE_REQUEST_SECONDS:
                _tell(f"Second signal ({name}): stopped at once.")
                os._exit(128 + number)


def _tell(text: str) -> None:
    """Without the locks of logging and of files, which a thread that hangs may hold."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())


def _reset() -> None:
    _state.asked = _state.deferring = _state.phases = 0
    _state.handling = False
    _state.wakeup = None


def _in_forked_child() -> None:
    """Processes that load data work on until they are told otherwise by the one that needs them."""
    if not _state.handling:
        return
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches them, too
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for end in _state.wakeup or ():
        end.close()
    _reset()


os.register_at_fork(after_in_child=_in_forked_child)
