"""Each config that differs at `tiny` trains two steps and evaluates; one of each kind resumes, too.

Most of it is marked `slow`: together it takes a quarter of an hour of a core.

All in this process, by the same code as `train_net.py`, on the embedded data, through every stage:
what a row depends on (RPN, initial weights) is run by the first row that needs it and shared.
"""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from safetensors.torch import load_file

from mask_rcnn_repro.config import config_hash, get_config
from mask_rcnn_repro.data import get_test_dicts
from mask_rcnn_repro.data.proposals.files import ProposalFile
from mask_rcnn_repro.distillation import run as distillation
from mask_rcnn_repro.engine import tta
from mask_rcnn_repro.records import load_record
from mask_rcnn_repro.registration import register
from mask_rcnn_tools.train.cli import parse_args
from mask_rcnn_tools.train.main import EXTENSIONS
from mask_rcnn_tools.train.run import run

from .config_sets import DISTINCT_AT_TINY, PRETRAINING, RPN_STAGES

MAX_CHECKPOINT_BYTES = 20e6
RES5 = "backbone.res5.0.conv1.weight"
UNLABELED = "unlabeled"  # in the name of splits without annotations

ONE_OF_EACH_KIND = [
    "enhanced_r50/data_distillation",
    "enhanced_r50/test_aug",
    "model_zoo/mask_rcnn_R_50_C4_3x",  # end to end, norm and data of Detectron2's zoo
    "pretrain/r50",
    "quickstart/mask_rcnn_r18_fpn",
    "rpn/r101_fpn_shared",
    "rpn/r50_c4",
    "rpn/r50_fpn_cityscapes",
    "section4_2/class_specific",  # C4 on stored proposals
    "section4_4/r101_fpn_shared",  # four steps
    "table2c/roi_warp_ave",
    "table2d/roi_pool",  # C5
    "table2e/mlp_2fc",
    "table3/faster_rcnn_roi_align",  # no masks
    "table4/keypoint_and_mask",
    "table7/fine_coco",
    "table8/non_local",
]
"""Configs that have a step, a loader, a head or a checkpoint of another kind than the others."""

LONG_KINDS = [
    "enhanced_r50/data_distillation",  # test_distill.py
    "enhanced_r50/test_aug",  # test_tta.py
    "model_zoo/mask_rcnn_R_50_C4_3x",  # C4 is trained from `section4_2/class_specific` and jointly
    "rpn/r50_fpn_cityscapes",  # made by the runs of test_cityscapes.py
    "rpn/r101_fpn_shared",  # made by `section4_4/r101_fpn_shared`
    "table2d/roi_pool",  # test_kinds.py
    "table2e/mlp_2fc",  # test_kinds.py
    "table4/keypoint_and_mask",  # test_kinds.py, and a split without annotations below
    "table8/non_local",  # test_kinds.py
    "table7/fine_coco",  # test_kinds.py (`table7/fine`), test_engine_init_classes.py
]
"""Kinds that the tests which are not slow show elsewhere."""
ALWAYS_RESUMED = ["rpn/r50_c4", "section4_2/class_specific"]

slow = pytest.mark.slow
QUICK = [config for config in ONE_OF_EACH_KIND if config not in LONG_KINDS]
RUNS = [
    *[pytest.param(config, config in ALWAYS_RESUMED, id=config) for config in QUICK],
    *[
        pytest.param(config, True, id=f"{config}-resumed", marks=slow)
        for config in ONE_OF_EACH_KIND
        if config not in ALWAYS_RESUMED
    ],
    *[
        pytest.param(config, False, id=config, marks=slow)
        for config in DISTINCT_AT_TINY
        if config not in ONE_OF_EACH_KIND
    ],
]
"""Configs, and whether they are interrupted and evaluated again."""


def steps(config):
    """Overrides that shorten a run to two iterations."""
    keys = ["train.max_iter=2", "train.checkpointer.period=1", "train.draw=0"]
    if config in PRETRAINING:
        keys.append("train.statistics_batches=2")
    elif config not in RPN_STAGES:
        # an untrained model detects as much as it may, and masks take time
        keys.append("model.roi_heads.box_predictor.test_topk_per_image=10")
    if config.endswith("/test_aug"):
        keys.append("train.tta.sizes=[48,64]")  # two of nine
    return keys


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Override that has the stages that rows depend on made once for all tests of a worker."""
    return f"train.output_root={tmp_path_factory.mktemp('stages')}"


def launch(config, *arguments):
    """`train_net.py --config-file <config> --profile tiny ...`."""
    run(parse_args(["--config-file", config, "--profile", "tiny", *arguments]), EXTENSIONS)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _few_views(monkeypatch):
    """A teacher, whose run takes no override of a row's, annotates from two of nine sizes."""
    for user in (tta, distillation):
        monkeypatch.setattr(user, "tta_sizes", lambda cfg: [48, 64])


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def stored_bytes(folder):
    """Content of every file of stored proposals below `folder`."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def interrupt_after_the_first_step(folder):
    """Leaves what a run leaves that was killed after its first checkpoint."""
    for name in ("model_0000001.pth", "model_final.pth", "record.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "proposals", ignore_errors=True)
    (folder / "last_checkpoint").write_text("model_0000000.pth")


def predicted_tasks(cfg):
    heads = cfg.model.get("roi_heads")
    if heads is None:
        return {"proposals" if "proposal_generator" in cfg.model else "classification"}
    named = {"segm": "mask_head", "keypoints": "keypoint_head"}
    return {"bbox", *(task for task, head in named.items() if heads.get(head) is not None)}


@pytest.mark.parametrize(("config", "resumed"), RUNS)
def test_it_trains_and_evaluates(config, resumed, shared, tmp_path):
    folder = tmp_path / "run"
    here = (f"train.output_dir={folder}", shared, *steps(config))
    launch(config, *here)
    trained = weights(folder / "model_final.pth")
    first = load_record(folder / "record.json")
    cfg = get_config(config, "tiny", steps(config))
    tasks, tested_on = predicted_tasks(cfg), cfg.dataloader.test.dataset.names
    measured = set() if UNLABELED in tested_on else tasks
    if "cityscapes" in tested_on:
        measured = measured - {"bbox"}  # its official metrics know no boxes
    assert (first.config.id, first.config.profile) == (config, "tiny")
    assert cfg.train.tta.enabled is config.endswith("/test_aug")
    assert first.config.hash == config_hash(cfg)
    assert (first.iterations_done, first.iterations_planned) == (2, 2)
    assert set(first.metrics) == measured
    assert (first.proposals and first.proposals.id) == cfg.train.proposals
    assert (first.init_from and first.init_from.id) == cfg.train.init_from
    assert (first.teacher and first.teacher.id) == cfg.dataloader.train.dataset.get("teacher")
    assert (folder / "model_final.pth").stat().st_size < MAX_CHECKPOINT_BYTES
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    losses = [line["total_loss"] for line in lines if "total_loss" in line]
    assert len(losses) == 2
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    start = weights(folder / "model_0000000.pth")
    assert any(not torch.equal(value, trained[key]) for key, value in start.items())

    if config in RPN_STAGES:
        check_stored_proposals(folder, cfg, first)
    elif config in PRETRAINING:
        kept = load_file(folder / "pretrained.safetensors")
        assert torch.equal(kept["res5.0.conv1.weight"], trained[RES5].half())
    else:
        assert not (folder / "proposals").exists()
        check_result_files(folder / "inference", tested_on, tasks)
    if resumed:
        check_resumed_and_evaluated_again(folder, (config, *here), trained, first)


def check_resumed_and_evaluated_again(folder, launched, trained, first):
    """Killed after its first step, the run ends with the same weights, proposals and metrics."""
    stored = stored_bytes(folder / "proposals")
    interrupt_after_the_first_step(folder)
    launch(*launched, "--resume")
    again = weights(folder / "model_final.pth")
    assert trained.keys() == again.keys()
    assert [key for key in trained if not torch.equal(trained[key], again[key])] == []
    assert load_record(folder / "record.json").metrics == first.metrics

    launch(*launched, "--resume", "--eval-only")
    assert load_record(folder / "record.json").mode == "train"
    (file,) = folder.glob("eval/last*/record.json")  # the name tells of test-time augmentation
    evaluated = load_record(file)
    assert (evaluated.mode, evaluated.iterations_done) == ("eval", 2)
    assert evaluated.metrics == first.metrics
    # info.json names the hash of a checkpoint, which holds more than weights
    proposals = stored_bytes(folder / "proposals")
    assert {k: v for k, v in proposals.items() if k.name != "info.json"} == {
        k: v for k, v in stored.items() if k.name != "info.json"
    }


def check_stored_proposals(folder, cfg, record):
    """An RPN stage leaves the proposals of the images that it was trained and tested on."""
    limits = cfg.model.proposal_generator.post_nms_topk
    assert len(list((folder / "proposals").iterdir())) == 2
    for split, limit in zip(("train", "test"), limits, strict=True):
        names = cfg.dataloader[split].dataset.names
        file = ProposalFile(folder / "proposals" / names)
        assert file.image_ids == [image["id"] for image in described(names)["images"]]
        assert (file.info.dataset, file.info.topk) == (names, limit)
        assert file.info.source["config_hash"] == record.config.hash
        counts = [len(file.get(image_id)[1]) for image_id in file.image_ids]
        assert 0 < max(counts) <= limit


def described(dataset):
    """Images and categories of a data set as COCO's json has them."""
    metadata = MetadataCatalog.get(dataset)
    if metadata.get("json_file") is not None:
        return json.loads(Path(metadata.json_file).read_text())
    images = [
        {"id": d["image_id"], "height": d["height"], "width": d["width"]}
        for d in get_test_dicts(dataset)
    ]
    ids = metadata.thing_dataset_id_to_contiguous_id
    return {"images": images, "categories": [{"id": i, "name": str(i)} for i in ids]}


def check_result_files(folder, dataset, tasks):
    """The files are what COCO's server takes, and loads in pycocotools."""
    coco = COCO()
    coco.dataset = described(dataset)
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


@pytest.mark.parametrize(
    "config",
    ["quickstart/mask_rcnn_r18_fpn", "table3/faster_rcnn_roi_align", "table4/keypoint_and_mask"],
)
def test_a_split_without_annotations_gives_a_submission(config, shared, tmp_path):
    register()
    person = (
        "person_" if "person" in get_config(config, "tiny").dataloader.test.dataset.names else ""
    )
    dataset = f"embedded_tiny_{person}unlabeled"
    launch(
        config,
        f"train.output_dir={tmp_path}",
        shared,
        f"dataloader.test.dataset.names={dataset}",
        "model.roi_heads.box_predictor.test_score_thresh=0.001",
        *steps(config),
    )
    assert load_record(tmp_path / "record.json").metrics == {}
    tasks = predicted_tasks(get_config(config, "tiny"))
    check_result_files(tmp_path / "inference", dataset, tasks)
    boxes = json.loads((tmp_path / "inference" / dataset / "bbox_results.json").read_text())
    assert len(boxes) > 0


# --- joint training of rows that are trained stage by stage ----------------------------------


@pytest.mark.parametrize(
    "config", ["table2a/r50_c4", "table2d/roi_align", "table2a/r50_fpn"], ids=["c4", "c5", "fpn"]
)
def test_it_trains_jointly(config, tmp_path):
    joint = (f"train.output_dir={tmp_path / 'run'}", f"train.output_root={tmp_path / 'root'}")
    launch(config, *joint, *steps(config), "train.proposals=null")
    record = load_record(tmp_path / "run" / "record.json")
    assert record.iterations_done == 2 and record.proposals is None
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    assert all(json.loads(lines[0])[f"loss_rpn_{part}"] > 0 for part in ("cls", "loc"))
    before, after = (
        weights(tmp_path / "run" / name) for name in ("model_0000000.pth", "model_final.pth")
    )
    rpn = [key for key in after if key.startswith("proposal_generator.rpn_head")]
    assert rpn and all(not torch.equal(before[key], after[key]) for key in rpn)
    assert not (tmp_path / "root").exists()  # no stage was run
