"""Pasting masks straight into run lengths, without the pasted masks.

Shapes: R instances of one image, M mask side, (H, W) image size, D pixels in doubt.

The result is that of Detectron2's ``paste_masks_in_image`` followed by pycocotools' ``encode``, to
the last character. Pixels whose value is within rounding of the threshold are given to PyTorch's
``grid_sample`` itself: how it rounds depends on how it was compiled.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from mask_rcnn_repro.utils.compiled import run_in_threads

_INSTANCES_A_THREAD = 8  # at least; a thread costs as much as a few instances


def encode_in_boxes(
    masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int, threshold: float
) -> list[str | None]:
    """Pastes masks into their boxes and encodes them, at a cost that does not grow with the image.

    Needs Numba, see :mod:`mask_rcnn_repro.utils.compiled`.

    Args:
        masks: (R, M, M) float32 on the CPU, probabilities over the boxes.
        boxes: (R, 4) float32 on the CPU, absolute XYXY in the (H, W) frame.
        height: H, pixels.
        width: W, pixels.
        threshold: Pixels with at least this value belong to the mask; above 0.

    Returns:
        The `counts` of R compressed RLEs; None where it cannot be told this way (masks with NaN or
        infinity, or much of the mask within rounding of the threshold). Empty input gives an
        empty list.
    """
    from mask_rcnn_repro.evaluation.masks.paste_kernels import MAX_DOUBTS

    # compiled code would read beyond the ends
    assert masks.shape[1] == masks.shape[2], f"masks must be square: {tuple(masks.shape)}"
    assert boxes.shape == (len(masks), 4), f"{tuple(boxes.shape)} boxes of {len(masks)} masks"
    count = len(masks)
    doubts = np.empty(count, np.int64)
    places = np.empty((count, MAX_DOUBTS, 2), np.float32)
    pasting = (masks.contiguous().numpy(), boxes.contiguous().numpy(), height, width, threshold)
    counts = _encode(pasting, np.arange(count), doubts, places, np.empty((count, 0), np.bool_))
    doubted = np.flatnonzero((doubts > 0) & (doubts <= MAX_DOUBTS))
    if len(doubted):
        grid = torch.from_numpy(places[doubted, : doubts[doubted].max()])
        chosen = masks[torch.from_numpy(doubted), None]  # sampled as Detectron2 does
        answers = F.grid_sample(chosen, grid[:, None], align_corners=False)[:, 0, 0] >= threshold
        places = np.empty((count, 0, 2), np.float32)
        settled = _encode(pasting, doubted, doubts, places, answers.numpy())
        for index in doubted.tolist():
            counts[index] = settled[index]
    return [None if doubts[index] > MAX_DOUBTS else counts[index] for index in range(count)]


def _encode(
    pasting: tuple[np.ndarray, np.ndarray, int, int, float],
    items: np.ndarray,
    doubts: np.ndarray,
    places: np.ndarray,
    answers: np.ndarray,
) -> dict[int, str]:
    """The `counts` of some instances; see ``paste_kernels.encode_range``."""
    from mask_rcnn_repro.evaluation.masks.paste_kernels import encode_range

    starts, ends = np.empty_like(doubts), np.empty_like(doubts)
    counts: dict[int, str] = {}

    def encode(begin: int, end: int) -> None:
        outputs = (starts, ends, doubts, places)
        text = encode_range(begin, end, items, *pasting, *outputs, answers).tobytes().decode()
        for index in items[begin:end].tolist():
            counts[index] = text[starts[index] : ends[index]]

    run_in_threads(encode, len(items), min_items=_INSTANCES_A_THREAD)
    return counts
