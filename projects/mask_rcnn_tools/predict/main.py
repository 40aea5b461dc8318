"""What `tools/predict.py` does after parsing."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from mask_rcnn_repro.config import config_hash, config_id, load_config
from mask_rcnn_repro.config.from_data import fit_to_data
from mask_rcnn_repro.engine.builders import resolve_device
from mask_rcnn_repro.engine.tta import tta_sizes
from mask_rcnn_repro.errors import ConfigError, UserError
from mask_rcnn_repro.records.provenance import checkpoint_info
from mask_rcnn_repro.registration import register
from mask_rcnn_tools.common.weights import default_checkpoint, lasting_overrides, run_folder
from mask_rcnn_tools.predict.coco_file import FORMAT_VERSION
from mask_rcnn_tools.predict.image_ids import test_image_ids
from mask_rcnn_tools.predict.names import plan
from mask_rcnn_tools.predict.options import Options
from mask_rcnn_tools.predict.predictor import Predictor
from mask_rcnn_tools.predict.run import Outcome, predict_files
from mask_rcnn_tools.predict.sources import Sources, find_sources

_SCORE_KEY = "model.roi_heads.box_predictor.test_score_thresh"


def main(args: argparse.Namespace) -> None:
    """Runs a parsed command line.

    Exits with 1 if a file failed, 2 after a user's mistake, which is printed plainly, and 130 after
    Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):  # file names may hold what a terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        outcome = run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
    if outcome.stopped:
        raise SystemExit(130)
    if outcome.failed:
        raise SystemExit(1)


def run(args: argparse.Namespace) -> Outcome:
    """Predicts in this process."""
    register()
    output = Path(args.output)
    sources = Sources((), Path.cwd(), {})
    if args.input:  # mistakes in what is typed are told before anything is built
        sources = find_sources(args.input, leave_out=output)
        plan(output, sources.files)
    cfg = load_config(args.config_file, args.profile, args.overrides, seed=args.seed)
    cfg = fit_to_data(cfg, args.overrides)
    device = resolve_device(cfg.train.device)
    checkpoint = args.checkpoint or default_checkpoint(
        run_folder(args.config_file, args.profile, cfg, args.overrides), _training(args)
    )
    if cfg.train.num_threads:
        torch.set_num_threads(cfg.train.num_threads)
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
    ids = test_image_ids(cfg, sources.files)
    predictor = Predictor(cfg, checkpoint, rpn_checkpoint=args.rpn_checkpoint, device=device)
    _announce(cfg, args, sources, checkpoint, device)
    try:
        return predict_files(
            predictor,
            sources,
            options,
            image_ids=ids,
            info=_info(cfg, args, checkpoint, counted=ids is None),
            camera=args.webcam,
            say=lambda line: print(line, flush=True),
        )
    except OSError as error:
        raise ConfigError(
            f"Results cannot be written to {output}: {error}. Give another folder with "
            "--output FOLDER."
        ) from error


def _training(args: argparse.Namespace) -> str:
    words = ["python", "train_net.py", "--config-file", args.config_file]
    words += ["--profile", args.profile] if args.profile != "paper" else []
    return shlex.join([*words, *lasting_overrides(args.overrides)])


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
    print(f"{config_id(args.config_file)}, {checkpoint}, on {device}: {', '.join(what)}")
    if sources.left_out:
        others = ", ".join(f"{n} {suffix}" for suffix, n in sorted(sources.left_out.items()))
        print(f"Neither images nor videos, and left out: {others}")
    least = OmegaConf.select(cfg, _SCORE_KEY)
    if args.threshold is not None and least is not None and args.threshold < least:
        print(
            f"The model gives scores from {least} on; for lower ones add {_SCORE_KEY}="
            f"{args.threshold}"
        )


def _info(
    cfg: DictConfig, args: argparse.Namespace, checkpoint: str, counted: bool
) -> dict[str, Any]:
    """What the predictions were made with."""
    tta = cfg.train.tta
    sizes = tta_sizes(cfg) if tta.enabled else None
    return {
        "description": "Predictions",
        "format_version": FORMAT_VERSION,
        "config": config_id(args.config_file),
        "profile": str(cfg.train.profile),
        "config_hash": config_hash(cfg),
        "overrides": list(args.overrides),
        "checkpoint": checkpoint_info(checkpoint),
        "rpn_checkpoint": checkpoint_info(args.rpn_checkpoint) if args.rpn_checkpoint else None,
        "test_time_augmentation": sizes and {"sizes": sizes, "flip": tta.flip},
        "image_ids": "counted from 1" if counted else str(cfg.dataloader.test.dataset.names),
    }
