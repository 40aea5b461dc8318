"""Parses sweeps in Hydra's syntax: `key=1,2,4`, `key=range(1,5)`, `key=choice(a,b)`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from mask_rcnn_repro.errors import ConfigError

Sweep = tuple[tuple[str, tuple[str, ...]], ...]
"""Maps keys to the texts of their values."""


def parse_sweep(texts: Sequence[str]) -> Sweep:
    """Parses the words of `--sweep`.

    Args:
        texts: Overrides with a list of choices or a range. One value is a list of one. Hydra's
            `interval` and `glob` have no finite list of values and are refused.

    Raises:
        ConfigError: A word is not in Hydra's syntax, or a key is given twice.
    """
    parser = OverridesParser.create()
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        try:
            override = parser.parse_override(text)
            if override.is_sweep_override() and not override.is_discrete_sweep():
                raise ConfigError(f"--sweep {text}: give values, such as key=1,2,4 or range(1,5).")
            one = not override.is_sweep_override()
            values = (
                (override.get_value_element_as_str(),)
                if one
                else tuple(dict.fromkeys(map(_rounded, override.sweep_string_iterator())))
            )
        except HydraException as error:
            why = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"--sweep {text} is not in Hydra's syntax, such as optimizer.lr=0.01,0.02 or "
                f"model.roi_heads.mask_head.num_conv=range(1,5): {why}"
            ) from None
        if override.type is not None and override.is_delete():
            raise ConfigError(f"--sweep {text}: a key that is deleted has no values.")
        key = override.get_key_element()
        if not key:
            raise ConfigError(f"--sweep {text} is not in Hydra's syntax: it names no key.")
        if key in found:
            raise ConfigError(f"--sweep names {key} twice; give its values in one list.")
        if not values:
            raise ConfigError(f"--sweep {text} is an empty range.")
        found[key] = values
    return tuple(found.items())


def combinations(sweep: Sweep) -> list[tuple[str, ...]]:
    """Returns every combination as overrides. The last key varies first."""
    pairs = ([f"{key}={value}" for value in values] for key, values in sweep)
    return list(itertools.product(*pairs))


def _rounded(text: str) -> str:
    """Removes rounding errors from a number of a range: 0.3 for 0.30000000000000004."""
    try:
        return text if float(text) == int(float(text)) else f"{float(text):.12g}"
    except (ValueError, OverflowError):
        return text
