"""What profiles may change, and that the difference between a row and its control stays the same.

- Under each profile row and control differ in the same keys as under `paper`, apart from the keys
  that a profile sets to one value for all rows (`REPLACED`).
- What a profile does not scale differs by the same values; what it scales keeps its ratio up to
  rounding to whole numbers.
- RoIs are the exception: no more than `MOST_ROIS` an image are sampled.
- Nothing is changed but what is in `SCALED` and `REPLACED`: neither RoI layers, heads, losses and
  thresholds nor depths and numbers of layers.
"""

import re

import pytest
from omegaconf import OmegaConf

from mask_rcnn_repro.config import ABSENT, diff_configs, get_config, to_plain
from mask_rcnn_repro.config.from_data import fit_num_classes
from mask_rcnn_repro.config.profiles import tiny

from .config_sets import IDS, PROFILES, STAGE_WISE, WITH_CONTROL, load, load_joint

SMALL = ("mini", "tiny")

SCALED = re.compile(
    r"""
    model\.backbone\.(bottom_up\.)?width_multiplier
    | model\.backbone\.out_channels
    | model\.roi_heads\.((box|mask)_head\.fc_dim|(mask|keypoint)_head\.conv_dim)
    | model\.proposal_generator\.(batch_size_per_image|(pre|post)_nms_topk)
    | model\.proposal_generator\.anchor_generator\.sizes
    | model\.roi_heads\.batch_size_per_image
    | dataloader\.(train|test)\.mapper\.augmentations\.\d+\.(short_edge_length|max_size|shape)
    | dataloader\.(train|test)\.mapper\.precomputed_proposal_topk
    | dataloader\.train\.total_batch_size
    | lr_multiplier\.(milestones|warmup_iters)
    | optimizer\.lr
    | train\.(max_iter|reference_batch_size|tta\.sizes)
    """,
    re.VERBOSE,
)
REPLACED = re.compile(
    r"""
    model\.backbone\.(bottom_up\.)?(norm|freeze_at)      # no pre-trained statistics
    | model\.pixel_std
    | model\.roi_heads\.num_classes                      # the embedded data's
    | dataloader\.(train|test)\.dataset\.names
    | dataloader\.(train|test)\.num_workers
    | optimizer\.(_target_|momentum|weight_decay|betas|fused)  # AdamW
    | optimizer\.params\.(base_lr|bias_lr_factor|weight_decay_bias)
    | train\.(init_checkpoint|eval_period|log_period|checkpointer\.period)
    | train\.(amp\.enabled|channels_last)
    | train\.profile                                     # which of them it was
    """,
    re.VERBOSE,
)
# ResNeXt's memory limits these in the paper. A pre-trained scale has its control's.
OF_RESNEXT_ALONE = {
    "dataloader.train.total_batch_size",
    "optimizer.lr",
    "train.reference_batch_size",
}
KEPT = re.compile(
    r"""
    .*\b(depth|num_conv|num_fc|num_groups|num_keypoints|pooler_type|output_size|sampling_ratio
    |thresholds|labels|\w*thresh|positive_fraction|smooth_l1_beta|aspect_ratios|test_topk_per_image
    |in_features|out_features|canonical_box_size|loss\w*|min_keypoints|use_instance_mask|use_keypoint)\b.*
    | model\.(?:.*\.)?_target_
    | train\.(proposals|init_from|freeze)                # the stages of a training
    """,
    re.VERBOSE,
)


ROIS, MOST_ROIS = "model.roi_heads.batch_size_per_image", 64


def stated(config, profile):
    """What a config states, interpolations as text: what follows from a key is not listed again."""
    return to_plain(load(config, profile), resolve=False)


def differences(a, b):
    return {k: (x, y) for k, x, y in diff_configs(a, b) if k.partition(".")[0] != "paper"}


def leaves(value, key=""):
    """Dotted key to value; the numbers of a list one by one."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {key: value}
    return {
        k: v for name, item in items for k, v in leaves(item, f"{key}.{name}".lstrip(".")).items()
    }


@pytest.mark.parametrize("profile", SMALL)
@pytest.mark.parametrize("config", IDS)
def test_a_profile_changes_sizes_and_never_what_a_row_is_about(config, profile):
    changed = differences(stated(config, "paper"), stated(config, profile))
    unexpected = {
        key: values
        for key, values in changed.items()
        if not SCALED.fullmatch(key) and not REPLACED.fullmatch(key)
    }
    assert unexpected == {}
    resolved = differences(load(config, "paper"), load(config, profile))
    assert [key for key in resolved if KEPT.fullmatch(key)] == []
    if set(changed) - {"train.profile"}:
        scaled = {key: values for key, values in changed.items() if SCALED.fullmatch(key)}
        assert ("train.max_iter" in scaled) == (load(config).train.max_iter > 0)
        assert any(key.startswith("model.") for key in scaled)


@pytest.mark.parametrize(
    "key",
    [
        "model.roi_heads.box_pooler.pooler_type",
        "model._target_",
        "model.roi_heads.mask_head.loss._target_",
        "model.roi_heads.mask_head.output_size",
        "model.roi_heads.mask_head.num_fc",
        "train.proposals",
        "train.freeze",
    ],
)
def test_the_patterns_know_what_a_row_is_about(key):
    assert KEPT.fullmatch(key)
    assert not SCALED.fullmatch(key)
    assert not REPLACED.fullmatch(key)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("config", STAGE_WISE)
def test_stored_proposals_are_as_many_as_the_rpn_would_give(config, profile):
    """The row's own RPN, scaled by the profile, says how many; its stage stores at least these."""
    generator = load_joint(config, profile).model.proposal_generator
    mappers = [load(config, profile).dataloader[split].mapper for split in ("train", "test")]
    counts = [mapper.get("precomputed_proposal_topk") for mapper in mappers]
    own = load(config, profile).model.proposal_generator
    assert counts == [generator.post_nms_topk[0], None if own else generator.post_nms_topk[1]]
    stored = load(load(config).train.proposals, profile).model.proposal_generator.post_nms_topk
    assert all(s >= n for s, n in zip(stored, generator.post_nms_topk, strict=True))


def test_counts_of_proposals_that_a_file_states_itself_are_scaled():
    cfg = get_config("table2a/r50_c4")
    file = {key: cfg[key] for key in cfg}
    assert file["dataloader"].test.mapper.precomputed_proposal_topk == 300
    scaled = tiny(OmegaConf.create(file, flags={"allow_objects": True}))
    assert scaled.dataloader.train.mapper.precomputed_proposal_topk == 125
    assert scaled.dataloader.test.mapper.precomputed_proposal_topk == 19


@pytest.mark.parametrize(("profile", "full", "mlp"), [("mini", 128, 128), ("tiny", 64, 64)])
def test_mlp_masks_are_as_much_narrower_as_boxes(profile, full, mlp):
    heads = load("table2e/mlp_3fc", profile).model.roi_heads
    assert (heads.box_head.fc_dim, heads.mask_head.fc_dim) == (full, mlp)
    assert (heads.mask_head.num_fc, heads.mask_head.output_size) == (3, 28)


@pytest.mark.parametrize("profile", SMALL)
@pytest.mark.parametrize("config", WITH_CONTROL)
def test_row_and_control_differ_in_the_same_keys_at_every_scale(config, profile):
    control = load(config).paper.control
    full = differences(stated(control, "paper"), stated(config, "paper"))
    small = differences(stated(control, profile), stated(config, profile))
    assert set(small) <= set(full), "equal under paper, yet scaled differently"
    lost = {key for key in set(full) - set(small) if not REPLACED.fullmatch(key)}
    resnext = profile == "mini" and "model.backbone.bottom_up.num_groups" in full
    assert lost == (OF_RESNEXT_ALONE & set(full) if resnext else set()), "differ under paper alone"
    for key in small:
        old, new = full[key], small[key]
        if key == ROIS and MOST_ROIS in new:  # the larger was cut, and is still the larger
            assert (old[0] < old[1]) == (new[0] < new[1])
        elif SCALED.fullmatch(key) and ABSENT not in old:
            check_ratio(key, old, new)
        elif not REPLACED.fullmatch(key) and not has_scaled_keys(key, old):
            assert old == new, key


@pytest.mark.parametrize("config", WITH_CONTROL)
def test_rows_see_as_many_images_as_their_controls(config):
    """But for a longer schedule in the paper, by as much."""
    row, control = (load(c, "mini") for c in (config, load(config).paper.control))
    full, full_control = (load(c) for c in (config, load(config).paper.control))
    images = [c.dataloader.train.total_batch_size * c.train.max_iter for c in (row, control)]
    longer = full.train.max_iter / full_control.train.max_iter
    batch = control.dataloader.train.total_batch_size
    assert images[0] == pytest.approx(images[1] * longer, abs=batch)
    rates = [c.optimizer.lr / c.train.reference_batch_size for c in (row, control)]
    assert rates[0] == rates[1]


def has_scaled_keys(key, values):
    """Whether a node that one side alone has, or a list of nodes, holds keys that are scaled."""
    found = {f"{key}.{k}".rstrip(".") for v in values if v is not ABSENT for k in leaves(v)}
    return any(SCALED.fullmatch(k) or REPLACED.fullmatch(k) for k in found | {key})


def check_ratio(key, full, small):
    """`full` and `small` hold the control's and the row's value, which may be lists."""
    control, row, small_control, small_row = (list(leaves(v).values()) for v in (*full, *small))
    assert len(row) == len(small_row)
    assert len(control) == len(small_control)
    for a, a_small in zip(row, small_row, strict=True):
        for b, b_small in zip(control, small_control, strict=True):
            whole = all(isinstance(v, int) for v in (a, b, a_small, b_small))
            # Each was rounded by up to a half, or raised to one.
            slack = (1.0 if 1 in (a_small, b_small) else 0.5) if whole else 1e-9
            assert abs(a_small - b_small * a / b) <= slack * (1 + a / b) + 1e-9, (
                f"{key}: {b} -> {a}, but {b_small} -> {a_small}"
            )


@pytest.mark.parametrize(
    ("config", "iterations"),
    [("table2a/r50_fpn", 500), ("table5/keypoint_only", 500), ("table7/fine", 500)],
)
def test_usual_schedules_are_equally_long(config, iterations):
    """160k, 90k and 24k iterations in the paper."""
    assert load(config, "mini").train.max_iter == iterations
    assert load(config, "tiny").train.max_iter == iterations / 50
    assert load("table7/fine_coco", "mini").train.max_iter == 83  # 4k of 24k


def test_a_lost_ratio_is_noticed():
    check_ratio("k", (2000, 300), (125, 19))
    check_ratio("k", ([0.02], [0.01]), ([0.001], [0.0005]))
    with pytest.raises(AssertionError, match="2000 -> 300, but 125 -> 25"):
        check_ratio("k", (2000, 300), (125, 25))
    with pytest.raises(AssertionError):
        check_ratio("k", (0.02, 0.01), (0.001, 0.001))


@pytest.mark.parametrize("profile", SMALL)
@pytest.mark.parametrize("config", IDS)
def test_small_profiles_need_neither_downloads_nor_real_data(config, profile):
    cfg = load(config, profile)
    assert cfg.train.init_checkpoint == "" or cfg.train.init_checkpoint.startswith("stage://")
    replaced = ("embedded_coco_", "embedded_cityscapes_")
    small = config.startswith(("quickstart/", "pretrain/"))
    prefix = "embedded_tiny_" if profile == "tiny" else "embedded_" if small else replaced
    for split in ("train", "test"):
        assert cfg.dataloader[split].dataset.names.startswith(prefix)
        assert cfg.dataloader[split].num_workers <= 1
    # the class count is the data's already: nothing is left to fit
    assert fit_num_classes(cfg.copy()) == cfg
    assert cfg.train.max_iter <= (30 if profile == "tiny" else 3000)


@pytest.mark.parametrize("config", IDS)
def test_the_learning_rate_drops_before_the_end(config):
    """Rounding may not push a drop to the end of a short training."""
    for profile in ("paper", "mini"):
        cfg = load(config, profile)
        if cfg.train.max_iter == 0:  # a schedule that is not followed
            continue
        for milestone in cfg.lr_multiplier.get("milestones", []):
            assert milestone < cfg.train.max_iter, profile
