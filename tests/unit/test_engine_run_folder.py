"""A run's folder: metrics that survive a resume, log files, quiet dependencies."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mask_rcnn_repro.config import claim_output_dir, load_config
from mask_rcnn_repro.engine.run_folder import (
    LOGGERS,
    QUIET_LOGGERS,
    forget_metrics_from,
    keep_logs,
    setup_logging,
)
from mask_rcnn_repro.errors import DataError
from mask_rcnn_tools.startup import quiet_dependencies
from mask_rcnn_tools.train.other_runs import report_other_runs

LONGER = "train.max_iter=1234"


@pytest.fixture
def loggers() -> Iterator[None]:
    """Puts the loggers back that `setup_logging` changes."""
    changed = [logging.getLogger(name) for name in (*LOGGERS, *QUIET_LOGGERS)]
    kept = [(log, log.handlers[:], log.level, log.propagate) for log in changed]
    yield
    for log, handlers, level, propagate in kept:
        log.handlers[:], log.propagate = handlers, propagate
        log.setLevel(level)


@given(
    rows=st.lists(st.integers(0, 30), max_size=20),
    start=st.integers(0, 30),
    tail=st.sampled_from(["", '{"iteration": 3, "loss', "\x00\x00", "{}"]),
)
def test_metrics_before_the_start_are_kept_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int], start: int, tail: str
) -> None:
    file = tmp_path_factory.mktemp("run") / "metrics.json"
    lines = [json.dumps({"iteration": i, "loss": 0.1 * i}) for i in rows]
    file.write_text("\n".join([*lines, tail]))
    forget_metrics_from(file, start)
    kept = [line for line, i in zip(lines, rows, strict=True) if i < start]
    assert [x for x in file.read_text().splitlines() if x != "{}"] == kept


def test_no_metrics_yet(tmp_path: Path) -> None:
    forget_metrics_from(tmp_path / "metrics.json", 0)
    assert list(tmp_path.iterdir()) == []


def test_lines_logged_before_the_folder_is_known_come_first(
    tmp_path: Path, loggers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = logging.getLogger("mask_rcnn_repro.config")
    with keep_logs() as earlier:
        ours.info("80 -> %d", 3)
    assert capsys.readouterr().out == ""
    setup_logging(tmp_path / "run", earlier)
    ours.info("now")
    out = capsys.readouterr().out
    assert out.index("80 -> 3") < out.index("now")
    assert out == (tmp_path / "run" / "log.txt").read_text()


def test_the_same_folder_twice_logs_each_line_once(
    tmp_path: Path, loggers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for word in ("first", "second"):
        setup_logging(tmp_path)
        logging.getLogger("mask_rcnn_repro").info(word)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == ["first", "second"]
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 2


def test_a_users_mistake_is_logged_without_traceback(
    tmp_path: Path, loggers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logging(tmp_path)
    log = logging.getLogger("detectron2.engine.train_loop")
    for error in (DataError("broken.jpg"), ZeroDivisionError("a fault")):
        try:
            raise error
        except Exception:
            log.exception("Exception during training:")
    out = capsys.readouterr().out
    assert out.count("Traceback") == 1 and "a fault" in out and "broken.jpg" not in out


def test_checkpoint_loading_is_mentioned_once(
    tmp_path: Path, loggers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from torch import nn

    from mask_rcnn_repro.engine.checkpoint.checkpointer import SafeCheckpointer

    setup_logging(tmp_path)
    model = nn.Linear(1, 1)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    SafeCheckpointer(model).load(str(tmp_path / "x.pth"))
    assert capsys.readouterr().out.count("x.pth") == 1


def test_only_known_warnings_are_silenced() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet_dependencies()
        warnings.warn("`torch.jit.script` is deprecated. Please switch", FutureWarning, 2)
        warnings.warn("torch.meshgrid: in an upcoming release, it will", UserWarning, 2)
        warnings.warn("`torch.jit.other` is deprecated", FutureWarning, 2)
        warnings.warn("the learning rate is odd", UserWarning, 2)
    assert [str(w.message) for w in caught] == [
        "`torch.jit.other` is deprecated",
        "the learning rate is odd",
    ]


def test_known_lines_of_fx_are_silenced_and_others_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    quiet_dependencies()
    log = logging.getLogger("torch.fx._symbolic_trace")
    caplog.set_level(logging.WARNING, logger=log.name)
    log.addHandler(caplog.handler)
    try:
        log.warning("is_fx_tracing will return true for both fx.symbolic_trace and torch.export.")
        log.warning("something new")
    finally:
        log.removeHandler(caplog.handler)
    assert set(caplog.messages) == {"something new"}


def test_silencing_imports_the_standard_library_only() -> None:
    code = (
        "import sys\nfrom mask_rcnn_tools.startup import quiet_dependencies\n"
        "quiet_dependencies()\n"
        "roots = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(roots - set(sys.stdlib_module_names) - {'__main__', 'mask_rcnn_tools'}))"
    )
    sources = str(Path(__file__).resolve().parents[2] / "projects")
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": sources},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_resume_names_a_run_of_the_same_config_with_other_settings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg, longer = (load_config("quickstart/mask_rcnn_r18_fpn", "tiny", o) for o in ([], [LONGER]))
    begun, new = tmp_path / "seed0", tmp_path / "seed0-0123abcd"
    claim_output_dir(begun, cfg)
    report_other_runs(new, longer)  # without a checkpoint
    torch.save({"model": {}, "iteration": 7}, begun / "model_final.pth")
    (begun / "last_checkpoint").write_text("model_final.pth")
    for folder in (tmp_path / "seed1", tmp_path / "mine", begun, tmp_path / "gone" / "seed0"):
        report_other_runs(folder, longer)
    assert caplog.text == ""
    report_other_runs(new, longer)
    (record,) = caplog.records
    message = record.getMessage()
    for words in (
        f"no checkpoint in {new}",
        f"train.max_iter {cfg.train.max_iter} there, 1234 here",
        "done 8 iterations",
        f"train.init_checkpoint={begun / 'model_final.pth'}",
    ):
        assert words in message
