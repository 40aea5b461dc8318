"""Presets in configs/model_zoo against Detectron2's models, with equal weights and input."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.overrides import TorchFunctionMode

import mask_rcnn_repro.modeling  # noqa: F401
from mask_rcnn_repro.utils import compiled

ROOT = Path(__file__).resolve().parents[2] / "configs" / "model_zoo"
PRESETS = {
    "mask_rcnn_R_50_C4_3x": "COCO-InstanceSegmentation",
    "mask_rcnn_R_50_FPN_3x": "COCO-InstanceSegmentation",
    "mask_rcnn_R_101_FPN_3x": "COCO-InstanceSegmentation",
    "mask_rcnn_X_101_32x8d_FPN_3x": "COCO-InstanceSegmentation",
    "keypoint_rcnn_R_50_FPN_3x": "COCO-Keypoints",
}
every_preset = pytest.mark.parametrize("name", PRESETS)


@pytest.fixture(autouse=True)
def the_same_operators(monkeypatch):
    """Equal to the bit, so without compiled loops, which order sums differently."""
    monkeypatch.setattr(compiled, "HAVE_NUMBA", False)


def yaml_of(name: str) -> str:
    return f"{PRESETS[name]}/{name}.yaml"


@functools.cache
def preset(name: str) -> Any:
    return LazyConfig.load(str(ROOT / f"{name}.py"))


class NoInit(TorchFunctionMode):
    """Leaves random weights unset, which saves seconds where they are replaced anyway."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


def build_both(name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Our preset and Detectron2's model, sharing one set of weights of moderate activations."""
    cfg = model_zoo.get_config(yaml_of(name))
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(0)
    theirs = build_model(cfg)
    for module in theirs.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.weight.uniform_(0.2, 0.4)
            module.bias.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    for head in ("box_predictor.cls_score", "box_predictor.bbox_pred"):
        torch.nn.init.normal_(theirs.roi_heads.get_submodule(head).weight, std=0.02)
    torch.nn.init.normal_(theirs.proposal_generator.rpn_head.objectness_logits.weight, std=0.1)
    with NoInit():
        ours = instantiate(preset(name).model)
    assert shapes(ours) == shapes(theirs)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    return ours.eval(), theirs.eval()


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in model.state_dict().items()}


def plain(value: Any) -> Any:
    """A number, string, or containers of them in comparable form; None for anything else."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        items = {k: plain(v) for k, v in value.items()}
        return items if None not in items.values() else None
    if hasattr(value, "__iter__") and not isinstance(value, torch.Tensor):
        items = [plain(v) for v in value]
        return items if None not in items else None
    return None


def settings(model: torch.nn.Module) -> dict[str, Any]:
    """All plain attributes of all modules, matchers and box transforms."""
    found = {}
    for name, module in model.named_modules():
        parts = {"": vars(module)}
        for part in ("anchor_matcher", "proposal_matcher", "box2box_transform"):
            if part in vars(module):
                other = vars(module)[part]
                keys = ("thresholds", "labels", "allow_low_quality_matches", "weights")
                parts[f".{part}"] = {k: getattr(other, k) for k in keys if hasattr(other, k)}
        for part, attributes in parts.items():
            for key, value in attributes.items():
                if not key.startswith("_") and plain(value) is not None:
                    found[f"{name}{part}.{key}"] = plain(value)
    # Loss weights that are absent from the dict are 1.
    for key in [k for k in found if k.endswith(".loss_weight") and isinstance(found[k], dict)]:
        found[key] = {k: v for k, v in found[key].items() if v != 1.0}
    return found


def make_input() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 96, 128), generator=generator).float()
    return {"image": image, "height": 96, "width": 128}


@every_preset
def test_equal_to_detectron2s_model(name):
    ours, theirs = build_both(name)
    mine, stock = settings(ours), settings(theirs)
    assert len(stock) > 100
    assert {k: mine.get(k) for k in stock} == stock

    inputs = [make_input()]
    results = []
    with torch.no_grad():
        for model in (ours, theirs):
            # After the comparison of settings: few proposals, and detections at any score.
            model.proposal_generator.post_nms_topk[False] = 40
            model.roi_heads.box_predictor.test_score_thresh = 0.0
            model.roi_heads.box_predictor.test_topk_per_image = 20
            images = model.preprocess_image(inputs)
            features = model.backbone(images.tensor)
            rpn = model.proposal_generator
            logits, deltas = rpn.rpn_head([features[f] for f in rpn.in_features])
            proposals, _ = rpn(images, features)
            detections, _ = model.roi_heads(images, features, proposals)
            results.append((features, logits, deltas, proposals, detections))
    (f1, l1, d1, p1, r1), (f2, l2, d2, p2, r2) = results
    assert list(f1) == list(f2)
    for a, b in zip([*f1.values(), *l1, *d1], [*f2.values(), *l2, *d2], strict=True):
        assert a.isfinite().all() and a.std() > 0
        assert torch.equal(a, b)
    assert torch.equal(p1[0].proposal_boxes.tensor, p2[0].proposal_boxes.tensor)
    assert len(p1[0]) == 40 and len(r1[0]) == 20
    assert r1[0].get_fields().keys() == r2[0].get_fields().keys()
    assert torch.equal(r1[0].pred_boxes.tensor, r2[0].pred_boxes.tensor)
    for field in r1[0].get_fields().keys() - {"pred_boxes"}:
        assert torch.equal(r1[0].get(field), r2[0].get(field)), field


def test_equal_losses_of_one_training_step():
    name = "mask_rcnn_R_50_FPN_3x"
    inputs = [make_input()]
    target = Instances((96, 128))
    target.gt_boxes = Boxes(torch.tensor([[8.0, 10.0, 60.0, 70.0], [50.0, 20.0, 120.0, 90.0]]))
    target.gt_classes = torch.tensor([3, 57])
    masks = torch.zeros(2, 96, 128, dtype=torch.bool)
    masks[0, 20:60, 10:50] = masks[1, 30:90, 60:100] = True
    target.gt_masks = BitMasks(masks)
    inputs[0]["instances"] = target
    losses = []
    for model in build_both(name):
        torch.manual_seed(1)  # both sample the same anchors and proposals
        with EventStorage(0), torch.no_grad():
            losses.append(model.train()(inputs))
    # ours has the frozen norms folded into the convolutions
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-6)
    assert all(v > 0 for v in losses[0].values())


@every_preset
def test_published_checkpoint_and_inputs(name):
    cfg, stock = preset(name), model_zoo.get_config(yaml_of(name))
    url = model_zoo.get_checkpoint_url(yaml_of(name))
    assert url.endswith(cfg.train.init_checkpoint.removeprefix("detectron2://"))
    assert cfg.train.init_checkpoint.startswith("detectron2://")
    assert cfg.dataloader.test.dataset.names == stock.DATASETS.TEST[0]
    assert cfg.dataloader.train.dataset.names == stock.DATASETS.TRAIN[0]
    resize = cfg.dataloader.test.mapper.augmentations[0]
    assert resize.short_edge_length == [stock.INPUT.MIN_SIZE_TEST]
    assert resize.max_size == stock.INPUT.MAX_SIZE_TEST
    resize = cfg.dataloader.train.mapper.augmentations[0]
    assert resize.short_edge_length == list(stock.INPUT.MIN_SIZE_TRAIN)
    assert cfg.dataloader.train.mapper.get("use_keypoint", False) == stock.MODEL.KEYPOINT_ON
    assert cfg.dataloader.train.mapper.use_instance_mask == stock.MODEL.MASK_ON
    assert cfg.train.max_iter == stock.SOLVER.MAX_ITER
    assert cfg.lr_multiplier.milestones == list(stock.SOLVER.STEPS)
    assert cfg.lr_multiplier.warmup_iters == stock.SOLVER.WARMUP_ITERS
    assert cfg.lr_multiplier.warmup_factor == stock.SOLVER.WARMUP_FACTOR
    assert cfg.optimizer.lr == stock.SOLVER.BASE_LR
    assert cfg.dataloader.train.total_batch_size == stock.SOLVER.IMS_PER_BATCH
