#!/usr/bin/env python
"""Annotates unlabeled images with a trained model. See `python tools/distill.py --help`."""

import sys
from pathlib import Path

# makes a checkout work without installation
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "projects"))

from mask_rcnn_tools.command import run

if __name__ == "__main__":
    run("distill")
