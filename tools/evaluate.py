#!/usr/bin/env python
"""Measures result files in COCO's format. See `python tools/evaluate.py --help`."""

import sys
from pathlib import Path

# makes a checkout work without installation
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "projects"))

from mask_rcnn_tools.command import run

if __name__ == "__main__":
    run("evaluate")
