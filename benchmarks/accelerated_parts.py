"""What each accelerated part is worth: a whole evaluation and a whole training step without it.

Each part is switched off alone, at the size of `mini` (an eighth of the width, 320 px) and at the
paper's (800 px, R50-FPN). An evaluation of an image is its way from the file to results in COCO's
format. A training step is the way of two images from their files to new weights. A part that is
worth less than 3 % of every whole should go.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage

from harness import Benchmark
from harness.damped import damp
from mask_rcnn_repro import get_config, register
from mask_rcnn_repro.data import get_test_dicts, get_training_dicts
from mask_rcnn_repro.engine.builders import build_model, build_optimizer
from mask_rcnn_repro.evaluation.loop import predict_small
from mask_rcnn_repro.evaluation.masks.rle import instances_to_results
from mask_rcnn_repro.modeling import optimize_for_inference
from mask_rcnn_repro.utils import compiled

PROJECT = Path(__file__).resolve().parents[1] / "projects" / "mask_rcnn_repro"
REPRO = "mask_rcnn_repro"
ROW = "table2a/r50_fpn"

PARTS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "Winograd convolutions": (
        ["modeling/accel/winograd.py", "modeling/accel/winograd_kernels.py"],
        {"modeling.accel.winograd.WinogradWeights.fits": lambda *args, **options: False},
    ),
    "sparse RPN head": (
        ["modeling/accel/sparse_rpn_head.py"],
        {"modeling.rpn.PaperRPNHead._sparse_backward": lambda self, features: False},
    ),
    "fused mask heads": (
        ["modeling/inference/fused_mask_heads.py"],
        {
            f"modeling.inference.optimize.{name}.fits": lambda *args, **options: False
            for name in ("FusedFCNHead", "FusedMLPHead")
        },
    ),
    "all fused layers": (
        [
            "modeling/accel/onednn.py",
            *(f"modeling/inference/fused_{name}.py" for name in ("blocks", "layers", "mask_heads")),
            "modeling/inference/optimize.py",
        ],
        {"modeling.inference.optimize._Optimizer.optimized": lambda self, module: module},
    ),
    "norms folded in training": (
        [],
        {"modeling.backbone.resnet.fold_frozen_norms": lambda module: None},
    ),
    "compiled RoI layers": (
        [
            f"modeling/accel/{name}.py"
            for name in ("compiled_roi_layers", "roi_align_kernels", "roi_pool_kernels")
        ],
        {
            f"modeling.{name}.applies": lambda *args, **options: False
            for name in ("roi_layers", "poolers")
        },
    ),
    "compiled resizing": (
        ["data/loading/resize_kernels.py"],
        {"data.loading.resize._same_as_pillow": lambda: False},
    ),
    "all of Numba": ([], {"utils.compiled.HAVE_NUMBA": False}),
}
"""Name to its files, and to what switches it off."""


@contextlib.contextmanager
def without(part: str) -> Iterator[None]:
    """Switches one part off."""
    with contextlib.ExitStack() as stack:
        for place, value in PARTS[part][1].items() if part else ():
            stack.enter_context(mock.patch(f"{REPRO}.{place}", value))
        yield


def evaluated(profile: str, part: str, weights: Any, images: list[Any]) -> Callable[[], Any]:
    """A function that evaluates the images one by one."""
    cfg = config(profile)
    with without(part):
        model = build_model(cfg, torch.device("cpu"))
        model.load_state_dict(weights)
        model = optimize_for_inference(model)
        mapper = instantiate(cfg.dataloader.test.mapper)

    def run() -> list[Any]:
        results = []
        with without(part), torch.inference_mode():
            for image in images:
                [found] = predict_small(model, [mapper(copy.deepcopy(image))])
                frame = (image["height"], image["width"], image["image_id"])
                results.append(instances_to_results(found["instances"], *frame))
        return results

    return run


def trained(profile: str, part: str, weights: Any, images: list[Any]) -> Callable[[], Any]:
    """A function that trains a step."""
    cfg = config(profile)
    with without(part):
        model = build_model(cfg, torch.device("cpu")).train()
        model.load_state_dict(weights)
        optimizer = build_optimizer(cfg, model)
        mapper = instantiate(cfg.dataloader.train.mapper)

    def run() -> float:
        torch.manual_seed(0)
        np.random.seed(0)
        optimizer.zero_grad(set_to_none=True)
        with without(part), EventStorage():
            losses = model([mapper(copy.deepcopy(image)) for image in images])
            total = sum(losses.values())
            total.backward()
        optimizer.step()
        return float(total)

    return run


def config(profile: str) -> Any:
    return get_config(
        ROW, profile, ["train.proposals=null", "optimizer.lr=1e-5", "train.amp.enabled=false"]
    )


def main() -> None:
    """Measures, prints, and writes the record with --record."""
    bench = Benchmark("accelerated_parts", "Accelerated parts", __doc__)
    parser = bench.parser()
    parser.add_argument("--images", type=int, default=4)
    parser.set_defaults(repeats=3)
    args = bench.parse(parser)
    logging.disable(logging.WARNING)
    register()
    assert isinstance(compiled.HAVE_NUMBA, bool)  # determined, so that it can be switched off
    count = 1 if bench.quick else args.images
    for profile in ("tiny",) if bench.quick else ("mini", "paper"):
        names = "embedded_tiny" if bench.quick else "embedded"
        tested = get_test_dicts(f"{names}_val")[:count]
        learned = get_training_dicts(f"{names}_train")[:2]
        torch.manual_seed(0)
        model = build_model(config(profile), torch.device("cpu"))
        damp(model)
        weights = model.state_dict()
        for work, make, images in (
            (f"evaluation of {len(tested)} images, {profile}", evaluated, tested),
            (f"training step of 2 images, {profile}", trained, learned),
        ):
            contenders = {"ours": make(profile, "", weights, images)}
            for part in PARTS:
                contenders[f"without {part}"] = make(profile, part, weights, images)
            bench.compare(work, contenders, reference="ours")
    for part, (files, _) in PARTS.items():
        lines = sum(len((PROJECT / file).read_text().splitlines()) for file in files)
        if files:
            bench.note(f"{part}: {lines} lines")
    bench.finish()


if __name__ == "__main__":
    main()
