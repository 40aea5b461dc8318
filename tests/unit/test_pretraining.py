"""Pre-training stages: classifier, accuracy, statistics, stored and published weights, configs."""

import dataclasses
import json
import math
import os
import shutil

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from mask_rcnn_embedded.quickstart import TINY_SPEC
from mask_rcnn_repro.config import get_config, profiles
from mask_rcnn_repro.config.from_data import fit_to_data
from mask_rcnn_repro.data import catalog, dataset_fingerprint
from mask_rcnn_repro.engine.builders import build_model
from mask_rcnn_repro.engine.checkpoint.checkpointer import SafeCheckpointer, checkpoint_facts
from mask_rcnn_repro.engine.run import Run
from mask_rcnn_repro.engine.stages import prepare, pretrained, up_to_date
from mask_rcnn_repro.errors import CheckpointError, ConfigError, DataError
from mask_rcnn_repro.evaluation import ClassificationEvaluator, build_evaluator
from mask_rcnn_repro.modeling import ImageClassifier, build_resnet
from mask_rcnn_repro.records import load_record
from mask_rcnn_repro.records.provenance import file_sha256
from mask_rcnn_tools.tables.choose import choose_rows
from mask_rcnn_tools.tables.plan import make_plan
from mask_rcnn_tools.tables.usable_records import stage_is_ready
from mask_rcnn_tools.train.cli import parse_args
from mask_rcnn_tools.train.dependency_checks import check_dependencies
from mask_rcnn_tools.train.main import EXTENSIONS
from mask_rcnn_tools.train.run import run as launch

CPU = torch.device("cpu")


class Mean(nn.Module):
    """Logits are the mean of each channel."""

    def forward(self, x):
        return {"linear": x.mean((2, 3))}


def classifier():
    return ImageClassifier(Mean(), pixel_mean=[1.0, 2.0, 3.0], pixel_std=[1.0, 2.0, 4.0])


def image(values, k):
    return {"image": torch.tensor(values).view(3, 1, 1).expand(3, 4, 5), "category_id": k}


def test_loss_and_probabilities_of_known_logits():
    """Logits (0, 0, log 2) and (log 3, 0, 0) after normalization."""
    inputs = [
        image([1.0, 2.0, 3.0 + 4 * math.log(2)], 2),
        image([1.0 + math.log(3), 2.0, 3.0], 1),
    ]
    model = classifier()
    loss = model(inputs)["loss_cls"]
    assert float(loss) == pytest.approx((math.log(2) + math.log(5)) / 2, rel=1e-5)
    first, second = (output["probabilities"] for output in model.eval()(inputs))
    assert first.tolist() == pytest.approx([0.25, 0.25, 0.5])
    assert second.tolist() == pytest.approx([0.6, 0.2, 0.2])


def test_smaller_images_of_a_batch_are_padded_with_the_mean():
    small = {"image": torch.full((3, 2, 2), 7.0), "category_id": 0}
    large = {"image": torch.zeros(3, 4, 2), "category_id": 0}
    batch = classifier().preprocess([small, large])
    assert batch.shape == (2, 3, 4, 2)
    assert batch[0, 0].tolist() == [[6.0, 6.0], [6.0, 6.0], [0.0, 0.0], [0.0, 0.0]]


def test_a_classifier_is_detectron2s_network_with_a_linear_layer():
    arguments = {"depth": 50, "width_multiplier": 1 / 16, "norm": "BN", "freeze_at": 0}
    network = build_resnet(out_features=["linear"], num_classes=5, **arguments)
    backbone = build_resnet(out_features=["res5"], **arguments)
    own, theirs = network.state_dict(), backbone.state_dict()
    assert own.keys() - theirs.keys() == {"linear.weight", "linear.bias"}
    assert {k: v.shape for k, v in own.items() if k in theirs} == {
        k: v.shape for k, v in theirs.items()
    }
    backbone.load_state_dict({k: v for k, v in own.items() if k in theirs})
    x = torch.randn(2, 3, 64, 48)
    pooled = backbone.eval()(x)["res5"].mean((2, 3))
    torch.testing.assert_close(network.eval()(x)["linear"], network.linear(pooled))
    with pytest.raises(ConfigError, match="out_features"):
        build_resnet(out_features=["linear"], **arguments)


def test_accuracy_by_hand():
    """Ranks 0, 1 (a tie, lower index first), 0 (the same tie), 5."""
    evaluator = ClassificationEvaluator("any")
    p = torch.tensor([[0.1, 0.9, 0, 0, 0, 0], [0.4, 0.4, 0.2, 0, 0, 0], [0.4, 0.4, 0.2, 0, 0, 0]])
    last = torch.tensor([0.3, 0.2, 0.2, 0.1, 0.1, 0.1])
    classes = [1, 1, 0, 5]
    outputs = [{"probabilities": row} for row in (*p, last)]
    for k, output in zip(classes, outputs, strict=True):
        evaluator.process([{"category_id": k}], [output])
    assert evaluator.evaluate() == {"classification": {"top1": 50.0, "top5": 75.0}}
    evaluator.reset()
    assert evaluator.evaluate() == {}
    diverged = torch.full((6,), float("nan"))
    evaluator.process([{"category_id": 0}], [{"probabilities": diverged}])
    assert evaluator.evaluate() == {"classification": {"top1": 0.0, "top5": 0.0}}


def stage_run(folder, *overrides):
    """The stage of ResNet-50 at `tiny`, with a folder of its own."""
    cfg = get_config("pretrain/r50", "tiny", list(overrides))
    return Run("pretrain/r50", cfg, folder, CPU)


def test_statistics_are_those_of_the_detection_images(tmp_path, monkeypatch):
    """The first norm's input is the first convolution of all images, which is repeated here."""
    stage = stage_run(tmp_path, "train.statistics_batches=3")
    model = build_model(stage.cfg, CPU)
    seen = []
    preprocess = model.preprocess
    monkeypatch.setattr(
        model, "preprocess", lambda batch: seen.append(preprocess(batch)) or seen[-1]
    )
    weight = model.backbone.res5[0].conv1.weight.clone()
    pretrained.estimate_statistics(stage, model.eval())
    assert [len(batch) for batch in seen] == [2, 2, 2]  # as many as an RPN stage trains on at once
    assert {side for batch in seen for side in batch.shape[2:]} >= {64}
    conv = model.backbone.stem.conv1
    with torch.no_grad():
        maps = [nn.functional.conv2d(x, conv.weight, stride=2, padding=3) for x in seen]
    values = torch.cat([m.transpose(0, 1).flatten(1) for m in maps], dim=1)
    torch.testing.assert_close(conv.norm.running_mean, values.mean(1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        conv.norm.running_var, values.var(1, correction=0), rtol=1e-3, atol=1e-4
    )
    assert not model.training
    assert torch.equal(model.backbone.res5[0].conv1.weight, weight)


# --- stored and published weights ------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """`output_root` with the stage of ResNet-50, trained for two iterations at `tiny`."""
    root = tmp_path_factory.mktemp("root")
    train("pretrain/r50", root)
    return root


def train(config, root, *overrides):
    words = ["--config-file", config, "--profile", "tiny", f"train.output_root={root}", *overrides]
    launch(parse_args([*words, "train.device=cpu"]), EXTENSIONS)


STAGE = "pretrain/r50@tiny/seed0"
ROW = ("train.proposals=null", "train.init_checkpoint=stage://pretrain/r50")
FROZEN = (*ROW, "train.max_iter=1", "train.freeze=[backbone]")


def weights_file(root):
    return root / STAGE / "pretrained.safetensors"


def test_a_stage_leaves_its_record_and_the_weights_of_its_backbone(trained):
    record = load_record(trained / STAGE / "record.json")
    assert set(record.metrics) == {"classification"}
    assert record.iterations_done == record.iterations_planned == 12
    final = torch.load(trained / STAGE / "model_final.pth", weights_only=True)["model"]
    stored = load_file(weights_file(trained))
    left = {k.removeprefix("backbone.") for k in final if "num_batches" not in k} - stored.keys()
    assert left == {"linear.weight", "linear.bias"}
    for key, value in stored.items():
        own = final[f"backbone.{key}"]
        assert value.dtype == (torch.float16 if own.ndim > 1 else torch.float32)
        if "running" not in key:  # those are of detection images
            torch.testing.assert_close(value.float(), own, rtol=1e-3, atol=1e-6)
    mean = "stem.conv1.norm.running_mean"
    assert not torch.allclose(stored[mean], final[f"backbone.{mean}"], rtol=1e-3)
    described = json.loads(weights_file(trained).with_suffix(".json").read_text())
    assert described["checkpoint"]["name"] == "pretrained.safetensors"
    assert {**described, "checkpoint": None} == {
        **json.loads((trained / STAGE / "record.json").read_text()),
        "checkpoint": None,
    }
    assert checkpoint_facts(weights_file(trained))["iterations_done"] is None


@pytest.mark.parametrize(("config", "head"), [("table2a/r50_c4", True), ("table2a/r50_fpn", False)])
def test_a_row_starts_from_the_stage(trained, tmp_path, config, head):
    """Of C4 the head takes stage 5."""
    train(config, trained, f"train.output_dir={tmp_path}", *FROZEN)
    stored = load_file(weights_file(trained))
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    prefix = "backbone." if head else "backbone.bottom_up."
    checked = 0
    for key, value in stored.items():
        if not (head and key.startswith("res5")):
            assert torch.equal(final[prefix + key], value.float()), key
            checked += 1
    assert checked > 100
    if head:  # trained for one step with a small rate
        for key in ("res5.0.conv1.weight", "res5.2.conv3.norm.weight"):
            torch.testing.assert_close(
                final[f"roi_heads.{key}"], stored[key].float(), rtol=0, atol=2e-3
            )
    source = load_record(tmp_path / "record.json").init_from
    described = load_record(weights_file(trained).with_suffix(".json"))
    assert (source.id, source.seed) == ("pretrain/r50", 0)
    assert (source.hash, source.checkpoint) == (described.config.hash, described.checkpoint.sha256)
    assert load_record(tmp_path / "record.json").config.overrides[2:4] == list(ROW)


def test_published_weights_are_used_until_the_stage_is_trained(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "PUBLISHED", tmp_path / "weights")
    stage = stage_run(tmp_path / "none")
    assert pretrained.find_weights(stage) is None
    published = pretrained.published_file(stage)
    published.parent.mkdir(parents=True)
    for suffix in (".safetensors", ".json"):
        shutil.copy(weights_file(trained).with_suffix(suffix), published.with_suffix(suffix))
    assert pretrained.find_weights(stage) == published
    assert pretrained.find_weights(stage_run(trained / STAGE)) == weights_file(trained)
    assert pretrained.find_weights(stage_run(tmp_path, "train.published_weights=false")) is None
    other = stage_run(tmp_path / "none", "train.max_iter=13")
    assert pretrained.find_weights(other) is None, "of another config"

    def no_training(*_, **__):
        raise AssertionError("nothing is missing")

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "train_run", no_training)
        inputs = prepare.prepare(row_run(tmp_path / "row", tmp_path / "root"), EXTENSIONS)
        assert inputs.pretrained == published
        assert inputs.init_from["id"] == "pretrain/r50"
        anew = row_run(tmp_path / "row", tmp_path / "root", "train.published_weights=false")
        with pytest.raises(AssertionError, match="nothing is missing"):
            prepare.prepare(anew, EXTENSIONS)
    published.write_bytes(published.read_bytes()[:-1] + b"x")
    assert pretrained.find_weights(stage) is None, "damaged"


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("changed", ["embedded_tiny_train", "embedded_tiny_crops_train"])
def test_weights_of_other_data_do_not_count(trained, tmp_path, monkeypatch, published, changed):
    """Statistics are estimated again without training. Other training data needs a training."""
    with safe_open(weights_file(trained), "pt") as stored:
        remembered = stored.metadata()
    assert remembered == {"statistics_data": f"{TINY_SPEC.fingerprint()}/instances_train"}
    place = shutil.copytree(trained / STAGE, tmp_path / "root" / STAGE)
    monkeypatch.setattr(pretrained, "PUBLISHED", tmp_path / "weights")
    stage, file = stage_run(place), place / "pretrained.safetensors"
    if published:
        file = pretrained.published_file(stage)
        file.parent.mkdir(parents=True)
        for suffix in (".safetensors", ".json"):
            (place / f"pretrained{suffix}").rename(file.with_suffix(suffix))
    assert pretrained.find_weights(stage) == file
    save_file(load_file(file), tmp_path / "older.safetensors")  # does not say

    def fingerprint(sets):
        (name,) = (data.name for data in sets)
        return "sha256:" + ("0" * 64 if name == changed else dataset_fingerprint(name)["sha256"])

    monkeypatch.setattr(pretrained, "fingerprint", fingerprint)
    monkeypatch.setattr(up_to_date, "fingerprint", fingerprint)
    if changed == "embedded_tiny_train":
        monkeypatch.setattr(pretrained, "spec_fingerprint", lambda name: "0" * 12)
    assert pretrained.find_weights(stage) is None
    monkeypatch.setattr(prepare, "train_run", lambda *_, **__: pytest.fail("trained again"))
    row = row_run(tmp_path / "row", tmp_path / "root")
    if changed == "embedded_tiny_crops_train":
        with pytest.raises(DataError, match="it was trained on other data"):
            prepare.prepare(row, EXTENSIONS)
        return
    inputs = prepare.prepare(row, EXTENSIONS)
    assert inputs.pretrained == place / "pretrained.safetensors"
    with safe_open(inputs.pretrained, "pt") as stored:
        assert stored.metadata() == {"statistics_data": "0" * 12}
    os.replace(tmp_path / "older.safetensors", inputs.pretrained)
    description = inputs.pretrained.with_suffix(".json")
    content = json.loads(description.read_text())
    content["checkpoint"]["sha256"] = file_sha256(inputs.pretrained)
    description.write_text(json.dumps(content))
    assert pretrained.find_weights(stage) == inputs.pretrained


def row_run(folder, root, *overrides):
    where = [f"train.output_root={root}", "train.device=cpu"]
    return Run(
        "row", get_config("table2a/r50_fpn", "tiny", [*ROW, *where, *overrides]), folder, CPU
    )


def test_weights_that_were_deleted_are_stored_again_without_training(trained, monkeypatch):
    before = weights_file(trained).read_bytes()
    weights_file(trained).unlink()
    monkeypatch.setattr(pretrained, "PUBLISHED", trained / "nothing")
    monkeypatch.setattr(prepare, "train_run", lambda *_, **__: pytest.fail("trained again"))
    prepare.prepare(row_run(trained / "row", trained), EXTENSIONS)
    assert weights_file(trained).read_bytes() == before


def test_a_stage_must_be_a_classifier(tmp_path):
    run = row_run(tmp_path, tmp_path, "train.init_checkpoint=stage://rpn/r50_fpn")
    with pytest.raises(ConfigError, match=r"rpn/r50_fpn, .*init_from"):
        check_dependencies(run)
    with pytest.raises(
        ConfigError, match=r"init_checkpoint='stage://pretrain/r5x' names no config"
    ):
        row_run(tmp_path, tmp_path, "train.init_checkpoint=stage://pretrain/r5x")


def test_safetensors_of_another_network_are_refused(tmp_path):
    model = build_model(get_config("rpn/r50_c4", "tiny"), CPU)
    state = {k.removeprefix("backbone."): v for k, v in model.backbone.state_dict().items()}
    state = {k: v.contiguous() for k, v in state.items() if k != "res4.5.conv3.weight"}
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"missing in the file: backbone\.res4\.5\.conv3"):
        SafeCheckpointer(model).load(str(tmp_path / "a.safetensors"), policy="init")
    (tmp_path / "b.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0cut")
    with pytest.raises(CheckpointError, match="damaged"):
        SafeCheckpointer(model).load(str(tmp_path / "b.safetensors"), policy="init")


def test_weights_of_a_stage_do_not_count_as_trained_ones(tmp_path):
    with pytest.raises(CheckpointError, match=r"--eval-only needs trained weights.*stage://"):
        train("table2a/r50_fpn", tmp_path, "--eval-only", *ROW)


def test_a_stage_has_the_classes_of_its_data(trained):
    cfg = get_config("pretrain/r50", "tiny", ["model.backbone.num_classes=29"])
    with pytest.raises(ConfigError, match=r"model\.backbone\.num_classes is 29, .* has 30 classes"):
        fit_to_data(cfg, ["model.backbone.num_classes=29"])


def test_published_weights_are_found_before_their_data_is_made(trained, tmp_path, monkeypatch):
    stage = stage_run(trained / STAGE)
    monkeypatch.setenv("MASK_RCNN_REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(catalog, "generated_root", lambda *_: pytest.fail("generates data"))
    assert pretrained.find_weights(stage) == weights_file(trained)


def test_crops_are_identified_without_being_made(tmp_path, monkeypatch):
    monkeypatch.setenv("MASK_RCNN_REPRO_CACHE", str(tmp_path / "cache"))
    names = [f"embedded{n}_crops_{s}" for n in ("", "_many", "_tiny") for s in ("train", "val")]
    facts = [dataset_fingerprint(name) for name in names]
    assert len({f["sha256"] for f in facts}) == 6
    assert [f["num_images"] for f in facts] == [20_000, 1_500, 50_000, 3_000, 60, 30]
    assert not (tmp_path / "cache").exists()


# --- configs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "stage"),
    [
        ("table2a/r50_c4", "r50"),
        ("table2d/roi_align", "r50"),
        ("rpn/r101_fpn", "r101"),
        ("table2a/x101_fpn", "x101"),
        ("table8/imagenet5k", "x101_5k"),
        ("table8/deeper", "x152_5k"),
    ],
)
def test_the_weights_of_a_stage_fit_the_rows(config, stage):
    cfg = get_config(config, "mini")
    assert cfg.train.init_checkpoint == f"stage://pretrain/{stage}"
    row, classifier = (build_resnet_of(c) for c in (cfg, get_config(f"pretrain/{stage}", "mini")))
    row, given = ({k: s for k, s in d.items() if "num_batches" not in k} for d in (row, classifier))
    assert {k: given.get(k) for k in row} == row
    bottom = cfg.model.backbone.get("bottom_up") or cfg.model.backbone
    assert bottom.stride_in_1x1 == get_config(f"pretrain/{stage}").model.backbone.stride_in_1x1
    assert list(cfg.model.pixel_std) == list(get_config(f"pretrain/{stage}").model.pixel_std)


def build_resnet_of(cfg):
    bottom = cfg.model.backbone.get("bottom_up") or cfg.model.backbone
    with torch.device("meta"):
        network = build_resnet(**{k: v for k, v in bottom.items() if k != "_target_"})
    return {k: v.shape for k, v in network.state_dict().items()}


def test_a_pretrained_scale_trains_norms_but_those_of_frozen_stages():
    cfg, paper = (get_config("table2a/r50_fpn", profile) for profile in ("mini", "paper"))
    assert cfg.optimizer["_target_"] == "torch.optim.AdamW"
    assert cfg.optimizer.lr == pytest.approx(paper.optimizer.lr * profiles.MINI.lr)
    bottom = cfg.model.backbone.bottom_up
    assert (bottom.norm, bottom.freeze_at) == ("BN", 2)
    network = build_resnet(**{k: v for k, v in bottom.items() if k != "_target_"})
    frozen = {n.partition(".")[0] for n, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "res2"}
    assert isinstance(network.res2[0].conv1.norm, FrozenBatchNorm2d)
    assert isinstance(network.res3[0].conv1.norm, torch.nn.BatchNorm2d)


def test_configs_that_no_stage_stands_for_start_from_random_weights():
    zoo = get_config("model_zoo/mask_rcnn_R_50_FPN_3x", "mini")
    assert zoo.train.init_checkpoint == ""
    bottom = zoo.model.backbone.bottom_up
    assert (bottom.norm, bottom.freeze_at) == ("BN", 0)
    shared = get_config("section4_4/r101_fpn_shared", "mini")
    assert shared.train.init_from == "table2a/r101_fpn"
    bottom = shared.model.backbone.bottom_up
    assert (shared.train.init_checkpoint, bottom.norm, bottom.freeze_at) == ("", "BN", 2)


def test_a_table_plans_the_stage_first_and_skips_published_weights(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "TINY", dataclasses.replace(profiles.TINY, pretrained=True))
    root = [f"train.output_root={tmp_path}"]
    plan = make_plan(choose_rows(["2d"], None), "tiny", [0], root)
    assert [job.config for job in plan.jobs][:2] == ["pretrain/r50", "rpn/r50_c5"]
    stage, rpn = plan.jobs[:2]
    assert ("init_from", stage) in rpn.inputs
    monkeypatch.setattr(pretrained, "PUBLISHED", tmp_path / "weights")
    assert not stage_is_ready(stage, "init_from", rpn)
    published = pretrained.published_file(stage_run(tmp_path / "none"))
    published.parent.mkdir(parents=True)
    for suffix in (".safetensors", ".json"):
        shutil.copy(weights_file(trained).with_suffix(suffix), published.with_suffix(suffix))
    assert stage_is_ready(stage, "init_from", rpn)


def test_the_evaluator_serves_data_sets_of_images_with_one_class():
    from detectron2.data import MetadataCatalog

    name = "classification_data_of_a_test"
    MetadataCatalog.get(name).evaluator_type = "classification"
    try:
        assert isinstance(build_evaluator(name), ClassificationEvaluator)
    finally:
        MetadataCatalog.pop(name)
