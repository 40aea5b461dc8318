"""`python tools/generate_docs`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(_ROOT / folder) for folder in ("projects", "tools", "benchmarks")]

from generate_docs.files import generated_files, performance_files
from generate_docs.pages import COMMAND
from mask_rcnn_repro.errors import UserError
from mask_rcnn_tools.report.files import checkout_root, write_files


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the generated files, or with `--check` names those that are stale.

    Returns:
        1 where `--check` found something, else 0.
    """
    parser = argparse.ArgumentParser(prog=COMMAND, description="Writes generated documentation.")
    parser.add_argument("--check", action="store_true", help="write nothing, name stale files")
    parser.add_argument(
        "--performance", action="store_true", help="only the page and plots of the benchmarks"
    )
    args = parser.parse_args(arguments)
    root = checkout_root()
    files = performance_files(root) if args.performance else generated_files(root)
    return min(write_files(root, files, args.check, COMMAND), 1)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
