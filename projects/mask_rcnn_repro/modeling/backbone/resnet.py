"""ResNet and ResNeXt backbones of any width, and their last stage as a RoI head (C4).

All functions return Detectron2's modules, and its published checkpoints can be loaded.
``ResNet.make_default_stages`` of Detectron2 does not serve: it fixes the widths, and 64 groups
would become 64x1d instead of 64x4d.

Stages are numbered as in feature names: the stem is stage 1, ``res2`` is 2 and ``res5`` is 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from torch import nn

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.modeling.backbone.non_local import insert_non_local
from mask_rcnn_repro.modeling.backbone.norm import fold_frozen_norms, resolve_norm

# Residual blocks in stages 2 to 5 (He et al., "Deep Residual Learning", table 1).
BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class ResNetWidths(NamedTuple):
    """Channel counts of a network. Each stage after stage 2 doubles those of stage 2."""

    stem: int  # output channels of the stem
    res2: int  # output channels of stage 2
    groups: int  # groups of each 3x3 convolution, in all stages
    bottleneck: int  # of stage 2's 3x3 convolutions, all groups together; unused in ResNet-18/34

    def out_channels(self, stage: int) -> int:
        """Output channels of stage 2 to 5."""
        return self.res2 * 2 ** (stage - 2)

    def bottleneck_channels(self, stage: int) -> int:
        """Channels of the 3x3 convolutions of stage 2 to 5."""
        return self.bottleneck * 2 ** (stage - 2)


def _is_basic(depth: int) -> bool:
    if depth not in BLOCKS_PER_STAGE:
        allowed = ", ".join(map(str, BLOCKS_PER_STAGE))
        raise ConfigError(f"ResNet depth={depth} is unknown; allowed: {allowed}")
    return depth < 50


def _scaled(name: str, value: int, multiplier: float) -> int:
    scaled = value * multiplier
    if scaled < 1 or abs(scaled - round(scaled)) > 1e-6:
        raise ConfigError(
            f"width_multiplier={multiplier} makes {name} {value} x {multiplier} = {scaled:g}, which"
            f" must be a positive whole number. Use a multiple of 1/{value}, or change {name}."
        )
    return round(scaled)


def resnet_widths(
    depth: int,
    *,
    stem_out_channels: int = 64,
    res2_out_channels: int | None = None,
    num_groups: int = 1,
    width_per_group: int = 64,
    width_multiplier: float = 1.0,
) -> ResNetWidths:
    """Computes channel counts from the width arguments of this module's functions.

    Args:
        depth: 18, 34, 50, 101 or 152.
        stem_out_channels: Before the multiplier.
        res2_out_channels: Before the multiplier; None is the standard 256, and 64 for ResNet-18/34.
        num_groups: Cardinality (64 in 64x4d).
        width_per_group: Stage 2's bottleneck width of one group (4 in 64x4d).
        width_multiplier: Scales every channel count. In grouped networks it scales the number of
            groups and keeps their width: 64x4d at 1/8 is 8x4d.

    Raises:
        ConfigError: For an unknown depth, groups in ResNet-18/34, or widths that are not positive
            whole numbers.
    """
    if _is_basic(depth) and num_groups != 1:
        raise ConfigError(f"num_groups={num_groups} needs depth 50, 101 or 152; got depth={depth}")
    if res2_out_channels is None:
        res2_out_channels = 64 if _is_basic(depth) else 256
    numbers = {"num_groups": num_groups, "width_per_group": width_per_group}
    channels = {"stem_out_channels": stem_out_channels, "res2_out_channels": res2_out_channels}
    for name, value in {**channels, **numbers}.items():
        if value < 1:
            raise ConfigError(f"{name}={value} must be positive")
    groups, per_group = num_groups, width_per_group
    if num_groups > 1:
        groups = _scaled("num_groups", num_groups, width_multiplier)
    elif not _is_basic(depth):
        per_group = _scaled("width_per_group", width_per_group, width_multiplier)
    stem, res2 = (_scaled(name, value, width_multiplier) for name, value in channels.items())
    return ResNetWidths(stem, res2, groups, bottleneck=groups * per_group)


def resnet_channels(
    stage: int, depth: int, *, res2_out_channels: int | None = None, width_multiplier: float = 1.0
) -> int:
    """Output channels of stage 2 to 5, for configs whose heads follow the backbone's width.

    Other arguments are those of :func:`build_resnet`. Stage 5 of a standard ResNet-50 has 2048.

    Raises:
        ConfigError: As :func:`resnet_widths`, and for another stage.
    """
    if stage not in (2, 3, 4, 5):
        raise ConfigError(f"stage={stage} is unknown; allowed: 2, 3, 4, 5")
    standard = 64 if _is_basic(depth) else 256
    if res2_out_channels is None:
        res2_out_channels = standard
    return _scaled("res2_out_channels", res2_out_channels, width_multiplier) * 2 ** (stage - 2)


def _make_stage(
    stage: int,
    depth: int,
    widths: ResNetWidths,
    norm: str,
    first_stride: int,
    stride_in_1x1: bool,
    dilation: int = 1,
) -> list[CNNBlockBase]:
    num_blocks = BLOCKS_PER_STAGE[depth][stage - 2]
    arguments: dict[str, Any] = {
        "stride_per_block": [first_stride] + [1] * (num_blocks - 1),
        "in_channels": widths.stem if stage == 2 else widths.out_channels(stage - 1),
        "out_channels": widths.out_channels(stage),
        "norm": resolve_norm(norm),
    }
    if _is_basic(depth):
        block = BasicBlock
    else:
        block = BottleneckBlock
        arguments.update(
            bottleneck_channels=widths.bottleneck_channels(stage),
            num_groups=widths.groups,
            stride_in_1x1=stride_in_1x1,
            dilation=dilation,
        )
    blocks: list[CNNBlockBase] = ResNet.make_stage(block, num_blocks, **arguments)
    return blocks


def build_resnet(
    depth: int,
    *,
    out_features: Sequence[str],
    in_channels: int = 3,
    stem_out_channels: int = 64,
    res2_out_channels: int | None = None,
    num_groups: int = 1,
    width_per_group: int = 64,
    width_multiplier: float = 1.0,
    norm: str = "FrozenBN",
    stride_in_1x1: bool = False,
    res5_dilation: int = 1,
    freeze_at: int = 2,
    non_local: Sequence[str] = (),
    num_classes: int | None = None,
) -> ResNet:
    """Builds a ResNet or ResNeXt up to the last of ``out_features``.

    Args:
        depth: 18, 34, 50, 101 or 152.
        out_features: Which of ``stem``, ``res2`` ... ``res5`` to return; ``["linear"]`` is the
            logits of a classifier.
        in_channels: Channels of the image.
        stem_out_channels: See :func:`resnet_widths`, like the next four.
        res2_out_channels: None is the standard width of the depth.
        num_groups: 1 is a ResNet, more a ResNeXt.
        width_per_group: 64x4d is ``num_groups=64, width_per_group=4``.
        width_multiplier: Narrows or widens the whole network.
        norm: One of :data:`~mask_rcnn_repro.modeling.backbone.norm.NORMS`.
        stride_in_1x1: Whether the 1x1 convolution of a bottleneck has the stride, as in the MSRA
            ResNet-50/101 weights, or the 3x3 one, as in ResNeXt's. Unused in ResNet-18/34.
        res5_dilation: 2 keeps stage 5 at stride 16 with dilated convolutions.
        freeze_at: Number of frozen stages: 0 none, 1 the stem, 2 stem and ``res2``, ...
        non_local: Stages with a non-local block before their last residual block, such as
            ``["res4"]`` (:func:`~mask_rcnn_repro.modeling.backbone.non_local.insert_non_local`).
        num_classes: Number of logits of a classifier; None for none.

    Returns:
        Detectron2's module; maps (N, 3, H, W) normalized images to {name: (N, C, H / s, W / s)}, or
        to {"linear": (N, num_classes)}.

    Raises:
        ConfigError: As :func:`resnet_widths`, for unknown features, norms or dilations, and for
            non-local blocks in missing or frozen stages.
    """
    widths = resnet_widths(
        depth,
        stem_out_channels=stem_out_channels,
        res2_out_channels=res2_out_channels,
        num_groups=num_groups,
        width_per_group=width_per_group,
        width_multiplier=width_multiplier,
    )
    allowed = ("stem", "res2", "res3", "res4", "res5")
    classifies = num_classes is not None and list(out_features) == ["linear"]
    if classifies:
        out_features = ["res5"]
    if not out_features or any(name not in allowed for name in out_features):
        raise ConfigError(
            f"out_features={list(out_features)} must name at least one of {', '.join(allowed)}"
        )
    if res5_dilation not in (1, 2) or (res5_dilation == 2 and _is_basic(depth)):
        raise ConfigError(
            f"res5_dilation={res5_dilation} at depth={depth}: allowed are 1, and 2 from depth 50 on"
        )
    last = max(2, *(1 + allowed.index(name) for name in out_features))
    stages = []
    for stage in range(2, last + 1):
        dilation = res5_dilation if stage == 5 else 1
        stride = 1 if stage == 2 or dilation == 2 else 2
        stages.append(_make_stage(stage, depth, widths, norm, stride, stride_in_1x1, dilation))
    stem = BasicStem(in_channels=in_channels, out_channels=widths.stem, norm=resolve_norm(norm))
    features = None if classifies else list(out_features)  # None: of the last layer
    network = ResNet(stem, stages, num_classes if classifies else None, features, freeze_at)
    insert_non_local(network, non_local, norm, freeze_at)
    fold_frozen_norms(network)
    return network


def build_res5(
    depth: int,
    *,
    res2_out_channels: int | None = None,
    num_groups: int = 1,
    width_per_group: int = 64,
    width_multiplier: float = 1.0,
    norm: str = "FrozenBN",
    stride_in_1x1: bool = False,
    first_stride: int = 1,
) -> nn.Sequential:
    """Stage 5 as a head on RoI features (figure 4, left): 7x7x1024 -> 7x7x2048 in ResNet-50/101.

    Args:
        depth: As in :func:`build_resnet`, like all but the last; use the backbone's values.
        res2_out_channels: Input channels are 4 times, output channels 8 times this.
        num_groups: See :func:`resnet_widths`, like the next two.
        width_per_group: Stage 2's bottleneck width of one group.
        width_multiplier: Scales every channel count.
        norm: Normalization layers.
        stride_in_1x1: Matters only if ``first_stride`` is 2.
        first_stride: Stride of the first block: 1 in the paper, on a 7x7 RoI; 2 in Detectron2, on a
            14x14 RoI.

    Returns:
        Blocks that map (R, C, h, w) to (R, 2 C, h / first_stride, w / first_stride); R may be 0.

    Raises:
        ConfigError: As :func:`resnet_widths`, and for another stride.
    """
    if first_stride not in (1, 2):
        raise ConfigError(f"first_stride={first_stride} must be 1 (the paper) or 2 (Detectron2)")
    widths = resnet_widths(
        depth,
        res2_out_channels=res2_out_channels,
        num_groups=num_groups,
        width_per_group=width_per_group,
        width_multiplier=width_multiplier,
    )
    head = nn.Sequential(*_make_stage(5, depth, widths, norm, first_stride, stride_in_1x1))
    fold_frozen_norms(head)
    return head


def res5_shape(
    depth: int,
    *,
    resolution: int,
    first_stride: int = 1,
    res2_out_channels: int | None = None,
    width_multiplier: float = 1.0,
) -> ShapeSpec:
    """Shape of the output of :func:`build_res5` for pooled RoIs of side ``resolution``.

    The other arguments are those of :func:`build_res5`.

    Raises:
        ConfigError: As :func:`resnet_channels`.
    """
    channels = resnet_channels(
        5, depth, res2_out_channels=res2_out_channels, width_multiplier=width_multiplier
    )
    side = -(-resolution // first_stride)
    return ShapeSpec(channels=channels, height=side, width=side)


def resnet_width_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Reads the arguments of :func:`build_res5`, except ``first_stride``, from a yacs config."""
    resnets = cfg.MODEL.RESNETS
    return {
        "depth": resnets.DEPTH,
        "res2_out_channels": resnets.RES2_OUT_CHANNELS,
        "num_groups": resnets.NUM_GROUPS,
        "width_per_group": resnets.WIDTH_PER_GROUP,
        "width_multiplier": resnets.WIDTH_MULTIPLIER,
        "norm": resnets.NORM,
        "stride_in_1x1": resnets.STRIDE_IN_1X1,
    }


@BACKBONE_REGISTRY.register()
def build_mask_rcnn_repro_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """:func:`build_resnet` from Detectron2's yacs keys, ``WIDTH_MULTIPLIER`` and ``NON_LOCAL``."""
    return build_resnet(
        **resnet_width_arguments(cfg),
        in_channels=input_shape.channels,
        stem_out_channels=cfg.MODEL.RESNETS.STEM_OUT_CHANNELS,
        res5_dilation=cfg.MODEL.RESNETS.RES5_DILATION,
        out_features=cfg.MODEL.RESNETS.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        non_local=cfg.MODEL.RESNETS.NON_LOCAL,
    )
