"""Finding, reading and running config files; ids; what is refused and what the message says."""

from __future__ import annotations

import builtins
import os
import re
from pathlib import Path

import pytest
from detectron2 import model_zoo
from omegaconf import OmegaConf

from mask_rcnn_repro.config import (
    config_hash,
    config_id,
    config_root,
    find_config,
    get_config,
    list_configs,
    load,
    load_config,
    save_config,
)
from mask_rcnn_repro.errors import ConfigError

from .config_helpers import sample_file, write


def test_a_file_loads_by_any_path_from_any_folder(tmp_path, monkeypatch):
    file = sample_file(tmp_path / "a" / "b")
    names = "dataloader, lr_multiplier, model, optimizer, train"
    write(
        tmp_path / "a" / "child.py",
        f"from .b.sample import {names}\n\nmodel.input_format = 'RGB'\n",
    )
    write(
        tmp_path / "a" / "c" / "grandchild.py",
        f"from ..child import {names}\n\ntrain.max_iter = 70\n",
    )
    expected = load_config(file)
    for folder, path in (
        (tmp_path, "a/b/sample.py"),
        (tmp_path / "a" / "b", "sample.py"),
        (tmp_path / "a" / "b", "./sample"),
        (tmp_path / "a" / "c", "../b/sample.py"),
        (Path("/"), str(file)),
    ):
        monkeypatch.chdir(folder)
        assert load_config(path) == expected
    monkeypatch.chdir(tmp_path / "a" / "c")
    grandchild = load_config("grandchild.py")
    assert grandchild.model.input_format == "RGB"
    assert grandchild.train.max_iter == grandchild.lr_multiplier.scheduler.num_updates == 70
    link = tmp_path / "link.py"
    link.symlink_to(tmp_path / "a" / "c" / "grandchild.py")
    assert load_config(link) == grandchild  # relative imports count from the real file


def test_defaults_of_train_are_filled_in_and_given_values_stay(tmp_path):
    cfg = load_config(sample_file(tmp_path, "train['amp'] = dict(dtype='fp16')"))
    assert cfg.train.max_iter == 90
    assert cfg.train.amp == {"enabled": False, "dtype": "fp16"}
    assert cfg.train.checkpointer == {"period": 5000, "max_to_keep": 3, "best": None}
    assert cfg.train.num_threads is None


def test_files_below_configs_are_read_again_after_a_change(tmp_path, monkeypatch):
    ran = []

    def read(file):
        ran.append(file.read_text())
        return OmegaConf.create({"train": {"steps": [1]}})

    monkeypatch.setattr(load, "config_root", lambda: tmp_path)
    monkeypatch.setattr(load, "_read", read)
    file, parent = tmp_path / "row.py", tmp_path / "common" / "parent.py"
    parent.parent.mkdir()
    for changed in (file, parent):
        changed.write_text("a = 1")
    load.read_config(file).train.steps.append(2)  # a copy
    assert load.read_config(file).train.steps == [1]
    assert ran == ["a = 1"]
    parent.write_text("a = 23")
    load.read_config(file)
    file.write_text("b = 3")
    load.read_config(file)
    assert ran == ["a = 1", "a = 1", "b = 3"]


def test_loading_twice_gives_independent_configs(tmp_path):
    file = sample_file(tmp_path)
    first = load_config(file)
    first.train.max_iter = 1
    first.model.pixel_mean[0] = 0
    assert load_config(file).train.max_iter == 90
    assert load_config(file).model.pixel_mean[0] == 103.53


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("train.max_iter = 1 / 0", 3, "ZeroDivisionError"),
        ("raise SystemError('a\\nb')", 3, "SystemError: a b"),
        ("from .missing import model", 3, "missing.py does not exist"),
        ("import no_such_package_anywhere", 3, "no_such_package_anywhere"),
        ("trian.max_iter = 3", 3, "NameError"),
        ("def f(:\n    pass", 3, "syntax error"),
    ],
)
def test_a_config_that_fails_names_file_and_line(tmp_path, text, line, part):
    before = builtins.__import__
    file = write(tmp_path / "bad.py", "train = dict(max_iter=1)\n\n" + text.replace("\\n", "\\n"))
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    message = str(caught.value)
    assert part in message
    assert str(file) in message
    assert f"line {line}" in message
    assert caught.value.__cause__ is not None
    assert builtins.__import__ is before


@pytest.mark.parametrize(
    ("text", "part"), [("x = 1 / 0", "ZeroDivisionError"), ("x = (", "syntax")]
)
def test_a_parent_that_fails_is_the_one_that_is_named(tmp_path, text, part):
    before = builtins.__import__
    parent = write(tmp_path / "parent.py", f"a = 1\n{text}\n")
    write(tmp_path / "child.py", "from .parent import model\n")
    with pytest.raises(ConfigError, match=f"{re.escape(str(parent))}.*line 2") as caught:
        load_config(tmp_path / "child.py")
    assert part in str(caught.value)
    assert builtins.__import__ is before


def test_an_interrupt_restores_the_import_function_too(tmp_path):
    before = builtins.__import__
    with pytest.raises(KeyboardInterrupt):
        load_config(write(tmp_path / "stop.py", "raise KeyboardInterrupt\n"))
    assert builtins.__import__ is before


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ("trian = dict(max_iter=3)", ["`trian`", "Did you mean `train`?"]),
        ("max_iter = 3", ["`max_iter`", "with an underscore", "line "]),
        ("a, b = 1, 2", ["`a` is not a section"]),
        ("extra: dict = {}", ["`extra`"]),
        ("del optimizer", ["`optimizer` is missing"]),
        ("train = 3", ["`train`"]),
        ("train = None", ["`train`"]),
        ("from detectron2.config import LazyCall as train", ["`train` is missing"]),
    ],
)
def test_sections_are_checked(tmp_path, more, parts):
    with pytest.raises(ConfigError) as caught:
        load_config(sample_file(tmp_path, more))
    for part in parts:
        assert part in str(caught.value)


def test_helpers_with_an_underscore_imports_and_functions_are_no_sections(tmp_path):
    more = "_helper = dict(a=1)\nimport os\nfrom math import pi\n"
    assert "_helper" not in load_config(sample_file(tmp_path, more))


def test_a_missing_file_names_the_nearest_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("table2a/r50_c5x", "configs/table2a/r50_c4x.py", "/somewhere/table2a/r50_c4x.py"):
        with pytest.raises(ConfigError, match=r"does not exist.*table2a/r50_c4\.py"):
            load_config(path)
    with pytest.raises(ConfigError, match=r"is a directory.*r50_c4\.py"):
        load_config("table2a")
    with pytest.raises(ConfigError, match="No config file"):
        load_config("")
    write(tmp_path / "notes.txt", "hello")
    with pytest.raises(ConfigError, match=r"must end in \.py"):
        load_config("notes.txt")


def test_ids(tmp_path):
    assert config_id(config_root() / "table2a" / "r50_c4.py") == "table2a/r50_c4"
    assert config_id(os.path.relpath(config_root() / "quickstart" / "x.py")) == "quickstart/x"
    assert config_id(tmp_path / "mine" / "my.config.py") == "mine/my.config"
    assert "table2a/r50_c4" in list_configs()
    assert not [i for i in list_configs() if i.startswith("common")]
    assert find_config("table2a/r50_c4") == config_root() / "table2a" / "r50_c4.py"
    assert find_config("configs/table2a/r50_c4.py") == find_config("table2a/r50_c4.py")
    # A file in the current folder does not take an id's place.
    assert get_config("table2a/r50_c4") == load_config("table2a/r50_c4")


def test_profiles_and_seed(tmp_path):
    file = sample_file(tmp_path)
    assert load_config(file, seed=5).train.seed == 5
    assert load_config(file, overrides=["train.seed=5"], seed=5).train.seed == 5
    with pytest.raises(ConfigError, match=r"--seed 4 and train\.seed=5 disagree"):
        load_config(file, overrides=["train.seed=5"], seed=4)
    with pytest.raises(ConfigError, match="mini, paper, tiny"):
        load_config(file, "huge")
    scaled = get_config("table2a/r50_c4", "tiny", ["train.max_iter=3"])
    assert scaled.train.max_iter == 3  # the command line comes after the profile
    assert scaled.dataloader.train.dataset.names.startswith("embedded")


def test_a_saved_config_takes_no_profile_again(tmp_path):
    save_config(get_config("table2a/r50_c4", "tiny"), tmp_path / "config.yaml")
    saved = load_config(tmp_path / "config.yaml", overrides=["train.seed=2"])
    assert config_hash(saved) == config_hash(get_config("table2a/r50_c4", "tiny", seed=2))
    assert load_config(tmp_path / "config.yaml", "tiny", ["train.seed=2"]) == saved
    with pytest.raises(ConfigError, match=r"profile tiny .*already"):
        load_config(tmp_path / "config.yaml", "mini")


def test_a_yacs_config_is_named_in_one_line(tmp_path):
    name = "mask_rcnn_R_50_FPN_3x"
    zoo = model_zoo.get_config_file(f"COCO-InstanceSegmentation/{name}.yaml")
    with pytest.raises(ConfigError) as caught:
        load_config(zoo)
    file = Path(zoo).resolve()
    assert str(caught.value) == (
        f"{file} is a yacs config; use configs/model_zoo/{name} or write a .py config."
    )
    with pytest.raises(ConfigError, match=r"yacs config; use configs/model_zoo/\.\.\. or"):
        load_config(write(tmp_path / "mine.yaml", "MODEL:\n  MASK_ON: true\n"))


def test_yaml_runs_no_code(tmp_path):
    trap = tmp_path / "trap"
    for tag in (
        f"!!python/object/apply:os.mkdir ['{trap}']",
        f"!!python/object/new:os.mkdir ['{trap}']",
        "!!python/name:os.system",
        f"!!python/object/apply:subprocess.call [['touch', '{trap}']]",
    ):
        file = write(tmp_path / "evil.yaml", f"model: {tag}\n")
        with pytest.raises(ConfigError, match="would run code"):
            load_config(file)
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"3", b"- 1", b"model: [", b"\xff\xfe", b"a: 1\na: 2"])
def test_broken_yaml_is_a_config_error(tmp_path, content):
    file = tmp_path / "broken.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(file))):
        load_config(file)


@pytest.mark.parametrize("content", [b"\x00", b"\xff\xfe", b"# -*- coding: nonsense -*-\n"])
def test_broken_python_is_a_config_error(tmp_path, content):
    file = tmp_path / "broken.py"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(file))):
        load_config(file)
