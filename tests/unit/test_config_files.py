"""Hash, printing, differences, saving, and output folders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate_docs.pages import format_schema
from mask_rcnn_repro.config import (
    ABSENT,
    apply_overrides,
    claim_output_dir,
    config_hash,
    default_output_dir,
    diff_configs,
    format_config,
    format_diff,
    load_config,
    save_config,
    to_plain,
    train_defaults,
)
from mask_rcnn_repro.config.serialization import canonical
from mask_rcnn_repro.errors import ConfigError

from .config_helpers import load_sample, sample_file, write


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return load_sample(tmp_path_factory.mktemp("sample"))


def test_the_hash_ignores_paper_and_output_folder_only(sample):
    base = config_hash(sample)
    assert len(base) == 12
    assert int(base, 16) >= 0
    for same in (
        ["+paper={table: 2a, row: x}"],
        ["train.output_dir=somewhere"],
        ["~train.log_period"],
        ["optimizer.lr=2e-2"],
        ["lr_multiplier.scheduler.num_updates=90"],  # what the interpolation gives
        ["optimizer._target_=torch.optim.sgd.SGD"],  # the same class by another name
        ["model.pixel_std=[1, 1, 1]"],
    ):
        assert config_hash(apply_overrides(sample, same)) == base
    for other in (
        ["train.seed=1"],
        ["optimizer.lr=0.03"],
        ["optimizer.nesterov=false"],
        ["model.proposal_generator=null"],
        ["optimizer._target_=torch.optim.ASGD"],
        ["model.pixel_std=[1, 1]"],
        ["model.roi_heads.box_in_features=[p3, p2]"],
    ):
        assert config_hash(apply_overrides(sample, other)) != base


def test_the_hash_is_pinned():
    """Records name configs by hash: a change of how it is made must be noticed."""
    from omegaconf import OmegaConf

    cfg = OmegaConf.create(
        {"train": {"max_iter": 3, "output_dir": "x"}, "paper": {}, "a": [1.0, None]}
    )
    assert (
        canonical({"train": {"max_iter": 3}, "a": [1.0, None]})
        == '{"a":[1,null],"train":{"max_iter":3}}'
    )
    # sha256sum of the line above
    assert config_hash(cfg) == "15c3fdc22318"


DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(DATA)
def test_canonical_text_does_not_depend_on_the_order_of_keys(value):
    def backwards(item):
        if isinstance(item, dict):
            return {key: backwards(item[key]) for key in reversed(item)}
        return [backwards(i) for i in item] if isinstance(item, list) else item

    assert canonical(backwards(value)) == canonical(value)


def test_true_is_not_one():
    assert canonical([True]) != canonical([1])
    assert canonical([1.0]) == canonical([1])
    assert canonical(["1"]) != canonical([1])


def test_saved_configs_are_read_back_equal_with_interpolations(sample, tmp_path):
    file = tmp_path / "config.yaml"
    save_config(sample, file)
    loaded = load_config(file)
    assert to_plain(loaded) == to_plain(sample)
    assert diff_configs(sample, loaded) == []
    assert (
        load_config(file, overrides=["train.max_iter=95"]).lr_multiplier.scheduler.num_updates == 95
    )
    assert "_target_: torch.optim" in file.read_text()
    assert "!!" not in file.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]
    again = tmp_path / "again.yaml"
    save_config(loaded, again)
    assert again.read_text() == file.read_text()


def test_classes_and_dataclasses_as_values_survive_saving(tmp_path):
    from detectron2.config import instantiate
    from detectron2.layers import ShapeSpec

    more = """
        from torch.nn import Conv2d
        dataloader["test"].layer = Conv2d
        dataloader["test"].shapes = [ShapeSpec(channels=3)]
        model.roi_heads.mask_head.input_shape = ShapeSpec(channels=8, width=14, height=14)
        """
    cfg = load_config(sample_file(tmp_path, more))
    save_config(cfg, tmp_path / "config.yaml")
    loaded = load_config(tmp_path / "config.yaml")
    assert config_hash(loaded) == config_hash(cfg)
    built = instantiate(loaded.dataloader.test)
    assert built.layer.__name__ == "Conv2d"
    assert list(built.shapes) == [ShapeSpec(channels=3)]


def test_what_cannot_be_written_is_refused_and_leaves_no_file(sample, tmp_path):
    cfg = sample.copy()
    cfg.dataloader.test.thing = object()
    with pytest.raises(ConfigError, match=r"dataloader\.test\.thing .*object"):
        save_config(cfg, tmp_path / "config.yaml")
    assert list(tmp_path.iterdir()) == []


def test_the_printed_config_is_resolved_deterministic_and_loads(sample, tmp_path):
    text = format_config(sample)
    assert "${" not in text
    assert text == format_config(apply_overrides(sample, ["train.seed=0"]))
    assert text.startswith("model:\n  _target_: detectron2.modeling.")
    loaded = load_config(write(tmp_path / "printed.yaml", text))
    assert config_hash(loaded) == config_hash(sample)


def test_differences(sample):
    assert diff_configs(sample, sample) == []
    other = apply_overrides(
        sample,
        [
            "train.max_iter=95",
            "optimizer._target_=torch.optim.ASGD",
            "~optimizer.momentum",
            "+optimizer.weight_decay=0.1",
            "model.roi_heads.mask_head=null",
            "dataloader.train.mapper.augmentations.0.max_size=900",
            "model.pixel_std=[1, 1, 1]",
            "model.pixel_mean=[1, 2, 3]",
        ],
    )
    differences = {key: (a, b) for key, a, b in diff_configs(sample, other)}
    mask_head = differences.pop("model.roi_heads.mask_head")
    assert mask_head[0]["conv_dims"] == [16, 16]
    assert mask_head[1] is None
    targets = differences.pop("optimizer._target_")
    assert [t.rpartition(".")[2] for t in targets] == ["SGD", "ASGD"]
    assert differences == {
        "dataloader.train.mapper.augmentations.0.max_size": (1333, 900),
        "lr_multiplier.scheduler.num_updates": (90, 95),
        "model.pixel_mean": ([103.53, 116.28, 123.675], [1, 2, 3]),
        "optimizer.momentum": (0.9, ABSENT),
        "optimizer.weight_decay": (ABSENT, 0.1),
        "train.max_iter": (90, 95),
    }


def test_differences_as_text():
    text = format_diff(
        [
            ("a.b", 1, 2),
            ("a.long_name", ABSENT, None),
            ("c", {"_target_": "x.y.Thing", "p": [1, {"q": True}]}, ABSENT),
            ("d._target_", "x.A", "y.B"),
            ("e._target_", "x.A", "y.A"),
            ("f", "", "text"),
        ],
        "one",
        "two",
    )
    assert text.splitlines() == [
        "one -> two: 6 differences",
        "  a.b:         1 -> 2",
        "+ a.long_name: null",
        "- c:           Thing(p=[1, {q=true}])",
        "  d._target_:  A -> B",
        "  e._target_:  x.A -> y.A",
        "  f:           '' -> text",
    ]
    assert format_diff([], "one", "two") == "one and two: no difference."


def test_the_default_output_folder():
    def folder(*overrides, **options):
        return default_output_dir("table2a/r50_c4", "mini", 3, overrides, **options)

    plain = "output/table2a/r50_c4@mini/seed3"
    assert default_output_dir("table2a/r50_c4", "paper", 0) == "output/table2a/r50_c4/seed0"
    assert folder() == plain
    assert folder("train.seed=3", "train.output_dir=x", "~train.seed") == plain
    changed = folder("optimizer.lr=1e-3", "train.max_iter=5")
    assert changed.startswith(f"{plain}-")
    assert changed == folder("train.max_iter=5", "optimizer.lr=0.001")
    assert changed == folder("train.max_iter=4", "++train.max_iter=5", "optimizer.lr=0.001")
    assert changed != folder("train.max_iter=5")
    assert folder("~a.b") != folder("a.b=null") != folder("a.b=~x")
    assert folder("a.0=1") == folder("a[0]=1")
    assert folder("train.init_checkpoint=x", ignore=["train.init_checkpoint"]) == plain
    assert folder("train.init_checkpoint=x") != plain


def test_a_folder_belongs_to_one_config(sample, tmp_path):
    folder = tmp_path / "output" / "run"
    assert claim_output_dir(folder, sample) == folder
    written = (folder / "config.yaml").read_text()
    claim_output_dir(str(folder), sample)
    claim_output_dir(folder, apply_overrides(sample, ["+paper={row: x}", "train.output_dir=y"]))
    other = apply_overrides(sample, ["+paper={row: x}", "train.seed=4", "optimizer.lr=1"])
    with pytest.raises(ConfigError) as caught:
        claim_output_dir(folder, other)
    message = str(caught.value)
    assert "holds a run of another config" in message
    assert "there -> this run: 2 differences" in message
    assert "train.seed:   0 -> 4" in message
    assert "train.output_dir=FOLDER" in message
    assert (folder / "config.yaml").read_text() == written
    assert "init_checkpoint" not in message
    (folder / "last_checkpoint").write_text("model_final.pth")
    with pytest.raises(ConfigError, match=f"train.init_checkpoint={folder}/model_final.pth"):
        claim_output_dir(folder, other)


def test_an_unusable_folder_is_a_config_error(sample, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written to"):
        claim_output_dir(tmp_path / "file" / "below", sample)
    write(tmp_path / "x" / "config.yaml", "3\n")
    with pytest.raises(ConfigError, match="does not hold a config"):
        claim_output_dir(tmp_path / "x", sample)
    write(tmp_path / "y" / "config.yaml", "a: [\n")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        claim_output_dir(tmp_path / "y", sample)


def test_the_schema_table_has_every_key_with_its_default():
    rows = [line.split(" | ") for line in format_schema().splitlines()[2:]]
    table = {row[0].strip("|` "): row for row in rows}
    assert table["train.max_iter"][1:3] == ["int", "(required)"]
    assert table["train.amp.dtype"][1:3] == ["`bf16` or `fp16`", "`bf16`"]
    assert table["train.num_threads"][1:3] == ["int or null", "`null`"]
    assert all(len(row[3]) > 10 for row in rows)

    def flat(section, prefix):
        for name, value in section.items():
            yield from (
                flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]
            )

    assert {*flat(train_defaults(), "train."), "train.max_iter"} == set(table)
