"""`tools/visualize_data.py` after parsing."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from mask_rcnn_repro.data.proposals.files import proposals_exist
from mask_rcnn_repro.engine.dependencies import command, data_sets, find_rpn
from mask_rcnn_repro.engine.stages.prepare import PROPOSAL_FOLDER
from mask_rcnn_repro.errors import ConfigError, DataError
from mask_rcnn_tools.common.command_line import run_command
from mask_rcnn_tools.common.trained_run import given_id, load_given_config
from mask_rcnn_tools.drawing.files import write_picture
from mask_rcnn_tools.drawing.labels import with_caption
from mask_rcnn_tools.drawing.painter import paint
from mask_rcnn_tools.drawing.sheet import contact_sheet
from mask_rcnn_tools.visualize_data.samples import (
    Sample,
    SampleSelection,
    annotation_samples,
    test_samples,
    train_samples,
)

SHEET = "sheet.png"
_MAX_ON_SHEET = 60  # more pictures would be too small


def main(args: argparse.Namespace) -> None:
    """Runs a parsed command line and exits; see :func:`run_command`."""
    run_command(run, args)


def run(args: argparse.Namespace) -> int:
    """Writes the pictures and the contact sheet.

    Returns:
        Exit status: 0, or 1 if an image could not be read or drawn.

    Raises:
        DataError: No image could be read.
    """
    cfg = load_given_config(args)
    selection = SampleSelection(
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
    failed: list[Exception] = []
    try:
        output.mkdir(parents=True, exist_ok=True)
        print(f"{given_id(args)}, {args.source}", flush=True)
        for sample in _samples(cfg, args, selection):
            about = "; ".join([sample.title, *sample.notes])
            safe = re.sub(r"[^\w.-]", "_", str(sample.image_id))
            file = output / f"{len(files):03d}_{safe}.png"
            try:
                if sample.error is not None:
                    failed.append(sample.error)
                picture = paint(
                    sample.image, sample.marks, skeleton=sample.skeleton, zoom=args.scale
                )
                write_picture(file, with_caption(picture, [sample.title, *sample.notes]))
            except OSError:  # no picture can be written
                raise
            except Exception as error:
                print(f"{about}; not drawn: {type(error).__name__}: {error}", flush=True)
                failed.append(error)
                continue
            print(f"{file}: {about}", flush=True)
            files.append(file)
            if len(pictures) < _MAX_ON_SHEET:
                pictures.append(picture)
                captions.append(about)
        if failed and len(failed) >= len(files):
            raise DataError(f"No image could be drawn. The first: {failed[0]}") from failed[0]
        sheet = output / SHEET
        write_picture(sheet, contact_sheet(pictures, captions))
    except OSError as error:
        raise ConfigError(
            f"Pictures cannot be written to {output}: {error}. Give another directory with "
            "--output FOLDER."
        ) from error
    shown = f" (the first {len(pictures)})" if len(pictures) < len(files) else ""
    print(f"Contact sheet{shown}: {sheet}", flush=True)
    if failed:
        print(f"{len(failed)} images could not be read or drawn, see above.", flush=True)
    return int(bool(failed))


def _samples(
    cfg: DictConfig, args: argparse.Namespace, selection: SampleSelection
) -> Iterator[Sample]:
    if args.source == "annotations":
        return annotation_samples(cfg, args.split, selection)
    if selection.proposals:
        _find_proposals(cfg, args.source)
    return (train_samples if args.source == "train" else test_samples)(cfg, selection)


def _find_proposals(cfg: DictConfig, split: str) -> None:
    """Adds the directories of the row's stored proposals to the config."""
    mapper = cfg.dataloader[split].mapper
    if mapper.get("precomputed_proposal_topk") is None:
        raise ConfigError(
            f"The {split} loader of this config uses no stored proposals: its RPN generates "
            "them. Omit --proposals."
        )
    if mapper.get("proposal_files") or not cfg.train.proposals:
        return
    rpn = find_rpn(cfg, torch.device("cpu"))
    folders = [rpn.folder / PROPOSAL_FOLDER / data.folder for data in data_sets(cfg, split)]
    missing = [str(folder) for folder in folders if not proposals_exist(folder)]
    if missing:
        raise DataError(
            f"The proposals in {', '.join(missing)} do not exist. A training of this config "
            f"creates them, or\n  {command(rpn)}"
        )
    mapper.proposal_files = [str(folder) for folder in folders]
