"""Loading training images: our mapper beside Detectron2's, in one process and in workers.

Read, resize (shorter side 800, at most 1333), flip half of the images, boxes and polygon masks:
what a training of the paper's does with an image, on the images of the COCO sample. Both get the
same random numbers. Then the parts of it one by one, mask targets of 128 RoIs (as an image's
positive RoIs are at most), and images per second over the number of worker processes and the image
size. One thread in each process, as workers have.

Run: python benchmarks/data_loading.py --repeats 5
"""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T
from detectron2.structures import PolygonMasks

from harness import Benchmark
from mask_rcnn_repro.data import MaskRCNNMapper, get_training_dicts
from mask_rcnn_repro.data.loading.images import read_image
from mask_rcnn_repro.data.loading.loader import build_test_loader, seeded
from mask_rcnn_repro.data.loading.polygons import PolygonArrays
from mask_rcnn_repro.registration import register

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data"
ROIS, MASK_SIDE = 128, 28

Record = dict[str, Any]
Mapper = Callable[[Record], Record]


def read_records(bench: Benchmark, number: int) -> list[Record]:
    """Images of the COCO sample, or of the embedded data where it is absent."""
    root = SAMPLE / "coco"
    if root.is_dir():
        file = root / "annotations" / "instances_train2017.json"
        dicts = get_training_dicts("coco_sample", str(file), str(root / "train2017"))
    else:
        bench.note("No COCO sample is at ../shared/data: pictures of the embedded data are used.")
        dicts = get_training_dicts("embedded_train")
    # Detectron2's mapper cannot mix polygons and run lengths in an image
    polygons = [
        d
        for d in dicts
        if all(isinstance(a["segmentation"], list) or a["iscrowd"] for a in d["annotations"])
    ]
    chosen = polygons[:number]
    instances = sum(len(d["annotations"]) for d in chosen) / len(chosen)
    bench.note(f"{len(chosen)} images with {instances:.1f} instances on average.")
    return chosen


def mappers(side: int) -> dict[str, Mapper]:
    """Detectron2's and ours, set alike."""
    return {
        name: kind(
            is_train=True,
            augmentations=[
                T.ResizeShortestEdge([side], side * 1333 // 800, "choice"),
                T.RandomFlip(),
            ],
            image_format="BGR",
            use_instance_mask=True,
        )
        for name, kind in (("Detectron2", DatasetMapper), ("ours", MaskRCNNMapper))
    }


def equal(ours: Record, theirs: Record) -> bool:
    """Whether two mapped images are identical in pixels, boxes, classes and polygons."""
    a, b = ours["instances"], theirs["instances"]
    return (
        torch.equal(ours["image"], theirs["image"])
        and torch.equal(a.gt_boxes.tensor, b.gt_boxes.tensor)
        and torch.equal(a.gt_classes, b.gt_classes)
        and len(a) == len(b)
        and all(
            len(p) == len(q) and all(map(np.array_equal, p, q))
            for p, q in zip(a.gt_masks.polygons, b.gt_masks.polygons, strict=True)
        )
    )


def compare_mappers(bench: Benchmark, records: list[Record], side: int) -> None:
    """Whole images through both mappers."""

    def run(mapper: Mapper) -> list[Record]:
        with seeded(0):
            return [mapper(record) for record in records]

    both = {name: (lambda m=mapper: run(m)) for name, mapper in mappers(side).items()}
    work = f"{len(records)} images, {side} px, one process"
    out = bench.compare(work, both, reference="Detectron2")
    same = sum(map(equal, out["ours"], out["Detectron2"]))
    bench.equality(work, f"pixels, boxes, classes and polygons identical in {same} images")


def compare_parts(bench: Benchmark, records: list[Record]) -> None:
    """Reading and mask targets."""
    masks, boxes = [], []
    for index, record in enumerate(records):
        instances = mappers(800)["Detectron2"](record)["instances"]
        generator = torch.Generator().manual_seed(index)
        chosen = torch.randint(len(instances), (ROIS,), generator=generator)
        noise = 5 * torch.randn(ROIS, 4, generator=generator)
        masks.append((instances.gt_masks.polygons, chosen))
        boxes.append(instances.gt_boxes.tensor[chosen] + noise)

    def targets(kind: type[PolygonMasks]) -> Callable[[], list[torch.Tensor]]:
        made = [(kind(polygons), chosen) for polygons, chosen in masks]
        return lambda: [
            m[chosen].crop_and_resize(b, MASK_SIDE)
            for (m, chosen), b in zip(made, boxes, strict=True)
        ]

    parts: dict[str, tuple[Callable[[], list[Any]], Callable[[], list[Any]]]] = {
        "read": (
            lambda: [detection_utils.read_image(r["file_name"], "BGR") for r in records],
            lambda: [read_image(r, "BGR") for r in records],
        ),
        f"mask targets of {ROIS} RoIs": (targets(PolygonMasks), targets(PolygonArrays)),
    }
    for part, (theirs, ours) in parts.items():
        work = f"{part}, {len(records)} images"
        out = bench.compare(work, {"Detectron2": theirs, "ours": ours}, reference="Detectron2")
        pairs = zip(out["ours"], out["Detectron2"], strict=True)
        same = sum(np.array_equal(np.asarray(a), np.asarray(b).reshape(a.shape)) for a, b in pairs)
        bench.equality(work, f"identical in {same} images")


def images_per_second(records: list[Record], mapper: Mapper, workers: int) -> float:
    """Of a loader, from its first image on: starting processes is not counted."""
    many = records * max(1, 3 * max(workers, 1))
    loader = iter(build_test_loader(many, mapper, num_workers=workers))
    for _ in range(2 * workers + 1):  # workers have started, and loaded as far ahead as they do
        next(loader)
    begin = time.perf_counter()
    count = sum(1 for _ in loader)
    return count / (time.perf_counter() - begin)


def main() -> None:
    """Measures, prints, and writes the record with --record."""
    bench = Benchmark("data_loading", "Loading training images", __doc__)
    parser = bench.parser()
    parser.add_argument("--images", type=int, default=40)
    args = bench.parse(parser)
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    register()
    records = read_records(bench, 4 if bench.quick else args.images)
    compare_mappers(bench, records, 800)
    compare_parts(bench, records)

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    numbers = [n for n in (0, 1, 2, 4, 8) if n <= cpus]
    lines: dict[str, list[tuple[float, float]]] = {"Detectron2": [], "ours": []}
    for workers in numbers[:2] if bench.quick else numbers:
        for name, mapper in mappers(800).items():
            copied = copy.deepcopy(mapper)
            lines[name].append((workers, images_per_second(records, copied, workers)))
    bench.series("Images per second, 800 px", "worker processes", "images/s", lines)
    lines = {"Detectron2": [], "ours": []}
    for side in (64, 128) if bench.quick else (200, 400, 600, 800, 1000):
        for name, mapper in mappers(side).items():
            lines[name].append((side, 1 / images_per_second(records, mapper, 0)))
    bench.series("Time of an image in one process", "shorter side (px)", "seconds", lines)
    bench.finish()


if __name__ == "__main__":
    main()
