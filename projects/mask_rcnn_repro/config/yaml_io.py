"""Reading and writing YAML without running code, with the scalar rules of YAML 1.2.

PyYAML follows YAML 1.1, in which `1e-3` is a string, `no` is a boolean, `010` is eight and `1:30`
is ninety. Config values in files and on the command line are read and written by the core rules of
YAML 1.2 instead, so that a written value is read back equal.

Only plain data is accepted. A tag such as `!!python/object/apply` is rejected, never run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from mask_rcnn_repro.errors import ConfigError

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_SCALARS: tuple[tuple[str, str, Iterable[str]], ...] = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
)


class _Loader(_SafeLoader):
    """Safe loader with YAML 1.2 scalars that rejects duplicate keys."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and not key_node.tag.endswith(":merge"):
                if (key_node.tag, key_node.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        "while reading a mapping",
                        node.start_mark,
                        f"duplicate key {key_node.value!r}",
                        key_node.start_mark,
                    )
                seen.add((key_node.tag, key_node.value))
        return dict(super().construct_mapping(node, deep=deep))

    def construct_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads, without anchors, which are hard to read and to edit."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    if value != value:
        text = ".nan"
    elif value in (float("inf"), float("-inf")):
        text = ".inf" if value > 0 else "-.inf"
    else:
        text = repr(value)  # the shortest text that is read as the same float
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


for _tag, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
        )
# Strings that are no strings in YAML 1.1 (`no`, dates) are quoted for other readers.
for _first_letter, _pairs in yaml.SafeDumper.yaml_implicit_resolvers.items():
    _Dumper.yaml_implicit_resolvers.setdefault(_first_letter, []).extend(_pairs)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_int)
_Dumper.add_representer(float, _represent_float)


def _check_plain(value: Any, where: str) -> None:
    """Raises ConfigError unless `value` is made of null, bool, int, float, str, list and dict."""
    if isinstance(value, (list, dict)):
        for key in value if isinstance(value, dict) else ():
            if not isinstance(key, (str, int, float)):
                raise ConfigError(
                    f"{where}: the key {key!r} is not allowed. Keys are strings or numbers."
                )
        for item in value.values() if isinstance(value, dict) else value:
            _check_plain(item, where)
    elif value is not None and not isinstance(value, (bool, int, float, str)):
        raise ConfigError(
            f"{where}: values of type {type(value).__name__} are not allowed. Use null, booleans, "
            "numbers, strings, lists and mappings."
        )


_MOST_VALUES = 1_000_000


def _unfolded(value: Any, known: dict[int, int]) -> int:
    """Number of values if every alias were written out."""
    if not isinstance(value, dict | list):
        return 1
    place = id(value)
    if place not in known:
        parts = value.values() if isinstance(value, dict) else value
        known[place] = 1 + sum(_unfolded(part, known) for part in parts)
    return known[place]


def parse_yaml(text: str, where: str) -> Any:
    """Parses one YAML document.

    Args:
        text: The document. Empty text is null.
        where: Description of the text for messages.

    Returns:
        Plain Python data.

    Raises:
        ConfigError: The text is not YAML, or holds anything but plain data.
    """
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        detail = " ".join(str(error).split())
        hint = ""
        if "could not determine a constructor" in detail:
            hint = " Tags like !!python/... would run code when read, so they are rejected."
        raise ConfigError(f"{where} cannot be read as YAML: {detail}.{hint}") from error
    try:
        if _unfolded(value, {}) > _MOST_VALUES:
            raise ConfigError(
                f"{where}: its aliases (*name) expand to more than {_MOST_VALUES} values. Write "
                "the values without aliases."
            )
        _check_plain(value, where)
    except RecursionError as error:
        raise ConfigError(f"{where}: the YAML refers to itself or is nested too deep.") from error
    return value


def read_yaml(path: Path) -> Any:
    """Reads a YAML file as plain data.

    Args:
        path: An existing file.

    Raises:
        ConfigError: The file is not UTF-8 text, or see :func:`parse_yaml`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    return parse_yaml(text, str(path))


def dump_yaml(value: Any) -> str:
    """Writes plain data as YAML: block style, innermost lists and mappings on one line."""
    style: Any = None  # flow style for collections without collections
    return yaml.dump(
        value,
        None,
        _Dumper,
        default_flow_style=style,
        sort_keys=False,
        allow_unicode=True,
        width=100,
    )
