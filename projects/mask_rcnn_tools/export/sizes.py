"""Sizes that an exporter knows only when the exported file runs.

The same code is run eagerly, under `torch.jit.trace`, where a size is a scalar tensor, and under
`torch.export`, where it is a symbolic integer.
"""

from __future__ import annotations

from typing import Any

import torch


def at_most(size: Any, limit: int) -> Any:
    """The smaller of a size, of whichever kind, and a number."""
    if isinstance(size, torch.Tensor):
        return size.clamp(max=limit)
    return torch.sym_min(size, limit)


def first(tensor: torch.Tensor, limit: int) -> torch.Tensor:
    """The first `limit` rows, or all if there are fewer; a negative limit takes all."""
    return tensor if limit < 0 else tensor[:limit]
