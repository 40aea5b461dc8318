"""A detector trained on stored proposals and the RPN that stored them, as one model of images.

Shapes: N images; boxes as absolute XYXY in the frame of the network's input unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.meta_arch import GeneralizedRCNN, ProposalNetwork
from detectron2.structures import ImageList, Instances
from torch import nn


class StageWiseRCNN(nn.Module):
    """Proposes with one network and detects with another (section 3.1: no shared features).

    What it detects is what the detector alone detects on the RPN's stored proposals, as long as
    both networks see the image at the same size.

    Args:
        rpn: Proposes; built to keep as many proposals an image as the detector is tested on.
        detector: Has no RPN of its own.
    """

    def __init__(self, rpn: ProposalNetwork, detector: GeneralizedRCNN) -> None:
        super().__init__()
        self.rpn = rpn
        self.detector = detector

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.detector.device

    @property
    def roi_heads(self) -> nn.Module:
        """The detector's."""
        return self.detector.roi_heads

    @torch.no_grad()
    def propose(self, batched_inputs: Sequence[dict[str, Any]]) -> list[Instances]:
        """Proposals in the frame of each ``image``: `proposal_boxes`, `objectness_logits`.

        Args:
            batched_inputs: Dicts with ``image``, (C, H, W).
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

        Stored proposals in the inputs are ignored. Nothing is proposed for ``detected_instances``,
        whose boxes are given.
        """
        inputs = list(batched_inputs)
        if detected_instances is None:
            inputs = [
                {**x, "proposals": p} for x, p in zip(inputs, self.propose(inputs), strict=True)
            ]
        return self.detector.inference(inputs, detected_instances, do_postprocess)

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> Any:
        """Detections, as ``GeneralizedRCNN`` returns them; it is not trained, its stages are."""
        return self.inference(batched_inputs)
