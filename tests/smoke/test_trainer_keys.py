"""Best checkpoint, moving average, early stopping and writers in whole trainings."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import get_event_storage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mask_rcnn_repro.config import load_config
from mask_rcnn_repro.engine.checkpoint.checkpointer import checkpoint_facts
from mask_rcnn_repro.engine.run import Evaluation
from mask_rcnn_repro.engine.train import loop
from mask_rcnn_repro.engine.train.trainer import Trainer
from mask_rcnn_repro.records import load_record
from mask_rcnn_repro.registration import register
from mask_rcnn_tools.evidence.results import is_complete

from .run_helpers import QUICKSTART, assert_same, launch, load, metrics

DECAY = 0.75


class Broken(Exception):
    """Ends a training at a chosen place."""


class Trainings:
    """Trains the quickstart at `tiny`; evaluations return the bbox/AP of a script.

    Attributes:
        script: Bbox/AP by iteration of the evaluation, which is `max_iter` for the last one.
        evaluated: Iteration and weights of each evaluation, and whether it was the last one.
        fail: Place at which the training ends with an error, such as "step 4"; empty for nowhere.
    """

    def __init__(self, monkeypatch):
        self.script, self.evaluated, self.fail = {}, [], ""
        monkeypatch.setattr(loop, "evaluate_model", self._evaluate)
        step = Trainer.run_step

        def run_step(trainer):
            if self.fail == f"step {trainer.iter}":
                raise Broken
            step(trainer)

        monkeypatch.setattr(Trainer, "run_step", run_step)

    def _evaluate(self, cfg, model, device, output_dir, final):
        iteration = get_event_storage().iter
        if self.fail == f"evaluation {iteration}":
            raise Broken
        weights = {key: value.clone() for key, value in model.state_dict().items()}
        self.evaluated.append((iteration, weights, final))
        return Evaluation({"bbox": {"AP": self.script[iteration]}})

    def train(self, folder, *keys, resume=False, fail=""):
        register()
        cfg = load_config(QUICKSTART, "tiny", ["dataloader.train.num_workers=0", *keys])
        folder.mkdir(exist_ok=True)
        self.fail = fail
        self.evaluated.clear()
        return loop.train(cfg, folder, torch.device("cpu"), resume)


@pytest.fixture
def trainings(monkeypatch):
    return Trainings(monkeypatch)


@pytest.mark.slow
def test_best_and_averaged_weights_survive_interruptions(trainings, tmp_path):
    keys = ["train.max_iter=8", "train.eval_period=2", "train.checkpointer.period=1"]
    special = [f"train.ema.decay={DECAY}", "train.checkpointer.best=bbox/AP"]
    trainings.script = {1: 5.0, 3: 9.0, 5: 7.0, 8: 8.0}

    plain, whole = tmp_path / "plain", tmp_path / "whole"
    assert trainings.train(plain, *keys).best is None
    result = trainings.train(whole, *keys, *special, "train.checkpointer.max_to_keep=20")
    evaluated = {iteration: weights for iteration, weights, _ in trainings.evaluated}
    final, best = load(whole / "model_final.pth"), load(whole / "model_best.pth")

    assert sorted(p.name for p in plain.glob("*best*")) == []
    raw = [load(whole / f"model_{k:07d}.pth") for k in range(8)]
    assert_same(final["trained_model"], load(plain / "model_final.pth")["model"])
    mean = raw[0]["trained_model"]
    assert_same(raw[0]["model"], mean)
    for k in range(1, 8):  # as its definition says
        now = raw[k]["trained_model"]
        mean = {
            key: DECAY * m + (1 - DECAY) * now[key] if m.is_floating_point() else now[key]
            for key, m in mean.items()
        }
        for key, value in mean.items():
            if value.is_floating_point():
                torch.testing.assert_close(raw[k]["model"][key], value)
    moved = [key for key in mean if not torch.equal(final["model"][key], now[key])]
    assert len(moved) > 50

    assert best["best"] == {"metric": "bbox/AP", "value": 9.0}
    assert best["iteration"] == best["trainer"]["iteration"] == 3
    assert result.best == {"metric": "bbox/AP", "value": 9.0, "iteration": 4}
    assert checkpoint_facts(whole / "model_best.pth") == {
        "iterations_done": 4,
        "stopped_early": False,
        "best": result.best,
    }
    assert_same(dict(best["model"]), evaluated[3])
    assert_same(dict(final["model"]), evaluated[8])
    assert (whole / "last_checkpoint").read_text() == "model_final.pth"

    for fail in ("step 4", "evaluation 3"):
        broken = tmp_path / fail.replace(" ", "")
        more = [*keys, *special, "train.checkpointer.max_to_keep=1"]
        with pytest.raises(Broken):
            trainings.train(broken, *more, fail=fail)
        assert (broken / "last_checkpoint").read_text() == "model_0000003.pth"
        assert trainings.train(broken, *more, resume=True).best == result.best
        assert_same(load(broken / "model_final.pth"), final)
        assert_same(load(broken / "model_best.pth"), best)
        kept = sorted(p.name for p in broken.glob("*.pth"))
        assert kept == ["model_0000007.pth", "model_best.pth", "model_final.pth"]


def test_training_stops_early_also_when_resumed(trainings, tmp_path):
    keys = ["train.max_iter=40", "train.eval_period=2", "train.checkpointer.period=3"]
    keys += ["train.early_stopping.metric=bbox/AP", "train.early_stopping.patience=2"]
    keys += ["train.early_stopping.min_delta=0.5", "train.log_period=100"]
    trainings.script = {1: 5.0, 3: 6.0, 5: 6.5, 7: 6.2, 8: 6.2}

    whole = tmp_path / "whole"
    result = trainings.train(whole, *keys)
    assert (result.iterations, result.stopped_early) == (8, True)
    assert [(i, last) for i, _, last in trainings.evaluated][-2:] == [(7, False), (8, True)]
    final = load(whole / "model_final.pth")
    assert final["iteration"] == 7
    assert (whole / "last_checkpoint").read_text() == "model_final.pth"

    assert checkpoint_facts(whole / "model_final.pth")["stopped_early"]
    assert not checkpoint_facts(whole / "model_0000005.pth")["stopped_early"]

    again = trainings.train(whole, *keys, resume=True)  # as if killed before the record
    assert (again.iterations, again.stopped_early) == (8, True)
    assert [(i, last) for i, _, last in trainings.evaluated] == [(8, True)]
    assert_same(load(whole / "model_final.pth"), final)

    for fail in ("step 6", "evaluation 5"):
        broken = tmp_path / fail.replace(" ", "")
        with pytest.raises(Broken):
            trainings.train(broken, *keys, fail=fail)
        result = trainings.train(broken, *keys, resume=True)
        assert (result.iterations, result.stopped_early) == (8, True)
        assert_same(load(broken / "model_final.pth"), final)


def test_writers_and_record_of_a_training_that_stops_early(tmp_path):
    """No evaluation has a value 101 points above the first one."""
    run = tmp_path / "run"
    keys = ["train.max_iter=6", "train.eval_period=2", "train.log_period=1", "train.draw=2"]
    keys += ["train.early_stopping.metric=bbox/AP", "train.early_stopping.patience=1"]
    keys += ["train.early_stopping.min_delta=101"]
    keys += ["train.writers=[csv, tensorboard]", f"train.output_dir={run}"]
    keys += ["train.clip_gradients.norm=1", "train.checkpointer.best=bbox/AP"]
    out = launch(tmp_path, *keys).succeeded()
    assert "Stopping after 4 iterations: bbox/AP has not exceeded" in out
    assert "Best bbox/AP: " in out
    record = json.loads((run / "record.json").read_text())
    assert record["stopped_early"] and record["iterations_done"] == 4
    assert record["iterations_planned"] == 6
    assert record["checkpoint"]["name"] == "model_final.pth"
    found = {row["iteration"]: row["bbox/AP"] for row in metrics(run) if "bbox/AP" in row}
    best = max(found, key=lambda iteration: found[iteration])
    expected = {"metric": "bbox/AP", "value": found[best], "iteration": best + 1}
    assert record["best"] == expected

    with (run / "metrics.csv").open(newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    assert rows == metrics(run)
    assert rows[-1]["bbox/AP"] == record["metrics"]["bbox"]["AP"]
    assert all(row["gradient_norm"] > 0 for row in rows[:4])
    with (run / "results.csv").open(newline="") as file:
        table = {f"{task}/{name}": value for task, name, value in csv.reader(file)}
    assert float(table["segm/AP50"]) == record["metrics"]["segm"]["AP50"]

    board = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0})
    tags = board.Reload().Tags()
    assert {"total_loss", "bbox/AP"} <= set(tags["scalars"])
    assert sorted(tags["images"]) == sorted(f"drawings/{p.stem}" for p in run.glob("drawings/*"))
    assert len(tags["images"]) == 2
    assert {t.split("/")[0] for t in tags["tensors"]} == {"run", "config", "results"}

    assert "complete already" in launch(tmp_path, *keys, "--resume").succeeded()

    out = launch(tmp_path, "--eval-only", config=run).succeeded()
    assert "iteration 4 of 6 (stopped early)" in out
    evaluated = load_record(run / "eval" / "last" / "record.json")
    assert is_complete(evaluated) and evaluated.best is None
    assert evaluated.metrics["segm"].values()["AP"] == record["metrics"]["segm"]["AP"]


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (["train.checkpointer.best=segm/PA50"], "Did you mean 'segm/AP50'?"),
        (["train.early_stopping.metric=AP", "train.eval_period=2"], "task/metric"),
        (["train.early_stopping.metric=segm/AP"], "train.eval_period is 0"),
        (["train.writers=[wandb]"], r"pip install -e '.[wandb]'"),
        (["train.writers=[csv, tensorbord]"], "tensorboard"),
        (["train.ema.decay=1"], "less than 1"),
    ],
)
def test_mistakes_end_before_the_training(tmp_path: Path, monkeypatch, keys, text):
    there = importlib.util.find_spec
    absent = lambda name, *more: None if name == "wandb" else there(name, *more)  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", absent)
    message = launch(tmp_path, *keys).failed_plainly()
    assert text in message
    assert not list(tmp_path.rglob("*.pth"))
