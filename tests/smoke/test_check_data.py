"""Checking data from the command line, as docs/checking_data.md says, and before a training."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from detectron2.checkpoint.catalog import ModelCatalogHandler
from detectron2.utils.file_io import Detectron2Handler
from iopath.common.file_io import HTTPURLHandler

from mask_rcnn_repro.config import get_config, load_config
from mask_rcnn_repro.data.coco import file as coco_files
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.registration import register
from mask_rcnn_tools.check_data.before_training import check_before_training
from mask_rcnn_tools.check_data.cli import parse_args
from mask_rcnn_tools.check_data.main import main

from .run_helpers import REPOSITORY, CommandResult, _undone, launch, start

PATH = os.pathsep.join([str(REPOSITORY / "projects"), str(REPOSITORY)])
PAGE = (REPOSITORY / "docs" / "checking_data.md").read_text(encoding="utf-8")


def check_data(folder: Path, *argv: str) -> CommandResult:
    """Runs `tools/check_data.py` in this process, in `folder`."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with _undone(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(parse_args([*argv, "--threads", "1"]))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    return CommandResult(code, out.getvalue(), err.getvalue())


def _commands() -> list[list[str]]:
    """The page's commands, with the lines that a backslash joins."""
    text = PAGE.replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^    python (tools/.*)$", text, re.M)]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.json, val.json and images/: the embedded data as if it were somebody's own."""
    from mask_rcnn_embedded.quickstart import TINY_SPEC, ensure_generated

    folder, data = tmp_path_factory.mktemp("own"), Path(ensure_generated(TINY_SPEC))
    (folder / "images").mkdir()
    for split in ("train", "val"):
        content = json.loads((data / "annotations" / f"instances_{split}.json").read_text())
        (folder / f"{split}.json").write_text(json.dumps(content))
        os.symlink(data / split, folder / "images" / split)
    os.symlink(REPOSITORY / "configs", folder / "configs")
    return folder


@pytest.mark.parametrize("command", _commands(), ids=lambda words: words[1] + words[-1][-8:])
def test_documented_commands(own: Path, command: list[str]) -> None:
    outcome = check_data(own, *command[1:])
    outcome.succeeded()
    if "--json" in command:
        assert json.loads(outcome.out)["errors"] == 0
    else:
        assert " images opened" in outcome.out or " images decoded" in outcome.out
        assert "person" in outcome.out


def test_four_commands_are_documented() -> None:
    assert len(_commands()) == 4


@pytest.mark.slow
def test_in_a_process_of_its_own(own: Path) -> None:
    content = json.loads((own / "train.json").read_text())
    content["images"][0]["file_name"] = "../secret.png"
    (own / "bad.json").write_text(json.dumps(content))
    done = subprocess.run(
        [
            *(sys.executable, str(REPOSITORY / "tools" / "check_data.py")),
            *("--annotations", "bad.json", "--images", "images/train"),
        ],
        cwd=own,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    assert "ERROR path-leaves-root" in done.stdout and "'../secret.png'" in done.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--config-file", "no/such"], "no/such"),
        (["--config-file", "quickstart/mask_rcnn_r18_fpn", "train.max_itr=1"], "max_iter"),
    ],
)
def test_mistakes(tmp_path: Path, argv: list[str], message: str) -> None:
    assert message in check_data(tmp_path, *argv).failed_plainly()


def test_a_missing_json_is_a_finding(tmp_path: Path) -> None:
    outcome = check_data(tmp_path, "--annotations", "gone.json", "--images", "gone")
    assert outcome.code == 1 and "ERROR not-readable" in outcome.out


def _dataset(folder: Path, split: str, file: str) -> list[str]:
    node = f"dataloader.{split}.dataset"
    return [
        f"{node}.names=brief_{folder.name}_{split}",
        f"{node}.json={folder / file}",
        f"{node}.image_root={folder / 'images' / split.replace('test', 'val')}",
    ]


def test_brief_check(
    own: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    content: dict[str, Any] = json.loads((own / "train.json").read_text())
    content["annotations"][0]["bbox"][2] = 0
    (own / "brief.json").write_text(json.dumps(content))
    keys = [*_dataset(own, "train", "brief.json"), *_dataset(own, "test", "val.json")]
    cfg = get_config("quickstart/mask_rcnn_r18_fpn", "tiny", keys)
    with caplog.at_level(logging.INFO, logger="mask_rcnn_tools"):
        report = check_before_training(cfg, "quickstart/mask_rcnn_r18_fpn", keys)
    assert report is not None and report.count("warning") == 1
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1 and "boxes without area" in warnings[0]
    (told,) = [r.getMessage() for r in caplog.records if "Data checked" in r.getMessage()]
    command = shlex.split(told.partition("The whole report: ")[2])
    assert check_data(own, *command[1:]).code == 0  # no errors, and the command works

    with monkeypatch.context() as small:
        small.setattr("mask_rcnn_tools.check_data.before_training._LARGEST", 1000)
        with caplog.at_level(logging.INFO, logger="mask_rcnn_tools"):
            assert check_before_training(cfg, "x") is None
        assert "brief.json is larger than" in caplog.text

    def broken(*args: Any) -> None:
        raise ZeroDivisionError("a fault in a check")

    monkeypatch.setattr("mask_rcnn_tools.check_data.check.check_annotations", broken)
    assert check_before_training(cfg, "x") is None  # does not cost the training
    assert "could not be checked: ZeroDivisionError" in caplog.text
    cfg.train.check_data = False
    caplog.clear()
    assert check_before_training(cfg, "x") is None and not caplog.records


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("missing", ["json", "image_root"])
def test_missing_data_ends_the_run(own: Path, split: str, missing: str) -> None:
    register()
    keys = [*_dataset(own, "train", "train.json"), *_dataset(own, "test", "val.json")]
    keys = [key.replace("brief_", f"gone_{split}_{missing}_") for key in keys]
    keys.append(f"dataloader.{split}.dataset.{missing}={own / 'gone'}")
    cfg = get_config("quickstart/mask_rcnn_r18_fpn", "tiny", keys)
    with pytest.raises(DataError, match=rf"The {split} data .*{re.escape(str(own / 'gone'))}"):
        check_before_training(cfg, "x", keys)
    if split == "train":  # it is not read without iterations
        cfg.train.max_iter = 0
        assert check_before_training(cfg, "x", keys) is not None


def test_without_coco_nothing_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: Any, path: str, **options: Any) -> str:
        raise AssertionError(f"{path} is fetched")

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "none"))
    for handler in (HTTPURLHandler, Detectron2Handler, ModelCatalogHandler):
        monkeypatch.setattr(handler, "_get_local_path", never)
    row = launch(tmp_path, "--profile", "paper", config="table2a/r50_fpn").failed_plainly()
    zoo = "model_zoo/mask_rcnn_R_50_FPN_3x"
    published = launch(tmp_path, "--profile", "paper", "--eval-only", config=zoo).failed_plainly()
    for message, name in ((row, "coco_trainval35k"), (published, "instances_val2017")):
        assert name in message and "fetched" not in message


def test_an_evaluation_needs_its_images_before_its_weights(tmp_path: Path, own: Path) -> None:
    keys = [key.replace("brief_", "no_images_") for key in _dataset(own, "test", "val.json")[:2]]
    outcome = launch(
        tmp_path,
        *keys,
        f"dataloader.test.dataset.image_root={tmp_path / 'elsewhere'}",
        "--eval-only",
        "train.init_checkpoint=detectron2://not/there.pkl",
    )
    message = outcome.failed_plainly()
    assert str(tmp_path / "elsewhere") in message and "there.pkl" not in message


def test_the_hint_names_the_file_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command in the log can be run, also for a config outside `configs/`."""
    own = tmp_path / "my rows" / "one.py"
    own.parent.mkdir()
    own.write_text(
        "from mask_rcnn_repro import get_config\n"
        "_cfg = get_config('quickstart/mask_rcnn_r18_fpn')\n"
        "model, dataloader, optimizer, lr_multiplier, train = (\n"
        "    _cfg.model, _cfg.dataloader, _cfg.optimizer, _cfg.lr_multiplier, _cfg.train\n"
        ")\n"
    )
    launch(tmp_path, "train.max_iter=1", "train.draw=0", "train.output_dir=run", config=own)
    log = (tmp_path / "run" / "log.txt").read_text()
    (command,) = re.findall(r"The whole report: (.*)", log)
    words = shlex.split(command)
    assert words[:3] == ["tools/check_data.py", "--config-file", str(own)]
    assert check_data(tmp_path, *words[1:]).code == 0
    # a saved config has its profile already
    saved = tmp_path / "run" / "config.yaml"
    said: list[str] = []
    monkeypatch.setattr(
        "mask_rcnn_tools.check_data.before_training.logger.info",
        lambda text, *args: said.append(text % args),
    )
    check_before_training(load_config(saved), str(saved))
    (command,) = re.findall(r"The whole report: (.*)", "".join(said))
    assert shlex.split(command) == ["tools/check_data.py", "--config-file", str(saved)]


@pytest.mark.slow
def test_the_check_compiles_nothing_and_is_timed_without_generating(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes long at the first use is the generated data, which is written before."""
    code = (
        "import logging, sys\n"
        "from mask_rcnn_repro import get_config\n"
        "from mask_rcnn_repro.registration import register\n"
        "from mask_rcnn_tools.check_data import before_training\n"
        "logging.basicConfig(level=logging.INFO, format='%(name)s %(message)s')\n"
        "register()\n"
        "clock = before_training.time.perf_counter\n"
        "def asked():\n    print('clock', flush=True, file=sys.stderr)\n    return clock()\n"
        "class Time:\n    perf_counter = staticmethod(asked)\n"
        "before_training.time = Time\n"
        "cfg = get_config('quickstart/mask_rcnn_r18_fpn', 'tiny')\n"
        "before_training.check_before_training(cfg, 'quickstart/mask_rcnn_r18_fpn')\n"
        "print('numba' in sys.modules)\n"
    )
    done = start(
        tmp_path, "-c", code, MASK_RCNN_REPRO_CACHE=str(tmp_path / "cache"), PYTHONPATH=PATH
    )
    assert done.succeeded() == "False\n"
    written = [line for line in done.err.splitlines() if "It was written in" in line]
    assert len(written) == 1 and written[0].endswith("is used from now on.")
    assert done.err.index("It was written in") < done.err.index("clock")
    assert "Data checked in" in done.err


def test_training_begins_with_it(tmp_path: Path) -> None:
    key = re.search(r"python train_net.py .*\s+(train\.check_data=false)", PAGE.replace("\\\n", ""))
    assert key is not None
    for number, words in enumerate(([], [key[1]])):
        folder = tmp_path / str(number)
        folder.mkdir()
        launch(
            folder, "train.max_iter=1", "train.draw=0", "train.output_dir=run", *words
        ).succeeded()
        log = (folder / "run" / "log.txt").read_text()
        assert ("Data checked in" in log) == (number == 0)


def test_files_are_parsed_once_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    at_first_step: list[list[str]] = []
    read, release = coco_files._read, coco_files.release_parsed_files

    def counting(path: str) -> Any:
        parsed.append(Path(path).name)
        return read(path)

    def releasing() -> None:
        at_first_step.append(list(parsed))
        release()

    release()
    monkeypatch.setattr(coco_files, "_read", counting)
    monkeypatch.setattr("mask_rcnn_repro.data.loading.loader.release_parsed_files", releasing)
    launch(tmp_path, "train.max_iter=1", "train.draw=0").succeeded()
    assert sorted(at_first_step[0]) == ["instances_train.json", "instances_val.json"]
    assert parsed.count("instances_train.json") == 1
