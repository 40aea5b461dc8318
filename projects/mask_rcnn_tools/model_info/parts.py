"""Parts of a model by the names of its modules."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

PARTS = (
    "backbone",
    "FPN",
    "RPN",
    "stage 5 of RoIs",
    "box branch",
    "mask branch",
    "keypoint branch",
    "other",
)

_PREFIXES = (  # the first match counts
    ("backbone.fpn_", "FPN"),
    ("backbone.top_block", "FPN"),
    ("backbone.", "backbone"),
    ("proposal_generator.", "RPN"),
    ("roi_heads.res5", "stage 5 of RoIs"),
    ("roi_heads.box_", "box branch"),
    ("roi_heads.mask_", "mask branch"),
    ("roi_heads.keypoint_", "keypoint branch"),
)


@dataclass
class Part:
    """Cost of a part of a network.

    Attributes:
        parameters: Number of weights and biases, without normalization statistics.
        trainable: Number of trained ones.
        flops: Multiply-adds by operator.
    """

    parameters: int = 0
    trainable: int = 0
    flops: dict[str, float] = field(default_factory=dict)

    @property
    def total_flops(self) -> float:
        """Multiply-adds of all operators."""
        return sum(self.flops.values())


def part_of(name: str) -> str:
    """Returns the part of a parameter or module of a Detectron2 model by its full name."""
    return next((part for prefix, part in _PREFIXES if name.startswith(prefix)), "other")


def count_parameters(model: nn.Module) -> dict[str, Part]:
    """Counts parameters by part. Shared parameters count once; absent parts are omitted."""
    parts: dict[str, Part] = {}
    for name, parameter in model.named_parameters():
        part = parts.setdefault(part_of(name), Part())
        part.parameters += parameter.numel()
        part.trainable += parameter.numel() * parameter.requires_grad
    return parts
