#!/usr/bin/env python
"""Exports a trained model to one file. See `python tools/export.py --help`."""

import sys
from pathlib import Path

# makes a checkout work without installation
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "projects"))

from mask_rcnn_tools.command import run

if __name__ == "__main__":
    run("export")
