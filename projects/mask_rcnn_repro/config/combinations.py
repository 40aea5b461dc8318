"""Combinations of values that cannot work together, with messages that say how to fix them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from mask_rcnn_repro.config.config_files import find_config
from mask_rcnn_repro.config.targets import is_node, target_name, target_signature
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.utils.checkpoint_paths import stage_of

_logger = logging.getLogger(__name__)

_CHANNELS = {"BGR": 3, "RGB": 3, "YUV-BT.601": 3, "L": 1}
"""Channels of an image by its format."""

_MULTI_STEP = "fvcore.common.param_scheduler.MultiStepParamScheduler"


def effective(cfg: DictConfig, key: str) -> Any:
    """The value at a dotted key, else the default of the target's parameter, else None."""
    parent_key, _, name = key.rpartition(".")
    parent = OmegaConf.select(cfg, parent_key)
    if isinstance(parent, DictConfig) and name in parent:
        return parent[name]
    if not is_node(parent):
        return None
    param = target_signature(parent._target_).params.get(name)
    return None if param is None or param.required else param.default


def combination_problems(cfg: DictConfig, world_size: int | None = None) -> list[str]:
    """Problems as sentences without a full stop.

    Args:
        cfg: A config whose single values are valid.
        world_size: Number of processes, if known.
    """
    rules = (
        _precision, _data_sets, _classes, _channels, _branches, _proposals, _stages, _annotations,
        _sizes, _schedule, _evaluations,
    )  # fmt: skip
    return [text for rule in rules for text in rule(cfg)] + list(_batch(cfg, world_size))


def _precision(cfg: DictConfig) -> Iterator[str]:
    amp = cfg.train.amp
    if amp.enabled and amp.dtype == "fp16" and cfg.train.device == "cpu":
        yield (
            "train.amp.dtype=fp16 needs a GPU, but train.device is cpu; use train.amp.dtype=bf16 "
            "or train.amp.enabled=false"
        )


def _data_sets(cfg: DictConfig) -> Iterator[str]:
    """An unset shell variable on the command line gives an empty name or path."""
    for split in ("train", "test"):
        dataset = OmegaConf.select(cfg, f"dataloader.{split}.dataset")
        if not isinstance(dataset, DictConfig):
            continue
        for name in ("names", "json", "image_root"):
            value = dataset.get(name)
            if value == "" or (isinstance(value, ListConfig) and (not value or "" in value)):
                example = "a path, or null for a registered data set"
                if name == "names":
                    example = "a registered data set such as coco_val2017, or a name for your json"
                yield f"dataloader.{split}.dataset.{name}={value} is empty; give {example}"


def _classes(cfg: DictConfig) -> Iterator[str]:
    """Box classifier and mask head must have the classes of the RoI heads.

    The `loss` of a mask head decides how many masks it predicts for K classes. A mask head of
    Detectron2 has no loss and is given 1 class for class-agnostic masks.
    """
    classes = effective(cfg, "model.roi_heads.num_classes")
    if not isinstance(classes, int):
        return
    if classes < 1:
        yield f"model.roi_heads.num_classes must be at least 1, got {classes}"
    loss_decides = effective(cfg, "model.roi_heads.mask_head.loss") is not None
    for part in ("box_predictor", "mask_head"):
        key = f"model.roi_heads.{part}.num_classes"
        found = effective(cfg, key)
        one_mask = part == "mask_head" and found == 1
        if not isinstance(found, int) or found == classes or (one_mask and not loss_decides):
            continue
        problem = (
            f"{key} is {found}, but model.roi_heads.num_classes is {classes}; write "
            f'{key}="${{..num_classes}}" to keep them equal'
        )
        if one_mask:
            problem += (
                ", or predict one mask for all classes with model.roi_heads.mask_head.loss."
                "_target_=mask_rcnn_repro.modeling.ClassAgnosticMaskLoss"
            )
        yield problem


def _channels(cfg: DictConfig) -> Iterator[str]:
    """Mapper, pixel means and network must agree on the channels of an image."""
    expected = effective(cfg, "model.input_format")
    for split in ("train", "test"):
        key = f"dataloader.{split}.mapper.image_format"
        found = effective(cfg, key)
        if isinstance(expected, str) and isinstance(found, str) and found != expected:
            yield f"{key} is {found}, but model.input_format is {expected}; make them equal"
    channels = _CHANNELS.get(expected) if isinstance(expected, str) else None
    values = {key: effective(cfg, key) for key in ("model.pixel_mean", "model.pixel_std")}
    sequences = (list, tuple, ListConfig)
    lengths = {key: len(v) for key, v in values.items() if isinstance(v, sequences)}
    for key, length in lengths.items():
        if channels is not None and length != channels:
            yield (
                f"{key} has {length} value(s), but an image in model.input_format={expected} has "
                f"{channels} channel(s); give {channels} value(s)"
            )
    if channels is None and len(set(lengths.values())) > 1:
        yield f"model.pixel_mean and model.pixel_std differ in length: {list(lengths.values())}"
    for key in ("model.backbone.bottom_up.in_channels", "model.backbone.in_channels"):
        taken = effective(cfg, key)
        if channels is not None and isinstance(taken, int) and taken != channels:
            yield (
                f"{key} is {taken}, but an image in model.input_format={expected} has {channels} "
                f"channel(s); set {key}={channels} and give weights of such a network, or keep "
                "BGR: gray images are read as three equal channels"
            )


def _branches(cfg: DictConfig) -> Iterator[str]:
    """Detectron2 builds a branch if it has input features, whether or not it has a head."""
    for branch in ("mask", "keypoint"):
        place = f"model.roi_heads.{branch}_"
        features = effective(cfg, f"{place}in_features")
        if effective(cfg, f"{place}head") is not None:
            target = OmegaConf.select(cfg, "model.roi_heads._target_")
            if features is None and f"{branch}_in_features" in target_signature(target).params:
                yield (
                    f"{place}head would never run, because {place}in_features is null; set it, "
                    f'such as {place}in_features="${{.box_in_features}}", or set {place}head=null'
                )
        elif features is not None:
            yield (
                f"{place}head is null, but {place}in_features is not; set {place}in_features=null "
                f"and {place}pooler=null, too. {place}head=null on the command line sets both"
            )


def _proposals(cfg: DictConfig) -> Iterator[str]:
    """Without a proposal generator the data loader must load proposals."""
    if "proposal_generator" not in cfg.model or cfg.model.proposal_generator is not None:
        if OmegaConf.select(cfg, "train.tta.average_boxes"):
            yield (
                "train.tta.average_boxes=true averages over stored proposals, which the model does "
                "not take; set it to false, or test a model without an RPN"
            )
        return
    key = "dataloader.train.mapper.precomputed_proposal_topk"
    if effective(cfg, key) is None:
        yield (
            f"model.proposal_generator is null, so the data loader must load proposals, but {key} "
            "is null; set it and give data with proposals, or keep the RPN"
        )


def _stages(cfg: DictConfig) -> Iterator[str]:
    """Configs that this one depends on must exist; frozen weights must be loaded."""
    named = {key: cfg.train.get(key) for key in ("proposals", "init_from", "statistics_from")}
    for key, name in {**named, "init_checkpoint": stage_of(str(cfg.train.init_checkpoint))}.items():
        try:
            if name is not None:
                find_config(name)
        except ConfigError as error:
            yield f"train.{key}={cfg.train[key]!r} names no config: {str(error).rstrip('.')}"
    started = cfg.train.get("init_from") or cfg.train.get("init_checkpoint")
    if cfg.train.get("init_classes") is not None and not started:
        yield (
            "train.init_classes maps the classes of initial weights, but there are none; give "
            "train.init_from or train.init_checkpoint, or set train.init_classes=null"
        )
    for key, default in (("init_classes_of", None), ("init_classes_random", "layer")):
        if cfg.train.get(key, default) != default and cfg.train.get("init_classes") is None:
            yield (
                f"train.{key} has no effect while train.init_classes is null; match classes by "
                "name with train.init_classes='{}'"
            )
    frozen = list(cfg.train.get("freeze") or [])
    if frozen and not started:
        give = "train.init_from or train.init_checkpoint"
        yield f"train.freeze={frozen} freezes random weights; give {give}"


def _evaluations(cfg: DictConfig) -> Iterator[str]:
    metric = effective(cfg, "train.early_stopping.metric")
    if metric is not None and cfg.train.eval_period == 0:
        yield (
            f"train.early_stopping.metric={metric} needs evaluations during the training, but "
            "train.eval_period is 0; set the iterations between two, such as "
            f"train.eval_period={max(cfg.train.max_iter // 10, 1)}"
        )


def _annotations(cfg: DictConfig) -> Iterator[str]:
    """Heads that learn from masks or keypoints need a mapper that loads them."""
    for head, switch in (("mask_head", "use_instance_mask"), ("keypoint_head", "use_keypoint")):
        key = f"dataloader.train.mapper.{switch}"
        if effective(cfg, f"model.roi_heads.{head}") is not None and effective(cfg, key) is False:
            yield (
                f"model.roi_heads.{head} learns from annotations that the mapper omits; set "
                f"{key}=true, or model.roi_heads.{head}=null"
            )


def _sizes(cfg: DictConfig) -> Iterator[str]:
    """Shorter edges must not exceed the limit of the longer edge."""
    for split in ("train", "test"):
        place = f"dataloader.{split}.mapper.augmentations"
        augmentations = effective(cfg, place)
        if not isinstance(augmentations, ListConfig):
            continue
        for index, node in enumerate(augmentations):
            if not isinstance(node, DictConfig) or "short_edge_length" not in node:
                continue
            shortest = node.short_edge_length
            lengths = list(shortest) if isinstance(shortest, ListConfig) else [shortest]
            numbers = [n for n in lengths if isinstance(n, (int, float))]
            longest = effective(cfg, f"{place}.{index}.max_size")
            if numbers and min(numbers) < 1:
                yield f"{place}.{index}.short_edge_length must be at least 1, got {min(numbers)}"
            if numbers and isinstance(longest, int) and max(numbers) > longest:
                yield (
                    f"{place}.{index}: short_edge_length {max(numbers)} is larger than max_size "
                    f"{longest}, so images could never reach it; raise max_size"
                )


def _multi_step(node: Any) -> bool:
    try:
        return is_node(node) and target_name(node._target_) == _MULTI_STEP
    except ConfigError:
        return False


def _schedule(cfg: DictConfig) -> Iterator[str]:
    """The schedule must be as long as the training, and its milestones must lie within it."""
    for key in ("lr_multiplier", "lr_multiplier.scheduler"):
        scheduler = OmegaConf.select(cfg, key)
        if not _multi_step(scheduler):
            continue
        updates = effective(cfg, f"{key}.num_updates")
        milestones = list(effective(cfg, f"{key}.milestones") or [])
        if updates is None:
            return  # milestones are fractions of the last one, at any length
        if updates != cfg.train.max_iter:
            yield (
                f"{key}.num_updates is {updates}, but train.max_iter is {cfg.train.max_iter}; "
                f'write {key}.num_updates="${{train.max_iter}}"'
            )
        elif milestones and milestones[-1] >= updates > 0:
            scaled = [max(1, round(m * 0.9 * updates / milestones[-1])) for m in milestones]
            yield (
                f"{key}.milestones {milestones} do not lie within train.max_iter = {updates}; "
                f"scale them, such as {key}.milestones={scaled}".replace(", ", ",")
            )
    own_length = effective(cfg, "lr_multiplier.max_iter")
    if isinstance(own_length, int) and own_length != cfg.train.max_iter:
        yield (
            f"lr_multiplier.max_iter is {own_length}, but train.max_iter is {cfg.train.max_iter}; "
            'write lr_multiplier.max_iter="${train.max_iter}"'
        )
    milestones = effective(cfg, "lr_multiplier.milestones")
    late = [m for m in milestones or [] if isinstance(m, int) and m >= cfg.train.max_iter]
    if late and cfg.train.max_iter > 0:
        _logger.warning(
            "The learning rate never drops at %s: training ends at iteration %d.",
            ", ".join(map(str, late)),
            cfg.train.max_iter,
        )
    length = effective(cfg, "lr_multiplier.warmup_length")
    if isinstance(length, (int, float)) and not 0 <= length <= 1:
        yield (
            f"lr_multiplier.warmup_length is a fraction of the training from 0 to 1, got {length}; "
            "divide the warm-up iterations by train.max_iter"
        )


def _batch(cfg: DictConfig, world_size: int | None) -> Iterator[str]:
    """Every process must get the same number of images."""
    batch = effective(cfg, "dataloader.train.total_batch_size")
    if not isinstance(batch, int):
        return
    if batch < 1:
        yield f"dataloader.train.total_batch_size must be at least 1, got {batch}"
    elif world_size is not None and batch % world_size:
        below = max(batch // world_size, 1) * world_size
        multiples = sorted({below, -(-batch // world_size) * world_size})
        yield (
            f"dataloader.train.total_batch_size {batch} does not divide among {world_size} "
            f"processes; set it to {' or '.join(map(str, multiples))}, or change --num-gpus"
        )
