"""`tools/analyze.py` and `tools/model_info.py` as a newcomer uses them, on a tiny run."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import cv2
import pytest

from mask_rcnn_tools.analyze.cli import parse_args
from mask_rcnn_tools.analyze.main import main, run

from .run_helpers import REPOSITORY, start

DATASET = "embedded_tiny_val"
PAGE = REPOSITORY / "docs" / "looking_at_models.md"


def _fails(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(parse_args(list(argv)))
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_analysed(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "out"
    argv = ["--run", str(trained), "--output", str(output), "--score-threshold", "0"]
    run(parse_args([*argv, "--images", "2", "--format", "both"]))
    text = capsys.readouterr().out
    for part in ("Error types (TIDE)", "Confusions of masks", "Boundary IoU", "best threshold"):
        assert part in text
    content = json.loads((output / "analysis.json").read_text())
    record = json.loads((trained / "record.json").read_text())
    assert content["images"] == record["test_data"]["images"]
    # what the evaluation found is what is analysed
    for task, name in (("box", "bbox"), ("mask", "segm")):
        assert content["errors"][task]["ap"] == pytest.approx(
            record["metrics"][name]["AP50"], abs=0.5
        )
    assert content["masks"]["ap"]["AP"] == pytest.approx(record["metrics"]["segm"]["AP"])
    assert content["errors"]["box"]["counts"]["Bkg"] + content["errors"]["box"]["counts"]["Loc"] > 0
    for name in ("error_types", "confusion", "calibration"):
        picture = cv2.imread(str(output / f"{name}.png"))
        assert picture.std() > 10  # not blank
        assert "<svg" in (output / f"{name}.svg").read_text()
    drawn = sorted(p.name[:8] for p in (output / "images").iterdir())
    assert drawn == ["best_01_", "best_02_", "worst_01", "worst_02"]
    assert cv2.imread(str(output / "worst.png")).shape[1] > 1000


def test_predictions_by_file_as_json(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    own = tmp_path / "mine"
    shutil.copytree(trained / "inference" / DATASET, own)
    argv = ["--config-file", str(trained / "config.yaml"), "--parts", "errors", "confusion"]
    run(parse_args([*argv, "--json", "--predictions", str(own / "bbox_results.json")]))
    content = json.loads(capsys.readouterr().out)
    assert list(content["errors"]) == ["box"]
    assert content["confusion"]["of"] == "box"
    assert "masks" not in content
    assert content == json.loads((own / "analysis" / "analysis.json").read_text())


def test_changes_to_the_config_after_files(trained: Path) -> None:
    args = parse_args(["--run", str(trained), "--predictions", "a.json", "train.seed=0", "~x.y"])
    assert (args.predictions, args.overrides) == (["a.json"], ["train.seed=0", "~x.y"])


def test_mistakes_are_told(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert "it has no config.yaml" in _fails(capsys, "--run", str(tmp_path))
    assert "does not exist" in _fails(capsys, "--run", str(tmp_path / "nothing"))
    config = ["--config-file", str(trained / "config.yaml")]
    away = f"train.output_dir={tmp_path}"
    assert "There are no predictions in" in _fails(capsys, *config, away)
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert "cannot be read" in _fails(capsys, *config, "--predictions", str(broken))
    broken.write_text('[{"image_id": -5, "category_id": 1, "score": 1, "bbox": [0, 0, 1, 1]}]')
    assert "image_id -5 is not in" in _fails(capsys, *config, "--predictions", str(broken))
    for argv in ([], ["--run", "a", "--config-file", "b"], ["--run", "a", "--images", "-1"]):
        with pytest.raises(SystemExit):
            parse_args(argv)


def test_an_rpn_stage_has_nothing_to_analyse(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copy(trained / "config.yaml", tmp_path)
    (tmp_path / "inference" / DATASET).mkdir(parents=True)
    assert "holds no bbox_results.json" in _fails(capsys, "--run", str(tmp_path))


def _documented() -> list[str]:
    """Commands of this page that start our two tools."""
    joined = PAGE.read_text().replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines()]
    tools = ("python tools/analyze.py", "python tools/model_info.py")
    return [line.partition("  #")[0] for line in lines if line.startswith(tools)]


@pytest.mark.slow
def test_the_documented_commands_run(trained: Path, tmp_path: Path) -> None:
    commands = _documented()
    assert len(commands) >= 4
    home = tmp_path / "output" / "quickstart" / "mask_rcnn_r18_fpn"
    home.mkdir(parents=True)
    shutil.copytree(trained, home / "seed0")
    (tmp_path / "tools").symlink_to(REPOSITORY / "tools")
    code = "import sys, runpy\n"
    for command in commands:
        argv = shlex.split(command)[1:]
        if "model_info" in argv[0]:
            # the page's sizes would take a minute
            argv += ["--profile", "tiny", "--image-size", "64", "96"]
        code += f"sys.argv = {argv!r}\nrunpy.run_path({argv[0]!r}, run_name='__main__')\n"
    done = start(tmp_path, "-W", "ignore", "-c", code)
    assert done.code == 0, done.out + done.err
    assert "Error types (TIDE)" in done.out
    assert "mask branch" in done.out
    assert (home / "seed0" / "analysis" / "analysis.json").is_file()
