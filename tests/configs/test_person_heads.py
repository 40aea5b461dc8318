"""Heads of the rows for persons (section 5), built from their configs."""

import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from .config_sets import load
from .paper_settings import HEADS, MASKS, SETTINGS

WITH_KEYPOINTS = [c for c, said in SETTINGS.items() if said.get(f"{HEADS}.keypoint_head")]
WITH_MASKS = [
    c
    for c, said in SETTINGS.items()
    if said.get(f"{HEADS}.num_classes") == 1 and MASKS.items() <= said.items()
]


@pytest.mark.parametrize("config", WITH_KEYPOINTS)
def test_keypoint_head(config):
    """Eight 3x3 convolutions of 512, a deconvolution, bilinear upscaling: 17 maps of 56x56."""
    with torch.device("meta"):
        head = instantiate(load(config).model.roi_heads.keypoint_head)
        logits = head.layers(torch.zeros(2, 256, 14, 14))
    assert logits.shape == (2, 17, 56, 56)
    convolutions = [layer for layer in head if isinstance(layer, nn.Conv2d)]
    assert [layer.weight.shape for layer in convolutions] == [
        (512, 256 if i == 0 else 512, 3, 3) for i in range(8)
    ]
    assert all(layer.norm is None for layer in convolutions)
    others = [layer for layer in head if not isinstance(layer, nn.Conv2d)]
    assert [type(layer) for layer in others[:-1]] == [nn.ReLU] * 8
    assert isinstance(others[-1], nn.ConvTranspose2d) and others[-1].stride == (2, 2)
    assert head.loss_weight == 1.0


@pytest.mark.parametrize("config", WITH_MASKS)
def test_mask_branch_is_for_persons_alone(config):
    with torch.device("meta"):
        head = instantiate(load(config).model.roi_heads.mask_head)
        assert head.layers(torch.zeros(2, 256, 14, 14)).shape == (2, 1, 28, 28)
