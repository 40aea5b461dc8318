"""Inference of Mask R-CNN with ResNet-50-FPN at 800 px, from image to RLE, one image at a time.

Detectron2: its own ``GeneralizedRCNN``, called (which pastes masks), then its conversion to COCO
results. Ours: the configuration table2a/r50_fpn trained jointly, transformed by
``optimize_for_inference``, small predictions, then RLE. Both have the same weights and the same
values (RoIAlign with 2 x 2 samples, 1000 proposals); bf16 is opt-in at evaluation
(``train.amp.enabled=true``). torchvision: its ``maskrcnn_resnet50_fpn``, which cannot hold these
weights and has random ones of its own. Weights are random, damped so that features stay moderate
and a detector's usual number of objects is found. OpenVINO and ONNX Runtime, where they are
installed (`pip install -r requirements/peers.txt`), run the file that `tools/export.py` writes of
this model, with the same conversion of small masks to RLE as ours. Photographs differ in shape.
bf16 is measured on CPUs that have it. Part "others", our model before its transformation and
torchvision's, takes a quarter of the photographs.

Run: python benchmarks/inference.py --threads 2      (about 20 minutes in float32)
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
import torchvision
from detectron2 import model_zoo
from detectron2.config import instantiate
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances
from torch import nn

from harness import Benchmark
from harness.damped import damp
from harness.exported import export, installed_runtimes, open_in
from harness.photographs import photographs
from mask_rcnn_repro import get_config, register
from mask_rcnn_repro.evaluation.loop import predict_small
from mask_rcnn_repro.evaluation.masks.rle import instances_to_results
from mask_rcnn_repro.modeling import optimize_for_inference
from mask_rcnn_repro.utils.precision import autocast_context, cpu_has_bf16
from mask_rcnn_tools.export.formats import RunExported


def our_model(depth: int, objects: int) -> nn.Module:
    """The configuration's model with random, damped weights.

    Args:
        depth: of the ResNet.
        objects: most detections of an image; ten times as many proposals.
    """
    register()
    overrides = [
        "train.proposals=null",
        f"model.backbone.bottom_up.depth={depth}",
        f"model.roi_heads.box_predictor.test_topk_per_image={objects}",
        f"model.proposal_generator.post_nms_topk=[2000, {10 * objects}]",
    ]
    model = instantiate(get_config("table2a/r50_fpn", overrides=overrides).model)
    damp(model)
    return model.eval()


def stock_model(ours: nn.Module, depth: int) -> nn.Module:
    """Detectron2's model of the same values and weights."""
    cfg = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
    stages = cfg.backbone.bottom_up.stages
    stages.depth, stages.stride_in_1x1 = depth, True
    if depth < 50:
        del stages["stride_in_1x1"]  # blocks without 1x1 convolutions
    heads, rpn = ours.roi_heads, ours.proposal_generator
    for pooler in (cfg.roi_heads.box_pooler, cfg.roi_heads.mask_pooler):
        pooler.pooler_type, pooler.sampling_ratio = "ROIAlign", 2
    for name in ("pre_nms_topk", "post_nms_topk"):
        cfg.proposal_generator[name] = [getattr(rpn, name)[training] for training in (True, False)]
    cfg.roi_heads.box_predictor.test_topk_per_image = heads.box_predictor.test_topk_per_image
    cfg.roi_heads.box_predictor.test_nms_thresh = heads.box_predictor.test_nms_thresh
    cfg.roi_heads.box_predictor.test_score_thresh = heads.box_predictor.test_score_thresh
    model = instantiate(cfg)
    model.load_state_dict(ours.state_dict(), strict=True)
    return model.eval()


def torchvision_model(objects: int) -> nn.Module:
    """torchvision's model, damped in the same way; it keeps as many detections."""
    model = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        box_score_thresh=0.0,
        box_detections_per_img=objects,
        rpn_post_nms_top_n_test=10 * objects,
    )
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("bn3.weight"):
                tensor.fill_(0.2)
    return model.eval()


def by_detectron2(model: nn.Module, item: dict[str, Any]) -> list[dict[str, Any]]:
    """COCO results of one image, as Detectron2's evaluator makes them."""
    found = model([item])[0]["instances"]
    return instances_to_coco_json(found.to("cpu"), item["image_id"])


def by_ours(model: nn.Module, item: dict[str, Any]) -> list[dict[str, Any]]:
    """COCO results of one image, as this project's evaluation makes them."""
    found = predict_small(model, [item])[0]["instances"]
    return instances_to_results(found, item["height"], item["width"], item["image_id"])


def by_exported(run: RunExported, item: dict[str, Any]) -> list[dict[str, Any]]:
    """COCO results of one image from an exported file, made as ours."""
    outputs = {name: torch.from_numpy(array) for name, array in run(item["image"].numpy()).items()}
    found = Instances(tuple(item["image"].shape[1:]))
    found.pred_boxes, found.scores = Boxes(outputs["boxes"]), outputs["scores"]
    found.pred_classes, found.pred_masks = outputs["classes"], outputs["masks"][:, None]
    return instances_to_results(found, item["height"], item["width"], item["image_id"])


def by_torchvision(model: nn.Module, item: dict[str, Any]) -> list[bytes]:
    """Masks of one image as RLE; it resizes by itself, from an image of the wanted size."""
    image = item["image"].flip(0).float().div_(255)
    device = next(model.parameters()).device
    model.transform.min_size, model.transform.max_size = (min(image.shape[1:]),), 9999
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


PARTS = ("one_thread", "all_threads", "others", "bf16_one_thread", "bf16_all_threads")
GOALS = {"ours": 2.1, "ours, bf16": 3.6}
"""Contender to the ratio to Detectron2 that it is to reach."""
BESIDE: dict[str, tuple[str, float | None]] = {
    "OpenVINO": ("ours", 1.4),
    "OpenVINO, bf16": ("ours, bf16", 1.25),
    "ONNX Runtime": ("ours", None),
}
"""Peer to who is shown beside it, with the ratio to reach."""


def main() -> None:
    """Measures, prints, and writes the records with --record."""
    bench = Benchmark("inference", "Inference, image to RLE", __doc__, parts=PARTS)
    parser = bench.parser()
    parser.add_argument("--images", type=int, default=8, help="photographs a round")
    parser.set_defaults(repeats=2)
    args = bench.parse(parser)
    depth, objects = (18, 10) if bench.quick else (50, 100)
    inputs, what = photographs(1 if bench.quick else args.images, 256 if bench.quick else 800)
    plain = our_model(depth, objects)
    on_cpu = bench.device.type == "cpu"
    runtimes, missing = installed_runtimes() if on_cpu else ([], [])
    most = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        file = export(plain, inputs[0]["image"], Path(folder)) if runtimes else None
        stock = stock_model(plain, depth).to(bench.device)
        plain.to(bench.device)
        fused = optimize_for_inference(plain)
        for part in bench.parts():
            bf16, one = part.startswith("bf16"), part.endswith("one_thread")
            if bf16 and on_cpu and not cpu_has_bf16():
                print(f"{part} is not measured: this CPU has no bf16 instructions.", flush=True)
                continue
            if one and (not on_cpu or most == 1):
                continue  # the same as with all threads
            threads = 1 if one else most
            torch.set_num_threads(threads)
            used = inputs[: max(1, len(inputs) // 4)] if part == "others" else inputs
            work = f"{len(used)} images, R{depth}-FPN, {min(used[0]['image'].shape[1:])} px"
            work += f", {threads} thread{'s' * (threads > 1)}" if on_cpu else ""
            contenders = {"Detectron2": over(used, by_detectron2, stock)}
            peers = {}
            if part == "others":
                work += ", others"
                contenders["ours"] = over(used, by_ours, fused)
                contenders["ours, not transformed"] = over(used, by_ours, plain)
                other = torchvision_model(objects).to(bench.device)
                contenders["torchvision"] = over(used, by_torchvision, other)
            elif bf16:
                work += ", bf16"
                half = optimize_for_inference(plain, torch.bfloat16)
                contenders["ours, bf16"] = over(used, by_ours, half, bf16=bench.device)
                if "OpenVINO" in runtimes:
                    peers["OpenVINO, bf16"] = open_in("OpenVINO", file, bf16=True)
            else:
                contenders["ours"] = over(used, by_ours, fused)
                peers = {name: open_in(name, file) for name in runtimes}
            contenders |= {name: over(used, by_exported, run) for name, run in peers.items()}
            goals = {n: g for n, g in GOALS.items() if n in contenders and part != "others"}
            outputs = bench.compare(work, contenders, reference="Detectron2", goal=goals)
            if not bf16:
                bench.equality(
                    work,
                    "; ".join(
                        f"{name}: {difference(outputs[name], outputs['Detectron2'])}"
                        for name in ("ours", *peers)
                    ),
                )
            for peer in peers:
                name, goal = BESIDE[peer]
                bench.beside(work, peer, {name: goal})
            counts = {name: ", ".join(str(len(f)) for f in outputs[name]) for name in outputs}
            note = f"{work}: from {what}; {counts['Detectron2']} detections"
            if "torchvision" in counts:
                note += f"; torchvision's: {counts['torchvision']}"
            bench.note(f"{note}.")
            for text in missing if part != "others" else ():
                bench.note(text)
        torch.set_num_threads(most)
    bench.finish()


def over(
    inputs: list[dict[str, Any]], predict: Any, model: Any, bf16: torch.device | None = None
) -> Callable[[], list[Any]]:
    """A contender: results of all images, one by one.

    Args:
        inputs: images.
        predict: a function from model and image to results.
        model: for `predict`.
        bf16: device of autocast; None for float32.
    """

    def run() -> list[Any]:
        device = bf16 or torch.device("cpu")
        with torch.no_grad(), autocast_context(device, bf16 is not None, "bf16"):
            return [predict(model, item) for item in inputs]

    return run


if __name__ == "__main__":
    main()
