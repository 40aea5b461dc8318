"""`tools/export.py` after parsing."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mask_rcnn_repro.utils.threads import use_threads
from mask_rcnn_tools.common.command_line import run_command
from mask_rcnn_tools.common.trained_run import find_checkpoint, given_id, load_given_config
from mask_rcnn_tools.export.formats import open_exported
from mask_rcnn_tools.export.run import export_detector
from mask_rcnn_tools.export.support import check_request

NOT_EQUAL = 3
"""Exit status if the outputs of the file differ from those of the model."""


def main(args: argparse.Namespace) -> None:
    """Runs a parsed command line and exits; see :func:`run_command`."""
    run_command(run, args, "Stopped; nothing was written.")


def run(args: argparse.Namespace) -> int:
    """Exports a model, or prints the metadata of a file.

    Returns:
        Exit status: 0, or :data:`NOT_EQUAL` if the file was not kept.
    """
    if args.show:
        print(json.dumps(open_exported(args.show)[1], indent=2))
        return 0
    cfg = load_given_config(args)
    output = Path(args.output)
    check_request(cfg, args.format, output)
    checkpoint = find_checkpoint(args, cfg)
    use_threads(cfg.train.num_threads)
    result = export_detector(
        cfg,
        checkpoint,
        output,
        args.format,
        config_id=given_id(args),
        rpn_checkpoint=args.rpn_checkpoint,
        paste_masks=args.paste_masks,
        images=args.images,
        num_images=args.num_images,
        overrides=args.overrides,
        print_line=lambda line: print(line, flush=True),
    )
    print(f"\nLargest differences between model and file:\n\n{result.report}\n")
    if not result.equal:
        print(
            f"error: the outputs of the file differ from those of the model, so {output} was not "
            "written. Usually, a part of the model computes other than its base class.",
            file=sys.stderr,
            flush=True,
        )
        return NOT_EQUAL
    if not result.detections:
        print(
            "warning: there are no detections in these images, so boxes, masks and keypoints were "
            "not compared. Give images with objects: --images FILE ...",
            file=sys.stderr,
            flush=True,
        )
    print(f"Written: {output} ({output.stat().st_size / 2**20:.1f} MiB)", flush=True)
    return 0
