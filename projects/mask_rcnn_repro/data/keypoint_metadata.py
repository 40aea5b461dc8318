"""What a data set states about its keypoints: names, left and right, lines to draw, OKS sigmas.

It lies in Detectron2's metadata under Detectron2's names (``keypoint_names``,
``keypoint_flip_map``, ``keypoint_connection_rules``, ``keypoint_oks_sigmas``). COCO's persons have
it there; a json of the user brings names and lines in its "categories", and the rest by the
keys ``flip_pairs`` and ``oks_sigmas`` of a config's ``dataset``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.data.datasets.builtin_meta import (
    COCO_PERSON_KEYPOINT_FLIP_MAP,
    COCO_PERSON_KEYPOINT_NAMES,
)

from mask_rcnn_repro.data.coco.categories import Categories
from mask_rcnn_repro.errors import ConfigError

# Standard deviations of COCO's object keypoint similarity, in the order of the 17 keypoints
# (https://cocodataset.org/#keypoints-eval; the same as in pycocotools).
COCO_PERSON_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035),
    *(0.079, 0.079, 0.072, 0.072, 0.062, 0.062),
    *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)

_LINE_COLOUR = (102, 204, 255)
_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}
_LETTER = r"[^\W\d_]"
_SIDE = re.compile(
    "left|Left|LEFT|right|Right|RIGHT"
    rf"|(?<!{_LETTER})[lrLR](?!{_LETTER})"  # ear_l, L-ear, r.ear, L1
    rf"|(?<!{_LETTER})[lrLR](?=[A-Z][a-z])"  # LEar, rHip
    rf"|(?<=[a-z])[LR](?!{_LETTER})"  # earL
)


@dataclass(frozen=True)
class KeypointSet:
    """The keypoints of a data set.

    Attributes:
        names: In the order of the annotations.
        flip_pairs: Names that change places in a mirrored image.
        sigmas: OKS standard deviations, one per keypoint. Empty if they are not known.
        pairs_stated: Whether config or metadata state `flip_pairs`, not the names alone.
    """

    names: tuple[str, ...]
    flip_pairs: tuple[tuple[str, str], ...]
    sigmas: tuple[float, ...] = ()
    pairs_stated: bool = field(default=False, compare=False)

    @property
    def flip_indices(self) -> list[int]:
        """For each keypoint the index of the one that takes its place in a mirrored image."""
        return keypoint_flip_indices(self.names, self.flip_pairs)


def keypoint_flip_indices(
    names: Sequence[str] = COCO_PERSON_KEYPOINT_NAMES,
    flip_map: Sequence[tuple[str, str]] = COCO_PERSON_KEYPOINT_FLIP_MAP,
) -> list[int]:
    """Returns for each keypoint the index of the one that takes its place in a mirrored image."""
    partner = {a: b for pair in flip_map for a, b in (pair, pair[::-1])}
    return [list(names).index(partner.get(name, name)) for name in names]


def keypoint_metadata(categories: Categories | None) -> dict[str, Any]:
    """Returns the metadata that a json's categories give. Empty if they have no keypoints.

    The names decide which keypoints are left and right, see :func:`pairs_by_name`. COCO's 17 names
    have COCO's sigmas.
    """
    if categories is None or not categories.keypoint_names:
        return {}
    names = categories.keypoint_names
    lines = [(names[a], names[b], _LINE_COLOUR) for a, b in categories.skeleton]
    found: dict[str, Any] = {
        "keypoint_names": names,
        "keypoint_flip_map": pairs_by_name(names),
        "keypoint_connection_rules": lines,
    }
    if names == tuple(COCO_PERSON_KEYPOINT_NAMES):
        found["keypoint_oks_sigmas"] = COCO_PERSON_SIGMAS
    return found


def pairs_by_name(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Returns the pairs of names that differ in left and right alone, left first.

    Recognizes the words left and right (`left_ear`, `EarRight`, `LEFT_EAR`) and the letters l and r
    that stand alone (`l-ear`, `ear.L`, `LEar`, `earL`). Letters of a series such as `point_k`,
    `point_l`, ... are not sides.
    """
    pairs = []
    for name in names:
        sides = _sides(name, names)
        mirrored = name
        for match in reversed(sides):
            other = _SIDES[match[0].lower()]
            cased = other.upper() if match[0].isupper() else other
            cased = other.capitalize() if match[0].istitle() else cased
            mirrored = f"{mirrored[: match.start()]}{cased}{mirrored[match.end() :]}"
        if mirrored != name and mirrored in names and sides[0][0].lower() in ("left", "l"):
            pairs.append((name, mirrored))
    return tuple(pairs)


def _sides(name: str, names: Sequence[str]) -> list[re.Match[str]]:
    """Returns the places in `name` that mean left or right."""
    found = _SIDE.finditer(name)
    return [m for m in found if len(m[0]) > 1 or not _in_series(name, m.start(), names)]


def _in_series(name: str, index: int, names: Sequence[str]) -> bool:
    """Whether other names have other letters at this place. Middle and center are no series."""
    before, after = name[:index], name[index + 1 :]
    letters = {
        other[index].lower()
        for other in names
        if len(other) == len(name) and other[:index] == before and other[index + 1 :] == after
    }
    return any(letter.isalpha() for letter in letters - set("lrmc"))


def one_sided(keypoints: KeypointSet) -> list[str]:
    """Returns the names that contain left or right but are in no pair.

    Empty if the pairs are stated. Single letters count only where others of them form a pair.
    """
    if keypoints.pairs_stated:
        return []
    paired = {name for pair in keypoints.flip_pairs for name in pair}
    sides = {name: _sides(name, keypoints.names) for name in keypoints.names}
    shortest = min((len(side[0]) for name in paired for side in sides[name]), default=2)
    return [
        name
        for name in keypoints.names
        if name not in paired
        and any(_is_word(name, side) and len(side[0]) >= min(shortest, 2) for side in sides[name])
    ]


def _is_word(name: str, side: re.Match[str]) -> bool:
    """Whether a side begins a word, unlike those in `upright` and `cleft`."""
    before = name[: side.start()]
    camel = side[0][0].isupper() and before[-1:].islower()
    return camel or not before[-1:].isalpha()


def lacks_pairs(keypoints: KeypointSet) -> bool:
    """Whether several keypoints have no pair, and nothing states that this is right."""
    return len(keypoints.names) > 1 and not keypoints.flip_pairs and not keypoints.pairs_stated


def check_flip_pairs(
    names: Sequence[str], pairs: Sequence[Sequence[str]], where: str
) -> tuple[tuple[str, str], ...]:
    """Returns the pairs as tuples after checking them against the names.

    Args:
        names: Keypoints of the data set.
        pairs: Two names each. Empty: nothing is swapped.
        where: Config key or metadata field, for the message.

    Raises:
        ConfigError: A pair does not have two names, or a name is unknown or in two pairs.
    """
    checked: list[tuple[str, str]] = []
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2 or pair[0] == pair[1]:
            raise ConfigError(
                f"{where} must be pairs of two different keypoint names, such as "
                f"[[left_ear, right_ear]]; got {pair!r}."
            )
        unknown = [name for name in pair if name not in names]
        if unknown:
            raise ConfigError(
                f"{where} names {', '.join(map(repr, unknown))}, which the data set does not have: "
                f"its keypoints are {', '.join(names)}."
            )
        checked.append((pair[0], pair[1]))
    flat = [name for pair in checked for name in pair]
    if twice := sorted({name for name in flat if flat.count(name) > 1}):
        raise ConfigError(f"{where} has {', '.join(twice)} in more than one pair.")
    return tuple(checked)


def check_sigmas(names: Sequence[str], sigmas: Sequence[float], where: str) -> tuple[float, ...]:
    """Returns the sigmas as floats after checking them.

    Raises:
        ConfigError: Their number is not that of the names, or one is not a positive number.
    """
    if len(sigmas) != len(names):
        raise ConfigError(
            f"{where} has {len(sigmas)} values, but the data set has {len(names)} keypoints "
            f"({', '.join(names)}). Give one a keypoint, in this order."
        )

    def good(s: Any) -> bool:
        number = isinstance(s, (int, float)) and not isinstance(s, bool)
        return number and math.isfinite(s) and s > 0

    bad = [s for s in sigmas if not good(s)]
    if bad:
        raise ConfigError(
            f"{where} must be positive numbers, got {bad}. COCO's go from 0.025 (eyes) to 0.107 "
            "(hips), in parts of the square root of the object's area."
        )
    return tuple(float(s) for s in sigmas)
