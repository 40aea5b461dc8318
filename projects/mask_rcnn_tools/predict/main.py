"""`tools/predict.py` after parsing."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from mask_rcnn_embedded.cache import embedded_root
from mask_rcnn_repro.config import config_hash
from mask_rcnn_repro.data.catalog import EMBEDDED, EMBEDDED_CROPS, EMBEDDED_PERSON
from mask_rcnn_repro.data.cityscapes.registration import EMBEDDED_CITYSCAPES
from mask_rcnn_repro.data.registration import coco_parts
from mask_rcnn_repro.engine.builders import resolve_device
from mask_rcnn_repro.engine.dependencies import data_sets
from mask_rcnn_repro.engine.tta import tta_sizes
from mask_rcnn_repro.errors import ConfigError, DataError
from mask_rcnn_repro.records.provenance import checkpoint_info
from mask_rcnn_repro.utils.threads import use_threads
from mask_rcnn_tools.common.command_line import run_command
from mask_rcnn_tools.common.trained_run import find_checkpoint, given_id, load_given_config
from mask_rcnn_tools.predict.coco_writer import FORMAT_VERSION
from mask_rcnn_tools.predict.job import Options
from mask_rcnn_tools.predict.output_files import plan_output_files
from mask_rcnn_tools.predict.predictor import Predictor
from mask_rcnn_tools.predict.run import predict_files
from mask_rcnn_tools.predict.sources import Source, Sources, find_sources

_GENERATED = frozenset({**EMBEDDED, **EMBEDDED_PERSON, **EMBEDDED_CROPS, **EMBEDDED_CITYSCAPES})
"""Data sets that are generated when their directories are looked up."""

_SCORE_KEY = "model.roi_heads.box_predictor.test_score_thresh"


def main(args: argparse.Namespace) -> None:
    """Runs a parsed command line and exits; see :func:`run_command`."""
    run_command(run, args)


def run(args: argparse.Namespace) -> int:
    """Predicts in this process.

    Returns:
        Exit status: 0, 1 if a file failed, or 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):  # not every terminal can print every file name
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    output = Path(args.output)
    sources = Sources((), Path.cwd(), {})
    if args.input:  # typing mistakes fail before anything is built
        sources = find_sources(args.input, leave_out=output)
        plan_output_files(output, sources.files)
    cfg = load_given_config(args)
    device = resolve_device(cfg.train.device)
    checkpoint = find_checkpoint(args, cfg)
    use_threads(cfg.train.num_threads)
    options = Options(
        output=output,
        pictures=not args.no_pictures,
        json=not args.no_json,
        threshold=args.threshold,
        top_k=args.top_k,
        keypoint_threshold=args.keypoint_threshold,
        scale=args.scale,
        color_by=args.color_by,
        batch_size=args.batch_size,
        every=args.every,
        max_frames=args.max_frames,
    )
    ids = _test_image_ids(cfg, sources.files)
    predictor = Predictor(cfg, checkpoint, rpn_checkpoint=args.rpn_checkpoint, device=device)
    _announce(cfg, args, sources, checkpoint, device)
    try:
        summary = predict_files(
            predictor,
            sources,
            options,
            image_ids=ids,
            info=_info(cfg, args, checkpoint, counted=ids is None),
            camera=args.webcam,
            print_line=lambda line: print(line, flush=True),
        )
    except OSError as error:
        raise ConfigError(
            f"Results cannot be written to {output}: {error}. Give another directory with "
            "--output FOLDER."
        ) from error
    return 130 if summary.stopped else int(bool(summary.failed))


def _announce(
    cfg: DictConfig,
    args: argparse.Namespace,
    sources: Sources,
    checkpoint: str,
    device: torch.device,
) -> None:
    videos = sum(source.is_video for source in sources.files)
    parts = [(len(sources.files) - videos, "image"), (videos, "video")]
    what = [f"{n} {name}{'s' * (n != 1)}" for n, name in parts if n]
    what += ["a camera"] * (args.webcam is not None)
    print(f"{given_id(args)}, {checkpoint}, on {device}: {', '.join(what)}")
    if sources.left_out:
        others = ", ".join(f"{n} {suffix}" for suffix, n in sorted(sources.left_out.items()))
        print(f"Skipped, neither images nor videos: {others}")
    least = OmegaConf.select(cfg, _SCORE_KEY)
    if args.threshold is not None and least is not None and args.threshold < least:
        print(
            f"The model returns no scores below {least}; for lower ones add {_SCORE_KEY}="
            f"{args.threshold}"
        )


def _info(
    cfg: DictConfig, args: argparse.Namespace, checkpoint: str, counted: bool
) -> dict[str, Any]:
    """Returns what the predictions were made with."""
    tta = cfg.train.tta
    sizes = tta_sizes(cfg) if tta.enabled else None
    return {
        "description": "Predictions",
        "format_version": FORMAT_VERSION,
        "config": given_id(args),
        "profile": str(cfg.train.profile),
        "config_hash": config_hash(cfg),
        "overrides": list(args.overrides),
        "checkpoint": checkpoint_info(checkpoint),
        "rpn_checkpoint": checkpoint_info(args.rpn_checkpoint) if args.rpn_checkpoint else None,
        "test_time_augmentation": sizes and {"sizes": sizes, "flip": tta.flip},
        "image_ids": "counted from 1" if counted else str(cfg.dataloader.test.dataset.names),
    }


def _test_image_ids(cfg: DictConfig, sources: Sequence[Source]) -> Mapping[Path, int | str] | None:
    """Image ids by path if every image belongs to the config's test data, else None.

    Reads the data set's files only if the images lie in its directories.
    """
    images = {source.path: source.path.resolve() for source in sources if not source.is_video}
    names = [data.name for data in data_sets(cfg, "test")]
    generated = embedded_root().resolve()
    if not any(path.is_relative_to(generated) for path in images.values()):
        names = [name for name in names if name not in _GENERATED]
    folders = [folder for name in names for folder in _folders(name)]
    inside = [any(path.is_relative_to(f) for f in folders) for path in images.values()]
    if not images or not all(inside):
        return None
    records = instantiate(cfg.dataloader.test.dataset)
    known = {os.path.realpath(record["file_name"]): record["image_id"] for record in records}
    found = {path: known.get(os.fspath(real)) for path, real in images.items()}
    complete = {path: identity for path, identity in found.items() if identity is not None}
    return complete if len(complete) == len(images) else None


def _folders(name: str) -> list[Path]:
    """Image directories of a data set; empty if its files are missing."""
    try:
        parts = coco_parts(name)
    except DataError:
        return []
    if parts is not None:
        return [Path(part.image_root).resolve() for part in parts]
    folder = MetadataCatalog.get(name).get("image_dir")
    return [Path(folder).resolve()] if folder is not None else []
