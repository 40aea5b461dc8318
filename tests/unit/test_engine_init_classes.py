"""Initial weights of other classes: taken over by name, row by row, the rest at random."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from mask_rcnn_repro.config import get_config, validate_config
from mask_rcnn_repro.engine.checkpoint.checkpointer import SafeCheckpointer
from mask_rcnn_repro.engine.checkpoint.init_classes import (
    ClassMap,
    class_map_of,
    map_classes,
    take_classes,
)
from mask_rcnn_repro.engine.checkpoint.init_from import load_initial_weights
from mask_rcnn_repro.errors import CheckpointError, ConfigError
from mask_rcnn_repro.modeling import (
    ClassAgnosticMaskLoss,
    MLPMaskHead,
    MultinomialMaskLoss,
    PerClassSigmoidMaskLoss,
)

from .model_helpers import build, narrow_config

COCO = ["person", "bicycle", "car", "dog"]
STREET = ["person", "rider", "car"]  # rider is new; car is not at its place


def model_of(classes, loss=PerClassSigmoidMaskLoss, mlp=False, seed=0):
    cfg = narrow_config("fpn")
    cfg.roi_heads.num_classes = len(classes)
    head = cfg.roi_heads.mask_head
    if mlp:
        cfg.roi_heads.mask_head = L(MLPMaskHead)(
            input_shape=head.input_shape,
            num_classes="${..num_classes}",
            loss=L(loss)(),
            num_fc=1,
            fc_dim=8,
            output_size=4,
        )
    else:
        head.loss = L(loss)()
    torch.manual_seed(seed)
    model = build(cfg)
    for parameter in model.roi_heads.parameters():  # biases are zero in a new model
        torch.nn.init.normal_(parameter)
    return model


def rows(model, layer, index, unit=1):
    """Weights and biases of one output, or of the `unit` outputs of one class."""
    state = model.state_dict()
    part = slice(index * unit, (index + 1) * unit)
    return [state[f"roi_heads.{layer}.{kind}"][part] for kind in ("weight", "bias")]


def equal(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


LAYERS = [
    ("box_predictor.cls_score", 1),
    ("box_predictor.bbox_pred", 4),
    ("mask_head.predictor", 1),
]


def fine_tuned(tmp_path, trained, **options):
    torch.save({"model": trained.state_dict()}, tmp_path / "coco.pth")
    model = model_of(STREET, seed=1, **options)
    before = model_of(STREET, seed=1, **options)
    load_initial_weights(model, tmp_path / "coco.pth", classes=map_classes(STREET, COCO, {}, "it"))
    return model, before


def test_each_class_takes_the_rows_of_its_name(tmp_path):
    trained = model_of(COCO)
    model, before = fine_tuned(tmp_path, trained)
    for layer, unit in LAYERS:
        for here, there in ((0, 0), (2, 2)):
            assert equal(rows(model, layer, here, unit), rows(trained, layer, there, unit))
        assert equal(rows(model, layer, 1, unit), rows(before, layer, 1, unit)), "rider is random"
        assert not equal(rows(model, layer, 1, unit), rows(trained, layer, 1, unit))
    # background, the last output of the box branch's classifier
    score = "box_predictor.cls_score"
    assert equal(rows(model, score, 3), rows(trained, score, 4))
    classified = tuple(f"roi_heads.{layer}." for layer, _ in LAYERS)
    rest = [key for key in model.state_dict() if not key.startswith(classified)]
    state, expected = model.state_dict(), trained.state_dict()
    assert [key for key in rest if not torch.equal(state[key], expected[key])] == []


def test_stated_pairs_and_random_starts(tmp_path):
    trained, model = model_of(COCO), model_of(STREET, seed=1)
    classes = map_classes(STREET, COCO, {"rider": "person", "car": None}, "it")
    assert classes.pairs == [(0, 0), (1, 0)]
    assert str(classes) == "from the weights: person, rider from person; random: car"
    before = rows(model, "mask_head.predictor", 2)
    model.load_state_dict(take_classes(model, trained.state_dict(), classes, "f"))
    for layer, unit in LAYERS:
        for here in (0, 1):
            assert equal(rows(model, layer, here, unit), rows(trained, layer, 0, unit))
    assert equal(rows(model, "mask_head.predictor", 2), before)


def test_random_classes_distributed_as_the_weights():
    """Detectron's: mean and deviation of all outputs of a layer, background among them."""
    classes = replace(map_classes(STREET, COCO, {}, "it"), random="weights")
    model, trained = model_of(STREET, seed=1), model_of(COCO)
    state = trained.state_dict()
    for layer, _ in LAYERS:
        state[f"roi_heads.{layer}.bias"].fill_(-2.5)  # no deviation: known to the bit
        weight = state[f"roi_heads.{layer}.weight"]
        weight.copy_(weight * 3 + 7)
    model.load_state_dict(take_classes(model, state, classes, "f"))
    for layer, unit in LAYERS:
        assert equal(rows(model, layer, 0, unit), rows(trained, layer, 0, unit))
        weight, bias = rows(model, layer, 1, unit)
        assert bias.tolist() == [-2.5] * unit
        theirs, count = state[f"roi_heads.{layer}.weight"], weight.numel()
        assert weight.mean().item() == pytest.approx(theirs.mean().item(), abs=15 / count**0.5)
        assert weight.std().item() == pytest.approx(theirs.std().item(), rel=4 / count**0.5)
    score = "box_predictor.cls_score"
    assert equal(rows(model, score, 3), rows(trained, score, 4))


def test_multinomial_masks_take_their_background():
    trained = model_of(COCO, MultinomialMaskLoss)
    model = model_of(STREET, MultinomialMaskLoss, seed=1)
    classes = map_classes(STREET, COCO, {}, "it")
    model.load_state_dict(take_classes(model, trained.state_dict(), classes, "f"))
    layer = "mask_head.predictor"
    assert equal(rows(model, layer, 3), rows(trained, layer, 4))
    assert equal(rows(model, layer, 2), rows(trained, layer, 2))


def test_class_agnostic_masks_are_taken_as_they_are():
    trained = model_of(COCO, ClassAgnosticMaskLoss)
    model = model_of(STREET, ClassAgnosticMaskLoss, seed=1)
    classes = map_classes(STREET, COCO, {}, "it")
    model.load_state_dict(take_classes(model, trained.state_dict(), classes, "f"))
    assert equal(rows(model, "mask_head.predictor", 0), rows(trained, "mask_head.predictor", 0))


def test_mlp_masks_have_a_block_of_rows_for_each_class():
    trained = model_of(COCO, mlp=True)
    model, before = (model_of(STREET, mlp=True, seed=1) for _ in range(2))
    classes = map_classes(STREET, COCO, {}, "it")
    model.load_state_dict(take_classes(model, trained.state_dict(), classes, "f"))
    layer = "mask_head.predictor"
    assert equal(rows(model, layer, 2, 16), rows(trained, layer, 2, 16))
    assert equal(rows(model, layer, 1, 16), rows(before, layer, 1, 16))


def test_as_many_classes_in_another_order():
    """Shapes agree then, and only names tell."""
    trained = model_of(STREET)
    turned = STREET[::-1]
    model = model_of(turned, seed=1)
    classes = map_classes(turned, STREET, {}, "it")
    model.load_state_dict(take_classes(model, trained.state_dict(), classes, "f"))
    for layer, unit in LAYERS:
        for here in range(3):
            assert equal(rows(model, layer, here, unit), rows(trained, layer, 2 - here, unit))


def test_any_checkpoint_can_give_them(tmp_path, caplog):
    trained, model = model_of(COCO), model_of(STREET, seed=1)
    torch.save(trained.state_dict(), tmp_path / "bare.pth")
    classes = map_classes(STREET, COCO, {}, "it")
    with caplog.at_level(logging.INFO):
        SafeCheckpointer(model).load(
            str(tmp_path / "bare.pth"),
            checkpointables=[],
            policy="exact",
            adapt=lambda state: take_classes(model, state, classes, "bare.pth"),
        )
    assert "from the weights: person, car; random: rider" in caplog.text
    assert equal(rows(model, "mask_head.predictor", 2), rows(trained, "mask_head.predictor", 2))
    with pytest.raises(CheckpointError, match="shape"):
        SafeCheckpointer(model).load(str(tmp_path / "bare.pth"), checkpointables=[], policy="exact")


def test_weights_of_other_classes_than_said_are_refused():
    trained, model = model_of(COCO), model_of(STREET, seed=1)
    state = trained.state_dict()
    wrong = ClassMap(tuple(STREET), ("person", "car"), ("person", None, "car"))
    with pytest.raises(CheckpointError, match=r"but for 2 classes .*init_classes_of"):
        take_classes(model, state, wrong, "f.pth")
    del state["roi_heads.mask_head.predictor.bias"]
    with pytest.raises(CheckpointError, match=r"mask_head\.predictor\.bias is missing"):
        take_classes(model, state, map_classes(STREET, COCO, {}, "it"), "f.pth")


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"driver": "person"}, "names 'driver', which the training data does not have"),
        ({"rider": "cyclist"}, "names 'cyclist', which it does not have"),
        (dict.fromkeys(STREET), "No class of the training data"),
    ],
)
def test_mistakes_in_the_mapping(stated, words):
    with pytest.raises(ConfigError, match=words):
        map_classes(STREET, COCO, stated, "it")


def test_classes_come_from_the_data_of_both_configs():
    persons = get_config(
        "table5/mask_only", "tiny", ["train.init_classes={}", "train.init_from=table2a/r50_fpn"]
    )
    everything = get_config("table2a/r50_fpn", "tiny")
    assert class_map_of(everything, None) is None
    found = class_map_of(persons, everything)
    assert found.here == ("person",)
    assert found.there[0] == "person" and len(found.there) == 7
    named = OmegaConf.merge(persons, {"train": {"init_classes_of": "coco_minival"}})
    assert len(class_map_of(named, None).there) == 80
    with pytest.raises(ConfigError, match="init_classes_of"):
        class_map_of(persons, None)


@pytest.mark.parametrize(("profile", "classes"), [("paper", 80), ("mini", 18)])
def test_all_classes_but_rider_come_from_coco(profile, classes):
    row, coco = (get_config(name, profile) for name in ("table7/fine_coco", "table2a/r50_fpn"))
    found = class_map_of(row, coco)
    assert found.random == "weights"  # as in Detectron
    assert (len(found.here), len(found.there)) == (8, classes)
    pairs = dict(zip(found.here, found.source, strict=True))
    assert pairs == {name: None if name == "rider" else name for name in found.here}


def test_a_mapping_without_weights_is_refused():
    cfg = get_config("table2a/r50_fpn", "tiny")
    cfg.train.init_classes = {}
    with pytest.raises(ConfigError, match=r"there are none; give train.init_from"):
        validate_config(cfg)
    cfg.train.init_classes, cfg.train.init_classes_of = None, "coco_minival"
    with pytest.raises(ConfigError, match="init_classes_of has no effect"):
        validate_config(cfg)
    cfg.train.init_classes_of, cfg.train.init_classes_random = None, "weights"
    with pytest.raises(ConfigError, match="init_classes_random has no effect"):
        validate_config(cfg)
