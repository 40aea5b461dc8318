"""Learning rate schedules, as multiples of the base learning rate.

fvcore's schedulers take fractions of the run and reject milestones beyond its end. These schedules
count iterations, so a shortened run (`train.max_iter=100`) has the beginning of the same schedule.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from fvcore.common.param_scheduler import ParamScheduler

from mask_rcnn_repro.errors import ConfigError


class _WarmupSchedule(ParamScheduler, ABC):
    """Linear warm-up from `warmup_factor` times the schedule, for `warmup_iters` iterations."""

    def __init__(self, max_iter: int, warmup_iters: int, warmup_factor: float) -> None:
        if warmup_iters < 0 or not 0 < warmup_factor <= 1:
            raise ConfigError(
                f"lr_multiplier: warmup_iters={warmup_iters}, warmup_factor={warmup_factor}; "
                "the first must be at least 0, the second in (0, 1]."
            )
        self.max_iter = max_iter
        self.warmup_iters = warmup_iters
        self.warmup_factor = warmup_factor

    def __call__(self, where: float) -> float:
        """Returns the multiple of the base rate at the fraction `where` in [0, 1] of the run."""
        iteration = round(where * self.max_iter)
        value = self.after_warmup(iteration)
        if iteration < self.warmup_iters:
            alpha = iteration / self.warmup_iters
            value *= self.warmup_factor * (1 - alpha) + alpha
        return value

    @abstractmethod
    def after_warmup(self, iteration: int) -> float:
        """Returns the multiple at `iteration` as if there were no warm-up."""


class StepSchedule(_WarmupSchedule):
    """Step schedule with linear warm-up (section 3.1; the warm-up is Detectron's).

    Args:
        max_iter: Iterations of the whole run.
        milestones: Ascending iterations that multiply the rate by `gamma`, also beyond `max_iter`.
        warmup_iters: Iterations of linear warm-up.
        warmup_factor: Fraction of the base rate at iteration 0.
        gamma: Factor of each drop; the paper divides by 10.

    Raises:
        ConfigError: If the milestones are not ascending and positive.
    """

    def __init__(
        self,
        max_iter: int,
        milestones: Sequence[int],
        warmup_iters: int = 0,
        warmup_factor: float = 1 / 3,
        gamma: float = 0.1,
    ) -> None:
        super().__init__(max_iter, warmup_iters, warmup_factor)
        self.milestones = list(milestones)
        self.gamma = gamma
        if self.milestones != sorted(set(self.milestones)) or min(self.milestones, default=1) < 1:
            raise ConfigError(
                f"lr_multiplier.milestones is {self.milestones}; they must be positive iterations "
                "in ascending order."
            )

    def after_warmup(self, iteration: int) -> float:
        """Returns `gamma` to the number of milestones passed."""
        return self.gamma ** sum(iteration >= m for m in self.milestones)


class CosineSchedule(_WarmupSchedule):
    """Half a cosine from 1 to `end_value` at `max_iter`, with linear warm-up.

    Not in the paper: the small profiles train from random weights in few iterations.

    Args:
        max_iter: Iterations of the whole run.
        warmup_iters: Iterations of linear warm-up.
        warmup_factor: Fraction of the base rate at iteration 0.
        end_value: Fraction of the base rate at the end.
    """

    def __init__(
        self,
        max_iter: int,
        warmup_iters: int = 0,
        warmup_factor: float = 0.01,
        end_value: float = 0.0,
    ) -> None:
        super().__init__(max_iter, warmup_iters, warmup_factor)
        self.end_value = end_value

    def after_warmup(self, iteration: int) -> float:
        """Returns the cosine's value."""
        phase = math.pi * min(iteration / max(self.max_iter, 1), 1.0)
        return self.end_value + (1 - self.end_value) * (1 + math.cos(phase)) / 2
