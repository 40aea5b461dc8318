"""How mask logits are trained and read: all in which the mask variants of table 2b and the
class-agnostic row differ.

Shapes: R RoIs of all images together, K classes, O outputs of the head for each pixel, M mask side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_loss
from detectron2.structures import Instances
from fvcore.common.registry import Registry

from mask_rcnn_repro.errors import ConfigError

MASK_LOSS_REGISTRY = Registry("MASK_LOSS")
MASK_LOSS_REGISTRY.__doc__ = (
    "Mask losses, subclasses of :class:`MaskLoss`; called without arguments."
)


class MaskLoss(ABC):
    """Meaning of a mask head's outputs, in training and at test.

    Has no parameters and is no module, so that it changes no state dict.
    """

    @abstractmethod
    def num_outputs(self, num_classes: int) -> int:
        """O, the channels that the head predicts for K classes."""

    @abstractmethod
    def loss(
        self, logits: torch.Tensor, instances: list[Instances], vis_period: int = 0
    ) -> torch.Tensor:
        """Training loss over the positive RoIs (section 3).

        The target of a RoI is the part of its ground-truth mask inside the RoI, at M x M.

        Args:
            logits: (R, O, M, M), float32.
            instances: One per image, R in all, with ``proposal_boxes`` (absolute XYXY),
                ``gt_classes`` in [0, K) and ``gt_masks``. Images without positive RoIs may lack
                the last.
            vis_period: Every how many iterations to write predictions beside targets to the event
                storage; 0 is never.

        Returns:
            A scalar; without any RoI a zero that keeps the graph, so that distributed training
            finds gradients for all parameters.
        """

    @abstractmethod
    def probabilities(self, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Foreground probabilities of the predicted classes.

        Args:
            logits: (R, O, M, M).
            classes: (R,) classes that the box branch predicts, in [0, K).

        Returns:
            (R, 1, M, M) in [0, 1]; R may be 0.
        """


@MASK_LOSS_REGISTRY.register()
class PerClassSigmoidMaskLoss(MaskLoss):
    """The paper's loss: one sigmoid mask per class, binary cross-entropy on the true class's only.

    Classes do not compete. The mean runs over the pixels of all positive RoIs (section 3).
    """

    def num_outputs(self, num_classes: int) -> int:
        """K."""
        return num_classes

    def loss(
        self, logits: torch.Tensor, instances: list[Instances], vis_period: int = 0
    ) -> torch.Tensor:
        """See :meth:`MaskLoss.loss`; Detectron2's own, which also logs the mask accuracy."""
        loss: torch.Tensor = mask_rcnn_loss(logits, instances, vis_period)
        return loss

    def probabilities(self, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """See :meth:`MaskLoss.probabilities`."""
        rows = torch.arange(len(classes), device=classes.device)
        return logits[rows, classes][:, None].sigmoid()


def build_mask_loss(name: str) -> MaskLoss:
    """Builds a registered loss.

    Args:
        name: As in :data:`MASK_LOSS_REGISTRY`.

    Returns:
        The loss.

    Raises:
        ConfigError: For an unknown name.
    """
    if name not in MASK_LOSS_REGISTRY:
        allowed = ", ".join(sorted(known for known, _ in MASK_LOSS_REGISTRY))
        raise ConfigError(f"mask loss {name!r} is unknown; allowed: {allowed}")
    loss: MaskLoss = MASK_LOSS_REGISTRY.get(name)()
    return loss
