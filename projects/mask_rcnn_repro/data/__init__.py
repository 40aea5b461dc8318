"""Data sets, their registration, mappers and loaders.

Names are resolved when they are first used, so that the embedded data set can be generated without
importing torch.
"""
# ruff: noqa: F401 (the imports below are for type checkers)

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mask_rcnn_repro.data.cityscapes.load import load_cityscapes
    from mask_rcnn_repro.data.datasets import (
        dataset_info,
        dataset_keypoints,
        get_cityscapes_dicts,
        get_test_dicts,
        get_training_dicts,
    )
    from mask_rcnn_repro.data.fingerprint import dataset_fingerprint
    from mask_rcnn_repro.data.generated.mixed_dataset import get_mixed_dicts
    from mask_rcnn_repro.data.loading.loader import build_test_loader, build_train_loader
    from mask_rcnn_repro.data.loading.mapper import MaskRCNNMapper
    from mask_rcnn_repro.data.proposals.files import ProposalFile, check_proposals, proposals_exist
    from mask_rcnn_repro.data.proposals.writer import ProposalWriter
    from mask_rcnn_repro.data.registration import register_all_datasets, register_custom

_LAZY = {
    "MaskRCNNMapper": "loading.mapper",
    "ProposalFile": "proposals.files",
    "ProposalWriter": "proposals.writer",
    "build_test_loader": "loading.loader",
    "build_train_loader": "loading.loader",
    "check_proposals": "proposals.files",
    "dataset_fingerprint": "fingerprint",
    "dataset_info": "datasets",
    "dataset_keypoints": "datasets",
    "get_cityscapes_dicts": "datasets",
    "get_mixed_dicts": "generated.mixed_dataset",
    "get_test_dicts": "datasets",
    "get_training_dicts": "datasets",
    "load_cityscapes": "cityscapes.load",
    "proposals_exist": "proposals.files",
    "register_all_datasets": "registration",
    "register_custom": "registration",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
