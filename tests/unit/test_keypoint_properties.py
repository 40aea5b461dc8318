"""Properties of keypoints on their way from the json to the loss and back to results.

Coordinates are multiples of 1/4 pixel, which flips and powers of two keep exact in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, BoxMode, Instances, Keypoints
from detectron2.utils.events import EventStorage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mask_rcnn_repro.data import MaskRCNNMapper
from mask_rcnn_repro.data.coco.load import load_coco_json
from mask_rcnn_repro.data.keypoint_metadata import keypoint_flip_indices
from mask_rcnn_repro.evaluation import instances_to_results
from mask_rcnn_repro.modeling import KeypointHead

from .data_helpers import write

SIDE = 56  # of a heatmap
FLIP = T.RandomFlip(prob=1.0)

seeds = st.integers(0, 2**31 - 1)
quick = settings(max_examples=15, deadline=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keypoints")


def quarters(values: np.ndarray) -> np.ndarray:
    return np.round(np.asarray(values) * 4) / 4


def random_record(folder: Path, seed: int, num_keypoints: int = 17) -> dict[str, Any]:
    """An image of noise with 1 to 3 instances: box, polygon, keypoints of every visibility.

    Keypoints lie around the box, the first in its middle.
    """
    rng = np.random.RandomState(seed)
    height, width = rng.randint(16, 48, 2).tolist()
    file = folder / f"{seed}.png"
    Image.fromarray(rng.randint(0, 255, (height, width, 3), dtype=np.uint8)).save(file)
    annotations = []
    for _ in range(rng.randint(1, 4)):
        size = quarters(rng.uniform(4, [width, height]))
        corner = quarters(rng.uniform(0, [width, height] - size))
        (x1, y1), (x2, y2) = corner.tolist(), (corner + size).tolist()
        places = corner + rng.uniform(-0.2, 1.2, (num_keypoints, 2)) * size
        visibility = rng.choice([0, 1, 2], num_keypoints)
        places[0], visibility[0] = corner + size / 2, 2
        places = quarters(np.clip(places, 0, [width, height])) * (visibility > 0)[:, None]
        annotations.append(
            {
                "bbox": [x1, y1, x2, y2],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": 0,
                "segmentation": [[x1, y1, x2, y1, x2, y2]],
                "keypoints": np.column_stack([places, visibility]).ravel().tolist(),
            }
        )
    size = {"height": height, "width": width}
    return {"file_name": str(file), "image_id": 1, **size, "annotations": annotations}


def map_record(record: dict[str, Any], *augmentations: Any, **options: Any) -> dict[str, Any]:
    options = {"use_instance_mask": True, "use_keypoint": True, **options}
    mapper = MaskRCNNMapper(is_train=True, augmentations=list(augmentations), **options)
    return mapper(record)


def as_record(mapped: dict[str, Any], file: Path) -> dict[str, Any]:
    """What the mapper gave, as if it were a data set's image of the same size."""
    Image.fromarray(mapped["image"].permute(1, 2, 0).numpy()[:, :, ::-1].copy()).save(file)
    instances = mapped["instances"]
    annotations = [
        {
            "bbox": box.tolist(),
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": int(label),
            "segmentation": [polygon.tolist() for polygon in polygons],
            "keypoints": keypoints.flatten().tolist(),
        }
        for box, label, polygons, keypoints in zip(
            instances.gt_boxes.tensor,
            instances.gt_classes,
            instances.gt_masks.polygons,
            instances.gt_keypoints.tensor,
            strict=True,
        )
    ]
    return {**mapped, "file_name": str(file), "annotations": annotations}


# --- flips ------------------------------------------------------------------------------------


@quick
@given(seed=seeds, at_once=st.booleans())
def test_flipping_twice_is_the_identity(folder: Path, seed: int, at_once: bool) -> None:
    record = random_record(folder, seed)
    plain = map_record(record)
    if at_once:
        twice = map_record(record, FLIP, FLIP)
    else:
        once = map_record(record, FLIP)
        assert not torch.equal(once["image"], plain["image"])
        twice = map_record(as_record(once, folder / f"{seed}_flipped.png"), FLIP)
    assert torch.equal(twice["image"], plain["image"])
    found, expected = twice["instances"], plain["instances"]
    assert found.image_size == expected.image_size
    assert torch.equal(found.gt_boxes.tensor, expected.gt_boxes.tensor)
    assert torch.equal(found.gt_classes, expected.gt_classes)
    assert torch.equal(found.gt_keypoints.tensor, expected.gt_keypoints.tensor)
    for mine, original in zip(found.gt_masks.polygons, expected.gt_masks.polygons, strict=True):
        np.testing.assert_array_equal(mine, original)


@st.composite
def skeletons(draw: st.DrawFn) -> tuple[list[str], list[tuple[str, str]]]:
    """Names in any order: pairs of a left and a right, and some in the middle."""
    parts = [f"{side}_{i}" for i in range(draw(st.integers(0, 4))) for side in ("left", "right")]
    parts += [f"middle_{i}" for i in range(draw(st.integers(0 if parts else 1, 3)))]
    names = draw(st.permutations(parts))
    lefts = [name for name in names if name.startswith("left")]
    pairs = [(name, name.replace("left", "right")) for name in lefts]
    return names, [pair[::-1] if draw(st.booleans()) else pair for pair in pairs]


@quick
@given(seed=seeds, skeleton=st.one_of(st.none(), skeletons()))
def test_left_becomes_right(
    folder: Path, seed: int, skeleton: tuple[list[str], list[tuple[str, str]]] | None
) -> None:
    """By name: where the left one was, mirrored, the right one is. COCO's where none is given."""
    if skeleton is None:
        names, options = list(COCO_PERSON_KEYPOINT_NAMES), {}
    else:
        names, pairs = skeleton
        options = {"keypoint_hflip_indices": keypoint_flip_indices(names, pairs)}
    record = random_record(folder, seed, len(names))
    plain, flipped = (
        map_record(record, *flips, **options)["instances"].gt_keypoints.tensor
        for flips in ((), (FLIP,))
    )
    for name in names:
        side, _, part = name.partition("_")
        swapped = {"left": f"right_{part}", "right": f"left_{part}"}.get(side, name)
        was, now = plain[:, names.index(name)], flipped[:, names.index(swapped)]
        mirrored = torch.stack([record["width"] - was[:, 0], was[:, 1], was[:, 2]], dim=1)
        mirrored[was[:, 2] == 0] = 0
        assert torch.equal(now, mirrored), name


# --- crops and sizes --------------------------------------------------------------------------


@quick
@given(seed=seeds)
def test_what_a_crop_cuts_off_is_not_labelled(folder: Path, seed: int) -> None:
    record = random_record(folder, seed)
    height, width = record["height"], record["width"]
    for annotation in record["annotations"]:  # all of the image, so that none is cut off
        annotation["bbox"] = [0.0, 0.0, float(width), float(height)]
    rng = np.random.RandomState(seed)
    w, h = rng.randint(1, [width, height]).tolist()
    x, y = rng.randint(0, width - w + 1), rng.randint(0, height - h + 1)
    options = {"use_instance_mask": False}
    before = map_record(record, **options)["instances"].gt_keypoints.tensor
    after = map_record(record, T.CropTransform(x, y, w, h), **options)["instances"]
    assert after.image_size == (h, w)
    assert len(after) == len(before)
    expected = before - torch.tensor([x, y, 0.0])
    columns, rows, visible = before.unbind(dim=2)
    inside = (columns >= x) & (columns <= x + w) & (rows >= y) & (rows <= y + h)
    expected[~inside | (visible == 0)] = 0
    assert torch.equal(after.gt_keypoints.tensor, expected)


def one_person(folder: Path, pixels: np.ndarray, keypoints: list[list[int]]) -> dict[str, Any]:
    """Reads a json with pixel indices, as COCO has them."""
    height, width = pixels.shape[:2]
    person = {
        **{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0},
        "bbox": [0.0, 0.0, width, height],
        "keypoints": [number for point in keypoints for number in point],
    }
    data = {
        "images": [{"id": 1, "file_name": "1.png", "height": height, "width": width}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [person],
    }
    keys = write(folder, data, images=False)
    Image.fromarray(pixels).save(folder / "images" / "1.png")
    return load_coco_json(*keys).dicts[0]


@quick
@given(data=st.data(), factor=st.sampled_from([2, 3, 5]), flip=st.booleans())
def test_keypoints_stay_on_their_pixel(
    folder: Path, data: st.DataObject, factor: int, flip: bool
) -> None:
    """A white pixel, enlarged to a blot, has its centre where the keypoint is: at (i + 0.5) s."""
    width, height = data.draw(st.integers(9, 20)), data.draw(st.integers(9, 20))
    column = data.draw(st.integers(2, width - 3))  # the blot does not reach the image's edge
    row = data.draw(st.integers(2, height - 3))
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[row, column] = 255
    record = one_person(folder, pixels, [[column, row, 2]] + [[0, 0, 0]] * 16)
    steps = [T.Resize((height * factor, width * factor)), *[FLIP] * flip]
    mapped = map_record(record, *steps, use_instance_mask=False)
    blot = mapped["image"].double().mean(dim=0)
    blot /= blot.sum()
    places = [torch.arange(side) + 0.5 for side in blot.shape]
    centre = [(blot.sum(0) * places[1]).sum(), (blot.sum(1) * places[0]).sum()]
    x, y, visibility = mapped["instances"].gt_keypoints.tensor[0, 0].tolist()
    assert [x, y] == pytest.approx([float(c) for c in centre], abs=0.02)
    from_left = width - 1 - column if flip else column
    assert [x, y, visibility] == [(from_left + 0.5) * factor, (row + 0.5) * factor, 2]


@quick
@given(data=st.data())
def test_results_are_the_annotated_pixels_again(folder: Path, data: st.DataObject) -> None:
    """json -> mapper at any size -> predicted as they are -> result, in pixel indices."""
    width, height = data.draw(st.integers(5, 40)), data.draw(st.integers(5, 40))
    indices = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1), st.integers(0, 2))
    keypoints = [list(p) for p in data.draw(st.lists(indices, min_size=17, max_size=17))]
    record = one_person(folder, np.zeros((height, width, 3), np.uint8), keypoints)
    size = data.draw(st.tuples(st.integers(5, 90), st.integers(5, 90)))
    truth = map_record(record, T.Resize(size), use_instance_mask=False)["instances"]
    predicted = Instances(
        truth.image_size,
        pred_boxes=truth.gt_boxes,
        scores=torch.ones(1),
        pred_classes=truth.gt_classes,
        pred_keypoints=truth.gt_keypoints.tensor,
    )
    (result,) = instances_to_results(predicted, height, width, 1)
    found = np.array(result["keypoints"]).reshape(17, 3)
    labelled = np.array([v > 0 for _, _, v in keypoints])
    np.testing.assert_allclose(found[labelled], np.array(keypoints)[labelled], atol=1e-4)
    assert (truth.gt_keypoints.tensor[0, ~labelled] == 0).all()


# --- heatmaps ---------------------------------------------------------------------------------


def bare_head(num_keypoints: int, **options: Any) -> KeypointHead:
    """A head without layers: its input is the logits."""
    head = KeypointHead(
        ShapeSpec(channels=1), num_keypoints=num_keypoints, num_conv=1, conv_dim=1, **options
    )
    head.layers = lambda logits: logits
    return head


def loss_of(logits: torch.Tensor, boxes: torch.Tensor, keypoints: torch.Tensor) -> torch.Tensor:
    instances = Instances(
        (999, 999), proposal_boxes=Boxes(boxes), gt_keypoints=Keypoints(keypoints)
    )
    with EventStorage():
        loss: torch.Tensor = bare_head(keypoints.shape[1])(logits, [instances])["loss_keypoint"]
    return loss


def target_heatmaps(boxes: torch.Tensor, keypoints: torch.Tensor) -> torch.Tensor:
    """(R, K, 56, 56): where the loss pulls the logits up, 1; elsewhere 0."""
    logits = torch.zeros(*keypoints.shape[:2], SIDE, SIDE, requires_grad=True)
    loss_of(logits, boxes, keypoints).backward()
    return (logits.grad < 0).float()


def decoded(heatmaps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """(R, K, 3): what the head predicts from these logits."""
    instances = Instances((999, 999), pred_boxes=Boxes(boxes))
    with torch.no_grad():
        bare_head(heatmaps.shape[1]).eval()(heatmaps, [instances])
    return instances.pred_keypoints


def random_boxes(rng: np.random.RandomState, count: int, low: float, high: float) -> torch.Tensor:
    corner, size = rng.uniform(0, 200, (count, 2)), rng.uniform(low, high, (count, 2))
    return torch.tensor(quarters(np.hstack([corner, corner + size])), dtype=torch.float32)


def points_in(rng: np.random.RandomState, boxes: torch.Tensor, spread: float = 0.0) -> torch.Tensor:
    """Five visible keypoints each, in the boxes or up to `spread` box sides outside; (R, 5, 3)."""
    where = rng.uniform(-spread, 1 + spread, (len(boxes), 5, 2))
    box = boxes.numpy()[:, None]
    places = quarters(box[..., :2] + where * (box[..., 2:] - box[..., :2]))
    visible = np.full((len(boxes), 5, 1), 2.0)
    return torch.tensor(np.concatenate([places, visible], axis=2), dtype=torch.float32)


@quick
@given(seed=seeds)
def test_target_heatmaps_are_decoded_to_the_keypoints(seed: int) -> None:
    """Up to a cell: half of one from where in it the keypoint is, half from whole pixels."""
    rng = np.random.RandomState(seed)
    boxes = random_boxes(rng, 3, SIDE, 300)
    keypoints = points_in(rng, boxes)
    heatmaps = target_heatmaps(boxes, keypoints)
    assert (heatmaps.sum(dim=(2, 3)) == 1).all()
    cells = (boxes[:, None, 2:] - boxes[:, None, :2]) / SIDE
    error = (decoded(20 * heatmaps, boxes)[:, :, :2] - keypoints[:, :, :2]).abs()
    assert (error <= cells + 1e-3).all()
    assert loss_of(1000 * heatmaps, boxes, keypoints) == 0


@quick
@given(seed=seeds)
def test_smooth_heatmaps_in_small_boxes_are_decoded_to_the_pixel(seed: int) -> None:
    """Boxes narrower than a heatmap are decoded in whole pixels, so up to a pixel."""
    rng = np.random.RandomState(seed)
    boxes = random_boxes(rng, 3, 1, SIDE)
    keypoints = points_in(rng, boxes)
    cells = target_heatmaps(boxes, keypoints).flatten(2).argmax(2)[..., None, None]
    places = torch.arange(SIDE)
    away = (places[:, None] - cells // SIDE) ** 2 + (places - cells % SIDE) ** 2
    error = (decoded(-away / 8, boxes)[:, :, :2] - keypoints[:, :, :2]).abs()
    assert (error <= 1 + 1e-3).all()


@quick
@given(seed=seeds)
def test_mirrored_heatmaps_are_decoded_to_mirrored_keypoints(seed: int) -> None:
    rng = np.random.RandomState(seed)
    boxes, width = random_boxes(rng, 3, 1, 120), 400
    heatmaps = torch.tensor(rng.normal(0, 3, (3, 2, SIDE, SIDE)), dtype=torch.float32)
    mirrored = boxes[:, [2, 1, 0, 3]] * torch.tensor([-1.0, 1, -1, 1])
    mirrored += torch.tensor([width, 0, width, 0])
    found, expected = decoded(heatmaps.flip(3), mirrored), decoded(heatmaps, boxes)
    expected[..., 0] = width - expected[..., 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@quick
@given(seed=seeds)
def test_target_heatmaps_of_a_flipped_image_are_flipped(folder: Path, seed: int) -> None:
    """Mirrored, left and right channels swapped; a keypoint on a cell's edge may change cell."""
    record = random_record(folder, seed)
    plain, flipped = (map_record(record, *f)["instances"] for f in ((), (FLIP,)))
    heatmaps, found = (
        target_heatmaps(i.gt_boxes.tensor, i.gt_keypoints.tensor) for i in (plain, flipped)
    )
    expected = heatmaps.flip(3)[:, keypoint_flip_indices()]
    assert heatmaps.sum() > 0
    assert torch.equal(found.sum(dim=(2, 3)), expected.sum(dim=(2, 3)))  # the same are trained on
    assert torch.equal(found.sum(dim=3), expected.sum(dim=3))  # in the same rows
    columns = torch.arange(SIDE) + 1.0
    moved = (found.sum(2) * columns).sum(2) - (expected.sum(2) * columns).sum(2)
    boxes = flipped.gt_boxes.tensor[:, None]
    place = flipped.gt_keypoints.tensor[..., 0] - boxes[..., 0]
    place = place / (boxes[..., 2] - boxes[..., 0]) * SIDE
    on_edge = (place - place.round()).abs() < 1e-3
    assert (moved.abs() <= on_edge).all()


@quick
@given(seed=seeds)
def test_occluded_keypoints_are_trained_on_and_unlabelled_ones_are_not(seed: int) -> None:
    rng = np.random.RandomState(seed)
    boxes = random_boxes(rng, 2, 8, 200)
    visible = points_in(rng, boxes, spread=0.2)
    logits = torch.tensor(rng.normal(0, 2, (2, 5, SIDE, SIDE)), dtype=torch.float32)
    logits.requires_grad_()
    chosen = torch.tensor(rng.rand(2, 5) < 0.5)

    def outcome(value: float, **moved: float) -> tuple[torch.Tensor, torch.Tensor]:
        keypoints = visible.clone()
        keypoints[..., 2][chosen] = value
        keypoints[..., 0][chosen] += moved.get("by", 0.0)
        loss = loss_of(logits, boxes, keypoints)
        return loss.detach(), torch.autograd.grad(loss, logits)[0]

    occluded, seen = outcome(1.0), outcome(2.0)
    assert torch.equal(occluded[0], seen[0]) and torch.equal(occluded[1], seen[1])
    unlabelled, elsewhere = outcome(0.0), outcome(0.0, by=1.0)
    assert torch.equal(unlabelled[0], elsewhere[0])
    assert (unlabelled[1][chosen] == 0).all()
    places = visible[..., :2]
    inside = (places >= boxes[:, None, :2]) & (places <= boxes[:, None, 2:])
    trained = (unlabelled[1] != 0).flatten(2).any(2)
    assert torch.equal(trained, inside.all(dim=2) & ~chosen)
