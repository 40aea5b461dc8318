"""Mask losses: how mask logits are trained and read (table 2b, section 4.2).

Shapes: R RoIs of all images together, K classes, O outputs of the head per pixel, M mask side.

| loss | O | outputs of a pixel | trained on |
|---|---|---|---|
| PerClassSigmoidMaskLoss | K | independent, one for each class | the true class's output |
| MultinomialMaskLoss | K + 1 | compete: classes 0 to K - 1, then background | all outputs |
| ClassAgnosticMaskLoss | 1 | one for all classes | this output |
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_loss
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import get_event_storage
from fvcore.common.registry import Registry

from mask_rcnn_repro.errors import ConfigError

MASK_LOSS_REGISTRY = Registry("MASK_LOSS")
MASK_LOSS_REGISTRY.__doc__ = (
    "Mask losses, subclasses of :class:`MaskLoss`; called without arguments."
)


class MaskLoss(ABC):
    """Meaning of a mask head's outputs, in training and at test.

    It is not a module and has no parameters, so state dicts do not depend on it.
    """

    @abstractmethod
    def num_outputs(self, num_classes: int) -> int:
        """Number of channels O that the head predicts for K classes."""

    def loss(
        self, logits: torch.Tensor, instances: list[Instances], vis_period: int = 0
    ) -> torch.Tensor:
        """Computes the training loss over the positive RoIs (section 3).

        The target of a RoI is the part of its ground-truth mask inside the RoI, at M x M. The
        default is Detectron2's loss: binary cross-entropy of the true class's output, or of the
        only output, averaged over all pixels of the RoIs. It also logs the mask accuracy.

        Args:
            logits: (R, O, M, M), float32.
            instances: One per image, R in all, with ``proposal_boxes`` (absolute XYXY),
                ``gt_classes`` in [0, K) and ``gt_masks``. Images without positive RoIs may lack
                the last.
            vis_period: Iterations between images of predictions and targets in the event storage;
                0 disables them.

        Returns:
            A scalar. Without RoIs it is a zero that depends on the logits, so that all parameters
            have gradients in distributed training.
        """
        rois = [image for image in instances if len(image)]
        if not logits.is_cuda or vis_period > 0 or not rois:
            loss: torch.Tensor = mask_rcnn_loss(logits, instances, vis_period)
            return loss
        # the same with one wait for what is logged
        target = mask_targets(rois, logits.shape[-1])
        if logits.shape[1] > 1:
            classes = torch.cat([image.gt_classes for image in rois])
            logits = logits[torch.arange(len(logits), device=logits.device), classes]
        wrong = (logits.reshape(target.shape) > 0) != target
        sums = torch.stack([wrong.sum(), target.sum(), (wrong & target).sum()]).tolist()
        count, (errors, positive, missed) = target.numel(), sums
        storage = get_event_storage()
        storage.put_scalar("mask_rcnn/accuracy", 1 - errors / count)
        negative = max(count - positive, 1.0)
        storage.put_scalar("mask_rcnn/false_positive", (errors - missed) / negative)
        storage.put_scalar("mask_rcnn/false_negative", missed / max(positive, 1.0))
        return F.binary_cross_entropy_with_logits(logits.reshape(target.shape), target.float())

    @abstractmethod
    def probabilities(self, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Computes the foreground probabilities of the predicted classes.

        Args:
            logits: (R, O, M, M).
            classes: (R,) classes that the box branch predicts, in [0, K).

        Returns:
            (R, 1, M, M) in [0, 1]; R may be 0.
        """


@MASK_LOSS_REGISTRY.register()
class PerClassSigmoidMaskLoss(MaskLoss):
    """The paper's loss (section 3): one sigmoid mask per class, trained on the true class's only.

    Classes do not compete.
    """

    def num_outputs(self, num_classes: int) -> int:
        """K."""
        return num_classes

    def probabilities(self, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """See :meth:`MaskLoss.probabilities`."""
        rows = torch.arange(classes.shape[0], device=classes.device)  # a size that exporters know
        return logits[rows, classes][:, None].sigmoid()


@MASK_LOSS_REGISTRY.register()
class MultinomialMaskLoss(MaskLoss):
    """Table 2b, `softmax`: classes and background compete for every pixel, as in FCN.

    Outputs 0 to K - 1 are the classes and output K is background, as in the box branch. The target
    of softmax cross-entropy is the RoI's class on its object, and background elsewhere, also on
    other objects. The mean is over the pixels of all positive RoIs.
    """

    def num_outputs(self, num_classes: int) -> int:
        """K + 1."""
        return num_classes + 1

    def loss(
        self, logits: torch.Tensor, instances: list[Instances], vis_period: int = 0
    ) -> torch.Tensor:
        """See :meth:`MaskLoss.loss`.

        Logs Detectron2's mask accuracy, false positives and false negatives. A pixel is predicted
        as object if the true class's probability is above 0.5, as at test.
        """
        instances = [image for image in instances if len(image)]
        if not instances:
            return logits.sum() * 0
        classes = torch.cat([image.gt_classes for image in instances]).long()
        on_object = mask_targets(instances, logits.shape[-1])
        # Detectron2's loss logs; it gets the true class against all others as one sigmoid
        rois = Instances(on_object.shape[1:])
        rois.proposal_boxes = Boxes.cat([image.proposal_boxes for image in instances])
        rois.gt_masks = _CroppedMasks(on_object)
        true_class = self.probabilities(logits.detach(), classes).logit()
        mask_rcnn_loss(true_class, [rois], vis_period)
        background = logits.shape[1] - 1
        target = torch.where(on_object, classes[:, None, None], background)
        # CUDA's mean of this loss is not deterministic; the mean of its values is
        return F.cross_entropy(logits, target, reduction="none").mean()

    def probabilities(self, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """See :meth:`MaskLoss.probabilities`; a pixel's outputs sum to 1."""
        rows = torch.arange(classes.shape[0], device=classes.device)  # a size that exporters know
        return logits.softmax(1)[rows, classes][:, None]


@MASK_LOSS_REGISTRY.register()
class ClassAgnosticMaskLoss(MaskLoss):
    """Class-agnostic masks (section 4.2): one sigmoid mask per RoI for all classes."""

    def num_outputs(self, num_classes: int) -> int:
        """1."""
        return 1

    def probabilities(self, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """See :meth:`MaskLoss.probabilities`; the same for every class."""
        return logits.sigmoid()


def mask_targets(instances: list[Instances], side: int) -> torch.Tensor:
    """Crops each positive RoI's ground-truth mask to the RoI (section 3).

    Rasterizes as Detectron2: polygons by COCO's rule, bit masks by RoIAlign and a threshold of 0.5.

    Args:
        instances: One per image, as for :meth:`MaskLoss.loss`.
        side: M.

    Returns:
        (R, M, M), bool, on the device of the boxes; (0, M, M) on the CPU without RoIs.
    """
    crops = [
        image.gt_masks.crop_and_resize(image.proposal_boxes.tensor, side).to(
            image.proposal_boxes.device
        )
        for image in instances
        if len(image)  # images without RoIs may lack masks
    ]
    return torch.cat(crops) > 0.5 if crops else torch.zeros(0, side, side, dtype=torch.bool)


class _CroppedMasks(BitMasks):
    """Targets that are cropped already, for Detectron2's loss, which crops masks."""

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        return self.tensor


def build_mask_loss(name: MaskLoss | str) -> MaskLoss:
    """Builds the loss of this name in :data:`MASK_LOSS_REGISTRY`; returns a loss as it is.

    Raises:
        ConfigError: For an unknown name.
    """
    if isinstance(name, MaskLoss):
        return name
    if name not in MASK_LOSS_REGISTRY:
        allowed = ", ".join(sorted(known for known, _ in MASK_LOSS_REGISTRY))
        raise ConfigError(f"mask loss {name!r} is unknown; allowed: {allowed}")
    loss: MaskLoss = MASK_LOSS_REGISTRY.get(name)()
    return loss
