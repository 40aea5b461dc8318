"""The paper's statements about inference time (sections 3.1 and 4.4), as ratios, with FLOPs beside.

- R101-C4 takes about twice the time of R101-FPN (400 against 195 ms on a Tesla M40).
- The mask branch adds about 20 % to its Faster R-CNN.
- Features that RPN and detector share save the second backbone. The paper states 195 ms with shared
  features, and no time without.

Networks have the paper's width, with random weights, damped so that a detector's usual number of
objects is found. They are transformed by ``optimize_for_inference``, as in an evaluation. The time
is that of one image at a time, from the resized picture (800 px) to boxes and small masks.
Pasting the masks, 15 ms in the paper, is not part of it. FLOPs are the multiply-adds that
`tools/model_info.py` counts.

Run: python benchmarks/paper_timing.py --threads 2      (about 10 minutes)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import instantiate
from torch import nn

from harness import Benchmark
from harness.damped import damp
from harness.photographs import photographs
from mask_rcnn_repro import get_config, register
from mask_rcnn_repro.evaluation.loop import predict_small
from mask_rcnn_repro.modeling import StageWiseRCNN, optimize_for_inference
from mask_rcnn_tools.model_info.flops import count_flops

FPN, C4 = "R101-FPN", "R101-C4"
BOXES_ALONE = ", boxes alone"
UNSHARED = f"{FPN}, RPN with a backbone of its own"


def jointly_trained(config: str, profile: str) -> nn.Module:
    """A row's network with an RPN on the same features, in evaluation mode."""
    model = instantiate(get_config(config, profile, ["train.proposals=null"]).model)
    damp(model)
    return model.eval()


def without_masks(model: nn.Module) -> nn.Module:
    """The Faster R-CNN of a Mask R-CNN: equal weights, no mask branch."""
    boxes = copy.deepcopy(model)
    boxes.roi_heads.mask_on = False
    for name in ("mask_head", "mask_pooler"):
        if hasattr(boxes.roi_heads, name):
            delattr(boxes.roi_heads, name)
    return boxes


def with_own_rpn(model: nn.Module, config: str, profile: str) -> nn.Module:
    """Two networks that share nothing: an RPN, and the model without its own."""
    rpn = instantiate(get_config(config, profile).model)
    damp(rpn)
    values = {k: v for k, v in model.state_dict().items() if not k.startswith("roi_heads.")}
    rpn.load_state_dict(values, strict=True)  # the same proposals
    own, shared = rpn.proposal_generator, model.proposal_generator
    own.pre_nms_topk, own.post_nms_topk = shared.pre_nms_topk, shared.post_nms_topk
    detector = copy.deepcopy(model)
    detector.proposal_generator = None
    return StageWiseRCNN(rpn, detector).eval()


def multiply_adds(model: nn.Module, image: torch.Tensor) -> float:
    """Billions of multiply-adds of one image, (3, H, W)."""
    if isinstance(model, StageWiseRCNN):
        return sum(multiply_adds(part, image) for part in (model.rpn, model.detector))
    height, width = image.shape[1:]
    heads = getattr(model, "roi_heads", None)
    proposals = model.proposal_generator.post_nms_topk[False] if model.proposal_generator else 1000
    detections = heads.box_predictor.test_topk_per_image if heads is not None else 0
    flops = count_flops(model, height, width, proposals, detections)
    return sum(sum(counts.values()) for counts in flops.by_part.values()) / 1e9


def main() -> None:
    """Measures, prints, and writes the record with --record."""
    bench = Benchmark("paper_timing", "The paper's statements about time", __doc__)
    parser = bench.parser()
    parser.add_argument("--images", type=int, default=2, help="photographs a round")
    parser.set_defaults(repeats=3)
    args = bench.parse(parser)
    profile, edge = ("tiny", 64) if bench.quick else ("paper", 800)
    inputs, what = photographs(1 if bench.quick else args.images, edge)
    register()
    fpn, c4 = (jointly_trained(f"table2a/r101_{kind}", profile) for kind in ("fpn", "c4"))
    models = {
        C4: c4,
        C4 + BOXES_ALONE: without_masks(c4),
        FPN: fpn,
        FPN + BOXES_ALONE: without_masks(fpn),
        UNSHARED: with_own_rpn(fpn, "rpn/r101_fpn", profile),
    }
    flops = {name: multiply_adds(model, inputs[0]["image"]) for name, model in models.items()}
    fast = {name: optimize_for_inference(model.to(bench.device)) for name, model in models.items()}

    def over(model: nn.Module) -> Callable[[], list[Any]]:
        def run() -> list[Any]:
            with torch.no_grad():
                return [predict_small(model, [item])[0]["instances"] for item in inputs]

        return run

    work = f"{len(inputs)} images, {min(inputs[0]['image'].shape[1:])} px"
    outputs = bench.compare(work, {name: over(model) for name, model in fast.items()}, reference=C4)
    bench.equality(work, f"{_ratio(flops, C4, FPN)} multiply-adds; the paper's times: 2.05")
    for name in (C4, FPN):
        alone = name + BOXES_ALONE
        bench.beside(work, name, {alone: None})
        text = f"{_ratio(flops, name, alone)} multiply-adds; the paper's times: about 1.2"
        bench.equality(f"{work}, beside {name}", text)
    bench.beside(work, UNSHARED, {FPN: None})
    text = f"{_ratio(flops, UNSHARED, FPN)} multiply-adds; the paper states no time without sharing"
    bench.equality(f"{work}, beside {UNSHARED}", text)
    found = {name: [len(instances) for instances in outputs[name]] for name in models}
    bench.note(
        f"{what}; detections: "
        + "; ".join(f"{name} {', '.join(map(str, counts))}" for name, counts in found.items())
        + "."
    )
    bench.note(
        "Billions of multiply-adds of the first image: "
        + "; ".join(f"{name} {count:.0f}" for name, count in flops.items())
        + "."
    )
    bench.finish()


def _ratio(flops: dict[str, float], slower: str, faster: str) -> str:
    return f"{flops[slower] / flops[faster]:.2f} times the"


if __name__ == "__main__":
    main()
