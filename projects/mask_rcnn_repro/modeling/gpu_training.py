"""Detectron2's parts with the same values, and fewer kernels and waits in a step on a GPU.

Python starts kernels more slowly than a GPU runs those of small tensors, and a value that Python
asks for lets the GPU run out of work.

| part | change |
|---|---|
| anchors | cut out of the largest grids so far |
| matcher | labels from a table; no check that waits |
| RPN | decodes the boxes of all levels together; losses look at sampled anchors only |
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes
from detectron2.utils.events import get_event_storage
from fvcore.nn import smooth_l1_loss
from torch import nn

from mask_rcnn_repro.modeling.rpn import StageRPN


class _Anchors(DefaultAnchorGenerator):
    _kept: tuple[torch.Tensor, ...] = ()  # (H, W, A, 4) of each level
    _made_of: torch.Tensor | None = None

    def _grid_anchors(self, grid_sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
        kept, cell = self._kept, next(self.buffers())
        if cell is not self._made_of:  # moved, or of another type
            self._made_of, kept = cell, (cell.new_empty(0, 0, 0, 4),) * len(grid_sizes)
        pairs = list(zip(grid_sizes, kept, strict=True))
        largest = [(max(h, x.shape[0]), max(w, x.shape[1])) for (h, w), x in pairs]
        if largest != [x.shape[:2] for x in kept]:
            made = zip(super()._grid_anchors(largest), largest, strict=True)
            self._kept = kept = tuple(x.view(*size, -1, 4) for x, size in made)
        return [x[:h, :w].reshape(-1, 4) for (h, w), x in zip(grid_sizes, kept, strict=True)]


class _Matcher(Matcher):
    _table: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, match_quality_matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        quality = match_quality_matrix
        if quality.numel() == 0:
            empty: tuple[torch.Tensor, torch.Tensor] = super().__call__(quality)
            return empty
        if self._table is None or self._table[0].device != quality.device:
            limits = torch.tensor(self.thresholds[1:-1], device=quality.device)
            labels = torch.tensor(self.labels, dtype=torch.int8, device=quality.device)
            self._table = limits, labels
        limits, labels = self._table
        values, matches = quality.max(dim=0)
        found = labels[torch.bucketize(values, limits.to(values), right=True)]
        if self.allow_low_quality_matches:
            found = found.masked_fill((quality == quality.amax(1, keepdim=True)).any(0), 1)
        return matches, found


class _RPN(RPN):
    def _decode_proposals(
        self, anchors: list[Boxes], pred_anchor_deltas: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        sizes = [x.shape[1] for x in pred_anchor_deltas]
        (boxes,) = super()._decode_proposals(
            [Boxes.cat(anchors)], [torch.cat(pred_anchor_deltas, 1)]
        )
        return list(boxes.split(sizes, dim=1))

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[torch.Tensor],
        gt_labels: list[torch.Tensor],
        pred_anchor_deltas: list[torch.Tensor],
        gt_boxes: list[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        if self.box_reg_loss_type != "smooth_l1":
            others = pred_objectness_logits, gt_labels, pred_anchor_deltas, gt_boxes
            losses: dict[str, torch.Tensor] = super().losses(anchors, *others)
            return losses
        labels, boxes, images = torch.cat(gt_labels), Boxes.cat(anchors).tensor, len(gt_labels)
        sampled = (labels >= 0).nonzero()[:, 0]
        labels = labels[sampled]
        positive = sampled[labels.nonzero()[:, 0]]
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", len(positive) / images)
        storage.put_scalar("rpn/num_neg_anchors", (len(sampled) - len(positive)) / images)
        found = torch.cat(pred_anchor_deltas, 1).flatten(0, 1)[positive]
        own = boxes[positive % len(boxes)], torch.cat(gt_boxes)[positive]
        target = self.box2box_transform.get_deltas(*own)
        local = smooth_l1_loss(found, target, beta=self.smooth_l1_beta, reduction="sum")
        logits = torch.cat(pred_objectness_logits, 1).flatten()[sampled]
        objectness = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="sum")
        losses = {"loss_rpn_cls": objectness, "loss_rpn_loc": local}
        total = self.batch_size_per_image * images
        return {k: v / total * self.loss_weight.get(k, 1.0) for k, v in losses.items()}


class _StageRPN(_RPN, StageRPN):
    pass


_FASTER = {DefaultAnchorGenerator: _Anchors, Matcher: _Matcher, RPN: _RPN, StageRPN: _StageRPN}


def speed_up_training(model: nn.Module) -> None:
    """Replaces the parts of a model on a GPU in place. Parameters and their names stay.

    Parts of other classes, such as a user's subclass of Detectron2's, stay.
    """
    for module in model.modules():
        names = ("anchor_matcher", "proposal_matcher")
        for part in (module, *(getattr(module, name, None) for name in names)):
            if type(part) in _FASTER:
                part.__class__ = _FASTER[type(part)]
