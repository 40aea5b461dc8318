"""Mixed precision: the autocast context that a config asks for."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from mask_rcnn_repro.errors import ConfigError

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_context(
    device: torch.device, enabled: bool, dtype: str
) -> contextlib.AbstractContextManager[Any]:
    """Returns autocast for `device` with `dtype` ("bf16" or "fp16"), or a null context."""
    if not enabled:
        return contextlib.nullcontext()
    if dtype == "fp16" and device.type != "cuda":
        raise ConfigError(
            f"train.amp.dtype is fp16 but the device is {device.type}; fp16 needs CUDA. "
            "Use train.amp.dtype=bf16 or train.amp.enabled=false."
        )
    return torch.autocast(device.type, AMP_DTYPES[dtype])
