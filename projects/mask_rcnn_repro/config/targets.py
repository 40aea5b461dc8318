"""The parameters that the `_target_` of a node accepts, with annotations and defaults.

A `_target_` is a callable or the dotted name of one. `**kwargs` of a constructor stands for the
parameters of the base classes' constructors, without those that the subclass passes itself, and
with those that it takes from `kwargs` by name. Detectron2's `@configurable` is unwrapped.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.utils.registry import _convert_target_to_string, locate
from omegaconf import DictConfig

from mask_rcnn_repro.errors import ConfigError

EMPTY = inspect.Parameter.empty


@dataclass(frozen=True)
class Param:
    """One parameter. `annotation` and `default` are `EMPTY` if there is none."""

    name: str
    annotation: Any = EMPTY
    default: Any = EMPTY

    @property
    def required(self) -> bool:
        """Whether a call must give it."""
        return self.default is EMPTY


@dataclass(frozen=True)
class Signature:
    """Parameters of a target by name. `open`: other names may be accepted too."""

    params: dict[str, Param] = field(default_factory=dict)
    open: bool = False


def _why_not(name: str, error: Exception | None) -> str:
    """The first part of a dotted name that does not exist, and the nearest name there."""
    parts = name.split(".")
    reason = "" if error is None else " ".join(str(error.__cause__ or error).split())[:300]
    for length in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:length]))
        if module is not None:
            below = ".".join(parts[: length + 1])
            if hasattr(module, "__path__") and importlib.util.find_spec(below) is not None:
                return f": importing {below} fails: {reason}"
            text = f": {module.__name__} has no {parts[length]!r}"
            close = difflib.get_close_matches(parts[length], dir(module), n=1)
            return text + (f". Did you mean {module.__name__}.{close[0]}?" if close else ".")
    if importlib.util.find_spec(parts[0]) is not None:
        return f": importing {parts[0]} fails: {reason}"
    return f": no module {parts[0]!r} was found. Check the spelling and PYTHONPATH."


@functools.lru_cache(maxsize=4096)
def locate_target(name: str) -> Any:
    """Imports the callable of a dotted name.

    Raises:
        ConfigError: The name cannot be imported, or is not a callable.
    """
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(
            f"{name!r} is not a dotted name. Give a class or function such as "
            "torch.optim.SGD or my_package.my_module.MyHead."
        )
    try:
        found = locate(name)
    except Exception as error:  # importing may raise anything
        raise ConfigError(f"{name!r} cannot be imported{_why_not(name, error)}") from error
    if found is None:
        raise ConfigError(f"{name!r} cannot be imported{_why_not(name, None)}")
    if not callable(found):
        raise ConfigError(f"{name!r} is a {type(found).__name__}, not a class or function.")
    return found


@functools.lru_cache(maxsize=4096)
def _name_of_callable(target: Any) -> str:
    module, qualname = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    if not qualname:
        raise ConfigError(
            f"an object of type {type(target).__name__} cannot be written to a file. Describe how "
            "to build it with L(...)(...)."
        )
    if "<lambda>" in qualname or "<locals>" in qualname:
        raise ConfigError(
            f"{qualname} is a lambda or defined inside a function, so it has no dotted name. Move "
            "it to the top level of an importable module."
        )
    try:
        name = str(_convert_target_to_string(target))
        same = locate(name) == target  # bound methods are equal, not identical
    except Exception:
        same = False
    if not module or not same:
        raise ConfigError(
            f"{qualname} cannot be imported by its name; move it from the config file to an "
            "importable module."
        )
    return name


def target_name(target: Any) -> str:
    """The canonical dotted name of a target.

    Args:
        target: Callable or dotted name. A name that cannot be imported is returned unchanged;
            validation reports it.

    Raises:
        ConfigError: A callable that cannot be imported by name (lambda, local, in a config file).
    """
    if not isinstance(target, str):
        return _name_of_callable(target)
    try:
        return _name_of_callable(locate_target(target))
    except ConfigError:
        return target


def is_node(value: Any) -> bool:
    """Whether `value` describes a call: a mapping with the key `_target_`."""
    return isinstance(value, (DictConfig, Mapping)) and "_target_" in value


def _annotation(annotation: Any, function: Any) -> Any:
    """Evaluates an annotation that is text. Unknown names give `EMPTY`."""
    if not isinstance(annotation, str):
        return annotation
    namespace = getattr(inspect.unwrap(function), "__globals__", None)
    if namespace is None:
        namespace = vars(sys.modules.get(getattr(function, "__module__", ""), object()))
    try:
        for _ in range(2):  # twice for a quoted annotation that is stored as text
            if isinstance(annotation, str):
                annotation = eval(annotation, dict(namespace))
    except Exception:  # names imported for type checkers only
        return EMPTY
    return annotation


def _own(function: Any, skip_first: bool) -> tuple[dict[str, Param], bool] | None:
    """Parameters that `function` names, and whether it takes `**kwargs`; None if not known."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    params, takes_any = {}, False
    for index, parameter in enumerate(signature.parameters.values()):
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            takes_any = True
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            continue
        elif not (skip_first and index == 0):
            params[parameter.name] = Param(
                parameter.name, _annotation(parameter.annotation, function), parameter.default
            )
    return params, takes_any


@dataclass
class _KwargsUse:
    """What a constructor does with its `**kwargs`."""

    forwarded: bool = False  # passes them to the constructor of a base class
    given: set[str] = field(default_factory=set)  # names that it passes there itself
    positional: int = 0  # number of arguments that it passes there by position
    taken: list[str] = field(default_factory=list)  # names that it takes out of `kwargs`


def _use_of_kwargs(function: Callable[..., Any]) -> _KwargsUse:
    """Reads a constructor's source. Without source, `**kwargs` counts as forwarded."""
    use = _KwargsUse()
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError):
        return _KwargsUse(forwarded=True)
    catch_all = getattr(getattr(tree.body[0], "args", None), "kwarg", None)
    kwargs = getattr(catch_all, "arg", "")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, method = node.func.value, node.func.attr
        unpacked = [ast.unparse(k.value) for k in node.keywords if k.arg is None]
        if method == "__init__" and kwargs in unpacked:
            use.forwarded = True
            use.given |= {k.arg for k in node.keywords if k.arg}
            use.positional = len([a for a in node.args if not isinstance(a, ast.Starred)])
            if not isinstance(owner, ast.Call):  # Base.__init__(self, ...) instead of super()
                use.positional = max(use.positional - 1, 0)
        elif method in ("pop", "get") and ast.unparse(owner) == kwargs:
            use.taken += [str(a.value) for a in node.args[:1] if isinstance(a, ast.Constant)]
    return use


def _constructor(cls: type) -> Signature:
    """Parameters of a class, following `**kwargs` along the method resolution order."""
    if cls.__new__ is not object.__new__ and "__init__" not in vars(cls):
        return _plain_signature(cls)  # a named tuple, for example
    params: dict[str, Param] = {}
    passed_on: set[str] = set()
    skipped = 0  # number of arguments that the subclass passes by position
    for base in (b for b in cls.__mro__ if "__init__" in vars(b)):
        if base in (object, torch.nn.Module):
            return Signature(params)
        found = _own(vars(base)["__init__"], skip_first=True)
        if found is None:
            return Signature(params, open=True)
        own, takes_any = found
        for param in list(own.values())[skipped:]:
            if param.name not in passed_on:
                params.setdefault(param.name, param)
        if not takes_any:
            return Signature(params)
        if not inspect.isfunction(inspect.unwrap(vars(base)["__init__"])):
            return Signature(params, open=True)  # written in C: their use is not known
        use = _use_of_kwargs(vars(base)["__init__"])
        for name in use.taken:
            params.setdefault(name, Param(name, default=None))
        if not use.forwarded:
            return Signature(params, open=True)  # used elsewhere, or ignored
        passed_on |= use.given
        skipped = use.positional
    return Signature(params)


def _plain_signature(function: Any) -> Signature:
    # The **kwargs of a function may be used anywhere, so that any other name is allowed.
    found = _own(function, skip_first=False)
    return Signature(*found) if found is not None else Signature(open=True)


@functools.lru_cache(maxsize=4096)
def _signature(target: Any) -> Signature:
    return _constructor(target) if inspect.isclass(target) else _plain_signature(target)


def target_signature(target: Any) -> Signature:
    """Parameters that a target accepts by keyword.

    Args:
        target: Callable or dotted name. Anything else gives an open signature.

    Raises:
        ConfigError: A dotted name that cannot be imported.
    """
    if isinstance(target, str):
        target = locate_target(target)
    if not callable(target):
        return Signature(open=True)
    try:
        return _signature(target)
    except TypeError:  # not hashable
        return _signature.__wrapped__(target)
