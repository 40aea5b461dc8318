"""docs/examples/ablation.ipynb: its code cells, run one after the other as a script.

`!command` and `%%writefile FILE`, the only magics it may use, are replaced by Python, so that the
test needs no Jupyter.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mask_rcnn_embedded.cache import embedded_root

from .page_commands import commands, understood

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "examples" / "ablation.ipynb"


def script(notebook):
    """The code cells as one Python script."""
    parts = ["import pathlib, subprocess"]
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        if text.startswith("%%writefile "):
            first, _, content = text.partition("\n")
            file = first.removeprefix("%%writefile ")
            parts.append(f"pathlib.Path({file!r}).write_text({content!r})")
        elif text.startswith("!"):
            parts.append(f"subprocess.run({text[1:]!r}, shell=True, check=True)")
        else:
            parts.append(text)
    return "\n".join(parts)


def test_the_notebook_is_as_committed_notebooks_are():
    """No output or count of an execution, and no other magic than the test knows."""
    notebook = json.loads(NOTEBOOK.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    compile(script(notebook), str(NOTEBOOK), "exec")


def test_its_commands_are_understood(tmp_path, monkeypatch):
    """Without running them; the config is the one that a cell writes."""
    monkeypatch.chdir(tmp_path)
    Path("my_project").mkdir()
    found = []
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        text = "".join(cell["source"])
        if text.startswith("%%writefile "):
            first, _, content = text.partition("\n")
            Path(first.removeprefix("%%writefile ")).write_text(content)
        elif text.startswith("!"):
            found += [understood(words)[0] for words in commands(text[1:])]
    assert found == ["mask-rcnn-repro", "visualize_data", "train", "tables"]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "mask-rcnn-repro"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mask_rcnn_tools "$@"\n')
    program.chmod(0o755)
    code = script(json.loads(NOTEBOOK.read_text()))
    code = code.replace("Path(sys.executable).parent", repr(str(programs)))
    assert str(programs) in code
    folder = tmp_path / "work"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "projects"),
            "MASK_RCNN_REPRO_CACHE": str(embedded_root()),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        },
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "model.roi_heads.mask_head.num_conv: 4 -> 3" in done.stdout
    assert "three_convs is no worse than r50_fpn" in done.stdout
    for row, seed in [("r50_fpn", 0), ("r50_fpn", 1), ("three_convs", 0), ("three_convs", 1)]:
        assert re.search(rf"^{row} +seed {seed}: +\d+\.\d{{3}}  ", done.stdout, re.MULTILINE)
    assert "my_project/three_convs " in done.stdout.splitlines()[-1]
