"""Dotted keys: parsing, finding nodes, the known keys of each node, and the nearest known key.

A key is written `a.b.0.c` or `a.b[0].c`; brackets also hold names that contain dots (`a[x.y]`).
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode

from mask_rcnn_repro.config import schema
from mask_rcnn_repro.config.targets import Param, is_node, target_signature
from mask_rcnn_repro.errors import ConfigError

Key = tuple[Any, ...]
"""Path of names (str, rarely a number) and list positions (int) from the top of the config."""

_PART = re.compile(r"\.?([^.\[\]]+)|\[([^\[\]]+)\]")


def parse_key(text: str) -> tuple[str, ...]:
    """Splits a dotted key into its parts, all strings.

    Raises:
        ConfigError: Empty, or with empty parts or unmatched brackets.
    """
    parts, position = [], 0
    while position < len(text):
        match = _PART.match(text, position)
        if match is None or (position == 0 and text.startswith(".")):
            break
        parts.append(match.group(1) or match.group(2))
        position = match.end()
    if not parts or position < len(text):
        raise ConfigError(
            f"{text!r} is not a key. Separate names and list positions by dots, such as "
            "train.max_iter or dataloader.test.mapper.augmentations.0.max_size."
        )
    return tuple(parts)


def format_key(key: Iterable[Any]) -> str:
    """The dotted form of a key."""
    text = ""
    for part in key:
        name = str(part)
        if any(c in name for c in ".[]"):
            text += f"[{name}]"
        else:
            text += f".{name}" if text else name
    return text


def child(node: Any, part: Any) -> Any:
    """The raw child node without following interpolations; None if there is none."""
    if isinstance(node, ListConfig):
        if isinstance(part, str):
            part = int(part) if part.isdigit() else -1
        return node._get_node(part) if 0 <= part < len(node) else None
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation():
        return node._get_node(dict_key(node, part))
    return None


def dict_key(node: DictConfig, part: Any) -> Any:
    """The key of a mapping that `part` names: `part` itself, or the number it spells."""
    if part in node._content:
        return part
    return next((k for k in node._content if not isinstance(k, str) and str(k) == part), part)


def plain(node: Any) -> Any:
    """Plain data of a node. Interpolations stay text; objects and plain data stay as they are."""
    if isinstance(node, (DictConfig, ListConfig)):
        if node._is_interpolation() or node._is_none():
            return node._value()
        # INSTANTIATE keeps dataclass objects, such as a ShapeSpec given without L(...).
        return OmegaConf.to_container(
            node, resolve=False, structured_config_mode=SCMode.INSTANTIATE
        )
    return node._value() if hasattr(node, "_value") else node


def known_params(node: Any, key: Key) -> tuple[dict[str, Param | None], bool]:
    """The names that a mapping may hold.

    Args:
        node: The mapping (DictConfig) at `key`.
        key: Key of the mapping; `()` is the top.

    Returns:
        Known names with the target's parameters, if any; and whether other names are allowed,
        because the mapping is free or the target takes any keyword.
    """
    fixed: dict[Key, Iterable[str]] = {
        (): schema.TOP_LEVEL_KEYS,
        ("dataloader",): schema.DATALOADER_KEYS,
        **{(name,): keys for name, keys in schema.ABOUT_KEYS.items()},
    }
    names = fixed.get(key)
    if key[:1] == ("train",):
        names = schema.train_fields(tuple(map(str, key[1:])))
    if names is not None:
        return dict.fromkeys(names), False
    if is_node(node):
        with contextlib.suppress(ConfigError):  # reported where the target itself is checked
            signature = target_signature(plain(child(node, "_target_")))
            return {"_target_": None, **signature.params}, signature.open
    set_already = isinstance(node, DictConfig) and not (node._is_none() or node._is_interpolation())
    return {str(name): None for name in node} if set_already else {}, True


def all_keys(cfg: DictConfig) -> dict[str, bool]:
    """Every known dotted key of a config, and whether it is set."""
    found: dict[str, bool] = {}

    def visit(node: Any, key: Key) -> None:
        containers = (DictConfig, ListConfig)
        if isinstance(node, containers) and (node._is_none() or node._is_interpolation()):
            return
        if isinstance(node, DictConfig):
            present = {str(name): name for name in node}
            for name in [*present, *known_params(node, key)[0]]:
                found.setdefault(format_key((*key, name)), name in present)
            for raw in present.values():
                visit(child(node, raw), (*key, raw))
        elif isinstance(node, ListConfig):
            for index in range(len(node)):
                visit(node._get_node(index), (*key, index))

    visit(cfg, ())
    return found


def _last(key: str) -> str:
    return parse_key(key)[-1]


def nearest(cfg: DictConfig, key: Key, level: Iterable[str], failed_at: int) -> str | None:
    """The known key that is nearest to an unknown one, or None.

    Args:
        cfg: The config.
        key: The unknown key.
        level: Names that are known in place of the first unknown part.
        failed_at: Position of that part in `key`.
    """
    text = format_key(key)
    known = {k: v for k, v in all_keys(cfg).items() if k != text and not k.startswith(f"{text}.")}

    def best(candidates: Iterable[str]) -> str | None:
        """Prefers keys that are set, then short ones."""
        return min(candidates, key=lambda k: (not known[k], k.count("."), k), default=None)

    for name in difflib.get_close_matches(str(key[failed_at]), list(level), n=3, cutoff=0.6):
        corrected = format_key((*key[:failed_at], name, *key[failed_at + 1 :]))
        if corrected in known:
            return corrected
    by_end = best(k for k in known if k.endswith(f".{text}"))
    if by_end is not None:
        return by_end
    others = [k for k in known if not text.startswith(f"{k}.") and _last(k) != "_target_"]
    same_name = [k for k in others if _last(k) == str(key[-1])]
    for candidates, cutoff in ((same_name, 0.5), (others, 0.75)):
        close = difflib.get_close_matches(text, candidates, n=1, cutoff=cutoff)
        if close:
            return close[0]
    names = difflib.get_close_matches(str(key[-1]), {_last(k) for k in others}, n=1, cutoff=0.75)
    return best(k for k in others if names and _last(k) == names[0])


def unknown_key_text(cfg: DictConfig, key: Key, level: Iterable[str], failed_at: int) -> str:
    """The message for an unknown key: the nearest known key, or else all keys known there."""
    level = sorted(level)
    guess = nearest(cfg, key, level, failed_at)
    text = f"unknown key {format_key(key)!r}."
    if guess is not None:
        return f"{text} Did you mean {guess!r}?"
    place = format_key(key[:failed_at]) or "the top level"
    shown = ", ".join(level[:30]) + (", ..." if len(level) > 30 else "")
    return f"{text} Known keys of {place}: {shown or 'none'}"
