"""One training step of Mask R-CNN R50-FPN beside Detectron2's, fp32 and bf16.

One iteration of the trainers of both on two images of 512 x 800 pixels (`--size`), with the paper's
settings: row `table2a/r50_fpn` trained jointly with its RPN, 2000 proposals and 512 sampled RoIs an
image. Detectron2's model is its model zoo's, built by its builder and set to the same settings;
both start from the same weights and see the same batch with the same random numbers. "ours" is
what a training of ours does on this device by default. Weights are a random initialization whose
frozen batch norms keep activations in range: proposals and gradients are of realistic number, not
of realistic quality. Detectron2 trains in fp32 on a CPU (its mixed precision asks for CUDA), and is
the reference of both. bf16 is measured on CPUs that have it.

Run: python benchmarks/training_step.py --threads 2 --repeats 3
"""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.data import transforms as T
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model as build_by_name
from detectron2.solver import build_optimizer as build_optimizer_by_name
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn

from harness import Benchmark
from mask_rcnn_repro import get_config
from mask_rcnn_repro.data import MaskRCNNMapper, get_training_dicts
from mask_rcnn_repro.engine.builders import build_model, build_optimizer
from mask_rcnn_repro.engine.seeding import seed_everything
from mask_rcnn_repro.engine.train.trainer import Trainer
from mask_rcnn_repro.registration import register
from mask_rcnn_repro.utils.precision import cpu_has_bf16

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data"
ROW = "table2a/r50_fpn"
LR = 1e-4  # small: weights that were not trained must survive some steps

Losses = dict[str, float]


def detectron2_model(device: torch.device, rois: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model zoo's R50-FPN by name, with the settings of the paper's row."""
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    cfg.MODEL.DEVICE = str(device)
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 2000
    cfg.MODEL.RPN.SMOOTH_L1_BETA = 1 / 9
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.3
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = rois
    cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA = 1.0
    for head in (cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD):
        head.POOLER_TYPE = "ROIAlign"
        head.POOLER_SAMPLING_RATIO = 2
    cfg.SOLVER.BASE_LR = LR
    model = build_by_name(cfg)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):  # or activations grow from block to block
            module.weight.uniform_(0.2, 0.4)
            module.bias.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.train(), build_optimizer_by_name(cfg, model)


def our_model(
    device: torch.device, rois: int, weights: Any
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """As a run builds it."""
    overrides = ["train.proposals=null", f"optimizer.lr={LR}", f"train.device={device}"]
    overrides.append(f"model.roi_heads.batch_size_per_image={rois}")
    cfg = get_config(ROW, overrides=overrides)
    model = build_model(cfg, device)
    model.load_state_dict(weights)
    return model.train(), build_optimizer(cfg, model)


def make_batch(bench: Benchmark, images: int, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Photographs of the COCO sample, or pictures of the embedded data where it is absent."""
    root = SAMPLE / "coco"
    if root.is_dir():
        file = root / "annotations" / "instances_train2017.json"
        dicts = get_training_dicts("coco_sample", str(file), str(root / "train2017"))
    else:
        bench.note("No COCO sample is at ../shared/data: pictures of the embedded data are used.")
        dicts = get_training_dicts("embedded_train")
    dicts = [d for d in dicts if d["width"] >= d["height"]]
    busy = [d for d in dicts if len(d["annotations"]) >= 5] or dicts
    mapper = MaskRCNNMapper(True, augmentations=[T.Resize(size)], use_instance_mask=True)
    return [mapper(copy.deepcopy(d)) for d in busy[:images]]


def make_step(trainer: SimpleTrainer) -> Callable[[], Losses]:
    """A function that trains the same iteration again and returns its losses."""
    trainer.iter = 1

    def step() -> Losses:
        seed_everything(0, trainer.iter, 0)  # as our trainer does
        trainer.run_step()
        latest = get_event_storage().latest()
        return {name: value for name, (value, _) in latest.items() if name.startswith("loss_")}

    return step


def farthest(ours: Losses, theirs: Losses) -> str:
    """The largest relative difference of a loss, as a sentence."""
    relative = {name: abs(ours[name] / value - 1) for name, value in theirs.items()}
    name = max(relative, key=lambda key: relative[key])
    return f"losses of a first step equal within {relative[name]:.1g} relative ({name})"


def main() -> None:
    """Measures, prints, and writes the record with --record."""
    bench = Benchmark("training_step", "Training step", __doc__, parts=("fp32", "bf16"))
    parser = bench.parser()
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=None, metavar=("H", "W"))
    parser.set_defaults(repeats=3)
    args = bench.parse(parser)
    logging.disable(logging.WARNING)
    register()
    device = bench.device
    usual = (128, 192) if bench.quick else (512, 800) if device.type == "cpu" else (800, 1200)
    height, width = args.size or usual
    batch = make_batch(bench, args.images, (height, width))
    torch.manual_seed(0)
    rois = 32 if bench.quick else 512
    stock = detectron2_model(device, rois)
    weights = copy.deepcopy(stock[0].state_dict())
    batches = itertools.repeat(batch)

    def ours(bf16: bool) -> Callable[[], Losses]:
        model = our_model(device, rois, weights)
        trainer = Trainer(model[0], batches, model[1], seed=0, device=device, amp_enabled=bf16)
        return make_step(trainer)

    own = make_step(SimpleTrainer(stock[0], batches, stock[1]))
    for part in bench.parts():
        if part == "bf16" and device.type == "cpu" and not cpu_has_bf16():
            print("bf16 is not measured: this CPU has no bf16 instructions.", flush=True)
            continue
        name = "ours, bf16" if part == "bf16" else "ours"
        steps = {"Detectron2": own, name: ours(bf16=part == "bf16")}
        goals = {"ours": 1.35, "ours, bf16": 2.3} if device.type == "cpu" else {"ours, bf16": 2.0}
        if part == "bf16" and device.type == "cuda":
            half = detectron2_model(device, rois)
            half[0].load_state_dict(weights)
            scaler = torch.amp.GradScaler("cuda", enabled=False)  # bf16 needs no scaling
            trainer = AMPTrainer(
                half[0], batches, half[1], grad_scaler=scaler, precision=torch.bfloat16
            )
            steps["Detectron2, bf16"] = make_step(trainer)
        work = f"{args.images} images, {height} x {width}{', bf16' if part == 'bf16' else ''}"
        with EventStorage():
            stock[0].load_state_dict(weights)
            first = {name: step() for name, step in steps.items()}
            goal = {name: goal for name, goal in goals.items() if name in steps}
            bench.compare(work, steps, reference="Detectron2", goal=goal)
        bench.equality(work, farthest(first[name], first["Detectron2"]))
    record = bench.finish()
    print()
    for comparison in record.comparisons:
        for name, timing in comparison.seconds.items():
            print(f"{name}: {args.images / timing.median:.3g} images/s")


if __name__ == "__main__":
    main()
