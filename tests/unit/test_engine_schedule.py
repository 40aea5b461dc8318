"""Learning rate schedules against hand-computed values and Detectron2's own warm-up."""

import pytest
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from mask_rcnn_repro.engine.train.schedule import CosineSchedule, StepSchedule
from mask_rcnn_repro.errors import ConfigError


def test_paper_schedule_by_hand():
    schedule = StepSchedule(160_000, [120_000], warmup_iters=500, warmup_factor=1 / 3)
    expected = {0: 1 / 3, 250: 2 / 3, 500: 1.0, 119_999: 1.0, 120_000: 0.1, 159_999: 0.1}
    for iteration, value in expected.items():
        assert schedule(iteration / 160_000) == pytest.approx(value, rel=1e-12)


def test_equals_detectron2_at_every_iteration():
    total, warmup, factor = 600, 20, 0.001
    ours = StepSchedule(total, [400, 500], warmup_iters=warmup, warmup_factor=factor)
    theirs = WarmupParamScheduler(
        MultiStepParamScheduler([1, 0.1, 0.01], milestones=[400, 500], num_updates=total),
        factor,
        warmup / total,
    )
    for iteration in range(total):
        assert ours(iteration / total) == pytest.approx(theirs(iteration / total), rel=1e-9)


def test_shortened_run_sees_the_beginning_of_the_schedule():
    full = StepSchedule(160_000, [120_000], 500)
    short = StepSchedule(10, [120_000], 500)
    for iteration in range(10):
        assert short(iteration / 10) == pytest.approx(full(iteration / 160_000))


def test_cosine_by_hand():
    schedule = CosineSchedule(100, warmup_iters=10, warmup_factor=0.1, end_value=0.2)
    assert schedule(0.0) == pytest.approx(0.1)
    assert schedule(0.5) == pytest.approx(0.6)
    assert schedule(1.0) == pytest.approx(0.2)


@pytest.mark.parametrize("milestones", [[5, 5], [7, 3], [0], [-1, 4]])
def test_bad_milestones_are_named(milestones):
    with pytest.raises(ConfigError, match="milestones"):
        StepSchedule(10, milestones)


def test_zero_iterations():
    assert StepSchedule(0, [])(0.0) == 1.0
    assert CosineSchedule(0)(0.0) == 1.0
