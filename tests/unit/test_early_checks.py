"""Mistakes that are answered before torch and Detectron2 are imported, and nothing else is."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from mask_rcnn_repro.config import load_config
from mask_rcnn_repro.config.dotted_keys import all_keys
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_tools.common.early_checks import check_early

REPOSITORY = Path(__file__).resolve().parents[2]
ROW = "table2a/r50_fpn"


def _check(*overrides: str, config: str = ROW, **more: str) -> None:
    check_early(argparse.Namespace(config_file=config, overrides=list(overrides), **more))


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("train.max_itr=1", "train.max_iter"),
        ("++train.max_itr=1", "train.max_iter"),
        ("train.amp.enable=true", "train.amp.enabled"),
        ("~train.max_itr", "train.max_iter"),
        ("optimzer.lr=0.1", "optimizer.lr"),
        ("model.roi_heads.mask_pooler.sampling_ration=2", "mask_pooler.sampling_ratio'"),
        ("dataloader.train.total_batchsize=2", "dataloader.train.total_batch_size"),
        ("optimizer.weigth_decay=0", "optimizer.weight_decay"),
    ],
)
def test_a_misspelled_key_is_named(override: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown key .* Did you mean") as caught:
        _check(override)
    assert meant in str(caught.value)
    # loading says the same, or knows the key that was meant
    with pytest.raises(ConfigError) as loaded:
        load_config(ROW, overrides=[override])
    assert meant in str(loaded.value)


def test_values_of_train_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"train.max_iter must be .*integer, got 'many'"):
        _check("train.max_iter=many")
    _check("train.max_iter=3", "train.seed=${train.max_iter}", "train.amp={enabled: true}")


@pytest.mark.parametrize("given", [{"config": "table2a/r50_fpm"}, {"diff_config": "no/such"}])
def test_a_missing_file_is_named(given: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"does not exist"):
        _check(**given)


@pytest.mark.parametrize(
    "config",
    [
        ROW,
        *(
            pytest.param(config, marks=pytest.mark.slow)
            for config in (
                "quickstart/mask_rcnn_r18_fpn", "table2c/roi_warp_ave", "table4/keypoint_and_mask",
                "rpn/r50_fpn_cityscapes", "pretrain/r50", "rpn/r50_fpn",
            )
        ),
    ],
)  # fmt: skip
def test_every_known_key_passes(config: str) -> None:
    keys = [
        key
        for key in all_keys(load_config(config, "tiny"))
        if not {"[", "_target_"} & {*key, *key.split(".")}
    ]
    assert len(keys) > 100
    _check(*(f"~{key}" for key in keys if key.startswith("train.")), config=config)
    _check(*(f"{key}=" for key in keys if not key.startswith("train.")), config=config)


def test_what_is_not_known_yet_is_left_to_loading(tmp_path: Path) -> None:
    """Own packages, whose parameters nobody has read."""
    own = tmp_path / "own.py"
    text = (REPOSITORY / "configs" / f"{ROW}.py").read_text().replace("from ..", "from configs.")
    own.write_text(f"import my_layers\n{text}")
    _check("model.roi_heads.mask_pooler.sampling_ration=2", config=str(own))
    _check("model.roi_heads.mask_pooler._target_=a.B", "model.roi_heads.mask_pooler.xyzw=1")
    _check("model.roi_heads.mask_pooler.quite_another_thing=1")  # no known name is near
    _check("+model.a.sampling_ration=2", "model[a.b].sampling_ration=2")
    with pytest.raises(ConfigError, match=r"train\.max_iter"):
        _check("train.max_itr=1", config=str(own))


def test_own_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("my_word = 3\n")
    own = tmp_path / "own.py"
    own.write_text("from .helper import my_word\nfrom detectron2.config import LazyCall as L\n")
    _check("model.my_word=1", config=str(own))
    with pytest.raises(ConfigError, match=r"Did you mean 'model.my_word'"):
        _check("model.my_wrd=1", config=str(own))


@pytest.mark.parametrize(
    ("script", "config", "override", "message"),
    [
        ("train_net.py", ROW, "train.max_itr=1", "Did you mean 'train.max_iter'?"),
        ("train_net.py", ROW, "optimizer.weigth_decay=0", "Did you mean 'optimizer.weight_decay'?"),
        ("train_net.py", "no/such.py", "train.seed=1", "no/such.py does not exist"),
        ("tools/predict.py", ROW, "train.max_itr=1", "Did you mean 'train.max_iter'?"),
        ("tools/analyze.py", "no/such", "train.seed=1", "no/such does not exist"),
        ("tools/run_table.py", "2c", "train.max_itr=1", "Did you mean 'train.max_iter'?"),
        ("tools/run_table.py", ROW, "optimizer.weigth_decay=0", "'optimizer.weight_decay'?"),
        ("tools/run_table.py", "no/such.py", "train.max_iter=1", "no/such.py does not exist"),
        ("tools/run_table.py", "2f", "train.max_iter=1", "There is no table '2f'"),
        ("tools/run_table.py", ROW, "--control=no/such", "The control 'no/such' (--control) is"),
        ("tools/run_table.py", ROW, "--sweep=optimizer.weigth_decay=0,1", "weight_decay'?"),
    ],
)
def test_neither_torch_nor_detectron2_is_imported(
    script: str, config: str, override: str, message: str
) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{script!r}, '--config-file', {config!r}, {override!r}]\n"
        f"sys.argv[1:2] = ['--config-file'] * ('run_table' not in {script!r})\n"
        f"sys.argv += ['--input', 'a.jpg'] * ('predict' in {script!r})\n"
        f"try:\n    runpy.run_path({script!r}, run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    print(stop.code, [m for m in ('torch', 'detectron2') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.stdout == "2 []\n", done.stderr
    assert done.stderr.startswith("error: ") and message in done.stderr
