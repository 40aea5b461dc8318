"""Mixed precision: the type to compute in and the autocast context that a config asks for."""

from __future__ import annotations

import contextlib
import functools
import logging
import platform
from typing import Any

import torch

from mask_rcnn_repro.errors import ConfigError

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
logger = logging.getLogger(__name__)


@functools.cache
def cpu_has_bf16() -> bool:
    """Whether this CPU has bf16 instructions that oneDNN uses. Elsewhere, bf16 is emulated.

    oneDNN also counts x86 CPUs with AVX512 but without AVX512_BF16 (Skylake, Cascade Lake, Ice
    Lake). Emulated there, a convolution takes 1.5 to 4 times as long as in float32.
    """
    try:
        supported = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # PyTorch was built without oneDNN
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return supported
    return supported and torch.cpu._is_avx512_bf16_supported()


def compute_dtype(device: torch.device, enabled: bool, dtype: str) -> torch.dtype:
    """Returns the type in which autocast computes: that of the config, or float32.

    It is float32 if mixed precision is disabled, and in place of bf16 on a CPU without bf16
    instructions, where a training step in bf16 takes 2 to 35 times as long as in float32.

    Args:
        device: Device of the model.
        enabled: `train.amp.enabled`.
        dtype: `train.amp.dtype`, "bf16" or "fp16".

    Raises:
        ConfigError: Fp16 is asked for on a CPU.
    """
    if not enabled:
        return torch.float32
    if dtype == "fp16" and device.type != "cuda":
        raise ConfigError(
            f"train.amp.dtype is fp16 but the device is {device.type}; fp16 needs CUDA. "
            "Use train.amp.dtype=bf16 or train.amp.enabled=false."
        )
    if device.type == "cpu" and not cpu_has_bf16():
        _log_float32()
        return torch.float32
    return AMP_DTYPES[dtype]


@functools.cache
def _log_float32() -> None:
    logger.info("This CPU has no bf16 instructions: float32 is used in place of train.amp's bf16.")


def autocast_context(
    device: torch.device, enabled: bool, dtype: str
) -> contextlib.AbstractContextManager[Any]:
    """Returns autocast for `device` in :func:`compute_dtype`, or a null context for float32."""
    chosen = compute_dtype(device, enabled, dtype)
    if chosen == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, chosen)
