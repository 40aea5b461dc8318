"""Pictures of the predictions of an evaluation beside the ground truth.

They are drawn from the result files of the evaluation, without running the model.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from mask_rcnn_repro.data import get_test_dicts
from mask_rcnn_repro.data.loading.images import read_image
from mask_rcnn_repro.evaluation.coco.detections import TASK_FIELDS
from mask_rcnn_repro.evaluation.coco.result_files import KnownIds, read_results
from mask_rcnn_tools.drawing.files import failure_logged, write_picture
from mask_rcnn_tools.drawing.labels import with_caption
from mask_rcnn_tools.drawing.marks import Skeleton
from mask_rcnn_tools.drawing.painter import paint
from mask_rcnn_tools.drawing.results import ClassNames, annotation_marks, result_marks
from mask_rcnn_tools.drawing.sheet import side_by_side

logger = logging.getLogger(__name__)


def draw_results(
    dataset_name: str, results_dir: Path, output_dir: Path, count: int, score_threshold: float = 0.5
) -> list[Path]:
    """Draws ground truth (left) and predictions (right) of evenly spaced images of a data set.

    Args:
        dataset_name: Registered data set that was evaluated.
        results_dir: Directory of the evaluation's result files (COCO json).
        output_dir: Directory of the pictures `<image id>.png`; created if needed.
        count: Maximum number of images.
        score_threshold: Minimum score of drawn detections.

    Returns:
        The files in the order of the data set. An image that cannot be drawn is logged and omitted.
    """
    dicts = get_test_dicts(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    count = min(count, len(dicts))
    chosen = [dicts[i * len(dicts) // count] for i in range(count)]
    detections = _read_detections(
        results_dir / dataset_name, dataset_name, dicts, {record["image_id"] for record in chosen}
    )
    files = []
    for record in chosen:
        found = [d for d in detections[record["image_id"]] if d["score"] >= score_threshold]
        file = output_dir / f"{record['image_id']}.png"
        with failure_logged(f"Image {record['image_id']}"):
            write_picture(file, draw_pair(record, found, metadata))
            files.append(file)
    logger.info("Drew %d images into %s", len(files), output_dir)
    return files


def draw_pair(
    record: dict[str, Any], detections: Sequence[Mapping[str, Any]], metadata: Any
) -> np.ndarray:
    """Draws the annotations and the predictions of one image side by side.

    Args:
        record: Dataset dict with annotations.
        detections: COCO results of the image; see
            :func:`~mask_rcnn_tools.drawing.results.result_marks`.
        metadata: Metadata of the data set (class names, keypoint names).

    Returns:
        (H', W', 3) uint8 RGB.
    """
    image = read_image(record, "RGB")
    classes = ClassNames.of(metadata)
    skeleton = Skeleton.of(metadata)
    truth = annotation_marks(record.get("annotations", ()), classes, image.shape[:2])
    found = result_marks(detections, classes)
    about = f"{len(found)} instance{'' if len(found) == 1 else 's'}"
    panels = [
        with_caption(paint(image, truth, skeleton=skeleton), ["ground truth"]),
        with_caption(paint(image, found, skeleton=skeleton), [f"prediction ({about})"]),
    ]
    return side_by_side(panels, 8)


def _read_detections(
    folder: Path, dataset_name: str, dicts: Sequence[Mapping[str, Any]], images: set[Any]
) -> dict[Any, list[dict[str, Any]]]:
    """Reads the detections on some images, by image id."""
    sizes = {record["image_id"]: (record["height"], record["width"]) for record in dicts}
    classes = ClassNames.of(MetadataCatalog.get(dataset_name))
    files = [folder / f"{task}_results.json" for task in TASK_FIELDS]
    # those of the boxes are always there
    files = files[:1] + [file for file in files[1:] if file.is_file()]
    merged: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in read_results(files, KnownIds(dataset_name, sizes, classes.category_ids), images):
        merged[row["image_id"]].append(row)
    return merged
