"""What the paper says about table 7 (appendix A), typed in and compared with the configs."""

import pytest
from detectron2.config import instantiate

from .config_sets import load

ROWS = {"table7/fine": (24_000, 18_000), "table7/fine_coco": (4_000, 3_000)}


@pytest.mark.parametrize("config", [*ROWS, "rpn/r50_fpn_cityscapes"])
def test_data_and_scales(config):
    cfg = load(config)
    train, test = cfg.dataloader.train, cfg.dataloader.test
    assert (train.dataset.names, test.dataset.names) == ("cityscapes_train", "cityscapes_val")
    resize = train.mapper.augmentations[0]
    assert (list(resize.short_edge_length), resize.sample_style) == ([800, 1024], "range")
    assert list(test.mapper.augmentations[0].short_edge_length) == [1024]
    # 2048 x 1024 images as they are
    assert {a.mapper.augmentations[0].max_size for a in (train, test)} == {2048}
    assert train.total_batch_size == cfg.train.reference_batch_size == 8  # one image per GPU


@pytest.mark.parametrize(("config", "schedule"), ROWS.items())
def test_schedules(config, schedule):
    cfg = load(config)
    iterations, drop = schedule
    assert cfg.train.max_iter == iterations
    lr = instantiate(cfg.lr_multiplier)
    rates = [cfg.optimizer.lr * lr(i / iterations) for i in (1000, drop - 1, drop, iterations - 1)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001])
    assert (cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (0.9, 1e-4)


@pytest.mark.parametrize("config", ROWS)
def test_network(config):
    model = load(config).model
    assert model.backbone.bottom_up.depth == 50
    assert model.roi_heads.num_classes == 8
    assert model.roi_heads.batch_size_per_image == 512
    assert model.roi_heads.mask_head.num_conv == 4
    assert load(config).train.proposals == "rpn/r50_fpn_cityscapes"


def test_the_fine_row_starts_from_imagenet_and_the_other_from_coco():
    fine, coco = load("table7/fine").train, load("table7/fine_coco").train
    assert "ImageNetPretrained/MSRA/R-50" in fine.init_checkpoint
    assert (fine.init_from, fine.init_classes) == (None, None)
    assert (coco.init_checkpoint, coco.init_from) == ("", "table2a/r50_fpn")
    assert coco.init_classes == {}  # by name: seven classes are COCO's, `rider` is not


def test_the_rpn_stage_is_trained_as_the_fine_row():
    stage, row = load("rpn/r50_fpn_cityscapes"), load("table7/fine")
    for key in ("optimizer", "lr_multiplier"):
        assert stage[key] == row[key]
    assert stage.train.max_iter == row.train.max_iter
    assert stage.train.init_checkpoint == row.train.init_checkpoint
    assert stage.dataloader.train.mapper.augmentations == row.dataloader.train.mapper.augmentations
