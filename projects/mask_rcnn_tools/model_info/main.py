"""`tools/model_info.py` after parsing: tables and JSON."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from mask_rcnn_repro.config import load_config
from mask_rcnn_repro.registration import register
from mask_rcnn_tools.common.command_line import run_command
from mask_rcnn_tools.common.trained_run import id_of
from mask_rcnn_tools.model_info.flops import OUTSIDE, BackboneCache
from mask_rcnn_tools.model_info.info import ModelInfo, added, model_info
from mask_rcnn_tools.model_info.parts import PARTS, Part


def main(args: argparse.Namespace) -> None:
    """Runs a parsed command line and exits; see :func:`run_command`."""
    run_command(lambda args: print(run(args), flush=True), args)


def run(args: argparse.Namespace) -> str:
    """Counts and returns the text to print."""
    register()
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    infos = []
    cache: BackboneCache = {}
    for file in args.configs:
        cfg = load_config(file, args.profile, args.overrides)
        profile = cfg.train.profile
        name = id_of(file) + ("" if profile == "paper" else f"@{profile}")
        infos.append(
            model_info(
                cfg,
                name,
                args.image_size,
                args.proposals,
                args.detections,
                args.alone,
                args.overrides,
                cache,
            )
        )
    if args.json:
        return json.dumps([to_plain(info) for info in infos], indent=1)
    return format_infos(infos)


def to_plain(info: ModelInfo) -> dict[str, Any]:
    """Converts to the content of the JSON output; FLOPs are multiply-adds."""
    return {
        "config": info.config,
        "image_size": [info.workload.height, info.workload.width],
        "proposals": info.workload.proposals,
        "detections": info.workload.detections,
        "networks": {
            network: {name: _plain(part) for name, part in parts.items()}
            for network, parts in info.networks.items()
        },
        "total": _plain(info.total),
        "uncounted_operators": dict(info.uncounted),
        "uncounted": list(OUTSIDE),
        "notes": info.notes,
    }


def _plain(part: Part) -> dict[str, Any]:
    return {
        "parameters": part.parameters,
        "trainable": part.trainable,
        "flops": part.total_flops,
        "flops_by_operator": part.flops,
    }


def format_infos(infos: Sequence[ModelInfo]) -> str:
    """Formats a table with columns for each config, and notes."""
    letters = [f"{chr(ord('A') + i)} " if len(infos) > 1 else "" for i in range(len(infos))]
    columns = ("M params", "M trained", "GFLOPs")
    header = ["", "", *(f"{letter}{column}" for letter in letters for column in columns)]
    rows = []
    for network in _networks(infos):
        for name in PARTS:
            parts = [_find(info, network, name) for info in infos]
            if any(part is not None for part in parts):
                rows.append([network, name, *(cell for part in parts for cell in _cells(part))])
    rows = [
        [row[0] if i == 0 or rows[i - 1][0] != row[0] else "", *row[1:]]
        for i, row in enumerate(rows)
    ]
    rows.append(["total", "", *(cell for info in infos for cell in _cells(info.total))])
    align = ["left", "left", *["right"] * (3 * len(infos))]
    table = tabulate(rows, headers=header, colalign=align, disable_numparse=True)
    return "\n".join([_title(infos), "", table, "", *_remarks(infos)])


def _title(infos: Sequence[ModelInfo]) -> str:
    if len(infos) > 1:
        named = [
            f"{chr(ord('A') + i)}  {info.config}: {_load(info)}" for i, info in enumerate(infos)
        ]
        return "\n".join(["One image:", *named])
    return f"{infos[0].config}, one image: {_load(infos[0])}"


def _load(info: ModelInfo) -> str:
    load = info.workload
    return (
        f"input {load.height} x {load.width}, {load.proposals} proposals, {load.detections} "
        "detections"
    )


def _networks(infos: Sequence[ModelInfo]) -> list[str]:
    """Returns the rows of networks; all RPN stages share one."""
    found = {_role(network) for info in infos for network in info.networks}
    return [role for role in ("RPN stage", "detector") if role in found]


def _role(network: str) -> str:
    return "RPN stage" if network.startswith("RPN") else network


def _find(info: ModelInfo, role: str, part: str) -> Part | None:
    own = [
        parts[part]
        for network, parts in info.networks.items()
        if _role(network) == role and part in parts
    ]
    return added(own) if own else None


def _cells(part: Part | None) -> list[str]:
    if part is None:
        return ["-", "-", "-"]
    return [
        f"{part.parameters / 1e6:.2f}",
        f"{part.trainable / 1e6:.2f}",
        f"{part.total_flops / 1e9:.1f}",
    ]


def _remarks(infos: Sequence[ModelInfo]) -> list[str]:
    lines = [
        f"{info.config}: RPN stage {network.removeprefix('RPN ')}"
        for info in infos
        for network in info.networks
        if network.startswith("RPN ")
    ]
    lines.append(
        "FLOPs are multiply-adds of convolutions, linear layers, RoIAlign and interpolation. Not "
        f"counted: elementwise operators, {', '.join(OUTSIDE)}."
    )
    unknown = sorted({name for info in infos for name in info.uncounted})
    if unknown:
        lines.append(f"Operators of unknown cost, counted as 0: {', '.join(unknown)}.")
    return lines + [note for info in infos for note in info.notes]
