"""The command line: flags, overrides among them, messages; and what importing it imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mask_rcnn_tools.train import cli
from mask_rcnn_tools.train.cli import build_parser, parse_args

SOURCES = str(Path(cli.__file__).parents[2])


def test_defaults_are_detectron2s():
    from detectron2.engine import default_argument_parser

    args = vars(parse_args(["--config-file", "x.py"]))
    theirs = vars(default_argument_parser().parse_args(["--config-file", "x.py"]))
    assert args.pop("overrides") == theirs.pop("opts") == []
    assert theirs.pop("dist_url").startswith("tcp://")
    assert args.pop("dist_url") == "auto"
    assert {key: args[key] for key in theirs} == theirs
    assert {key: value for key, value in args.items() if key not in theirs} == {
        "profile": "paper",
        "tta": False,
        "verify": None,
        "seed": None,
        "print_config": False,
        "diff_config": "",
    }


@given(st.data())
def test_overrides_may_stand_anywhere(data):
    overrides = ["a.b=1", "+c=[1, 2]", "~d", "e=-3", "f=--x", "++g= ", "h=x=y"]
    flags = [["--config-file", "x.py"], ["--seed=3"], ["--eval-only"], ["--num-gpus", "2"]]
    mixed = data.draw(st.permutations([*[[o] for o in overrides], *flags]))
    args = parse_args([word for group in mixed for word in group])
    assert args.overrides == [g[0] for g in mixed if g[0] in overrides]
    assert (args.config_file, args.seed, args.eval_only, args.num_gpus) == ("x.py", 3, True, 2)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--config-file is missing"),
        (["--config-file"], "expected one argument"),
        (
            ["--config-file", "x.py", "--eval-onyl"],
            "unknown flag --eval-onyl; did you mean --eval-only?",
        ),
        (["--config", "x.py"], "did you mean --config-file?"),  # no silent abbreviations
        (["--config-file", "x.py", "--checkpoint=y"], "; write train.init_checkpoint=FILE"),
        (["--config-file", "x.py", "--output-dir", "y"], "; write train.output_dir=FOLDER"),
        (["--config-file", "x.py", "--frobnicate"], "unknown flag --frobnicate; --help"),
        (["--config-file", "x.py", "--confg-file=y"], "unknown flag --confg-file; did you mean"),
        (["--config-file", "x.py", "--train.max_iter=3"], "given as key=value, without dashes"),
        (["--config-file", "x.py", "train.max_iter", "3"], "'train.max_iter' is not key=value"),
        (["x.py"], "for a config file write --config-file x.py"),
        (["--config-file", "x.py", "--profile", "huge"], "invalid choice"),
        (["--config-file", "x.py", "--seed", "-1"], "must be at least 0"),
        (["--config-file", "x.py", "--seed", str(2**32)], "4294967295"),
        (["--config-file", "x.py", "--seed", "a"], "--seed"),
        (["--config-file", "x.py", "--num-machines", "0"], "must be at least 1"),
        (["--config-file", "x.py", "--machine-rank", "1"], "must be below --num-machines 1"),
        (["--config-file", "x.py", "--num-machines", "2"], "several machines need --dist-url"),
        (["--config-file", "x.py", "--tta"], "--tta needs --eval-only"),
    ],
)
def test_mistakes_exit_with_2_and_say_what_to_do(argv, message, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_args(argv)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_help_explains_every_flag_and_its_examples_parse(capsys):
    parser = build_parser()
    text = parser.format_help()
    for action in parser._actions:
        assert action.help
        assert all(flag in text for flag in action.option_strings)
    examples = text.split("examples:")[1].replace("\\\n", " ").splitlines()
    commands = [line.split()[1:] for line in examples if line.strip().startswith("train_net.py")]
    assert len(commands) >= 5
    for argv in commands:
        args = parse_args(argv)
        assert (Path(SOURCES).parent / args.config_file).is_file()
    assert capsys.readouterr().err == ""


def test_help_imports_the_standard_library_only():
    code = (
        "import sys\n"
        "from mask_rcnn_tools.train.cli import parse_args\n"
        "try:\n    parse_args(['--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "roots = {name.partition('.')[0] for name in sys.modules}\n"
        "foreign = roots - set(sys.stdlib_module_names) - {'__main__'}\n"
        "foreign -= {'mask_rcnn_embedded', 'mask_rcnn_repro', 'mask_rcnn_tools'}\n"
        "print('FOREIGN', sorted(foreign))\n"
        "assert 'mask_rcnn_repro.config' not in sys.modules\n"
    )
    # Without site-packages, whose start-up files may import things of their own.
    result = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, "PYTHONPATH": SOURCES},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "FOREIGN []" in result.stdout
    assert "usage: train_net.py" in result.stdout
