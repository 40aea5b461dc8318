"""Configs: loading, profiles, overrides, validation, printing, comparing and saving.

====================  ==============================================================
file                  what
====================  ==============================================================
load.py               loads a config: file, profile, overrides, validation
config_files.py       finds config files by path or id
schema.py             the top-level keys, and the typed `train` section
profiles.py           the scales `paper`, `mini` and `tiny`
overrides.py          `key=value` from the command line
dotted_keys.py        parses keys, and finds known and similar ones
validation.py         checks every key and value
targets.py            parameters that a `_target_` accepts
typecheck.py          whether a value fits a parameter
combinations.py       values that cannot work together
stored_proposals.py   what `train.proposals` implies
from_data.py          what follows from the training data
serialization.py      a config as plain data: printed, saved, hashed
yaml_io.py            YAML without running code
diff.py               differences of two configs
output_dir.py         output directories of runs
yacs.py               keys for Detectron2's yacs configs
====================  ==============================================================
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mask_rcnn_repro.config.config_files import (
        config_id,
        config_root,
        find_config,
        list_configs,
    )
    from mask_rcnn_repro.config.diff import ABSENT, diff_configs, format_diff
    from mask_rcnn_repro.config.load import get_config, load_config
    from mask_rcnn_repro.config.output_dir import claim_output_dir, default_output_dir
    from mask_rcnn_repro.config.overrides import Override, apply_overrides, parse_override
    from mask_rcnn_repro.config.schema import train_defaults
    from mask_rcnn_repro.config.serialization import (
        config_hash,
        format_config,
        save_config,
        to_plain,
    )
    from mask_rcnn_repro.config.validation import validate_config

_MODULES = ("config_files", "schema", "serialization", "load", "output_dir", "diff", "overrides")
"""Where the names below are, searched in this order: some are needed before Detectron2 is."""

__all__ = [
    "ABSENT", "Override", "apply_overrides", "claim_output_dir", "config_hash", "config_id",
    "config_root", "default_output_dir", "diff_configs", "find_config", "format_config",
    "format_diff", "get_config", "list_configs", "load_config", "parse_override",
    "save_config", "to_plain", "train_defaults", "validate_config",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for module in _MODULES if name in __all__ else ():
        found = vars(importlib.import_module(f"{__name__}.{module}"))
        if name in found:
            return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
