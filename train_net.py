#!/usr/bin/env python
"""Trains or evaluates any config of this project: `python train_net.py --help` says how.

A config file is Python code and runs with your rights: use only files that you trust.
"""

import sys
from pathlib import Path

# From a checkout this works without installing the package, too.
sys.path.insert(0, str(Path(__file__).resolve().parent / "projects"))

from mask_rcnn_repro.cli import parse_args
from mask_rcnn_repro.quiet import quiet_dependencies
from mask_rcnn_repro.startup import fast_imports

quiet_dependencies()


def main() -> None:
    """Parses before importing torch, so that `--help` and typing errors answer at once."""
    args = parse_args()
    with fast_imports():
        from mask_rcnn_repro.engine.main import main as run

    run(args)


if __name__ == "__main__":
    main()
