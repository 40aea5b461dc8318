"""Overrides: parsing, known keys with the nearest name, types, and what each form does."""

from __future__ import annotations

import contextlib
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mask_rcnn_repro.config import apply_overrides, get_config, parse_override, to_plain
from mask_rcnn_repro.config.dotted_keys import format_key, parse_key
from mask_rcnn_repro.config.yaml_io import dump_yaml, parse_yaml
from mask_rcnn_repro.errors import ConfigError

from .config_helpers import load_sample

TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    TEXT,
    st.sampled_from(
        ["1e-3", "no", "010", "1:30", "2020-01-01", "~", "=", "<<", "null", "0x1f", "a=b"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=8)


def same(a: object, b: object) -> bool:
    """Equality that tells 1, 1.0 and True apart."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return load_sample(tmp_path_factory.mktemp("sample"))


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_what_is_written_as_yaml_is_read_back_equal(value):
    assert same(parse_yaml(dump_yaml(value), "test"), value)


def _plain_text(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_plain_text, [*value, *value.values()]))
    if isinstance(value, list):
        return all(map(_plain_text, value))
    return not (isinstance(value, str) and ("${" in value or value == "???"))


@settings(max_examples=200, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=4), VALUES.filter(_plain_text))
def test_an_override_round_trips_key_and_value(parts, value):
    override = parse_override(f"+{'.'.join(parts)}={dump_yaml(value)}")
    assert override.operation == "add"
    assert override.key == tuple(parts)
    assert same(override.value, value)


@given(
    st.lists(st.text("abc.[ ", min_size=1, max_size=4).filter(lambda t: t.strip("[]")), min_size=1)
)
def test_keys_with_dots_round_trip_in_brackets(parts):
    if any("[" in part for part in parts):
        return
    assert parse_key(format_key(parts)) == tuple(parts)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=25))
def test_any_text_is_parsed_or_refused_with_a_config_error(text):
    with contextlib.suppress(ConfigError):
        parse_override(text)


@settings(max_examples=100, deadline=None)
@given(text=st.text("train.mxi_[]=0123~+{}:$ ", max_size=25))
def test_any_text_is_applied_or_refused_with_a_config_error(sample, text):
    before = to_plain(sample, resolve=False)
    with contextlib.suppress(ConfigError):
        apply_overrides(sample, [text])
    assert to_plain(sample, resolve=False) == before


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1e-3", 0.001),
        ("a=1.", 1.0),
        ("a=010", 10),
        ("a=0x10", 16),
        ("a=true", True),
        ("a=yes", "yes"),
        ("a=null", None),
        ("a=~", None),
        ("a=", ""),
        ("a=''", ""),
        ("a='1'", "1"),
        ("a=b=c=d", "b=c=d"),
        ("a='x: y'", "x: y"),
        ("a=[1, 2.5, null, [x]]", [1, 2.5, None, ["x"]]),
        ("a={b: 1, c: [d]}", {"b": 1, "c": ["d"]}),
        ("a=1:30", "1:30"),
        ("a=2020-01-01", "2020-01-01"),
        ("a=.inf", math.inf),
        ("a=${b.c}", "${b.c}"),
        ("a=detectron2://R-50.pkl", "detectron2://R-50.pkl"),
    ],
)
def test_values_are_yaml(text, value):
    assert same(parse_override(text).value, value)


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "=1",
        "+=1",
        "~",
        ".a=1",
        "a.=1",
        "a..b=1",
        "a[0=1",
        "a=[1",
        "a={x: 1, x: 2}",
        "a=???",
        "a=${b",
        "a=!!python/object/apply:os.getcwd []",
        "a=!!set {x}",
        "a=&x [*x]",
    ],
)
def test_malformed_overrides_are_refused(text):
    with pytest.raises(ConfigError) as caught:
        parse_override(text)
    assert repr(text.removeprefix("+"))[1:-1] in str(caught.value) or "is not a key" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("train.max_itr=3", "train.max_iter"),
        ("tran.max_iter=3", "train.max_iter"),
        ("max_iter=3", "train.max_iter"),
        ("train.amp.enable=true", "train.amp.enabled"),
        ("train.dtype=bf16", "train.amp.dtype"),
        ("train.amp={enable: true}", "train.amp.enabled"),
        ("num_classes=3", "model.roi_heads.num_classes"),
        ("model.num_classes=3", "model.roi_heads.num_classes"),
        ("model.roi_head.num_classes=3", "model.roi_heads.num_classes"),
        ("roi_heads.num_classes=3", "model.roi_heads.num_classes"),
        ("optimizer.momentun=0.8", "optimizer.momentum"),
        ("optimizer.nestrov=true", "optimizer.nesterov"),
        ("optimizer.params.weight_decay_nrm=0", "optimizer.params.weight_decay_norm"),
        ("model.roi_heads.mask_head.conv_norms=BN", "model.roi_heads.mask_head.conv_norm"),
        ("model.roi_heads.proposal_append=true", "model.roi_heads.proposal_append_gt"),
        ("+train.max_itr=3", "train.max_iter"),
        ("~train.max_itr", "train.max_iter"),
        ("~optimizer.momentun", "optimizer.momentum"),
        ("dataloader.tran.total_batch_size=3", "dataloader.train.total_batch_size"),
        ("dataloader.trian={}", "dataloader.train"),
        ("model._targt_=x", "model._target_"),
    ],
)
def test_an_unknown_key_names_the_nearest(sample, text, meant):
    with pytest.raises(ConfigError, match=rf"Did you mean '{re.escape(meant)}'\?"):
        apply_overrides(sample, [text])


def test_an_unknown_key_without_a_near_one_lists_what_is_known(sample):
    with pytest.raises(ConfigError, match=r"'train\.zzz'\. Known keys .*max_iter"):
        apply_overrides(sample, ["train.zzz=1"])


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("train.max_iter=7", "train.max_iter", 7),
        ("train.output_dir=a=b", "train.output_dir", "a=b"),
        ("train.num_threads=2", "train.num_threads", 2),
        ("train.num_threads=null", "train.num_threads", None),
        ("train.amp={dtype: fp16}", "train.amp", {"enabled": False, "dtype": "fp16"}),
        ("optimizer.lr=1", "optimizer.lr", 1),
        ("optimizer.nesterov=true", "optimizer.nesterov", True),  # a parameter that is not set
        ("model.roi_heads.proposal_append_gt=false", "model.roi_heads.proposal_append_gt", False),
        ("model.roi_heads.mask_head=null", "model.roi_heads.mask_head", None),
        ("model.proposal_generator=null", "model.proposal_generator", None),
        ("model.pixel_mean=[1, 2, 3.5]", "model.pixel_mean", [1, 2, 3.5]),
        ("model.pixel_mean.1=2", "model.pixel_mean", [103.53, 2, 123.675]),
        ("model.pixel_mean[1]=2", "model.pixel_mean", [103.53, 2, 123.675]),
        ("+model.roi_heads.box_in_features.2=p4", "model.roi_heads.box_in_features.2", "p4"),
        (
            "dataloader.train.mapper.augmentations.0.max_size=900",
            "dataloader.train.mapper.augmentations.0.max_size",
            900,
        ),
        (
            "model.roi_heads.box_predictor.box2box_transform.weights=[1, 2, 3, 4]",
            "model.roi_heads.box_predictor.box2box_transform.weights",
            [1, 2, 3, 4],
        ),
        ("model.roi_heads.num_classes=${train.max_iter}", "model.roi_heads.num_classes", 90),
        (
            "model.backbone={_target_: torch.nn.ReLU, inplace: true}",
            "model.backbone",
            {"_target_": "torch.nn.modules.activation.ReLU", "inplace": True},
        ),
        ("+paper={table: 2a, row: x}", "paper", {"table": "2a", "row": "x"}),
        ("+dataloader.test.anything=1", "dataloader.test.anything", 1),
        ("++train.max_iter=8", "train.max_iter", 8),
        ("~model.roi_heads.box_in_features.0", "model.roi_heads.box_in_features", ["p3"]),
    ],
)
def test_overrides_do_what_they_say(sample, text, key, value):
    plain = to_plain(apply_overrides(sample, [text]))
    for part in parse_key(key):
        plain = plain[int(part)] if isinstance(plain, list) else plain.get(part, "gone")
    if isinstance(value, dict) and "_target_" in value:
        value["_target_"] = plain["_target_"]
        assert plain["_target_"].endswith("ReLU")
    assert same(plain, value)


@pytest.mark.parametrize(
    "text",
    [
        "train.max_iter=a",
        "train.max_iter=1.5",
        "train.max_iter=true",
        "train.max_iter=null",
        "train.max_iter=-1",
        "train.max_iter=[1]",
        "train.amp=true",
        "train.amp.enabled=1",
        "train.amp.enabled=yes",
        "train.amp.dtype=fp8",
        "train.device=gpu",
        "train.checkpointer.period=0",
        "train.accumulate=0",
        "train.seed=-1",
        "train.output_dir=3",
        "train=null",
        "model=3",
        "model=null",
        "model.backbone=3",
        "model.backbone=null",
        "model.roi_heads=null",
        "model.roi_heads.num_classes=3.0",
        "model.roi_heads.positive_fraction=true",
        "model.roi_heads.positive_fraction=a",
        "model.roi_heads.box_in_features=p2",
        "model.roi_heads.box_in_features=[1]",
        "model.roi_heads.proposal_matcher.thresholds=[a]",
        "model.pixel_mean=[1, a, 3]",
        "model.pixel_mean.0=a",
        "model.pixel_mean.3=1",
        "model.pixel_mean.x=1",
        "model.roi_heads.mask_head.conv_dims={a: 1}",
        "model._target_=3",
        "model._target_=torch.nn.NoSuchThing",
        "model._target_=no_such_package.Thing",
        "model._target_=torch.__version__",
        "dataloader.train.total_batch_size=1.5",  # the present value is an int
        "dataloader.train.dataset.names=3",  # the present value is a string
        "model={}",
        "model.roi_heads.box_predictor.num_classes.x=1",  # below an interpolation
        "train.max_iter.x=1",
        "+train.max_iter=3",  # is set
        "+optimizer.momentun=3",  # is no parameter
        "~optimizer.nesterov",  # is not set
        "~train.max_iter=91",  # has another value
        "dataloader.test.anything=1",  # new in a free mapping: only with +
    ],
)
def test_what_does_not_fit_is_refused(sample, text):
    with pytest.raises(ConfigError) as caught:
        apply_overrides(sample, [text])
    assert len(str(caught.value)) < 600


def test_overrides_apply_in_order_and_leave_the_original(sample):
    changed = apply_overrides(sample, ["train.max_iter=1", "~train.log_period", "train.max_iter=2"])
    assert changed.train.max_iter == 2
    assert changed.train.log_period == 20  # deleted, so back at its default
    assert sample.train.max_iter == 90
    assert apply_overrides(sample, []) == sample


def test_a_deletion_may_ask_for_the_value(sample):
    assert "momentum" not in apply_overrides(sample, ["~optimizer.momentum=0.9"]).optimizer
    with pytest.raises(ConfigError, match=r"is 0\.9, not 0\.8"):
        apply_overrides(sample, ["~optimizer.momentum=0.8"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.init_classes={}", {}),
        ("train.init_classes={rider: person, car: null}", {"rider": "person", "car": None}),
        ("train.init_classes=null", None),
    ],
)
def test_a_mapping_of_the_train_section(text, expected):
    overrides = [text] if expected is None else [text, "train.init_checkpoint=a.pth"]
    cfg = get_config("table2a/r50_c4", "tiny", overrides)
    assert cfg.train.init_classes == expected


@pytest.mark.parametrize("text", ["train.init_classes={rider: 3}", "train.init_classes=[rider]"])
def test_a_mapping_of_other_types(text):
    with pytest.raises(ConfigError, match="init_classes"):
        get_config("table2a/r50_c4", "tiny", [text, "train.init_checkpoint=a.pth"])
