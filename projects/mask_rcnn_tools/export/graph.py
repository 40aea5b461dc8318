"""A detector as a function of one image in tensor operations, the source of all formats.

It uses the layers and weights of the model. Detectron2's code between the layers (`Instances`,
sizes as numbers, branches for empty images) cannot be exported, so equivalent tensor operations
replace it.

Shapes: H x W image, R detections, K classes, M mask side, P keypoints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers.mask_ops import _do_paste_mask
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn
from torchvision.ops import nms

from mask_rcnn_repro.modeling import MaskHead, StageWiseRCNN
from mask_rcnn_tools.export.boxes import at_most, clip, first, pool, suppress_by_group
from mask_rcnn_tools.export.keypoint_decoding import decode_keypoints

_MASK_THRESHOLD = 0.5
"""Probability threshold of mask pixels, as in Detectron2's post-processing."""


class DetectorGraph(nn.Module):
    """Detects objects in one image.

    Args:
        model: A `GeneralizedRCNN` with its RPN, or a
            :class:`~mask_rcnn_repro.modeling.StageWiseRCNN`, in evaluation mode. Not copied.
        paste_masks: Whether to output masks of the size of the image instead of probabilities.
        decode: Maps heatmaps and boxes to keypoints, in a form that the exporter supports.

    Attributes:
        output_names: Names of the outputs, in order.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        paste_masks: bool = False,
        decode: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = decode_keypoints,
    ) -> None:
        super().__init__()
        stagewise = isinstance(model, StageWiseRCNN)
        self.detector: Any = model.detector if stagewise else model
        self.rpn: Any = model.rpn if stagewise else self.detector
        self.shared = self.rpn is self.detector
        self.paste_masks, self.decode = paste_masks, decode
        heads = self.detector.roi_heads
        self.has_masks = bool(getattr(heads, "mask_on", False))
        self.has_keypoints = bool(getattr(heads, "keypoint_on", False))
        self.output_names = ["boxes", "scores", "classes"]
        self.output_names += ["masks"] * self.has_masks
        self.output_names += ["keypoints"] * self.has_keypoints

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Detects objects.

        Args:
            image: (3, H, W) uint8, resized for the network, channels in the model's order.

        Returns:
            Boxes (R, 4) XYXY in pixels of `image`, descending scores (R,), classes (R,) from 0. If
            the model predicts them: mask probabilities (R, M, M) inside the boxes or masks
            (R, H, W) bool, and keypoints (R, P, 3): x, y in pixels and score. R may be 0.
        """
        height, width = image.shape[1], image.shape[2]
        proposals_from = self._features(self.rpn, image)
        features = proposals_from if self.shared else self._features(self.detector, image)
        proposals = self._propose(proposals_from, height, width)
        return self._detect(features, proposals, height, width)

    def _features(self, network: Any, image: torch.Tensor) -> dict[str, torch.Tensor]:
        x = (image.to(torch.float32) - network.pixel_mean) / network.pixel_std
        divisor = network.backbone.size_divisibility
        if divisor > 1:
            x = F.pad(x, (0, -x.shape[2] % divisor, 0, -x.shape[1] % divisor))
        return network.backbone(x[None])

    def _propose(self, features: dict[str, torch.Tensor], height: Any, width: Any) -> torch.Tensor:
        """Returns proposals (R, 4) as Detectron2's `find_top_rpn_proposals`."""
        rpn: RPN = self.rpn.proposal_generator
        maps = [features[name] for name in rpn.in_features]
        logits, deltas = rpn.rpn_head(maps)
        anchors = rpn.anchor_generator._grid_anchors([m.shape[-2:] for m in maps])
        boxes, scores = [], []
        for level in range(len(maps)):
            of_level = logits[level].permute(0, 2, 3, 1).flatten()
            moves = deltas[level][0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).reshape(-1, 4)
            best, index = of_level.topk(at_most(of_level.shape[0], rpn.pre_nms_topk[False]))
            found = rpn.box2box_transform.apply_deltas(moves[index], anchors[level][index])
            finite = found.isfinite().all(dim=1) & best.isfinite()
            found = clip(found, height, width)
            sides = found[:, 2:] - found[:, :2]
            large = (sides > rpn.min_box_size).all(dim=1)
            rows = (finite & large).nonzero()[:, 0]
            found, best = found[rows], best[rows]
            keep = nms(found, best, rpn.nms_thresh)
            boxes.append(found[keep])
            scores.append(best[keep])
        order = torch.cat(scores).sort(descending=True).indices
        return torch.cat(boxes)[first(order, rpn.post_nms_topk[False])]

    def _detect(
        self, features: dict[str, torch.Tensor], proposals: torch.Tensor, height: Any, width: Any
    ) -> tuple[torch.Tensor, ...]:
        heads = self.detector.roi_heads
        if isinstance(heads, Res5ROIHeads):
            maps = [features[name] for name in heads.in_features]
            pooled = heads.res5(pool(heads.pooler, maps, proposals)).mean(dim=[2, 3])
        else:
            maps = [features[name] for name in heads.box_in_features]
            pooled = heads.box_head(pool(heads.box_pooler, maps, proposals))
        boxes, scores, classes = self._choose(heads.box_predictor, pooled, proposals, height, width)
        outputs = [boxes, scores, classes]
        if self.has_masks:
            masks = self._masks(features, boxes, classes)
            if self.paste_masks:
                pasted = _do_paste_mask(masks[:, None], boxes, height, width, skip_empty=False)[0]
                masks = pasted >= _MASK_THRESHOLD
            outputs.append(masks)
        if self.has_keypoints:
            maps = [features[name] for name in heads.keypoint_in_features]
            heatmaps = heads.keypoint_head.layers(pool(heads.keypoint_pooler, maps, boxes))
            outputs.append(self.decode(heatmaps, boxes))
        return tuple(outputs)

    @staticmethod
    def _choose(
        predictor: Any, pooled: torch.Tensor, proposals: torch.Tensor, height: Any, width: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns boxes, scores, classes as `fast_rcnn_inference_single_image`."""
        logits, deltas = predictor(pooled)
        if predictor.use_sigmoid_ce:
            scores = logits.sigmoid()
        else:
            scores = F.softmax(logits, dim=-1)
        boxes = predictor.box2box_transform.apply_deltas(deltas, proposals)
        finite = boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)
        candidates = (scores[:, :-1] > predictor.test_score_thresh) & finite[:, None]
        rows, classes = candidates.nonzero().unbind(1)
        per_class = boxes.shape[1] // 4
        boxes = boxes.unflatten(1, (per_class, 4))
        found = boxes[rows, 0] if per_class == 1 else boxes[rows, classes]
        found = clip(found, height, width)
        chosen = scores[rows, classes]
        keep = suppress_by_group(
            found, chosen, classes, predictor.test_nms_thresh, predictor.test_topk_per_image
        )
        return found[keep], chosen[keep], classes[keep]

    def _masks(
        self, features: dict[str, torch.Tensor], boxes: torch.Tensor, classes: torch.Tensor
    ) -> torch.Tensor:
        heads = self.detector.roi_heads
        if isinstance(heads, Res5ROIHeads):
            pooled = heads.res5(pool(heads.pooler, [features[n] for n in heads.in_features], boxes))
        else:
            maps = [features[name] for name in heads.mask_in_features]
            pooled = pool(heads.mask_pooler, maps, boxes)
        head = heads.mask_head
        logits = head.layers(pooled).float()
        if isinstance(head, MaskHead):
            return head.loss.probabilities(logits, classes)[:, 0]
        if logits.shape[1] == 1:  # Detectron2's class-agnostic head
            return logits[:, 0].sigmoid()
        return logits[torch.arange(classes.shape[0], device=classes.device), classes].sigmoid()
