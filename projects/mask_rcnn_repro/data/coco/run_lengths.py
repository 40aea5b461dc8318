"""COCO's compressed run lengths as numbers, without decoding a mask.

The format (``rleToString`` in pycocotools): each number in groups of five bits, lowest first, as
characters from code 48, with 32 added to all but the last group, whose highest bit is the sign;
from the fourth number on, each is the difference to the number two places before.
"""

from __future__ import annotations

import numpy as np

# Characters are '0'..'o': 48 plus a six bit group.
_FIRST_CHARACTER = 48
_LARGEST_GROUP = 63

# Seven groups hold 35 bits, more than any image needs; longer ones would overflow.
_MOST_GROUPS = 7


def decode_counts(counts: str | bytes) -> np.ndarray | None:
    """Returns the lengths of the runs of 0, 1, 0, ... in turn.

    Args:
        counts: The compressed text.

    Returns:
        (S,) int64, down the columns. Empty for an empty text. None if the text is no such encoding.
        The numbers themselves are not checked and may be negative.
    """
    try:
        raw = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError:
        return None
    groups = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - _FIRST_CHARACTER
    if not len(groups):
        return groups
    last = (groups & 32) == 0
    if groups.min() < 0 or groups.max() > _LARGEST_GROUP or not last[-1]:
        return None
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MOST_GROUPS:
        return None
    place = np.arange(len(groups)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((groups & 31) << (5 * place), starts)
    negative = (groups[ends] & 16) != 0
    numbers -= np.where(negative, np.int64(1) << (5 * lengths), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])  # the first run is no summand
    return numbers
