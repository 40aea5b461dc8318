"""Every code block of docs/extending.md, run as it stands in a copy of the checkout.

A block "python file=NAME" is written to NAME, "bash" is run from the copy's root, and of "output"
each line must occur in what the commands before it printed. Other fenced blocks are not allowed
there: they would not be tested.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mask_rcnn_embedded.cache import embedded_root

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "extending.md"

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sections():
    """Title to (kind, content) of the fenced blocks below it."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {
        title: FENCE.findall(body) for title, body in zip(parts[1::2], parts[2::2], strict=True)
    }


SECTIONS = sections()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what the page's commands use, with the files that the page shows."""
    root = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__", "my_ablations")
    for folder in ("configs", "projects", "tests", "tools"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    for file in ("train_net.py", "pyproject.toml"):
        shutil.copy(ROOT / file, root / file)
    for blocks in SECTIONS.values():
        for kind, content in blocks:
            if kind.startswith("python file="):
                path = root / kind.removeprefix("python file=")
                path.parent.mkdir(parents=True, exist_ok=True)
                assert not path.exists(), f"{path} is given twice, or is a file of the checkout"
                path.write_text(content, encoding="utf-8")
    return root


def environment(root):
    """As after `make setup`: `python` is this interpreter, the package is importable."""
    binaries = root / "bin"
    binaries.mkdir(exist_ok=True)
    python = binaries / "python"
    if not python.exists():
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(root / "projects"),
        "MASK_RCNN_REPRO_CACHE": str(embedded_root()),
        "OMP_NUM_THREADS": "1",
    }


def test_the_page_has_nothing_that_is_not_run():
    kinds = [kind for blocks in SECTIONS.values() for kind, _ in blocks]
    assert all(k in ("bash", "output") or k.startswith("python file=") for k in kinds), kinds
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(kinds)
    contents = re.findall(r"^- \[(.+)\]\(#(.+)\)$", text, re.MULTILINE)
    assert [title for title, _ in contents] == list(SECTIONS)
    for title, anchor in contents:
        assert anchor == re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


@pytest.mark.slow
@pytest.mark.parametrize("title", SECTIONS)
def test_the_commands_of_a_section(title, checkout):
    printed = None
    for kind, content in SECTIONS[title]:
        if kind == "bash":
            result = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", content],
                cwd=checkout,
                env=environment(checkout),
                capture_output=True,
                text=True,
                timeout=900,
            )
            assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
            printed = result.stdout
        elif kind == "output":
            assert printed is not None
            missing = [line for line in content.splitlines() if line.strip() not in printed]
            assert missing == [], printed[-3000:]
    assert printed is not None, "the section runs nothing"
