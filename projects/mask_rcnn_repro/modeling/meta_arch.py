"""Detectors that are trained in several stages (sections 3.1 and 4.4).

| class | proposals in training | proposals at test |
|---|---|---|
| StageWiseRCNN | not trained: joins a trained RPN and a trained detector | of its RPN |
| SharedFeatureRCNN | stored, in the inputs | of its own RPN, on shared features |

Shapes: N images; boxes as absolute XYXY in the frame of the network's input unless stated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.meta_arch import META_ARCH_REGISTRY, GeneralizedRCNN, ProposalNetwork
from detectron2.structures import ImageList, Instances
from torch import nn

from mask_rcnn_repro.errors import DataError


class StageWiseRCNN(nn.Module):
    """Proposes with one network and detects with another (section 3.1: no shared features).

    Detections equal those of the detector on the RPN's stored proposals if both networks see the
    image at the same size.

    Args:
        rpn: Keeps as many proposals per image as the detector is tested on.
        detector: A detector without an RPN.
    """

    def __init__(self, rpn: ProposalNetwork, detector: GeneralizedRCNN) -> None:
        super().__init__()
        self.rpn = rpn
        self.detector = detector

    @property
    def device(self) -> torch.device:
        """Device of the detector."""
        return self.detector.device

    @property
    def roi_heads(self) -> nn.Module:
        """RoI heads of the detector."""
        return self.detector.roi_heads

    @torch.no_grad()
    def propose(self, batched_inputs: Sequence[dict[str, Any]]) -> list[Instances]:
        """Proposes boxes.

        Args:
            batched_inputs: Dicts with ``image``, (C, H, W).

        Returns:
            Instances of each image, with `proposal_boxes` in the frame of ``image`` and
            `objectness_logits`.
        """
        rpn = self.rpn
        images = ImageList.from_tensors(
            [(x["image"].to(self.device) - rpn.pixel_mean) / rpn.pixel_std for x in batched_inputs],
            rpn.backbone.size_divisibility,
            padding_constraints=rpn.backbone.padding_constraints,
        )
        proposals: list[Instances]
        proposals, _ = rpn.proposal_generator(images, rpn.backbone(images.tensor), None)
        return proposals

    def inference(
        self,
        batched_inputs: Sequence[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> Any:
        """Detects; arguments and result are those of ``GeneralizedRCNN.inference``.

        Stored proposals in the inputs are ignored. The RPN does not run for
        ``detected_instances``, whose boxes are given.
        """
        inputs = list(batched_inputs)
        if detected_instances is None:
            inputs = [
                {**x, "proposals": p} for x, p in zip(inputs, self.propose(inputs), strict=True)
            ]
        return self.detector.inference(inputs, detected_instances, do_postprocess)

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> Any:
        """Detects; returns what ``GeneralizedRCNN`` returns in evaluation mode."""
        return self.inference(batched_inputs)


@META_ARCH_REGISTRY.register()
class SharedFeatureRCNN(GeneralizedRCNN):
    """One network for proposals and detections, trained in alternation (section 4.4).

    This is the last of the four steps of Faster R-CNN's alternating training. Backbone and RPN come
    from the earlier steps and stay fixed (`train.freeze`). The heads are trained on the stored
    proposals of this RPN. At test the RPN proposes, and stored proposals are ignored.

    Arguments and state-dict keys are those of Detectron2's ``GeneralizedRCNN``.
    """

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Computes the training losses of the heads, or detects.

        Args:
            batched_inputs: As for ``GeneralizedRCNN``; in training with ``proposals``: Instances
                with ``proposal_boxes`` (XYXY in the frame of ``image``), ``objectness_logits``.

        Returns:
            Training: dict of scalar losses, without the RPN's. Otherwise ``GeneralizedRCNN``'s.

        Raises:
            DataError: If training inputs have no proposals.
        """
        if not self.training:
            return super().forward(batched_inputs)
        proposals: list[Instances] = []
        for item in batched_inputs:
            if "proposals" not in item:
                raise DataError(
                    f"Image {item.get('image_id')} has no proposals, which SharedFeatureRCNN needs "
                    "in training. Set train.proposals to an RPN config."
                )
            proposals.append(item["proposals"].to(self.device))
        images = self.preprocess_image(batched_inputs)
        instances = [item["instances"].to(self.device) for item in batched_inputs]
        features: dict[str, torch.Tensor] = self.backbone(images.tensor)
        losses: dict[str, torch.Tensor]
        _, losses = self.roi_heads(images, features, proposals, instances)
        return losses
