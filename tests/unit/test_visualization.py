"""Pictures: colours, marks, labels, sheets."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from hypothesis import given, settings
from hypothesis import strategies as st

from mask_rcnn_tools.drawing.colors import BLACK, PALETTE, WHITE, color_of, text_color
from mask_rcnn_tools.drawing.labels import _free_place, _overlap, with_caption
from mask_rcnn_tools.drawing.marks import Mark, Skeleton
from mask_rcnn_tools.drawing.painter import auto_zoom, paint
from mask_rcnn_tools.drawing.results import ClassNames, annotation_marks, result_marks
from mask_rcnn_tools.drawing.sheet import contact_sheet
from mask_rcnn_tools.visualize_data.transforms import transform_annotation, transform_words

# Machado et al. 2009, severity 1, for linear RGB: without red cones, without green cones.
_SEEN = (
    np.eye(3),
    np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
)
_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
CLASSES = ClassNames(("cat", "dog"), (3, 17))


def lab(color: tuple[int, int, int], seen: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of a colour as it is seen."""
    values = np.array(color) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    xyz = _TO_XYZ @ np.clip(seen @ linear, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_colours_can_be_told_apart() -> None:
    assert len(set(PALETTE)) == len(PALETTE) == 20
    for one, other in itertools.combinations(PALETTE, 2):
        for seen in _SEEN:
            assert np.linalg.norm(lab(one, seen) - lab(other, seen)) > 17
    assert [color_of(i) for i in range(20)] == list(PALETTE)
    assert color_of(20) == PALETTE[0]
    assert text_color((240, 228, 66)) == BLACK and text_color((85, 0, 255)) == WHITE


def test_classes_have_their_colours_and_single_ones_their_instances() -> None:
    assert [CLASSES.color(i, n) for i, n in ((0, 5), (1, 6))] == [PALETTE[0], PALETTE[1]]
    person = ClassNames(("person",), (1,))
    assert person.color(0, 5) == PALETTE[5] and person.color(0, 5, "class") == PALETTE[0]
    assert CLASSES.color(1, 5, "instance") == PALETTE[5]


def test_small_images_alone_are_enlarged() -> None:
    sizes = {(480, 480): 1, (3000, 4000): 1, (479, 800): 2, (160, 202): 3, (1, 1): 16}
    assert {size: auto_zoom(*size) for size in sizes} == sizes
    assert paint(np.zeros((160, 202, 3), np.uint8), []).shape == (480, 606, 3)
    image = np.random.RandomState(0).randint(0, 256, (9, 7, 3), np.uint8)
    same = paint(image, [], zoom=1)
    assert np.array_equal(same, image) and not np.shares_memory(same, image)


def test_a_mask_is_where_its_pixels_are() -> None:
    mask = np.zeros((10, 12), bool)
    mask[2:5, 3:9] = True
    mask[4, 3] = False
    picture = paint(np.zeros((10, 12, 3), np.uint8), [Mark((200, 100, 50), mask=mask)], zoom=8)
    big = np.kron(mask, np.ones((8, 8), bool))
    assert np.array_equal(picture.any(axis=2), big)
    inner = picture[4 * 8 - 12, 6 * 8]
    assert inner.tolist() == [80, 40, 20]  # 0.4 of the colour over black
    shrunk = paint(np.zeros((10, 12, 3), np.uint8), [Mark((200, 100, 50), mask=mask)], zoom=0.5)
    assert shrunk.shape == (5, 6, 3) and shrunk.any()


def test_a_polygon_as_pycocotools_fills_it() -> None:
    polygon = np.array([5.0, 5.0, 60.0, 8.0, 70.0, 50.0, 20.0, 70.0])
    picture = paint(np.zeros((80, 90, 3), np.uint8), [Mark(WHITE, mask=[polygon])], zoom=1)
    rle = mask_util.merge(mask_util.frPyObjects([polygon.tolist()], 80, 90))
    expected = mask_util.decode(rle).astype(bool)
    ours = picture.any(axis=2)
    assert (ours & expected).sum() / (ours | expected).sum() > 0.95


def test_boxes_go_along_their_edges() -> None:
    mark = Mark((255, 0, 0), (10.0, 20.0, 40.0, 50.0))
    red = paint(np.zeros((60, 60, 3), np.uint8), [mark], zoom=1)[:, :, 0] > 100
    rows, columns = np.nonzero(red)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (18, 51, 8, 41)
    assert not red[22:48, 12:38].any()  # two pixels to either side of an edge


def test_keypoints_below_the_threshold_are_left_out() -> None:
    points = np.array([[10, 10, 0.9], [30, 10, 0.04], [50, 30, 0.06]], dtype=float)
    skeleton = Skeleton(((0, 1), (0, 2)), ("left", "right", ""))
    black = np.full((60, 60, 3), 90, np.uint8)
    mark = Mark((0, 200, 0), keypoints=points)
    picture = paint(black, [mark], skeleton=skeleton, zoom=1)
    assert picture[10, 10].tolist() == [255, 255, 255]  # left
    assert picture[10, 30].tolist() == [90, 90, 90]
    assert picture[30, 50].tolist() == [0, 200, 0]
    assert picture[20, 30].tolist() == [0, 200, 0]  # the line from the first to the third
    both = paint(black, [mark], skeleton=skeleton, zoom=1, keypoint_threshold=0.01)
    assert both[10, 30].tolist() == [0, 0, 0]  # right
    flags = Mark((0, 200, 0), keypoints=np.array([[10, 10, 1], [30, 10, 2], [50, 30, 0]], float))
    hidden = paint(black, [flags], skeleton=skeleton, zoom=1)
    assert hidden[10, 10].tolist() == [0, 0, 0]  # a dot in the white
    assert hidden[30, 50].tolist() == [90, 90, 90]


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_anything_can_be_drawn(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    number = st.floats(-100, 100)
    marks = []
    for _ in range(data.draw(st.integers(0, 4))):
        mask: Any = data.draw(
            st.none()
            | st.lists(st.lists(number, min_size=0, max_size=9), max_size=2)
            | st.floats(0, 1)
        )
        if isinstance(mask, float):
            mask = np.random.RandomState(0).rand(height, width) < mask
        elif mask is not None:
            mask = [np.array(polygon[: len(polygon) // 2 * 2]) for polygon in mask]
        points = data.draw(st.none() | st.lists(st.tuples(number, number, number), max_size=3))
        marks.append(
            Mark(
                data.draw(st.sampled_from(PALETTE)),
                data.draw(st.none() | st.tuples(number, number, number, number)),
                mask,
                None if points is None else np.array(points, dtype=float).reshape(-1, 3),
                data.draw(st.text(max_size=30)),
                data.draw(st.sampled_from(["object", "crowd", "ignored", "proposal"])),
            )
        )
    zoom = data.draw(st.none() | st.floats(0.1, 3))
    image = np.zeros((height, width, 3), np.uint8)
    picture = paint(image, marks, skeleton=Skeleton(((0, 1), (1, 5))), zoom=zoom)
    z = auto_zoom(height, width) if zoom is None else zoom
    assert picture.shape == (max(1, round(z * height)), max(1, round(z * width)), 3)
    assert picture.dtype == np.uint8 and not image.any()


def test_labels_do_not_cover_each_other() -> None:
    placed: list[Any] = []
    for _ in range(8):  # eight objects in one place
        placed.append(_free_place((100, 100, 180, 160), (50, 14), (300, 300), placed))
    assert sum(_overlap(a, b) for a, b in itertools.combinations(placed, 2)) == 0
    assert placed[0] == (100, 86, 150, 100)
    corner = _free_place((290, -5, 310, 30), (50, 14), (300, 300), [])
    assert corner == (250, 0, 300, 14)


def test_results_are_drawn_where_they_are() -> None:
    results = [
        {"category_id": 3, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.25},
        {"category_id": 17, "bbox": [5, 5, 1, 1], "score": 0.996, "keypoints": [7, 8, 0.5]},
    ]
    first, second = result_marks(results, CLASSES)
    assert (first.label, second.label) == ("dog 100%", "cat 25%")  # the best one first
    assert first.keypoints is not None and first.keypoints.tolist() == [[7.5, 8.5, 0.5]]
    assert second.box == (1.0, 2.0, 4.0, 6.0)


def test_uncompressed_run_lengths_are_crowds() -> None:
    rle = {"size": [2, 3], "counts": [1, 2, 3]}
    annotation = {"bbox": [0, 0, 2, 2], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}
    (mark,) = annotation_marks([{**annotation, "iscrowd": 1, "segmentation": rle}], CLASSES, (2, 3))
    assert (mark.kind, mark.label) == ("crowd", "dog crowd")
    assert isinstance(mark.mask, np.ndarray)
    assert mark.mask.tolist() == [[False, True, False], [True, False, False]]


def test_captions_and_sheets() -> None:
    picture = np.zeros((50, 200, 3), np.uint8)
    long = with_caption(picture, ["short", "word " * 20, "x" * 200], size=12)
    assert long.shape[1] == 200 and not long[-50:].any() and long[:-50].max() == 255
    assert with_caption(picture, []) is picture
    tall = np.zeros((300, 100, 3), np.uint8)
    sheet = contact_sheet([picture, tall, picture], ["a", "b", "c"], width=600, columns=2)
    assert sheet.shape[1] == 600 and sheet.shape[0] > 291 * 3 + 70
    assert contact_sheet([picture]).shape[1] == 1920


def test_transforms_in_words() -> None:
    transforms = T.TransformList(
        [
            T.ResizeTransform(100, 200, 50, 100),
            T.NoOpTransform(),
            T.HFlipTransform(100),
            T.CropTransform(3, 4, 20, 10),
            T.BlendTransform(np.float64(0), 0.25, 0.75),
            T.RotationTransform(10, 20, 30),
            T.PadTransform(1, 2, 3, 4),
        ]
    )
    words = transform_words(transforms)
    assert words[:3] == ["resized x 0.5", "mirrored", "cropped to 20 x 10 at (3, 4)"]
    assert words[3:5] == ["x 0.75 + 0.25 x (mean 0)", "rotated by 30 degrees"]
    assert words[5].startswith("Pad(x0=1, y0=2, x1=3, y1=4")
    assert transform_words(T.TransformList([T.ResizeTransform(5, 5, 5, 5)])) == []


def test_an_annotation_goes_with_its_image() -> None:
    annotation = {
        "bbox": [1, 2, 4, 6],
        "bbox_mode": BoxMode.XYWH_ABS,
        "segmentation": [[1, 2, 5, 2, 5, 8]],
        "keypoints": [1, 2, 2] * 17,
    }
    before = repr(annotation)
    moved = transform_annotation(annotation, T.TransformList([T.HFlipTransform(20)]), (10, 20))
    assert np.asarray(moved["bbox"]).tolist() == [15, 2, 19, 8] and "keypoints" not in moved
    assert moved["segmentation"][0].tolist() == [19, 2, 15, 2, 15, 8]
    assert repr(annotation) == before
    kept = transform_annotation(
        annotation, T.TransformList([T.NoOpTransform()]), (10, 20), np.arange(17)
    )
    assert kept["keypoints"].shape == (17, 3)


@pytest.mark.parametrize("value", [[], None, {}])
def test_nothing_to_fill(value: Any) -> None:
    annotation = {"bbox": [0, 0, 2, 2], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    (mark,) = annotation_marks([{**annotation, "segmentation": value}], CLASSES, (2, 3))
    assert mark.mask is None
