"""What `tools/export.py` does after parsing."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

import torch

from mask_rcnn_repro.config import config_id, load_config
from mask_rcnn_repro.config.from_data import fit_to_data
from mask_rcnn_repro.errors import UserError
from mask_rcnn_repro.registration import register
from mask_rcnn_tools.common.weights import default_checkpoint, run_folder
from mask_rcnn_tools.export.formats import open_exported
from mask_rcnn_tools.export.run import export_detector
from mask_rcnn_tools.export.support import check_request

NOT_EQUAL = 3
"""Exit status where the file does not give what the model gives."""


def main(args: argparse.Namespace) -> None:
    """Runs a parsed command line.

    Exits with 2 after a user's mistake, which is printed plainly, with 3 if the file differs from
    the model (it is not kept), and with 130 after Ctrl-C.
    """
    try:
        if args.show:
            print(json.dumps(open_exported(args.show)[1], indent=2))
            return
        equal = run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("Stopped; nothing was written.", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
    if not equal:
        raise SystemExit(NOT_EQUAL)


def run(args: argparse.Namespace) -> bool:
    """Exports; returns whether the file gives what the model gives."""
    register()
    cfg = load_config(args.config_file, args.profile, args.overrides, seed=args.seed)
    cfg = fit_to_data(cfg, args.overrides)
    output = Path(args.output)
    check_request(cfg, args.format, output)
    words = ["python", "train_net.py", "--config-file", args.config_file]
    words += ["--profile", args.profile] if args.profile != "paper" else []
    checkpoint = args.checkpoint or default_checkpoint(
        run_folder(args.config_file, args.profile, cfg, args.overrides), shlex.join(words)
    )
    if cfg.train.num_threads:
        torch.set_num_threads(cfg.train.num_threads)
    result = export_detector(
        cfg,
        checkpoint,
        output,
        args.format,
        config_id=config_id(args.config_file),
        rpn_checkpoint=args.rpn_checkpoint,
        paste_masks=args.paste_masks,
        images=args.images,
        num_images=args.num_images,
        overrides=args.overrides,
        say=lambda line: print(line, flush=True),
    )
    print(f"\nLargest differences between model and file:\n\n{result.report}\n")
    if not result.equal:
        print(
            f"error: the file does not give what the model gives, and {output} was not written. A "
            "part of the model that computes other than its base class is the usual reason.",
            file=sys.stderr,
            flush=True,
        )
        return False
    if not result.detections:
        print(
            "warning: the model found nothing in any of these images, so boxes, masks and "
            "keypoints were not compared. Give images with objects: --images FILE ...",
            file=sys.stderr,
            flush=True,
        )
    print(f"Written: {output} ({output.stat().st_size / 2**20:.1f} MiB)", flush=True)
    return True
