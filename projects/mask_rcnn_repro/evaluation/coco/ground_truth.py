"""The ground truth of a data set as pycocotools wants it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from dataclasses import dataclass
from typing import Any

import pycocotools.mask as mask_util
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from pycocotools.coco import COCO

from mask_rcnn_repro.data.coco.file import coco_file
from mask_rcnn_repro.data.coco.normalize import normalize_content
from mask_rcnn_repro.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroundTruth:
    """A data set's annotations."""

    coco: COCO  # indexed content; `coco.dataset` is the json's content
    annotated: bool  # False for test splits, whose json has images and categories alone


def load_ground_truth(dataset_name: str) -> GroundTruth:
    """Reads the data set's COCO json, or converts its dicts where it has no single json.

    Annotations are those of :func:`~mask_rcnn_repro.data.coco.normalize.normalize_annotation`, as
    in training, completed by :func:`index_ground_truth`.

    Raises:
        DataError: The json is missing or is not a COCO json.
    """
    json_file = MetadataCatalog.get(dataset_name).get("json_file")
    if json_file is None:
        # plain numbers and lists, as from a file
        content = json.loads(json.dumps(convert_to_coco_dict(dataset_name)))
    else:
        content = coco_file(str(json_file)).take_content()
        if not isinstance(content.get("images"), list):
            raise DataError(
                f"{str(json_file)!r} is not a COCO json: it has no list 'images'. Expected are the "
                "lists images, categories and, unless it is a test split, annotations."
            )
    if "annotations" in content:
        normalize_content(content, str(json_file or dataset_name))
    return index_ground_truth(content)


def index_ground_truth(content: dict[str, Any]) -> GroundTruth:
    """Completes and indexes the content of a COCO json.

    Fields that pycocotools needs are filled if they are missing: `iscrowd` (0), `area` (of the
    mask, or of the box without one), and keypoints, see :func:`fill_keypoints`. Annotations are
    renumbered if an id is 0 or occurs twice: pycocotools takes a match with id 0 for no match.

    Args:
        content: It is changed in place.
    """
    annotated = "annotations" in content
    annotations = content.get("annotations", [])
    ids = [annotation.get("id", 0) for annotation in annotations]
    if 0 in ids or len(set(ids)) != len(ids):
        logger.info("Annotations renumbered from 1: an id is missing, 0 or not unique.")
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number
    coco = _indexed(content)
    for annotation in annotations:
        annotation.setdefault("iscrowd", 0)
        if "area" not in annotation:
            annotation["area"] = _area(coco, annotation)
    fill_keypoints(annotations)
    return GroundTruth(coco, annotated)


def _indexed(content: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def fill_keypoints(annotations: list[dict[str, Any]]) -> set[int]:
    """Gives every annotation of a category with keypoints its own, in place.

    Missing keypoints become zeros (not labeled), and a missing `num_keypoints` is counted.

    Returns:
        The ids of the categories that have keypoints.
    """
    lengths = {a["category_id"]: len(a["keypoints"]) for a in annotations if a.get("keypoints")}
    for annotation in annotations:
        length = lengths.get(annotation["category_id"], 0)
        if length and not annotation.get("keypoints"):
            annotation.update(keypoints=[0] * length, num_keypoints=0)
        elif length and "num_keypoints" not in annotation:
            annotation["num_keypoints"] = sum(v > 0 for v in annotation["keypoints"][2::3])
    return set(lengths)


def with_all_masks(gt: COCO) -> COCO:
    """The ground truth for mask metrics, where annotations may lack a mask.

    What nobody drew can neither be found nor missed: such an annotation becomes a crowd region of
    its box's size, in which detections count neither for nor against. pycocotools would fail.

    Returns:
        `gt` itself where every annotation has a mask.
    """
    annotations = gt.dataset.get("annotations", [])
    lacking = [a for a in annotations if not a.get("segmentation")]
    if not lacking:
        return gt
    logger.warning(
        "%d of %d annotations have no mask: what is found in their boxes counts neither for nor "
        "against the mask AP.",
        *(len(lacking), len(annotations)),
    )
    return _indexed({**gt.dataset, "annotations": [_with_mask(a) for a in annotations]})


def _with_mask(annotation: dict[str, Any]) -> dict[str, Any]:
    if annotation.get("segmentation"):
        return annotation
    x, y, w, h = annotation["bbox"]
    outline = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {**annotation, "segmentation": [outline], "iscrowd": 1}


def _area(coco: COCO, annotation: dict[str, Any]) -> float:
    mask = float(mask_util.area(coco.annToRLE(annotation))) if annotation.get("segmentation") else 0
    return mask or float(annotation["bbox"][2] * annotation["bbox"][3])
