"""Test-time augmentation (appendix B): detection on several sizes and mirrored views of an image.

Boxes of all views go through NMS together, and may be refined by voting. Masks and keypoint
heatmaps are predicted for the remaining boxes in every view, and averaged.

Shapes: R detections of an image, K keypoints, M mask side, S heatmap side; boxes as absolute XYXY.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from detectron2.layers import batched_nms
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.roi_heads import BaseKeypointRCNNHead
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torchvision.ops import box_iou

from mask_rcnn_repro.data.keypoint_metadata import keypoint_flip_indices
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling.inference.keypoint_decoding import decode_heatmaps
from mask_rcnn_repro.modeling.inference.tta_views import View, batches, make_views, one_ahead
from mask_rcnn_repro.modeling.meta_arch import StageWiseRCNN

Item = dict[str, Any]
_VOTED_AT_ONCE = 256  # boxes; bounds memory


class TestTimeAugmentation(nn.Module):
    """Wraps a detector; merges as Detectron2's ``GeneralizedRCNNWithTTA``, or as Detectron.

    Each view goes through the detector as an image of its own, with its score threshold, NMS and
    limit of detections. The union goes through the same NMS (per class) and limit. With `vote_iou`
    the candidates of all views above the score threshold go through one NMS, and then refine the
    boxes that it leaves (:func:`vote`). Detectron's published configs for boxes and masks do so at
    0.9. With `average_boxes`, as in its config for keypoints, all views classify the same stored
    proposals, and the candidates are each proposal's mean scores and boxes.

    Masks are averaged as probabilities and heatmaps as logits, as in Detectron. Those of mirrored
    views are mirrored back first, with left and right keypoints exchanged. Keypoints are decoded
    once from the mean heatmaps, at the resolution of the largest view.

    A single view without mirroring or voting gives the detector's own results.

    Args:
        model: A ``GeneralizedRCNN`` with an RPN (with `average_boxes` without one), or
            :class:`StageWiseRCNN`, bare or distributed. The caller sets its training mode.
        sizes: Shorter edges of the views, in pixels.
        flip: Whether to add a mirrored view of every size.
        max_size: Limit of the longer edge, in pixels.
        views_per_batch: Views of one size in a batch; limits memory.
        keypoint_hflip_indices: For each keypoint the one that replaces it in a mirrored image; None
            means COCO's 17.
        vote_iou: Overlap from which a candidate votes, in (0, 1]. None: no voting.
        average_boxes: Whether to average over the views, for each of the inputs' ``proposals``.

    Raises:
        ConfigError: If a number is out of range, the model detects nothing or its proposals do not
            suit `average_boxes`, or the flip indices do not fit its keypoints.
    """

    def __init__(
        self,
        model: nn.Module,
        sizes: Sequence[int] = tuple(range(400, 1201, 100)),
        flip: bool = True,
        max_size: int = 4000,
        views_per_batch: int = 2,
        keypoint_hflip_indices: Sequence[int] | None = None,
        vote_iou: float | None = None,
        average_boxes: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        _check_model(model, average_boxes)
        sizes = [int(size) for size in sizes]
        if not sizes or min(*sizes, max_size, views_per_batch) < 1:
            raise ConfigError(
                "Test-time augmentation needs one or more sizes, and sizes, max_size and "
                f"views_per_batch from 1; got sizes={sizes}, max_size={max_size}, "
                f"views_per_batch={views_per_batch}."
            )
        if vote_iou is not None and not 0 < vote_iou <= 1:
            raise ConfigError(f"vote_iou must be above 0 and at most 1, or None; got {vote_iou}.")
        self.model = model
        self.sizes, self.max_size, self.flip = sizes, max_size, flip
        self.views_per_batch = views_per_batch
        self.vote_iou, self.average_boxes = vote_iou, average_boxes
        self.flip_indices = list(keypoint_hflip_indices or keypoint_flip_indices())
        if flip and getattr(model.roi_heads, "keypoint_on", False):
            count, indices = model.roi_heads.keypoint_head.num_keypoints, self.flip_indices
            everyone = list(range(count))
            if sorted(indices) != everyone or [indices[i] for i in indices] != everyone:
                raise ConfigError(
                    f"keypoint_hflip_indices is {indices}, but the model has {count} keypoints. It "
                    f"must hold each index from 0 to {count - 1} once, and the two keypoints of a "
                    "pair must name each other."
                )

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return torch.device(self.model.device)

    @torch.no_grad()
    def inference(self, batched_inputs: Sequence[Item], do_postprocess: bool = False) -> Any:
        """Detects, image by image.

        Args:
            batched_inputs: Dicts with ``image``, (C, H, W), not resized, and optionally ``views``,
                see :meth:`views_ahead`. With ``do_postprocess`` also ``height`` and ``width`` of
                the output, H and W by default. With `average_boxes` also ``proposals`` with
                `proposal_boxes` (P, 4) in the frame of ``image``.
            do_postprocess: Whether to paste masks, as ``GeneralizedRCNN.inference`` does.

        Returns:
            Without `do_postprocess` Instances of each image, in the frame of ``image``:
            `pred_boxes`, `scores` (R,), descending, `pred_classes` (R,), and if the model predicts
            them `pred_masks` (R, 1, M, M), probabilities, and `pred_keypoints` (R, K, 3): x, y,
            score. R may be 0. Otherwise dicts with ``instances``, whose masks are (R, height,
            width), bool.
        """
        results = [self._detect(item) for item in one_ahead(batched_inputs, self._with_views)]
        if not do_postprocess:
            return results
        outputs = []
        for item, result in zip(batched_inputs, results, strict=True):
            height, width = result.image_size
            size = (item.get("height", height), item.get("width", width))
            outputs.append({"instances": detector_postprocess(result, *size)})
        return outputs

    def forward(self, batched_inputs: Sequence[Item]) -> Any:
        """Detects; returns what ``GeneralizedRCNN`` returns in evaluation mode."""
        return self.inference(batched_inputs, do_postprocess=True)

    def views_ahead(self, batches: Iterable[Sequence[Item]]) -> Iterator[list[Item]]:
        """Adds ``views`` to the inputs of each batch. A thread renders those of the next one."""
        return one_ahead(batches, lambda batch: [self._with_views(item) for item in batch])

    def _with_views(self, item: Item) -> Item:
        """Adds ``views``: size (h, w) to pixels (C, h, w), not mirrored."""
        if "views" in item:
            return item
        image = item["image"]
        views = make_views(tuple(image.shape[-2:]), self.sizes, False, self.max_size)
        return {**item, "views": {v.size: v.render(image) for v in dict.fromkeys(views)}}

    def _detect(self, item: Item) -> Instances:
        image_size = tuple(item["image"].shape[-2:])
        views = make_views(image_size, self.sizes, self.flip, self.max_size)
        boxes, scores, classes = self._merged_boxes(item, views)
        found = Instances(image_size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)
        maps = self._mean_maps(item, views, boxes, found)
        if "pred_masks" in maps:
            found.pred_masks = maps["pred_masks"]
        if "pred_keypoint_heatmaps" in maps:
            # at whole pixels of the largest view, as in the model
            largest = max((view for view in views if not view.flip), key=lambda view: view.size)
            points = decode_heatmaps(maps["pred_keypoint_heatmaps"], largest.boxes_in_view(boxes))
            places = largest.points_in_image(points[..., :2]).float()
            found.pred_keypoints = torch.cat([places, points[..., 2:]], dim=2)
        return found

    def _merged_boxes(self, item: Item, views: Sequence[View]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (R, 4) in the image's frame, float64, scores and classes after NMS of all views."""
        heads = self.model.roi_heads
        predictor = heads.box_predictor
        threshold, most = predictor.test_nms_thresh, predictor.test_topk_per_image
        # all candidates vote
        limits = {"test_nms_thresh": math.inf, "test_topk_per_image": -1} if self.vote_iou else {}
        own = {"box_predictor": _AllBoxes(predictor)} if self.average_boxes else {}
        found: list[Instances] = []
        off = {"mask_on": False, "keypoint_on": False}
        with _switched(heads, **off, **own), _switched(predictor, **limits):
            for batch in batches(views, self.views_per_batch):
                found += self._run(item, batch)
        boxes = torch.cat(
            [v.boxes_in_image(f.pred_boxes.tensor) for v, f in zip(views, found, strict=True)]
        )
        scores, classes = (torch.cat([f.get(x) for f in found]) for x in ("scores", "pred_classes"))
        if self.average_boxes:
            boxes, scores = (x.unflatten(0, (len(views), -1)).mean(0) for x in (boxes, scores))
            good = scores > predictor.test_score_thresh  # false for NaN
            boxes, scores, classes = boxes[good], scores[good], found[0].pred_classes[good]
        elif len(views) == 1 and not self.vote_iou:  # has been through this NMS already
            return boxes, scores, classes
        keep = batched_nms(boxes, scores, classes, threshold)[: most if most >= 0 else None]
        merged = boxes[keep]
        if self.vote_iou:
            merged = vote(boxes, scores, classes, keep, self.vote_iou)
        return merged, scores[keep], classes[keep]

    def _mean_maps(
        self, item: Item, views: Sequence[View], boxes: Tensor, merged: Instances
    ) -> dict[str, Tensor]:
        """Masks (R, 1, M, M) and heatmaps (R, K, S, S) of the boxes, averaged over the views."""
        heads = self.model.roi_heads
        if not (getattr(heads, "mask_on", False) or getattr(heads, "keypoint_on", False)):
            return {}
        if len(merged) == 0:
            views = views[:1]  # only for the shapes of empty results
        head, heatmaps_only = getattr(heads, "keypoint_head", None), {}
        if getattr(type(head), "forward", None) is BaseKeypointRCNNHead.forward:  # not its own
            heatmaps_only["keypoint_head"] = _HeatmapsOnly(head)
        sums: dict[str, Tensor] = {}
        for batch in batches(views, self.views_per_batch):
            given = [Instances(view.size, **merged.get_fields()) for view in batch]
            for view, own in zip(batch, given, strict=True):
                own.pred_boxes = Boxes(view.boxes_in_view(boxes))
            with _switched(heads, **heatmaps_only):
                results = self._run(item, batch, given)
            for view, found in zip(batch, results, strict=True):
                orders = {"pred_masks": [0], "pred_keypoint_heatmaps": self.flip_indices}
                for name in filter(found.has, orders):
                    maps = found.get(name)
                    maps = maps.flip(3)[:, orders[name]] if view.flip else maps
                    sums[name] = sums[name] + maps if name in sums else maps
        return {name: total / len(views) for name, total in sums.items()}

    def _run(
        self, item: Item, views: Sequence[View], given: list[Instances] | None = None
    ) -> list[Instances]:
        inputs: list[Item] = []
        for view in views:
            image = item["views"][view.size]
            inputs.append({"image": image.flip(2) if view.flip else image})
            if self.average_boxes and given is None:
                fields = item["proposals"].get_fields()
                boxes = Boxes(view.boxes_in_view(fields["proposal_boxes"].tensor))
                own = Instances(view.size, **{**fields, "proposal_boxes": boxes})
                inputs[-1]["proposals"] = own
        return list(self.model.inference(inputs, given, do_postprocess=False))


def vote(boxes: Tensor, scores: Tensor, classes: Tensor, keep: Tensor, threshold: float) -> Tensor:
    """Averages the candidates around each kept box (Gidaris and Komodakis 2015, section 5).

    Scores do not change. Detectron calls this box voting with the scoring method ``ID``.

    Args:
        boxes: (N, 4) all candidates.
        scores: (N,) probabilities above 0, the weights.
        classes: (N,) their classes. Only candidates of the box's class vote.
        keep: (R,) indices of the boxes left by NMS; R may be 0.
        threshold: A candidate with at least this IoU votes. The kept box itself always does.

    Returns:
        (R, 4) the new boxes of `keep`.
    """
    voted = []
    for own in keep.split(_VOTED_AT_ONCE):
        votes = (box_iou(boxes[own], boxes) >= threshold) & (classes[own, None] == classes)
        votes[torch.arange(len(own)), own] = True  # also without area
        weights = votes * scores.to(boxes)
        voted.append(weights @ boxes / weights.sum(1, keepdim=True))
    return torch.cat(voted)


class _HeatmapsOnly(nn.Module):
    """A keypoint head of Detectron2's kind whose heatmaps are not decoded."""

    def __init__(self, head: BaseKeypointRCNNHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor, instances: list[Instances]) -> list[Instances]:
        maps = self.head.layers(x).split([len(found) for found in instances])
        for found, own in zip(instances, maps, strict=True):
            found.pred_keypoint_heatmaps = own
        return instances


class _AllBoxes(nn.Module):
    """A box predictor of Detectron2's kind; keeps every class of a proposal, then of the next."""

    def __init__(self, predictor: nn.Module) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, x: Tensor) -> Any:
        return self.predictor(x)

    def inference(
        self, predictions: Any, proposals: list[Instances]
    ) -> tuple[list[Instances], None]:
        results = []
        boxes = self.predictor.predict_boxes(predictions, proposals)
        scores = self.predictor.predict_probs(predictions, proposals)
        for given, its, own in zip(proposals, boxes, scores, strict=True):
            count, classes = len(own), own.shape[1] - 1
            its = its.unflatten(1, (-1, 4)).expand(-1, classes, -1).reshape(-1, 4)
            result = Instances(given.image_size, pred_boxes=Boxes(its.nan_to_num()))
            result.pred_boxes.clip(given.image_size)
            result.scores = own[:, :-1].flatten().where(its.isfinite().all(1), math.nan)
            result.pred_classes = torch.arange(classes, device=own.device).repeat(count)
            results.append(result)
        return results, None


@contextlib.contextmanager
def _switched(module: nn.Module, **values: Any) -> Iterator[None]:
    """Sets attributes that the module has, and restores them."""
    before = {name: getattr(module, name) for name in values if hasattr(module, name)}
    try:
        for name in before:
            setattr(module, name, values[name])
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def _check_model(model: nn.Module, average_boxes: bool) -> None:
    if getattr(model, "roi_heads", None) is None:
        raise ConfigError(
            f"Test-time augmentation needs a detector, but {type(model).__name__} has no RoI "
            "heads. Disable it for an RPN stage."
        )
    has_rpn = isinstance(model, StageWiseRCNN) or getattr(model, "proposal_generator", None)
    if has_rpn and average_boxes:
        raise ConfigError(
            "train.tta.average_boxes needs a detector that reads stored proposals, but this one "
            "proposes boxes in each view. Set train.tta.average_boxes=false."
        )
    if not has_rpn and not average_boxes:
        raise ConfigError(
            "Test-time augmentation needs proposals for every view, but this detector reads stored "
            "ones. Use mask_rcnn_repro.build_predictor, which joins it with its RPN."
        )
