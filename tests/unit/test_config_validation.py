"""Validation of whole configs: keys, types, references, combinations; all problems at once."""

from __future__ import annotations

import logging
import re

import pytest
from omegaconf import OmegaConf

from mask_rcnn_repro.config import config_root, load_config, validate_config
from mask_rcnn_repro.config.validation import config_problems
from mask_rcnn_repro.errors import ConfigError

from ..configs import row_rules
from ..configs.row_rules import check_row_rules
from .config_helpers import load_sample, sample_file, write


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return load_sample(tmp_path_factory.mktemp("sample"))


def changed(cfg, **values):
    """A copy with values set at dotted keys (`__` for a dot), past all checks."""
    cfg = cfg.copy()
    for key, value in values.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, merge=False, force_add=True)
    return cfg


def test_a_sound_config_has_no_problems(sample):
    assert config_problems(sample, world_size=4) == []


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"train__max_itr": 3}, "unknown key 'train.max_itr'. Did you mean 'train.max_iter'?"),
        ({"train__amp__enable": True}, "Did you mean 'train.amp.enabled'?"),
        ({"modle": {"a": 1}}, "unknown key 'modle'. Did you mean 'model'?"),
        ({"optimizer__lrr": 3}, "unknown key 'optimizer.lrr'. Did you mean 'optimizer.lr'?"),
        ({"dataloader__val": {}}, "unknown key 'dataloader.val'"),
        ({"paper": {"tabel": "2a"}}, "Did you mean 'paper.table'?"),
        ({"paper": {"table": 2}}, "paper.table must be a string or null, got 2"),
        ({"train__max_iter": "a"}, "train.max_iter must be a valid integer, got 'a'"),
        ({"train__max_iter": True}, "train.max_iter must be a valid integer, got True"),
        ({"train__amp": 3}, "train.amp is a section with the keys enabled, dtype"),
        ({"train__checkpointer__period": 0}, "train.checkpointer.period must be greater than"),
        ({"model": 3}, "model must be a section, got 3"),
        ({"model__backbone": 3}, "model.backbone must be a node that builds Backbone, got 3"),
        ({"model__roi_heads__num_classes": 1.5}, "must be an integer, got 1.5 (float)"),
        (
            {"model__roi_heads__box_predictor__test_score_thresh": "x"},
            "model.roi_heads.box_predictor.test_score_thresh must be a number, got 'x' (str)",
        ),
        ({"model__roi_heads__box_head": None}, "model.roi_heads.box_head must not be null"),
        ({"model___target_": "torch.nn.Nothing"}, "model has a _target_ that cannot be used"),
        ({"model___target_": "no.such"}, "'no.such' cannot be imported"),
        ({"model__input_format": "${nowhere.x}"}, "model.input_format = '${nowhere.x}' cannot be"),
        ({"model__input_format": "${model.input_format}"}, "cannot be resolved"),
        ({"optimizer__lr": "???"}, "optimizer.lr has no value"),
        ({"model__backbone": lambda: 0}, "is a lambda or defined inside a function"),
        ({"model__backbone": object()}, "is an object of type object"),
    ],
)
def test_a_single_fault_is_named(sample, values, text):
    problems = config_problems(changed(sample, **values))
    assert any(text in problem for problem in problems), problems


def test_missing_parts_are_named(sample):
    cfg = sample.copy()
    del cfg.dataloader["evaluator"]
    del cfg.optimizer["params"]
    del cfg.train["max_iter"]
    del cfg.model.roi_heads["num_classes"]
    cfg.lr_multiplier.scheduler.num_updates = 90
    problems = "\n".join(config_problems(cfg))
    assert "dataloader.evaluator is missing" in problems
    assert "train.max_iter is not set; give it" in problems
    assert "optimizer.params is not set, and SGD needs it" in problems
    # `num_classes` is a parameter of the base class, reached through **kwargs.
    assert "model.roi_heads.num_classes is not set, and StandardROIHeads needs it" in problems
    assert "model.roi_heads.box_predictor.num_classes = '${..num_classes}' cannot be" in problems
    del cfg["lr_multiplier"]
    assert "the section lr_multiplier is missing" in config_problems(cfg)


def test_what_the_engine_fills_in_need_not_be_set(sample):
    assert "model" not in sample.optimizer.params
    assert config_problems(sample) == []


def test_all_problems_are_reported_at_once(sample):
    cfg = changed(sample, train__max_itr=3, optimizer__lr="a", model__roi_heads__num_clases=3)
    with pytest.raises(ConfigError) as caught:
        validate_config(cfg)
    message = str(caught.value)
    assert "for 3 reasons" in message
    for number in (1, 2, 3):
        assert re.search(rf"^  {number}\. ", message, re.MULTILINE)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"train__amp": {"enabled": True, "dtype": "fp16"}, "train__device": "cpu"},
            "use train.amp.dtype=bf16",
        ),
        ({"model__roi_heads__num_classes": 0}, "num_classes must be at least 1, got 0"),
        (
            {"model__roi_heads__box_predictor__num_classes": 7},
            "model.roi_heads.box_predictor.num_classes is 7, but model.roi_heads.num_classes is 80",
        ),
        (
            {"model__roi_heads__mask_head__num_classes": 7},
            "model.roi_heads.mask_head.num_classes is 7",
        ),
        (
            {"dataloader__train__mapper__use_instance_mask": False},
            "dataloader.train.mapper.use_instance_mask=true",
        ),
        (
            {
                "model__roi_heads__keypoint_head": {"_target_": "torch.nn.Identity"},
                "model__roi_heads__keypoint_in_features": ["p2"],
            },
            "dataloader.train.mapper.use_keypoint=true",
        ),
        (
            {
                "dataloader__train__mapper__augmentations": [
                    {
                        "_target_": "detectron2.data.transforms.ResizeShortestEdge",
                        "short_edge_length": [640, 800],
                        "max_size": 700,
                    }
                ]
            },
            "short_edge_length 800 is larger than max_size 700",
        ),
        ({"lr_multiplier__scheduler__num_updates": 100}, "num_updates is 100, but train.max_iter"),
        ({"train__max_iter": 50}, "lr_multiplier.scheduler.milestones=[45]"),
        ({"lr_multiplier__warmup_length": 500}, "is a fraction of the training from 0 to 1"),
        ({"dataloader__train__total_batch_size": 0}, "must be at least 1, got 0"),
    ],
)
def test_impossible_combinations_say_how_to_fix_them(sample, values, text):
    problems = config_problems(changed(sample, **values))
    assert len(problems) == 1
    assert text in problems[0]


def test_possible_neighbours_of_impossible_combinations_pass(sample):
    for values in (
        {"train__amp": {"enabled": False, "dtype": "fp16"}, "train__device": "cpu"},
        {"train__amp": {"enabled": True, "dtype": "bf16"}, "train__device": "cpu"},
        {"train__amp": {"enabled": True, "dtype": "fp16"}, "train__device": "cuda:1"},
        {"model__roi_heads__mask_head__num_classes": 1},  # class-agnostic masks
        {
            "dataloader__train__mapper__use_instance_mask": False,
            "model__roi_heads__mask_head": None,
            "model__roi_heads__mask_in_features": None,
        },
        {
            "model__proposal_generator": None,
            "dataloader__train__mapper__precomputed_proposal_topk": 1000,
        },
        {"train__max_iter": 61},
    ):
        base = {"enabled": False, "dtype": "bf16"}
        values = {"train__amp": base, **values}
        assert config_problems(changed(sample, **values)) == []


def test_without_proposal_generator_the_loader_must_bring_proposals(sample):
    (problem,) = config_problems(changed(sample, model__proposal_generator=None))
    assert "precomputed_proposal_topk" in problem


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_channel_order_must_be_the_model_s(sample, split):
    key = f"dataloader__{split}__mapper__image_format"
    (problem,) = config_problems(changed(sample, **{key: "RGB"}))
    assert f"dataloader.{split}.mapper.image_format is RGB" in problem


def test_the_batch_must_divide_among_the_processes(sample):
    assert config_problems(sample, world_size=8) == []
    (problem,) = config_problems(sample, world_size=3)
    assert "total_batch_size 16 does not divide among 3 processes; set it to 15 or 18" in problem


def test_a_schedule_of_ours_warns_of_milestones_that_are_never_reached(caplog):
    with caplog.at_level(logging.WARNING):
        load_config("table2a/r50_c4", overrides=["train.max_iter=100"])
    assert "never drops at 120000: training ends at iteration 100" in caplog.text
    with pytest.raises(ConfigError, match=r"lr_multiplier\.max_iter is 7"):
        load_config("table2a/r50_c4", overrides=["lr_multiplier.max_iter=7"])


def test_detectron2s_own_configs_pass_but_for_their_own_train_keys_and_lambdas():
    from pathlib import Path

    import detectron2.model_zoo
    from detectron2.config import LazyConfig

    root = Path(detectron2.model_zoo.__file__).parent / "configs"
    for name in (
        "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.py",
        "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.py",
        "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.py",
        "COCO-Detection/retinanet_R_50_FPN_1x.py",
        "COCO-InstanceSegmentation/mask_rcnn_regnety_4gf_dds_fpn_1x.py",
    ):
        problems = config_problems(LazyConfig.load(str(root / name)))
        assert [p for p in problems if not p.startswith("unknown key 'train.")] == []
    lambdas = LazyConfig.load(str(root / "new_baselines" / "mask_rcnn_R_50_FPN_100ep_LSJ.py"))
    problems = config_problems(lambdas)
    assert problems
    assert all("is a lambda" in problem for problem in problems)


def test_a_class_defined_in_the_config_file_is_refused(tmp_path):
    more = "class Head(torch.nn.Module):\n    pass\n\n\nmodel.backbone = L(Head)()\n"
    with pytest.raises(ConfigError, match="importable module"):
        load_config(sample_file(tmp_path, more))


ROW = '"""Table 2a, row x."""\nfrom ..common.train import train\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", None),
        ("train.max_iter = 3\n", None),
        ("a = 'relative/path'\n", None),
        ("def f():\n    pass\n", "line 3: defines a function"),
        ("class A:\n    pass\n", "line 3: defines a class"),
        ("a = lambda: 3\n", "line 3: defines a lambda"),
        (
            "train.init_checkpoint = '/data/x.pth'\n",
            "line 3: holds the absolute path '/data/x.pth'",
        ),
        ("a = 'C:\\\\x'\n", "line 3: holds the absolute path"),
        ("a = f'~/{train}'\n", "line 3: holds the absolute path"),
        ("train.output_dir = 'x'\n", "line 3: sets train.output_dir"),
        ("train['output_dir'] = 'x'\n", "line 3: sets train.output_dir"),
        ("train = dict(output_dir='x')\n", "line 3: sets train.output_dir"),
        ("train = {'output_dir': 'x'}\n", "line 3: sets train.output_dir"),
        ("from ..common.other import train\n", "line 3: takes train from two files"),
        ("from .a import model\nfrom .b import optimizer\n", "line 4: imports from 2 rows (a, b)"),
        ("from .a import model\nfrom ..common.b import optimizer\n", None),
    ],
)
def test_rules_of_rows(monkeypatch, tmp_path, text, problem):
    monkeypatch.setattr(row_rules, "config_root", lambda: tmp_path)
    found = check_row_rules(write(tmp_path / "table2a" / "x.py", ROW + text))
    if problem is None:
        assert found == []
    else:
        assert len(found) == 1
        assert problem in found[0]


def test_a_row_needs_a_docstring(tmp_path):
    assert check_row_rules(write(tmp_path / "x.py", "a = 1\n")) == [
        "line 1: has no docstring saying what it is"
    ]


@pytest.mark.parametrize(
    "file",
    [
        path
        for path in sorted(config_root().rglob("*.py"))
        if path.relative_to(config_root()).parts[0] != "common"
    ],
    ids=lambda path: path.relative_to(config_root()).as_posix(),
)
def test_every_row_keeps_the_rules(file):
    assert check_row_rules(file) == []
