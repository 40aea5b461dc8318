"""Initialize a model from finished runs: fine-tuning, and networks that share parts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from mask_rcnn_repro.engine.checkpoint.init_classes import ClassMap, take_classes
from mask_rcnn_repro.engine.checkpoint.safe_load import safe_torch_load
from mask_rcnn_repro.errors import CheckpointError

logger = logging.getLogger(__name__)

_RPN = "proposal_generator."
_BACKBONE = "backbone."
_COUNTER = "num_batches_tracked"  # of batch norm; frozen norms have none


def load_initial_weights(
    model: nn.Module,
    detector: Path,
    rpn: Path | None = None,
    frozen: Sequence[str] = (),
    classes: ClassMap | None = None,
) -> None:
    """Fills `model` with the weights of a finished run, in place.

    Parts that only one of them has, such as the heads of a detector, do not change. Parts that both
    have must agree in every weight and shape.

    Args:
        model: Bare model.
        detector: Checkpoint of the run.
        rpn: Checkpoint of an RPN with the same backbone, whose `proposal_generator` is added (4.4).
        frozen: Modules that are not trained. All their weights must be filled.
        classes: Maps the classes of the run. None if they are the same.

    Raises:
        CheckpointError: Weights are missing or misshapen, no part is shared, or backbones differ.
    """
    state = _weights(detector)
    if rpn is not None:
        state = _with_rpn(state, _weights(rpn), detector, rpn)
    if classes is not None:
        state = take_classes(model, state, classes, str(detector))
    own = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    shared = {_part(k) for k in state} & {_part(k) for k in own}
    given = {k: v for k, v in state.items() if _part(k) in shared}
    wanted = [k for k in own if _part(k) in shared or k.startswith(tuple(f"{f}." for f in frozen))]
    problems = [f"missing in the file: {k}" for k in wanted if k not in given]
    problems += [f"not in the model: {k}" for k in given if k not in own]
    problems = [p for p in problems if not p.endswith(_COUNTER)]
    problems += [
        f"other shape: {k} {tuple(v.shape)} in the file, {own[k]} here"
        for k, v in given.items()
        if k in own and tuple(v.shape) != own[k]
    ]
    if not shared:
        problems.append("no part in common")
    if problems:
        raise CheckpointError(
            f"The weights in {detector} do not fit the model ({len(problems)} differences). Name a "
            "config with the same network in train.init_from. If the classes differ, map them in "
            "train.init_classes.\n  " + "\n  ".join(problems[:20])
        )
    model.load_state_dict(given, strict=False)
    files = f"{detector} and {rpn}" if rpn else str(detector)
    logger.info("Initial weights of %s from %s.", ", ".join(sorted(shared)), files)


def _part(key: str) -> str:
    return key.partition(".")[0]


def _weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = safe_torch_load(str(path))["model"]
    return state


def _with_rpn(
    detector: dict[str, torch.Tensor], rpn: dict[str, torch.Tensor], detector_file: Path, file: Path
) -> dict[str, torch.Tensor]:
    """Adds the weights of the RPN after a check that both have the same backbone."""
    theirs = {k: v for k, v in rpn.items() if k.startswith(_BACKBONE) and _COUNTER not in k}
    ours = {k: v for k, v in detector.items() if k.startswith(_BACKBONE) and _COUNTER not in k}
    differing = sorted(theirs.keys() ^ ours.keys()) + [
        k for k in sorted(theirs.keys() & ours.keys()) if not torch.equal(theirs[k], ours[k])
    ]
    if differing:
        raise CheckpointError(
            f"{detector_file} and {file} do not share features: {len(differing)} weights of their "
            f"backbones differ, such as {differing[0]}. Train the RPN with train.freeze=[backbone] "
            "from the same run."
        )
    return {
        **{k: v for k, v in detector.items() if not k.startswith(_RPN)},
        **{k: v for k, v in rpn.items() if k.startswith(_RPN)},
    }
