#!/usr/bin/env python
"""Draws what a loader feeds: `python tools/visualize_data.py --help` says how.

A config file is Python code and runs with your rights: use only files that you trust.
"""

import sys
from pathlib import Path

# A checkout works without installing the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "projects"))

from mask_rcnn_tools.command import run

if __name__ == "__main__":
    run("visualize_data")
