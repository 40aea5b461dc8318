"""The contracts in pyproject.toml hold, and a forbidden import breaks the one that forbids it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Runs import-linter on the packages below `root`, with the settings of this checkout."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "pyproject.toml"), "--no-cache"],
        env={**os.environ, "PYTHONPATH": str(root / "projects")},
        cwd=root,
        capture_output=True,
        text=True,
    )


def test_contracts_are_kept():
    outcome = lint_imports(ROOT)
    assert outcome.returncode == 0, outcome.stdout
    assert "0 broken" in outcome.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(
        ROOT / "projects", folder / "projects", ignore=shutil.ignore_patterns("__pycache__")
    )
    return folder


@pytest.mark.parametrize(
    ("module", "forbidden", "contract"),
    [
        ("mask_rcnn_repro/engine/run.py", "mask_rcnn_tools.command", "Each package"),
        ("mask_rcnn_embedded/errors.py", "mask_rcnn_repro.errors", "Each package"),
        ("mask_rcnn_repro/data/catalog.py", "mask_rcnn_repro.engine.run", "Each room"),
        ("mask_rcnn_repro/modeling/poolers.py", "mask_rcnn_repro.evaluation.loop", "Each room"),
        ("mask_rcnn_tools/predict/run.py", "mask_rcnn_tools.export.cli", "Commands"),
        ("mask_rcnn_embedded/errors.py", "torch", "needs neither torch"),
        ("mask_rcnn_repro/engine/run.py", "mask_rcnn_repro.engine.results", "No circles"),
    ],
)
def test_a_forbidden_import_fails(copy, module, forbidden, contract):
    """Also inside a function, where no import of a circle would fail by itself."""
    file = copy / "projects" / module
    before = file.read_text()
    file.write_text(f"{before}\n\ndef late() -> None:\n    import {forbidden}\n")
    try:
        outcome = lint_imports(copy)
    finally:
        file.write_text(before)
    assert outcome.returncode == 1, outcome.stdout + outcome.stderr
    broken = [line for line in outcome.stdout.splitlines() if " BROKEN" in line]
    assert any(contract in line for line in broken), outcome.stdout
