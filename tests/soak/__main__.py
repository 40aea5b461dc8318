"""`python tests/soak` trains while faults are injected, and checks that nothing is lost."""

import sys
from pathlib import Path

# A checkout works without installing the package.
sys.path[:0] = [str(Path(__file__).resolve().parents[n] / f) for n, f in ((1, ""), (2, "projects"))]

from soak.cli import parse_args


def main() -> None:
    """Parses before importing torch, so that `--help` and typing errors answer at once."""
    args = parse_args()
    from soak.main import main as run

    run(args)


if __name__ == "__main__":
    main()
