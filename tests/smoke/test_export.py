"""`tools/export.py` from the command line, and its files where this project cannot be imported."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from mask_rcnn_embedded.quickstart import TINY_SPEC, ensure_generated
from mask_rcnn_repro import build_predictor, get_config
from mask_rcnn_repro.modeling import FCNMaskHead
from mask_rcnn_tools.export import cli, main

from .run_helpers import QUICKSTART, REPOSITORY, CommandResult, _undone, launch, start
from .stage_helpers import R50_FPN, SHORT

EXAMPLES = REPOSITORY / "docs" / "examples"
ALONE = """
import runpy, sys

class Blocked:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} is blocked")

blocked = sys.argv[1].split(",")
sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
FEW = (
    "model.roi_heads.box_predictor.test_topk_per_image=5",
    "model.roi_heads.box_predictor.test_score_thresh=0.0",  # hardly trained, it is sure of nothing
)


def export(folder: Path, *argv: str, config: Path | str = QUICKSTART) -> CommandResult:
    """Runs `tools/export.py` in this process, in `folder`, at `tiny`."""
    out, err = io.StringIO(), io.StringIO()
    with _undone(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            given = [] if argv[0] == "--show" else ["--config-file", str(config)]
            given += [] if argv[0] == "--show" else ["--profile", "tiny"]
            main.main(cli.parse_args([*given, *argv]))
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    return CommandResult(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A test image of the size that the network takes, so that nothing is resized."""
    source = sorted((ensure_generated(TINY_SPEC) / "val").iterdir())[0]
    file = tmp_path_factory.mktemp("picture") / "picture.png"
    cv2.imwrite(str(file), cv2.resize(cv2.imread(str(source)), (80, 64)))
    return file


def detections(printed: str) -> list[tuple[str, list[float]]]:
    rows = [line.split() for line in printed.splitlines()]
    return [(name, [float(value) for value in values]) for name, *values in rows]


def by_model(trained: Path, picture: Path) -> list[tuple[str, list[float]]]:
    """What the model itself finds in the picture."""
    cfg = get_config("quickstart/mask_rcnn_r18_fpn", "tiny", overrides=list(FEW))
    assert cfg.dataloader.test.mapper.augmentations[0].short_edge_length == [64]
    model: Any = build_predictor(cfg, trained / "model_final.pth", device="cpu")
    frame = torch.from_numpy(cv2.imread(str(picture)).transpose(2, 0, 1).copy())
    with torch.no_grad():
        found = model.inference([{"image": frame, "height": 64, "width": 80}])[0]["instances"]
    names = ("person", "mug", "cup", "leaf", "fish", "star", "cog")
    rows = zip(found.pred_classes, found.scores, found.pred_boxes.tensor, strict=True)
    return [(names[kind], [float(score), *box.tolist()]) for kind, score, box in rows]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "blocked"),
    [
        ("onnx", "model.onnx", "detectron2,mask_rcnn_repro,torch,torchvision,fvcore"),
        ("torchscript", "model.ts", "detectron2,mask_rcnn_repro,fvcore"),
    ],
)
def test_a_file_works_without_this_project(
    kind: str, name: str, blocked: str, trained: Path, picture: Path, tmp_path: Path
) -> None:
    weights = str(trained / "model_final.pth")
    out = export(
        *(tmp_path, "--format", kind, "--output", name, "--checkpoint", weights, *FEW),
        *("--images", str(picture)),
    ).succeeded()
    assert "1 given images, a part of the first, and the first nearly grey" in out
    assert out.count("equal") == 3 and f"Written: {name}" in out
    about = json.loads(export(tmp_path, "--show", name).succeeded())
    assert about["config"] == "quickstart/mask_rcnn_r18_fpn" and about["profile"] == "tiny"
    assert about["class_names"][-1] == "cog" and about["max_detections"] == 5
    assert about["input"]["channels"] == "BGR" and about["input"]["shortest_edge"] == 64
    assert len(about["checkpoint"]["sha256"]) == 64 and "masks" in about["outputs"]

    script = EXAMPLES / ("detect_onnx.py" if kind == "onnx" else "detect_torch.py")
    files = [name, str(picture)] + ["result.png"] * (kind == "onnx")
    done = start(tmp_path, "-c", ALONE, blocked, str(script), *files)
    found, expected = detections(done.succeeded()), by_model(trained, picture)
    assert len(found) == len(expected) > 0
    for (label, values), (their_label, their_values) in zip(found, expected, strict=True):
        assert label == their_label
        assert values == pytest.approx(their_values, abs=0.02)
    if kind == "onnx":
        assert cv2.imread(str(tmp_path / "result.png")).shape == (64, 80, 3)


def test_the_block_blocks(tmp_path: Path) -> None:
    (tmp_path / "needs.py").write_text("import detectron2.layers")
    done = start(tmp_path, "-c", ALONE, "detectron2", "needs.py")
    assert done.code == 1 and "detectron2 is blocked" in done.err


@pytest.mark.slow
def test_a_file_that_differs_is_not_kept(
    trained: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = FCNMaskHead.forward

    def brighter(self: FCNMaskHead, x: torch.Tensor, instances: Any) -> Any:
        plain(self, x, instances)  # as a head of one's own would, which the graph does not know
        for image in instances:
            image.pred_masks = (image.pred_masks * 1.1).clamp(max=1)
        return instances

    monkeypatch.setattr(FCNMaskHead, "forward", brighter)
    flags = ("--checkpoint", str(trained / "model_final.pth"), "--images", str(picture))
    outcome = export(tmp_path, "--format", "torchscript", "--output", "m.ts", *flags, *FEW)
    assert outcome.code == 3
    assert "masks differ by" in outcome.out and "was not written" in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_stagewise_row_with_its_rpn(tmp_path: Path) -> None:
    """A newcomer's commands: train a row, export it; its RPN is in the file."""
    launch(tmp_path, *SHORT, config=R50_FPN).succeeded()
    out = export(
        *(tmp_path, "--format", "onnx", "--output", "row.onnx", "--num-images", "1", *SHORT),
        config=R50_FPN,
    ).succeeded()
    assert "1 images of embedded_tiny_val" in out and "Written: row.onnx" in out
    about = json.loads(export(tmp_path, "--show", "row.onnx").succeeded())
    assert about["rpn_checkpoint"]["sha256"] != about["checkpoint"]["sha256"]
    assert np.isclose(about["score_threshold"], 0.05)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--format", "onnx", "--output", "m.pt2"), "ends in .onnx"),
        (("--format", "onnx", "--output", "no/m.onnx"), "does not exist"),
        (
            ("--format", "onnx", "--output", "m.onnx", "train.tta.enabled=true"),
            "Test-time augmentation cannot be exported",
        ),
        (("--format", "torchscript", "--output", "m.ts"), "There is no trained model in"),
        (("--show", "m.onnx"), "m.onnx cannot be opened as onnx: it does not exist"),
    ],
)
def test_mistakes_are_told_before_any_work(
    argv: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    assert message in export(tmp_path, *argv).failed_plainly()


def test_images_that_are_not_there(trained: Path, tmp_path: Path) -> None:
    flags = ("--format", "onnx", "--output", "m.onnx", "--images", "a.jpg", "b.jpg")
    weights = ("--checkpoint", str(trained / "model_final.pth"))
    assert "no file a.jpg, b.jpg" in export(tmp_path, *flags, *weights).failed_plainly()


def test_what_detects_nothing_is_refused(tmp_path: Path) -> None:
    flags = ("--format", "onnx", "--output", "m.onnx")
    message = export(tmp_path, *flags, config="rpn/r50_fpn").failed_plainly()
    assert "is an RPN stage" in message


def test_help_needs_no_torch(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['export.py', '--help']; sys.modules['torch'] = None\n"
    code += f"import runpy; runpy.run_path({str(REPOSITORY / 'tools' / 'export.py')!r}, "
    code += "run_name='__main__')"
    assert "--paste-masks" in start(tmp_path, "-c", code).succeeded()
