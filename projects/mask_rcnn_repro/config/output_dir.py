"""Output directories: the name of a run's directory, and one config per directory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mask_rcnn_repro.config import schema
from mask_rcnn_repro.config.config_files import CONFIG_FILE
from mask_rcnn_repro.config.diff import diff_configs, format_diff
from mask_rcnn_repro.config.dotted_keys import format_key
from mask_rcnn_repro.config.overrides import parse_override
from mask_rcnn_repro.config.serialization import (
    NOT_HASHED,
    WHERE_KEYS,
    canonical,
    config_hash,
    save_config,
)
from mask_rcnn_repro.config.yaml_io import read_yaml
from mask_rcnn_repro.errors import ConfigError


def default_output_dir(
    config_id: str,
    profile: str,
    seed: int,
    overrides: Iterable[str] = (),
    ignore: Iterable[str] = (),
    root: str = "output",
) -> str:
    """The default of `train.output_dir`.

    Args:
        config_id: Such as `table2a/r50_c4`.
        profile: Omitted from the name if it is `paper`.
        seed: The run's seed.
        overrides: As on the command line. Their order and spelling (`1e-3`, `0.001`) do not
            matter; the last one of a key counts.
        ignore: Keys whose overrides do not count, besides `train.seed` and `WHERE_KEYS`.
        root: `train.output_root`.

    Returns:
        `<root>/<id>[@<profile>]/seed<k>[-<hash of the overrides>]`.
    """
    ignored = WHERE_KEYS | {"train.seed", *ignore}
    effect: dict[str, list[object]] = {}
    for text in overrides:
        override = parse_override(text)
        key = format_key(override.key)
        if key not in ignored:
            effect[key] = ["~"] if override.operation == "delete" else ["=", override.value]
    suffix = f"-{hashlib.sha256(canonical(effect).encode()).hexdigest()[:8]}" if effect else ""
    scale = "" if profile == "paper" else f"@{profile}"
    return f"{root}/{config_id}{scale}/seed{seed}{suffix}"


def claim_output_dir(output_dir: str | Path, cfg: DictConfig) -> Path:
    """Reserves an output directory for a config: writes the config there, or finds it there.

    To be called by one process of a run. Differences in `ABOUT_KEYS` and `WHERE_KEYS` are allowed,
    because they do not change what is computed.

    Args:
        output_dir: Created if it does not exist.
        cfg: The run's config.

    Returns:
        The directory.

    Raises:
        ConfigError: The directory holds another or an unreadable config, or cannot be created.
    """
    folder = Path(output_dir)
    file = folder / CONFIG_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            save_config(cfg, file)
            return folder
    except OSError as error:
        raise ConfigError(
            f"The output directory {folder} cannot be written to: {error}. Give another one with "
            "train.output_dir=FOLDER."
        ) from error
    other = _held_config(file)
    if other is None:
        raise ConfigError(
            f"{file} does not hold a config. Delete {folder}, or give another directory with "
            "train.output_dir=FOLDER."
        )
    if config_hash(other) == config_hash(cfg):
        return folder
    lines = format_diff(_differences(other, cfg), "there", "this run").splitlines()
    shown = "\n".join(f"  {line}" for line in lines[:9])
    more = f"\n  ... and {len(lines) - 9} more" if len(lines) > 9 else ""
    pointer = folder / "last_checkpoint"
    weights = ""
    if pointer.is_file():
        name = pointer.read_text(encoding="utf-8", errors="replace").strip()
        weights = f" train.init_checkpoint={folder / name} starts from its weights."
    raise ConfigError(
        f"The directory {folder} holds a run of another config:\n{shown}{more}\n"
        "Give another directory with train.output_dir=FOLDER, or delete this one."
        f"{weights}"
    )


def differences_from(
    output_dir: str | Path, cfg: DictConfig, ignored: str | None = None
) -> str | None:
    """Returns how the config of a directory differs from `cfg`, in one line.

    Args:
        output_dir: Directory of a run.
        cfg: The config to compare with.
        ignored: Pattern of the beginning of keys that do not count.

    Returns:
        Text such as `train.max_iter 90 there, 95 here`; empty if they are equal. None if the
        directory holds no config.
    """
    try:
        other = _held_config(Path(output_dir) / CONFIG_FILE)
    except ConfigError:
        return None
    if other is None:
        return None
    found = _differences(other, cfg)
    if ignored is not None:
        found = [row for row in found if not re.match(ignored, row[0])]
    named = [f"{key} {there} there, {here} here" for key, there, here in found[:3]]
    return "; ".join(named) + (f"; {len(found) - 3} more" if len(found) > 3 else "")


def _held_config(file: Path) -> DictConfig | None:
    held = read_yaml(file)
    if not isinstance(held, dict):
        return None
    other = OmegaConf.create(held, flags={"allow_objects": True})
    if isinstance(other.get("train"), DictConfig):
        schema.fill_train_defaults(other.train)  # keys that are newer than the directory
    return other


def _differences(other: DictConfig, cfg: DictConfig) -> list[tuple[str, Any, Any]]:
    return [
        (key, there, here)
        for key, there, here in diff_configs(other, cfg)
        if key.partition(".")[0] not in schema.ABOUT_KEYS and key not in NOT_HASHED
    ]
