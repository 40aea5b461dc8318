"""For tests of the compiled RoI loops: layers, RoIs, torchvision's way to the same numbers."""

import pytest
import torch
from torchvision.ops import roi_align, roi_pool

from mask_rcnn_repro.modeling.accel.compiled_roi_layers import Form, round_boxes
from mask_rcnn_repro.utils import compiled

FORMS = {
    "mean": Form("mean", (7, 7), 2),
    "mean, adaptive": Form("mean", (3, 5), 0),
    "mean, half-pixel, adaptive": Form("mean", (2, 2), 0, half_pixel=True),
    "mean, half-pixel": Form("mean", (4, 7), 3, half_pixel=True),
    "mean, rounded": Form("mean", (7, 7), 2, rounded=True),
    "max": Form("max", (7, 7), 2),
    "max, rounded": Form("max", (2, 3), 3, rounded=True),
    "max, one sample": Form("max", (3, 3), 1, half_pixel=True),
    "cells": Form("cells", (7, 5), 0),
}

needs_numba = pytest.mark.skipif(not compiled.HAVE_NUMBA, reason="needs Numba")


def torchvision_pool(features, rois, scale, form):
    """The same by torchvision's operators and max_pool2d."""
    rows, columns = form.output_size
    if form.kind == "cells":
        return roi_pool(features, rois, (rows, columns), scale)
    if form.rounded:
        rois, scale = torch.cat([rois[:, :1], round_boxes(rois[:, 1:], scale)], dim=1), 1.0
    n = form.samples
    if form.kind == "mean":
        return roi_align(features, rois, (rows, columns), scale, n, form.half_pixel)
    samples = roi_align(features, rois, (n * rows, n * columns), scale, 1, form.half_pixel)
    return torch.nn.functional.max_pool2d(samples, n)


def random_rois(count, images, width, height, generator, dtype=torch.float32):
    """Boxes of 8 to 300 px about an image, some of them partly outside."""
    side = 8 * torch.exp(torch.rand(count, 2, generator=generator, dtype=torch.float64) * 3.6)
    middle = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    middle = middle * torch.tensor([width, height])
    index = torch.randint(images, (count, 1), generator=generator)
    return torch.cat([index, middle - side / 2, middle + side / 2], dim=1).to(dtype)


def values_and_gradient(pool, features, weight=None):
    features = features.detach().requires_grad_()
    out = pool(features)
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    (gradient,) = torch.autograd.grad(out, features, weight)
    return out.detach(), gradient
