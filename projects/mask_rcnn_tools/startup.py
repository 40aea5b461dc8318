"""What a command does around its first imports: hide known warnings, and import faster.

Uses the standard library only, since the launcher calls it before anything else is imported.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import warnings
from collections.abc import Iterator

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
