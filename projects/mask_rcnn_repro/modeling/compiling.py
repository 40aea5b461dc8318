"""Parts of a model compiled by PyTorch (`train.compile`), which starts fewer kernels on a GPU.

| part | reason |
|---|---|
| backbone, RPN head, box head, `res5` | compiled: they map tensors to tensors |
| mask and keypoint heads, losses, RoI layers, NMS | not: their work depends on the objects found |
"""

from __future__ import annotations

import torch
from torch import nn

from mask_rcnn_repro.errors import ConfigError

HEADS = ("proposal_generator.rpn_head", "roi_heads.res5", "roi_heads.box_head")
PARTS = {"heads": HEADS, "all": ("backbone", *HEADS)}


def compile_parts(model: nn.Module, which: str, device: torch.device) -> None:
    """Compiles parts in place, once for maps of any size. Numbers are equal up to rounding.

    Names of weights stay. Copies of the model are not compiled.

    Args:
        model: Detection model on `device`. Parts that it does not have are skipped.
        which: A key of :data:`PARTS`.
        device: Device of the model.

    Raises:
        ConfigError: If PyTorch cannot compile here.
    """
    try:
        torch.compile(lambda x: x + 1, dynamic=True)(torch.ones(2, device=device))
    except Exception as error:  # of many classes
        raise ConfigError(
            f"train.compile is {which!r}, but PyTorch cannot compile here: "
            f"{str(error).strip().splitlines()[0]} A GPU needs Triton, a CPU a C++ compiler. "
            "Use train.compile=off."
        ) from error
    for name in PARTS[which]:
        try:
            part = model.get_submodule(name)
        except AttributeError:
            continue
        part.compile(dynamic=True)
