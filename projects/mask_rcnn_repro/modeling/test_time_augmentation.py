"""Test-time augmentation (appendix B): an image is seen at several sizes and mirrored.

Boxes of all views are united and suppressed as if they were of one image; masks and keypoint
heatmaps are predicted for the boxes that are left, in every view, and averaged.

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
from mask_rcnn_repro.modeling.stagewise import StageWiseRCNN
from mask_rcnn_repro.modeling.tta_views import View, batches, make_views


class TestTimeAugmentation(nn.Module):
    """Wraps a detector; boxes and masks are those of Detectron2's ``GeneralizedRCNNWithTTA``.

    Each view goes through the detector as an image of its own, with its score threshold, NMS and
    limit of detections. Over the union come the same NMS (per class) and the same limit. Masks are
    averaged as probabilities, heatmaps as logits (so did Detectron), those of mirrored views
    mirrored back, with left and right keypoints in each other's places. Keypoints are read off the
    mean heatmaps once, at the resolution of the largest view. How the paper merges is not in it.

    A single view without mirroring gives what the detector gives.

    Args:
        model: A ``GeneralizedRCNN`` with an RPN, or :class:`StageWiseRCNN`, bare or wrapped for
            distributed training. Its training mode is the caller's business.
        sizes: Shorter edges of the views, in pixels.
        flip: Whether to look at every size mirrored, too.
        max_size: Limit of the longer edge.
        views_per_batch: Views of one size that go through the model together; bounds memory.
        keypoint_hflip_indices: For each keypoint the one that takes its place in a mirrored image;
            None means COCO's 17.

    Raises:
        ConfigError: Numbers out of range, a model that finds no objects or needs proposals from
            files, or flips that do not fit its keypoints.
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
        """Where the model lives."""
        device: torch.device = self.model.device
        return device

    @torch.no_grad()
    def inference(
        self, batched_inputs: Sequence[dict[str, Any]], do_postprocess: bool = False
    ) -> Any:
        """Detects, image by image.

        Args:
            batched_inputs: Dicts with ``image``, (C, H, W), not resized: views are made from it.
                With ``do_postprocess`` also ``height``, ``width`` of the wanted output, if they are
                not H and W.
            do_postprocess: Whether to paste masks, as ``GeneralizedRCNN.inference`` does.

        Returns:
            Without `do_postprocess` one Instances an image, in the frame of ``image``:
            `pred_boxes`, `scores` (R,), descending, `pred_classes` (R,), and as the model has them
            `pred_masks` (R, 1, M, M), probabilities, and `pred_keypoints` (R, K, 3): x, y, score. R
            may be 0.
            Otherwise dicts with ``instances``, whose masks are (R, height, width), bool.
        """
        results = [self._detect(item["image"]) for item in batched_inputs]
        if not do_postprocess:
            return results
        sizes = [
            (item.get("height", result.image_size[0]), item.get("width", result.image_size[1]))
            for item, result in zip(batched_inputs, results, strict=True)
        ]
        return [
            {"instances": detector_postprocess(result, *size)}
            for result, size in zip(results, sizes, strict=True)
        ]

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> Any:
        """Detections as ``GeneralizedRCNN`` returns them in evaluation mode."""
        return self.inference(batched_inputs, do_postprocess=True)

    def _detect(self, image: torch.Tensor) -> Instances:
        height, width = image.shape[-2:]
        views = make_views((height, width), self.sizes, self.flip, self.max_size)
        boxes, scores, classes = self._merged_boxes(image, views)
        found = Instances((height, width))
        found.pred_boxes = Boxes(boxes.float())
        found.scores = scores
        found.pred_classes = classes
        masks, heatmaps = self._mean_maps(image, views, boxes, found)
        if masks is not None:
            found.pred_masks = masks
        if heatmaps is not None:
            found.pred_keypoints = _decode(heatmaps, boxes, views)
        return found

    def _merged_boxes(
        self, image: torch.Tensor, views: Sequence[View]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Boxes (R, 4) in the image's frame, float64, scores and classes of all views together."""
        all_boxes, all_scores, all_classes = [], [], []
        with _boxes_only(self.model.roi_heads):
            for batch in batches(views, self.views_per_batch):
                for view, found in zip(batch, self._run(image, batch), strict=True):
                    all_boxes.append(view.boxes_in_image(found.pred_boxes.tensor))
                    all_scores.append(found.scores)
                    all_classes.append(found.pred_classes)
        boxes, scores, classes = (torch.cat(x) for x in (all_boxes, all_scores, all_classes))
        if len(views) == 1:  # has been through this NMS
            return boxes, scores, classes
        predictor = self.model.roi_heads.box_predictor
        keep = batched_nms(boxes, scores, classes, predictor.test_nms_thresh)
        if predictor.test_topk_per_image >= 0:
            keep = keep[: predictor.test_topk_per_image]
        return boxes[keep], scores[keep], classes[keep]

    def _mean_maps(
        self, image: torch.Tensor, views: Sequence[View], boxes: torch.Tensor, merged: Instances
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Masks (R, 1, M, M) and heatmaps (R, K, S, S) of the boxes, averaged over the views."""
        heads = self.model.roi_heads
        if not (getattr(heads, "mask_on", False) or getattr(heads, "keypoint_on", False)):
            return None, None
        if len(merged) == 0:
            views = views[:1]  # for the shapes of nothing
        masks, heatmaps = _Mean(), _Mean()
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
                if found.has("pred_masks"):
                    mask = found.pred_masks
                    masks.add(mask.flip(3) if view.flip else mask)
                if found.has("pred_keypoint_heatmaps"):
                    heatmap = found.pred_keypoint_heatmaps
                    heatmaps.add(heatmap.flip(3)[:, self.flip_indices] if view.flip else heatmap)
        return masks.value(), heatmaps.value()

    def _run(
        self, image: torch.Tensor, views: Sequence[View], given: list[Instances] | None = None
    ) -> list[Instances]:
        """Runs the model on some views; each time anew, so that no more of them are held."""
        inputs = [{"image": view.render(image)} for view in views]
        found: list[Instances] = self.model.inference(inputs, given, do_postprocess=False)
        return found


class _Mean:
    """A mean of tensors that come one by one."""

    def __init__(self) -> None:
        self._sum: torch.Tensor | None = None
        self._count = 0

    def add(self, value: torch.Tensor) -> None:
        self._sum = value if self._sum is None else self._sum + value
        self._count += 1

    def value(self) -> torch.Tensor | None:
        return None if self._sum is None else self._sum / self._count


def _decode(heatmaps: torch.Tensor, boxes: torch.Tensor, views: Sequence[View]) -> torch.Tensor:
    """Keypoints (R, K, 3) in the image's frame.

    A heatmap is read at whole pixels, so that the frame matters; the model reads it in a view's.
    """
    largest = max((view for view in views if not view.flip), key=lambda view: view.size)
    points = heatmaps_to_keypoints(heatmaps, largest.boxes_in_view(boxes).float())
    places = largest.points_in_image(points[..., :2]).float()
    return torch.cat([places, points[..., 3:]], dim=2)


@contextlib.contextmanager
def _boxes_only(roi_heads: nn.Module) -> Iterator[None]:
    """Has the heads predict neither masks nor keypoints, by Detectron2's own switches."""
    switches = [name for name in ("mask_on", "keypoint_on") if hasattr(roi_heads, name)]
    before = {name: getattr(roi_heads, name) for name in switches}
    try:
        for name in switches:
            setattr(roi_heads, name, False)
        yield
    finally:
        for name, value in before.items():
            setattr(roi_heads, name, value)


def _check_model(model: nn.Module) -> None:
    if getattr(model, "roi_heads", None) is None:
        raise ConfigError(
            f"Test-time augmentation merges detections, and {type(model).__name__} has no RoI "
            "heads that make any. Use it for a detector; leave it out for an RPN stage."
        )
    if not isinstance(model, StageWiseRCNN) and getattr(model, "proposal_generator", None) is None:
        raise ConfigError(
            "Test-time augmentation needs proposals for every view, and this detector takes them "
            "from files. Join it with its RPN first: mask_rcnn_repro.build_predictor does."
        )


def _check_flip_indices(indices: Sequence[int], num_keypoints: int) -> None:
    everyone = list(range(num_keypoints))
    if sorted(indices) != everyone or [indices[i] for i in indices] != everyone:
        raise ConfigError(
            f"keypoint_hflip_indices is {list(indices)}, but the model has {num_keypoints} "
            f"keypoints: it must hold each index from 0 to {num_keypoints - 1} once, and those "
            "that change places must name each other."
        )
