"""Tables 8 and 9: each row adds one component to the row above it; the paper's values of each.

Values are typed in here from the paper (appendix B), and read from the loaded configs.
"""

import re
from dataclasses import dataclass, replace

import pytest
from detectron2.config import instantiate

from mask_rcnn_repro.config import config_root, diff_configs, to_plain
from mask_rcnn_repro.engine.dependencies import unlabeled_of
from mask_rcnn_repro.engine.main import run
from mask_rcnn_repro.engine.tta import tta_sizes
from mask_rcnn_repro.errors import CheckpointError
from mask_rcnn_repro.paper import load_tables
from mask_rcnn_tools.train.cli import parse_args
from mask_rcnn_tools.train.main import EXTENSIONS

from .config_sets import JOINT_ROWS, PROFILES, ROWS, load, load_joint


@dataclass(frozen=True)
class Setting:
    """What the paper says about a row.

    Attributes:
        row: as printed.
        backbone: depth, groups and width of a group.
        drops: iterations from which on the rate is a tenth, and a hundredth.
        iterations: of the training.
        nms: threshold for detections.
        rpn: RPN stage; None: trained end to end.
        weights: pattern of the initial weights.
        edge: shorter edge in training, a length or the ends of a range.
        non_local: stages with a non-local block.
        tta: shorter edges of the views at test, each mirrored, too; empty: the image alone.
        lr: learning rate at the beginning.
        images: an iteration.
        teacher: config that annotates unlabeled images; None: labeled ones alone.
        evaluates: config whose weights are evaluated; None: the row is trained.
    """

    row: str
    backbone: tuple[int, int, int]
    drops: tuple[int, ...]
    iterations: int
    nms: float
    rpn: str | None
    weights: str
    edge: tuple[int, ...]
    non_local: tuple[str, ...] = ()
    tta: tuple[int, ...] = ()
    lr: float = 0.01  # section 3.1, of ResNeXt
    images: int = 8
    teacher: str | None = None
    evaluates: str | None = None


def after(row, above, **changes):
    return replace(above, row=row, **changes)


DETECTION = Setting(
    "original baseline",
    backbone=(101, 64, 4),
    drops=(120_000,),
    iterations=160_000,
    nms=0.3,
    rpn="rpn/x101_fpn",
    weights="X-101-64x4d$",
    edge=(800,),
)
UPDATED = after(
    "+ updated baseline",
    DETECTION,
    drops=(120_000, 160_000),
    iterations=180_000,
    nms=0.5,
    rpn="rpn/x101_fpn_180k",
)
E2E = after("+ e2e training", UPDATED, rpn=None)
IMAGENET_5K = after("+ ImageNet-5k", E2E, weights="^(?!.*://).*X-101-64x4d-IN5k")
TRAIN_AUG = after(
    "+ train-time augm.",
    IMAGENET_5K,
    drops=(200_000, 240_000),
    iterations=260_000,
    edge=(640, 800),
)
DEEPER = after("+ deeper", TRAIN_AUG, backbone=(152, 32, 8), weights="X-152-32x8d-IN5k$")
NON_LOCAL = after("+ Non-local", DEEPER, non_local=("res4",))
VIEWS = (400, 500, 600, 700, 800, 900, 1000, 1100, 1200)
TEST_AUG = after("+ test-time augm.", NON_LOCAL, tta=VIEWS, evaluates="table8/non_local")

KEYPOINTS = Setting(
    "original baseline",
    backbone=(50, 1, 64),
    drops=(60_000, 80_000),
    iterations=90_000,
    nms=0.5,
    rpn="rpn/r50_fpn_person",
    weights="MSRA/R-50",
    edge=(640, 800),
    lr=0.02,
    images=16,
)
KP_UPDATED = after(
    "+ updated baseline",
    KEYPOINTS,
    drops=(100_000, 120_000),
    iterations=130_000,
    rpn="rpn/r50_fpn_person_130k",
)
KP_DEEPER = after(
    "+ deeper",
    KP_UPDATED,
    backbone=(101, 1, 64),
    weights="MSRA/R-101",
    rpn="rpn/r101_fpn_person",
)
KP_RESNEXT = after(
    "+ ResNeXt",
    KP_DEEPER,
    backbone=(101, 64, 4),
    weights="X-101-64x4d$",
    rpn="rpn/x101_fpn_person",
    lr=0.01,
    images=8,
)
KP_DISTILLED = after("+ data distillation", KP_RESNEXT, teacher="table9/resnext")
KP_TEST_AUG = after(
    "+ test-time augm.", KP_DISTILLED, tta=VIEWS, evaluates="table9/data_distillation"
)

PAPER = {
    "table8/original": DETECTION,
    "table8/updated_baseline": UPDATED,
    "table8/e2e": E2E,
    "table8/imagenet5k": IMAGENET_5K,
    "table8/train_aug": TRAIN_AUG,
    "table8/deeper": DEEPER,
    "table8/non_local": NON_LOCAL,
    "table8/test_aug": TEST_AUG,
    "table9/original": KEYPOINTS,
    "table9/updated_baseline": KP_UPDATED,
    "table9/deeper": KP_DEEPER,
    "table9/resnext": KP_RESNEXT,
    "table9/data_distillation": KP_DISTILLED,
    "table9/test_aug": KP_TEST_AUG,
}
"""Rows in the order in which they are printed."""

ADDED = {
    "table8/updated_baseline": {
        "lr_multiplier.milestones",
        "model.roi_heads.box_predictor.test_nms_thresh",
        "train.max_iter",
        "train.proposals",
    },
    "table8/e2e": {
        "model.proposal_generator",
        "train.proposals",
        "dataloader.train.mapper.precomputed_proposal_topk",
        "dataloader.test.mapper.precomputed_proposal_topk",
    },
    "table8/imagenet5k": {"train.init_checkpoint"},
    "table8/train_aug": {
        "dataloader.train.mapper.augmentations.0.sample_style",
        "dataloader.train.mapper.augmentations.0.short_edge_length",
        "lr_multiplier.milestones",
        "train.max_iter",
    },
    "table8/deeper": {
        "model.backbone.bottom_up.depth",
        "model.backbone.bottom_up.num_groups",
        "model.backbone.bottom_up.width_per_group",
        "train.init_checkpoint",
    },
    "table8/non_local": {"model.backbone.bottom_up.non_local"},
    "table8/test_aug": {"train.tta.enabled", "train.init_from", "train.max_iter"},
    "table9/updated_baseline": {"lr_multiplier.milestones", "train.max_iter", "train.proposals"},
    "table9/deeper": {"model.backbone.bottom_up.depth", "train.init_checkpoint", "train.proposals"},
    "table9/resnext": {
        "dataloader.train.total_batch_size",
        "model.backbone.bottom_up.num_groups",
        "model.backbone.bottom_up.width_per_group",
        "model.backbone.bottom_up.stride_in_1x1",
        "optimizer.lr",
        "train.init_checkpoint",
        "train.proposals",
        "train.reference_batch_size",
    },
    "table9/data_distillation": {
        "dataloader.train.dataset._target_",
        "dataloader.train.dataset.generated_part",
        "dataloader.train.dataset.teacher",
    },
    "table9/test_aug": {"train.tta.enabled", "train.init_from", "train.max_iter"},
}
"""Keys in which a row differs from the one above it: the component that it adds."""


def above(config):
    """The row printed above, None for the first of a table."""
    same = [c for c in PAPER if c.partition("/")[0] == config.partition("/")[0]]
    index = same.index(config)
    return same[index - 1] if index else None


def stated(config, profile="paper"):
    plain = to_plain(load(config, profile), resolve=False)
    del plain["paper"]
    return plain


def test_rows_are_those_of_the_paper_in_its_order():
    for table in ("8", "9"):
        rows = [c for c in PAPER if c.startswith(f"table{table}/")]
        printed = [row["row"] for row in load_tables()[table]["rows"]]
        assert [PAPER[config].row for config in rows] == printed
        assert set(rows) == {c for c in ROWS if c.startswith(f"table{table}/")}
    for config, said in PAPER.items():
        paper = load(config).paper
        assert (paper.row, paper.get("control")) == (said.row, above(config))


def test_rows_after_the_updated_baseline_are_trained_end_to_end():
    assert {config for config, said in PAPER.items() if said.rpn is None} == set(JOINT_ROWS)


@pytest.mark.parametrize("config", PAPER)
def test_a_row_is_trained_as_in_the_paper(config):
    cfg, said = load(config), PAPER[config]
    assert (cfg.train.max_iter, cfg.train.init_from) == (
        (0, said.evaluates) if said.evaluates else (said.iterations, None)
    )
    if not said.evaluates:
        schedule = instantiate(cfg.lr_multiplier)
        steps = [1000, *(i for drop in said.drops for i in (drop - 1, drop)), said.iterations - 1]
        rates = [cfg.optimizer.lr * schedule(step / said.iterations) for step in steps]
        drops = [sum(step >= drop for drop in said.drops) for step in steps]
        assert rates == pytest.approx([said.lr / 10**n for n in drops])  # all drops are by 10
    assert cfg.dataloader.train.total_batch_size == said.images
    assert cfg.train.reference_batch_size == said.images
    train, test = (cfg.dataloader[split].mapper.augmentations[0] for split in ("train", "test"))
    assert tuple(train.short_edge_length) == said.edge
    assert train.sample_style == ("range" if len(said.edge) == 2 else "choice")
    assert (list(test.short_edge_length), train.max_size, test.max_size) == ([800], 1333, 1333)
    names = ("coco_trainval35k", "coco_minival")
    if config.startswith("table9"):
        names = tuple(f"keypoints_{name}" for name in names)
    assert (cfg.dataloader.train.dataset.names, cfg.dataloader.test.dataset.names) == names
    assert re.search(said.weights, cfg.train.init_checkpoint)
    data = cfg.dataloader.train.dataset
    assert data.get("teacher") == said.teacher
    assert data.get("min_keypoints", 0) == (1 if config.startswith("table9") else 0)
    assert data.get("generated") is None
    if said.teacher:  # of the same labeled data
        assert data.generated_part == 0.4
        assert load(said.teacher).dataloader.train.dataset.names == data.names
        assert unlabeled_of(cfg).name == "coco_2017_unlabeled"


@pytest.mark.parametrize("config", PAPER)
def test_a_row_has_the_network_of_the_paper(config):
    cfg, said = load(config), PAPER[config]
    resnet = cfg.model.backbone.bottom_up
    assert (resnet.depth, resnet.num_groups, resnet.width_per_group) == said.backbone
    assert tuple(resnet.get("non_local", ())) == said.non_local
    assert resnet.stride_in_1x1 is (said.backbone[1] == 1)  # as the weights have it
    heads = cfg.model.roi_heads
    assert heads.box_predictor.test_nms_thresh == said.nms
    assert heads.batch_size_per_image == 512
    keypoints = config.startswith("table9")
    assert (heads.get("mask_head") is None) is keypoints  # table 9: keypoints only
    assert (heads.get("keypoint_head") is not None) is keypoints
    assert cfg.train.proposals == said.rpn
    rpn = load_joint(config).model.proposal_generator
    assert (rpn.post_nms_topk, rpn.nms_thresh) == ([2000, 1000], 0.7)
    assert (cfg.model.proposal_generator is None) is (said.rpn is not None)


@pytest.mark.parametrize("config", PAPER)
def test_test_time_augmentation(config):
    cfg, said = load(config), PAPER[config]
    assert cfg.train.tta.enabled is bool(said.tta)
    if said.tta:
        assert tuple(tta_sizes(cfg)) == said.tta
        assert cfg.train.tta.flip is True


@pytest.mark.parametrize("config", ADDED)
def test_a_row_adds_one_component_to_the_row_above(config):
    changed = {key for key, *_ in diff_configs(stated(above(config)), stated(config))}
    assert changed == ADDED[config]


@pytest.mark.parametrize("config", [c for c in PAPER if c in ADDED])
def test_a_row_imports_the_row_above(config):
    text = (config_root() / f"{config}.py").read_text(encoding="utf-8")
    name = above(config).partition("/")[2]
    assert re.search(rf"^from \.{name} import ", text, re.MULTILINE)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_non_local_row_is_its_control_but_for_the_block(profile):
    rows = (stated("table8/deeper", profile), stated("table8/non_local", profile))
    assert {key for key, *_ in diff_configs(*rows)} == ADDED["table8/non_local"]


def test_longer_schedules_stay_longer_at_mini():
    lengths = {config: load(config, "mini").train.max_iter for config in PAPER}
    for config in [c for c in ADDED if not PAPER[c].evaluates]:
        ratio = PAPER[config].iterations / PAPER[above(config)].iterations
        assert lengths[config] == pytest.approx(lengths[above(config)] * ratio, abs=1)


# --- RPN stages -----------------------------------------------------------------------------


def test_the_rpn_stage_of_the_updated_baseline():
    """Settings of `rpn/x101_fpn` with the row's schedule; those of persons are tested there."""
    stage, shorter = stated_stage("rpn/x101_fpn_180k"), stated_stage("rpn/x101_fpn")
    assert {key for key, *_ in diff_configs(shorter, stage)} == {
        "lr_multiplier.milestones",
        "train.max_iter",
    }
    cfg = load("rpn/x101_fpn_180k")
    assert (cfg.train.max_iter, list(cfg.lr_multiplier.milestones)) == (180_000, [120_000, 160_000])
    assert cfg.dataloader.train.total_batch_size == 8 and cfg.optimizer.lr == 0.01


def stated_stage(config):
    return to_plain(load(config), resolve=False)


# --- weights that a user has to bring -------------------------------------------------------


@pytest.mark.parametrize("config", ["table8/imagenet5k", "table8/train_aug"])
def test_without_weights_of_imagenet_5k_the_row_stops(config, tmp_path, monkeypatch):
    """Before the first step, with the name of what is missing; not from random weights."""
    monkeypatch.chdir(tmp_path)
    weights = load(config).train.init_checkpoint
    words = ["--config-file", config, "--profile", "tiny", f"train.init_checkpoint={weights}"]
    with pytest.raises(CheckpointError) as error:
        run(parse_args([*words, "train.output_dir=run"]), EXTENSIONS)
    assert re.search(r"'ImageNetPretrained/X-101-64x4d-IN5k\.pkl' does not exist", str(error.value))
    assert str(tmp_path / weights) in str(error.value)  # where it was looked for
    assert list((tmp_path / "run").rglob("*.pth")) == []


@pytest.mark.parametrize("config", ["table8/imagenet5k", "table8/train_aug"])
def test_weights_of_imagenet_5k_do_not_count_as_trained_ones(config, tmp_path):
    words = ["--config-file", config, "--eval-only", f"train.output_dir={tmp_path / 'run'}"]
    with pytest.raises(CheckpointError, match="--eval-only needs trained weights"):
        run(parse_args(words), EXTENSIONS)
