"""Resizes images bit for bit as Pillow does, six times faster with Numba.

Detectron2 resizes with Pillow's antialiased bilinear filter, which computes with integers: two
passes, along x and then along y, each a weighted sum with weights of 22 fractional bits, rounded to
8 bits. Integer sums do not depend on the order of their terms, so compiled loops along memory give
the same bytes.

Shapes: H x W source, H' x W' result, C channels.
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

from mask_rcnn_repro.utils import compiled

# Smaller results are left to Pillow: a run on small images need not load the compiler.
_SMALLEST_COMPILED = 200_000


def resize_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes as ``PIL.Image.resize((width, height), BILINEAR)``, bit for bit.

    Args:
        image: (H, W, 3) uint8 with any strides.
        height: H', at least 1.
        width: W', at least 1.

    Returns:
        (H', W', 3) uint8; its memory may be three planes, for whoever turns it to (3, H', W').
    """
    slim = image.shape[0] > 100 * image.shape[1]  # Pillow turns its passes around there
    if height * width >= _SMALLEST_COMPILED and not slim and _same_as_pillow():
        return _resize_compiled(image, height, width).transpose(1, 2, 0)
    return _resize_pillow(image, height, width)


def to_planes(image: np.ndarray) -> np.ndarray:
    """Turns an image (H, W, C) into contiguous planes (C, H, W).

    The memory is not copied if it is in that order already. Mirrored planes (a view with negative
    strides) are turned by OpenCV, which takes half the time of NumPy.
    """
    if image.strides[1] != -1:
        return np.ascontiguousarray(image.transpose(2, 0, 1))
    import cv2

    return np.stack([cv2.flip(plane, 1) for plane in image[:, ::-1].transpose(2, 0, 1)])


def _resize_pillow(image: np.ndarray, height: int, width: int) -> np.ndarray:
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def _resize_compiled(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns (3, H', W'); the planes lie on their side in the first pass, which is along x."""
    import cv2

    from mask_rcnn_repro.data.loading.resize_kernels import resample

    old_height, old_width = image.shape[:2]
    lying = np.empty((3, old_width, old_height), np.uint8)
    cv2.split(cv2.transpose(np.ascontiguousarray(image)), list(lying))
    wide_lying = np.empty((3, width, old_height), np.uint8)
    resample(lying, *_weights(old_width, width), wide_lying)
    wide = np.empty((3, old_height, width), np.uint8)
    for plane, target in zip(wide_lying, wide, strict=True):
        cv2.transpose(plane, target)
    out = np.empty((3, height, width), np.uint8)
    resample(wide, *_weights(old_height, height), out)
    return out


@functools.lru_cache(maxsize=256)
def _weights(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sums of one pass, as Pillow's ``precompute_coeffs`` and ``normalize_coeffs_8bpc``.

    Args:
        old: Pixels in the source.
        new: Pixels in the result.

    Returns:
        First source pixel (new,), number of pixels (new,), fixed-point weights (new, T); int32.
    """
    scale = old / new
    reach = max(scale, 1.0)  # half the width of the triangle: reducing averages more pixels
    center = (np.arange(new) + 0.5) * scale
    first = np.maximum((center - reach + 0.5).astype(np.int64), 0)
    count = np.minimum((center + reach + 0.5).astype(np.int64), old) - first
    tap = np.arange(count.max())
    offset = (tap + first[:, None] - center[:, None] + 0.5) * (1.0 / reach)
    weights = np.where(tap < count[:, None], np.maximum(1 - np.abs(offset), 0), 0)
    total = np.cumsum(weights, axis=1)[:, -1:]  # summed from the first on, not pairwise
    whole = (0.5 + weights / total * (1 << 22)).astype(np.int32)
    return first.astype(np.int32), count.astype(np.int32), whole


@functools.cache
def _same_as_pillow() -> bool:
    """Returns whether compiled resizing equals the installed Pillow's on a test image."""
    if not compiled.HAVE_NUMBA:
        return False
    image = np.random.RandomState(0).randint(0, 256, (61, 47, 3), np.uint8)
    return all(
        np.array_equal(
            _resize_compiled(image, *size).transpose(1, 2, 0), _resize_pillow(image, *size)
        )
        for size in ((80, 102), (13, 30), (61, 100))
    )
