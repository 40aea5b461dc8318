"""Configs: loading, profiles, overrides, validation, printing, comparing and saving."""

from mask_rcnn_repro.config.canonical import config_hash, format_config, save_config, to_plain
from mask_rcnn_repro.config.diff import ABSENT, diff_configs, format_diff
from mask_rcnn_repro.config.load import get_config, load_config
from mask_rcnn_repro.config.locate import config_id, config_root, find_config, list_configs
from mask_rcnn_repro.config.output import claim_output_dir, default_output_dir
from mask_rcnn_repro.config.overrides import Override, apply_overrides, parse_override
from mask_rcnn_repro.config.schema import format_schema, train_defaults
from mask_rcnn_repro.config.validation import validate_config

__all__ = [
    "ABSENT",
    "Override",
    "apply_overrides",
    "claim_output_dir",
    "config_hash",
    "config_id",
    "config_root",
    "default_output_dir",
    "diff_configs",
    "find_config",
    "format_config",
    "format_diff",
    "format_schema",
    "get_config",
    "list_configs",
    "load_config",
    "parse_override",
    "save_config",
    "to_plain",
    "train_defaults",
    "validate_config",
]
