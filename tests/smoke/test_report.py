"""The report of a real run, from the command line: what a run leaves, and what is made of it."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from mask_rcnn_repro.records.curves import record_identity
from mask_rcnn_repro.records.record import load_record
from mask_rcnn_tools.common.curves import load_curves
from mask_rcnn_tools.evidence import results
from mask_rcnn_tools.evidence.image_bootstrap import load_bootstrap
from mask_rcnn_tools.evidence.verdicts import BOOTSTRAP_SAMPLES
from mask_rcnn_tools.report.cli import parse_args
from mask_rcnn_tools.report.main import main
from mask_rcnn_tools.report.runs import record_file

from .run_helpers import RUN, CommandResult, _undone

CONFIG = "quickstart/mask_rcnn_r18_fpn"


def report(folder: Path, *argv: str) -> CommandResult:
    """Runs `tools/report.py` in this process, in `folder`."""
    out, err = io.StringIO(), io.StringIO()
    with _undone(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(parse_args(list(argv)))
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    return CommandResult(code, out.getvalue(), err.getvalue())


@pytest.fixture
def copied(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the trained run; only its config is known, the others take long to load."""
    shutil.copytree(
        trained, tmp_path / RUN, ignore=shutil.ignore_patterns("*.pth", "tensorboard", "drawings")
    )
    monkeypatch.setattr(results, "list_configs", lambda: [CONFIG])
    return tmp_path


def test_a_run_leaves_its_curves(trained: Path) -> None:
    record, curves = load_record(trained / "record.json"), load_curves(trained / "curves.json")
    assert curves.record == record_identity(record)
    assert set(curves.precision_recall) == set(record.metrics) == {"bbox", "segm"}
    for task, found in curves.precision_recall.items():
        metrics = record.metrics[task]
        assert 100 * np.mean(found.mean) == pytest.approx(metrics.values()["AP"], abs=0.01)
        assert set(found.per_class_at_50) == set(metrics.per_class)
        last = curves.evaluations[f"{task}/AP"][-1]
        assert last == (record.iterations_planned, pytest.approx(metrics.values()["AP"], abs=1e-3))
    assert curves.training["total_loss"][-1][0] == record.iterations_planned


def test_a_run_leaves_its_metrics_on_samples_of_the_test_images(trained: Path) -> None:
    record = load_record(trained / "record.json")
    made = load_bootstrap(trained / "bootstrap.json")
    assert made.record == record_identity(record)
    assert made.images == record.test_data.images
    assert {"bbox/AP", "segm/AP", "segm/AP50", "segm/AP75"} <= set(made.values)
    for name, values in made.values.items():
        assert len(values) == BOOTSTRAP_SAMPLES, name
        assert all(0 <= value <= 100 for value in values)


def test_curves_of_the_folder_are_those_that_the_run_wrote(copied: Path) -> None:
    file = copied / RUN / "curves.json"
    written = file.read_bytes()
    file.unlink()
    samples = file.with_name("bootstrap.json").read_bytes()
    file.with_name("bootstrap.json").unlink()
    assert "curves.json: written" in report(copied, "--curves-of", str(RUN)).succeeded()
    assert file.read_bytes() == written
    assert file.with_name("bootstrap.json").read_bytes() == samples


def test_from_a_run_to_a_page(copied: Path) -> None:
    drawn = report(copied, "--examples-of", str(RUN), "--count", "2").succeeded()
    assert "2 pictures written" in drawn
    printed = report(copied, "--records", "output", "--output", "mine").succeeded()
    assert "not shown" not in printed
    page = (copied / "mine" / "RESULTS.md").read_text()
    ap = load_record(copied / RUN / "record.json").metrics["segm"].values()["AP"]
    row = next(line for line in page.splitlines() if line.startswith("| mask_rcnn_r18_fpn | mask"))
    assert f"| {ap:.1f} |" in row
    plots = {f.name for f in (copied / "mine" / "plots").iterdir()}
    assert "tiny-quickstart-learning.svg" in plots
    assert "tiny-quickstart-precision-segm.svg" in plots
    html = (copied / "mine" / "report.html").read_text()
    assert html.count("data:image/jpeg;base64,") == 2
    again = report(copied, "--records", "output", "--output", "again").succeeded()
    assert again.replace("again", "mine") == printed
    for file in ("RESULTS.md", "report.html"):
        first, second = ((copied / f / file).read_bytes() for f in ("mine", "again"))
        assert first.replace(b"mine/", b"") == second.replace(b"again/", b"")


def test_examples_and_curves_go_beside_the_collected_record(copied: Path) -> None:
    record = load_record(copied / RUN / "record.json")
    target = record_file(record, copied / "results")
    message = report(copied, "--curves-of", str(RUN), "--into", "results").failed_plainly()
    assert "is not the record of" in message
    target.parent.mkdir(parents=True)
    shutil.copyfile(copied / RUN / "record.json", target)
    both = ("--curves-of", str(RUN), "--examples-of", str(RUN), "--count", "1", "--into", "results")
    report(copied, *both).succeeded()
    assert load_curves(target.with_suffix(".curves.json")).record == record_identity(record)
    assert load_bootstrap(target.with_suffix(".bootstrap.json")).record == record_identity(record)
    (picture,) = target.with_suffix(".examples").glob("*.jpg")
    manifest = json.loads((picture.parent / "examples.json").read_text())
    assert manifest["record"]["id"] == CONFIG
    assert [p["file"] for p in manifest["pictures"]] == [picture.name]
    assert picture.stat().st_size < 40_000
    image = cv2.imread(str(picture))
    assert image.shape[:2] == (manifest["pictures"][0]["height"], manifest["pictures"][0]["width"])


def test_examples_need_the_run_s_results(copied: Path) -> None:
    shutil.rmtree(copied / RUN / "inference")
    message = report(copied, "--examples-of", str(RUN)).failed_plainly()
    assert "no result files" in message
    assert "--eval-only --resume" in message
