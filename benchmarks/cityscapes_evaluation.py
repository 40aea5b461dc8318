"""Cityscapes' instance metrics, from small predictions to numbers, beside Detectron2's evaluator.

Made-up street scenes of 1024 x 2048 pixels, by default with 20 objects and 50 predictions per
image. A prediction has 28 x 28 probabilities, as a model returns them. The time covers pasting the
masks, collecting, matching and averaging. Detectron2's evaluator calls the official scripts, which
need a NumPy before 2.4. With a newer one the benchmark adds the two functions that they miss, for
these scripts alone.

Run: python benchmarks/cityscapes_evaluation.py --images 4      (about 1 minute)
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
import tempfile
import time
import types
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

from harness import Benchmark
from mask_rcnn_repro.evaluation.cityscapes.evaluator import CityscapesInstanceEvaluator

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
    """Registers a data set in the official layout, in place of the last; returns inputs and
    predictions. A data set with fewer images has the first ones of it.
    """
    if NAME in DatasetCatalog.list():
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)
    DatasetCatalog.register(NAME, list)
    gt_dir = str(root / "gtFine" / "val")
    MetadataCatalog.get(NAME).set(thing_classes=list(CLASSES), gt_dir=gt_dir)
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


def seconds_of(run: Any, data: list[tuple[dict[str, Any], Instances]]) -> float:
    begin = time.perf_counter()
    run(data)
    return time.perf_counter() - begin


def measure(bench: Benchmark, root: Path, images: int, objects: int, predictions: int) -> None:
    """The comparison, and cost against the number of images."""
    data = make_data(root / "compared", images, objects, predictions)
    run_ours(data[:1])  # imports, tables
    work = f"{images} images, {objects} objects and {predictions} predictions each"
    found = bench.compare(
        work,
        {"Detectron2": lambda: run_detectron2(data), "ours": lambda: run_ours(data)},
        reference="Detectron2",
        repeats=min(2, bench.repeats),
        warmup=False,
    )
    theirs, ours = found["Detectron2"], found["ours"]
    difference = max(abs(float(ours[key] - theirs[key])) for key in ("AP", "AP50"))
    bench.equality(
        work, f"AP {ours['AP']:.2f}, AP50 {ours['AP50']:.2f}: differ by at most {difference:.2g}"
    )
    lines: dict[str, list[tuple[float, float]]] = {"Detectron2": [], "ours": []}
    for number in sorted({1, max(1, images // 2), images}):
        data = make_data(root / f"{number}", number, objects, predictions)
        for name, run in (("Detectron2", run_detectron2), ("ours", run_ours)):
            lines[name].append((number, seconds_of(run, data)))
    bench.series("Cityscapes evaluation", "images", "seconds", lines)


def main() -> None:
    """Measures, prints, and writes the record with --record."""
    bench = Benchmark("cityscapes_evaluation", "Cityscapes evaluation", __doc__)
    parser = bench.parser()
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--objects", type=int, default=20, help="an image")
    parser.add_argument("--predictions", type=int, default=50, help="an image")
    args = bench.parse(parser)
    if not hasattr(np, "in1d"):
        scripts.np = EarlierNumpy("numpy")  # type: ignore[attr-defined]
    images = 2 if bench.quick else args.images
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the scripts write matches.json to the current folder
        try:
            measure(bench, Path(folder), images, args.objects, args.predictions)
        finally:
            os.chdir(here)
    bench.finish()


if __name__ == "__main__":
    main()
