"""Compiles the kernels that need Numba, so that no first run waits for it.

`python -m mask_rcnn_tools.compile_kernels`, which `make setup` calls, takes about half a minute the
first time. Machine code is kept as :func:`mask_rcnn_repro.utils.compiled.compiled` describes. On a
CPU of another kind, and after a change of the kernels, runs compile again what they need.
"""

from __future__ import annotations

import itertools
import time

import torch
from detectron2.structures import Boxes

from mask_rcnn_repro.evaluation.masks.rle import encode_masks
from mask_rcnn_repro.modeling import POOLER_REGISTRY, RoIPooler
from mask_rcnn_repro.modeling.accel.winograd import WinogradWeights
from mask_rcnn_repro.utils import compiled
from mask_rcnn_repro.utils.precision import cpu_has_bf16

_FORMATS = (torch.contiguous_format, torch.channels_last)


def compile_kernels() -> None:
    """Calls each kernel with arguments of every type that training and evaluation use."""
    boxes = torch.tensor([[2.0, 3.0, 17.0, 19.0], [0.0, 0.0, 31.0, 31.0]])
    encode_masks(torch.rand(len(boxes), 1, 28, 28), boxes, 32, 32)
    dtypes = (torch.float32, torch.bfloat16) if cpu_has_bf16() else (torch.float32,)
    for dtype in dtypes:
        winograd = WinogradWeights(torch.zeros(4, 4, 3, 3, dtype=dtype), None)
        winograd.convolve(torch.zeros(1, 4, 16, 16, dtype=dtype), relu=True)
    names = [name for name, _ in POOLER_REGISTRY]
    for name, dtype, levels in itertools.product(names, dtypes, (1, 2)):
        pooler = RoIPooler(7, [1 / 4, 1 / 8][:levels], sampling_ratio=2, pooler_type=name)
        features = [torch.rand(1, 8, side, side, dtype=dtype) for side in (8, 4)[:levels]]
        for source, target in itertools.product(_FORMATS, _FORMATS):
            pooler.memory_format = target
            maps = [x.contiguous(memory_format=source).requires_grad_() for x in features]
            pooler([x.detach() for x in maps], [Boxes(boxes)])
            pooled = pooler(maps, [Boxes(boxes)])
            for wanted in _FORMATS:
                gradient = torch.ones_like(pooled).contiguous(memory_format=wanted)
                torch.autograd.grad(pooled, maps, gradient, retain_graph=True)


def main() -> None:
    """Compiles, and prints how long it took."""
    if not compiled.HAVE_NUMBA:
        print("Numba is not installed: there is nothing to compile.")
        return
    begin = time.perf_counter()
    compile_kernels()
    print(f"Kernels are compiled ({time.perf_counter() - begin:.0f} s).")


if __name__ == "__main__":
    main()
