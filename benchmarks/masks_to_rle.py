"""Predicted instance masks to COCO's RLE, beside Detectron2's pasting and pycocotools' encoding.

28 x 28 probabilities of made-up round objects with noise. Boxes' sides spread evenly on a
logarithmic scale from 16 px to 0.8 of the image's height. "ours, plain" is the path that is taken
where Numba is not installed. Equality is also looked for with boxes partly outside of the image, of
less than a pixel, and of up to a billion pixels. (On a CPU Detectron2 fails for boxes that are
fully outside.)

Run: python benchmarks/masks_to_rle.py --threads 2      (about 1 minute)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.layers.mask_ops import paste_masks_in_image

from harness import Benchmark
from mask_rcnn_repro.evaluation.masks.rle import encode_masks
from mask_rcnn_repro.utils import compiled

SIZES = {(480, 640): 10.0, (1024, 2048): 30.0}  # (H, W) to the ratio that is to be reached


def make(
    generator: np.random.Generator, count: int, height: int, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(R, 1, 28, 28) probabilities and (R, 4) boxes, clipped to the image."""
    limits = np.log([16, 0.8 * height])
    sides = np.exp(generator.uniform(*limits, (count, 2)))
    middles = generator.uniform(0, 1, (count, 2)) * [width, height]
    boxes = np.concatenate([middles - sides / 2, middles + sides / 2], axis=1)
    boxes = boxes.clip(0, [width, height] * 2)
    return shapes(generator, count), torch.tensor(boxes, dtype=torch.float32)


def shapes(generator: np.random.Generator, count: int) -> torch.Tensor:
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    noise = generator.normal(0, 0.5, (count, 1, 28, 28))
    return torch.tensor(1 / (1 + np.exp(8 * (x**2 + y**2 - 0.8) + noise)), dtype=torch.float32)


def odd_boxes(
    generator: np.random.Generator, count: int, height: int, width: int
) -> dict[str, torch.Tensor]:
    """Boxes that reach out of the image, small ones and huge ones."""
    size = np.array([width, height])
    points = generator.uniform(0, 1, (count, 2)) * size
    out = generator.uniform(-1.5, 0, (count, 2)) * size
    ends = {  # all on some of the image's pixels
        "partly outside": (np.minimum(out, points), points + generator.uniform(0, 1.5, 2) * size),
        "less than a pixel": (points, points + generator.uniform(0, 1, (count, 2))),
        "huge": (-(10 ** generator.uniform(2, 9, (count, 2))), points + 10 ** (points % 9)),
    }
    boxes = {name: np.concatenate(pair, axis=1) for name, pair in ends.items()}
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in boxes.items()}


def stock(masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int) -> list[Any]:
    """What Detectron2's postprocessing and COCO evaluator do."""
    pasted = paste_masks_in_image(masks[:, 0], boxes, (height, width), 0.5)
    rles = [
        mask_util.encode(np.array(mask[:, :, None], order="F", dtype="uint8"))[0]
        for mask in pasted.cpu()
    ]
    for rle in rles:
        rle["counts"] = rle["counts"].decode("utf-8")
    return rles


def plain(*args: Any) -> list[Any]:
    """Ours where Numba is not installed."""
    have = compiled.HAVE_NUMBA
    compiled.HAVE_NUMBA = False
    try:
        return encode_masks(*args)
    finally:
        compiled.HAVE_NUMBA = have


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
    bench = Benchmark("masks_to_rle", "Instance masks to RLE", __doc__)
    parser = bench.parser()
    parser.add_argument("--instances", type=int, default=100, help="an image")
    args = bench.parse(parser)
    count = 10 if bench.quick else args.instances
    generator = np.random.default_rng(0)

    for (height, width), goal in SIZES.items():
        inputs = (*make(generator, count, height, width), height, width)
        work = f"{count} instances, {height} x {width}"
        outputs = bench.compare(
            work,
            {
                "Detectron2": lambda inputs=inputs: stock(*inputs),
                "ours": lambda inputs=inputs: encode_masks(*inputs),
                "ours, plain": lambda inputs=inputs: plain(*inputs),
            },
            reference="Detectron2",
            goal=goal,
        )
        parts = [
            f"{name}: {sum(a == b for a, b in zip(outputs['Detectron2'], found, strict=True))} "
            f"of {count} RLEs identical"
            for name, found in outputs.items()
            if name != "Detectron2"
        ]
        bench.equality(work, "; ".join(parts))

    number = 20 if bench.quick else 500
    for kind, boxes in odd_boxes(generator, number, 120, 160).items():
        masks = shapes(generator, number)
        pairs = zip(
            encode_masks(masks, boxes, 120, 160), stock(masks, boxes, 120, 160), strict=True
        )
        same = sum(a == b for a, b in pairs)
        bench.note(f"Boxes {kind}: {same} of {number} RLEs identical to Detectron2's.")

    contenders = {"Detectron2": stock, "ours": encode_masks}
    rounds = min(3, bench.repeats)
    lines: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for number in (5, 10) if bench.quick else (12, 25, 50, 100, 200, 400):
        inputs = (*make(generator, number, 480, 640), 480, 640)
        for name, encode in contenders.items():
            lines[name].append((number, seconds_of(lambda e=encode, i=inputs: e(*i), rounds)))
    bench.series("Masks of a 480 x 640 image to RLE", "instances", "seconds", lines)
    lines = {name: [] for name in contenders}
    for height in (120, 240) if bench.quick else (120, 240, 480, 960, 1920):
        width = height * 4 // 3
        inputs = (*make(generator, 50, height, width), height, width)
        for name, encode in contenders.items():
            megapixels = height * width / 1e6
            lines[name].append((megapixels, seconds_of(lambda e=encode, i=inputs: e(*i), rounds)))
    bench.series("Masks of 50 instances to RLE", "megapixels of the image", "seconds", lines)
    bench.finish()


if __name__ == "__main__":
    main()
