"""Silences what dependencies say on every run and a user can do nothing about.

Standard library only: the launcher calls it before anything else is imported, since some of it is
said on import.
"""

from __future__ import annotations

import logging
import warnings

_WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    # fvcore and Detectron2 script their losses when they are imported
    (r"`torch\.jit\.script` is deprecated", FutureWarning),
    # Detectron2's anchor generator
    (r"torch\.meshgrid: in an upcoming release", UserWarning),
    # Detectron2's model zoo; requirements/ pins a setuptools that still has it
    (r"pkg_resources is deprecated as an API", UserWarning),
    # train.ddp.broadcast_buffers; its new name is not known to older torch versions
    (r"`broadcast_buffers` is deprecated", FutureWarning),
)


def quiet_dependencies() -> None:
    """Ignores the known warnings; others are shown as ever. May be called again."""
    for message, category in _WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category)
    logging.getLogger("torch.fx._symbolic_trace").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line is another than the one that Detectron2's RoI pooler provokes."""
    return not str(record.msg).startswith("is_fx_tracing will return true for both")
