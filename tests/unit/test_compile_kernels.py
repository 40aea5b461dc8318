"""What `make setup` compiles: every kernel, with the types that a run uses."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import pytest
import torch
from detectron2.structures import Boxes

import mask_rcnn_repro
from mask_rcnn_repro.modeling import POOLER_REGISTRY, RoIPooler
from mask_rcnn_repro.utils import compiled
from mask_rcnn_tools.compile_kernels import compile_kernels

pytestmark = [
    pytest.mark.slow,  # half a minute if nothing is cached
    pytest.mark.skipif(not compiled.HAVE_NUMBA, reason="needs Numba"),
]


def kernels() -> dict[str, Any]:
    """Compiled functions by module and name."""
    package = mask_rcnn_repro
    names = [m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    modules = [importlib.import_module(name) for name in names if name.endswith("_kernels")]
    return {
        f"{module.__name__}.{name}": value
        for module in modules
        for name, value in vars(module).items()
        if getattr(value, "is_compiled", False)
    }


def test_every_kernel_is_compiled() -> None:
    compile_kernels()
    found = kernels()
    # those with an underscore, and `emit`, are called by other kernels alone
    called = {n for n in found if not n.rpartition(".")[2].startswith(("_", "emit"))}
    assert len(called) == 8
    before = {name: list(kernel.signatures) for name, kernel in found.items()}
    assert [name for name in called if not before[name]] == []
    for name, _ in POOLER_REGISTRY:  # other sizes bring no further types
        pooler = RoIPooler(14, [1 / 4, 1 / 8, 1 / 16], sampling_ratio=2, pooler_type=name)
        maps = [
            torch.rand(2, 4, side, side).contiguous(memory_format=torch.channels_last)
            for side in (16, 8, 4)
        ]
        boxes = Boxes(torch.tensor([[1.0, 2.0, 60.0, 50.0]] * 8))
        pooler([x.requires_grad_() for x in maps], [boxes, boxes]).sum().backward()
    assert {name: list(kernel.signatures) for name, kernel in found.items()} == before
