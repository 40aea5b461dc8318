"""Whether a config value fits a parameter: by its annotation, its default, or the present value.

Nodes (mappings with `_target_`) and interpolations (strings with `${`) fit every parameter, because
the object or value that they stand for is not known here.
"""

from __future__ import annotations

import collections.abc as abc
import dataclasses
import enum
import inspect
import types
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from mask_rcnn_repro.config.targets import EMPTY, is_node

_SEQUENCES = (list, tuple, set, frozenset)
_NAMES = {
    bool: "true or false", int: "an integer", float: "a number", str: "a string", list: "a list",
    tuple: "a list", dict: "a mapping", type(None): "null",
}  # fmt: skip
_DATA = (bool, int, float, str, list, tuple, abc.Mapping)


def is_interpolation(value: Any) -> bool:
    """Whether `value` is a string that refers to another value, such as `${train.max_iter}`."""
    return isinstance(value, str) and "${" in value


def _passes(value: Any) -> bool:
    return is_node(value) or is_interpolation(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def fits(value: Any, annotation: Any) -> bool:
    """Whether plain data fits an annotation. Annotations that cannot be checked fit everything.

    Args:
        value: Null, bool, int, float, str, list, dict, or an object in a config.
        annotation: Annotation of a parameter. Text and `EMPTY` fit everything.
    """
    if annotation in (Any, EMPTY, object) or isinstance(annotation, (str, TypeVar)):
        return True
    if value is None:
        return allows_null(annotation)
    if _passes(value):
        return True
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return fits(value, arguments[0])
    if hasattr(annotation, "__supertype__"):  # NewType
        return fits(value, annotation.__supertype__)
    if origin in (Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return any(value == a and type(value) is type(a) for a in arguments)
    kind = origin or annotation
    if not inspect.isclass(kind):
        return True
    if kind in (bool, str):
        return isinstance(value, kind)
    if kind in (int, float):
        return _is_number(value) and (kind is float or isinstance(value, int))
    if issubclass(kind, abc.Mapping) and not dataclasses.is_dataclass(kind):
        if not isinstance(value, abc.Mapping):
            return False
        return len(arguments) != 2 or all(fits(v, arguments[1]) for v in value.values())
    if kind in _SEQUENCES or kind in (abc.Sequence, abc.Iterable, abc.Collection, abc.Set):
        if not isinstance(value, (list, tuple)) or not arguments:
            return isinstance(value, (list, tuple))
        # `Tuple[float]` is often written for a sequence of floats of any length.
        if kind is tuple and len(arguments) > 1 and arguments[-1] is not Ellipsis:
            return len(value) == len(arguments) and all(map(fits, value, arguments))
        return all(fits(item, arguments[0]) for item in value)
    if kind is abc.Callable:
        return callable(value)
    if kind.__name__ == "ndarray" and isinstance(value, (list, tuple)):
        return True  # numpy converts it
    if issubclass(kind, PurePath) or kind.__name__ == "PathLike":
        return isinstance(value, (str, kind))
    if kind is type or issubclass(kind, enum.Enum):
        return isinstance(value, kind)
    # An object is expected. In the text of a config only a node builds one.
    return not isinstance(value, _DATA)


def allows_null(annotation: Any) -> bool:
    """Whether an annotation allows None; `EMPTY` and text say nothing, hence False."""
    if annotation in (Any, None, object, type(None)):
        return True
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return allows_null(arguments[0])
    return origin in (Union, types.UnionType, Literal) and any(map(allows_null, arguments))


def resembles(value: Any, example: Any, inside: bool = False) -> bool:
    """Whether `value` has the type of `example`. An int fits a float; a bool fits only a bool.

    Inside lists an int fits a float and the other way round (`[32, 64]` may become `[22.6, 45.3]`),
    and an item may resemble any item of the example. Everything fits an empty or null example.
    """
    if example is None or _passes(value) or is_interpolation(example):
        return True
    if is_node(example):
        return False
    if isinstance(example, bool) or isinstance(value, bool):
        return isinstance(example, bool) and isinstance(value, bool)
    if isinstance(example, float) or (inside and isinstance(example, int)):
        return _is_number(value)
    if isinstance(example, (int, str)):
        return isinstance(value, type(example))
    if isinstance(example, (list, tuple)):
        if not isinstance(value, (list, tuple)):
            return False
        return not example or all(any(resembles(v, e, True) for e in example) for v in value)
    if isinstance(example, abc.Mapping):
        return isinstance(value, abc.Mapping)
    return not isinstance(value, _DATA)


def describe(annotation: Any) -> str:
    """An annotation in words, for error messages."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(a) for a in arguments))
    if origin is Literal:
        return " or ".join(repr(a) for a in arguments)
    if annotation in _NAMES:
        return _NAMES[annotation]
    kind = origin or annotation
    if kind in (list, tuple, abc.Sequence, abc.Iterable):
        inner = [a for a in arguments if a is not Ellipsis]
        return f"a list ({', '.join(str(getattr(a, '__name__', a)) for a in inner)})"
    if kind is abc.Callable:
        return "a callable"
    name = getattr(kind, "__name__", str(kind))
    return f"a node that builds {name}" if inspect.isclass(kind) else name


def describe_value(value: Any) -> str:
    """A value with its type, for error messages."""
    if value is None:
        return "null"
    if is_node(value):
        return "a node"
    text = repr(value)
    text = text if len(text) <= 80 else text[:77] + "..."
    kind = "mapping" if isinstance(value, abc.Mapping) else type(value).__name__
    return f"{text} ({kind})"


def type_problem(
    value: Any, annotation: Any = EMPTY, default: Any = EMPTY, current: Any = EMPTY
) -> str | None:
    """Checks the type of a value.

    Args:
        value: The new value, plain data.
        annotation: Annotation of the parameter, which decides if there is one.
        default: Default of the parameter, whose type is allowed too.
        current: The present value, whose type decides if there is no annotation.

    Returns:
        "must be ..., got ...", or None if the value fits.
    """
    if value is None:
        if default is None or current is None or allows_null(annotation):
            return None
        if annotation is EMPTY and default is EMPTY and current is EMPTY:
            return None
        known = annotation is not EMPTY and not isinstance(annotation, str)
        return "must not be null" + (f" but {describe(annotation)}" if known else "")
    expected: list[str] = []
    if annotation is not EMPTY:
        if fits(value, annotation):
            return None
        expected.append(describe(annotation))
    if default is not EMPTY and default is not None:
        if resembles(value, default):
            return None
        expected.append(_NAMES.get(type(default), type(default).__name__))
    if annotation is EMPTY and current is not EMPTY and current is not None:
        if resembles(value, current):
            return None
        expected.append("a node" if is_node(current) else _NAMES.get(type(current), "an object"))
    if not expected:
        return None
    words = dict.fromkeys(" or ".join(expected).split(" or "))
    return f"must be {' or '.join(words)}, got {describe_value(value)}"
