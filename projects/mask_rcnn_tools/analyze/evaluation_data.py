"""Ground truth and predictions as arrays, the input of every analysis.

Shapes: N images, R detections, G annotations, K keypoints. Detections and annotations are sorted by
image, detections of one image in descending order of score.
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
"""Maps COCO's names of tasks to those in tables."""

_FIELDS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}


@dataclass(frozen=True)
class Annotations:
    """Annotations of a data set.

    Attributes:
        image: (G,) indices of images.
        category: (G,) indices of classes.
        crowd: (G,) bool, crowd regions.
        boxes: (G, 4) XYWH in pixels.
        area: (G,) areas of the masks, or of the boxes without masks, in pixels.
        masks: G compressed RLEs, or None.
        keypoints: (G, K, 3) x, y, visibility, or None.
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
class Detections:
    """Detections of a model; see :class:`Annotations`.

    Attributes:
        image: (R,).
        category: (R,).
        score: (R,) probabilities.
        boxes: (R, 4).
        masks: R compressed RLEs, or None.
        keypoints: (R, K, 3) x, y, score, or None.
    """

    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    boxes: np.ndarray
    masks: list[dict[str, Any]] | None = None
    keypoints: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.image)

    def take(self, chosen: np.ndarray) -> Detections:
        """Returns the detections with these indices."""
        return Detections(
            self.image[chosen],
            self.category[chosen],
            self.score[chosen],
            self.boxes[chosen],
            None if self.masks is None else [self.masks[i] for i in chosen.tolist()],
            None if self.keypoints is None else self.keypoints[chosen],
        )


@dataclass(frozen=True)
class EvaluationData:
    """Annotations of a data set and detections of a model.

    Attributes:
        dataset: Name of the data set.
        classes: Names by index.
        category_ids: Ids of the annotation file by index.
        image_ids: Ids of the N images.
        annotations: Annotations.
        detections: Detections.
        coco: pycocotools' representation of the annotations.
    """

    dataset: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_ids: tuple[Any, ...]
    annotations: Annotations
    detections: Detections
    coco: COCO

    @property
    def tasks(self) -> list[str]:
        """Tasks of both annotations and detections: "bbox", "segm", "keypoints"."""
        held = {
            "bbox": True,
            "segm": self.annotations.masks is not None and self.detections.masks is not None,
            "keypoints": self.annotations.keypoints is not None
            and self.detections.keypoints is not None,
        }
        return [task for task in TASKS if held[task]]

    @property
    def best_task(self) -> str:
        """Task that objects are matched by: masks if there are any, else boxes."""
        return "segm" if "segm" in self.tasks else "bbox"

    def above(self, score: float) -> EvaluationData:
        """Returns a copy with the detections of at least this score."""
        return replace(
            self, detections=self.detections.take(np.flatnonzero(self.detections.score >= score))
        )

    @functools.cached_property
    def _ranges(self) -> list[tuple[slice, slice]]:
        images = np.arange(len(self.image_ids) + 1)
        found = np.searchsorted(self.detections.image, images)
        truth = np.searchsorted(self.annotations.image, images)
        return [
            (slice(found[i], found[i + 1]), slice(truth[i], truth[i + 1]))
            for i in range(len(self.image_ids))
        ]

    def images(self) -> Iterator[tuple[slice, slice]]:
        """Yields for each image the slices of its detections and of its annotations."""
        return iter(self._ranges)

    def overlaps(self, task: str) -> list[np.ndarray]:
        """Computes the IoU of all detections with all annotations of their image.

        Args:
            task: "bbox" or "segm".

        Returns:
            For each image (R_i, G_i). For a crowd region it is, as in COCO, the share of the
            detection inside it.
        """
        kept: dict[str, list[np.ndarray]] = self.__dict__.setdefault("_overlaps", {})
        if task not in kept:
            kept[task] = [self._overlap(task, *ranges) for ranges in self.images()]
        return kept[task]

    def _overlap(self, task: str, found: slice, truth: slice) -> np.ndarray:
        count = found.stop - found.start, truth.stop - truth.start
        if 0 in count:
            return np.zeros(count)
        crowd = self.annotations.crowd[truth].tolist()
        if task == "bbox":
            return mask_util.iou(self.detections.boxes[found], self.annotations.boxes[truth], crowd)
        assert self.detections.masks is not None
        assert self.annotations.masks is not None
        return mask_util.iou(self.detections.masks[found], self.annotations.masks[truth], crowd)

    def results(self, task: str, found: Detections | None = None) -> list[dict[str, Any]]:
        """Returns the detections, or the given ones, as COCO results."""
        found = self.detections if found is None else found
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


def load_evaluation_data(
    dataset: str,
    predictions: Sequence[Path],
    image_ids: Sequence[Any] | None = None,
    max_detections: int = 100,
) -> EvaluationData:
    """Reads the annotations of a data set and predictions in COCO's result format.

    Args:
        dataset: Registered data set.
        predictions: Result files (boxes, masks, keypoints) of the same detections in the same
            order, as an evaluation writes them, or one file with all fields.
        image_ids: Evaluated images; None: all images of the data set.
        max_detections: Maximum number of detections per image, by score.

    Raises:
        DataError: Annotations or predictions are missing, broken or of another data set.
    """
    gt = load_ground_truth(dataset)
    if not gt.annotated:
        raise DataError(
            f"{dataset} has no annotations. Analyze a split that has them "
            "(dataloader.test.dataset.names)."
        )
    names = _class_names(dataset, gt.coco)
    chosen = list(image_ids) if image_ids is not None else [i["id"] for i in gt.coco.imgs.values()]
    truth = _read_annotations(gt.coco, chosen, list(names))
    rows = _read_predictions(predictions)
    found = _read_detections(rows, gt.coco, chosen, list(names), dataset, max_detections)
    return EvaluationData(
        dataset, tuple(names.values()), tuple(names), tuple(chosen), truth, found, gt.coco
    )


def _class_names(dataset: str, coco: COCO) -> dict[int, str]:
    """Maps category ids to names, in the order of the model's classes."""
    metadata = MetadataCatalog.get(dataset)
    names = {c["id"]: str(c["name"]) for c in coco.dataset.get("categories", [])}
    mapping = metadata.get("thing_dataset_id_to_contiguous_id")
    if mapping is None:
        mapping = {category: index for index, category in enumerate(sorted(names))}
    classes = metadata.get("thing_classes")
    ordered = sorted(mapping, key=lambda category: mapping[category])
    return {c: classes[mapping[c]] if classes is not None else names[c] for c in ordered}


def _read_annotations(
    coco: COCO, image_ids: Sequence[Any], category_ids: Sequence[int]
) -> Annotations:
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
    return Annotations(
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
            f"{str(file)!r} is not a file of COCO results: a list of detections, each with "
            "image_id, category_id, score and a bbox, segmentation or keypoints."
        )
    return rows


def _read_detections(
    rows: list[dict[str, Any]],
    coco: COCO,
    image_ids: Sequence[Any],
    category_ids: Sequence[int],
    dataset: str,
    max_detections: int,
) -> Detections:
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
            "with the model's class indices."
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
                "the others have. Add it to all of them or to none."
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
    return Detections(
        image=image[order],
        category=np.array([categories[row["category_id"]] for row in rows], np.int64),
        score=score[order],
        boxes=boxes,
        masks=masks,
        keypoints=keypoints,
    )
