"""Masks to RLE: identical to Detectron2's pasting followed by pycocotools' encoding."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.layers.mask_ops import _do_paste_mask, paste_masks_in_image
from hypothesis import given, settings
from hypothesis import strategies as st

from mask_rcnn_repro.evaluation.masks import paste as mask_runs
from mask_rcnn_repro.evaluation.masks import rle as rle_module
from mask_rcnn_repro.evaluation.masks.rle import encode_masks
from mask_rcnn_repro.utils import compiled

needs_numba = pytest.mark.skipif(not compiled.HAVE_NUMBA, reason="Numba is not installed")


def stock(masks, boxes, height, width, threshold=0.5):
    """One at a time; as on a GPU where Detectron2 fails on a CPU."""
    counts = []
    for mask, box in zip(masks, boxes, strict=True):
        try:
            pasted = paste_masks_in_image(mask, box[None], (height, width), threshold)[0]
        except RuntimeError:  # outside of the image, or upside down
            values, _ = _do_paste_mask(mask[None], box[None], height, width, skip_empty=False)
            pasted = values[0] >= threshold
        pasted = np.asfortranarray(pasted.numpy().astype(np.uint8))
        counts.append(mask_util.encode(pasted)["counts"].decode())
    return [{"size": [height, width], "counts": text} for text in counts]


def random_masks(generator, kind, count, side):
    if kind == "noise":
        values = generator.random((count, side, side))
    elif kind == "levels":  # many pixels at the threshold or within rounding of it
        values = np.round(generator.random((count, side, side)) * 4) / 4
    elif kind == "flat":
        values = np.full((count, side, side), generator.choice([0.5, 1.0, 0.0]))
    elif kind == "logits":
        values = generator.normal(0, 10, (count, side, side))
    else:
        y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
        noise = generator.normal(0, 0.3, (count, side, side))
        values = 1 / (1 + np.exp(8 * (x**2 + y**2 - 0.8) + noise))
    return torch.tensor(values[:, None], dtype=torch.float32)


def random_boxes(generator, kind, count, height, width):
    size = np.array([width, height])
    corner = generator.uniform(0, 1, (count, 2)) * size
    if kind == "anywhere":  # inside, partly or fully outside, upside down
        boxes = generator.uniform(-2, 3, (count, 4)) * np.tile(size, 2)
    elif kind == "ordinary":
        boxes = np.sort(generator.uniform(-0.5, 1.5, (count, 2, 2)), axis=1) * size
    elif kind == "subpixel":
        boxes = np.concatenate([corner, corner + generator.uniform(0, 2, (count, 2))], axis=1)
    elif kind == "degenerate":
        sides = generator.choice([0, 1e-30, 1e-7, 1e-3, 0.5, 1], (count, 2))
        boxes = np.concatenate([corner, corner + sides], axis=1)
    elif kind == "huge":
        ends = generator.uniform(0, 10 ** generator.uniform(2, 9), (count, 4))
        boxes = ends * [-1, -1, 1, 1]
    else:
        boxes = np.round(generator.uniform(-0.2, 1.2, (count, 4)) * np.tile(size, 2))
    return torch.tensor(boxes.reshape(count, 4), dtype=torch.float32)


KINDS = ["anywhere", "ordinary", "subpixel", "degenerate", "huge", "whole pixels"]


@needs_numba
@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["noise", "levels", "flat", "logits", "object"]),
    st.sampled_from(KINDS),
    st.sampled_from([1, 2, 7, 14, 28, 56]),
    st.tuples(st.integers(1, 120), st.integers(1, 120)),
    st.sampled_from([0.5, 0.3, 0.05, 0.9, 0.25, 1.0]),
)
def test_compiled_equals_detectron2_and_pycocotools(seed, mask_kind, kind, side, size, threshold):
    generator = np.random.default_rng(seed)
    masks = random_masks(generator, mask_kind, 3, side)
    boxes = random_boxes(generator, kind, 3, *size)
    expected = stock(masks, boxes, *size, threshold)
    found = mask_runs.encode_in_boxes(masks[:, 0], boxes, *size, threshold)
    for text, rle in zip(found, expected, strict=True):
        assert text is None or text == rle["counts"]
    assert encode_masks(masks, boxes, *size, threshold) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_without_numba(monkeypatch, kind):
    monkeypatch.setattr(compiled, "HAVE_NUMBA", False, raising=False)
    generator = np.random.default_rng(0)
    masks = random_masks(generator, "object", 12, 14)
    boxes = random_boxes(generator, kind, 12, 50, 70)
    for chunk in (1, 1 << 20):
        monkeypatch.setattr(rle_module, "_CHUNK_PIXELS", chunk)
        assert encode_masks(masks, boxes, 50, 70) == stock(masks, boxes, 50, 70)


@needs_numba
def test_ordinary_masks_are_not_left_to_the_slow_path():
    generator = np.random.default_rng(0)
    masks = random_masks(generator, "object", 60, 28)
    boxes = random_boxes(generator, "ordinary", 60, 480, 640)
    found = mask_runs.encode_in_boxes(masks[:, 0], boxes, 480, 640, 0.5)
    assert None not in found
    assert found == [r["counts"] for r in stock(masks, boxes, 480, 640)]


@needs_numba
def test_doubtful_and_strange_masks_are_left():
    masks = torch.full((3, 28, 28), 0.25)
    masks[0] = 0.5  # every pixel is at the threshold
    masks[1, 3, 3] = float("nan")
    boxes = torch.tensor([[0, 0, 60, 60.0]]).repeat(3, 1)
    found = mask_runs.encode_in_boxes(masks, boxes, 64, 64, 0.5)
    assert found[:2] == [None, None] and found[2] is not None
    expected = stock(masks[:, None], boxes, 64, 64)
    assert encode_masks(masks[:, None], boxes, 64, 64) == expected


def test_hand_computed():
    # 2 x 3 image, a box over its middle column: two rows outside, two inside, two outside
    masks = torch.ones(1, 1, 4, 4)
    (rle,) = encode_masks(masks, torch.tensor([[1.0, 0, 2, 2]]), 2, 3)
    assert mask_util.decode(rle).tolist() == [[0, 1, 0], [0, 1, 0]]
    assert rle == {"size": [2, 3], "counts": "222"}
    # all of the image, and none of it
    (rle,) = encode_masks(masks, torch.tensor([[0.0, 0, 3, 2]]), 2, 3)
    assert rle["counts"] == "06"
    (rle,) = encode_masks(masks, torch.tensor([[50.0, 50, 60, 60]]), 2, 3)
    assert rle["counts"] == "6"


@pytest.mark.parametrize("numba", [False, pytest.param(True, marks=needs_numba)])
def test_no_instances_and_other_types(monkeypatch, numba):
    monkeypatch.setattr(compiled, "HAVE_NUMBA", numba, raising=False)
    assert encode_masks(torch.empty(0, 1, 28, 28), torch.empty(0, 4), 50, 70) == []
    assert encode_masks(torch.empty(0, 50, 70, dtype=torch.bool), torch.empty(0, 4), 50, 70) == []
    generator = np.random.default_rng(0)
    masks = random_masks(generator, "object", 5, 28)
    boxes = random_boxes(generator, "ordinary", 5, 50, 70)
    for dtype in (torch.bfloat16, torch.float64):
        expected = stock(masks.to(dtype).float(), boxes, 50, 70)
        assert encode_masks(masks.to(dtype), boxes, 50, 70) == expected
    # not contiguous, as a class's slice of a head's output
    strided = masks.transpose(2, 3).contiguous().transpose(2, 3).expand(5, 3, 28, 28)[:, 1:2]
    assert encode_masks(strided, boxes, 50, 70) == stock(masks, boxes, 50, 70)
    boxes = random_boxes(generator, "subpixel", 5, 50, 70)
    pasted = paste_masks_in_image(masks[:, 0], boxes, (50, 70))
    assert encode_masks(pasted, boxes, 50, 70) == stock(masks, boxes, 50, 70)


@needs_numba
def test_threads_do_not_change_the_result():
    generator = np.random.default_rng(0)
    masks = random_masks(generator, "noise", 100, 28)
    boxes = random_boxes(generator, "anywhere", 100, 200, 300)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = encode_masks(masks, boxes, 200, 300)
        torch.set_num_threads(4)
        assert encode_masks(masks, boxes, 200, 300) == alone
    finally:
        torch.set_num_threads(before)


@needs_numba
def test_long_runs():
    # lengths beyond 2^20 take five characters
    masks = torch.ones(1, 1, 28, 28)
    boxes = torch.tensor([[1000.0, 0, 3000, 1500]])
    assert encode_masks(masks, boxes, 1500, 4000) == stock(masks, boxes, 1500, 4000)
