"""One network for proposals and detections, trained in alternation (section 4.4)."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling.meta_arch import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import Instances

from mask_rcnn_repro.errors import DataError


@META_ARCH_REGISTRY.register()
class SharedFeatureRCNN(GeneralizedRCNN):
    """A detector whose RPN reads the same features, but does not learn with its heads.

    Last of the four steps of Faster R-CNN's alternating training: backbone and RPN come from the
    steps before and stay fixed (`train.freeze`), the heads are trained on the proposals that this
    RPN has stored. At test it proposes for itself, from images alone; stored proposals are ignored.

    Arguments and state-dict keys are those of Detectron2's ``GeneralizedRCNN``.
    """

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Training losses of the heads, or detections.

        Args:
            batched_inputs: As for ``GeneralizedRCNN``; in training with ``proposals``: Instances
                with ``proposal_boxes`` (XYXY in the frame of ``image``), ``objectness_logits``.

        Returns:
            Training: dict of scalar losses, without the RPN's. Otherwise ``GeneralizedRCNN``'s.

        Raises:
            DataError: Training inputs have no proposals.
        """
        if not self.training:
            return super().forward(batched_inputs)
        proposals: list[Instances] = []
        for item in batched_inputs:
            if "proposals" not in item:
                raise DataError(
                    f"Image {item.get('image_id')} comes without proposals, on which the heads of "
                    "a SharedFeatureRCNN are trained. Set train.proposals to an RPN config."
                )
            proposals.append(item["proposals"].to(self.device))
        images = self.preprocess_image(batched_inputs)
        instances = [item["instances"].to(self.device) for item in batched_inputs]
        features: dict[str, torch.Tensor] = self.backbone(images.tensor)
        losses: dict[str, torch.Tensor]
        _, losses = self.roi_heads(images, features, proposals, instances)
        return losses
