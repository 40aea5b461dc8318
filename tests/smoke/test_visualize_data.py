"""`tools/visualize_data.py` from the command line: what it draws is what the loaders feed."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

from mask_rcnn_embedded import quickstart as embedded
from mask_rcnn_repro import get_config
from mask_rcnn_repro.data import ProposalWriter, get_test_dicts, get_training_dicts
from mask_rcnn_repro.engine.builders import build_train_data
from mask_rcnn_tools.visualize_data import samples
from mask_rcnn_tools.visualize_data.cli import parse_args
from mask_rcnn_tools.visualize_data.main import main
from mask_rcnn_tools.visualize_data.samples import (
    SampleSelection,
    annotation_samples,
    train_samples,
)

from .run_helpers import QUICKSTART, REPOSITORY, CommandResult, _undone, start

ID = "quickstart/mask_rcnn_r18_fpn"
PERSONS = "table5/keypoint_and_mask"


def visualize(folder: Path, *argv: str, config: str | Path = QUICKSTART) -> CommandResult:
    """Runs `tools/visualize_data.py` in this process, in `folder`, at `tiny`."""
    out, err = io.StringIO(), io.StringIO()
    words = ["--config-file", str(config), "--profile", "tiny", *argv]
    with _undone(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(parse_args(words))
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    return CommandResult(code, out.getvalue(), err.getvalue())


def with_flips(name: str = ID, *keys: str):
    """A config at `tiny`, with resizing to several sizes and flips."""
    cfg = get_config(name, "tiny", ("train.proposals=null", *keys))
    cfg.dataloader.train.mapper.augmentations[0].short_edge_length = [48, 64, 80]
    cfg.dataloader.train.mapper.augmentations[0].sample_style = "choice"
    return cfg


@pytest.mark.parametrize("iteration", [0, 3])
def test_a_training_gets_the_same(iteration: int) -> None:
    cfg = with_flips(PERSONS, "train.seed=5", "dataloader.train.num_workers=0")
    size = cfg.dataloader.train.total_batch_size
    shown = list(train_samples(cfg, SampleSelection(count=size, seed=5, iteration=iteration)))
    batch = next(iter(build_train_data(cfg, iteration)))
    assert len(shown) == len(batch) == size
    words = " ".join(note for sample in shown for note in sample.notes)
    assert "resized" in words and ("mirrored" in words) == (iteration == 0)
    for sample, fed in zip(shown, batch, strict=True):
        assert sample.image_id == fed["image_id"]
        assert np.array_equal(sample.image[:, :, ::-1], fed["image"].permute(1, 2, 0).numpy())
        marks = [mark for mark in sample.marks if mark.kind == "object"]
        targets = fed["instances"]
        assert [mark.box for mark in marks] == [tuple(b) for b in targets.gt_boxes.tensor.tolist()]
        for mark, polygons, points in zip(
            marks, targets.gt_masks.polygons, targets.gt_keypoints.tensor, strict=True
        ):
            assert isinstance(mark.mask, list) and mark.keypoints is not None
            assert all(np.array_equal(a, b) for a, b in zip(mark.mask, polygons, strict=True))
            assert np.array_equal(mark.keypoints, points.double().numpy())
        assert sample.title.startswith(f"train, iteration {iteration}, image ")


def test_chosen_images_come_as_they_come_in_training() -> None:
    cfg = with_flips(ID, "dataloader.train.num_workers=0")
    loader = iter(build_train_data(cfg, 0))
    fed = {}
    for _ in range(12):  # more than an epoch
        for item in next(loader):
            fed.setdefault(item["image_id"], item)
    ids = tuple(str(i) for i in sorted(fed)[:4])
    shown = {str(s.image_id): s for s in train_samples(cfg, SampleSelection(image_ids=ids))}
    assert set(shown) == set(ids)
    for identity, sample in shown.items():
        image = fed[int(identity)]["image"].permute(1, 2, 0).numpy()
        assert np.array_equal(sample.image[:, :, ::-1], image)


def test_crowd_and_maskless_regions_are_marked(tmp_path: Path) -> None:
    source = embedded.ensure_generated(embedded.TINY_SPEC)
    content = json.loads((source / "annotations" / "instances_train.json").read_text())
    image = content["images"][0]
    own = [a for a in content["annotations"] if a["image_id"] == image["id"]][:1]
    width, height = image["width"], image["height"]
    box = [2.0, 4.0, width / 4, height / 2]
    rle = {"size": [height, width], "counts": [height, 5 * height, height * width - 6 * height]}
    base = {"image_id": image["id"], "category_id": own[0]["category_id"], "area": 1.0}
    crowd = {**base, "id": 9001, "bbox": box, "iscrowd": 1, "segmentation": rle}
    maskless = {**base, "id": 9002, "bbox": box, "iscrowd": 0, "segmentation": []}
    content.update(images=[image], annotations=[*own, crowd, maskless])
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(content))
    node = "dataloader.train.dataset"
    keys = (
        *(f"{node}.names={tmp_path.name}", f"{node}.json={file}"),
        f"{node}.image_root={source / 'train'}",
    )
    cfg = get_config(ID, "tiny", keys)
    cfg.dataloader.train.mapper.augmentations = [T.HFlipTransform(width), T.NoOpTransform()]
    cfg.dataloader.train.total_batch_size = 1
    (sample,) = train_samples(cfg, SampleSelection(count=1))
    assert [mark.kind for mark in sample.marks] == ["object", "crowd", "ignored"]
    mirrored = (width - 2 - width / 4, 4.0, width - 2.0, 4 + height / 2)
    assert all(mark.box == pytest.approx(mirrored) for mark in sample.marks[1:])
    mask = sample.marks[1].mask
    assert isinstance(mask, np.ndarray) and mask.shape == (height, width)
    columns = np.flatnonzero(mask.any(axis=0)).tolist()
    assert columns == [width - 1 - c for c in range(5, 0, -1)]
    assert sample.notes == [
        f"{width} x {height} -> {width} x {height}: mirrored",
        "1 instance, 1 crowd: not trained on, 1 no mask: not trained on",
    ]
    (raw,) = annotation_samples(cfg, "train", SampleSelection(count=1))
    assert [mark.kind for mark in raw.marks] == ["object", "crowd", "object"]
    assert raw.marks[1].box == pytest.approx((2.0, 4.0, 2 + width / 4, 4 + height / 2))


def test_normalisation_is_undone() -> None:
    cfg = get_config(ID, "tiny")
    pixels = torch.randint(0, 256, (3, 7, 9), dtype=torch.uint8)
    mean, std = (
        torch.tensor(list(cfg.model[key]))[:, None, None] for key in ("pixel_mean", "pixel_std")
    )
    rgb = pixels.flip(0).permute(1, 2, 0).numpy()
    for image in (pixels, pixels.float(), (pixels.double() - mean) / std):
        assert np.array_equal(samples.rgb_image(image, "BGR", cfg), rgb)
    assert np.array_equal(samples.rgb_image(pixels.flip(0), "RGB", cfg), rgb)


def test_pictures_and_sheet(tmp_path: Path) -> None:
    out = visualize(tmp_path, "--count", "5", "--seed", "3").succeeded()
    folder = tmp_path / "data_pictures"
    files = sorted(folder.iterdir())
    assert [f.name[:3] for f in files] == ["000", "001", "002", "003", "004", "she"]
    assert len(re.findall(r"train, iteration [012], image", out)) == 5
    for file in files[:-1]:
        assert f"{file.name}: train, iteration" in out
        assert min(cv2.imread(str(file)).shape[:2]) >= 480
    sheet = cv2.imread(str(folder / "sheet.png"))
    assert sheet.shape[1] == 1920
    contents = {file.name: file.read_bytes() for file in files}
    visualize(tmp_path, "--count", "5", "--seed", "3", "--output", "again").succeeded()
    again = {file.name: file.read_bytes() for file in (tmp_path / "again").iterdir()}
    assert again == contents
    visualize(tmp_path, "--count", "5", "--seed", "4", "--output", "other").succeeded()
    assert {file.name for file in (tmp_path / "other").iterdir()} != set(contents)


@pytest.mark.parametrize("source", ["test", "annotations"])
def test_test_images_and_annotations(source: str, tmp_path: Path) -> None:
    records = get_test_dicts("embedded_tiny_val")
    ids = [str(records[i]["image_id"]) for i in (3, 1)]
    argv = ("--source", source, "--split", "test", "--image-ids", *ids)
    out = visualize(tmp_path, *argv, "train.num_threads=1").succeeded()
    files = sorted((tmp_path / "data_pictures").iterdir())
    assert [file.name for file in files[:2]] == [f"000_{ids[0]}.png", f"001_{ids[1]}.png"]
    assert f"{len(records[3]['annotations'])} instance" in out
    if source == "test":
        assert "the model does not get them" in out and "-> " in out


def test_stored_proposals(tmp_path: Path) -> None:
    row = "table2a/r50_fpn"
    message = visualize(tmp_path, "--proposals=9", config=row).failed_plainly()
    assert "train_net.py --config-file rpn/r50_fpn --profile tiny" in message
    visualize(tmp_path, "--count", "2", config=row).succeeded()  # without, none are needed
    keys = ("train.proposals=null",)
    message = visualize(tmp_path, "--proposals", "9", *keys, config=row).failed_plainly()
    assert "uses no stored proposals" in message
    records = get_training_dicts("embedded_tiny_train")
    writer = ProposalWriter(
        tmp_path / "output/rpn/r50_fpn@tiny/seed0/proposals/embedded_tiny_train",
        dataset="embedded_tiny_train",
        fingerprint="sha256:" + "0" * 64,
        image_ids=[record["image_id"] for record in records],
        topk=60,
    )
    for record in records:
        corners = np.random.RandomState(0).rand(60, 2, 2) * [record["width"], record["height"]]
        boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
        writer.add(record["image_id"], boxes, np.linspace(3, -3, 60))
    writer.finish()
    out = visualize(tmp_path, "--proposals", "9", "--count", "2", config=row).succeeded()
    assert out.count("the best 9 of 60 proposals in white") == 2
    cfg = get_config(row, "tiny", ["dataloader.train.num_workers=0"])
    cfg.dataloader.train.mapper.proposal_files = [str(writer.folder)]
    (fed, *_) = next(iter(build_train_data(cfg, 0)))
    (sample,) = train_samples(cfg, SampleSelection(count=1, proposals=9))
    marks = [mark for mark in sample.marks if mark.kind == "proposal"]
    boxes = fed["proposals"].proposal_boxes.tensor[:9].tolist()
    assert [mark.box for mark in marks] == [tuple(box) for box in boxes]


def test_mistakes_are_told_plainly(tmp_path: Path) -> None:
    message = visualize(tmp_path, "--image-ids", "999999").failed_plainly()
    assert "no image with the id 999999 among the" in message
    (tmp_path / "file").write_text("")
    assert "cannot be written to file" in visualize(tmp_path, "--output", "file").failed_plainly()


def test_one_broken_image_costs_no_other_picture(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        cv2.imwrite(str(tmp_path / name), np.full((300, 6, 3), 90, np.uint8))
    images = [{"id": i, "file_name": f"{i}.png", "height": 300, "width": 6} for i in (1, 2)]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "gt.json").write_text(json.dumps(content))
    argv = ["--source", "annotations", "--split", "test", "--count", "2"]
    for split, name in (("train", "a"), ("test", "b")):
        keys = {"names": f"{tmp_path.name}_{name}", "json": "gt.json", "image_root": "."}
        argv += [f"dataloader.{split}.dataset.{key}={value}" for key, value in keys.items()]
    visualize(tmp_path, *argv).succeeded()
    (tmp_path / "1.png").write_bytes(b"no image")
    outcome = visualize(tmp_path, *argv, "--output", "again")
    assert outcome.code == 1
    assert "1 images could not be read" in outcome.out
    assert (tmp_path / "again" / "sheet.png").is_file()
    (tmp_path / "2.png").write_bytes(b"no image")
    assert "No image could be drawn" in visualize(tmp_path, *argv).failed_plainly()


def test_the_documented_commands(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "looking_at_models.md").read_text()
    text += (REPOSITORY / "README.md").read_text().replace("--config-file F", f"--config-file {ID}")
    text = text.replace("\\\n", " ")
    commands = re.findall(r"python tools/visualize_data\.py ([^\n`]*)", text)
    assert len(commands) == 6
    known = [str(record["image_id"]) for record in get_test_dicts("embedded_tiny_val")[:2]]
    for command in commands:
        words = shlex.split(command.replace("100001 100038", " ".join(known)))
        assert parse_args(words).config_file
        if ID in words:  # another needs stored proposals
            visualize(tmp_path, *words[words.index(ID) + 1 :], config=ID).succeeded()


@pytest.mark.slow
def test_as_a_command(tmp_path: Path) -> None:
    script = str(REPOSITORY / "tools" / "visualize_data.py")
    keys = ("--config-file", str(QUICKSTART), "--profile", "tiny", "--count", "1")
    assert "Contact sheet: data_pictures/sheet.png" in start(tmp_path, script, *keys).succeeded()
