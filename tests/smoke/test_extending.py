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
from mask_rcnn_tools.tables import main as tables_main

from .page_commands import commands, understood

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
    copy(root, ("configs", "projects", "tests", "tools"))
    for file in ("train_net.py", "pyproject.toml"):
        shutil.copy(ROOT / file, root / file)
    return root


def copy(root, folders):
    """Copies folders of the checkout, and writes the files that the page shows."""
    ignored = shutil.ignore_patterns("__pycache__", "my_ablations")
    for folder in folders:
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    for blocks in SECTIONS.values():
        for kind, content in blocks:
            if kind.startswith("python file="):
                path = root / kind.removeprefix("python file=")
                path.parent.mkdir(parents=True, exist_ok=True)
                assert not path.exists(), f"{path} is given twice, or is a file of the checkout"
                path.write_text(content, encoding="utf-8")


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


def test_the_commands_are_understood_and_can_be_planned(tmp_path, monkeypatch):
    """Without running them: options, files, keys, and the plans of the tables."""
    copy(tmp_path, ["configs"])
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.syspath_prepend(tmp_path / "my_project")
    blocks = [block for of_section in SECTIONS.values() for block in of_section]
    for kind, content in blocks:
        if kind.startswith("python file="):
            compile(content, kind, "exec")
    run = [words for kind, content in blocks if kind == "bash" for words in commands(content)]
    found = [understood(words) for words in run]
    assert {"train", "tables", "report", "pytest"} <= {package for package, _ in found}
    assert len(found) >= 15
    plans = {}
    for package, args in found:
        if package == "tables":
            args.dry_run = True
            plans[str(args)] = args
    assert len(plans) == 2  # the first is also written as a dry run
    for args in plans.values():
        assert tables_main.run(args) == 0
    shown = re.findall(r"(?:^    .*\n)+", FENCE.sub("", PAGE.read_text()), re.MULTILINE)
    examples = [words for text in shown for words in commands(text) if words[0] == "python"]
    assert {understood(words, files=False)[0] for words in examples} == {"train", "tables"}


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
