"""Check of a whole config before anything is built. All problems are reported at once."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from mask_rcnn_repro.config import schema
from mask_rcnn_repro.config.combinations import combination_problems
from mask_rcnn_repro.config.dotted_keys import (
    Key,
    child,
    format_key,
    known_params,
    plain,
    unknown_key_text,
)
from mask_rcnn_repro.config.serialization import to_plain
from mask_rcnn_repro.config.targets import EMPTY, Param, is_node, target_name, target_signature
from mask_rcnn_repro.config.typecheck import type_problem
from mask_rcnn_repro.errors import ConfigError


def validate_config(cfg: DictConfig, world_size: int | None = None) -> None:
    """Checks keys, types, references and combinations of a config.

    Args:
        cfg: A loaded config, which is not changed.
        world_size: Number of processes, if known. The batch size must be a multiple of it.

    Raises:
        ConfigError: Lists all problems.
    """
    problems = config_problems(cfg, world_size)
    sentences = [text if text.endswith("?") else f"{text}." for text in problems]
    if len(sentences) == 1:
        raise ConfigError(f"The config cannot be used: {sentences[0]}")
    if sentences:
        listed = "\n".join(f"  {n}. {text}" for n, text in enumerate(sentences, 1))
        raise ConfigError(f"The config cannot be used, for {len(problems)} reasons:\n{listed}")


def config_problems(cfg: DictConfig, world_size: int | None = None) -> list[str]:
    """All problems of a config as sentences without a full stop; see `validate_config`."""
    checker = _Checker(cfg)
    checker.sections()
    checker.visit(cfg, ())
    # Combinations are checked only if each single value is valid.
    return checker.problems or combination_problems(cfg, world_size)


class _Checker:
    """Visits every node of a config and collects problems."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.problems: list[str] = []

    def add(self, key: Key, text: str) -> None:
        self.problems.append(f"{format_key(key)} {text}")

    def sections(self) -> None:
        """Required sections and their required keys."""
        for key in schema.REQUIRED_KEYS:
            if child(self.cfg, key) is None:
                self.problems.append(f"the section {key} is missing")
        loaders = child(self.cfg, "dataloader")
        for key in schema.DATALOADER_KEYS:
            if isinstance(loaders, DictConfig) and child(loaders, key) is None:
                self.problems.append(f"dataloader.{key} is missing")

    def visit(self, node: Any, key: Key) -> None:
        """Checks a mapping or list and everything below it."""
        if isinstance(node, DictConfig):
            if is_node(node):
                self._target(node, key)
            known, open_ = known_params(node, key)
            for name in node:
                place = (*key, name)
                if str(name) not in known and not open_:
                    text = unknown_key_text(self.cfg, place, sorted(known), len(key))
                    self.problems.append(text)
                elif name != "_target_":
                    self._value(node, place, known.get(str(name)))
            self._required(node, key, known)
        else:
            for index in range(len(node)):
                self._value(node, (*key, index), None)

    def _target(self, node: DictConfig, key: Key) -> None:
        """Checks that a target can be called, and has a name to save."""
        target = plain(child(node, "_target_"))
        try:
            target_signature(target)
            if not isinstance(target, str):
                if not callable(target):
                    self.add(key, f"has the _target_ {target!r}, which is not a class or function")
                else:
                    target_name(target)
        except ConfigError as error:
            self.add(key, f"has a _target_ that cannot be used: {str(error).rstrip('.')}")

    def _required(self, node: DictConfig, key: Key, known: dict[str, Param | None]) -> None:
        if key and key[0] == "train":
            fields = schema.train_fields(tuple(map(str, key[1:]))) or {}
            for name, field in fields.items():
                if field.is_required() and child(node, name) is None:
                    self.add((*key, name), "is not set; give it")
            return
        for name, param in known.items():
            place = (*key, name)
            if param is None or not param.required or child(node, name) is not None:
                continue
            if format_key(place) not in schema.RUNTIME_KEYS:
                target = plain(child(node, "_target_"))
                shown = target if isinstance(target, str) else getattr(target, "__name__", target)
                self.add(place, f"is not set, and {shown} needs it")

    def _value(self, parent: Any, key: Key, param: Param | None) -> None:
        """Checks one value, with its interpolation resolved, and everything below it."""
        raw = child(parent, key[-1])
        value = plain(raw)
        if raw is not None and raw._is_missing():
            self.add(key, "has no value (`???`); give it")
            return
        if raw is not None and raw._is_interpolation():
            try:
                value = plain(parent[key[-1]])
            except (OmegaConfBaseException, RecursionError) as error:
                reason = " ".join(str(error).splitlines()[:1]) or "it refers to itself"
                self.add(key, f"= {value!r} cannot be resolved: {reason}")
                return
        problem = self._problem(parent, key, param, value)
        if problem is not None:
            self.add(key, problem)
        elif isinstance(raw, (DictConfig, ListConfig)):
            if not raw._is_none() and not raw._is_interpolation():
                self.visit(raw, key)
        elif raw is None or not raw._is_interpolation():
            try:
                to_plain(value)
            except ConfigError as error:
                self.add(key, f"cannot be saved: {str(error).rstrip('.')}")

    def _problem(self, parent: Any, key: Key, param: Param | None, value: Any) -> str | None:
        names = tuple(map(str, key[1:]))
        if key[0] == "train" and isinstance(parent, DictConfig):
            if not names:
                return None if isinstance(value, dict) else "must be a section of keys"
            # Sections below are visited key by key, so that a problem names its own key.
            if schema.train_fields(names) is not None and isinstance(value, dict):
                return None
            return schema.check_train_value(names, value)
        if value is None and format_key(key) in schema.NULLABLE:
            return None
        if len(key) == 1:
            return None if isinstance(value, (dict, list)) else f"must be a section, got {value!r}"
        if len(key) == 2 and key[0] in schema.ABOUT_KEYS:
            return _about_problem(key[1], value)
        if param is None:
            return None
        # A default without an annotation does not decide which types are allowed.
        default = param.default if param.annotation is not EMPTY else EMPTY
        return type_problem(value, param.annotation, default)


def _about_problem(name: str, value: Any) -> str | None:
    """What is wrong with a value of `paper` or `ablation`, or None."""
    if name == "margin":
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return None if number and 0 <= value < 100 else f"must be 0 or more points, got {value!r}"
    if name == "expect" and value not in schema.EXPECTATIONS:
        return f"must be one of {', '.join(schema.EXPECTATIONS)}, got {value!r}"
    text = value is None or isinstance(value, str)
    return None if text else f"must be a string or null, got {value!r}"
