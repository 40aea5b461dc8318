"""What is refused before a run begins, and what is not any more once it has begun."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog

from mask_rcnn_repro import get_config, register
from mask_rcnn_repro.config import config_hash
from mask_rcnn_repro.config.from_data import fit_to_data
from mask_rcnn_repro.data.proposals.writer import ProposalWriter
from mask_rcnn_repro.engine.dependencies import (
    DataSet,
    check_stage_seeds,
    command,
    data_sets,
    dependency,
)
from mask_rcnn_repro.engine.run import Inputs, Run
from mask_rcnn_repro.engine.stages.up_to_date import check_stored, fingerprint
from mask_rcnn_repro.engine.train.run import _keep_inputs
from mask_rcnn_repro.errors import CheckpointError, ConfigError, DataError
from mask_rcnn_tools.train.dependency_checks import check_dependencies
from mask_rcnn_tools.train.run import _use_its_stages
from mask_rcnn_tools.train.writers import run_name

from .tables_helpers import record

GONE = "train.init_checkpoint=gone.pth"


def run(folder: Path, config: str = "quickstart/mask_rcnn_r18_fpn", *overrides: str) -> Run:
    register()
    cfg = get_config(config, profile="tiny", overrides=list(overrides))
    return Run(config, cfg, folder, torch.device("cpu"))


@pytest.mark.parametrize("begun", [None, "record.json", "last_checkpoint"])
def test_missing_weights_stop_what_has_not_begun(tmp_path, begun):
    """The weights of a finished run may have been deleted, and those that it began with."""
    if begun is None:
        with pytest.raises(CheckpointError, match=r"gone\.pth.*does not exist"):
            check_dependencies(run(tmp_path, "quickstart/mask_rcnn_r18_fpn", GONE))
        return
    (tmp_path / begun).write_text("model_final.pth")
    check_dependencies(run(tmp_path, "quickstart/mask_rcnn_r18_fpn", GONE))


def test_an_evaluation_does_not_need_them(tmp_path):
    check_dependencies(run(tmp_path, "quickstart/mask_rcnn_r18_fpn", GONE), eval_only=True)


@pytest.mark.parametrize("begins_with", ["catalog://ImageNetPretrained/x", "https://a/b.pth", ""])
def test_addresses_are_looked_at_when_they_are_loaded(tmp_path, begins_with):
    check_dependencies(
        run(tmp_path, "quickstart/mask_rcnn_r18_fpn", f"train.init_checkpoint='{begins_with}'")
    )


def test_what_a_run_depends_on_may_have_lost_its_weights(tmp_path, monkeypatch):
    """Its proposals may be there all the same."""
    monkeypatch.chdir(tmp_path)
    row = run(tmp_path / "row", "table2a/r50_fpn")
    folder = tmp_path / "output" / "rpn" / "r50_fpn@tiny" / "seed0"
    folder.mkdir(parents=True)
    (folder / "last_checkpoint").write_text("model_final.pth")
    check_dependencies(row)


@pytest.mark.parametrize(
    ("seed", "overrides", "stage"),
    [(0, (), 0), (1, (), 1), (6, (), 0), (7, (), 1), (7, ("train.stage_seed=0",), 0)],
)
def test_seeds_use_two_stages_in_rotation(tmp_path, monkeypatch, seed, overrides, stage):
    monkeypatch.chdir(tmp_path)
    row = run(tmp_path, "table2b/softmax", f"train.seed={seed}", *overrides)
    rpn = dependency(row, row.cfg.train.proposals, ())
    assert rpn.cfg.train.seed == stage
    assert rpn.folder == Path(f"output/rpn/r50_c4@tiny/seed{stage}")
    assert command(rpn).endswith(" --seed 1") == (stage == 1)


def test_stages_write_to_the_trackers_of_their_row(tmp_path, monkeypatch):
    """Each under a name of its own, in the directory that it has without them."""
    monkeypatch.chdir(tmp_path)
    plain, tracked = (
        dependency(row, row.cfg.train.proposals, ())
        for row in (
            run(tmp_path, "table2b/softmax", *keys) for keys in ([], ["train.writers=[csv, wandb]"])
        )
    )
    assert list(tracked.cfg.train.writers) == ["csv", "wandb"]
    assert list(plain.cfg.train.writers) == ["tensorboard"]
    assert (plain.folder, plain.overrides) == (tracked.folder, tracked.overrides)
    assert config_hash(plain.cfg) == config_hash(tracked.cfg)
    assert run_name(tracked) == "rpn/r50_c4@tiny/seed0"


TRAIN_SIZE = "dataloader.train.mapper.augmentations.0.short_edge_length=[96, 100]"
TEST_SIZE = "dataloader.test.mapper.augmentations.0.short_edge_length=[100]"


def sizes(cfg):
    loaders = (cfg.dataloader.train, cfg.dataloader.test)
    nodes = [loader.mapper.augmentations[0] for loader in loaders]
    return [(list(node.short_edge_length), node.max_size) for node in nodes]


def test_an_rpn_is_trained_at_the_image_sizes_of_its_row(tmp_path):
    row = run(tmp_path, "table2b/softmax", TRAIN_SIZE, TEST_SIZE)
    rpn = dependency(row, row.cfg.train.proposals, ())
    assert sizes(rpn.cfg) == sizes(row.cfg) == [([96, 100], 107), ([100], 107)]
    assert rpn.overrides == (TRAIN_SIZE, TEST_SIZE)
    assert rpn.folder.name.startswith("seed0-")
    assert "short_edge_length=[96, 100]" in command(rpn)


@pytest.mark.parametrize("overrides", [(), (TEST_SIZE,)])
def test_the_size_of_test_images_alone_needs_no_other_rpn(tmp_path, overrides):
    row = run(tmp_path, "table2b/softmax", *overrides)
    rpn = dependency(row, row.cfg.train.proposals, ())
    assert sizes(rpn.cfg) == [([64], 107), ([64], 107)]
    assert rpn.overrides == () and rpn.folder.name == "seed0"


def test_initial_weights_keep_the_image_sizes_of_their_run(tmp_path):
    row = run(tmp_path, "table7/fine_coco", TRAIN_SIZE)
    source = dependency(row, row.cfg.train.init_from, ())
    assert sizes(source.cfg) == [([64], 107), ([64], 107)]


def test_other_augmentations_are_not_passed_on(tmp_path):
    """Only sizes: a row without flips, or with a size that its RPN does not have."""
    base = "dataloader.train.mapper.augmentations"
    row = run(tmp_path, "table2b/softmax", f"{base}.1.horizontal=false", TRAIN_SIZE)
    assert dependency(row, row.cfg.train.proposals, ()).overrides == (TRAIN_SIZE,)
    row.cfg.dataloader.train.mapper.augmentations.append({"short_edge_length": [7]})
    assert dependency(row, row.cfg.train.proposals, ()).overrides == (TRAIN_SIZE,)


def test_a_row_without_training_takes_the_weights_of_its_seed(tmp_path):
    row = run(tmp_path, "enhanced_r50/test_aug", "train.seed=5")
    assert dependency(row, row.cfg.train.init_from, ()).cfg.train.seed == 5


def test_a_finished_run_on_another_stage_is_refused(tmp_path):
    row = run(tmp_path, "table2b/softmax", "train.seed=3")
    check_stage_seeds(row, {"proposals": SOURCE | {"seed": 1}})
    check_stage_seeds(row, {"proposals": None})
    check_stage_seeds(row, record(proposals=SOURCE | {"seed": 1}).model_dump())
    with pytest.raises(ConfigError, match=r"seed 0 of rpn/r50_c4; seed 3 .*seed 1"):
        check_stage_seeds(row, {"proposals": SOURCE})
    student = run(tmp_path, "enhanced_r50/data_distillation", "train.seed=3")
    teacher = SOURCE | {"id": "table9/original"}
    check_stage_seeds(student, {"teacher": teacher | {"seed": 1}})
    with pytest.raises(ConfigError, match="seed 0 of table9/original; seed 3"):
        check_stage_seeds(student, {"teacher": teacher})


SOURCE = {"id": "rpn/r50_c4", "hash": "0" * 12, "seed": 0, "checkpoint": None, "recall": None}
ROW = "table2b/softmax"


def begin(folder: Path, **inputs: object) -> None:
    """Leaves what a training has after its first checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_0000000.pth").write_bytes(b"")
    (folder / "last_checkpoint").write_text("model_0000000.pth")
    if inputs:
        (folder / "inputs.json").write_text(json.dumps(inputs))


@pytest.mark.parametrize("which", ["row", "stage"])
def test_a_run_that_began_on_another_stage_is_refused_before_one_is_trained(
    tmp_path, monkeypatch, which
):
    monkeypatch.chdir(tmp_path)
    row = run(tmp_path / "row", ROW, "train.seed=3")
    if which == "row":
        begin(row.folder, proposals=SOURCE)
        with pytest.raises(ConfigError, match=r"seed 0 of rpn/r50_c4; .* train\.stage_seed"):
            check_dependencies(row)
        begin(row.folder, proposals=SOURCE | {"seed": 1})
        check_dependencies(row)
        return
    student = run(tmp_path / "row", "enhanced_r50/data_distillation", "train.seed=3")
    rpn = dependency(student, student.cfg.train.proposals, ())
    inner = dependency(student, student.cfg.dataloader.train.dataset.teacher, ())
    begin(inner.folder, proposals=SOURCE | {"id": rpn.config_id})
    with pytest.raises(ConfigError, match=rf"seed1 used seed 0 of {rpn.config_id}; seed 1 now"):
        check_dependencies(student)


def test_a_begun_run_is_resumed_on_what_it_began_with(tmp_path):
    row = run(tmp_path, ROW)
    _keep_inputs(row, Inputs(proposals=SOURCE))
    kept = json.loads((tmp_path / "inputs.json").read_text())
    assert kept["proposals"] == SOURCE
    assert kept["train_data"]["fingerprint"] == fingerprint(data_sets(row.cfg, "train"))
    _keep_inputs(row, Inputs(proposals=SOURCE | {"seed": 1}))  # nothing has been trained
    begin(tmp_path, **kept)
    _keep_inputs(row, Inputs(proposals=SOURCE))
    with pytest.raises(DataError, match=r"weights \(seed 0 of rpn/r50_c4 .*\(seed 1 of"):
        _keep_inputs(row, Inputs(proposals=SOURCE | {"seed": 1}))
    other = run(tmp_path, ROW, "dataloader.train.dataset.names=embedded_tiny_val")
    with pytest.raises(DataError, match=r"began with other training data"):
        _keep_inputs(other, Inputs(proposals=SOURCE))
    older = {key: value for key, value in kept.items() if key != "train_data"}
    begin(tmp_path, **older)
    _keep_inputs(other, Inputs(proposals=SOURCE))  # it does not say


def test_an_evaluation_uses_the_stages_of_its_run(tmp_path):
    used = SOURCE | {"checkpoint": "a" * 64}
    begin(tmp_path, proposals=used)
    for overrides, seed in (((), 0), (("train.stage_seed=1",), 1), (("train.proposals=null",), 1)):
        row = run(tmp_path, ROW, "train.seed=3", *overrides)
        _use_its_stages(row.cfg, tmp_path)
        assert dependency(row, "rpn/r50_c4", ()).cfg.train.seed == seed
    (tmp_path / "inputs.json").unlink()
    row = run(tmp_path, ROW, "train.seed=3")
    _use_its_stages(row.cfg, tmp_path)
    assert row.cfg.train.stage_seed is None


# --- features that two stages share ----------------------------------------------------------

SHARED = "section4_4/r101_fpn_shared"


@pytest.mark.parametrize(
    ("overrides", "fits"),
    [
        ((), True),
        (("train.seed=3",), True),
        (("train.stage_seed=1",), True),
        (("train.stage_seed=2",), False),
        (("train.seed=2", "train.stage_seed=5"), False),
        (("train.proposals=rpn/r101_fpn",), False),
        (("train.init_from=table2a/r50_fpn",), False),
    ],
)
def test_a_network_and_its_rpn_must_share_a_backbone(tmp_path, monkeypatch, overrides, fits):
    monkeypatch.chdir(tmp_path)
    row = run(tmp_path / "row", SHARED, *overrides)
    if fits:
        check_dependencies(row)
    else:
        with pytest.raises(ConfigError, match=r"share features: .*from 0 to 1"):
            check_dependencies(row)
    check_dependencies(row, eval_only=True)  # the weights are one network already
    assert list(tmp_path.iterdir()) == []


# --- bits of 16-bit images -------------------------------------------------------------------


@pytest.fixture
def own_bits(monkeypatch):
    """Forgets the bits that a test registers for the embedded data."""
    register()
    for name in ("embedded_tiny_train", "embedded_tiny_val"):
        monkeypatch.setitem(MetadataCatalog.get(name).__dict__, "image_bits", None)


@pytest.mark.parametrize(
    ("keys", "bits"),
    [
        ((), [None, None]),
        (("dataloader.train.dataset.image_bits=12",), [12, 12]),
        (("dataloader.test.dataset.image_bits=10",), [None, 10]),
        (
            ("dataloader.test.dataset={image_bits: 10, names: embedded_tiny_unlabeled}",),
            [None, None],
        ),
    ],
)
def test_a_stage_scales_images_as_its_row(tmp_path, own_bits, keys, bits):
    row = run(tmp_path, ROW, *keys)
    fit_to_data(row.cfg)
    rpn = dependency(row, row.cfg.train.proposals, ())
    nodes = [rpn.cfg.dataloader[split].dataset for split in ("train", "test")]
    assert [node.get("image_bits") for node in nodes] == bits
    assert (rpn.folder.name == "seed0") == (bits == [None, None])
    assert [data.image_bits for data in data_sets(rpn.cfg, "train")] == bits[:1]
    (tested,) = data_sets(row.cfg, "test")
    if keys:  # also for a test set that the stage does not know
        assert tested.keys()["image_bits"] == row.cfg.dataloader.test.dataset.image_bits


@pytest.mark.parametrize("pretrains", [False, True])
def test_a_stage_that_keeps_its_own_data_takes_the_bits_of_the_same_data(
    tmp_path, own_bits, pretrains
):
    key = "dataloader.train.dataset.image_bits=12"
    if pretrains:  # crops, which are not the row's
        row = run(tmp_path, ROW, key, "train.init_checkpoint=stage://pretrain/r50")
        bits = None
    else:
        start = ["train.init_from=table2b/sigmoid", "train.init_classes={}"]
        row, bits = run(tmp_path, ROW, key, *start), 12
    path = "pretrain/r50" if pretrains else row.cfg.train.init_from
    stage = dependency(row, path, ())
    assert stage.cfg.dataloader.train.dataset.get("image_bits") == bits


def test_stored_proposals_of_other_bits_are_stale(tmp_path):
    rpn = run(tmp_path, "rpn/r50_c4")
    data = DataSet("embedded_tiny_val", image_bits=12)
    for stored in ({"image_bits": 12}, {}, {"image_bits": None}):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        source = {"config_hash": config_hash(rpn.cfg), **stored}
        writer = ProposalWriter(
            folder,
            dataset=data.name,
            fingerprint=fingerprint([data]),
            image_ids=[1],
            topk=1,
            source=source,
        )
        writer.add(1, np.zeros((1, 4), np.float32), np.zeros(1, np.float32))
        writer.finish()
        if stored == {"image_bits": None}:
            with pytest.raises(
                DataError, match=r"None bits \(dataset\.image_bits\), .* 12\. Delete"
            ):
                check_stored(rpn, data, folder)
        else:
            check_stored(rpn, data, folder)
