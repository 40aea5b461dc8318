#!/usr/bin/env python
"""Checks the data of a config, or a COCO json. See `python tools/check_data.py --help`."""

import sys
from pathlib import Path

# makes a checkout work without installation
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "projects"))

from mask_rcnn_tools.command import run

if __name__ == "__main__":
    run("check_data")
