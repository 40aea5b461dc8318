"""Boxes and masks of test-time augmentation are those of Detectron2's ``GeneralizedRCNNWithTTA``.

Detectron2's refuses keypoints and models without an RPN, so that these have no reference here.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model
from detectron2.modeling.test_time_augmentation import DatasetMapperTTA

from mask_rcnn_repro.modeling import TestTimeAugmentation as TTA  # Test...: not for pytest
from mask_rcnn_repro.modeling.inference.tta_views import make_views

HEIGHT, WIDTH = 83, 120
SIZES = [64, 80, 96]


def config(kind: str, masks: bool = True) -> Any:
    """A narrow model by Detectron2's own keys, on its own parts."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.MASK_ON = masks
    cfg.MODEL.RESNETS.DEPTH = 50
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 32
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 4
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.05
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.4
    cfg.TEST.DETECTIONS_PER_IMAGE = 30
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 40
    cfg.TEST.AUG.MIN_SIZES = SIZES
    cfg.TEST.AUG.MAX_SIZE = 130  # reached by the largest
    if kind == "c4":
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16, 32, 64]]
        return cfg
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [48], [64]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    return cfg


@torch.no_grad()
def model_of(cfg: Any) -> torch.nn.Module:
    """Random weights, scaled so that scores, boxes and masks are neither all alike nor extreme."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:  # statistics of an image
        norm.momentum = 1.0
        norm.train()
    inputs = [{"image": picture()}]
    model.inference(inputs, do_postprocess=False)
    model.eval()
    heads, rpn = model.roi_heads, model.proposal_generator.rpn_head
    wanted = {
        rpn.objectness_logits: 1.0,
        rpn.anchor_deltas: 0.3,
        heads.box_predictor.cls_score: 1.5,
        heads.box_predictor.bbox_pred: 2.0,  # of tenths and fifths of the box
    }
    if cfg.MODEL.MASK_ON:
        wanted[heads.mask_head.predictor] = 2.0
    for layer, deviation in wanted.items():
        outputs: list[torch.Tensor] = []
        hook = layer.register_forward_hook(lambda *args, seen=outputs: seen.append(args[2]))
        model.inference(inputs, do_postprocess=False)
        hook.remove()
        values = torch.cat([x.transpose(0, 1).flatten(1) for x in outputs], dim=1)
        factor = deviation / values.std(dim=1).mean()
        layer.bias.copy_(factor * (layer.bias - values.mean(dim=1)))
        layer.weight *= factor
    return model


def picture(height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """Patches of random colours."""
    generator = torch.Generator().manual_seed(3)
    small = torch.randint(0, 256, (3, 12, 16), generator=generator, dtype=torch.uint8)
    return small.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width].clone()


def test_views():
    image = picture()
    theirs = DatasetMapperTTA(SIZES, 130, True)({"image": image, "height": HEIGHT, "width": WIDTH})
    views = make_views((HEIGHT, WIDTH), SIZES, True, 130)
    assert len(theirs) == len(views) == 6
    box = torch.tensor([[10.5, 20.25, 60.0, 71.0]])
    for view, expected in zip(views, theirs, strict=True):
        assert torch.equal(view.render(image), expected["image"])
        transforms = expected["transforms"]
        moved = view.boxes_in_view(box).numpy()
        torch.testing.assert_close(moved, transforms.apply_box(box.numpy()).astype("float64"))
        back = transforms.inverse().apply_box(moved.copy())
        torch.testing.assert_close(view.boxes_in_image(torch.tensor(moved)).numpy(), back)


@pytest.mark.parametrize(
    ("kind", "masks", "flip"),
    [("fpn", True, True), ("c4", True, True), ("fpn", True, False), ("fpn", False, True)],
)
@torch.no_grad()
def test_boxes_and_masks(kind, masks, flip):
    cfg = config(kind, masks)
    cfg.TEST.AUG.FLIP = flip
    model = model_of(cfg)
    # a view and its mirror image, or one view: no padding to the size of others
    theirs = GeneralizedRCNNWithTTA(cfg, model, batch_size=2 if flip else 1)
    ours = TTA(model, SIZES, flip=flip, max_size=130)
    inputs = [
        {"image": picture(), "height": HEIGHT, "width": WIDTH},
        # resized before: the result is wanted at twice the size
        {"image": picture(60, 60), "height": 120, "width": 121},
    ]
    expected, found = theirs(inputs), ours(inputs)
    moved, classes = 0, set()
    for item, mine, stock in zip(inputs, found, expected, strict=True):
        mine, stock = mine["instances"], stock["instances"]
        assert mine.image_size == stock.image_size == (item["height"], item["width"])
        assert set(mine.get_fields()) == set(stock.get_fields())
        assert len(mine) == len(stock) >= 10
        assert torch.equal(mine.pred_classes, stock.pred_classes)
        classes.update(mine.pred_classes.tolist())
        torch.testing.assert_close(mine.scores, stock.scores, rtol=0, atol=1e-5)
        boxes = (mine.pred_boxes.tensor, stock.pred_boxes.tensor)
        torch.testing.assert_close(*boxes, rtol=0, atol=1e-3)
        if masks:
            assert mine.pred_masks.any() and not mine.pred_masks.all()
            assert (mine.pred_masks != stock.pred_masks).float().mean() < 1e-4
        (plain,) = model([item])
        moved += not torch.equal(plain["instances"].scores, mine.scores)
    assert len(classes) > 1
    assert moved == len(inputs)  # a merge that did nothing would not be noticed otherwise


@torch.no_grad()
def test_mask_probabilities():
    """Detectron2's mean before it is cut off at one half."""
    cfg = config("fpn")
    model = model_of(cfg)
    item = {"image": picture(), "height": HEIGHT, "width": WIDTH}
    theirs = GeneralizedRCNNWithTTA(cfg, model, batch_size=2)
    (mine,) = TTA(model, SIZES, max_size=130).inference([item])
    augmented, transforms = theirs._get_augmented_inputs(item)
    outputs = theirs._batch_inference(
        augmented, theirs._rescale_detected_boxes(augmented, mine, transforms)
    )
    expected = theirs._reduce_pred_masks(outputs, transforms)
    torch.testing.assert_close(mine.pred_masks, expected, rtol=0, atol=1e-5)
    assert (expected - expected.flip(3)).abs().max() > 0.05  # mirrored or not makes a difference
