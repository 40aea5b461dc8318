"""FLOPs of a model's parts, with fvcore.

Each part is traced alone, so the numbers of proposals and detections do not depend on random
weights: backbone and RPN head on an empty image, RoI branches with one and with two RoIs. Any
other number follows, because their cost is linear. Tracing computes, because PyTorch's `meta`
device does not support traced convolutions.

Shapes: (H, W) the network's input; R RoIs.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from fvcore.nn import FlopCountAnalysis
from torch import nn

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_tools.model_info.parts import part_of

OUTSIDE = (
    "anchors",
    "decoding, sorting and suppression of boxes (NMS)",
    "choice of a pyramid level",
    "reading keypoints off their maps",
    "pasting of masks",
)
"""Steps between the parts, which are not counted."""

_FREE = (
    # elementwise operators, comparisons and copies are not counted, as in Detectron2's
    # analyze_model; batch_norm is merged into convolutions at inference
    *("add", "add_", "sub", "sub_", "rsub", "mul", "mul_", "div", "div_", "neg", "reciprocal"),
    *("exp", "log", "log2", "sqrt", "pow", "floor", "clamp", "clamp_", "clamp_min", "abs"),
    *("relu", "relu_", "sigmoid", "sigmoid_", "softmax", "batch_norm", "max_pool2d"),
    *("eq", "ne", "lt", "le", "gt", "ge", "where", "bitwise_and", "bitwise_not", "logical_and"),
    *("max", "min", "amax", "argmax", "argsort", "sort", "topk", "mean", "sum", "remainder"),
    *("index_put_", "nonzero", "nonzero_numpy", "repeat_interleave", "meshgrid", "fill_"),
    *("constant_pad_nd", "clone", "copy_", "split_with_sizes", "full_like", "floor_divide"),
    *("masked_fill", "index_select", "gather", "expand_as", "repeat", "frac", "unflatten"),
)


@dataclass
class Flops:
    """Counts of a trace.

    Attributes:
        by_part: Multiply-adds by part and operator.
        uncounted: Numbers of calls of operators that fvcore does not know.
    """

    by_part: dict[str, Counter[str]] = field(default_factory=dict)
    uncounted: Counter[str] = field(default_factory=Counter)

    def add(self, other: Flops) -> None:
        """Adds another trace's counts."""
        for part, counts in other.by_part.items():
            self.by_part.setdefault(part, Counter()).update(counts)
        self.uncounted.update(other.uncounted)


class _Call(nn.Module):
    """Makes a traceable module of a call. Keeps the names of the model's modules."""

    def __init__(self, model: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self._call = call

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(_tensors(self._call(*tensors)))


BackboneCache = dict[tuple[str, tuple[int, int]], tuple[Flops, dict[str, list[int]]]]
"""Counts and map shapes of backbones by their repr and (H, W)."""


def count_flops(
    model: nn.Module,
    height: int,
    width: int,
    proposals: int,
    detections: int,
    cache: BackboneCache | None = None,
) -> Flops:
    """Counts the FLOPs of one image.

    Args:
        model: GeneralizedRCNN or ProposalNetwork on the CPU; not changed.
        height: H in pixels before padding.
        width: W in pixels before padding.
        proposals: R of the box branch.
        detections: R of the mask and keypoint branches.
        cache: Cache of backbones.

    Raises:
        ConfigError: The type of the RoI heads is not supported.
    """
    backbone: Any = model.backbone
    step = max(int(backbone.size_divisibility), 1)
    size = math.ceil(height / step) * step, math.ceil(width / step) * step
    network: Any = copy.deepcopy(model).eval().cpu()
    total = Flops()
    key = repr(network.backbone), size
    cache = {} if cache is None else cache
    if key not in cache:
        cache[key] = _count_backbone(network, size)
    counts, shapes = cache[key]
    total.add(counts)
    features = {name: torch.zeros(shape) for name, shape in shapes.items()}
    if network.proposal_generator is not None:
        maps = tuple(features[name] for name in network.proposal_generator.in_features)
        head = network.proposal_generator.rpn_head
        total.add(_trace(network, lambda *maps: head(list(maps)), maps, "RPN"))
    if getattr(model, "roi_heads", None) is not None:
        total.add(_count_rois(network, features, size, proposals, detections))
    return total


def _count_backbone(network: Any, size: tuple[int, int]) -> tuple[Flops, dict[str, list[int]]]:
    """Returns the counts and the shapes of the feature maps."""
    shapes: dict[str, list[int]] = {}

    def call(image: torch.Tensor) -> Any:
        maps = network.backbone(image)
        shapes.update({name: [int(n) for n in value.shape] for name, value in maps.items()})
        return maps

    return _trace(network, call, (torch.zeros(1, 3, *size),), "backbone"), shapes


def _count_rois(
    model: nn.Module,
    features: Mapping[str, torch.Tensor],
    size: tuple[int, int],
    proposals: int,
    detections: int,
) -> Flops:
    heads: Any = model.roi_heads
    names, maps = list(features), tuple(features.values())

    def boxes(count: int) -> Boxes:
        corners = [0.0, 0.0, size[1] / 4, size[0] / 4]
        return Boxes(torch.tensor([corners]).repeat(count, 1))

    def box_branch(count: int) -> Flops:
        def call(*tensors: torch.Tensor) -> Any:
            given = dict(zip(names, tensors, strict=True))
            if hasattr(heads, "box_pooler"):
                chosen = [given[name] for name in heads.box_in_features]
                return heads.box_predictor(heads.box_head(heads.box_pooler(chosen, [boxes(count)])))
            if hasattr(heads, "_shared_roi_transform"):
                chosen = [given[name] for name in heads.in_features]
                pooled = heads._shared_roi_transform(chosen, [boxes(count)])
                return heads.box_predictor(pooled.mean(dim=[2, 3]))
            raise ConfigError(
                f"The FLOPs of {type(heads).__name__} are unknown. Supported are Detectron2's "
                "StandardROIHeads and Res5ROIHeads."
            )

        return _trace(model, call, maps, "box branch")

    def other_branches(count: int) -> Flops:
        def call(*tensors: torch.Tensor) -> Any:
            given = dict(zip(names, tensors, strict=True))
            found = Instances(size)
            found.pred_boxes = boxes(count)
            found.scores = torch.ones(count)
            found.pred_classes = torch.zeros(count, dtype=torch.int64)
            done = heads.forward_with_given_boxes(given, [found])[0]
            kept = ("pred_masks", "pred_keypoints", "pred_keypoint_heatmaps")
            return [done.get(name) for name in kept if done.has(name)]

        return _trace(model, call, maps, "mask branch")

    total = _extrapolated(box_branch(1), box_branch(2), proposals)
    if getattr(heads, "mask_on", False) or getattr(heads, "keypoint_on", False):
        total.add(_extrapolated(other_branches(1), other_branches(2), detections))
    return total


def _extrapolated(one: Flops, two: Flops, count: int) -> Flops:
    """Returns the counts for any number of RoIs from those for one and two."""
    result = Flops(uncounted=one.uncounted)
    for part, counts in one.by_part.items():
        result.by_part[part] = Counter(
            {
                op: value + (count - 1) * (two.by_part[part][op] - value)
                for op, value in counts.items()
            }
        )
    return result


def _trace(
    model: nn.Module, call: Callable[..., Any], tensors: tuple[torch.Tensor, ...], rest: str
) -> Flops:
    """Counts a call. Operators outside of named parts count for the part `rest`."""
    analysis = FlopCountAnalysis(_Call(model, call), tensors)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    analysis.set_op_handle(**{f"aten::{name}": None for name in _FREE})
    analysis.set_op_handle("torchvision::roi_align", _roi_align)
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention)
    analysis.set_op_handle("torchvision::roi_pool", None)  # comparisons
    analysis.set_op_handle("torchvision::nms", None)  # between the parts, see OUTSIDE
    with torch.no_grad():
        counts = analysis.by_module_and_operator()
    result = Flops(uncounted=_uncounted(analysis))
    left = Counter(counts[""])
    owned: set[str] = set()
    for name in sorted(counts):  # a module before what it holds
        inside = name.removeprefix("model.")
        part = part_of(f"{inside}.")
        whole = inside == name or part == "other" or any(name.startswith(o) for o in owned)
        if whole or _holds_others(model, inside, part):
            continue
        owned.add(f"{name}.")
        result.by_part.setdefault(part, Counter()).update(counts[name])
        left.subtract(counts[name])
    result.by_part.setdefault(rest, Counter()).update(+left)
    return result


def _uncounted(analysis: FlopCountAnalysis) -> Counter[str]:
    """Returns numbers of calls of operators that fvcore does not know."""
    found = Counter(analysis.unsupported_ops())
    for name in analysis.by_module():
        # scripted functions of Detectron2 that OUTSIDE lists
        if name.rpartition(".")[2].endswith(("pooler", "keypoint_head")):
            calls = analysis.unsupported_ops(name)["prim::CallFunction"]
            found.subtract({"prim::CallFunction": calls})
    return +found


def _holds_others(model: nn.Module, name: str, part: str) -> bool:
    """Whether a module holds modules of another part."""
    return any(
        part_of(f"{name}.{inner}.") != part
        for inner, _ in model.get_submodule(name).named_modules()
        if inner
    )


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    return [tensor for item in value for tensor in _tensors(item)]


def _roi_align(inputs: list[Any], outputs: list[Any]) -> float:
    """Counts RoIAlign: 4 multiply-adds per bilinear sample of each output."""
    samples = int(inputs[5].toIValue())
    numbers = math.prod(outputs[0].type().sizes())
    return float(numbers * 4 * max(samples, 1) ** 2)


def _attention(inputs: list[Any], outputs: list[Any]) -> float:
    """Counts attention: queries with keys, and weights with values."""
    *batch, queries, channels = inputs[0].type().sizes()
    keys, width = inputs[2].type().sizes()[-2:]
    return float(math.prod(batch) * queries * keys * (channels + width))
