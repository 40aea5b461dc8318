"""Differences of two configs."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from mask_rcnn_repro.config.dotted_keys import format_key
from mask_rcnn_repro.config.serialization import canonical, to_plain


class _Absent:
    """The value of a key that is not set."""

    def __repr__(self) -> str:
        return "(not set)"


ABSENT = _Absent()

Difference = tuple[str, Any, Any]
"""Dotted key, value in the first config, value in the second; `ABSENT` if not set."""


def diff_configs(a: DictConfig, b: DictConfig) -> list[Difference]:
    """Lists the differences of two configs, interpolations resolved.

    Args:
        a: The first config (or plain data).
        b: The second.

    Returns:
        Differences sorted by key. A node that only one config has is one difference. Nodes of both
        configs are compared key by key. Lists of nodes are compared item by item if their lengths
        are equal.
    """
    found: list[Difference] = []
    _compare(to_plain(a), to_plain(b), (), found)
    return sorted(found, key=lambda difference: difference[0])


def _compare(a: Any, b: Any, key: tuple[Any, ...], found: list[Difference]) -> None:
    if isinstance(a, dict) and isinstance(b, dict):
        for name in {**a, **b}:
            _compare(a.get(name, ABSENT), b.get(name, ABSENT), (*key, name), found)
    elif _holds_nodes(a) and _holds_nodes(b) and len(a) == len(b):
        for index, (left, right) in enumerate(zip(a, b, strict=True)):
            _compare(left, right, (*key, index), found)
    elif a is ABSENT or b is ABSENT or canonical(a) != canonical(b):
        found.append((format_key(key), a, b))


def _holds_nodes(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def format_value(value: Any, limit: int = 100) -> str:
    """One value on one line: nodes as calls, targets by their last name."""
    text = _call(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _call(value: Any) -> str:
    if isinstance(value, dict):
        target = value.get("_target_")
        items = ", ".join(f"{k}={_call(v)}" for k, v in value.items() if k != "_target_")
        return (
            f"{target.rpartition('.')[2]}({items})" if isinstance(target, str) else f"{{{items}}}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(_call(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) or "''"


def format_diff(differences: list[Difference], a: str = "old", b: str = "new") -> str:
    """Differences as aligned lines: `key: old -> new`, `+` for added and `-` for removed keys.

    Args:
        differences: From :func:`diff_configs`.
        a: Name of the first config in the heading.
        b: Name of the second.
    """
    if not differences:
        return f"{a} and {b}: no difference."
    width = min(max(len(key) for key, _, _ in differences) + 1, 70)
    lines = [f"{a} -> {b}: {len(differences)} difference{'s' * (len(differences) > 1)}"]
    for key, old, new in differences:
        if key.endswith("_target_"):
            old, new = _short_targets(old, new)
        if old is ABSENT:
            mark, text = "+", format_value(new)
        elif new is ABSENT:
            mark, text = "-", format_value(old)
        else:
            mark, text = " ", f"{format_value(old)} -> {format_value(new)}"
        lines.append(f"{mark} {key + ':':<{width}} {text}")
    return "\n".join(lines)


def _short_targets(old: Any, new: Any) -> tuple[Any, Any]:
    """Targets by their last names, or in full if these are equal."""
    if not isinstance(old, str) or not isinstance(new, str):
        return old, new
    short = old.rpartition(".")[2], new.rpartition(".")[2]
    return short if short[0] != short[1] else (old, new)
