"""A config as plain data: printed, saved, and hashed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode
from omegaconf.errors import OmegaConfBaseException

from mask_rcnn_repro.config import schema
from mask_rcnn_repro.config.targets import target_name
from mask_rcnn_repro.config.yaml_io import dump_yaml
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.utils.atomic import atomic_write_text

_LOCATE = "detectron2.utils.registry.locate"
"""A class or function that is a value is written as a call that finds it by name."""

_SCALARS = (bool, int, float, str)


def to_plain(cfg: Any, resolve: bool = True) -> Any:
    """Converts a config or a part of it to null, bool, int, float, str, list and dict.

    Args:
        cfg: A config, a node, or plain data.
        resolve: Replace interpolations by their values. Otherwise they stay text.

    Returns:
        Plain data. Targets become dotted names, other classes and functions nodes that find them.

    Raises:
        ConfigError: An interpolation cannot be resolved, or a value cannot be written as data.
    """
    if isinstance(cfg, (DictConfig, ListConfig)):
        try:
            # INSTANTIATE keeps dataclass objects.
            cfg = OmegaConf.to_container(
                cfg, resolve=resolve, structured_config_mode=SCMode.INSTANTIATE
            )
        except (OmegaConfBaseException, RecursionError) as error:
            raise ConfigError(f"The config cannot be resolved: {error}") from error
    return _plain(cfg, "")


def _plain(value: Any, place: str) -> Any:
    if value is None or (isinstance(value, _SCALARS) and not isinstance(value, Enum)):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{place}.{index}") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        result = {}
        if value.get("_target_") is not None:
            target = value["_target_"]
            simple = callable(target) or isinstance(target, str)
            result["_target_"] = target_name(target) if simple else _plain(target, place)
        for key, item in value.items():
            if key != "_target_":
                result[key] = _plain(item, f"{place}.{key}")
        return result
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        return _plain({"_target_": type(value), **fields}, place)
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return {"_target_": _LOCATE, "name": target_name(value)}
    raise ConfigError(
        f"{place.lstrip('.') or 'it'} is an object of type {type(value).__name__}, which cannot "
        "be written to a file. Describe how to build it with L(...)(...)."
    )


def _map_scalars(value: Any, function: Callable[[Any], Any]) -> Any:
    """Applies a function to every scalar of plain data; keys of mappings become text."""
    if isinstance(value, dict):
        return {str(key): _map_scalars(item, function) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_scalars(item, function) for item in value]
    return function(value)


def canonical(value: Any) -> str:
    """Plain data as text that is equal for equal data: in any order of keys, 1.0 written as 1."""

    def same_number(scalar: Any) -> Any:
        return int(scalar) if isinstance(scalar, float) and scalar.is_integer() else scalar

    return json.dumps(_map_scalars(value, same_number), sort_keys=True, separators=(",", ":"))


WHERE_KEYS = frozenset({
    "train.output_dir", "train.output_root", "train.device", "train.num_threads",
    "train.check_data", "train.process_timeout", "train.optimize_inference",
    "train.published_weights", "train.writers",
    "train.verify.tolerance", "train.verify.expected",
    "dataloader.train.num_workers", "dataloader.test.num_workers",
})  # fmt: skip
"""Keys that say where and by how many processes a run is executed, not what it computes."""

NOT_HASHED = WHERE_KEYS | {"train.profile"}

_MISSING = object()
_OWN_PACKAGE = "mask_rcnn_repro."


def config_hash(cfg: DictConfig) -> str:
    """Hash of what a config computes: resolved, without `ABOUT_KEYS` and `WHERE_KEYS`.

    Keys of `train` are hashed if they differ from their defaults, so that a new key changes no
    hashes of older runs. Classes of this project are hashed by name, without their module.

    Returns:
        The first 12 hexadecimal digits of a SHA-256.
    """
    data = to_plain(cfg)
    data = {key: value for key, value in data.items() if key not in schema.ABOUT_KEYS}
    for key in NOT_HASHED:
        *sections, name = key.split(".")
        node: Any = data
        for section in sections:
            node = node.get(section) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(name, None)
    if isinstance(data.get("train"), dict):  # after that: a section left empty is its default
        data["train"] = _without_defaults(data["train"], schema.train_defaults())
    data = _map_scalars(data, _without_module)
    return hashlib.sha256(canonical(data).encode()).hexdigest()[:12]


def _without_module(value: Any) -> Any:
    """Reduces a class of this project to package and name, so that a move changes no hash."""
    if isinstance(value, str) and value.startswith(_OWN_PACKAGE):
        return _OWN_PACKAGE + value.rpartition(".")[2]
    return value


def _without_defaults(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Entries that differ from the defaults, at every depth."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        default = defaults.get(key, _MISSING)
        if isinstance(value, dict) and isinstance(default, dict):
            value, default = _without_defaults(value, default), {}
        if canonical(value) != (default is not _MISSING and canonical(default)):
            kept[key] = value
    return kept


def _ordered(data: dict[str, Any]) -> dict[str, Any]:
    """Top-level sections in their usual order."""
    usual = dict.fromkeys(key for key in schema.TOP_LEVEL_KEYS if key in data)
    return {key: data[key] for key in {**usual, **data}}


def _sorted(value: Any) -> Any:
    """Keys of every mapping in alphabetical order, `_target_` first."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda key: (key != "_target_", str(key)))
        return {name: _sorted(value[name]) for name in names}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value


def format_config(cfg: DictConfig) -> str:
    """A config as YAML with resolved interpolations and sorted keys; can be loaded again."""
    return dump_yaml(_ordered(_sorted(to_plain(cfg))))


def save_config(cfg: DictConfig, path: str | Path) -> None:
    """Writes a config as YAML, atomically. `load_config` reads an equal config from it.

    Interpolations are kept, so that overrides of the saved config follow them.

    Args:
        cfg: A config.
        path: The file, in a directory that exists.

    Raises:
        ConfigError: A value cannot be written as data.
    """
    atomic_write_text(path, dump_yaml(_ordered(to_plain(cfg, resolve=False))))
