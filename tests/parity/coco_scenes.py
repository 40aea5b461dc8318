"""Random data sets in COCO's format with results on them, for comparing implementations."""

from __future__ import annotations

import copy

import numpy as np
import pycocotools.mask as mask_util

from mask_rcnn_repro.evaluation.coco.ground_truth import index_ground_truth


class Scene:
    """A random data set and results; a flag picks whole numbers, which make exact ties."""

    def __init__(self, seed: int, task: str, grid: bool) -> None:
        self.random = np.random.default_rng(seed)
        self.task, self.grid = task, grid
        chance = self.random.random
        categories = sorted(self.random.choice(50, 3, replace=False).tolist())
        ids = self.random.permutation(40)[: self.random.integers(1, 10)].tolist()
        sizes = self.random.integers(20, 200, (len(ids), 2)).tolist()
        self.images = [
            {"id": i, "height": h, "width": w} for i, (h, w) in zip(ids, sizes, strict=True)
        ]
        annotations, self.results = [], []
        for image in self.images:
            for category in categories:
                for _ in range(self.random.integers(0, 4)):
                    found = self.object(image, category)
                    annotations.append(self.annotate(found, image))
                    for _ in range(self.random.integers(0, 3)):
                        label = category if chance() < 0.8 else categories[0]
                        self.results.append(self.object(image, label, found))
                for _ in range(self.random.integers(0, 2)):
                    self.results.append(self.object(image, category))
        if chance() < 0.05:
            annotations = []
        if chance() < 0.05:
            self.results = []
        numbers = self.random.permutation(len(annotations)) + 1
        for annotation, number in zip(annotations, numbers.tolist(), strict=True):
            annotation["id"] = number
        boxes_stay = task == "bbox" or (task == "keypoints" and chance() < 0.5)
        tied = chance() < 0.5
        for result in self.results:
            result["score"] = float(self.random.integers(0, 4)) / 4 if tied else float(chance())
            if not boxes_stay:
                del result["bbox"]
        self.random.shuffle(self.results)
        content = [{"id": c, "name": str(c)} for c in categories]
        self.content = {"images": self.images, "categories": content, "annotations": annotations}
        self.image_ids = ids if chance() < 0.6 else ids[: self.random.integers(1, len(ids) + 1)]
        self.category_ids = categories if chance() < 0.7 else categories[:1]

    def object(self, image, category, near=None):
        chance, width, height = self.random.random, image["width"], image["height"]
        if near is None or chance() < 0.3:
            box = self.random.uniform([-5, -5, 1, 1], [width - 1, height - 1, width, height])
        else:
            box = np.array(near["bbox"]) + self.random.normal(0, self.random.choice([0, 3]), 4)
        if self.grid:
            box = np.round(box / 4) * 4
        box[2:] = np.maximum(box[2:], 1)
        found = {"image_id": image["id"], "category_id": category, "bbox": box.tolist()}
        if self.task == "segm":
            found["segmentation"] = self.mask(box, height, width)
        if self.task == "keypoints":
            points = self.random.uniform(0, 1, (17, 3)) * [width, height, 3]
            if near is not None and chance() < 0.7:
                points = np.reshape(near["keypoints"], (17, 3)).copy()
                points[:, :2] += self.random.normal(0, self.random.choice([0, 2]), (17, 2))
            points[:, 2] = np.floor(points[:, 2]) * (chance() > 0.15)
            found["keypoints"] = (np.round(points) if self.grid else points).ravel().tolist()
        return found

    def mask(self, box, height, width):
        mask = np.zeros((height, width), np.uint8, order="F")
        ends = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
        x0, y0, x1, y1 = np.clip(ends, 0, [width, height] * 2).astype(int)
        mask[y0:y1, x0:x1] = self.random.random((y1 - y0, x1 - x0)) < self.random.choice([0.8, 1])
        rle = mask_util.encode(mask)
        return {"size": [height, width], "counts": rle["counts"].decode()}

    def annotate(self, found, image):
        annotation = copy.deepcopy(found)
        x, y, w, h = found["bbox"]
        areas = [w * h, w * h * 0.7, 32.0**2, 96.0**2]  # limits of the sizes, too
        annotation["area"] = float(self.random.choice(areas, p=[0.5, 0.3, 0.1, 0.1]))
        annotation["iscrowd"] = int(self.random.random() < 0.15)
        if self.random.random() < 0.1:
            annotation["ignore"] = 1  # which pycocotools ignores
        if self.task == "segm":
            kind = self.random.integers(0, 3)
            if kind == 0:
                annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
                odd = self.random.uniform(-10, 200, self.random.choice([6, 14])).tolist()
                annotation["segmentation"] += [odd] * int(self.random.integers(0, 2))
            elif kind == 1:
                pixels = mask_util.decode(annotation["segmentation"]).ravel(order="F")
                ends = np.flatnonzero(np.diff(pixels)) + 1
                counts = np.diff([0, *ends, len(pixels)]).tolist()
                counts = [0] * int(pixels[0]) + counts
                annotation["segmentation"]["counts"] = counts
        if self.task == "keypoints":
            annotation["num_keypoints"] = sum(v > 0 for v in found["keypoints"][2::3])
        return annotation

    def arguments(self):
        results = [r for r in self.results if r["category_id"] in self.category_ids]
        truth = index_ground_truth(copy.deepcopy(self.content)).coco
        return truth, copy.deepcopy(results), self.task


def boxes(count=4, **changes):
    """Two images with an object, and results of which some are right."""
    annotations = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [5, 5, 40, 40], "area": 1600}
        for i in (1, 2)
    ]
    content = {
        "images": [{"id": i, "width": 100, "height": 80} for i in (1, 2, 3)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{**a, **changes} for a in annotations],
    }
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [5 + i, 5, 40, 40], "score": 0.9 - i / 10}
        for i in range(count)
    ]
    return index_ground_truth(content).coco, results
