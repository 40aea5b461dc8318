"""Ground truth and predictions as arrays, the input of every analysis.

Shapes: N images, R detections, G annotations, K keypoints. Detections and annotations are sorted by
image, detections of one image in descending order of score.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation.coco.ground_truth import load_ground_truth, with_all_masks
from mask_rcnn_repro.evaluation.coco.result_files import KnownIds, read_results

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
        masked: (G,) bool, annotations with a mask.
        masks: G compressed RLEs, the boxes of annotations without a mask. None if none has one.
        keypoints: (G, K, 3) x, y, visibility (0 where they are missing), or None.
    """

    image: np.ndarray
    category: np.ndarray
    crowd: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    masked: np.ndarray
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
        coco: Pycocotools' representation of the annotations.
        coco_with_masks: The same for numbers of masks, see
            :func:`~mask_rcnn_repro.evaluation.coco.ground_truth.with_all_masks`.
    """

    dataset: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_ids: tuple[Any, ...]
    annotations: Annotations
    detections: Detections
    coco: COCO
    coco_with_masks: COCO

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
    def max_dets(self) -> tuple[int, int, int]:
        """Limits of COCO's evaluation (per image and class), the last of which keeps everything."""
        found = np.stack([self.detections.image, self.detections.category])
        counts = np.unique(found, axis=1, return_counts=True)[1]
        return 1, 10, max(100, int(counts.max(initial=0)))

    @property
    def best_task(self) -> str:
        """Task that objects are matched by: masks if there are any, else boxes."""
        return "segm" if "segm" in self.tasks else "bbox"

    def truth(self, task: str) -> Annotations:
        """Returns the annotations of a task. Of masks, those without one are crowd regions."""
        truth = self.annotations
        return replace(truth, crowd=truth.crowd | ~truth.masked) if task == "segm" else truth

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
        crowd = self.truth(task).crowd[truth].tolist()
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
        max_detections: Maximum number of detections per image and class, by score, as COCO's.

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
    any_mask = any(a.get("segmentation") for a in gt.coco.anns.values())
    full = with_all_masks(gt.coco) if any_mask else gt.coco
    truth = _read_annotations(gt.coco, full, chosen, list(names))
    rows = read_results(predictions, KnownIds.of(gt.coco, dataset, list(names)), set(chosen))
    found = _detections(rows, chosen, list(names), max_detections)
    _check_keypoints(truth, found)
    return EvaluationData(
        dataset, tuple(names.values()), tuple(names), tuple(chosen), truth, found, gt.coco, full
    )


def _check_keypoints(truth: Annotations, found: Detections) -> None:
    if truth.keypoints is None or found.keypoints is None:
        return
    counts = truth.keypoints.shape[1], found.keypoints.shape[1]
    if counts[0] != counts[1]:
        raise DataError(
            f"The predictions have {counts[1]} keypoints each, but the annotations have "
            f"{counts[0]}. Give predictions of the keypoints of the data set."
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
    coco: COCO, full: COCO, image_ids: Sequence[Any], category_ids: Sequence[int]
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
    masked = np.array([bool(a.get("segmentation")) for a in annotations], bool)
    if masked.any():
        masks = [_compressed(full.annToRLE(full.anns[a["id"]])) for a in annotations]
    numbers = {len(a["keypoints"]) for a in annotations if "keypoints" in a}
    if len(numbers) == 1:
        unlabeled = [0] * numbers.pop()
        keypoints = np.array([a.get("keypoints", unlabeled) for a in annotations], float)
        keypoints = keypoints.reshape(len(annotations), -1, 3)
    return Annotations(
        image=np.array([number for number, _ in rows], np.int64),
        category=np.array([index[a["category_id"]] for a in annotations], np.int64),
        crowd=np.array([bool(a["iscrowd"]) for a in annotations], bool),
        boxes=np.array([a["bbox"] for a in annotations], float).reshape(-1, 4),
        area=np.array([a["area"] for a in annotations], float),
        masked=masked,
        masks=masks,
        keypoints=keypoints,
    )


def _compressed(rle: dict[str, Any]) -> dict[str, Any]:
    if isinstance(rle["counts"], list):
        return mask_util.frPyObjects(rle, *rle["size"])
    return rle


def _detections(
    rows: list[dict[str, Any]],
    image_ids: Sequence[Any],
    category_ids: Sequence[int],
    max_detections: int,
) -> Detections:
    """Converts checked rows; see :func:`load_evaluation_data`."""
    images = {image: number for number, image in enumerate(image_ids)}
    categories = {category: number for number, category in enumerate(category_ids)}
    image = np.array([images[row["image_id"]] for row in rows], np.int64)
    category = np.array([categories[row["category_id"]] for row in rows], np.int64)
    score = np.array([row["score"] for row in rows], float)
    order = _highest(image, category, score, max_detections)
    rows = [rows[i] for i in order.tolist()]
    fields = {task: [row[field] for row in rows if field in row] for task, field in _FIELDS.items()}
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
    return Detections(image[order], category[order], score[order], boxes, masks, keypoints)


def _highest(image: np.ndarray, category: np.ndarray, score: np.ndarray, most: int) -> np.ndarray:
    """Returns indices of the `most` best detections of each image and class, as COCO chooses them.

    They are sorted by image and descending score. Ties stay in the order of the file.
    """
    order = np.lexsort((-score, category, image))
    group = np.stack([image[order], category[order]])
    starts = np.flatnonzero(np.append(True, (np.diff(group) != 0).any(axis=0))[: len(order)])
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    kept = np.sort(order[rank < most])
    return kept[np.lexsort((-score[kept], image[kept]))]
