"""Data sets, their registration, mappers and loaders.

Names are resolved when they are first used, so that the embedded data set can be generated without
importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mask_rcnn_repro.data.cityscapes import get_cityscapes_dicts, load_cityscapes
    from mask_rcnn_repro.data.dicts import (
        check_num_classes,
        dataset_info,
        dataset_keypoints,
        get_test_dicts,
        get_training_dicts,
    )
    from mask_rcnn_repro.data.fingerprint import dataset_fingerprint
    from mask_rcnn_repro.data.loader import build_test_loader, build_train_loader
    from mask_rcnn_repro.data.mapper import MaskRCNNMapper
    from mask_rcnn_repro.data.mixing import get_mixed_dicts
    from mask_rcnn_repro.data.proposal_writer import ProposalWriter
    from mask_rcnn_repro.data.proposals import ProposalFile, check_proposals, proposals_exist
    from mask_rcnn_repro.data.registration import register_all_datasets, register_custom

_LAZY = {
    "MaskRCNNMapper": "mapper",
    "ProposalFile": "proposals",
    "ProposalWriter": "proposal_writer",
    "build_test_loader": "loader",
    "build_train_loader": "loader",
    "check_num_classes": "dicts",
    "check_proposals": "proposals",
    "dataset_fingerprint": "fingerprint",
    "dataset_info": "dicts",
    "dataset_keypoints": "dicts",
    "get_cityscapes_dicts": "cityscapes",
    "get_mixed_dicts": "mixing",
    "get_test_dicts": "dicts",
    "get_training_dicts": "dicts",
    "load_cityscapes": "cityscapes",
    "proposals_exist": "proposals",
    "register_all_datasets": "registration",
    "register_custom": "registration",
}

__all__ = [
    "MaskRCNNMapper",
    "ProposalFile",
    "ProposalWriter",
    "build_test_loader",
    "build_train_loader",
    "check_num_classes",
    "check_proposals",
    "dataset_fingerprint",
    "dataset_info",
    "dataset_keypoints",
    "get_cityscapes_dicts",
    "get_mixed_dicts",
    "get_test_dicts",
    "get_training_dicts",
    "load_cityscapes",
    "proposals_exist",
    "register_all_datasets",
    "register_custom",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
