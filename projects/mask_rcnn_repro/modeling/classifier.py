"""Image classification, in which backbones are pre-trained (section 3.1: on ImageNet)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.structures import ImageList
from torch import nn


class ImageClassifier(nn.Module):
    """A backbone that classifies whole images. Shapes: N images, K classes.

    Args:
        backbone: Maps normalized images (N, C, H, W) to `{"linear": logits (N, K)}`, as
            :func:`~mask_rcnn_repro.modeling.build_resnet` with `num_classes`.
        pixel_mean: One value per channel, subtracted from the images.
        pixel_std: One value per channel, which the difference is divided by.
    """

    def __init__(
        self, backbone: nn.Module, pixel_mean: Sequence[float], pixel_std: Sequence[float]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def preprocess(self, batched_inputs: Sequence[dict[str, Any]]) -> torch.Tensor:
        """Normalizes the `image` (C, H, W) of each dict; pads to a tensor (N, C, H, W)."""
        images = [x["image"].to(self.pixel_mean.device) for x in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        padded: torch.Tensor = ImageList.from_tensors(images).tensor
        return padded

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> Any:
        """Returns the mean cross-entropy in training, else the probabilities of each image.

        Args:
            batched_inputs: One dict or more with `image` (C, H, W) and, in training, `category_id`
                from 0 to K - 1.

        Returns:
            Training: `{"loss_cls": scalar}`. Otherwise `{"probabilities": (K,)}` per image.
        """
        logits = self.backbone(self.preprocess(batched_inputs))["linear"].float()
        if not self.training:
            return [{"probabilities": p} for p in logits.softmax(dim=1)]
        classes = torch.tensor([x["category_id"] for x in batched_inputs], device=logits.device)
        return {"loss_cls": nn.functional.cross_entropy(logits, classes)}
