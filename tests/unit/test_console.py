"""`mask-rcnn-repro`: every command of the scripts, under one name."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_tools import command
from mask_rcnn_tools.common import command_line, commands
from mask_rcnn_tools.common.commands import COMMANDS, as_typed
from mask_rcnn_tools.tables import jobs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _names_of_the_scripts(monkeypatch):
    monkeypatch.setattr(commands, "_as_program", False)


def test_every_script_is_a_command():
    """And runs the package that its script runs."""
    scripts = {}
    for file in [ROOT / "train_net.py", *sorted((ROOT / "tools").glob("*.py"))]:
        found = re.search(r'^    run\("(\w+)"\)$', file.read_text(), re.MULTILINE)
        if found:
            scripts[file.relative_to(ROOT).as_posix()] = found[1]
    assert len(scripts) >= 10
    assert {c.script: c.package for c in COMMANDS.values()} == scripts


@pytest.mark.parametrize("name", COMMANDS)
def test_dispatches_to_the_package(name, monkeypatch):
    calls = []
    monkeypatch.setattr(command, "run", lambda *given: calls.append(given))
    command.main([name, "--flag", "a=1"])
    assert calls == [(COMMANDS[name].package, ["--flag", "a=1"])]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_the_program(name, capsys):
    with pytest.raises(SystemExit) as end:
        command.main([name, "--help"])
    printed = capsys.readouterr().out
    assert end.value.code == 0
    assert printed.startswith(f"usage: mask-rcnn-repro {name} ")
    assert [c.script for c in COMMANDS.values() if c.script in printed] == []


def test_no_help_imports_a_heavy_library():
    """In one process: a library that one command imports would be seen after all of them."""
    code = (
        "import sys\nfrom mask_rcnn_tools import command\n"
        f"for words in [['--help'], *([name, '--help'] for name in {list(COMMANDS)})]:\n"
        "    try:\n        command.main(words)\n    except SystemExit as end:\n"
        "        assert end.code == 0\n"
        "heavy = ('torch', 'numpy', 'omegaconf', 'detectron2', 'yaml', 'pydantic', 'cv2')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_script_keeps_its_name():
    assert as_typed("Run tools/predict.py --help.") == "Run tools/predict.py --help."
    commands.use_program_names()
    assert as_typed(
        "Run `python train_net.py --resume` or tools/run_table.py 2c, my_report.py"
    ) == ("Run `mask-rcnn-repro train --resume` or mask-rcnn-repro table 2c, my_report.py")


def test_errors_name_the_program(capsys):
    def fail(args):
        raise ConfigError("Evaluate it with train_net.py --eval-only.")

    commands.use_program_names()
    with pytest.raises(SystemExit):
        command_line.run_command(fail, argparse.Namespace())
    assert capsys.readouterr().err == "error: Evaluate it with mask-rcnn-repro train --eval-only.\n"


def test_an_unknown_command_gets_the_list(capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["tabel", "2c"])
    printed = capsys.readouterr().err
    assert end.value.code == 2
    assert printed.endswith("error: unknown command 'tabel'. Did you mean 'table'?\n")
    assert [name for name in COMMANDS if f"\n  {name} " not in printed] == []


def test_help_and_version_import_nothing_heavy():
    script = """
import sys
from mask_rcnn_tools.command import main
main(sys.argv[1:])
heavy = {"torch", "numpy", "detectron2", "omegaconf"} & set(sys.modules)
assert not heavy, heavy
"""
    for arguments, start in ([], "usage: mask-rcnn-repro"), (["--version"], "0."):
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT / "projects")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(start)


def test_setup_installs_the_entry_point():
    assert '"mask-rcnn-repro = mask_rcnn_tools.command:main"' in (ROOT / "setup.py").read_text()


def test_rows_are_run_without_a_checkout(tmp_path, monkeypatch):
    assert jobs.launcher() == [sys.executable, str(ROOT / "train_net.py")]
    monkeypatch.setattr(jobs, "config_root", lambda: tmp_path / "configs")
    assert jobs.launcher() == [sys.executable, "-m", "mask_rcnn_tools", "train"]
