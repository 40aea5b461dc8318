"""What each accelerated part is worth: a whole evaluation and a whole training step without it.

Each part is disabled alone, at the size of `mini` (an eighth of the width, 320 px) and at the
paper's (800 px), for R50-FPN in float32. An evaluation of an image is its way from the file to
results in COCO's format. A training step is the way of a batch from its files to new weights. Only
the parts that concern an evaluation, or a training step, are compared there. The percentages are by
how much the whole takes longer without the part: the median over the rounds and the extremes. A
part that is worth less than 3 % of every whole should go, unless a GPU needs it: annotations in
arrays save 6 of 46 waits for a GPU in a step. The number of lines of its code is beside its name.

Run: python benchmarks/accelerated_parts.py --threads 2      (about 10 minutes)
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import pkgutil
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.structures import PolygonMasks
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


@dataclass(frozen=True)
class Part:
    """An accelerated part.

    Attributes:
        works: What it concerns, "evaluation" or "training".
        sources: Its files and its objects, as in `modeling.rpn:StageRPN`.
        switches: Places that switch it off, to what is put there.
    """

    works: tuple[str, ...]
    sources: tuple[str, ...]
    switches: dict[str, Any]

    def lines(self) -> int:
        """Returns its number of lines."""
        texts = [
            (PROJECT / source).read_text(encoding="utf-8")
            if source.endswith(".py")
            else inspect.getsource(pkgutil.resolve_name(f"{REPRO}.{source}"))
            for source in self.sources
        ]
        return sum(len(text.splitlines()) for text in texts)


def _never(*args: Any, **options: Any) -> bool:
    return False


EVALUATION, TRAINING = ("evaluation",), ("training",)
PARTS = {
    "Winograd convolutions": Part(
        EVALUATION,
        ("modeling/accel/winograd.py", "modeling/accel/winograd_kernels.py"),
        {"modeling.accel.winograd.WinogradWeights.fits": _never},
    ),
    "fused mask heads": Part(
        EVALUATION,
        ("modeling/inference/fused_mask_heads.py",),
        {
            "modeling.inference.optimize.FusedFCNHead.fits": _never,
            "modeling.inference.optimize.FusedMLPHead.fits": _never,
        },
    ),
    "all fused layers, Winograd too": Part(
        EVALUATION,
        (
            *("modeling/accel/onednn.py", "modeling/inference/optimize.py"),
            *(f"modeling/inference/fused_{n}.py" for n in ("blocks", "layers", "mask_heads")),
            *("modeling/accel/winograd.py", "modeling/accel/winograd_kernels.py"),
        ),
        {"modeling.inference.optimize._Optimizer.optimized": lambda self, module: module},
    ),
    "masks to RLE inside boxes": Part(
        EVALUATION,
        ("evaluation/masks/paste.py", "evaluation/masks/paste_kernels.py"),
        {"evaluation.masks.rle.encode_in_boxes": lambda masks, *rest: [None] * len(masks)},
    ),
    "sparse RPN head": Part(
        TRAINING,
        ("modeling/accel/sparse_rpn_head.py",),
        {"modeling.rpn.PaperRPNHead._sparse_backward": lambda self, features: False},
    ),
    "norms folded in training": Part(
        TRAINING,
        tuple(f"modeling.backbone.norm:{n}" for n in ("FoldedConv2d", "fold_frozen_norms")),
        {"modeling.backbone.resnet.fold_frozen_norms": lambda module: None},
    ),
    "annotations in arrays": Part(
        TRAINING,
        ("data/loading/annotations.py", "data/loading/polygons.py"),
        {
            "data.loading.annotations._POINTWISE": frozenset(),
            "data.loading.annotations.PolygonArrays": PolygonMasks,
        },
    ),
    "compiled RoI layers": Part(
        EVALUATION + TRAINING,
        tuple(
            f"modeling/accel/{name}.py"
            for name in ("compiled_roi_layers", "roi_align_kernels", "roi_pool_kernels")
        ),
        {"modeling.roi_layers.applies": _never, "modeling.poolers.applies": _never},
    ),
    "all of Numba": Part(
        EVALUATION + TRAINING,
        (
            *(f"modeling/accel/{n}_kernels.py" for n in ("winograd", "roi_align", "roi_pool")),
            *("evaluation/masks/paste_kernels.py", "utils/compiled.py"),
        ),
        {"utils.compiled.HAVE_NUMBA": False},
    ),
}


@dataclass(frozen=True)
class Size:
    """How much of a work is timed.

    Attributes:
        images: Evaluated in turn, or in the batch of the training step.
        repeats: Rounds. `mini` scatters more and is quick.
    """

    images: int
    repeats: int


SIZES = {
    ("evaluation", "mini"): Size(8, 12),
    ("training", "mini"): Size(8, 9),
    ("evaluation", "paper"): Size(2, 3),
    ("training", "paper"): Size(1, 5),
}


@contextlib.contextmanager
def without(part: str) -> Iterator[None]:
    """Switches one part off."""
    with contextlib.ExitStack() as stack:
        for place, value in PARTS[part].switches.items() if part else ():
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


def gains(times: dict[str, list[float]]) -> str:
    """By how much a work takes longer without each part: median over the rounds, and extremes."""
    texts = []
    for name, own in times.items():
        if name != "ours":
            more = [100 * (a / b - 1) for a, b in zip(own, times["ours"], strict=True)]
            texts.append(
                f"{name.partition(' (')[0]} {statistics.median(more):+.1f} % "
                f"[{min(more):+.1f}, {max(more):+.1f}]"
            )
    return "; ".join(texts)


def main() -> None:
    """Measures, prints, and writes the records with --record."""
    names = [f"{work}_{profile}" for work, profile in SIZES]
    bench = Benchmark("accelerated_parts", "Accelerated parts", __doc__, parts=names)
    parser = bench.parser()
    parser.add_argument("--images", type=int, help="a round (default: 8 at mini; 2 or 1 at paper)")
    parser.set_defaults(repeats=None)
    args = bench.parse(parser)
    logging.disable(logging.WARNING)
    register()
    assert isinstance(compiled.HAVE_NUMBA, bool)  # determined, so that it can be switched off
    for part in bench.parts():
        work, profile = part.split("_")
        if bench.quick and profile == "paper":
            continue
        size = SIZES[work, profile]
        images = 1 if bench.quick else args.images or size.images
        profile = "tiny" if bench.quick else profile
        data = "embedded_tiny" if bench.quick else "embedded"
        if work == "evaluation":
            make, dicts = evaluated, get_test_dicts(f"{data}_val")[:images]
        else:
            make, dicts = trained, get_training_dicts(f"{data}_train")[:images]
        torch.manual_seed(0)
        model = build_model(config(profile), torch.device("cpu"))
        damp(model)
        weights = model.state_dict()
        contenders = {"ours": make(profile, "", weights, dicts)}
        for name, own in PARTS.items():
            if work in own.works:
                label = f"without {name} ({own.lines()} lines)"
                contenders[label] = make(profile, name, weights, dicts)
        what = f"{work} of {len(dicts)} image{'s' * (len(dicts) > 1)}, {profile}"
        bench.compare(what, contenders, reference="ours", repeats=args.repeats or size.repeats)
        bench.equality(what, gains(bench.times(what)))
    bench.finish()


if __name__ == "__main__":
    main()
