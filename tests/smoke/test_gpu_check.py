"""`tools/gpu_check.py` on the CPU: limits, summary and, marked slow, the parts themselves."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import gpu_check
import pytest


def test_a_check_ends_at_its_limit_with_its_children(tmp_path: Path) -> None:
    sleep = "import time; time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleep!r}])"
    check = gpu_check.Check("endless", 1, [sys.executable, "-c", f"print('CHECK on'); {code}"])
    assert gpu_check.run_check(check, 1.0, tmp_path / "log") == "stopped after 1 s"
    assert gpu_check.run_check(check, 0.5, tmp_path / "none") == "not run: no time is left"
    failing = gpu_check.Check("failing", 9, [sys.executable, "-c", "raise SystemExit(3)"])
    assert gpu_check.run_check(failing, 9.0, tmp_path / "log") == "failed with exit status 3"


def test_the_summary_is_written_after_each_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.json"
    sees = f"import pathlib; print('CHECK', pathlib.Path({str(summary)!r}).exists())"
    made = [gpu_check.Check(n, 20, [sys.executable, "-c", sees]) for n in ("first", "second")]
    made.append(gpu_check.Check("third", 20, [sys.executable, "-c", "raise SystemExit(1)"]))
    monkeypatch.setattr(gpu_check, "checks", lambda device, work: made)
    assert gpu_check.main(["run", "--device", "cpu", "--output", str(tmp_path)]) == 1
    found = json.loads(summary.read_text())["checks"]
    assert [check["lines"] for check in found] == [["CHECK False"], ["CHECK True"], []]
    assert [check["outcome"] for check in found][:2] == ["passed", "passed"]
    one = ["run", "--only", "second", "--output", str(tmp_path)]
    assert gpu_check.main(one) == 0
    assert gpu_check.main(["run", "--only", "no such", "--output", str(tmp_path)]) == 2


def test_all_before_the_benchmarks_fits_into_ten_minutes() -> None:
    known = gpu_check.checks("cuda", "work")
    names = [check.name for check in known]
    first = known[: names.index("benchmark of a step")]
    assert names[:3] == ["versions", "tests", "rows"] and first[-1].name == "steps of paper size"
    assert sum(check.seconds for check in first) <= 600
    tests = first[1].command[first[1].command.index("gpu") + 1 :]
    assert "tests/smoke/test_gpu.py" in tests and "tests/unit/test_model_roi_layers.py" in tests


def test_all_that_the_package_needs_is_brought() -> None:
    setup = ast.parse((gpu_check.ROOT / "setup.py").read_text())
    (needed,) = (
        ast.literal_eval(word.value)
        for word in ast.walk(setup)
        if isinstance(word, ast.keyword) and word.arg == "install_requires"
    )
    resolved, alone = gpu_check.packages()
    brought = {gpu_check.name_of(pin) for pin in [*resolved, *alone]} | set(gpu_check.COPIED)
    there = {"torch", "torchvision"}
    assert {gpu_check.name_of(pin) for pin in needed} - brought == there
    assert not brought & there
    # pip must find what the others need
    assert not {gpu_check.name_of(pin) for pin in resolved} & {*gpu_check.COPIED, *gpu_check.ALONE}


def test_prepare_installs_what_pip_resolves_without_what_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    def pip(command: list[str], check: bool) -> None:
        commands.append(command)
        if "--report" in command:
            found = [("numpy", "2"), ("pydantic_core", "3")]
            install = [{"metadata": {"name": name, "version": v}} for name, v in found]
            report = Path(command[command.index("--report") + 1])
            report.write_text(json.dumps({"install": install}))

    monkeypatch.setattr(gpu_check.subprocess, "run", pip)
    monkeypatch.setattr(gpu_check, "BROUGHT", tmp_path / "brought")
    assert gpu_check.main(["prepare", "--omit", "numpy", "Hydra_Core"]) == 0
    resolving, installing = commands
    assert "--no-deps" not in resolving and "--no-deps" in installing
    assert "pydantic_core==3" in installing and "numpy==2" not in installing
    names = {gpu_check.name_of(word) for word in installing}
    assert "omegaconf" in names and "hydra-core" not in names
    site = tmp_path / "brought" / "site"
    assert all((site / folder).is_dir() for folder in gpu_check.COPIED.values())
    assert list(site.glob("iopath-*.dist-info"))


@pytest.mark.slow
def test_parts_run_on_a_cpu(tmp_path: Path) -> None:
    parts = ("versions", "killed worker", "evaluation out of memory", "steps of paper size")
    where = ["--device", "cpu", "--output", str(tmp_path)]
    assert gpu_check.main(["run", *where, "--only", *parts]) == 0
    checks = json.loads((tmp_path / "summary.json").read_text())["checks"]
    assert [check["outcome"] for check in checks] == ["passed"] * 4
    assert all(check["lines"] for check in checks)
