"""Inference of Mask R-CNN with ResNet-50-FPN at 800 px, from image to RLE, batch size 1.

Detectron2: its own ``GeneralizedRCNN``, called (which pastes masks), then its conversion to COCO
results. Ours: the configuration table2a/r50_fpn trained jointly, transformed by
``optimize_for_inference``, small predictions, then RLE. Both have the same weights and the same
values (RoIAlign with 2 x 2 samples, 1000 proposals); bf16 is opt-in at evaluation
(``train.amp.enabled=true``). torchvision: its ``maskrcnn_resnet50_fpn``, which cannot hold these
weights and has random ones of its own. Weights are random, damped so that features stay moderate
and a detector's usual number of objects is found.

Run: python benchmarks/inference.py --threads 2
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
import torchvision
from detectron2 import model_zoo
from detectron2.config import instantiate
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from torch import nn

from harness import Benchmark
from mask_rcnn_repro import get_config, register
from mask_rcnn_repro.evaluation.loop import predict_small
from mask_rcnn_repro.evaluation.masks.rle import instances_to_results
from mask_rcnn_repro.modeling import optimize_for_inference
from mask_rcnn_repro.utils.precision import autocast_context

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco" / "val2017"


def our_model() -> nn.Module:
    """The configuration's model with random, damped weights."""
    register()
    model = instantiate(get_config("table2a/r50_fpn", overrides=["train.proposals=null"]).model)
    generator = torch.Generator().manual_seed(0)
    scales = {  # like a trained network's: many classes with few certain objects
        "box_predictor.cls_score.weight": 0.012,
        "rpn_head.anchor_deltas.weight": 0.01,
        "rpn_head.objectness_logits.weight": 0.05,
        "mask_head.predictor.weight": 0.1,
    }
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("conv3.norm.weight"):  # residual branches add little
                tensor.fill_(0.2)
            for ending, scale in scales.items():
                if name.endswith(ending):
                    tensor.normal_(0, scale, generator=generator)
    return model.eval()


def stock_model(ours: nn.Module) -> nn.Module:
    """Detectron2's model of the same values and weights."""
    cfg = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
    cfg.backbone.bottom_up.stages.stride_in_1x1 = True
    heads, rpn = ours.roi_heads, ours.proposal_generator
    for pooler in (cfg.roi_heads.box_pooler, cfg.roi_heads.mask_pooler):
        pooler.pooler_type, pooler.sampling_ratio = "ROIAlign", 2
    for name in ("pre_nms_topk", "post_nms_topk"):
        cfg.proposal_generator[name] = [getattr(rpn, name)[training] for training in (True, False)]
    cfg.roi_heads.box_predictor.test_nms_thresh = heads.box_predictor.test_nms_thresh
    cfg.roi_heads.box_predictor.test_score_thresh = heads.box_predictor.test_score_thresh
    model = instantiate(cfg)
    model.load_state_dict(ours.state_dict(), strict=True)
    return model.eval()


def torchvision_model() -> nn.Module:
    """torchvision's model, damped in the same way; it keeps 100 detections."""
    model = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, box_score_thresh=0.0
    )
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("bn3.weight"):
                tensor.fill_(0.2)
    return model.eval()


def photographs(count: int, edge: int) -> tuple[list[dict[str, Any]], str]:
    """Images as a loader gives them, BGR, and what they are."""
    files = sorted(SAMPLE.glob("*.jpg"))[:count]
    what = f"{len(files)} photographs of COCO val2017"
    pictures = [cv2.imread(str(file)) for file in files]
    if not pictures:
        what = f"{count} pictures of noise (no photographs at ../shared/data)"
        generator = np.random.default_rng(0)
        small = generator.integers(0, 256, (count, 30, 40, 3), dtype=np.uint8)
        pictures = [cv2.resize(picture, (640, 480)) for picture in small]
    resize = ResizeShortestEdge(edge, max_size=edge * 5 // 3)
    inputs = []
    for index, picture in enumerate(pictures):
        resized = resize.get_transform(picture).apply_image(picture)
        image = torch.from_numpy(resized.transpose(2, 0, 1).copy())
        height, width = picture.shape[:2]
        inputs.append({"image": image, "height": height, "width": width, "image_id": index})
    return inputs, what


def by_detectron2(model: nn.Module, item: dict[str, Any]) -> list[dict[str, Any]]:
    """COCO results of one image, as Detectron2's evaluator makes them."""
    found = model([item])[0]["instances"]
    return instances_to_coco_json(found.to("cpu"), item["image_id"])


def by_ours(model: nn.Module, item: dict[str, Any]) -> list[dict[str, Any]]:
    """COCO results of one image, as this project's evaluation makes them."""
    found = predict_small(model, [item])[0]["instances"]
    return instances_to_results(found, item["height"], item["width"], item["image_id"])


def by_torchvision(model: nn.Module, item: dict[str, Any]) -> list[bytes]:
    """Masks of one image as RLE; it resizes by itself, from an image of the wanted size."""
    image = item["image"].flip(0).float().div_(255)
    device = next(model.parameters()).device
    masks = model([image.to(device)])[0]["masks"][:, 0].ge(0.5).byte().cpu()
    return [mask_util.encode(np.asfortranarray(mask.numpy()))["counts"] for mask in masks]


def difference(ours: list[list[dict[str, Any]]], theirs: list[list[dict[str, Any]]]) -> str:
    """How many detections are the same: class, box within 0.1 px, score within 1e-3, mask."""
    total = same = 0
    overlaps = []
    for found, expected in zip(ours, theirs, strict=True):
        total += max(len(found), len(expected))
        left = list(found)
        for theirs_one in expected:
            match = next((d for d in left if _same_object(d, theirs_one)), None)
            if match is None:
                continue
            left.remove(match)
            same += 1
            pair = match["segmentation"], theirs_one["segmentation"]
            both_empty = all(mask_util.area(mask) == 0 for mask in pair)
            overlap = mask_util.iou([pair[0]], [pair[1]], [False])[0, 0]
            overlaps.append(1.0 if both_empty else float(overlap))
    if not overlaps:
        return f"0 of {total} detections are equal"
    return (
        f"{same} of {total} detections have equal class, box (0.1 px) and score (1e-3); their "
        f"masks overlap by {np.mean(overlaps):.4f} on average, {min(overlaps):.3f} at least"
    )


def _same_object(a: dict[str, Any], b: dict[str, Any]) -> bool:
    near = np.abs(np.subtract(a["bbox"], b["bbox"])).max() < 0.1
    return bool(
        near and a["category_id"] == b["category_id"] and abs(a["score"] - b["score"]) < 1e-3
    )


def main() -> None:
    """Measures, prints, and writes the record with --record."""
    bench = Benchmark("inference", "Inference, image to RLE", __doc__)
    parser = bench.parser()
    parser.add_argument("--images", type=int, default=1, help="photographs a round")
    parser.set_defaults(repeats=3)
    args = bench.parse(parser)
    inputs, what = photographs(1 if bench.quick else args.images, 256 if bench.quick else 800)
    plain = our_model().to(bench.device)
    stock = stock_model(plain).to(bench.device)
    other = torchvision_model().to(bench.device)
    other.transform.min_size, other.transform.max_size = (min(inputs[0]["image"].shape[1:]),), 9999
    fast = optimize_for_inference(plain)
    half = optimize_for_inference(plain, torch.bfloat16)

    def over(predict: Any, model: nn.Module, bf16: bool = False) -> Callable[[], list[Any]]:
        def run() -> list[Any]:
            with torch.no_grad(), autocast_context(bench.device, bf16, "bf16"):
                return [predict(model, item) for item in inputs]

        return run

    work = f"{len(inputs)} images, R50-FPN, {min(inputs[0]['image'].shape[1:])} px"
    outputs = bench.compare(
        work,
        {
            "Detectron2": over(by_detectron2, stock),
            "ours": over(by_ours, fast),
            "ours, bf16": over(by_ours, half, bf16=True),
            "ours, not transformed": over(by_ours, plain),
            "torchvision": over(by_torchvision, other),
        },
        reference="Detectron2",
        goal={"ours": 1.6, "ours, bf16": 3.0},
    )
    bench.equality(work, difference(outputs["ours"], outputs["Detectron2"]))
    counts = [len(results) for results in outputs["Detectron2"]]
    bench.note(
        f"{what}, {', '.join(map(str, counts))} detections; torchvision's: "
        f"{', '.join(str(len(r)) for r in outputs['torchvision'])}."
    )
    bench.finish()


if __name__ == "__main__":
    main()
