"""What people expect of a repository agrees with the project: citation, workflow, hooks, pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import mask_rcnn_repro

ROOT = Path(__file__).resolve().parents[2]


def test_citation_names_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation), "required by its schema"
    assert citation["version"] == mask_rcnn_repro.__version__
    (paper,) = citation["references"]
    assert [a["family-names"] for a in paper["authors"]] == ["He", "Gkioxari", "Dollár", "Girshick"]
    assert "1703.06870" in paper["url"]


def test_workflow_runs_what_ci_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step]
    assert steps == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o100, "executable"


def test_hooks_are_those_of_make_lint() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entries = " ".join(hook["entry"] for hook in hooks)
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint is not None
    for tool in ("ruff format", "ruff check", "mypy"):
        assert tool in lint.group(1) and tool in entries
    assert "lint_imports" in lint.group(1) and "lint-imports" in entries


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "README.md"])
def test_targets_of_pages_exist(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z]+)\b", (ROOT / page).read_text()))
    assert named and named <= targets


@pytest.mark.parametrize("form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*_*.yml")))
def test_issue_forms_have_what_github_requires(form: Path) -> None:
    content = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= set(content)
    assert all(item["attributes"]["label"] for item in content["body"])
