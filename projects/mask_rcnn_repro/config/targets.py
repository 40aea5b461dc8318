"""What a node's `_target_` accepts: its parameters, with annotations and defaults.

A `_target_` is a callable or the dotted name of one. `**kwargs` of a constructor is followed to the
constructors of the base classes, less what the subclass passes on itself, plus what it takes out of
`kwargs` by name. Detectron2's `@configurable` constructors are looked through.
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
    """One parameter; `annotation` and `default` are `EMPTY` where there is none."""

    name: str
    annotation: Any = EMPTY
    default: Any = EMPTY
    from_base: bool = False

    @property
    def required(self) -> bool:
        """Whether a call must give it."""
        return self.default is EMPTY


@dataclass(frozen=True)
class Signature:
    """Parameters of a target by name; `open` where others may be accepted as well."""

    params: dict[str, Param] = field(default_factory=dict)
    open: bool = False


def _why_not(name: str, error: Exception | None) -> str:
    """How far a dotted name leads, and the nearest name there."""
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
            return text + (f"; did you mean {module.__name__}.{close[0]}?" if close else ".")
    if importlib.util.find_spec(parts[0]) is not None:
        return f": importing {parts[0]} fails: {reason}"
    return f": no module {parts[0]!r} was found; check the spelling and PYTHONPATH."


@functools.lru_cache(maxsize=4096)
def locate_target(name: str) -> Any:
    """Finds the callable that a dotted name stands for.

    Raises:
        ConfigError: nothing of this name can be imported, or it is not callable.
    """
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(
            f"{name!r} is not a dotted name; give a class or function such as "
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
            f"an object of type {type(target).__name__} cannot be written to a file; describe how "
            "to build it with L(...)(...)."
        )
    if "<lambda>" in qualname or "<locals>" in qualname:
        raise ConfigError(
            f"{qualname} is a lambda or defined inside a function, so no name leads to it; move it "
            "to the top level of an importable module."
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
    """The canonical dotted name of a target given as callable or as dotted name.

    A dotted name that cannot be imported is returned unchanged: validation reports it.

    Raises:
        ConfigError: a callable that cannot be imported by name (lambda, local, in a config file).
    """
    if isinstance(target, str):
        try:
            return _name_of_callable(locate_target(target))
        except ConfigError:
            return target
    return _name_of_callable(target)


def is_node(value: Any) -> bool:
    """Whether `value` describes a call: a mapping with the key `_target_`."""
    return isinstance(value, (DictConfig, Mapping)) and "_target_" in value


def _annotation(annotation: Any, function: Any) -> Any:
    """Evaluates an annotation kept as text; unknown names give `EMPTY`."""
    if not isinstance(annotation, str):
        return annotation
    namespace = getattr(inspect.unwrap(function), "__globals__", None)
    if namespace is None:
        namespace = vars(sys.modules.get(getattr(function, "__module__", ""), object()))
    try:
        for _ in range(2):  # twice where a quoted annotation is kept as text
            if isinstance(annotation, str):
                annotation = eval(annotation, dict(namespace))
    except Exception:  # names imported for type checkers only
        return EMPTY
    return annotation


def _own(function: Any, skip_first: bool) -> tuple[dict[str, Param], bool] | None:
    """Parameters that `function` names, and whether it takes `**kwargs`; None if unknowable."""
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
    """What a constructor does with its `**kwargs`.

    Attributes:
        forwarded: it passes them to a base class's constructor.
        given: names that it passes to that constructor itself.
        positional: how many arguments it passes there by position.
        taken: names that it takes out of `kwargs`.
    """

    forwarded: bool = False
    given: set[str] = field(default_factory=set)
    positional: int = 0
    taken: list[str] = field(default_factory=list)


def _use_of_kwargs(function: Callable[..., Any]) -> _KwargsUse:
    """Reads a constructor's source; where there is none, `**kwargs` is taken to be forwarded."""
    use = _KwargsUse()
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError):
        return _KwargsUse(forwarded=True)
    definition = tree.body[0]
    catch_all = getattr(getattr(definition, "args", None), "kwarg", None)
    kwargs_name = catch_all.arg if catch_all is not None else None

    def is_kwargs(node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id == kwargs_name

    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, method = node.func.value, node.func.attr
        if method == "__init__" and any(
            k.arg is None and is_kwargs(k.value) for k in node.keywords
        ):
            use.forwarded = True
            use.given |= {k.arg for k in node.keywords if k.arg}
            use.positional = len([a for a in node.args if not isinstance(a, ast.Starred)])
            if not isinstance(owner, ast.Call):  # Base.__init__(self, ...) instead of super()
                use.positional -= 1
        elif method in ("pop", "get") and is_kwargs(owner):
            use.taken += [str(a.value) for a in node.args[:1] if isinstance(a, ast.Constant)]
    return use


def _constructor(cls: type) -> Signature:
    """Parameters of a class, following `**kwargs` along the method resolution order."""
    if cls.__new__ is not object.__new__ and "__init__" not in vars(cls):
        found = _own(cls, skip_first=False)  # a named tuple, for example
        return Signature(*found) if found is not None else Signature(open=True)
    params: dict[str, Param] = {}
    passed_on: set[str] = set()
    skipped = 0  # arguments that the subclass gives by position
    for depth, base in enumerate(b for b in cls.__mro__ if "__init__" in vars(b)):
        if base in (object, torch.nn.Module):
            return Signature(params)
        found = _own(vars(base)["__init__"], skip_first=True)
        if found is None:
            return Signature(params, open=True)
        own, takes_any = found
        for index, param in enumerate(own.values()):
            if index >= skipped and param.name not in passed_on and param.name not in params:
                params[param.name] = Param(
                    param.name, param.annotation, param.default, from_base=depth > 0
                )
        if not takes_any:
            return Signature(params)
        if not inspect.isfunction(inspect.unwrap(vars(base)["__init__"])):
            return Signature(params, open=True)  # written in C: nothing says where they go
        use = _use_of_kwargs(vars(base)["__init__"])
        for name in use.taken:
            params.setdefault(name, Param(name, default=None))
        if not use.forwarded:
            return Signature(params, open=True)  # they go elsewhere, or are swallowed
        passed_on |= use.given
        skipped = use.positional
    return Signature(params)


@functools.lru_cache(maxsize=4096)
def _signature(target: Any) -> Signature:
    if inspect.isclass(target):
        return _constructor(target)
    found = _own(target, skip_first=False)
    # The **kwargs of a function may go anywhere, so any further name has to be let through.
    return Signature(*found) if found is not None else Signature(open=True)


def target_signature(target: Any) -> Signature:
    """Parameters that a target accepts by keyword.

    Args:
        target: callable or dotted name. Of anything else, nothing is known (an open signature).

    Raises:
        ConfigError: a dotted name that cannot be imported.
    """
    if isinstance(target, str):
        target = locate_target(target)
    if not callable(target):
        return Signature(open=True)
    try:
        return _signature(target)
    except TypeError:  # not hashable
        return _signature.__wrapped__(target)
