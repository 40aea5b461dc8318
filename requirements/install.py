"""Installs the pinned dependencies, Detectron2 and this package into the running environment.

Then it compiles the package's kernels.

Detectron2 comes as a wheel that is tagged for CPython 3.10 only because of a compiled module that
this project does not need; pip puts such a wheel on another Python only by way of `--target`.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent


def pip(*arguments: str) -> None:
    """Runs pip of this interpreter, echoing the command."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    print("+ pip", *command[3:], flush=True)
    subprocess.run(command, check=True)


def main() -> None:
    """Installs in the order that the pins need: torch, the rest, Detectron2, this package."""
    pip("--quiet", "-r", str(HERE / "torch.txt"))
    # fvcore and antlr4 come as sources: build them with the pinned setuptools
    requirements = ["-r", str(HERE / "runtime.txt"), "-r", str(HERE / "dev.txt")]
    pip("--quiet", "--no-build-isolation", *requirements)
    pip(
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version=3.10",
        "--require-hashes",
        "--upgrade",
        "--target",
        sysconfig.get_paths()["purelib"],
        "-r",
        str(HERE / "detectron2.txt"),
    )
    pip("--quiet", "--no-deps", "-r", str(HERE / "cityscapes.txt"))
    pip("--quiet", "--no-build-isolation", "--no-deps", "-e", str(HERE.parent))
    print(
        "+ python -m mask_rcnn_tools.compile_kernels", flush=True
    )  # or the first run waits for it
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mask_rcnn_tools.compile_kernels"], check=True
    )


if __name__ == "__main__":
    main()
