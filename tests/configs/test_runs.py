"""Every config trains two steps at `tiny`, is interrupted, resumes bit for bit, and evaluates.

All in this process, by the same code as `train_net.py`, on the embedded data.
"""

import json
import math
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from mask_rcnn_repro.cli import parse_args
from mask_rcnn_repro.config import config_hash, get_config
from mask_rcnn_repro.engine.main import run
from mask_rcnn_repro.evaluation import load_record
from mask_rcnn_repro.registration import register

from .config_sets import IDS, load

MAX_CHECKPOINT_BYTES = 20e6
STEPS = (
    "train.max_iter=2",
    "train.checkpointer.period=1",
    # an untrained model detects as much as it may, and masks take time
    "model.roi_heads.box_predictor.test_topk_per_image=10",
    "train.draw=0",
)


def launch(config, *arguments):
    """`train_net.py --config-file <config> --profile tiny ...`."""
    run(parse_args(["--config-file", config, "--profile", "tiny", *arguments]))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def interrupt_after_the_first_step(folder):
    """Leaves what a run leaves that was killed after its first checkpoint."""
    for name in ("model_0000001.pth", "model_final.pth", "record.json"):
        (folder / name).unlink()
    (folder / "last_checkpoint").write_text("model_0000000.pth")


def predicted_tasks(cfg):
    heads = cfg.model.roi_heads
    named = {"segm": "mask_head", "keypoints": "keypoint_head"}
    return {"bbox", *(task for task, head in named.items() if heads.get(head) is not None)}


@pytest.mark.parametrize("config", IDS)
def test_it_trains_resumes_and_evaluates(config, tmp_path):
    folder = tmp_path / "run"
    here = (f"train.output_dir={folder}", *STEPS)
    launch(config, *here)
    trained = weights(folder / "model_final.pth")
    first = load_record(folder / "record.json")
    cfg = get_config(config, "tiny", STEPS)
    assert (first.config.id, first.config.profile) == (config, "tiny")
    assert first.config.hash == config_hash(cfg)
    assert (first.iterations_done, first.iterations_planned) == (2, 2)
    assert set(first.metrics) == predicted_tasks(cfg)
    assert (folder / "model_final.pth").stat().st_size < MAX_CHECKPOINT_BYTES
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    losses = [line["total_loss"] for line in lines if "total_loss" in line]
    assert len(losses) == 2
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    start = weights(folder / "model_0000000.pth")
    assert any(not torch.equal(value, trained[key]) for key, value in start.items())

    interrupt_after_the_first_step(folder)
    launch(config, *here, "--resume")
    again = weights(folder / "model_final.pth")
    assert trained.keys() == again.keys()
    assert [key for key in trained if not torch.equal(trained[key], again[key])] == []
    assert load_record(folder / "record.json").metrics == first.metrics

    launch(config, *here, "--resume", "--eval-only")
    assert load_record(folder / "record.json").mode == "train"
    evaluated = load_record(folder / "eval" / "last" / "record.json")
    assert (evaluated.mode, evaluated.iterations_done) == ("eval", 2)
    assert evaluated.metrics == first.metrics
    check_result_files(folder / "inference", cfg.dataloader.test.dataset.names, first.metrics)


def check_result_files(folder, dataset, tasks):
    """The files are what COCO's server takes, and loads in pycocotools."""
    coco = COCO()
    coco.dataset = json.loads(Path(MetadataCatalog.get(dataset).json_file).read_text())
    coco.createIndex()
    for task in tasks:
        file = folder / dataset / f"{task}_results.json"
        rows = json.loads(file.read_text())
        field = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}[task]
        for row in rows:
            assert set(row) == {"image_id", "category_id", "score", field}
            assert row["image_id"] in coco.imgs
            assert row["category_id"] in coco.cats
            assert 0 <= row["score"] <= 1
            image = coco.imgs[row["image_id"]]
            if task == "bbox":
                x, y, w, h = row["bbox"]
                assert min(x, y, w, h) >= 0
                assert x + w <= image["width"] + 1e-3
                assert y + h <= image["height"] + 1e-3
            elif task == "segm":
                assert row["segmentation"]["size"] == [image["height"], image["width"]]
                mask_util.area(row["segmentation"])
            else:
                assert len(row["keypoints"]) == 3 * 17
                assert all(math.isfinite(value) for value in row["keypoints"])
        if rows:
            assert len(coco.loadRes(rows).anns) == len(rows)


def on_test_server(config):
    return "test_dev" in load(config).dataloader.test.dataset.names


@pytest.mark.parametrize(
    "config", ["quickstart/mask_rcnn_r18_fpn", *(c for c in IDS if on_test_server(c))]
)
def test_a_split_without_annotations_gives_a_submission(config, tmp_path):
    """Rows on test-dev use the unlabeled split at `tiny`; the quickstart is sent there, too."""
    register()
    dataset = "embedded_tiny_unlabeled"
    launch(
        config,
        f"train.output_dir={tmp_path}",
        f"dataloader.test.dataset.names={dataset}",
        "model.roi_heads.box_predictor.test_score_thresh=0.001",
        *STEPS,
    )
    record = load_record(tmp_path / "record.json")
    assert record.metrics == {}
    tasks = predicted_tasks(get_config(config, "tiny"))
    check_result_files(tmp_path / "inference", dataset, tasks)
    boxes = json.loads((tmp_path / "inference" / dataset / "bbox_results.json").read_text())
    assert len(boxes) > 0
