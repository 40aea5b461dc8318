"""Test-time augmentation (appendix B): detection on several sizes and mirrored views of an image.

Boxes of all views go through NMS together. Masks and keypoint heatmaps are predicted for the
remaining boxes in every view, and averaged.

Shapes: R detections of an image, K keypoints, M mask side, S heatmap side; boxes as absolute XYXY.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.layers import batched_nms
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from detectron2.structures.keypoints import heatmaps_to_keypoints
from torch import nn

from mask_rcnn_repro.data.keypoint_metadata import keypoint_flip_indices
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling.inference.tta_views import View, batches, make_views
from mask_rcnn_repro.modeling.meta_arch import StageWiseRCNN


class TestTimeAugmentation(nn.Module):
    """Wraps a detector; boxes and masks are those of Detectron2's ``GeneralizedRCNNWithTTA``.

    Each view goes through the detector as an image of its own, with its score threshold, NMS and
    limit of detections. The union goes through the same NMS (per class) and limit. Masks are
    averaged as probabilities and heatmaps as logits, as in Detectron. Those of mirrored views are
    mirrored back first, with left and right keypoints exchanged. Keypoints are decoded once from
    the mean heatmaps, at the resolution of the largest view. The paper does not state how it
    merges.

    A single view without mirroring gives the detector's own results.

    Args:
        model: A ``GeneralizedRCNN`` with an RPN, or :class:`StageWiseRCNN`, bare or wrapped for
            distributed training. The caller sets its training mode.
        sizes: Shorter edges of the views, in pixels.
        flip: Whether to add a mirrored view of every size.
        max_size: Limit of the longer edge, in pixels.
        views_per_batch: Views of one size in a batch; limits memory.
        keypoint_hflip_indices: For each keypoint the one that replaces it in a mirrored image; None
            means COCO's 17.

    Raises:
        ConfigError: If a number is out of range, the model detects nothing or needs stored
            proposals, or the flip indices do not fit its keypoints.
    """

    def __init__(
        self,
        model: nn.Module,
        sizes: Sequence[int] = tuple(range(400, 1201, 100)),
        flip: bool = True,
        max_size: int = 4000,
        views_per_batch: int = 2,
        keypoint_hflip_indices: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        _check_model(model)
        sizes = [int(size) for size in sizes]
        if not sizes or min(*sizes, max_size, views_per_batch) < 1:
            raise ConfigError(
                "Test-time augmentation needs one or more sizes, and sizes, max_size and "
                f"views_per_batch from 1; got sizes={sizes}, max_size={max_size}, "
                f"views_per_batch={views_per_batch}."
            )
        self.model = model
        self.sizes = sizes
        self.flip = flip
        self.max_size = max_size
        self.views_per_batch = views_per_batch
        self.flip_indices = list(keypoint_hflip_indices or keypoint_flip_indices())
        if flip and getattr(model.roi_heads, "keypoint_on", False):
            _check_flip_indices(self.flip_indices, model.roi_heads.keypoint_head.num_keypoints)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        device: torch.device = self.model.device
        return device

    @torch.no_grad()
    def inference(
        self, batched_inputs: Sequence[dict[str, Any]], do_postprocess: bool = False
    ) -> Any:
        """Detects, image by image.

        Args:
            batched_inputs: Dicts with ``image``, (C, H, W), not resized. With ``do_postprocess``
                also ``height`` and ``width`` of the output, H and W by default.
            do_postprocess: Whether to paste masks, as ``GeneralizedRCNN.inference`` does.

        Returns:
            Without `do_postprocess` Instances of each image, in the frame of ``image``:
            `pred_boxes`, `scores` (R,), descending, `pred_classes` (R,), and if the model predicts
            them `pred_masks` (R, 1, M, M), probabilities, and `pred_keypoints` (R, K, 3): x, y,
            score. R may be 0. Otherwise dicts with ``instances``, whose masks are (R, height,
            width), bool.
        """
        results = [self._detect(item["image"]) for item in batched_inputs]
        if not do_postprocess:
            return results
        outputs = []
        for item, result in zip(batched_inputs, results, strict=True):
            height, width = result.image_size
            size = (item.get("height", height), item.get("width", width))
            outputs.append({"instances": detector_postprocess(result, *size)})
        return outputs

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> Any:
        """Detects; returns what ``GeneralizedRCNN`` returns in evaluation mode."""
        return self.inference(batched_inputs, do_postprocess=True)

    def _detect(self, image: torch.Tensor) -> Instances:
        height, width = image.shape[-2:]
        views = make_views((height, width), self.sizes, self.flip, self.max_size)
        boxes, scores, classes = self._merged_boxes(image, views)
        found = Instances((height, width))
        found.pred_boxes = Boxes(boxes.float())
        found.scores = scores
        found.pred_classes = classes
        maps = self._mean_maps(image, views, boxes, found)
        if "pred_masks" in maps:
            found.pred_masks = maps["pred_masks"]
        if "pred_keypoint_heatmaps" in maps:
            found.pred_keypoints = _decode(maps["pred_keypoint_heatmaps"], boxes, views)
        return found

    def _merged_boxes(
        self, image: torch.Tensor, views: Sequence[View]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Boxes (R, 4) in the image's frame, float64, scores and classes after NMS of all views."""
        all_boxes, all_scores, all_classes = [], [], []
        with _boxes_only(self.model.roi_heads):
            for batch in batches(views, self.views_per_batch):
                for view, found in zip(batch, self._run(image, batch), strict=True):
                    all_boxes.append(view.boxes_in_image(found.pred_boxes.tensor))
                    all_scores.append(found.scores)
                    all_classes.append(found.pred_classes)
        boxes, scores, classes = (torch.cat(x) for x in (all_boxes, all_scores, all_classes))
        if len(views) == 1:  # has been through this NMS already
            return boxes, scores, classes
        predictor = self.model.roi_heads.box_predictor
        keep = batched_nms(boxes, scores, classes, predictor.test_nms_thresh)
        if predictor.test_topk_per_image >= 0:
            keep = keep[: predictor.test_topk_per_image]
        return boxes[keep], scores[keep], classes[keep]

    def _mean_maps(
        self, image: torch.Tensor, views: Sequence[View], boxes: torch.Tensor, merged: Instances
    ) -> dict[str, torch.Tensor]:
        """Masks (R, 1, M, M) and heatmaps (R, K, S, S) of the boxes, averaged over the views."""
        heads = self.model.roi_heads
        if not (getattr(heads, "mask_on", False) or getattr(heads, "keypoint_on", False)):
            return {}
        if len(merged) == 0:
            views = views[:1]  # only for the shapes of empty results
        sums: dict[str, torch.Tensor] = {}
        for batch in batches(views, self.views_per_batch):
            given = [
                Instances(
                    view.size,
                    pred_boxes=Boxes(view.boxes_in_view(boxes).float()),
                    scores=merged.scores,
                    pred_classes=merged.pred_classes,
                )
                for view in batch
            ]
            for view, found in zip(batch, self._run(image, batch, given), strict=True):
                for name in ("pred_masks", "pred_keypoint_heatmaps"):
                    if not found.has(name):
                        continue
                    maps = found.get(name)
                    if view.flip:
                        maps = maps.flip(3)
                        maps = maps if name == "pred_masks" else maps[:, self.flip_indices]
                    sums[name] = sums[name] + maps if name in sums else maps
        return {name: total / len(views) for name, total in sums.items()}

    def _run(
        self, image: torch.Tensor, views: Sequence[View], given: list[Instances] | None = None
    ) -> list[Instances]:
        """Runs the model on some views, which are rendered each time to save memory."""
        inputs = [{"image": view.render(image)} for view in views]
        found: list[Instances] = self.model.inference(inputs, given, do_postprocess=False)
        return found


def _decode(heatmaps: torch.Tensor, boxes: torch.Tensor, views: Sequence[View]) -> torch.Tensor:
    """Keypoints (R, K, 3) in the image's frame.

    Heatmaps are decoded at whole pixels of a frame. This is the largest view's, as in the model.
    """
    largest = max((view for view in views if not view.flip), key=lambda view: view.size)
    points = heatmaps_to_keypoints(heatmaps, largest.boxes_in_view(boxes).float())
    places = largest.points_in_image(points[..., :2]).float()
    return torch.cat([places, points[..., 3:]], dim=2)


@contextlib.contextmanager
def _boxes_only(roi_heads: nn.Module) -> Iterator[None]:
    """Disables masks and keypoints by Detectron2's own switches."""
    switches = ("mask_on", "keypoint_on")
    before = {name: getattr(roi_heads, name) for name in switches if hasattr(roi_heads, name)}
    try:
        for name in before:
            setattr(roi_heads, name, False)
        yield
    finally:
        for name, value in before.items():
            setattr(roi_heads, name, value)


def _check_model(model: nn.Module) -> None:
    if getattr(model, "roi_heads", None) is None:
        raise ConfigError(
            f"Test-time augmentation needs a detector, but {type(model).__name__} has no RoI "
            "heads. Disable it for an RPN stage."
        )
    if not isinstance(model, StageWiseRCNN) and getattr(model, "proposal_generator", None) is None:
        raise ConfigError(
            "Test-time augmentation needs proposals for every view, but this detector reads stored "
            "ones. Use mask_rcnn_repro.build_predictor, which joins it with its RPN."
        )


def _check_flip_indices(indices: Sequence[int], num_keypoints: int) -> None:
    everyone = list(range(num_keypoints))
    if sorted(indices) != everyone or [indices[i] for i in indices] != everyone:
        raise ConfigError(
            f"keypoint_hflip_indices is {list(indices)}, but the model has {num_keypoints} "
            f"keypoints. It must hold each index from 0 to {num_keypoints - 1} once, and the two "
            "keypoints of a pair must name each other."
        )
