"""Strange command lines and config values end in a config, or in a message that names the key."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from mask_rcnn_repro.config import format_config, get_config
from mask_rcnn_repro.config.overrides import apply_overrides
from mask_rcnn_repro.config.serialization import config_hash, to_plain
from mask_rcnn_repro.config.validation import validate_config
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.registration import register
from mask_rcnn_tools.train.cli import build_parser, parse_args

QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def cfg() -> DictConfig:
    register()
    return get_config("quickstart/mask_rcnn_r18_fpn", "tiny")


def keys_of(value: Any, place: tuple[str, ...] = ()) -> list[str]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    below = [key for name, item in items for key in keys_of(item, (*place, str(name)))]
    return [".".join(place), *below] if place else below


KEYS = sorted(keys_of(to_plain(get_config("quickstart/mask_rcnn_r18_fpn", "tiny"))))

ODD = [
    *("null", "true", "", "-1", "1e400", ".nan", "-.inf", "9" * 40, "'\\0'", "Ünïcødé", "~", "|"),
    *("${train.max_iter}", "${nope}", "${", "${oc.env:HOME}", "${train}", "'???'", "&a [*a]"),
    *("[]", "[null]", "[[1], [2, 3]]", "[.nan]", "{}", "{a: 1}", "{1: 2}", "{null: 3}", "- 1"),
    *("{_target_: os.system}", "{_target_: nope.nope}", "2024-01-01", "0x10", "\ud800", "[" * 900),
    "!!python/object/apply:os.mkdir [made_by_yaml]",
]
values = (
    st.sampled_from(ODD)
    | st.text(max_size=20)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
        max_leaves=5,
    ).map(json.dumps)
)


@QUICK
@given(key=st.sampled_from(KEYS), value=values, prefix=st.sampled_from(["", "", "+", "++", "~"]))
@example(key="optimizer._target_", value="'\\0'", prefix="")
@example(key="train.output_root", value="\ud800", prefix="")
def test_any_value_for_any_key(
    cfg: DictConfig, key: str, value: str, prefix: str, tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    text = f"{prefix}{key}={value}"
    refused = ""
    try:
        changed = apply_overrides(cfg, [text])
        validate_config(changed)
        # what is taken can be told apart, shown and saved
        assert len(config_hash(changed)) == 12
        assert format_config(changed)
    except ConfigError as error:
        refused = str(error)
    if refused:
        # the key, or of one that others refer to its name
        name = [part for part in key.split(".") if not part.isdigit()][-1]
        assert key in refused or name in refused, text
    assert list(tmp_path.iterdir()) == []


@QUICK
@given(text=st.text(max_size=30) | st.text(alphabet="+~=.${}[]'\"\\ a1:", max_size=20))
@example(text="=")
@example(text="a.=1")
@example(text="..=1")
@example(text="train.=1")
@example(text="train..max_iter=1")
@example(text="~")
def test_any_text_as_override(cfg: DictConfig, text: str) -> None:
    with contextlib.suppress(ConfigError):
        validate_config(apply_overrides(cfg, [text]))


FLAGS = [name for action in build_parser()._actions for name in action.option_strings]
words = (
    st.sampled_from(FLAGS)
    | st.sampled_from([f"{flag}=x" for flag in FLAGS if flag.startswith("--")])
    | st.sampled_from(["--", "-", "--lr", "train.max_iter=3", "+a=b", "~a", "x.py", "", "3", "-1"])
    | st.text(max_size=10)
)


@settings(max_examples=300, deadline=None)
@given(argv=st.lists(words, max_size=8))
@example(argv=["--config-file", "x.py", "--seed", "NaN"])
@example(argv=["--config-file", "x.py", "--", "--seed"])
@example(argv=["--config-file=\udcff", "a=\udcff"])
@example(argv=["--config-file", "x.py", "--seed", "9" * 5000])
def test_any_command_line(argv: list[str]) -> None:
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        args, code = None, 0
        try:
            args = parse_args(argv)
        except SystemExit as stop:
            code = stop.code  # type: ignore[assignment]
    if args is not None:
        assert args.config_file
        assert all("=" in text or text.startswith("~") for text in args.overrides)
    elif code != 0:  # 0: --help
        assert code == 2 and "train_net.py: error: " in told.getvalue()
