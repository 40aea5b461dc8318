"""Weights that are not what the model needs are refused by name, never taken in silently."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mask_rcnn_repro.engine.checkpoint.checkpointer import SafeCheckpointer
from mask_rcnn_repro.errors import CheckpointError


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 2))


NAMES = list(model().state_dict())

odd = st.one_of(
    st.sampled_from([torch.nan, torch.inf, -torch.inf]).map(lambda x: ("value", x)),
    st.lists(st.integers(0, 4), max_size=5).map(lambda shape: ("shape", shape)),
    st.sampled_from(
        [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex64]
    ).map(lambda dtype: ("dtype", dtype)),
    st.sampled_from(
        [None, 3, 1.5, "text", b"bytes", [1.0], {"a": 1}, np.zeros(3), np.array("a")]
    ).map(lambda other: ("other", other)),
    st.just(("missing", None)),
    st.sampled_from(["0.wieght", "", "0", "0.weight.0", "ünïcødé"]).map(lambda k: ("renamed", k)),
)


def changed(state: dict[str, Any], name: str, kind: str, how: Any) -> dict[str, Any]:
    value = state.pop(name)
    if kind == "value":
        if not value.is_floating_point():
            value = value.float()
        value = value.clone()
        value.view(-1)[-1] = how
    elif kind == "shape":
        value = torch.zeros(how)
    elif kind == "dtype":
        value = value.to(how)
    elif kind == "other":
        value = how
    if kind != "missing":
        state[how if kind == "renamed" else name] = value
    return state


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(NAMES), odd=odd, policy=st.sampled_from(["exact", "relaxed"]))
def test_one_weight_that_is_strange(name: str, odd: tuple[str, Any], policy: Any) -> None:
    loaded = model()
    expected = {key: value.clone() for key, value in loaded.state_dict().items()}
    state = changed(dict(model().state_dict()), name, *odd)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.pth")
        torch.save({"model": state}, path)
        refused = ""
        try:
            SafeCheckpointer(loaded).load(str(path), checkpointables=[], policy=policy)
        except CheckpointError as error:
            refused = str(error)
        if refused:
            assert str(path) in refused
            assert name in refused or str(odd[1]) in refused
            return
    stored = state.get(name)
    if isinstance(stored, torch.Tensor | np.ndarray) and stored.shape == expected[name].shape:
        expected[name] = torch.as_tensor(stored)
    elif policy == "exact":
        assert name.endswith("num_batches_tracked")  # of which some published files have none
    for key, value in loaded.state_dict().items():
        assert torch.isfinite(value).all()
        # what was stored, in whatever precision, or under "relaxed" what was there
        torch.testing.assert_close(value, expected[key].to(value.dtype))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite(tmp_path: Path, value: float) -> None:
    state = changed(dict(model().state_dict()), "2.bias", "value", value)
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"NaN or infinity: 2\.bias"):
        SafeCheckpointer(model()).load(str(tmp_path / "a.pth"), checkpointables=[])
