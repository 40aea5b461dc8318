"""Ground truth and predictions as arrays: what every analysis starts from.

Shapes: N images, R detections, G annotations, K keypoints. Detections and annotations are ordered
by image; the detections of one image by falling score.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation.coco.ground_truth import load_ground_truth

TASKS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
"""COCO's name of a task to the one in tables."""

_FIELDS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}


@dataclass(frozen=True)
class Truth:
    """The annotations.

    Attributes:
        image: (G,) index of the image.
        category: (G,) index of the class.
        crowd: (G,) bool; crowd regions are never missed, and excuse what lies in them.
        boxes: (G, 4) XYWH in pixels.
        area: (G,) of the mask in pixels as the annotations give it, else of the box.
        masks: G compressed RLEs; None without masks.
        keypoints: (G, K, 3) x, y, visibility; None without keypoints.
    """

    image: np.ndarray
    category: np.ndarray
    crowd: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    masks: list[dict[str, Any]] | None = None
    keypoints: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class Found:
    """The detections; see :class:`Truth`.

    Attributes:
        image: (R,).
        category: (R,).
        score: (R,) probabilities.
        boxes: (R, 4).
        masks: R compressed RLEs; None without masks.
        keypoints: (R, K, 3) x, y, score; None without keypoints.
    """

    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    boxes: np.ndarray
    masks: list[dict[str, Any]] | None = None
    keypoints: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.image)

    def take(self, chosen: np.ndarray) -> Found:
        """The detections of some indices, in that order."""
        return Found(
            self.image[chosen],
            self.category[chosen],
            self.score[chosen],
            self.boxes[chosen],
            None if self.masks is None else [self.masks[i] for i in chosen.tolist()],
            None if self.keypoints is None else self.keypoints[chosen],
        )


@dataclass(frozen=True)
class Material:
    """A data set and what a model found in it.

    Attributes:
        dataset: name of the data set.
        classes: names, by index.
        category_ids: ids in the annotation file, by index.
        image_ids: ids of the N images.
        truth: annotations.
        found: detections.
        coco: the annotations as pycocotools has them.
    """

    dataset: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_ids: tuple[Any, ...]
    truth: Truth
    found: Found
    coco: COCO

    @property
    def tasks(self) -> list[str]:
        """What both annotations and predictions have: "bbox", "segm", "keypoints"."""
        held = {
            "bbox": True,
            "segm": self.truth.masks is not None and self.found.masks is not None,
            "keypoints": self.truth.keypoints is not None and self.found.keypoints is not None,
        }
        return [task for task in TASKS if held[task]]

    @property
    def best_task(self) -> str:
        """What objects are told apart by: masks where there are any, else boxes."""
        return "segm" if "segm" in self.tasks else "bbox"

    def above(self, score: float) -> Material:
        """The same with the detections of at least this score."""
        return replace(self, found=self.found.take(np.flatnonzero(self.found.score >= score)))

    @functools.cached_property
    def _ranges(self) -> list[tuple[slice, slice]]:
        images = np.arange(len(self.image_ids) + 1)
        found = np.searchsorted(self.found.image, images)
        truth = np.searchsorted(self.truth.image, images)
        return [
            (slice(found[i], found[i + 1]), slice(truth[i], truth[i + 1]))
            for i in range(len(self.image_ids))
        ]

    def images(self) -> Iterator[tuple[slice, slice]]:
        """For each image, which detections and which annotations are its own."""
        return iter(self._ranges)

    def overlaps(self, task: str) -> list[np.ndarray]:
        """IoU of all detections with all annotations of their image.

        Args:
            task: "bbox" or "segm".

        Returns:
            For each image (R_i, G_i); for a crowd region the part of the detection that lies in
            it, as COCO has it.
        """
        kept: dict[str, list[np.ndarray]] = self.__dict__.setdefault("_overlaps", {})
        if task not in kept:
            kept[task] = [self._overlap(task, *ranges) for ranges in self.images()]
        return kept[task]

    def _overlap(self, task: str, found: slice, truth: slice) -> np.ndarray:
        count = found.stop - found.start, truth.stop - truth.start
        if 0 in count:
            return np.zeros(count)
        crowd = self.truth.crowd[truth].tolist()
        if task == "bbox":
            return mask_util.iou(self.found.boxes[found], self.truth.boxes[truth], crowd)
        assert self.found.masks is not None
        assert self.truth.masks is not None
        return mask_util.iou(self.found.masks[found], self.truth.masks[truth], crowd)

    def results(self, task: str, found: Found | None = None) -> list[dict[str, Any]]:
        """The detections as COCO results, in the manner of this project's result files."""
        found = self.found if found is None else found
        rows: list[dict[str, Any]] = [
            {
                "image_id": self.image_ids[image],
                "category_id": self.category_ids[category],
                "score": score,
            }
            for image, category, score in zip(
                found.image.tolist(), found.category.tolist(), found.score.tolist(), strict=True
            )
        ]
        if task in ("bbox", "keypoints"):
            for row, box in zip(rows, found.boxes.tolist(), strict=True):
                row["bbox"] = box
        if task == "segm":
            for row, mask in zip(rows, found.masks or [], strict=True):
                row["segmentation"] = mask
        if task == "keypoints":
            assert found.keypoints is not None
            flat = found.keypoints.reshape(len(found), -1).tolist()
            for row, points in zip(rows, flat, strict=True):
                row["keypoints"] = points
        return rows


def load_material(
    dataset: str,
    predictions: Sequence[Path],
    image_ids: Sequence[Any] | None = None,
    max_detections: int = 100,
) -> Material:
    """Reads a data set's annotations and predictions in COCO's result format.

    Args:
        dataset: a registered data set.
        predictions: result files of the same detections in the same order (boxes, masks,
            keypoints), as an evaluation writes them; or one file that holds all fields.
        image_ids: images that were evaluated; None: all of the data set.
        max_detections: an image; those with the highest scores count.

    Raises:
        DataError: annotations or predictions that are missing, broken or of another data set.
    """
    gt = load_ground_truth(dataset)
    if not gt.annotated:
        raise DataError(
            f"{dataset} has no annotations, so nothing can be said about errors. Analyse a split "
            "that has them (dataloader.test.dataset.names)."
        )
    names = _class_names(dataset, gt.coco)
    chosen = list(image_ids) if image_ids is not None else [i["id"] for i in gt.coco.imgs.values()]
    truth = _read_truth(gt.coco, chosen, list(names))
    rows = _read_predictions(predictions)
    found = _read_found(rows, gt.coco, chosen, list(names), dataset, max_detections)
    return Material(
        dataset, tuple(names.values()), tuple(names), tuple(chosen), truth, found, gt.coco
    )


def _class_names(dataset: str, coco: COCO) -> dict[int, str]:
    """Category id to name, in the order of the model's classes."""
    metadata = MetadataCatalog.get(dataset)
    names = {c["id"]: str(c["name"]) for c in coco.dataset.get("categories", [])}
    mapping = metadata.get("thing_dataset_id_to_contiguous_id")
    if mapping is None:
        mapping = {category: index for index, category in enumerate(sorted(names))}
    classes = metadata.get("thing_classes")
    ordered = sorted(mapping, key=lambda category: mapping[category])
    return {c: classes[mapping[c]] if classes is not None else names[c] for c in ordered}


def _read_truth(coco: COCO, image_ids: Sequence[Any], category_ids: Sequence[int]) -> Truth:
    index = {category: i for i, category in enumerate(category_ids)}
    rows = [
        (number, annotation)
        for number, image in enumerate(image_ids)
        for annotation in coco.imgToAnns.get(image, [])
        if annotation["category_id"] in index
    ]
    annotations = [annotation for _, annotation in rows]
    masks, keypoints = None, None
    if annotations and all(a.get("segmentation") for a in annotations):
        masks = [_compressed(coco.annToRLE(a)) for a in annotations]
    if annotations and all("keypoints" in a for a in annotations):
        keypoints = np.array([a["keypoints"] for a in annotations], float)
        keypoints = keypoints.reshape(len(annotations), -1, 3)
    return Truth(
        image=np.array([number for number, _ in rows], np.int64),
        category=np.array([index[a["category_id"]] for a in annotations], np.int64),
        crowd=np.array([bool(a["iscrowd"]) for a in annotations], bool),
        boxes=np.array([a["bbox"] for a in annotations], float).reshape(-1, 4),
        area=np.array([a["area"] for a in annotations], float),
        masks=masks,
        keypoints=keypoints,
    )


def _compressed(rle: dict[str, Any]) -> dict[str, Any]:
    if isinstance(rle["counts"], list):
        return mask_util.frPyObjects(rle, *rle["size"])
    return rle


def _read_predictions(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Joins result files row by row."""
    joined: list[dict[str, Any]] | None = None
    for file in files:
        rows = _read_json(file)
        if joined is None:
            joined = rows
            continue
        if [_key(row) for row in rows] != [_key(row) for row in joined]:
            raise DataError(
                f"{file} does not list the detections of {files[0]} in the same order (image, "
                "class and score of each row). Give files of one evaluation, or a single file."
            )
        for row, more in zip(joined, rows, strict=True):
            row.update(more)
    return joined or []


def _key(row: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return row["image_id"], row["category_id"], row["score"]


def _read_json(file: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"The predictions {str(file)!r} cannot be read: {error}.") from error
    needed = {"image_id", "category_id", "score"}
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and needed <= row.keys() for row in rows
    ):
        raise DataError(
            f"{str(file)!r} is not a file of COCO results: expected is a list of detections, each "
            "with image_id, category_id, score and a bbox, segmentation or keypoints."
        )
    return rows


def _read_found(
    rows: list[dict[str, Any]],
    coco: COCO,
    image_ids: Sequence[Any],
    category_ids: Sequence[int],
    dataset: str,
    max_detections: int,
) -> Found:
    images = {image: number for number, image in enumerate(image_ids)}
    categories = {category: number for number, category in enumerate(category_ids)}
    if unknown := {row["image_id"] for row in rows} - coco.imgs.keys():
        raise DataError(
            f"{len(unknown)} images of the predictions, such as image_id {next(iter(unknown))!r}, "
            f"are not in {dataset!r}. Give the predictions of that data set, or name theirs with "
            "dataloader.test.dataset.names."
        )
    if unknown := {row["category_id"] for row in rows} - categories.keys():
        raise DataError(
            f"The predictions have category_id {sorted(unknown)}, but {dataset!r} has "
            f"{sorted(categories)}. Results are written with the ids of the annotation file, not "
            "with a model's class indices."
        )
    rows = [row for row in rows if row["image_id"] in images]
    image = np.array([images[row["image_id"]] for row in rows], np.int64)
    score = np.array([row["score"] for row in rows], float)
    order = np.lexsort((-score, image))  # stable: ties stay in the order of the file
    rank = np.arange(len(order)) - np.searchsorted(image[order], image[order])
    order = order[rank < max_detections]
    rows = [rows[i] for i in order.tolist()]
    fields = {task: [row[field] for row in rows if field in row] for task, field in _FIELDS.items()}
    for task, values in fields.items():
        if values and len(values) != len(rows):
            raise DataError(
                f"{len(rows) - len(values)} of {len(rows)} predictions have no {_FIELDS[task]!r}, "
                "the others have. Give it to all of them or to none."
            )
    masks = fields["segm"] or None
    boxes = np.array(fields["bbox"], float).reshape(-1, 4)
    if masks and not fields["bbox"]:
        boxes = mask_util.toBbox(masks)
    elif rows and not len(boxes):
        points = np.array(fields["keypoints"], float).reshape(len(rows), -1, 3)[:, :, :2]
        low, high = points.min(axis=1), points.max(axis=1)
        boxes = np.concatenate([low, high - low], axis=1)
    keypoints = None
    if fields["keypoints"]:
        keypoints = np.array(fields["keypoints"], float).reshape(len(rows), -1, 3)
    return Found(
        image=image[order],
        category=np.array([categories[row["category_id"]] for row in rows], np.int64),
        score=score[order],
        boxes=boxes,
        masks=masks,
        keypoints=keypoints,
    )
