"""What people expect of a repository agrees with the project: citation, workflow, hooks, pages."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

import mask_rcnn_repro
from mask_rcnn_tools.common.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


def test_citation_names_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation), "required by its schema"
    assert citation["version"] == mask_rcnn_repro.__version__
    (paper,) = citation["references"]
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert f"\n## [{citation['version']}] - {citation['date-released']}\n" in changes
    readme = (ROOT / "README.md").read_text()
    assert f"version = {{{citation['version']}}}" in readme and citation["title"] in readme
    assert paper["doi"] in readme and f"{paper['start']}--{paper['end']}" in readme
    assert [a["family-names"] for a in paper["authors"]] == ["He", "Gkioxari", "Dollár", "Girshick"]
    assert "1703.06870" in paper["url"]


def test_workflow_runs_what_ci_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step]
    assert steps == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o100, "executable"


def test_ci_runs_commands_of_the_readme() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"].values()
    commands = {step["run"] for job in jobs for step in job["steps"] if "run" in step}
    commands.remove(".ci/run")
    script = (ROOT / ".ci/run").read_text()
    commands |= set(re.findall(r"^make .*$", script, re.MULTILINE))
    assert commands == {
        "make lint",
        "make test",
        "make test-slow",
        "make test-trackers",
        "make site",
    }
    readme = (ROOT / "README.md").read_text()
    assert [command for command in sorted(commands) if f"`{command}`" not in readme] == []


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


@pytest.mark.parametrize("form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")))
def test_issue_forms_have_what_github_requires(form: Path) -> None:
    content = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= set(content)
    assert all(item["attributes"]["label"] for item in content["body"])


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    pages = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    outside = [f for f in ROOT.glob("*/README.md") if f.parent.name in ("configs", "results")]
    expected = {
        *(f.relative_to(ROOT).as_posix() for f in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]),
        *(f.relative_to(ROOT).as_posix() for f in outside),
        *("datasets/README.md", "results/earlier/README.md", "docs/examples/ablation.ipynb.md"),
    }
    assert sorted(pages) == sorted(expected)


def test_the_image_has_the_python_of_ci_and_the_arguments_of_its_page() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    pythons = {
        step["with"]["python-version"]
        for job in workflow["jobs"].values()
        for step in job["steps"]
        if "python-version" in step.get("with", {})
    }
    assert pythons == set(re.findall(r"^FROM python:([\d.]+)-", dockerfile, re.MULTILINE))
    page = (ROOT / "docs/docker.md").read_text()
    values = re.findall(r"^ +(\w+)\) ", dockerfile, re.MULTILINE)
    assert values == ["cpu", "cuda"]
    for name, value in re.findall(r"--build-arg (\w+)=(\w+)", page):
        assert f"ARG {name}=" in dockerfile and value in values
    assert 'ENTRYPOINT ["mask-rcnn-repro"]' in dockerfile
    commands = set(re.findall(r"^ +mask-rcnn-repro(?::\w+)? ([\w-]+) -", page, re.MULTILINE))
    assert commands == {"train"} <= set(COMMANDS)


def test_the_image_installs_as_make_setup_does() -> None:
    """Its steps as far as they go without Docker: the shell, the installer, the copied files."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.removeprefix("RUN ") for line in lines if line.startswith("RUN ")]
    (install,) = [step for step in steps if "install.py" in step]
    installer = "python requirements/install.py"
    assert installer.removeprefix("python") in (ROOT / "Makefile").read_text()
    assert install.endswith(installer)
    indexes = {}
    for device in ("cpu", "cuda", "gpu"):
        done = subprocess.run(
            ["sh", "-c", install.replace(installer, 'echo "$PIP_EXTRA_INDEX_URL"')],
            env={"DEVICE": device, "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
        )
        indexes[device] = (done.returncode, done.stdout.strip())
    wheels = "https://download.pytorch.org/whl/cpu"
    assert indexes == {"cpu": (0, wheels), "cuda": (0, ""), "gpu": (2, "")}
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    needed = ("requirements", "setup.py", "README.md", "projects", "configs", "tests")
    assert not {*needed, ".git"} & set(ignored) and all((ROOT / name).exists() for name in needed)
    assert "COPY . ." in lines and lines.index("COPY . .") < lines.index(f"RUN {install}")
