"""What a command does around its first imports: set threads, hide warnings, import faster.

Uses the standard library only, since the launcher calls it before anything else is imported.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import warnings
from collections.abc import Iterator, MutableMapping

_WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    # fvcore and Detectron2 script their losses when they are imported
    (r"`torch\.jit\.script` is deprecated", FutureWarning),
    # Detectron2's anchor generator
    (r"torch\.meshgrid: in an upcoming release", UserWarning),
    # Detectron2's model zoo; requirements/ pins a setuptools that still has it
    (r"pkg_resources is deprecated as an API", UserWarning),
    # train.ddp.broadcast_buffers; older torch versions do not know its new name
    (r"`broadcast_buffers` is deprecated", FutureWarning),
)

_SPINS = "10000"  # as fast as GNU OpenMP's default on an idle machine
_OTHER_POOLS = ("OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM", "NUMBA_NUM_THREADS")
_WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def set_policy(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets how threads wait and which pools exist, unless the user has. Call before any import.

    It concerns GNU OpenMP (PyTorch's wheels for Linux). NumPy, OpenCV and Numba do small work only
    and get one thread each. Child processes inherit the variables.
    """
    if not any(name in environment for name in _WAIT_VARIABLES):
        environment["GOMP_SPINCOUNT"] = _SPINS
    for name in _OTHER_POOLS:
        environment.setdefault(name, "1")


def quiet_dependencies() -> None:
    """Hides warnings of dependencies that appear in every run and that a user cannot fix."""
    for message, category in _WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category)
    logging.getLogger("torch.fx._symbolic_trace").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """False for the line that Detectron2's RoI pooler causes."""
    return not str(record.msg).startswith("is_fx_tracing will return true for both")


@contextlib.contextmanager
def fast_imports() -> Iterator[None]:
    """Disables garbage collection during imports, and excludes what they made from later ones.

    Importing PyTorch, torchvision and Detectron2 creates some hundred thousand objects that live
    until the process ends. Scanning them again and again, and once more at exit, takes 1.5 s of the
    6 s of a command that does nothing else. Reference counting works as usual.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.unregister(gc.freeze)
        atexit.register(gc.freeze)
        if enabled:
            gc.enable()
