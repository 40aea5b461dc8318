"""Box voting: by hand, and against plain loops in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mask_rcnn_repro.modeling.inference import test_time_augmentation
from mask_rcnn_repro.modeling.inference.test_time_augmentation import vote


def voted(boxes, scores, classes, keep, threshold):
    boxes, scores = torch.tensor(boxes).double().reshape(-1, 4), torch.tensor(scores)
    found = vote(boxes, scores, torch.tensor(classes), torch.tensor(keep, dtype=int), threshold)
    return found.tolist()


def test_by_hand():
    """The kept box of 10 x 10; overlaps 1, 90/100, 80/100 and 1 of another class."""
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 8, 10], [0, 0, 10, 10], [50, 50, 60, 60]]
    scores = [0.6, 0.3, 0.1, 0.5, 0.2]
    classes = [0, 0, 0, 1, 0]
    # (0.6 * 10 + 0.3 * 9) / 0.9: an overlap equal to the threshold votes
    found = voted(boxes, scores, classes, [0], 0.9)
    np.testing.assert_allclose(found, [[0, 0, 10, 8.7 / 0.9]], rtol=1e-7)
    found = voted(boxes, scores, classes, [0, 3], 0.75)
    expected = [[0, 0, 6 + 3 + 0.8, 6 + 2.7 + 1], [0, 0, 10, 10]]  # the scores' sum is 1
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_a_box_without_area_and_no_box():
    """Its overlap with itself is not defined."""
    assert voted([[3, 4, 3, 9], [0, 0, 5, 5]], [0.5, 0.9], [0, 0], [0], 0.5) == [[3, 4, 3, 9]]
    assert voted([], [], [], [], 0.5) == []


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def candidates(seed, count=60):
    """Boxes around few centers, with scores and classes."""
    random = np.random.default_rng(seed)
    centers = random.uniform(20, 80, (4, 2))[random.integers(0, 4, count)]
    sides = random.uniform(18, 22, (count, 2))
    centers = centers + random.normal(0, 1, (count, 2))
    boxes = np.hstack([centers - sides / 2, centers + sides / 2])
    return boxes, random.uniform(0.05, 1, count), random.integers(0, 2, count)


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("at_once", [1, 7, 256])
def test_as_plain_loops(threshold, at_once, monkeypatch):
    monkeypatch.setattr(test_time_augmentation, "_VOTED_AT_ONCE", at_once)
    boxes, scores, classes = candidates(seed=int(10 * threshold))
    keep = np.argsort(-scores)[:20]
    expected = []
    for i in keep:
        voters = [
            j
            for j in range(len(boxes))
            if classes[j] == classes[i] and overlap(boxes[i], boxes[j]) >= threshold
        ]
        expected.append(np.average(boxes[voters], axis=0, weights=scores[voters]))
    found = vote(*map(torch.tensor, (boxes, scores, classes, keep)), threshold)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert np.abs(np.array(expected) - boxes[keep]).max() > 0.1  # votes matter
