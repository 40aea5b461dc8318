"""Our Cityscapes evaluator beside Detectron2's, on the same predictions.

Run: python benchmarks/cityscapes_evaluation.py --images 4 --repeats 3

Made-up street scenes of 1024 x 2048 pixels: by default 20 objects an image and 50 predictions,
28 x 28 probabilities as a model gives them. Timed is all from there to the numbers: pasting the
masks, collecting, matching, averaging. The evaluators take turns in one process; medians count.
Prints the times, their ratio, and by how much the numbers differ.

Detectron2's evaluator and the scripts that it calls need a NumPy before 2.4; with a newer one the
two functions that they miss are put back, for them alone.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import os
import statistics
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as scripts
from cityscapesscripts.helpers.labels import name2label
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import CityscapesInstanceEvaluator as Detectron2Evaluator
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from PIL import Image

from mask_rcnn_repro.evaluation.cityscapes import CityscapesInstanceEvaluator

NAME = "benchmark_cityscapes"
CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
HEIGHT, WIDTH = 1024, 2048
SHARES = (0.3, 0.04, 0.45, 0.02, 0.02, 0.02, 0.03, 0.12)  # of the classes, about as in the data


class EarlierNumpy(types.ModuleType):
    """NumPy as the scripts know it: 2.4 dropped `in1d`, and counts in types that json lacks."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def in1d(self, values: Any, among: Any) -> np.ndarray:
        return np.isin(values, among).ravel()

    def count_nonzero(self, values: Any) -> int:
        return int(np.count_nonzero(values))


def make_image(
    generator: np.random.RandomState, objects: int, predictions: int
) -> tuple[np.ndarray, Instances]:
    """An annotation (H, W), and predictions: objects found more or less well, and others."""
    ids = np.full((HEIGHT, WIDTH), name2label["building"].id, np.int32)
    ids[500:] = name2label["road"].id
    ids[-100:] = name2label["ego vehicle"].id
    boxes, classes = [], []
    for number in range(max(objects, predictions)):
        kind = generator.choice(len(CLASSES), p=SHARES)
        # lower in the image is nearer and larger
        bottom = generator.uniform(440, 800)
        height = 20 + (bottom - 430) * generator.uniform(0.4, 1.1)
        width = height * (0.45 if kind < 2 else generator.uniform(0.9, 1.8))
        box = np.array([0, bottom - height, width, bottom])
        box[[0, 2]] += generator.uniform(-0.1 * WIDTH, WIDTH)
        if number < objects:
            center = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
            axes = int(width / 2), int(height / 2)
            value = name2label[CLASSES[kind]].id * 1000 + number
            cv2.ellipse(ids, center, axes, 0, 0, 360, value, -1)
        boxes.append(box + generator.normal(0, 0.04, 4) * [width, height, width, height])
        classes.append(kind)
    boxes, classes = boxes[:predictions], classes[:predictions]
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    noise = generator.normal(0, 1.0, (len(boxes), 28, 28))
    probabilities = 1 / (1 + np.exp(8 * (x**2 + y**2 - 1) + noise))
    instances = Instances((HEIGHT, WIDTH))
    instances.pred_boxes = Boxes(torch.tensor(np.array(boxes), dtype=torch.float32))
    instances.pred_masks = torch.tensor(probabilities[:, None], dtype=torch.float32)
    instances.pred_classes = torch.tensor(classes)
    instances.scores = torch.tensor(generator.rand(len(boxes)) ** 0.5, dtype=torch.float32)
    return ids.astype(np.uint16), instances


def make_data(
    root: Path, images: int, objects: int, predictions: int
) -> list[tuple[dict[str, Any], Instances]]:
    """Writes annotations in the official layout; returns inputs and predictions."""
    generator = np.random.RandomState(0)
    folder = root / "gtFine" / "val" / "berlin"
    folder.mkdir(parents=True)
    data = []
    for number in range(images):
        ids, instances = make_image(generator, objects, predictions)
        stem = f"berlin_{number:06d}_000019"
        file = folder / f"{stem}_gtFine_instanceIds.png"
        Image.fromarray(ids).save(file)
        image = {"image_id": stem, "file_name": f"{stem}_leftImg8bit.png"}
        image |= {"height": HEIGHT, "width": WIDTH, "instance_ids_file": str(file)}
        data.append((image, instances))
    return data


def run_detectron2(data: list[tuple[dict[str, Any], Instances]]) -> dict[str, Any]:
    evaluator = Detectron2Evaluator(NAME)
    evaluator.reset()
    for image, instances in data:
        pasted = detector_postprocess(copy.copy(instances), HEIGHT, WIDTH)
        evaluator.process([image], [{"instances": pasted}])
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluate()["segm"]


def run_ours(data: list[tuple[dict[str, Any], Instances]]) -> dict[str, Any]:
    evaluator = CityscapesInstanceEvaluator(NAME)
    for image, instances in data:
        evaluator.process([image], [{"instances": instances}])
    return evaluator.evaluate()["segm"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--objects", type=int, default=20, help="an image")
    parser.add_argument("--predictions", type=int, default=50, help="an image")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not hasattr(np, "in1d"):
        scripts.np = EarlierNumpy("numpy")  # type: ignore[attr-defined]

    contenders: dict[str, Callable[[Any], dict[str, Any]]] = {
        "Detectron2": run_detectron2,
        "ours": run_ours,
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    found: dict[str, dict[str, Any]] = {}
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the scripts write matches.json to the current folder
        try:
            DatasetCatalog.register(NAME, list)
            gt_dir = str(Path(folder, "gtFine", "val"))
            MetadataCatalog.get(NAME).set(thing_classes=list(CLASSES), gt_dir=gt_dir)
            data = make_data(Path(folder), args.images, args.objects, args.predictions)
            run_ours(data[:1])  # imports, tables
            for _ in range(args.repeats):
                for name, run in contenders.items():
                    begin = time.perf_counter()
                    found[name] = run(data)
                    seconds[name].append(time.perf_counter() - begin)
        finally:
            os.chdir(here)

    print(
        f"{args.images} images of {HEIGHT} x {WIDTH}, {args.objects} objects and "
        f"{args.predictions} predictions each; medians of {args.repeats}"
    )
    theirs = statistics.median(seconds["Detectron2"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(
            f"{name:15} {median / args.images:8.3f} s/image  {theirs / median:6.1f} x  "
            f"AP {found[name]['AP']:.4f}  AP50 {found[name]['AP50']:.4f}"
        )
    for key in ("AP", "AP50"):
        difference = max(abs(metrics[key] - found["Detectron2"][key]) for metrics in found.values())
        print(f"{key}: largest difference {float(difference)}")


if __name__ == "__main__":
    main()
