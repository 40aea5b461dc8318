"""Batches predicted by several threads: order, errors, memory, threads."""

from __future__ import annotations

import threading
import time
import weakref

import pytest
import torch
from torch import nn

from mask_rcnn_repro.evaluation.loop import evaluate
from mask_rcnn_repro.evaluation.side_by_side import in_order
from mask_rcnn_repro.modeling.inference.optimize import runs_in_threads


def run(batches, predict, at_once, alone=None, loaded=lambda part: None):
    return list(in_order(iter(batches), predict, alone or predict, at_once, loaded))


@pytest.mark.parametrize("at_once", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_results_come_in_order(count, at_once):
    parts = []

    def predict(batch):
        time.sleep(0.002 * ((batch * 5) % 7))  # later ones are ready first
        return -batch

    found = run(range(count), predict, at_once, loaded=parts.append)
    assert found == [(i, i, -i) for i in range(count)]
    assert parts == ["data"] * count


def test_two_at_the_same_time_and_their_share_of_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    together = threading.Barrier(2)

    def predict(batch):
        together.wait(timeout=20)  # alone nobody passes
        return torch.get_num_threads()

    try:
        assert [result for *_, result in run(range(4), predict, 2)] == [2] * 4
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_one_is_predicted_while_the_one_before_is_handled():
    begun = [threading.Event() for _ in range(4)]

    def predict(batch):
        begun[batch].set()

    for number, *_ in in_order(iter(range(4)), predict, predict, 1, lambda part: None):
        assert begun[min(number + 1, 3)].wait(timeout=20)


@pytest.mark.parametrize("at_once", [0, 1, 2])
def test_an_error_comes_in_its_turn_and_nothing_runs_after_it(at_once):
    begun = []

    def predict(batch):
        begun.append(batch)
        if batch == 2:
            raise KeyError("two")
        return batch

    results = in_order(iter(range(9)), predict, predict, at_once, lambda part: None)
    assert [next(results), next(results)] == [(0, 0, 0), (1, 1, 1)]
    with pytest.raises(KeyError, match="two"):
        next(results)
    count = len(begun)
    time.sleep(0.02)
    assert len(begun) == count <= 5


@pytest.mark.parametrize("at_once", [0, 1, 2])
def test_what_finds_no_memory_is_done_alone(at_once):
    running, lock = set(), threading.Lock()

    def predict(batch):
        with lock:
            running.add(batch)
        time.sleep(0.01)
        with lock:
            running.discard(batch)
        if batch == 1:
            raise MemoryError
        return "side by side"

    def alone(batch):
        assert not running
        return "alone"

    results = [result for *_, result in run(range(4), predict, at_once, alone)]
    assert results == ["side by side", "alone", "side by side", "side by side"]


@pytest.mark.parametrize("at_once", [0, 1, 2])
def test_what_found_no_memory_is_let_go_before_it_is_done_alone(at_once):
    held = []

    def predict(batch):
        features = torch.zeros(1)
        held.append(weakref.ref(features))
        raise MemoryError

    def alone(batch):
        return held[batch]() is None

    assert [result for *_, result in run(range(1), predict, at_once, alone)] == [True]


def test_stopping_early_leaves_no_thread_and_gives_threads_back():
    before = torch.get_num_threads()
    results = in_order(iter(range(100)), lambda b: b, lambda b: b, 2, lambda part: None)
    next(results)
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("predict")]
    assert torch.get_num_threads() == before


class Collected:
    def reset(self):
        self.outputs = []

    def process(self, inputs, outputs):
        self.outputs += outputs

    def evaluate(self):
        return {"outputs": self.outputs}


class Product(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))

    def forward(self, inputs):
        return [
            (x @ self.weight, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"))
            for x in inputs
        ]


def test_evaluation_is_the_same_and_modes_are_set_in_each_thread():
    data = list(torch.randn(9, 1, 8, 16))
    model = Product()
    found = [
        evaluate(
            model,
            data,
            Collected(),
            autocast=lambda: torch.autocast("cpu", torch.bfloat16),
            at_once=at_once,
        )
        for at_once in (0, 1, 2)
    ]
    (one, _), *concurrent = found
    for two, seconds in concurrent:
        for (a, *modes), (b, *others) in zip(one["outputs"], two["outputs"], strict=True):
            assert torch.equal(a, b) and modes == others == [False, True]
        assert set(seconds) == {"data", "inference", "postprocess", "total"}
    assert model.training


def test_models_that_threads_may_share():
    known = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    assert runs_in_threads(known)
    assert not runs_in_threads(nn.Sequential(known, Product()))
    known[0].register_forward_hook(lambda *arguments: None)
    assert not runs_in_threads(known)
