"""Mask heads for inference that compute only the mask of the predicted class.

The last layer of a class-specific head has outputs for K classes, of which one is read. Each class
is constructed from the head that it replaces and the type to compute in. Masks are equal up to
rounding.

Shapes: R RoIs, C channels and S side of the RoI features, D channels before the last layer, M mask
side.
"""

from __future__ import annotations

import torch
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead, MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from torch import nn

from mask_rcnn_repro.modeling.inference.fused_layers import FusedConv2d
from mask_rcnn_repro.modeling.mask_heads import FCNMaskHead, MaskHead, MLPMaskHead, add_masks
from mask_rcnn_repro.modeling.mask_losses import ClassAgnosticMaskLoss, PerClassSigmoidMaskLoss


def reads_one_output(head: nn.Module) -> bool:
    """Whether a mask is the sigmoid of one output of the head's last layer (not a softmax)."""
    if isinstance(head, MaskHead):
        forward = MaskHead.forward
        known = type(head.loss) in (PerClassSigmoidMaskLoss, ClassAgnosticMaskLoss)
    else:
        forward, known = BaseMaskRCNNHead.forward, True
    return known and type(head).forward is forward


class _PredictedClassHead(nn.Module):
    """Base class of the heads below: from one logit map per RoI to ``pred_masks``."""

    def logits(self, x: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Maps (R, C, S, S) features and (R,) classes to (R, M, M) logits."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor, instances: list[Instances]) -> list[Instances]:
        """Adds ``pred_masks`` (Ri, 1, M, M), float32 probabilities, to the detections.

        Args:
            x: (R, C, S, S) features of the detections' boxes, in order; R may be 0.
            instances: One per image, with ``pred_classes``.
        """
        classes = torch.cat([i.pred_classes for i in instances])
        return add_masks(instances, self.logits(x, classes)[:, None].float().sigmoid())


class FusedFCNHead(_PredictedClassHead):
    """``MaskRCNNConvUpsampleHead``: convolutions, 2x2 deconvolution with stride 2, 1x1 convolution.

    The deconvolution becomes a 1x1 convolution with outputs for each of the four positions. The
    last layer is applied to these before they are rearranged to a map.
    """

    def __init__(self, head: MaskRCNNConvUpsampleHead, dtype: torch.dtype) -> None:
        super().__init__()
        convs = head.conv_norm_relus
        self.convs = nn.ModuleList(FusedConv2d.of(conv, dtype) for conv in convs)
        weight, bias = head.deconv.weight.detach(), head.deconv.bias
        self.upsample = FusedConv2d(
            weight.permute(2, 3, 1, 0).flatten(0, 2)[..., None, None],  # (2 * 2 * D, C, 1, 1)
            None if bias is None else bias.detach().repeat(4),
            relu=True,
            dtype=dtype,
        )
        self.weight = head.predictor.weight.detach()[:, :, 0, 0].to(dtype)  # (K or 1, D)
        self.bias = None
        if head.predictor.bias is not None:
            self.bias = head.predictor.bias.detach().float()

    @staticmethod
    def fits(head: nn.Module) -> bool:
        """Whether this class can replace a head."""
        if not isinstance(head, MaskRCNNConvUpsampleHead) or not reads_one_output(head):
            return False
        deconv, predictor = head.deconv, head.predictor
        return (
            type(head) in (MaskRCNNConvUpsampleHead, FCNMaskHead)
            and deconv.kernel_size == deconv.stride == (2, 2)
            and deconv.padding == deconv.output_padding == (0, 0)
            and (deconv.groups, predictor.kernel_size) == (1, (1, 1))
        )

    def logits(self, x: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """See the base class; M is 2 S."""
        for conv in self.convs:
            x = conv(x)
        count, _, height, width = x.shape
        if len(self.weight) == 1:  # one output for all classes
            classes = torch.zeros_like(classes)
        x = self.upsample(x).permute(0, 2, 3, 1)
        x = x.reshape(count, height * width * 4, self.weight.shape[1])
        with torch.autocast(x.device.type, enabled=False):
            logits = torch.bmm(x, self.weight[classes][:, :, None])[..., 0].float()
        if self.bias is not None:
            logits = logits + self.bias[classes][:, None]
        places = logits.view(count, height, width, 2, 2).transpose(2, 3)
        return places.reshape(count, 2 * height, 2 * width)


class FusedMLPHead(_PredictedClassHead):
    """``MLPMaskHead``; hidden layers are unchanged, the last layer is applied class by class."""

    def __init__(self, head: MLPMaskHead, dtype: torch.dtype) -> None:
        super().__init__()
        self.hidden = head.fcs
        outputs, side, _ = head.mask_shape
        self.side = side
        self.weights = head.predictor.weight.detach().unflatten(0, (outputs, -1)).to(dtype)
        self.biases = head.predictor.bias.detach().unflatten(0, (outputs, -1)).to(dtype)

    @staticmethod
    def fits(head: nn.Module) -> bool:
        """Whether this class can replace a head."""
        return type(head) is MLPMaskHead and reads_one_output(head)

    def logits(self, x: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        x = self.hidden(x).to(self.weights.dtype)
        if len(self.weights) == 1:
            classes = torch.zeros_like(classes)
        logits = x.new_zeros(len(x), self.side**2)
        with torch.autocast(x.device.type, enabled=False):
            for index in classes.unique().tolist():
                rows = torch.nonzero(classes == index).squeeze(1)
                logits[rows] = torch.addmm(self.biases[index], x[rows], self.weights[index].t())
        return logits.view(-1, self.side, self.side)
