"""RoI layers on the CPU, forward and forward + backward, beside torchvision's operators.

1000 RoIs of 7x7 bins and 256 channels: on the feature pyramid of an 800 x 1200 image through the
pooler, each RoI on its level (reference: Detectron2's pooler around torchvision's operators), and
on single maps of stride 4 and 16. RoIs are as a proposal network's: sides from 16 to 600 px spread
evenly on a logarithmic scale, in clusters, clipped to the image. Maps are in channels_last memory
format for ours, as in a model that is in it, and in the ordinary one for torchvision, which is
faster so; "from NCHW" includes bringing ordinary maps into the other format and back. Gradients are
with respect to the features, of a random gradient of the output.

Run: python benchmarks/roi_layers.py --threads 2
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from harness import Benchmark
from mask_rcnn_repro.modeling import POOLER_REGISTRY, RoIPooler
from mask_rcnn_repro.modeling.roi_layers import RoILayer

HEIGHT, WIDTH = 800, 1216  # padded to a multiple of 32
STRIDES = (4, 8, 16, 32)
GOALS = {  # forward, forward + backward
    "ROIAlign": (6.0, 15.0),
    "ROIWarpAve": (6.0, 15.0),
    "ROIAlignMax": (3.0, None),
    "ROIWarpMax": (3.0, None),
    "ROIPool": (1.0, 1.0),
}


def proposals(count: int, generator: torch.Generator) -> torch.Tensor:
    """(count, 4) boxes in image pixels, about eight to an object."""
    objects = max(1, count // 8)
    side = 16 * torch.exp(torch.rand(objects, generator=generator) * math.log(600 / 16))
    aspect = torch.exp((torch.rand(objects, generator=generator) - 0.5) * 1.6)
    size = torch.stack([side * aspect.sqrt(), side / aspect.sqrt()], dim=1)
    middle = torch.rand(objects, 2, generator=generator) * torch.tensor([1200.0, 800.0])
    which = torch.randint(objects, (count,), generator=generator)
    noise = torch.randn(count, 4, generator=generator) * 0.15
    size, middle = size[which] * noise[:, 2:].exp(), middle[which] + noise[:, :2] * size[which]
    boxes = Boxes(torch.cat([middle - size / 2, middle + size / 2], dim=1))
    boxes.clip((800, 1200))
    return boxes.tensor


class Plain(torch.nn.Module):
    """A layer of ours by torchvision's operators, whatever is faster."""

    def __init__(self, layer: RoILayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        return self.layer.pool(features, rois)


def reference_pooler(name: str, size: int, scales: list[float]) -> ROIPooler:
    """Detectron2's pooler, its layers put together from torchvision's operators."""
    pooler = ROIPooler(size, scales, 2, "ROIAlign")
    layer = POOLER_REGISTRY.get(name)
    pooler.level_poolers = torch.nn.ModuleList(Plain(layer((size, size), s, 2)) for s in scales)
    return pooler


def step(
    pooler: torch.nn.Module, maps: list[torch.Tensor], boxes: list[Boxes], weight: Any
) -> Callable[[], list[torch.Tensor]]:
    """A function that pools, and with ``weight`` also returns the maps' gradients."""

    def run() -> list[torch.Tensor]:
        if weight is None:
            with torch.no_grad():
                return [pooler(maps, boxes)]
        leaves = [m.detach().requires_grad_() for m in maps]
        return list(torch.autograd.grad(pooler(leaves, boxes), leaves, weight))

    return run


def largest_difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Largest absolute difference, relative to the reference's root mean square."""
    pairs = list(zip(ours, theirs, strict=True))
    scale = statistics.fmean(t.square().mean().item() for _, t in pairs) ** 0.5
    return max((a - b).abs().max().item() for a, b in pairs) / scale


def measure(
    bench: Benchmark,
    what: str,
    name: str,
    strides: tuple[int, ...],
    count: int,
    channels: int,
    size: int = 7,
) -> None:
    """Compares one layer on some maps, forward and forward + backward."""
    generator = torch.Generator().manual_seed(0)
    scales = [1 / s for s in strides]
    maps = [
        torch.randn(1, channels, math.ceil(HEIGHT / s), WIDTH // s, generator=generator)
        for s in strides
    ]
    last = [m.contiguous(memory_format=torch.channels_last) for m in maps]
    boxes = [Boxes(proposals(count, generator))]
    weight = torch.randn(count, channels, size, size, generator=generator)
    weight_last = weight.contiguous(memory_format=torch.channels_last)
    ours = RoIPooler(size, scales, pooler_type=name)
    theirs = reference_pooler(name, size, scales)
    goals = GOALS[name] if what and size == 7 else (None, None)
    for part, goal in zip(("forward", "forward + backward"), goals, strict=True):
        work = f"{name}, {count} RoIs {size}x{size}x{channels}, {what}, {part}"
        w, w_last = (weight, weight_last) if "+" in part else (None, None)
        contenders = {
            "torchvision": step(theirs, maps, boxes, w),
            "ours": step(ours, last, boxes, w_last),
            "ours, from NCHW": step(ours, maps, boxes, w),
        }
        if name == "ROIAlign":
            halves = [m.bfloat16() for m in last]
            half = None if w_last is None else w_last.bfloat16()
            contenders["ours, bfloat16"] = step(ours, halves, boxes, half)
        out = bench.compare(work, contenders, reference="torchvision", goal=goal)
        difference = largest_difference(out["ours"], out["torchvision"])
        bench.equality(work, f"largest difference {difference:.1g} of the root mean square")


def seconds_of(function: Callable[[], Any], repeats: int) -> float:
    """Median of some runs after a first one."""
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def main() -> None:
    """Measures, prints, and writes the record with --record."""
    bench = Benchmark("roi_layers", "RoI layers on the CPU", __doc__)
    parser = bench.parser()
    parser.add_argument("--rois", type=int, default=1000)
    parser.add_argument("--channels", type=int, default=256)
    parser.set_defaults(repeats=3)
    args = bench.parse(parser)
    if bench.device.type != "cpu":
        parser.error("--device: on a GPU both sides call torchvision's operators; omit it")
    count, channels = (60, 16) if bench.quick else (args.rois, args.channels)
    for name in GOALS:
        measure(bench, "pyramid of strides 4 to 32", name, STRIDES, count, channels)
    for stride in (4, 16):
        measure(bench, f"one map of stride {stride}", "ROIAlign", (stride,), count, channels)
    measure(
        bench, "pyramid of strides 4 to 32", "ROIAlign", STRIDES, max(count // 10, 1), channels, 14
    )
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(1, channels, HEIGHT // s, WIDTH // s, generator=generator) for s in STRIDES]
    last = [m.contiguous(memory_format=torch.channels_last) for m in maps]
    scales = [1 / s for s in STRIDES]
    lines: dict[str, list[tuple[float, float]]] = {"torchvision": [], "ours": []}
    for number in (30, 60) if bench.quick else (125, 250, 500, 1000, 2000):
        boxes = [Boxes(proposals(number, generator))]
        weight = torch.randn(number, channels, 7, 7, generator=generator)
        for who, pooler, features in (
            ("torchvision", reference_pooler("ROIAlign", 7, scales), maps),
            ("ours", RoIPooler(7, scales), last),
        ):
            function = step(pooler, features, boxes, weight)
            lines[who].append((number, seconds_of(function, 1)))
    bench.series("RoIAlign ave on a pyramid, forward + backward", "RoIs", "seconds", lines)
    bench.finish()


if __name__ == "__main__":
    main()
