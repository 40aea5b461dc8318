"""Reading and writing of bfloat16 numbers, as uint16, in compiled loops. Needs Numba.

Numba's cache of a compiled function does not notice changes in this file. Change the files of the
functions that call :func:`load` and :func:`store` too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload


def load(value: Any) -> Any:
    """Returns a feature as a number; bfloat16 is the upper half of a float32."""
    raise NotImplementedError


@overload(load)
def _load_overload(value):  # type: ignore[no-untyped-def]
    if value == types.uint16:
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: value


def store(target: Any, index: int, value: Any) -> None:
    """Writes a number to an output; bfloat16 is rounded to nearest, ties to even."""
    raise NotImplementedError


@overload(store)
def _store_overload(target: Any, index: Any, value: Any) -> Any:
    if target.dtype == types.uint16:

        def to_bfloat16(target: Any, index: Any, value: Any) -> None:
            bits = np.float32(value).view(np.uint32)
            rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> (
                np.uint32(16)
            )
            target[index] = np.uint16(rounded) if value == value else np.uint16(0x7FC0)

        return to_bfloat16

    def unchanged(target: Any, index: Any, value: Any) -> None:
        target[index] = value

    return unchanged
