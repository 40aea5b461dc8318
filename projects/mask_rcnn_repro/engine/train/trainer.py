"""The training step: mixed precision on any device, gradient accumulation, loss checks, seeding."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mask_rcnn_repro.engine.seeding import seed_everything
from mask_rcnn_repro.errors import NonFiniteLossError
from mask_rcnn_repro.utils.interruption import stop_together_if_asked
from mask_rcnn_repro.utils.precision import autocast_context
from mask_rcnn_repro.utils.transfer import moved

_LEAST_SCALE = 2.0**-10  # of fp16 losses; with smaller ones the gradients cannot be scaled
_ASK_PERIOD = 10  # iterations
_KEPT_VALUES = 2000  # of each metric; averages and medians need at most 1000 iterations


class _Stopped(BaseException):
    """Leaves the loop of Detectron2's trainer, which logs an `Exception` as a failure."""


class Trainer(SimpleTrainer):
    """Detectron2's simple trainer with the parts that a long run needs.

    Unlike Detectron2's `AMPTrainer`, it also runs bf16 on the CPU. One iteration consumes
    `accumulate` micro-batches from the loader and averages their gradients.

    Args:
        model: A detection model, may be wrapped in `DistributedDataParallel`. Maps a list of dicts
            to a dict of scalar losses.
        data_loader: Endless iterable of micro-batches, which are lists of dicts. May be set later.
        optimizer: Steps once per iteration.
        seed: Seeds all generators at each iteration, together with iteration and rank.
        accumulate: Micro-batches per iteration.
        amp_enabled: Whether the forward pass runs under autocast.
        amp_dtype: "bf16" or "fp16" (CUDA only, with loss scaling).
        device: Device of the model.
        clip_value: Largest absolute value of an element of a gradient. None for no limit.
        clip_norm: Largest L2 norm of all gradients together. None for no limit.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict[str, Any]]] | None,
        optimizer: torch.optim.Optimizer,
        *,
        seed: int,
        device: torch.device,
        accumulate: int = 1,
        amp_enabled: bool = False,
        amp_dtype: str = "bf16",
        clip_value: float | None = None,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.seed = seed
        self.device = device
        self.accumulate = accumulate
        self.amp_enabled = amp_enabled
        self.amp_dtype = amp_dtype
        self.clip_value = clip_value
        self.clip_norm = clip_norm
        self.completed_iters = 0
        self.mid_step = False
        self.stopped = False
        self._stop_asked = False
        use_scaler = amp_enabled and amp_dtype == "fp16"
        self.grad_scaler = torch.amp.GradScaler(device.type, enabled=use_scaler)

    def stop(self) -> None:
        """Ends the training after this iteration, which becomes the last one of the run.

        All processes call it in the same iteration, or before the first one of a resumed run.
        """
        self._stop_asked = True
        self.max_iter = self.completed_iters  # hooks write what they write at the end

    def train(self, start_iter: int, max_iter: int) -> None:
        """Trains from `start_iter` to `max_iter`, or to an earlier end by :meth:`stop`."""
        with contextlib.suppress(_Stopped):
            super().train(start_iter, max_iter)

    def before_train(self) -> None:
        """Calls the hooks."""
        super().before_train()
        self._leave_if_stopped()

    def _leave_if_stopped(self) -> None:
        if self._stop_asked:
            self.stopped = True
            raise _Stopped

    def run_step(self) -> None:
        """Runs one iteration.

        Raises:
            NonFiniteLossError: If a loss or a gradient is NaN or infinite. The optimizer has not
                stepped in any process. With fp16, steps with such gradients are skipped and lower
                the loss scale; the error is raised only if that does not help.
        """
        seed_everything(self.seed, self.iter, comm.get_rank())
        self.optimizer.zero_grad(set_to_none=True)
        data_time = 0.0
        batches, parts = [], []
        for index in range(self.accumulate):
            start = time.perf_counter()
            batches.append(next(self._data_loader_iter))
            data_time += time.perf_counter() - start
            # from here on weights and batch norm statistics belong to no whole iteration
            self.mid_step = True
            with self._gradient_sync(last=index == self.accumulate - 1):
                with autocast_context(self.device, self.amp_enabled, self.amp_dtype):
                    losses = self._losses(batches[-1])
                total = sum(losses.values()) / self.accumulate
                self.grad_scaler.scale(total).backward()
            parts.append({name: value.detach() for name, value in losses.items()})
        means = self._check_finite(parts, batches)
        self._clip_gradients()
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        self.completed_iters = self.iter + 1
        self.mid_step = False
        self._write_metrics(means, data_time)

    def _clip_gradients(self) -> None:
        """Applies the limits to the gradients of all micro-batches and processes together."""
        if self.clip_value is None and self.clip_norm is None:
            return
        # a fused optimizer would divide by the loss scale only inside its step
        self.grad_scaler.unscale_(self.optimizer)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        if self.clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters, self.clip_value)
        if self.clip_norm is not None:
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm))
            if math.isfinite(norm):  # fp16 skips a step whose gradients overflow
                self.storage.put_scalar("gradient_norm", norm)

    def _gradient_sync(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Exchanges gradients between processes at the last micro-batch of an iteration only."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _losses(self, data: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        try:
            return self.model([moved(item, self.device) for item in data])
        except FloatingPointError as error:  # Detectron2's RPN checks its own predictions first
            raise self._non_finite(str(error).rstrip("."), data) from error

    def _check_finite(
        self, parts: list[dict[str, torch.Tensor]], batches: list[list[dict[str, Any]]]
    ) -> dict[str, torch.Tensor]:
        """Checks losses and gradients, which carry the non-finite losses of other processes.

        Args:
            parts: Losses of each micro-batch.
            batches: The micro-batches.

        Returns:
            Means of the losses, on the CPU.
        """
        checks_itself = self.grad_scaler.is_enabled()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        values = [value.float() for part in parts for value in part.values()]
        if gradients and not checks_itself:
            values.append(torch.nn.utils.get_total_norm(gradients).float())
        values = list(torch.stack(values).cpu())  # one transfer, after all work has been queued
        means: dict[str, torch.Tensor] = {}
        for part, data in zip(parts, batches, strict=True):
            here = {name: values.pop(0) for name in part}
            if not all(map(torch.isfinite, here.values())):
                listed = ", ".join(f"{name}={value:g}" for name, value in here.items())
                raise self._non_finite(listed, data)
            for name, value in here.items():
                means[name] = means.get(name, 0) + value / self.accumulate
        if checks_itself and self.grad_scaler.get_scale() < _LEAST_SCALE:
            raise self._non_finite(
                "gradients overflow in fp16 however small the loss scale is; train.amp.dtype=bf16 "
                "has the range of fp32",
                batches[-1],
            )
        if all(map(torch.isfinite, values)):  # the norm, if it was computed
            return means
        names = [
            name
            for name, p in self.model.named_parameters()
            if p.grad is not None and not torch.isfinite(p.grad).all()
        ]
        if not names:  # each is finite, their squares are not
            return means
        listed = ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)
        raise self._non_finite(f"gradients of {listed}", batches[-1])

    def _non_finite(self, what: str, data: list[dict[str, Any]]) -> NonFiniteLossError:
        images = "\n".join(f"  {d.get('file_name', d.get('image_id', '?'))}" for d in data)
        return NonFiniteLossError(
            f"A loss or gradient became NaN or infinite at iteration {self.iter} (process "
            f"{comm.get_rank()}): {what}.\nImages of this process's batch:\n{images}\n"
            "The weights were not updated with it. Lower optimizer.lr, lengthen the warm-up "
            "(lr_multiplier.warmup_iters), look at these images' annotations, or take another "
            "train.seed."
        )

    def after_step(self) -> None:
        """Calls the hooks. Raises Interrupted in all processes if one of them got a signal.

        Several processes ask each other every 10 iterations, since all wait for the answer.
        """
        super().after_step()
        if self.iter % _KEPT_VALUES == 0:
            # Detectron2 keeps a million values of each metric: hundreds of megabytes in a long run
            for history in self.storage.histories().values():
                del history.values()[:-_KEPT_VALUES]
        self._leave_if_stopped()
        if comm.get_world_size() == 1 or self.completed_iters % _ASK_PERIOD == 0:
            stop_together_if_asked()

    def after_train(self) -> None:
        """Calls the hooks. Afterwards `iter` is the number of completed iterations."""
        # it is one more if a resumed run has no iteration left
        self.iter: int = self.max_iter if self.stopped else min(self.iter, self.max_iter)
        super().after_train()

    def state_dict(self) -> dict[str, Any]:
        """Adds the loss scale to Detectron2's trainer state (iteration, hooks, optimizer)."""
        state = super().state_dict()
        if self.completed_iters > 0:  # before and after the loop, `iter` is one more
            state["iteration"] = self.completed_iters - 1
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        self.completed_iters = self.iter + 1
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
