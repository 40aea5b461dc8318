"""Compiled resizing equals Pillow's, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mask_rcnn_repro.data.loading import resize as exact_resize
from mask_rcnn_repro.data.loading.mapper import ImageInput
from mask_rcnn_repro.data.loading.resize import resize_bilinear, to_planes
from mask_rcnn_repro.utils import compiled

needs_numba = pytest.mark.skipif(not compiled.HAVE_NUMBA, reason="Numba is not installed")
sides = st.integers(1, 160)


def pillow(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


@needs_numba
@settings(max_examples=150, deadline=None)
@given(sides, sides, sides, sides, st.sampled_from(["noise", "black and white", "mirrored"]))
def test_any_size_equals_pillow(height, width, new_height, new_width, kind):
    rng = np.random.RandomState(height * 1000 + width)
    image = rng.randint(0, 256, (height, width, 3), np.uint8)
    if kind == "black and white":
        image = (image > 127).astype(np.uint8) * 255
    elif kind == "mirrored":
        image = image[:, ::-1, ::-1]
    if height > 100 * width:  # left to Pillow, which turns its passes around
        return
    planes = exact_resize._resize_compiled(image, new_height, new_width)
    np.testing.assert_array_equal(
        planes.transpose(1, 2, 0), pillow(np.ascontiguousarray(image), new_height, new_width)
    )


@needs_numba
@pytest.mark.parametrize("size", [(480, 640, 800, 1067), (2000, 700, 700, 500), (601, 3, 300, 800)])
def test_sizes_that_are_compiled(size, monkeypatch):
    calls = []
    plain = exact_resize._resize_compiled
    monkeypatch.setattr(exact_resize, "_resize_compiled", lambda *a: calls.append(a) or plain(*a))
    height, width, *new = size
    image = np.random.RandomState(0).randint(0, 256, (height, width, 3), np.uint8)
    np.testing.assert_array_equal(resize_bilinear(image, *new), pillow(image, *new))
    assert bool(calls) == (height <= 100 * width)


def test_without_numba(monkeypatch):
    monkeypatch.setattr(compiled, "HAVE_NUMBA", False)
    exact_resize._same_as_pillow.cache_clear()
    try:
        monkeypatch.delattr(exact_resize, "_resize_compiled")
        image = np.random.RandomState(0).randint(0, 256, (300, 400, 3), np.uint8)
        np.testing.assert_array_equal(resize_bilinear(image, 600, 800), pillow(image, 600, 800))
    finally:
        exact_resize._same_as_pillow.cache_clear()


@pytest.mark.parametrize(
    "image",
    [
        np.random.RandomState(0).randint(0, 256, (300, 400, 3), np.uint8),
        np.random.RandomState(0).randint(0, 256, (300, 400, 1), np.uint8),
        np.random.RandomState(0).randint(0, 256, (300, 400), np.uint8),
        np.random.RandomState(0).rand(300, 400, 3).astype(np.float32),
    ],
    ids=["color", "one channel", "grey", "float"],
)
@pytest.mark.parametrize("interp", [Image.BILINEAR, Image.NEAREST, Image.BICUBIC])
def test_augmentation_equals_detectron2(image, interp):
    transforms = [T.ResizeTransform(300, 400, 600, 800, interp), T.HFlipTransform(800)]
    ours, theirs = ImageInput(image), T.AugInput(image)
    for transform in transforms:
        ours.transform(transform)
        theirs.transform(transform)
    assert ours.image.dtype == theirs.image.dtype
    np.testing.assert_array_equal(ours.image, theirs.image)


@pytest.mark.parametrize(
    "turn",
    [
        lambda x: x,
        lambda x: x[:, ::-1],
        lambda x: x[::-1],
        lambda x: x[:, :, ::-1],
        lambda x: x[:, ::-1, ::-1],
        lambda x: x[2:20, 3:9],
        lambda x: np.ascontiguousarray(x.transpose(2, 0, 1)).transpose(1, 2, 0),
        lambda x: np.ascontiguousarray(x.transpose(2, 0, 1)).transpose(1, 2, 0)[:, ::-1],
        lambda x: x[..., :1],
        lambda x: x.astype(np.float32)[:, ::-1],
    ],
)
def test_planes(turn):
    image = turn(np.random.RandomState(0).randint(0, 256, (31, 17, 3), np.uint8))
    planes = to_planes(image)
    assert planes.flags.c_contiguous
    np.testing.assert_array_equal(planes, image.transpose(2, 0, 1))
