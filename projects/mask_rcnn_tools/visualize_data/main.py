"""What `tools/visualize_data.py` does after parsing."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from omegaconf import DictConfig

from mask_rcnn_repro.config import config_id, load_config
from mask_rcnn_repro.config.from_data import fit_to_data
from mask_rcnn_repro.data.proposals.files import proposals_exist
from mask_rcnn_repro.engine.dependencies import command, data_sets, find_rpn
from mask_rcnn_repro.engine.stages.prepare import PROPOSAL_FOLDER
from mask_rcnn_repro.errors import ConfigError, DataError, UserError
from mask_rcnn_repro.registration import register
from mask_rcnn_repro.utils.atomic import atomic_write_bytes
from mask_rcnn_tools.drawing.labels import with_caption
from mask_rcnn_tools.drawing.painter import paint
from mask_rcnn_tools.drawing.sheet import contact_sheet
from mask_rcnn_tools.visualize_data.samples import (
    Sample,
    Wanted,
    annotation_samples,
    test_samples,
    train_samples,
)

SHEET = "sheet.png"
_LARGEST_SHEET = 60  # pictures: more are legible in their own files alone


def main(args: argparse.Namespace) -> None:
    """Runs a parsed command line; a user's mistake is printed plainly and exits with 2."""
    try:
        run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr, flush=True)
        raise SystemExit(130) from None


def run(args: argparse.Namespace) -> list[Path]:
    """Writes the pictures; returns their files, the sheet last."""
    register()
    cfg = load_config(args.config_file, args.profile, args.overrides, seed=args.seed)
    cfg = fit_to_data(cfg, args.overrides)
    wanted = Wanted(
        count=args.count,
        image_ids=tuple(args.image_ids),
        seed=int(cfg.train.seed),
        iteration=args.iteration,
        proposals=args.proposals,
        color_by=args.color_by,
    )
    output = Path(args.output)
    files: list[Path] = []
    pictures: list[np.ndarray] = []
    captions: list[str] = []
    try:
        output.mkdir(parents=True, exist_ok=True)
        print(f"{config_id(args.config_file)}, {args.source}", flush=True)
        for sample in _samples(cfg, args, wanted):
            picture = paint(sample.image, sample.marks, skeleton=sample.skeleton, zoom=args.scale)
            safe = re.sub(r"[^\w.-]", "_", str(sample.image_id))
            file = output / f"{len(files):03d}_{safe}.png"
            _write(file, with_caption(picture, [sample.title, *sample.notes]))
            print(f"{file}: {sample.title}; {'; '.join(sample.notes)}", flush=True)
            files.append(file)
            if len(pictures) < _LARGEST_SHEET:
                pictures.append(picture)
                captions.append("; ".join([sample.title, *sample.notes]))
        sheet = output / SHEET
        _write(sheet, contact_sheet(pictures, captions))
    except OSError as error:
        raise ConfigError(
            f"Pictures cannot be written to {output}: {error}. Give another folder with "
            "--output FOLDER."
        ) from error
    shown = f" (the first {len(pictures)})" if len(pictures) < len(files) else ""
    print(f"Contact sheet{shown}: {sheet}", flush=True)
    return [*files, sheet]


def _samples(cfg: DictConfig, args: argparse.Namespace, wanted: Wanted) -> Iterator[Sample]:
    if args.source == "annotations":
        return annotation_samples(cfg, args.split, wanted)
    if wanted.proposals:
        _find_proposals(cfg, args.source)
    return (train_samples if args.source == "train" else test_samples)(cfg, wanted)


def _find_proposals(cfg: DictConfig, split: str) -> None:
    """Puts the folders of the row's stored proposals into the config; nothing is made."""
    mapper = cfg.dataloader[split].mapper
    if mapper.get("precomputed_proposal_topk") is None:
        raise ConfigError(
            f"The {split} loader of this config takes no stored proposals: its RPN proposes for "
            "itself. Leave --proposals away."
        )
    if mapper.get("proposal_files") or not cfg.train.proposals:
        return
    rpn = find_rpn(cfg, torch.device("cpu"))
    folders = [rpn.folder / PROPOSAL_FOLDER / data.folder for data in data_sets(cfg, split)]
    missing = [str(folder) for folder in folders if not proposals_exist(folder)]
    if missing:
        raise DataError(
            f"The proposals in {', '.join(missing)} are not there yet. A training of this config "
            f"makes them, or\n  {command(rpn)}"
        )
    mapper.proposal_files = [str(folder) for folder in folders]


def _write(file: Path, picture: np.ndarray) -> None:
    _, content = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    atomic_write_bytes(file, content.tobytes())
