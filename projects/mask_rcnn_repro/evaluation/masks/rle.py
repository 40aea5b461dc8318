"""From a model's small predictions to COCO results in the original image's frame.

Shapes: R detections of one image, M mask side, (H, W) size of the original image.
"""

from __future__ import annotations

import logging
from typing import Any

import cv2
import pycocotools.mask as mask_util
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.layers.mask_ops import _do_paste_mask, paste_masks_in_image
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from detectron2.utils.logger import log_first_n

from mask_rcnn_repro.evaluation.masks.paste import encode_in_boxes
from mask_rcnn_repro.utils import compiled

_CHUNK_PIXELS = 1 << 25
"""Pixels of pasted masks that are held at once (one byte each)."""


def instances_to_results(
    instances: Instances, height: int, width: int, image_id: Any, *, mask_threshold: float = 0.5
) -> list[dict[str, Any]]:
    """Converts the detections of one image to COCO results.

    Equal to Detectron2's ``detector_postprocess`` followed by ``instances_to_coco_json``, without
    ever holding all R full-size masks. Already post-processed detections pass through unchanged,
    with boolean masks (R, H, W) instead of probabilities.

    Args:
        instances: `pred_boxes` in absolute XYXY pixels of the frame `image_size`, `scores` (R,),
            `pred_classes` (R,); optionally `pred_masks` (R, 1, M, M), probabilities over the box,
            and `pred_keypoints` (R, K, 3) in the same frame. Not modified.
        height: H, pixels.
        width: W, pixels.
        image_id: Copied into each result.
        mask_threshold: Pixels with at least this probability belong to the mask.

    Returns:
        A dict per detection that is left, in the given order: `image_id`, `category_id` (the
        model's class index), `bbox` (XYWH), `score`, and where predicted `segmentation`
        (compressed RLE, `counts` as str) and `keypoints`. Detections with a box or score that is
        not finite, and those whose box is empty after clipping to the image, are dropped. Empty
        input gives an empty list.
    """
    finite = instances.pred_boxes.tensor.isfinite().all(dim=1) & instances.scores.isfinite()
    if not finite.all():
        log_first_n(
            logging.WARNING,
            f"Image {image_id}: dropped {int((~finite).sum())} detections with NaN or infinity "
            "(reported for the first image only).",
            name=__name__,
        )
    index = finite.nonzero().squeeze(1)

    small = Instances(instances.image_size)
    # indexing copies, which matters: Detectron2 rescales boxes and keypoints in place
    small.pred_boxes = Boxes(instances.pred_boxes.tensor[index].float())
    small.scores = instances.scores[index]
    small.pred_classes = instances.pred_classes[index]
    if instances.has("pred_keypoints"):
        small.pred_keypoints = instances.pred_keypoints[index].float()
    small.index = index
    small = detector_postprocess(small, height, width)
    if len(small) == 0:
        return []

    index, boxes = small.index, small.pred_boxes.tensor
    small.remove("index")
    results = instances_to_coco_json(small.to(torch.device("cpu")), image_id)
    if instances.has("pred_masks"):
        masks = instances.pred_masks[index]
        rles = encode_masks(masks, boxes, height, width, mask_threshold)
        for result, rle in zip(results, rles, strict=True):
            result["segmentation"] = rle
    return results


def encode_masks(
    masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int, threshold: float = 0.5
) -> list[dict[str, Any]]:
    """Pastes masks into the image and encodes them; the one place that does so.

    Where Numba is installed, probabilities become run lengths on the CPU, inside of their boxes
    (`paste.py`), with the result of Detectron2 on a CPU. Of masks on a GPU only the M x M
    probabilities are copied. Otherwise Detectron2 pastes them.

    Args:
        masks: (R, 1, M, M) probabilities over the boxes, or (R, H, W) bool, pasted already.
        boxes: (R, 4) absolute XYXY in the (H, W) frame; not used for pasted masks.
        height: H, pixels.
        width: W, pixels.
        threshold: See :func:`instances_to_results`.

    Returns:
        R compressed RLEs of size [H, W], `counts` as str.
    """
    if masks.dim() == 3:
        return [{"size": [height, width], "counts": text} for text in _encode_pasted(masks)]
    counts: list[str | None] = [None] * len(masks)
    masks = masks[:, 0].float()
    if compiled.HAVE_NUMBA and threshold > 0:
        masks, boxes = masks.cpu(), boxes.float().cpu()
        counts = encode_in_boxes(masks, boxes, height, width, threshold)
    left = [index for index, value in enumerate(counts) if value is None]
    step = max(1, _CHUNK_PIXELS // max(1, height * width))
    for start in range(0, len(left), step):
        part = left[start : start + step]
        pasted = _paste(masks[part], boxes[part], height, width, threshold)
        for index, value in zip(part, _encode_pasted(pasted), strict=True):
            counts[index] = value
    return [{"size": [height, width], "counts": value} for value in counts]


def _paste(
    masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int, threshold: float
) -> torch.Tensor:
    """(R, H, W) bool of (R, M, M) probabilities.

    Detectron2's, which fails on a CPU for boxes that lie outside of the image or upside down; on a
    GPU it samples these in all of the image, and so they are here.
    """
    lowest = (boxes[:, :2].floor() - 1).clamp(min=0)
    highest = torch.minimum(boxes[:, 2:].ceil() + 1, boxes.new_tensor([width, height]))
    fails = (lowest > highest).any(dim=1)
    if masks.is_cuda or not fails.any():
        return paste_masks_in_image(masks, boxes, (height, width), threshold)
    pasted = torch.empty((len(masks), height, width), dtype=torch.bool)
    # .bool(): of no masks it makes bytes
    shape = (height, width)
    pasted[~fails] = paste_masks_in_image(masks[~fails], boxes[~fails], shape, threshold).bool()
    values, _ = _do_paste_mask(masks[fails, None], boxes[fails], height, width, skip_empty=False)
    pasted[fails] = values >= threshold
    return pasted


def _encode_pasted(masks: torch.Tensor) -> list[str]:
    """The `counts` of (R, H, W) bool masks."""
    return [
        # pycocotools wants (H, W) in Fortran order, which is (W, H) in C order; OpenCV transposes
        # ten times as fast as PyTorch and NumPy
        mask_util.encode(cv2.transpose(mask.to(torch.uint8).cpu().numpy()).T)["counts"].decode()
        for mask in masks
    ]
