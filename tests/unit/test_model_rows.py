"""Networks that the rows of tables 2b to 3 and section 4 build, at full size, without weights."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.meta_arch import ProposalNetwork

from mask_rcnn_repro import get_config
from mask_rcnn_repro.modeling import SharedFeatureRCNN


def meta_model(config):
    with torch.device("meta"):
        return instantiate(get_config(config).model)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("config", "outputs"),
    [
        ("table2b/sigmoid", 80),
        ("table2b/softmax", 81),  # the background as well
        ("section4_2/class_agnostic", 1),
    ],
)
def test_outputs_of_a_mask_pixel(config, outputs):
    model = meta_model(config)
    assert model.proposal_generator is None
    logits = model.roi_heads.mask_head.layers(torch.zeros(2, 2048, 7, 7, device="meta"))
    assert logits.shape == (2, outputs, 14, 14)


@pytest.mark.parametrize(("config", "hidden"), [("table2e/mlp_2fc", 2), ("table2e/mlp_3fc", 3)])
def test_mlp_mask_branch(config, hidden):
    """RoIs of 14x14x256 -> fc layers of 1024 -> 80 masks of 28x28."""
    head = meta_model(config).roi_heads.mask_head
    first = (256 * 14 * 14 + 1) * 1024
    others = (hidden - 1) * (1024 + 1) * 1024
    assert parameters(head) == first + others + (1024 + 1) * 80 * 28 * 28
    assert head.layers(torch.zeros(2, 256, 14, 14, device="meta")).shape == (2, 80, 28, 28)


def test_faster_rcnn_has_boxes_alone():
    boxes, both = (meta_model(f"table3/{row}") for row in ("faster_rcnn_roi_align", "r101_fpn"))
    assert boxes.roi_heads.mask_on is False
    masks = parameters(both.roi_heads.mask_head)
    assert parameters(both) - parameters(boxes) == masks
    assert masks == 4 * (256 * 256 * 9 + 256) + 256 * 256 * 4 + 256 + 80 * 257


@pytest.mark.parametrize("row", ["roi_align", "roi_pool"])
def test_c5_rows_pool_at_stride_32(row):
    heads = meta_model(f"table2d/{row}").roi_heads
    for pooler in (heads.box_pooler, heads.mask_pooler):
        assert [layer.spatial_scale for layer in pooler.level_poolers] == [1 / 32]


@pytest.mark.parametrize(
    ("config", "channels", "anchors"),
    [("r50_c4", 1024, 15), ("r50_c5", 2048, 15), ("r50_fpn", 256, 3)],
)
def test_rpn_stages_are_proposal_networks(config, channels, anchors):
    model = meta_model(f"rpn/{config}")
    assert type(model) is ProposalNetwork
    conv = channels * channels * 9 + channels
    assert parameters(model.proposal_generator) == conv + 5 * anchors * (channels + 1)


def test_rpn_weights_fit_the_model_with_shared_features():
    """Step 4 takes backbone and RPN from step 3, everything else from step 2."""

    def shapes(model):
        return {name: value.shape for name, value in model.state_dict().items()}

    last = meta_model("section4_4/r101_fpn_shared")
    assert type(last) is SharedFeatureRCNN
    assert issubclass(SharedFeatureRCNN, GeneralizedRCNN)
    rpn, detector = (shapes(meta_model(c)) for c in ("rpn/r101_fpn_shared", "table2a/r101_fpn"))
    assert {name for name in rpn if name in detector} == {
        name for name in detector if name.startswith("backbone.")
    }
    assert shapes(last) == rpn | detector
