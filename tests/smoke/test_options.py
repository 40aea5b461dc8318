"""Flags and keys of the command line, each in a whole run, and mistakes that end one plainly."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from mask_rcnn_repro.records.record import load_record
from mask_rcnn_repro.utils.precision import cpu_has_bf16

from .run_helpers import QUICKSTART, REPOSITORY, RUN, launch, load, metrics, start

SHORT = ("train.max_iter=2", "train.draw=0", "model.roi_heads.box_predictor.test_topk_per_image=10")


def test_loss_that_is_not_finite_names_iteration_and_images(tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = launch(tmp_path, "optimizer.lr=1e30", "train.draw=0", f"train.output_dir={run}")
    message = outcome.failed_plainly()
    found = re.search(r"NaN or infinite at iteration (\d)", message)
    assert found and found[1] != "0"  # the first update broke the weights
    images = re.findall(r"^  (\S+\.(?:jpg|png))$", message, re.MULTILINE)
    assert len(images) == 2 and all(Path(image).is_file() for image in images)
    assert "optimizer.lr" in message
    assert "Evaluating" not in outcome.out
    assert not list(run.glob("*.pth")) and not (run / "record.json").exists()


def test_mixed_precision_trains_on_the_cpu(tmp_path: Path) -> None:
    run = tmp_path / "run"
    launch(tmp_path, *SHORT, "train.amp.enabled=true", f"train.output_dir={run}").succeeded()
    record = load_record(run / "record.json")
    assert record.amp.dtype == ("bf16" if cpu_has_bf16() else None)
    weights = load(run / "model_final.pth")["model"].values()
    assert {v.dtype for v in weights if v.is_floating_point()} == {torch.float32}
    assert all(torch.isfinite(v).all() for v in weights)


def test_fp16_without_cuda_is_refused(tmp_path: Path) -> None:
    amp = ["train.amp.enabled=true", "train.amp.dtype=fp16"]
    assert "bf16" in launch(tmp_path, *SHORT, *amp).failed_plainly()


def test_accumulation_makes_as_many_updates(tmp_path: Path) -> None:
    keys = ["train.accumulate=2", "dataloader.train.total_batch_size=4"]
    run = tmp_path / "run"
    launch(tmp_path, *SHORT, *keys, f"train.output_dir={run}").succeeded()
    rows = metrics(run)
    assert [row["iteration"] for row in rows] == [0, 1, 2]
    optimizer = load(run / "model_final.pth")["trainer"]["optimizer"]
    assert {int(state["step"]) for state in optimizer["state"].values()} == {2}
    message = launch(tmp_path, *SHORT, "train.accumulate=3").failed_plainly()
    assert "total_batch_size" in message and "accumulate" in message


def test_learning_rate_is_scaled_when_asked(tmp_path: Path, trained: Path) -> None:
    run = tmp_path / "run"
    keys = ["train.scale_lr=true", "dataloader.train.total_batch_size=4"]
    keys.append("train.reference_batch_size=2")
    out = launch(tmp_path, *SHORT, *keys, f"train.output_dir={run}").succeeded()
    old, new = re.findall(r"scaled linearly: (\S+) for 2 images -> (\S+) for 4 images", out)[0]
    assert float(new) == 2 * float(old)
    assert metrics(run)[0]["lr"] == pytest.approx(2 * metrics(trained)[0]["lr"])


def test_cuda_where_there_is_none(tmp_path: Path) -> None:
    message = launch(tmp_path, "train.device=cuda").failed_plainly()
    assert "no CUDA device" in message and "train.device=cpu" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_seed_changes_weights_and_folder(tmp_path: Path) -> None:
    for argv in (["--seed", "0"], ["--seed", "1"], ["train.seed=2"]):
        launch(tmp_path, *SHORT, *argv).succeeded()
    runs = sorted((tmp_path / RUN).parent.iterdir())
    assert [run.name.partition("-")[0] for run in runs] == ["seed0", "seed1", "seed2"]
    assert len({run.name.partition("-")[2] for run in runs}) == 1  # of the other overrides
    assert [load_record(run / "record.json").seed for run in runs] == [0, 1, 2]
    key = "roi_heads.mask_head.mask_fcn1.weight"
    weights = [load(run / "model_final.pth")["model"][key] for run in runs]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    message = launch(tmp_path, *SHORT, "--seed", "3", "train.seed=4").failed_plainly()
    assert "disagree" in message


def test_equal_seeds_give_equal_weights(tmp_path: Path) -> None:
    runs = [tmp_path / "a", tmp_path / "b"]
    for run in runs:
        launch(tmp_path, *SHORT, f"train.output_dir={run}", "train.deterministic=true").succeeded()
    first, second = (load(run / "model_final.pth")["model"] for run in runs)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_printing_and_comparing_configs_writes_nothing(tmp_path: Path) -> None:
    printed = launch(tmp_path, "--print-config", "train.max_iter=3").succeeded()
    content = yaml.safe_load(printed)
    assert content["train"]["max_iter"] == 3 and content["model"]["roi_heads"]["num_classes"] == 7
    (tmp_path / "again.yaml").write_text(printed)
    again = launch(tmp_path, "--print-config", "--profile", "paper", config="again.yaml")
    assert again.succeeded() == printed
    (tmp_path / "again.yaml").unlink()

    same = launch(tmp_path, "--diff-config", str(QUICKSTART)).succeeded()
    assert "no difference" in same
    other = REPOSITORY / "configs/table2a/r50_fpn.py"
    difference = launch(tmp_path, "--diff-config", str(other)).succeeded()
    assert "model.backbone.bottom_up.depth" in difference and "50" in difference
    assert list(tmp_path.iterdir()) == []


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    outcome = start(tmp_path, "-X", "importtime", str(REPOSITORY / "train_net.py"), "--help")
    assert "--config-file" in outcome.succeeded()
    imported = {line.rpartition("|")[2].strip() for line in outcome.err.splitlines()}
    assert "argparse" in imported
    roots = {name.partition(".")[0] for name in imported}
    assert not roots & {"torch", "numpy", "omegaconf", "detectron2", "yaml", "pydantic"}


def test_launcher_reports_an_unknown_key_and_writes_nothing(tmp_path: Path) -> None:
    outcome = start(
        tmp_path,
        str(REPOSITORY / "train_net.py"),
        "--config-file",
        str(QUICKSTART),
        "train.max_itr=3",
    )
    assert "Did you mean 'train.max_iter'?" in outcome.failed_plainly()
    assert outcome.out == "" and outcome.err.count("\n") <= 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["optimizer.lr=fast"], ["optimizer.lr", "fast"]),
        (["train.max_iter=null"], ["train.max_iter"]),
        (["dataloader.train.dataset.names=embeded_train"], ["embeded_train", "embedded_train"]),
        (["dataloader.train.dataset.json=x.json"], ["image_root"]),
        (["train.device=gpu"], ["train.device", "gpu"]),
        (["model.roi_heads.num_classes=5"], ["num_classes", "5", "7", "person"]),
    ],
)
def test_values_that_cannot_be_used(tmp_path: Path, argv: list[str], words: list[str]) -> None:
    message = launch(tmp_path, *argv).failed_plainly()
    for word in words:
        assert word in message
    assert list(tmp_path.iterdir()) == []


def test_missing_config(tmp_path: Path) -> None:
    message = launch(tmp_path, config="configs/table2a/r50_fnp.py").failed_plainly()
    assert "r50_fnp" in message


def test_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    message = launch(tmp_path, f"train.output_dir={tmp_path / 'file' / 'run'}").failed_plainly()
    assert "cannot be written" in message and "train.output_dir" in message


def test_ctrl_c_saves_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mask_rcnn_repro.engine.train.trainer import Trainer

    step = Trainer.run_step

    def interrupted(self: Trainer) -> None:
        if self.iter == 3:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(Trainer, "run_step", interrupted)
    run = tmp_path / "run"
    outcome = launch(tmp_path, "train.draw=0", f"train.output_dir={run}")
    assert outcome.code == 130 and "Traceback" not in outcome.out + outcome.err
    assert "--resume" in outcome.err
    assert (run / "last_checkpoint").read_text() == "model_0000002.pth"


def test_ctrl_c_in_the_middle_of_a_step_saves_no_torn_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch norm has counted the batch by then, so the state belongs to no whole iteration."""
    import torch

    from mask_rcnn_repro.engine.train.trainer import Trainer

    backward = torch.Tensor.backward
    step = Trainer.run_step

    def marked(self: Trainer) -> None:
        monkeypatch.setattr(torch.Tensor, "backward", interrupt if self.iter == 3 else backward)
        step(self)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "run_step", marked)
    run = tmp_path / "run"
    outcome = launch(
        tmp_path, "train.draw=0", "train.checkpointer.period=2", f"train.output_dir={run}"
    )
    assert outcome.code == 130
    assert (run / "last_checkpoint").read_text() == "model_0000001.pth"
    assert not (run / "model_0000002.pth").exists()
