"""Entry point of `train_net.py` and of all scripts in `tools/`."""

from __future__ import annotations

import importlib

from mask_rcnn_tools.startup import fast_imports, quiet_dependencies, set_policy

set_policy()
quiet_dependencies()  # on import, because child processes import this module again


def run(name: str) -> None:
    """Runs a command with the arguments of this process.

    Parses the command line before it imports torch, so `--help` and typing mistakes are fast.

    Args:
        name: Package in `mask_rcnn_tools` with `cli.parse_args` and `main.main`.
    """
    args = importlib.import_module(f"mask_rcnn_tools.{name}.cli").parse_args()
    with fast_imports():
        main = importlib.import_module(f"mask_rcnn_tools.{name}.main").main
    main(args)
