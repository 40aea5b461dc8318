#!/usr/bin/env python
"""Runs a table of the paper and prints it: `python tools/run_table.py --help` says how.

A config file is Python code and runs with your rights: use only files that you trust.
"""

import sys
from pathlib import Path

# A checkout works without installing the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "projects"))

from mask_rcnn_tools.command import run

if __name__ == "__main__":
    run("tables")
