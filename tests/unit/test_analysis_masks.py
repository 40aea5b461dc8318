"""Boundaries, masks against boxes, and error types of keypoints, by hand and by brute force."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_util

from mask_rcnn_repro.data import register_custom
from mask_rcnn_repro.data.keypoint_metadata import COCO_PERSON_SIGMAS
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation.coco.backends import coco_metrics
from mask_rcnn_tools.analyze.cli import parse_args
from mask_rcnn_tools.analyze.evaluation_data import load_evaluation_data
from mask_rcnn_tools.analyze.keypoint_errors import KINDS, keypoint_errors
from mask_rcnn_tools.analyze.mask_quality import (
    boundary_ap,
    boundary_iou,
    mask_boundary,
    mask_quality,
    mask_quality_by_size,
)
from mask_rcnn_tools.analyze.results import analyze

from .analysis_helpers import CLASSES, found, random_scene, scene, truth, write_scene

CAT = 3


def _rle(mask):
    return mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))


def _rectangle(x, y, w, h, side=100):
    mask = np.zeros((side, side), bool)
    mask[y : y + h, x : x + w] = True
    return mask


def test_boundary_of_squares_by_hand():
    # the diagonal is 141.4, so the boundary is 3 pixels wide
    x, y, strip = mask_boundary(_rle(_rectangle(20, 30, 20, 10)))
    assert (x, y, strip.shape) == (20, 30, (10, 20))
    assert strip.sum() == 20 * 10 - 14 * 4
    # the image's edge is contour as well
    assert mask_boundary(_rle(_rectangle(0, 0, 100, 100)))[2].sum() == 100**2 - 94**2
    assert mask_boundary(_rle(_rectangle(0, 0, 0, 0)))[2].size == 0


def test_boundary_iou_by_hand():
    square = mask_boundary(_rle(_rectangle(20, 20, 20, 20)))
    inside = mask_boundary(_rle(_rectangle(23, 23, 14, 14)))
    assert boundary_iou(square, square) == 1
    assert boundary_iou(square, inside) == 0  # one begins where the other ends
    assert boundary_iou(square, mask_boundary(_rle(_rectangle(60, 60, 20, 20)))) == 0
    empty = mask_boundary(_rle(_rectangle(0, 0, 0, 0)))
    assert boundary_iou(empty, empty) == boundary_iou(square, empty) == 0
    # moved by 3 to the right: 20 wide, 17 in common; of the 17 x 20 block's 340 pixels those are
    # in both boundaries that lie in the 3 rows above and below: 17 x 6, and no column of the sides
    moved = mask_boundary(_rle(_rectangle(23, 20, 20, 20)))
    area = 20 * 20 - 14 * 14
    assert boundary_iou(square, moved) == pytest.approx(102 / (2 * area - 102))


def _by_definition(mask, distance):
    """Pixels of the mask with a pixel off it, or off the image, within the distance."""
    padded = np.pad(mask, distance)
    height, width = mask.shape
    windows = [
        padded[i : i + height, j : j + width]
        for i in range(2 * distance + 1)
        for j in range(2 * distance + 1)
    ]
    return mask & ~np.logical_and.reduce(windows)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(5, 60), st.integers(5, 60), st.floats(0.02, 0.1))
def test_boundary_iou_is_that_of_the_definition(seed, height, width, ratio):
    rng = np.random.default_rng(seed)
    distance = max(1, round(ratio * np.hypot(height, width)))
    masks, strips, edges = [], [], []
    for _ in range(2):
        mask = np.zeros((height, width), bool)
        for _ in range(rng.integers(0, 4)):
            y, x = rng.integers(0, height), rng.integers(0, width)
            mask[y : y + rng.integers(1, height), x : x + rng.integers(1, width)] ^= True
        masks.append(mask)
        strips.append(mask_boundary(_rle(mask), ratio))
        edges.append(_by_definition(mask, distance))
    union = (edges[0] | edges[1]).sum()
    expected = (edges[0] & edges[1]).sum() / union if union else 0
    assert boundary_iou(*strips) == pytest.approx(expected)


def test_boundary_ap_lies_below_mask_ap_and_is_100_for_the_truth(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    annotations, detections = random_scene(1, crowds=True)
    perfect = [
        found(a["image_id"], a["category_id"], 0.9, a["bbox"])
        for a in annotations
        if not a["iscrowd"]
    ]
    metrics = boundary_ap(scene(tmp_path / "a", annotations, perfect, images=20))
    assert metrics["AP"] == pytest.approx(100)
    assert metrics["per_class"] == pytest.approx({"cat": 100, "dog": 100, "cow": 100})
    data = scene(tmp_path / "b", annotations, detections, images=20)
    masks = coco_metrics(data.coco, data.results("segm"), "segm", backend="pycocotools")
    boundaries = boundary_ap(data)
    for name in ("AP", "AP50", "AP75"):
        assert boundaries[name] <= masks[name]
    assert 0 < boundaries["AP"] < masks["AP"] - 1


@pytest.mark.parametrize(
    ("classes", "limit", "expected"),
    [(3, 100, 1), (3, 200, 1), (1, 200, 1), (1, 100, 84 / 101), (3, 10, 26 / 101)],
)
def test_the_limit_of_detections_is_cocos(tmp_path, classes, limit, expected):
    """Of 120 objects in one image, all found exactly, recall 100/120 reaches recalls 0 to 0.83."""
    places = [[16.0 * (n % 12), 16.0 * (n // 12), 14.0, 14.0] for n in range(120)]
    ids = [list(CLASSES)[n % classes] for n in range(120)]
    rows = list(zip(ids, places, strict=True))
    annotations = [truth(1, category, box) for category, box in rows]
    detections = [found(1, c, 1 - n / 1000, box) for n, (c, box) in enumerate(rows)]
    name, _, results = write_scene(tmp_path, annotations, detections, images=1)
    data = load_evaluation_data(name, [results], max_detections=limit)
    args = parse_args(["--run", "x", "--parts", "errors", "masks", "--max-detections", str(limit)])
    analysis = analyze(data, args)
    assert analysis.errors["segm"].ap == pytest.approx(100 * expected)
    for values in (analysis.mask_ap, analysis.boundary_ap):
        assert values["AP"] == values["AP50"] == pytest.approx(100 * expected)


def test_an_object_without_a_mask_costs_no_other_mask(tmp_path):
    boxes = [[16.0 * n, 20.0, 14.0, 14.0] for n in range(4)]
    annotations = [truth(1, CAT, box) for box in boxes]
    annotations[0]["segmentation"] = [[]]
    detections = [found(1, CAT, 0.9 - n / 10, box) for n, box in enumerate(boxes)]
    detections.pop()  # one with a mask is not found
    data = scene(tmp_path, annotations, detections)
    analysis = analyze(data, parse_args(["--run", "x", "--score-threshold", "0.1"]))
    # 101 recalls: 2/3 of the masks give 67 of them, 3/4 of the boxes 76
    assert analysis.mask_ap["AP"] == analysis.boundary_ap["AP"] == pytest.approx(6700 / 101)
    assert analysis.errors["segm"].ap == pytest.approx(6700 / 101)
    assert analysis.errors["bbox"].ap == pytest.approx(7600 / 101)
    assert analysis.errors["segm"].counts["Miss"] == 1
    assert len(analysis.masks) == 2  # pairs of masks
    assert (analysis.images.true[0], analysis.images.false[0], analysis.images.unfound[0]) == (
        (2, 0, 1)
    )
    assert analysis.confusion.counts.sum() == 3
    assert any(note.startswith("1 of 4 annotations have no mask") for note in analysis.notes)


def test_masks_of_good_boxes_are_measured(tmp_path):
    square = [10, 10, 60, 60]
    detection = found(1, CAT, 0.9, square)
    detection["segmentation"] = _text(_rectangle(10, 10, 30, 60, 200))
    annotation = truth(1, CAT, square)
    annotation["segmentation"] = _text(_rectangle(10, 10, 60, 60, 200))
    annotation["area"] = 3600.0
    quality = mask_quality(scene(tmp_path, [annotation], [detection]))
    assert quality.box_iou.tolist() == [1]
    assert quality.mask_iou.tolist() == [0.5]
    # 6 wide (diagonal 283): 18 x 48 and 48 x 48 pixels are no boundary. The half's outer sides
    # are in both: 6 x 60 and twice 24 x 6, of its inner side the ends: twice 6 x 6... all of it
    own, other = 30 * 60 - 18 * 48, 3600 - 48 * 48
    common = 6 * 60 + 2 * 24 * 6
    assert quality.boundary_iou == pytest.approx([common / (own + other - common)])
    by_size = mask_quality_by_size(quality)
    assert by_size["medium"]["pairs"] == 1
    assert by_size["small"]["pairs"] == 0
    assert np.isnan(by_size["small"]["mask_iou"])


def _text(mask):
    rle = _rle(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def _person(x):
    """17 labelled keypoints, 40 pixels apart, of a person with an area of 100 x 100."""
    points = np.zeros((17, 3))
    points[:, 0] = x + 40 * (np.arange(17) % 4)
    points[:, 1] = 40 * (np.arange(17) // 4)
    points[:, 2] = 2
    return points


def _keypoint_scene(folder, persons, detections, names=None):
    names = list(names or COCO_PERSON_KEYPOINT_NAMES)
    common = {"image_id": 1, "category_id": 1}
    content = {
        "images": [{"id": 1, "width": 800, "height": 300, "file_name": "1.png"}],
        "categories": [{"id": 1, "name": "person", "keypoints": names, "skeleton": []}],
        "annotations": [
            {
                **common,
                "id": n,
                "bbox": [p[:, 0].min(), 0, 120, 160],
                "area": 1e4,
                "iscrowd": 0,
                "keypoints": p.ravel().tolist(),
                "num_keypoints": int((p[:, 2] > 0).sum()),
            }
            for n, p in enumerate(persons, start=1)
        ],
    }
    (folder / "gt.json").write_text(json.dumps(content))
    rows = [{**common, "score": s, "keypoints": p.ravel().tolist()} for s, p in detections]
    (folder / "results.json").write_text(json.dumps(rows))
    name = f"keypoints_{hashlib.md5(str(folder).encode()).hexdigest()}"
    register_custom(name, str(folder / "gt.json"), str(folder))
    return load_evaluation_data(name, [folder / "results.json"])


def _away(index, similarity):
    """Pixels at which a keypoint has this similarity."""
    return np.sqrt(-np.log(similarity) * 2 * 1e4 * (2 * COCO_PERSON_SIGMAS[index]) ** 2)


def test_keypoint_errors_by_hand(tmp_path):
    left, right = _person(0), _person(400)
    predicted = left.copy()
    predicted[0, 0] += _away(0, 0.9)  # nose: good
    predicted[1, 0] += _away(1, 0.7)  # left eye: jitter
    predicted[[5, 6]] = predicted[[6, 5]]  # shoulders: inversion
    predicted[9, :2] = right[9, :2]  # left wrist: that of the other person
    predicted[10, :2] = right[9, :2]  # right wrist: the other's left one
    predicted[15, :2] = (300, 250)  # left ankle: nowhere
    left[16, 2] = 0  # right ankle: not labelled
    errors = keypoint_errors(_keypoint_scene(tmp_path, [left, right], [(0.9, predicted)]))
    assert errors.detection.tolist() == [0]
    kinds = ["" if k < 0 else KINDS[k] for k in errors.kind[0]]
    assert kinds[:2] == ["good", "jitter"]
    assert kinds[5:7] == ["inversion", "inversion"]
    assert kinds[9:11] == ["swap", "swap"]
    assert kinds[15:] == ["miss", ""]
    assert {name: int(n.sum()) for name, n in errors.counts().items()} == {
        "good": 10,
        "jitter": 1,
        "inversion": 2,
        "swap": 2,
        "miss": 1,
    }


def test_what_fixing_keypoints_gains_by_hand(tmp_path):
    person = _person(0)
    predicted = person.copy()
    predicted[:, 0] += [_away(i, 0.6) for i in range(17)]
    errors = keypoint_errors(_keypoint_scene(tmp_path, [person], [(0.9, predicted)]))
    assert (errors.kind == KINDS.index("jitter")).all()
    # OKS 0.6: found at 3 of 10 thresholds (0.5, 0.55, and 0.6 or not, by rounding); fixed: 0.85
    assert errors.ap == pytest.approx(25, abs=5.1)
    assert errors.ap + errors.delta["jitter"] == pytest.approx(75, abs=5.1)
    assert errors.delta["miss"] == errors.delta["swap"] == errors.delta["inversion"] == 0


def test_keypoints_without_sigmas_are_refused(tmp_path):
    names = [f"point_{i}" for i in range(17)]
    data = _keypoint_scene(tmp_path, [_person(0)], [(0.9, _person(0))], names)
    with pytest.raises(DataError, match="oks_sigmas"):
        keypoint_errors(data)


def test_results_go_back_and_forth(tmp_path):
    annotations, detections = random_scene(2, crowds=False)
    name, _, results = write_scene(tmp_path, annotations, detections, images=20)
    data = load_evaluation_data(name, [results])
    for task, field in (("bbox", "bbox"), ("segm", "segmentation")):
        rows = data.results(task)
        wanted = [(d["image_id"], d["category_id"], d["score"], str(d[field])) for d in detections]
        ours = [(d["image_id"], d["category_id"], d["score"], str(d[field])) for d in rows]
        assert sorted(ours) == sorted(wanted)
