"""Predictions of an evaluation beside the ground truth, one picture an image.

Everything is read from the result files that an evaluation writes, so that pictures can be made
again, of other images or at another threshold, without running a model.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.visualizer import ColorMode, Visualizer
from pycocotools import mask as mask_util

from mask_rcnn_repro.data import get_test_dicts

logger = logging.getLogger(__name__)

_MIN_HEIGHT = 480  # pixels: small images are enlarged so that labels are readable
_TITLE_HEIGHT = 28


def draw_results(
    dataset_name: str,
    results_dir: Path,
    output_dir: Path,
    count: int,
    score_threshold: float = 0.5,
) -> list[Path]:
    """Draws ground truth (left) and predictions (right) of evenly spaced images of a data set.

    Args:
        dataset_name: Registered data set that was evaluated.
        results_dir: Folder of the evaluation's result files (COCO json).
        output_dir: Where `<image id>.png` go; made if needed.
        count: Number of images, at most as many as there are.
        score_threshold: Detections below it are not drawn.

    Returns:
        The files written, in the data set's order.
    """
    dicts = get_test_dicts(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    count = min(count, len(dicts))
    chosen = [dicts[i * len(dicts) // count] for i in range(count)]
    detections = _read_detections(results_dir / dataset_name)
    to_contiguous = metadata.thing_dataset_id_to_contiguous_id
    output_dir.mkdir(parents=True, exist_ok=True)
    files = []
    for record in chosen:
        found = [d for d in detections[record["image_id"]] if d["score"] >= score_threshold]
        picture = draw_pair(record, _to_instances(found, record, to_contiguous), metadata)
        file = output_dir / f"{record['image_id']}.png"
        cv2.imwrite(str(file), picture[:, :, ::-1])
        files.append(file)
    logger.info("Drew %d images into %s", len(files), output_dir)
    return files


def draw_pair(record: dict[str, Any], predictions: Instances, metadata: Any) -> np.ndarray:
    """Draws one image twice, with its annotations and with predictions.

    Args:
        record: Image in Detectron2's dataset format, annotations included.
        predictions: Boxes in absolute XYXY pixels of the image, scores as probabilities, masks
            (R, H, W) bool if any, keypoints (R, K, 3) if any: x, y, score.
        metadata: The data set's metadata (class names, keypoint names).

    Returns:
        uint8 RGB picture (H', W', 3).
    """
    image = utils.read_image(record["file_name"], "RGB")
    scale = max(1.0, _MIN_HEIGHT / image.shape[0])
    left = Visualizer(image, metadata, scale, ColorMode.IMAGE).draw_dataset_dict(record)
    right = Visualizer(image, metadata, scale, ColorMode.IMAGE).draw_instance_predictions(
        predictions
    )
    panels = [
        _titled(left.get_image(), "ground truth"),
        _titled(right.get_image(), f"prediction ({len(predictions)} instances)"),
    ]
    gap = np.full((panels[0].shape[0], 8, 3), 255, np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], axis=1)


def _titled(image: np.ndarray, title: str) -> np.ndarray:
    bar = np.full((_TITLE_HEIGHT, image.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, title, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([bar, image], axis=0)


def _read_detections(folder: Path) -> dict[Any, list[dict[str, Any]]]:
    """Reads the richest result file: masks and keypoints results hold boxes as well."""
    merged: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    boxes = json.loads((folder / "bbox_results.json").read_text())
    extras = []
    for name, key in (("segm", "segmentation"), ("keypoints", "keypoints")):
        file = folder / f"{name}_results.json"
        if file.is_file():
            extras.append((key, json.loads(file.read_text())))
    for index, box in enumerate(boxes):
        detection = dict(box)
        for key, rows in extras:  # the files list the same detections in the same order
            detection[key] = rows[index][key]
        merged[box["image_id"]].append(detection)
    return merged


def _to_instances(
    detections: list[dict[str, Any]], record: dict[str, Any], to_contiguous: dict[int, int]
) -> Instances:
    height, width = record["height"], record["width"]
    result = Instances((height, width))
    boxes = np.array([d["bbox"] for d in detections], dtype=np.float64).reshape(-1, 4)
    result.pred_boxes = Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
    result.scores = torch.tensor([d["score"] for d in detections])
    result.pred_classes = torch.tensor(
        [to_contiguous[d["category_id"]] for d in detections], dtype=torch.int64
    )
    if any("segmentation" in d for d in detections):
        masks = [mask_util.decode(d["segmentation"]) for d in detections]
        result.pred_masks = torch.from_numpy(np.stack(masks).astype(bool))
    if any("keypoints" in d for d in detections):
        points = np.array([d["keypoints"] for d in detections], dtype=np.float32)
        points = points.reshape(len(detections), -1, 3)
        points[:, :, :2] += 0.5  # results are pixel indices, pictures have continuous coordinates
        result.pred_keypoints = torch.from_numpy(points)
    return result
