"""Runs one command of this project; all scripts in `tools/` and `train_net.py` go through it."""

from __future__ import annotations

import importlib

from mask_rcnn_repro.utils.quiet import quiet_dependencies
from mask_rcnn_repro.utils.startup import fast_imports

quiet_dependencies()  # on import: processes that a command starts import it again


def run(name: str) -> None:
    """Runs a command on this process's arguments.

    The command line is parsed before torch is imported: `--help` and typing errors answer at once.

    Args:
        name: Package below `mask_rcnn_tools` that has `cli.parse_args` and `main.main`.
    """
    args = importlib.import_module(f"mask_rcnn_tools.{name}.cli").parse_args()
    with fast_imports():
        main = importlib.import_module(f"mask_rcnn_tools.{name}.main").main
    main(args)
