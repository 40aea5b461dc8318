"""Changes to a config from the command line, in Hydra's forms.

    key=value    set a key that exists or that its node's target accepts
    +key=value   add a key that is not set yet
    ++key=value  set or add
    ~key         delete a key; `~key=value` only if it has that value

The text is split at the first `=`. The value is YAML (`1e-3`, `null`, `[1, 2]`, `{a: 1}`,
`"quoted"`, `${train.max_iter}`). An empty value is the empty string. A mapping is merged into the
present mapping; a mapping with `_target_` replaces it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mask_rcnn_repro.config import schema
from mask_rcnn_repro.config.dotted_keys import (
    Key,
    child,
    dict_key,
    format_key,
    known_params,
    parse_key,
    plain,
    unknown_key_text,
)
from mask_rcnn_repro.config.targets import EMPTY, is_node, locate_target
from mask_rcnn_repro.config.typecheck import is_interpolation, type_problem
from mask_rcnn_repro.config.yaml_io import parse_yaml
from mask_rcnn_repro.errors import ConfigError

Operation = Literal["set", "add", "force", "delete"]
_PREFIXES: tuple[tuple[str, Operation], ...] = (("++", "force"), ("+", "add"), ("~", "delete"))


@dataclass(frozen=True)
class Override:
    """One parsed override.

    Attributes:
        operation: `set` (`key=value`), `add` (`+`), `force` (`++`) or `delete` (`~`).
        key: Parts of the key.
        value: Plain data; None for a deletion without value.
        has_value: Whether the text contains `=`.
        text: The override as written.
    """

    operation: Operation
    key: tuple[str, ...]
    value: Any
    has_value: bool
    text: str


def parse_override(text: str) -> Override:
    """Parses one override.

    Raises:
        ConfigError: No `=`, a malformed key, or a value that is not YAML.
    """
    operation: Operation = "set"
    rest = text.strip()
    for prefix, name in _PREFIXES:
        if rest.startswith(prefix):
            operation, rest = name, rest[len(prefix) :]
            break
    name_text, equals, value_text = rest.partition("=")
    if not equals and operation != "delete":
        raise ConfigError(
            f"{text!r} is not an override. Write key=value, +key=value or ~key, such as "
            "train.max_iter=1000."
        )
    key = parse_key(name_text.strip())
    value: Any = None
    if equals:
        value = parse_yaml(value_text, f"The value of {text!r}") if value_text.strip() else ""
        _check_markers(value, text)
    return Override(operation, key, value, bool(equals), text)


def _check_markers(value: Any, text: str) -> None:
    """Rejects OmegaConf's mark of missing values (`???`) and incomplete interpolations."""
    if value == "???":
        raise ConfigError(f"{text!r}: `???` marks a missing value. Give the value itself.")
    items = value.values() if isinstance(value, Mapping) else value
    for item in items if isinstance(value, (Mapping, list)) else ():
        _check_markers(item, text)
    if is_interpolation(value):
        try:
            OmegaConf.create({"value": value})
        except OmegaConfBaseException as error:
            raise ConfigError(
                f"{text!r}: {value!r} is not a complete interpolation such as "
                f"${{train.max_iter}}: {str(error).splitlines()[0]}"
            ) from error


def apply_overrides(cfg: DictConfig, overrides: Iterable[str]) -> DictConfig:
    """Applies overrides in the order given.

    Args:
        cfg: A loaded config, which is not changed.
        overrides: Texts as on the command line. None gives an equal copy.

    Returns:
        A changed copy.

    Raises:
        ConfigError: An unknown key (the message names the nearest known one), a value of the wrong
            type, or a change that is not possible.
    """
    cfg = copy.deepcopy(cfg)
    for text in overrides:
        _apply(cfg, parse_override(text))
    if isinstance(cfg.get("train"), DictConfig):
        schema.fill_train_defaults(cfg.train)  # a deleted key gets its default
    return cfg


def _apply(cfg: DictConfig, override: Override) -> None:
    try:
        parent, key = _find_parent(cfg, override)
        if override.operation == "delete":
            _delete(cfg, parent, key, override)
        else:
            _assign(cfg, parent, key, override.value, override.operation)
    except (ConfigError, OmegaConfBaseException) as error:
        reason = str(error) if isinstance(error, ConfigError) else str(error).splitlines()[0]
        raise ConfigError(f"{override.text!r}: {reason}") from error


def _find_parent(cfg: DictConfig, override: Override) -> tuple[Any, Key]:
    """The container of the key's last part, and the key with list positions as ints."""
    node: Any = cfg
    key: list[Any] = []
    for position, part in enumerate(override.key):
        if isinstance(node, ListConfig):
            last = len(node) - 1 + (override.operation in ("add", "force"))
            if not part.isdigit() or int(part) > last:
                raise ConfigError(
                    f"{format_key(key)} is a list of {len(node)}, got the position {part!r}. Give "
                    f"0 to {last}."
                )
            key.append(int(part))
        else:
            key.append(dict_key(node, part))
        if position == len(override.key) - 1:
            return node, tuple(key)
        below = child(node, key[-1])
        place = format_key(key)
        if below is None:
            if part in known_params(node, tuple(key[:-1]))[0]:
                raise ConfigError(f"{place} is not set. Set it as a whole: {place}={{...}}.")
            names = _names(node, tuple(key[:-1]))
            raise ConfigError(unknown_key_text(cfg, override.key, names, position))
        raw = plain(below)
        if is_interpolation(raw):
            raise ConfigError(f"{place} refers to {raw}. Override that key or {place} itself.")
        if not isinstance(below, (DictConfig, ListConfig)) or raw is None:
            rest = format_key(override.key[position:])
            raise ConfigError(f"{place} is {raw!r}, so it has no {rest}.")
        node = below
    raise AssertionError("a key has at least one part")


def _names(node: Any, key: Key) -> list[str]:
    present = [str(name) for name in node] if isinstance(node, DictConfig) else []
    return sorted({*present, *known_params(node, key)[0]})


def _delete(cfg: DictConfig, parent: Any, key: Key, override: Override) -> None:
    present, place = child(parent, key[-1]), format_key(key)
    if present is None:
        names = _names(parent, key[:-1])
        if key[-1] not in names:
            raise ConfigError(unknown_key_text(cfg, key, names, len(key) - 1))
        raise ConfigError(f"{place} is not set, so it cannot be deleted")
    if override.has_value and plain(present) != override.value:
        raise ConfigError(
            f"{place} is {plain(present)!r}, not {override.value!r}. Write ~{place} to delete it."
        )
    del parent[key[-1]]


def _assign(cfg: DictConfig, parent: Any, key: Key, value: Any, operation: Operation) -> None:
    """Checks and carries out one assignment; mappings are merged part by part."""
    present, place = child(parent, key[-1]), format_key(key)
    if operation == "add" and present is not None:
        raise ConfigError(
            f"{place} is set already. Write {place}=... to change it (or ++{place}=...)."
        )
    param = None
    if isinstance(parent, DictConfig):
        known, open_ = known_params(parent, key[:-1])
        param = known.get(str(key[-1]))
        allowed = open_ and operation in ("add", "force")
        if present is None and str(key[-1]) not in known and not allowed:
            text = unknown_key_text(cfg, key, _names(parent, key[:-1]), len(key) - 1)
            raise ConfigError(f"{text} (+{place}=... adds it anyway)" if open_ else text)
    current = plain(present)
    if isinstance(value, Mapping) and not is_node(value) and isinstance(current, dict) and current:
        _merge(cfg, present, key, value, operation)
        return
    problem = _problem(key, value, present, param)
    if problem is not None:
        raise ConfigError(f"{place} {problem}.")
    if isinstance(parent, ListConfig) and key[-1] == len(parent):
        parent.append(value)
    else:
        parent[key[-1]] = value


def _merge(
    cfg: DictConfig, present: DictConfig, key: Key, value: Mapping[Any, Any], operation: Operation
) -> None:
    if not value:
        raise ConfigError(
            f"an empty mapping changes nothing, because mappings are merged. Delete single keys "
            f"with ~{format_key(key)}.<key>."
        )
    for name, item in value.items():
        each: Operation = "force" if operation == "force" else "set"
        if each == "set" and child(present, name) is None and not is_node(present):
            each = "add"
        _assign(cfg, present, (*key, name), item, each)


def _problem(key: Key, value: Any, present: Any, param: Any) -> str | None:
    """What is wrong with the type of a value for a key, or None."""
    place = format_key(key)
    if key[-1] == "_target_":
        if not isinstance(value, str):
            return f"must be the dotted name of a class or function, got {value!r}"
        locate_target(value)
        return None
    if len(key) == 1 and not isinstance(value, Mapping):
        return f"is a section. Set keys below it; got {value!r}"
    if is_interpolation(value) or (value is None and place in schema.NULLABLE):
        return None
    if key[0] == "train" and schema.train_fields(tuple(map(str, key[1:-1]))) is not None:
        return schema.check_train_value(tuple(map(str, key[1:])), value)
    annotation = EMPTY if param is None else param.annotation
    default = EMPTY if param is None else param.default
    current = EMPTY if present is None else plain(present)
    if is_interpolation(current):
        current = EMPTY
    return type_problem(value, annotation, default, current)
