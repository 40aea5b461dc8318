"""COCO's metrics beside other implementations, on a data set as large as COCO's val2017.

Made up: 5,000 images of 480 x 640 with 7 annotated objects of 80 classes each (1 % crowds), and 100
detections per image, most of them near an object, some of the wrong class. Boxes' sides are spread
evenly on a logarithmic scale from 8 px to the image's height. Keypoints: every second image has 4
people, as in COCO, and 12 detections. The time is that of `coco_metrics`, from result dicts to
numbers.

There are two references: pycocotools, and COCOeval_opt, Detectron2's compiled evaluation, which
`--detectron2-source` builds for the benchmark. Both run once, as they take minutes; keypoints take
seconds and run three times. Other packages that are installed
(`pip install -r requirements/peers.txt`) take the place of ours' hotcoco. Only ours includes the
checks for input that its library would treat otherwise than pycocotools. Memory is what a process
of its own needs at most beyond annotations and results.

Run: python benchmarks/coco_metrics.py --detectron2-source FOLDER      (about 10 minutes)
"""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness import Benchmark
from harness.coco_backends import register_peers
from harness.detectron2_extension import add_source_option, fast_evaluation, find_extension
from mask_rcnn_repro.evaluation import coco_metrics
from mask_rcnn_repro.evaluation.coco.backends import CocoResult, coco_result
from mask_rcnn_repro.evaluation.coco.ground_truth import index_ground_truth
from mask_rcnn_repro.evaluation.masks.rle import encode_masks

HEIGHT, WIDTH = 480, 640
GOAL = 25.0


class MadeUp:
    """A data set and results on it.

    Args:
        images: how many.
        objects: annotated an image.
        detections: an image.
        task: "bbox", "segm" or "keypoints".
    """

    def __init__(self, images: int, objects: int, detections: int, task: str) -> None:
        self.random = np.random.default_rng(0)
        self.task = task
        self.classes = 1 if task == "keypoints" else 80
        y, x = np.mgrid[-1:1:28j, -1:1:28j]
        noise = self.random.normal(0, 0.5, (200, 28, 28))
        masks = 1 / (1 + np.exp(8 * (x**2 + y**2 - 0.8) + noise))
        self.masks = torch.tensor(masks[:, None], dtype=torch.float32)
        annotations: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []
        for image in range(1, images + 1):
            if task == "keypoints" and image % 2:
                continue  # nobody there
            found = self.annotate(image, objects, len(annotations))
            annotations += found
            self.results += self.detect(image, found, detections)
        self.content = {
            "images": [
                {"id": image, "height": HEIGHT, "width": WIDTH} for image in range(1, images + 1)
            ],
            "categories": [{"id": i, "name": f"class {i}"} for i in range(1, self.classes + 1)],
            "annotations": annotations,
        }

    def boxes(self, count: int) -> np.ndarray:
        """(count, 4) XYWH."""
        sides = np.exp(self.random.uniform(np.log(8), np.log(HEIGHT), (count, 2)))
        starts = self.random.uniform(0, 1, (count, 2)) * ([WIDTH, HEIGHT] - sides).clip(0)
        return np.concatenate([starts, sides], axis=1)

    def annotate(self, image: int, count: int, before: int) -> list[dict[str, Any]]:
        boxes = self.boxes(count).round(2)
        angles = np.linspace(0, 2 * np.pi, 25)[:-1]
        circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) / 2 + 0.5
        annotations = []
        for number, box in enumerate(boxes):
            outline = (circle * box[2:] + box[:2]).round(2)
            annotation = {
                "id": before + number + 1,
                "image_id": image,
                "category_id": int(self.random.integers(1, self.classes + 1)),
                "bbox": box.tolist(),
                "area": float(box[2] * box[3] * np.pi / 4),
                "iscrowd": int(self.random.random() < 0.01),
                "segmentation": [outline.ravel().tolist()],
            }
            if self.task == "keypoints":
                points = self.random.uniform(0, 1, (17, 2)) * box[2:] + box[:2]
                visible = self.random.integers(0, 3, (17, 1))
                annotation["keypoints"] = np.hstack([points.round(), visible]).ravel().tolist()
                annotation["num_keypoints"] = int((visible > 0).sum())
            annotations.append(annotation)
        return annotations

    def detect(
        self, image: int, annotations: list[dict[str, Any]], count: int
    ) -> list[dict[str, Any]]:
        """Three of four near an object, the rest anywhere."""
        boxes = self.boxes(count)
        classes = self.random.integers(1, self.classes + 1, count)
        scores = self.random.random(count)
        near = self.random.integers(0, len(annotations), count)
        near[self.random.random(count) < 0.25] = -1
        for index in np.flatnonzero(near >= 0):
            annotation = annotations[near[index]]
            spread = self.random.choice([0.02, 0.1, 0.3])
            box = np.array(annotation["bbox"])
            boxes[index] = box + self.random.normal(0, spread, 4) * np.tile(box[2:], 2)
            boxes[index, 2:] = boxes[index, 2:].clip(1)
            if self.random.random() < 0.8:
                classes[index] = annotation["category_id"]
                scores[index] = 1 - (1 - scores[index]) * min(1, spread * 4)
        results: list[dict[str, Any]] = [
            {"image_id": image, "category_id": c, "score": s}
            for c, s in zip(classes.tolist(), scores.tolist(), strict=True)
        ]
        if self.task != "segm":
            for result, box in zip(results, boxes.tolist(), strict=True):
                result["bbox"] = box
        if self.task == "segm":
            corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
            corners = torch.tensor(corners, dtype=torch.float32)
            masks = self.masks[self.random.integers(0, len(self.masks), count)]
            for result, rle in zip(
                results, encode_masks(masks, corners, HEIGHT, WIDTH), strict=True
            ):
                result["segmentation"] = rle
        if self.task == "keypoints":
            for index, result in enumerate(results):
                box = boxes[index]
                points = self.random.uniform(0, 1, (17, 2)) * box[2:] + box[:2]
                if near[index] >= 0:
                    there = np.reshape(annotations[near[index]]["keypoints"], (17, 3))[:, :2]
                    points = there + self.random.normal(0, 0.03, (17, 2)) * box[2:]
                flat = np.hstack([points, np.ones((17, 1))]).ravel()
                result["keypoints"] = flat.tolist()
        return results

    def ground_truth(self) -> Any:
        """A copy: pycocotools writes into it."""
        return index_ground_truth(copy.deepcopy(self.content)).coco


def compare(bench: Benchmark, data: MadeUp, peers: list[str], extension: str) -> None:
    """One task."""
    images = len(data.content["images"])
    task = data.task
    work = (
        f"{task}: {images:,} images, {len(data.content['annotations']):,} objects, "
        f"{len(data.results):,} detections"
    )
    backends = {"pycocotools": "pycocotools", **{name: name for name in peers}, "ours": "auto"}
    once = "pycocotools", "COCOeval_opt"
    outputs: dict[str, Any] = {}
    times: dict[str, list[float]] = {name: [] for name in backends}
    for turn in range(1 if bench.quick else bench.repeats):
        for name, backend in backends.items():
            if turn and name in once and task != "keypoints":
                continue
            truth = data.ground_truth()
            begin = time.perf_counter()
            outputs[name] = coco_result(truth, data.results, task, backend=backend)
            times[name].append(time.perf_counter() - begin)
    memory = {}
    if Path("/proc/self/clear_refs").exists():
        if bench.quick:  # a process takes seconds to start
            memory = {"ours": memory_rise(data.ground_truth(), data.results, task, "auto")}
        else:
            memory = peak_memory(data, backends, extension)
    goals = None if bench.quick else {"ours": GOAL}
    bench.add(work, times, reference="pycocotools", goals=goals, memory=memory)
    bench.equality(
        work,
        "; ".join(
            f"{name}: {equality(outputs[name], outputs['pycocotools'])}"
            for name in backends
            if name != "pycocotools"
        )
        + f". AP {outputs['ours'].metrics['AP']:.2f}, computed by {outputs['ours'].backend}",
    )
    if "COCOeval_opt" in times:
        bench.beside(work, "COCOeval_opt", {"ours": None})


def equality(ours: CocoResult, theirs: CocoResult) -> str:
    """How many numbers are equal to the last bit: metrics, AP by class, points of the curves."""
    mine, reference = (np.array(flat([r.metrics, r.curves])) for r in (ours, theirs))
    if mine.shape != reference.shape:
        return f"{mine.size} numbers instead of {reference.size}"
    same = int(((mine == reference) | (np.isnan(mine) & np.isnan(reference))).sum())
    text = f"{same:,} of {reference.size:,} numbers equal to the last bit"
    if same < reference.size:
        text += f", largest difference {np.nanmax(np.abs(mine - reference)):.1g}"
    return text


def flat(value: Any) -> list[float]:
    """All numbers of nested mappings and sequences; NaN for None."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [number for part in value for number in flat(part)]
    return [float("nan") if value is None else float(value)]


def peak_memory(data: MadeUp, backends: dict[str, str], extension: str) -> dict[str, float]:
    """Contender to :func:`memory_rise` in a process of its own.

    Args:
        backends: contender to backend.
        extension: file of Detectron2's extension, or "".
    """
    found = {}
    with tempfile.NamedTemporaryFile(suffix=".pickle") as file:
        pickle.dump((data.content, data.results), file, pickle.HIGHEST_PROTOCOL)
        file.flush()
        for name, backend in backends.items():
            command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "memory"]
            command += [file.name, data.task, backend, extension]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
            found[name] = float(done.stdout.split()[-1])
    return found


def print_memory(file: str, task: str, backend: str, extension: str) -> None:
    """The process of :func:`peak_memory`: prints MiB."""
    register_peers(fast_evaluation(extension))
    first = MadeUp(2, 2, 2, task)
    coco_result(first.ground_truth(), first.results, task, backend=backend)  # imports
    content, results = pickle.loads(Path(file).read_bytes())
    print(memory_rise(index_ground_truth(content).coco, results, task, backend))


def memory_rise(truth: Any, results: list[dict[str, Any]], task: str, backend: str) -> float:
    """MiB that an evaluation needs at most beyond what the process held before. Linux only."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the highest value
    before = _highest()
    coco_result(truth, results, task, backend=backend)
    return _highest() - before


def _highest() -> float:
    """The highest resident memory of this process, MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def scale(bench: Benchmark, title: str, label: str, sizes: dict[int, tuple[int, int, int]]) -> None:
    """Cost of masks' metrics against a size; images, objects and detections an image by size."""
    lines: dict[str, list[tuple[float, float]]] = {"pycocotools": [], "ours": []}
    for size, counts in sizes.items():
        data = MadeUp(*counts, "segm")
        for name, backend in (("pycocotools", "pycocotools"), ("ours", "auto")):
            times = []
            for _ in range(1 if name == "pycocotools" else 3):
                truth = data.ground_truth()
                begin = time.perf_counter()
                coco_metrics(truth, data.results, "segm", backend=backend)
                times.append(time.perf_counter() - begin)
            lines[name].append((size, sorted(times)[len(times) // 2]))
    bench.series(title, label, "seconds", lines)


def main() -> None:
    """Measures, prints, and writes the record with --record."""
    if sys.argv[1:2] == ["memory"]:
        print_memory(*sys.argv[2:])
        return
    tasks = {"bbox": (7, 100), "segm": (7, 100), "keypoints": (4, 12)}  # objects, detections
    bench = Benchmark("coco_metrics", "COCO metrics", __doc__, parts=(*tasks, "scale"))
    parser = bench.parser()
    parser.add_argument("--images", type=int, default=5000)
    parser.set_defaults(repeats=3)
    add_source_option(parser)
    args = bench.parse(parser)
    extension, why_not = find_extension(args.detectron2_source)
    peers, missing = register_peers(fast_evaluation(extension))
    images = 50 if bench.quick else args.images
    for task in ("bbox", "keypoints"):  # imports
        first = MadeUp(2, 2, 2, task)
        for backend in ("auto", *peers):
            coco_metrics(first.ground_truth(), first.results, task, backend=backend)
    for part in bench.parts():
        if part == "scale":
            scales(bench)
            continue
        compare(bench, MadeUp(images, *tasks[part], part), peers, extension)
        if why_not:
            bench.note(why_not)
        for package in missing:
            bench.note(f"{package} takes no part: it is not installed (requirements/peers.txt).")
    bench.finish()


def scales(bench: Benchmark) -> None:
    """Cost of masks' metrics against the number of images, and of detections."""
    numbers = (10, 20) if bench.quick else (50, 100, 200, 400)
    scale(
        bench,
        "Mask metrics, 7 objects and 20 detections an image",
        "images",
        {number: (number, 7, 20) for number in numbers},
    )
    numbers = (5, 10) if bench.quick else (10, 20, 40, 80)
    scale(
        bench,
        "Mask metrics of 100 images",
        "detections an image",
        {number: (100, max(1, number // 4), number) for number in numbers},
    )


if __name__ == "__main__":
    main()
