"""`tools/predict.py` from the command line, on what a tiny training left."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from omegaconf import OmegaConf
from PIL import Image
from pycocotools.coco import COCO

from mask_rcnn_embedded.cache import embedded_root
from mask_rcnn_repro import build_predictor, get_config
from mask_rcnn_repro.data.registration import (
    coco_parts,
    register_all_datasets,
    register_custom,
)
from mask_rcnn_repro.engine.builders import build_model
from mask_rcnn_repro.engine.dependencies import find_rpn
from mask_rcnn_repro.errors import CheckpointError, ConfigError, DataError
from mask_rcnn_tools import Predictor
from mask_rcnn_tools.predict import images as image_files
from mask_rcnn_tools.predict import main as predict_main
from mask_rcnn_tools.predict import video_io, videos
from mask_rcnn_tools.predict.cli import parse_args
from mask_rcnn_tools.predict.main import main
from mask_rcnn_tools.predict.prediction import Prediction
from mask_rcnn_tools.predict.sources import Source

from .run_helpers import QUICKSTART, REPOSITORY, CommandResult, _undone, results, start

_PREDICTOR = "model.roi_heads.box_predictor"
FEW = (f"{_PREDICTOR}.test_topk_per_image=5", f"{_PREDICTOR}.test_score_thresh=0.001")
ID = "quickstart/mask_rcnn_r18_fpn"
STAGE_WISE = "table5/keypoint_and_mask"


def predict(folder: Path, *argv: str | Path, config: str | Path = QUICKSTART) -> CommandResult:
    """Runs `tools/predict.py` in this process, in `folder`, at `tiny`."""
    out, err = io.StringIO(), io.StringIO()
    words = ["--config-file", str(config), "--profile", "tiny", *map(str, argv)]
    with _undone(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(parse_args(words))
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    return CommandResult(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def images() -> Path:
    """The folder of the test images."""
    register_all_datasets()
    parts = coco_parts("embedded_tiny_val")
    assert parts is not None
    return Path(parts[0].image_root)


@pytest.fixture(scope="module")
def weights(trained: Path) -> str:
    """Arguments that choose the trained weights."""
    return f"--checkpoint={trained / 'model_final.pth'}"


def one_image(images: Path) -> np.ndarray:
    """The first test image, (H, W, 3) RGB."""
    return np.asarray(Image.open(sorted(images.iterdir())[0]).convert("RGB"))


def load(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "predictions" / "predictions.json").read_text())
    return content


def test_generated_data_are_not_made_for_their_class_names(
    weights: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = shutil.copy(sorted(images.iterdir())[0], tmp_path / "mine.jpg")
    monkeypatch.setenv("MASK_RCNN_REPRO_CACHE", str(tmp_path / "cache"))
    predict(tmp_path, weights, "--input", picture).succeeded()
    assert not (tmp_path / "cache").exists()
    assert load(tmp_path)["info"]["image_ids"] == "counted from 1"


def test_a_data_set_of_ones_own_may_be_called_embedded(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the registered names of generated data are generated; other images have their ids."""
    monkeypatch.setattr(predict_main, "embedded_root", lambda: tmp_path / "none")
    parts = coco_parts("embedded_tiny_val")
    keys = {"names": "embedded_photos", "json": parts[0].json_file, "image_root": images}
    overrides = [f"dataloader.test.dataset.{key}={value}" for key, value in keys.items()]
    cfg = get_config(ID, "tiny", overrides=overrides)
    register_custom("embedded_photos", parts[0].json_file, str(images))
    sources = [Source(path, path.name, False) for path in sorted(images.iterdir())]
    ids = predict_main._test_image_ids(cfg, sources)
    assert ids is not None and ids.keys() == {source.path for source in sources}
    assert predict_main._test_image_ids(get_config(ID, "tiny"), sources) is None


def test_generated_images_below_a_link_have_their_ids(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "embedded"
    link.symlink_to(embedded_root(), target_is_directory=True)
    monkeypatch.setattr(predict_main, "embedded_root", lambda: link)
    sources = [Source(path, path.name, False) for path in sorted(images.iterdir())]
    ids = predict_main._test_image_ids(get_config(ID, "tiny"), sources)
    assert ids is not None and ids.keys() == {source.path for source in sources}


def write_video(file: Path, frames: list[np.ndarray], rate: float = 12.5) -> Path:
    """Frames (H, W, 3) RGB as motion JPEG."""
    size = frames[0].shape[1], frames[0].shape[0]
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), rate, size)
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
    writer.release()
    return file


def test_the_same_as_the_evaluation(trained: Path, images: Path, tmp_path: Path) -> None:
    root = trained.parents[2]  # its output folder, where the weights are found
    out = predict(tmp_path, "--input", images, f"train.output_root={root}").succeeded()
    assert f"{len(list(images.iterdir()))} images, " in out and "FAILED" not in out
    content = load(tmp_path)
    assert content["info"]["image_ids"] == "embedded_tiny_val"
    evaluated = results(trained)
    for task, field in (("bbox", "bbox"), ("segm", "segmentation")):
        keys = ("image_id", "category_id", "score", field)
        ours: dict[Any, list[Any]] = defaultdict(list)
        theirs: dict[Any, list[Any]] = defaultdict(list)
        for row in content["annotations"]:
            ours[row["image_id"]].append({key: row[key] for key in keys})
        for row in evaluated[f"{task}_results"]:
            theirs[row["image_id"]].append(row)
        assert ours == theirs
    coco = COCO(str(tmp_path / "predictions" / "predictions.json"))
    truth = COCO(coco_parts("embedded_tiny_val")[0].json_file)
    names = {i: image["file_name"] for i, image in truth.imgs.items()}
    assert {i: image["file_name"] for i, image in coco.imgs.items()} == names
    ids = {c["id"]: c["name"] for c in truth.dataset["categories"]}
    assert {c["id"]: c["name"] for c in coco.dataset["categories"]} == ids
    first = coco.anns[1]
    assert first["area"] == coco.annToMask(first).sum()


def test_every_kind_of_image(weights: str, images: Path, tmp_path: Path) -> None:
    image = Image.fromarray(one_image(images))
    folder = tmp_path / "in"
    (folder / "a").mkdir(parents=True)
    (folder / "b").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    image.rotate(90, expand=True).save(folder / "turned.png", exif=exif)
    image.save(folder / "a" / "same.png")
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "b" / "same.png")
    grey = image.convert("L")
    grey.save(folder / "grey.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(folder / "grey16.png")
    grey.convert("RGB").save(folder / "grey_rgb.bmp")
    image.convert("RGBA").save(folder / "alpha.webp", lossless=True)
    image.quantize(16).save(folder / "palette.gif")
    (folder / "notes.txt").write_text("no image")
    out = predict(tmp_path, weights, "--input", folder, *FEW).succeeded()
    assert "1 .txt" in out
    found: dict[str, list[Any]] = defaultdict(list)
    content = load(tmp_path)
    names = {entry["id"]: entry["file_name"] for entry in content["images"]}
    for row in content["annotations"]:
        found[names[row["image_id"]]].append((row["bbox"], row["score"], row["segmentation"]))
    assert found["turned.png"] == found["a/same.png"] == found["alpha.webp"] != []
    assert found["grey16.png"] == found["grey.png"] == found["grey_rgb.bmp"] != []
    assert found["b/same.png"] != found["a/same.png"]
    size = {entry["file_name"]: (entry["width"], entry["height"]) for entry in content["images"]}
    assert size["turned.png"] == image.size
    pictures = tmp_path / "predictions" / "pictures"
    drawn = {str(p.relative_to(pictures)) for p in pictures.rglob("*") if p.is_file()}
    assert drawn == {
        *("turned.png", "a/same.png", "b/same.png", "grey.png", "grey16.png", "grey_rgb.bmp.png"),
        *("alpha.webp.png", "palette.gif.png"),
    }
    turned, plain = (cv2.imread(str(pictures / name)) for name in ("turned.png", "a/same.png"))
    assert np.array_equal(turned, plain)  # as it is shown, not as it lies in the file


def test_broken_files_are_passed_over(weights: str, images: Path, tmp_path: Path) -> None:
    image = Image.fromarray(one_image(images))
    image.resize((640, 480)).save(tmp_path / "cut.jpg", quality=95)
    cut = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(cut[: len(cut) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "no.mp4").write_bytes(b"no video" * 100)
    Image.new("RGB", (3000, 2)).save(tmp_path / "slim.png")
    image.save(tmp_path / "good.png")
    files = ("cut.jpg", "text.png", "no.mp4", "slim.png", "good.png")
    outcome = predict(tmp_path, weights, "--input", *files, "--batch-size", "2", *FEW)
    assert outcome.code == 1 and "Traceback" not in outcome.out + outcome.err
    assert "3 of 5 files failed:" in outcome.out
    failed = {row["file_name"]: row["error"] for row in load(tmp_path)["info"]["failed"]}
    assert set(failed) == set(files) - {"good.png", "slim.png"}
    assert "truncated" in failed["cut.jpg"] and "not an image" in failed["text.png"]
    assert "not a video" in failed["no.mp4"]
    assert [entry["file_name"] for entry in load(tmp_path)["images"]] == ["slim.png", "good.png"]
    assert load(tmp_path)["annotations"]
    assert not (tmp_path / "predictions" / "videos" / "no.mp4").exists()


def test_videos_frame_by_frame(weights: str, images: Path, tmp_path: Path) -> None:
    image = one_image(images)[:46, :62]
    frames = [np.roll(image, 5 * shift, axis=1) for shift in range(7)]
    whole = write_video(tmp_path / "clip.avi", frames)
    content = whole.read_bytes()
    for shift in range(100, 200):  # a longer one, cut in the middle of its frames
        frames.append(np.roll(image, shift, axis=1))
    cut = write_video(tmp_path / "cut.avi", frames)
    cut.write_bytes(cut.read_bytes()[: 6 * len(content) // 7])
    args = (weights, "--every", "2", "--scale", "0.5", *FEW)
    outcome = predict(tmp_path, *args, "--input", "clip.avi", "cut.avi")
    assert outcome.code == 1 and re.search(
        r"cut.avi  FAILED: ends after \d of about 107", outcome.out
    )
    folder = tmp_path / "predictions"
    rows = [json.loads(line) for line in (folder / "frames" / "clip.avi.jsonl").open()]
    assert [row["frame"] for row in rows] == [0, 2, 4, 6]
    assert [row["seconds"] for row in rows] == pytest.approx([0.0, 0.16, 0.32, 0.48])
    entry = load(tmp_path)["videos"][0]
    assert (entry["frames"], entry["fps"], entry["results"]) == (4, 6.25, "frames/clip.avi.jsonl")
    # what is found in a frame is what is found in it as an image
    _, pixels = cv2.VideoCapture(str(whole)).read()
    cv2.imwrite(str(tmp_path / "frame.png"), pixels)
    predict(tmp_path, weights, "--input", "frame.png", "--output", "single", *FEW).succeeded()
    single = json.loads((tmp_path / "single" / "predictions.json").read_text())["annotations"]
    assert [row["bbox"] for row in single] == [row["bbox"] for row in rows[0]["results"]] != []
    reader = cv2.VideoCapture(str(folder / "videos" / "clip.avi.mp4"))
    assert reader.get(cv2.CAP_PROP_FPS) == 6.25
    shapes = []
    while (read := reader.read())[0]:
        shapes.append(read[1].shape)
    assert shapes == [(24, 32, 3)] * 4  # of 23 x 31, as the codec takes even sides alone


def test_a_camera_until_ctrl_c(
    weights: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_video(tmp_path / "clip.avi", [one_image(images)] * 6)
    opened = []

    def open_file(source: Path | int) -> cv2.VideoCapture:
        opened.append(source)
        return cv2.VideoCapture(str(clip))

    def stopped(frames: videos._Frames, frame: video_io.Frame, *rest: Any) -> None:
        if frame.index == 3:
            raise KeyboardInterrupt
        write(frames, frame, *rest)

    write = videos._Frames._write
    monkeypatch.setattr(video_io, "open_capture", open_file)
    monkeypatch.setattr(videos._Frames, "_write", stopped)
    out = predict(tmp_path, weights, "--webcam", "0", *FEW).succeeded()
    assert opened == [0] and "webcam0  3 frames" in out
    folder = tmp_path / "predictions"
    assert len((folder / "frames" / "webcam0.jsonl").read_text().splitlines()) == 3
    assert cv2.VideoCapture(str(folder / "videos" / "webcam0.mp4")).read()[0]
    assert not [p for p in folder.rglob("*") if ".partial" in p.name]


def test_what_was_done_before_ctrl_c_is_kept(
    weights: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def stopped(path: Path, picture: np.ndarray) -> None:
        written.append(path)
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(image_files, "write_picture", stopped)
    outcome = predict(tmp_path, weights, "--input", images, *FEW)
    assert outcome.code == 130 and "stopped early" in outcome.out
    content = load(tmp_path)
    assert content["info"]["stopped"] and len(content["images"]) == 3


def test_stage_wise_with_keypoints_as_detectron2(tmp_path: Path, images: Path) -> None:
    keys = (*FEW, "train.optimize_inference=false")
    cfg = get_config(STAGE_WISE, "tiny", keys)
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    rpn = find_rpn(cfg, cpu)
    for name, part in (("row", cfg), ("rpn", rpn.cfg)):
        torch.save({"model": build_model(part, cpu).state_dict()}, tmp_path / f"{name}.pth")
    file = sorted(images.iterdir())[0]
    args = ("--checkpoint=row.pth", "--rpn-checkpoint=rpn.pth", "--input", file, *keys)
    predict(tmp_path, *args, config=STAGE_WISE).succeeded()
    model = build_predictor(cfg, tmp_path / "row.pth", tmp_path / "rpn.pth", cpu)
    record = {"file_name": str(file), "image_id": 100001}
    from detectron2.config import instantiate

    node = cfg.dataloader.test.mapper
    OmegaConf.update(node, "precomputed_proposal_topk", None)
    pixels = one_image(images)
    inputs = {**instantiate(node)(record), "height": pixels.shape[0], "width": pixels.shape[1]}
    with torch.no_grad():
        instances = model([inputs])[0]["instances"]
    expected = instances_to_coco_json(instances, 0)
    found = load(tmp_path)["annotations"]
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["category_id"] == theirs["category_id"] + 1  # the only class, person
        for key in ("bbox", "score", "segmentation", "keypoints"):
            assert ours[key] == theirs[key]
    category = load(tmp_path)["categories"][0]
    assert (category["id"], category["keypoints"][0], len(category["keypoints"])) == (1, "nose", 17)
    assert [1, 2] in category["skeleton"] or [1, 3] in category["skeleton"]
    # the RPN alone: proposals
    argv = ("--checkpoint=rpn.pth", "--input", file, "--output=proposals", "--top-k=7")
    out = predict(tmp_path, *argv, config=rpn.config_id).succeeded()
    assert "7 proposals drawn" in out
    content = json.loads((tmp_path / "proposals" / "predictions.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "object"}]
    scores = [row["score"] for row in content["annotations"]]
    assert len(scores) > 7 and scores == sorted(scores, reverse=True) and min(scores) > 0
    # several views of the image give other detections
    views = ("--tta", "train.tta.sizes=[48,64]", "--output=views")
    predict(tmp_path, *args, *views, config=STAGE_WISE).succeeded()
    content = json.loads((tmp_path / "views" / "predictions.json").read_text())
    assert content["info"]["test_time_augmentation"] == {"sizes": [48, 64], "flip": True}
    assert [row["score"] for row in content["annotations"]] != [row["score"] for row in found]
    message = predict(tmp_path, *argv, "--tta", config=rpn.config_id).failed_plainly()
    assert "RPN stage" in message


def test_mistakes_are_told_plainly(weights: str, images: Path, tmp_path: Path) -> None:
    message = predict(tmp_path, "--input", images).failed_plainly()
    assert "There is no trained model in output/quickstart" in message
    assert "train_net.py --config-file" in message and "--checkpoint FILE" in message
    message = predict(tmp_path, weights, "--input", "nothing.jpg").failed_plainly()
    assert "'nothing.jpg' does not exist" in message
    message = predict(tmp_path, weights, "--input", "*.jpg").failed_plainly()
    assert "No file matches the pattern '*.jpg'" in message
    folder = tmp_path / "predictions" / "pictures"
    folder.mkdir(parents=True)
    Image.fromarray(one_image(images)).save(folder / "a.png")
    before = (folder / "a.png").read_bytes()
    message = predict(tmp_path, weights, "--input", folder / "a.png").failed_plainly()
    assert "would overwrite an input" in message and (folder / "a.png").read_bytes() == before
    (tmp_path / "file").write_text("")
    argv = (weights, "--input", folder / "a.png", "--output", "file", *FEW)
    assert "cannot be written to file" in predict(tmp_path, *argv).failed_plainly()
    assert "amera 77" in predict(tmp_path, weights, "--webcam", "77").failed_plainly()
    argv = (weights, "--input", folder / "a.png", "--output=o", "--threshold=0.0001", *FEW)
    assert "test_score_thresh=0.0001" in predict(tmp_path, *argv).succeeded()


def test_the_documented_commands(
    weights: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "more").mkdir()
    image = one_image(images)
    Image.fromarray(image).save(tmp_path / "photos" / "a.png")
    Image.fromarray(image).save(tmp_path / "more" / "b.png")
    write_video(tmp_path / "clip.mp4", [image] * 3)
    monkeypatch.setattr(
        video_io, "open_capture", lambda _: cv2.VideoCapture(str(tmp_path / "clip.mp4"))
    )
    text = (REPOSITORY / "docs" / "looking_at_models.md").read_text()
    text += (REPOSITORY / "README.md").read_text().replace("--config-file F", f"--config-file {ID}")
    text = text.replace("\\\n", " ")
    commands = re.findall(r"python tools/predict\.py ([^\n`]*)", text)
    assert len(commands) == 7
    for words in map(shlex.split, commands):
        assert parse_args(words).config_file
        if ID in words:  # others need weights of a row
            words = words[words.index(ID) + 1 :]
            predict(tmp_path, weights, *words, *FEW, config=ID).succeeded()
    assert (tmp_path / "clip_predictions" / "frames" / "clip.mp4.jsonl").is_file()


@pytest.mark.slow
def test_as_a_command(weights: str, images: Path, tmp_path: Path) -> None:
    script = str(REPOSITORY / "tools" / "predict.py")
    file = str(sorted(images.iterdir())[0])
    keys = ("--config-file", str(QUICKSTART), "--profile", "tiny", weights, "--input", file)
    out = start(tmp_path, script, *keys, *FEW).succeeded()  # the change follows the inputs
    assert "Predictions: predictions/predictions.json" in out


# --- from Python -----------------------------------------------------------------------------


@pytest.mark.slow
def test_one_line_finds_what_the_evaluation_found(trained: Path, images: Path) -> None:
    """The README's lines, in a process that registers nothing."""
    register_all_datasets()
    parts = coco_parts("embedded_tiny_val")
    assert parts is not None
    truth = COCO(parts[0].json_file)
    evaluated: dict[str, list[Any]] = defaultdict(list)
    for row in results(trained)["bbox_results"]:
        evaluated[truth.imgs[row["image_id"]]["file_name"]].append(row)
    first, second = (images / name for name in sorted(evaluated)[:2])
    code = f"""
import json
from mask_rcnn_tools import Predictor
predictor = Predictor.from_run({str(trained)!r})
found = predictor({str(first)!r})
both = predictor([{str(first)!r}, {str(second)!r}], batch_size=1)
print(json.dumps([found.results, both[1].results, found.classes]))
assert len(both) == 2 and both[0].results == found.results
"""
    outcome = start(trained, "-c", code)
    one, two, classes = json.loads(outcome.succeeded().splitlines()[-1])
    for file, ours in ((first, one), (second, two)):
        theirs = evaluated[file.name]
        assert [r["category_id"] for r in ours] == [r["category_id"] for r in theirs] != []
        for mine, other in zip(ours, theirs, strict=True):
            assert mine["score"] == pytest.approx(other["score"], abs=1e-4)
            assert mine["bbox"] == pytest.approx(other["bbox"], abs=1e-2)
    assert classes == [truth.cats[r["category_id"]]["name"] for r in one]


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    weights = trained / "model_final.pth"
    return Predictor(ID, weights, profile="tiny", device="cpu", overrides=FEW)


def _objects(found: Prediction) -> list[dict[str, Any]]:
    return [{**result, "image_id": None} for result in found.results]


def test_every_kind_of_input_gives_the_same(predictor: Predictor, images: Path) -> None:
    path = sorted(images.iterdir())[0]
    rgb = one_image(images)
    turned = Image.fromarray(np.rot90(rgb).copy())
    turned.getexif()[0x0112] = 6
    expected = predictor(path)
    assert len(expected) > 0 and np.array_equal(expected.image, rgb)
    given = [str(path), Image.open(path), turned, rgb[:, :, ::-1], rgb[:, :, ::-1].copy()]
    for found in (*predictor(given, batch_size=1), predictor(rgb, channels="RGB")):
        assert np.array_equal(found.image, rgb)
        assert _objects(found) == _objects(expected)
    grey = np.asarray(Image.open(path).convert("L"))
    assert predictor(grey).results == predictor(Image.fromarray(grey)).results
    assert predictor([]) == []


def test_arrays_of_a_prediction(predictor: Predictor, images: Path) -> None:
    found = predictor(sorted(images.iterdir())[0])
    height, width = found.image.shape[:2]
    count = len(found)
    assert found.boxes.shape == (count, 4) and found.scores.shape == (count,)
    assert found.masks is not None and found.masks.shape == (count, height, width)
    assert found.masks.dtype == bool and found.keypoints is None
    x, y, w, h = found.results[0]["bbox"]
    assert found.boxes[0].tolist() == pytest.approx([x, y, x + w, y + h])
    assert list(found.scores) == sorted(found.scores, reverse=True)
    few = found.above(found.scores[1])
    assert len(few) == 2
    assert few.draw(zoom=2).size == (2 * width, 2 * height)
    assert np.array_equal(np.asarray(found.above(1.1).draw(zoom=1)), found.image)
    nothing = found.above(1.1)
    assert nothing.boxes.shape == (0, 4) and nothing.masks is None and nothing.classes == []


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("no.jpg", "no.jpg does not exist"),
        (".", "is a directory"),
        (3, "Give a path, a PIL image or a NumPy array"),
        (torch.zeros(3, 4, 4), "got Tensor"),
        (np.zeros((4, 4, 4), np.uint8), r"must be .*got \(4, 4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), "of float32"),
        (np.zeros((2, 4, 4, 3), np.uint8), "A batch is a list"),
        (Image.new("I;16", (4, 4)), "mode I;16 has no known range"),
    ],
)
def test_what_is_no_image_is_explained(predictor: Predictor, image: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        predictor(image)
    with pytest.raises(DataError, match="channels must be 'BGR' or 'RGB'"):
        predictor(np.zeros((4, 4, 3), np.uint8), channels="rgb")


def test_directories_that_are_no_run(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config\.yaml.*Predictor\(config, checkpoint\)"):
        Predictor.from_run(tmp_path)
    (tmp_path / "config.yaml").write_bytes((trained / "config.yaml").read_bytes())
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        Predictor.from_run(tmp_path)


def test_a_bare_model_says_what_it_takes(trained: Path, images: Path) -> None:
    cfg = get_config(ID, "tiny")
    model = build_predictor(cfg, trained / "model_final.pth", device="cpu")
    for given in (one_image(images), torch.zeros(1, 3, 64, 64)):
        with pytest.raises(DataError, match=r"list of dicts.*mask_rcnn_tools\.Predictor"):
            model(given)
    with torch.no_grad():
        assert len(model([{"image": torch.zeros(3, 64, 64)}])) == 1
