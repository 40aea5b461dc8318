"""Profiles: the scales of a config. `paper` runs as written, `mini` in minutes, `tiny` in seconds.

A profile is a function from config to config. It is applied after the file and before the command
line. `mini` and `tiny` replace COCO by the embedded data and scale sizes, widths, counts and
schedules by fixed factors. Both train with batch norm and AdamW: with the paper's frozen statistics
and SGD, short schedules learn less than half as much. At `mini` networks start from a pre-training
stage (`configs/pretrain/`), which stands for ImageNet's weights, with the first two stages frozen
as in the paper. At `tiny` they start from random weights. Profiles never change what distinguishes
two rows: RoI layers, heads, losses, thresholds, depth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

_USUAL_SCHEDULE = 160_000
_OTHER_SCHEDULES = {"keypoints": 90_000, "cityscapes": 24_000}
"""Words in names of data sets, and the paper's usual number of iterations for such data.

The embedded persons and streets take as many images to learn as the other classes. So the small
profiles train on each kind of data for the same number of iterations.
"""


_MOST_ROIS, _MOST_PERSON_ROIS = 64, 32
"""Upper limits of sampled RoIs. An embedded image has six objects, or two persons.

Most of the 256 RoIs that the FPN heads would sample are repetitions. C4's 32 are not.
"""


_USUAL_BATCH = 16
"""Images per iteration in the paper. ResNeXt's 8, with half the learning rate, save GPU memory.

A pre-trained scale gives ResNeXt as many as the others: both rows of a comparison see as much.
"""


_PRETRAINING = {
    "detectron2://ImageNetPretrained/MSRA/R-50.pkl": "pretrain/r50",
    "detectron2://ImageNetPretrained/MSRA/R-101.pkl": "pretrain/r101",
    "catalog://ImageNetPretrained/FAIR/X-101-64x4d": "pretrain/x101",
    "ImageNetPretrained/X-101-64x4d-IN5k.pkl": "pretrain/x101_5k",
    "catalog://ImageNetPretrained/FAIR/X-152-32x8d-IN5k": "pretrain/x152_5k",
}
"""The stage that stands for published weights. Configs with others start from random weights."""


@dataclass(frozen=True)
class Scale:
    """Factors of a small profile. A whole number v becomes `max(1, round(v * factor))`.

    The fields that end in `_period` count iterations.
    """

    width: float  # of the channels of backbone, pyramid and heads
    pixels: float  # of image sizes, such as 800 and 1333 pixels
    # Of anchor sizes. The embedded objects are larger in their images than COCO's.
    objects: float
    counts: float  # of proposals and sampled anchors per image
    rois: float  # of sampled RoIs per image
    batch: float  # of images per iteration
    pretrained: bool  # whether networks start from a pre-training stage
    lr: float  # AdamW's learning rate divided by SGD's
    # Of the iterations and milestones of a schedule of 160k. Others become equally long.
    iterations: float
    warmup: float  # of the warm-up iterations
    data_prefix: str  # first part of the names of the data sets
    coco_prefix: str  # the same of those that replace COCO
    classes: int  # of the latter
    # Compute in bfloat16 and channels-last: about 2x faster on CPUs with bf16 instructions
    # (others compute in float32).
    bf16: bool
    checkpoint_period: int
    log_period: int


MINI = Scale(
    width=1 / 8,
    pixels=320 / 800,  # the size at which the embedded images are drawn
    objects=1 / 2,
    counts=1 / 4,
    rois=1 / 2,
    batch=1 / 2,
    pretrained=True,
    lr=1 / 10,
    iterations=1 / 320,
    warmup=1 / 10,
    data_prefix="embedded",
    coco_prefix="embedded_coco",
    classes=18,
    bf16=True,
    checkpoint_period=200,
    log_period=20,
)

EMBEDDED = replace(
    MINI,
    width=1 / 4,
    pixels=128 / 800,
    objects=1 / 4,
    rois=1 / 4,
    pretrained=False,
    iterations=1 / 160,
)
"""The scale of configs that are written for the embedded data, such as the quickstart."""

CROPS = replace(EMBEDDED, width=MINI.width)
"""The scale of pre-training stages, whose weights `mini` starts from."""

TINY = Scale(
    width=1 / 16,
    pixels=64 / 800,
    objects=1 / 8,
    counts=1 / 16,
    rois=1 / 16,
    batch=1 / 8,
    pretrained=False,
    lr=1 / 20,
    iterations=1 / 16_000,
    warmup=1 / 500,
    data_prefix="embedded_tiny",
    coco_prefix="embedded_tiny",
    classes=7,
    bf16=False,
    checkpoint_period=5,
    log_period=1,
)


def paper(cfg: DictConfig) -> DictConfig:
    """Returns the config unchanged."""
    return cfg


def mini(cfg: DictConfig) -> DictConfig:
    """Scales a config to minutes on two cores; shows whether a difference between rows appears.

    A config that is written for the embedded data is small already and is not changed.
    """
    return cfg if _is_embedded(cfg) else _shrink(cfg, MINI)


def tiny(cfg: DictConfig) -> DictConfig:
    """Scales a config to seconds on a CPU and a few images; shows that a row runs."""
    if not _is_embedded(cfg):
        return _shrink(cfg, TINY)
    crops = str(cfg.dataloader.train.dataset.names).endswith("crops_train")
    return _shrink(cfg, _between(CROPS if crops else EMBEDDED, TINY))


PROFILES: dict[str, Callable[[DictConfig], DictConfig]] = {
    "paper": paper,
    "mini": mini,
    "tiny": tiny,
}


def _is_embedded(cfg: DictConfig) -> bool:
    return str(OmegaConf.select(cfg, "dataloader.train.dataset.names")).startswith("embedded")


def _between(start: Scale, end: Scale) -> Scale:
    """The scale that takes a config from `start` to `end`."""
    ratios = {
        field.name: getattr(end, field.name) / getattr(start, field.name)
        for field in fields(Scale)
        if isinstance(getattr(end, field.name), float)
    }
    return replace(end, **ratios)


def _shrink(cfg: DictConfig, scale: Scale) -> DictConfig:
    usual = _usual_schedule(cfg)  # before the name of the data changes
    _shrink_model(cfg.model, scale, persons=usual == _OTHER_SCHEDULES["keypoints"])
    _shrink_images(cfg.dataloader, scale)
    _scale(cfg, "train.tta.sizes", scale.pixels)  # null follows the test images
    for split in ("train", "test"):  # proposals from files, if the config sets the number itself
        _scale(cfg, f"dataloader.{split}.mapper.precomputed_proposal_topk", scale.counts)
    _use_embedded_data(cfg, scale)
    if scale.pretrained and (cfg.train.init_from or cfg.train.init_checkpoint in _PRETRAINING):
        _start_pretrained(cfg)
    else:
        _start_from_random_weights(cfg)
    _train_batch_norm(cfg)
    _use_adamw(cfg, scale)
    _shorten(cfg, scale, usual)
    return cfg


def _shrink_model(model: DictConfig, scale: Scale, persons: bool) -> None:
    for key in ("backbone.width_multiplier", "backbone.bottom_up.width_multiplier"):
        _scale(model, key, scale.width, whole=False)
    _scale(model, "backbone.out_channels", scale.width)
    for key in (
        "box_head.fc_dim",
        "mask_head.conv_dim",
        "mask_head.fc_dim",
        "keypoint_head.conv_dim",
    ):
        _scale(model, f"roi_heads.{key}", scale.width)
    for key in ("batch_size_per_image", "pre_nms_topk", "post_nms_topk"):
        _scale(model, f"proposal_generator.{key}", scale.counts)
    heads = model.get("roi_heads")
    if heads is not None and heads.get("batch_size_per_image") is not None:
        _scale(heads, "batch_size_per_image", scale.rois)
        most = _MOST_PERSON_ROIS if persons else _MOST_ROIS
        heads.batch_size_per_image = min(heads.batch_size_per_image, most)
    # The pyramid's canonical box is not scaled: it sets the number of cells of an RoI in a level,
    # whatever the size of the image.
    _scale(model, "proposal_generator.anchor_generator.sizes", scale.objects)
    # Random weights, with which pre-training begins, too, need inputs of unit variance.
    model.pixel_std = [57.375, 57.12, 58.395]


def _shrink_images(dataloader: DictConfig, scale: Scale) -> None:
    for split in ("train", "test"):
        for augmentation in OmegaConf.select(dataloader, f"{split}.mapper.augmentations") or []:
            for key in ("short_edge_length", "max_size", "shape"):
                if key in augmentation:
                    _scale(augmentation, key, scale.pixels)
        # On two cores a worker costs more than the 20 ms that it saves.
        dataloader[split].num_workers = 0


def _use_embedded_data(cfg: DictConfig, scale: Scale) -> None:
    for split, fallback in (("train", "train"), ("test", "val")):
        dataset = cfg.dataloader[split].dataset
        if dataset.get("json") is not None:
            continue
        names = str(dataset.names)
        if names.startswith("embedded"):
            dataset.names = names.replace("embedded", scale.data_prefix, 1)
        elif names.startswith("cityscapes"):
            dataset.names = f"{scale.data_prefix}_{names}"
        if names.startswith(("embedded", "cityscapes")) or "coco" not in names:
            continue
        person = "person_" if names.startswith("keypoints") else ""
        part = "unlabeled" if "test_dev" in names else fallback
        dataset.names = f"{scale.coco_prefix}_{person}{part}"
        heads = OmegaConf.select(cfg, "model.roi_heads")
        if split == "train" and heads is not None and "num_classes" in heads:
            heads.num_classes = 1 if person else scale.classes


def _start_pretrained(cfg: DictConfig) -> None:
    stage = _PRETRAINING.get(cfg.train.init_checkpoint)
    cfg.train.init_checkpoint = f"stage://{stage}" if stage else ""
    if OmegaConf.select(cfg.model, "backbone.bottom_up.num_groups", default=1) > 1:
        more = _USUAL_BATCH / cfg.train.reference_batch_size
        _scale(cfg, "dataloader.train.total_batch_size", more)
        _scale(cfg, "train.reference_batch_size", more)
        _scale(cfg, "optimizer.lr", more, whole=False)


def _start_from_random_weights(cfg: DictConfig) -> None:
    cfg.train.init_checkpoint = ""
    for key in ("backbone", "backbone.bottom_up"):
        if OmegaConf.select(cfg.model, f"{key}.freeze_at") is not None:
            OmegaConf.update(cfg.model, f"{key}.freeze_at", 0)


def _train_batch_norm(cfg: DictConfig) -> None:
    """Frozen statistics do not normalize random weights, nor those that change fast."""
    for key in ("backbone", "backbone.bottom_up"):
        if OmegaConf.select(cfg.model, f"{key}.norm") == "FrozenBN":
            OmegaConf.update(cfg.model, f"{key}.norm", "BN")


def _use_adamw(cfg: DictConfig, scale: Scale) -> None:
    old = cfg.optimizer
    if "AdamW" in str(old["_target_"]):
        return
    cfg.optimizer = {
        "_target_": "torch.optim.AdamW",
        "params": {"_target_": old.params["_target_"], "weight_decay_norm": 0.0},
        "lr": old.lr * scale.lr,
        "weight_decay": 0.05,
        "fused": True,
    }


def _usual_schedule(cfg: DictConfig) -> int:
    """Iterations of the paper's usual schedule for the data of a config."""
    names = str(cfg.dataloader.train.dataset.names)
    return next((n for key, n in _OTHER_SCHEDULES.items() if key in names), _USUAL_SCHEDULE)


def _shorten(cfg: DictConfig, scale: Scale, usual: int) -> None:
    iterations = scale.iterations * _USUAL_SCHEDULE / usual
    _scale(cfg, "train.max_iter", iterations)
    _scale(cfg, "lr_multiplier.milestones", iterations)
    _scale(cfg, "lr_multiplier.warmup_iters", scale.warmup)
    _scale(cfg, "dataloader.train.total_batch_size", scale.batch)
    _scale(cfg, "train.reference_batch_size", scale.batch)
    cfg.train.eval_period = 0
    cfg.train.amp.enabled = cfg.train.channels_last = scale.bf16
    cfg.train.checkpointer.period = scale.checkpoint_period
    cfg.train.log_period = scale.log_period


def _scale(cfg: Any, key: str, factor: float, whole: bool = True) -> None:
    """Scales the number or the (nested) list of numbers at `key`; keeps interpolations and null."""
    parent_key, _, name = key.rpartition(".")
    parent = OmegaConf.select(cfg, parent_key) if parent_key else cfg
    if not isinstance(parent, DictConfig) or name not in parent:
        return
    if OmegaConf.is_interpolation(parent, name) or parent[name] is None:
        return
    parent[name] = _scaled(parent[name], factor, whole)


def _scaled(value: Any, factor: float, whole: bool) -> Any:
    if isinstance(value, (list, tuple, ListConfig)):
        return [_scaled(v, factor, whole) for v in value]
    scaled = value * factor
    return max(min(value, 1), round(scaled)) if whole else scaled
