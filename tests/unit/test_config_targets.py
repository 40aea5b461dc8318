"""What targets accept, and which values fit which annotations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Optional, Union

import pytest
import torch
from detectron2.config import configurable
from hypothesis import given
from hypothesis import strategies as st

from mask_rcnn_repro.config.targets import (
    EMPTY,
    locate_target,
    target_name,
    target_signature,
)
from mask_rcnn_repro.config.typecheck import fits, resembles, type_problem
from mask_rcnn_repro.errors import ConfigError


class Base(torch.nn.Module):
    def __init__(self, width: int, depth: int = 3, name: str = "x"):
        super().__init__()


class Child(Base):
    def __init__(self, *, rate: float, **kwargs):
        super().__init__(name="child", **kwargs)


class GrandChild(Child):
    def __init__(self, extra=None, **kwargs):
        self.norm = kwargs.pop("norm", None)
        super().__init__(**kwargs)


class Positional(Base):
    def __init__(self, **kwargs):
        super().__init__(8, **kwargs)


class Inherits(GrandChild):
    pass


class Configured(torch.nn.Module):
    @configurable
    def __init__(self, a: int, b: str = "b"):
        super().__init__()

    @classmethod
    def from_config(cls, cfg):
        return {}

    @classmethod
    def make(cls, size: int): ...

    @staticmethod
    def build(size: int, **kwargs): ...

    def method(self, size: int): ...


class Pair(NamedTuple):
    left: int
    right: int = 0


def function(a, b: "int" = 1, *args, c: "NoSuchName" = 2): ...  # noqa: F821, UP037


@pytest.mark.parametrize(
    ("target", "names", "is_open"),
    [
        (Base, ["width", "depth", "name"], False),
        (Child, ["rate", "width", "depth"], False),  # the child gives `name` itself
        (GrandChild, ["extra", "norm", "rate", "width", "depth"], False),
        (Inherits, ["extra", "norm", "rate", "width", "depth"], False),
        (Positional, ["depth", "name"], False),  # the child gives `width` by position
        (Configured, ["a", "b"], False),
        (Configured.make, ["size"], False),
        (Configured.build, ["size"], True),
        (Pair, ["left", "right"], False),
        (function, ["a", "b", "c"], False),
        (functools.partial(function, a=1), ["a", "b", "c"], False),
        (torch.nn.Identity, [], True),
        (dict, [], True),
        ("detectron2.layers.ShapeSpec", ["channels", "height", "width", "stride"], False),
    ],
)
def test_parameters_of_targets(target, names, is_open):
    signature = target_signature(target)
    assert sorted(signature.params) == sorted(names)
    assert signature.open is is_open


def test_kwargs_lead_to_detectron2s_base_classes():
    params = target_signature("detectron2.modeling.StandardROIHeads").params
    assert params["box_in_features"].required
    assert params["num_classes"].required
    assert params["mask_head"].default is None
    layer = target_signature("detectron2.layers.Conv2d")
    assert {"norm", "activation", "kernel_size", "bias"} <= set(layer.params)


def test_annotations_kept_as_text_are_evaluated_where_possible():
    params = target_signature(function).params
    assert params["b"].annotation is int
    assert params["c"].annotation is EMPTY
    assert params["a"].required


def test_names_of_targets():
    assert target_name(torch.optim.SGD) == target_name("torch.optim.sgd.SGD")
    assert locate_target(target_name(torch.optim.SGD)) is torch.optim.SGD
    resnet = "detectron2.modeling.ResNet.make_stage"
    assert target_name(resnet) == target_name(locate_target(resnet))
    assert target_name("no.such.thing") == "no.such.thing"
    for wrong in (
        "no.such.thing",
        "",
        "a b",
        "torch.__version__",
        "torch.nn.Nothing",
        "os;ls",
        ".",
    ):
        with pytest.raises(ConfigError):
            locate_target(wrong)
    with pytest.raises(
        ConfigError, match=r"torch\.optim has no 'SDG'\. Did you mean torch\.optim\.SGD\?"
    ):
        locate_target("torch.optim.SDG")
    with pytest.raises(ConfigError, match="no module 'nosuchpackage' was found"):
        locate_target("nosuchpackage.Thing")
    with pytest.raises(ConfigError, match="is a lambda"):
        target_name(lambda: 3)


def test_a_module_that_fails_to_import_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken_module_of_a_test.py").write_text("raise ImportError('needs a thing')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"broken_module_of_a_test fails: .*needs a thing"):
        locate_target("broken_module_of_a_test.Thing")


NODE = {"_target_": "torch.nn.Identity"}


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (int, [1, NODE, "${a}"], [1.0, True, "1", None, [1], {}]),
        (float, [1, 1.5], [True, "1", None]),
        (bool, [True], [1, 0, "true"]),
        (str, ["", "a"], [1, None]),
        (Optional[int], [None, 1], ["a", True]),  # noqa: UP045
        (int | None, [None, 1], ["a"]),
        (Union[str, Callable], ["a", print], [1]),  # noqa: UP007
        (list[int], [[], [1], (1, 2), [NODE]], [[1.5], "ab", 1, {}]),
        (list[float], [[1, 2.5]], [["a"], [True]]),
        (Sequence[str], [["a"]], ["a", [1]]),
        (tuple[float], [[1.0, 2.0, 3.0]], [["a"]]),  # written for any length
        (tuple[int, int], [[1, 2]], [[1], [1, 2, 3], [1, "a"]]),
        (tuple[int, ...], [[], [1, 2, 3]], [["a"]]),
        (dict[str, float], [{"a": 1}, {}], [{"a": "b"}, [1]]),
        (float | dict[str, float], [1, {"a": 2.0}], ["a", {"a": "b"}]),
        (Literal["a", 1], ["a", 1], ["b", True]),
        (torch.nn.Module, [NODE, torch.nn.Identity()], [1, "a", [1], {}, None]),
        (list[torch.nn.Module], [[NODE]], [[1], 1]),
        (Callable[[int], int], [print, NODE], ["a", 1]),
        (Any, [1, None, "a", {}], []),
        ("unknown text", [1, "a"], []),
    ],
)
def test_what_fits_an_annotation(annotation, good, bad):
    for value in good:
        assert fits(value, annotation), value
    for value in bad:
        assert not fits(value, annotation), value


def test_without_annotation_default_and_present_value_speak():
    assert type_problem(1, EMPTY, 0.5) is None
    assert type_problem(1.5, EMPTY, 1) is not None
    assert type_problem("a", EMPTY, 1) == "must be an integer, got 'a' (str)"
    assert type_problem(True, EMPTY, EMPTY, 1) is not None
    assert type_problem("a", EMPTY, None, "b") is None
    assert type_problem(3, EMPTY, None, "b") is not None
    assert type_problem(3, EMPTY, None, None) is None
    assert type_problem(None, EMPTY, None, 3) is None
    assert type_problem(None, EMPTY, 3, 3) == "must not be null"
    assert type_problem(None, int, EMPTY, 3) == "must not be null but an integer"
    assert type_problem(None, int, None, 3) is None
    assert type_problem("bf16", int, "fp32") is None  # the default contradicts the annotation
    assert type_problem([22.6], EMPTY, EMPTY, [[32, 64]]) is not None
    assert type_problem([[22.6]], EMPTY, EMPTY, [[32, 64]]) is None
    assert type_problem(3, EMPTY, EMPTY, NODE) == "must be a node, got 3 (int)"
    assert type_problem([], EMPTY, EMPTY, [1]) is None


@given(
    st.recursive(
        st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=5,
    )
)
def test_every_value_resembles_itself(value):
    assert resembles(value, value)
