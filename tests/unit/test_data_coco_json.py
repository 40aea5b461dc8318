"""The COCO json loader: what it accepts, drops and refuses."""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.structures import BoxMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mask_rcnn_repro.data.coco.fields import run_lengths
from mask_rcnn_repro.data.coco.load import load_coco_json
from mask_rcnn_repro.errors import DataError

from .data_helpers import HEIGHT, TRIANGLE, WIDTH, annotation, changed, content, write


def test_valid_file(tmp_path: Path) -> None:
    data = content()
    data["images"].reverse()
    json_file, root = write(tmp_path, data)
    loaded = load_coco_json(json_file, root)
    assert [d["image_id"] for d in loaded.dicts] == [10, 20, 30]
    assert loaded.categories is not None
    assert loaded.categories.names == ("mug", "cog")
    assert loaded.categories.id_map == {3: 0, 7: 1}
    assert loaded.dicts[0] == {
        "file_name": f"{root}/10.jpg",
        "height": HEIGHT,
        "width": WIDTH,
        "image_id": 10,
        "annotations": [
            {
                "iscrowd": 0,
                "bbox": [4.5, 4.5, 10.0, 10.0],
                "category_id": 1,
                "segmentation": [TRIANGLE],
                "bbox_mode": BoxMode.XYWH_ABS,
            }
        ],
    }


def test_image_info_without_annotations(tmp_path: Path) -> None:
    loaded = load_coco_json(*write(tmp_path, changed(content(), ("annotations",), ...)))
    assert not loaded.annotated
    assert [d["annotations"] for d in loaded.dicts] == [[], [], []]


@pytest.mark.parametrize(
    ("fields", "kept", "message"),
    [
        ({"bbox": [4, 4, 0, 10]}, False, "empty, negative or not finite"),
        ({"bbox": [4, 4, 10, -1]}, False, "empty, negative or not finite"),
        ({"bbox": [4, math.nan, 10, 10]}, False, "empty, negative or not finite"),
        ({"bbox": [40, 4, 10, 10]}, False, "outside its image"),
        ({"bbox": [-10, 4, 10, 10]}, False, "outside its image"),
        ({"bbox": [4, 30, 10, 10]}, False, "outside its image"),
        ({"bbox": [35, 25, 10, 10]}, True, None),  # partly outside: the mapper clips it
        ({"segmentation": [[1, 2, 3, 4]]}, True, "kept without a mask"),
        ({"segmentation": [[]]}, True, "kept without a mask"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, True, "kept without a mask"),
        ({"segmentation": [[1, 2, 3, 4, 5, math.inf]]}, True, "kept without a mask"),
        ({"segmentation": [[1, 2, 3, 4, 5, 10**400]]}, True, "kept without a mask"),
        ({"segmentation": [[1, 2, 3, 4, 5, 401]]}, True, "kept without a mask"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [1200]}}, True, "without a mask"),
        ({"area": 0}, True, "1 values of 'area'"),
        ({"area": 1e9}, True, "1 values of 'area'"),
        ({"area": None}, True, None),
        ({"segmentation": [TRIANGLE, [1, 2]]}, True, "1 polygons skipped"),
        ({"segmentation": []}, True, "kept without a mask"),
        ({"segmentation": ...}, True, "kept without a mask"),
        ({"image_id": 99}, False, "image is not listed"),
    ],
)
def test_unusable_annotations_are_dropped_with_one_warning(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    fields: dict[str, Any],
    kept: bool,
    message: str | None,
) -> None:
    data = content(1)
    data["annotations"].append(annotation(555, 10, **fields))
    with caplog.at_level(logging.WARNING):
        loaded = load_coco_json(*write(tmp_path, data))
    assert len(loaded.dicts[0]["annotations"]) == 1 + kept
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == (message is not None)
    if message is not None:
        assert message in warnings[0] and "555" in warnings[0]


def test_bad_polygon_beside_a_good_one_is_skipped(tmp_path: Path) -> None:
    data = changed(content(1), ("annotations", 0, "segmentation"), [[1, 2], TRIANGLE])
    loaded = load_coco_json(*write(tmp_path, data))
    assert loaded.dicts[0]["annotations"][0]["segmentation"] == [TRIANGLE]


def test_box_data_set_without_masks_needs_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = content()
    for record in data["annotations"]:
        del record["segmentation"]
    with caplog.at_level(logging.WARNING):
        load_coco_json(*write(tmp_path, data))
    assert not caplog.records


_A = ("annotations", 1)
_RLE = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}


@pytest.mark.parametrize(
    ("place", "value", "pattern"),
    [
        (("images",), ..., "no 'images'"),
        (("images",), [], "'images' is empty"),
        (("images",), {}, "must be a list, got dict"),
        (("images", 1), 5, r"images\[1\] must be an object"),
        (("images", 1, "id"), ..., r"images\[1\] has no 'id'"),
        (("images", 1, "id"), "20", "whole number"),
        (("images", 1, "id"), 10, "image id 10 is a duplicate"),
        (("images", 1, "height"), 0, "image 20: 'height'.*above 0"),
        (("images", 1, "width"), "40", "image 20: 'width'"),
        (("images", 1, "file_name"), ..., "image 20 has no 'file_name'"),
        (("images", 1, "file_name"), "/etc/passwd", "image 20.*leaves the image folder"),
        (("images", 1, "file_name"), "a/../../b.jpg", "leaves the image folder"),
        (("images", 1, "file_name"), "a\\..\\b.jpg", "leaves the image folder"),
        (("images", 1, "file_name"), "C:\\b.jpg", "leaves the image folder"),
        (("images", 1, "file_name"), "", "must be a file name"),
        (("categories",), ..., "no 'categories'"),
        (("categories",), [], "no class"),
        (("categories", 0, "id"), 3, "category id 3 is a duplicate"),
        (("categories", 0, "name"), None, "'name' must be a string, got None"),
        (("categories", 0, "keypoints"), "nose", "list of names"),
        (("annotations",), {}, "must be a list"),
        ((*_A, "id"), ..., r"annotations\[1\] has no 'id'"),
        ((*_A, "id"), 110, "annotation 110 is a duplicate"),
        ((*_A, "image_id"), None, "annotation 120: 'image_id'"),
        ((*_A, "category_id"), 4, r"annotation 120: category id 4 .*\[3, 7\]"),
        ((*_A, "category_id"), [7], "annotation 120: category id"),
        ((*_A, "category_id"), True, "annotation 120: category id"),
        ((*_A, "bbox"), ..., "annotation 120 has no 'bbox'"),
        ((*_A, "bbox"), [1, 2, 3], r"\[x, y, width, height\]"),
        ((*_A, "bbox"), [1, 2, 3, "4"], "numbers only"),
        ((*_A, "iscrowd"), 2, "'iscrowd' must be 0 or 1"),
        ((*_A, "ignore"), 1, "'ignore' is not supported"),
        ((*_A, "segmentation"), [1, 2, 3, 4, 5, 6], "list of polygons"),
        ((*_A, "segmentation"), [["a"] * 6], "numbers only"),
        ((*_A, "segmentation"), {"size": [HEIGHT, WIDTH]}, r"\['counts'\] not found"),
        ((*_A, "segmentation"), {**_RLE, "size": [WIDTH, HEIGHT]}, "30 x 40"),
        ((*_A, "segmentation"), {**_RLE, "counts": [0, 5]}, "cover 5 pixels"),
        ((*_A, "segmentation"), {**_RLE, "counts": [-5, 1205]}, "not whole numbers"),
        ((*_A, "segmentation"), {**_RLE, "counts": "\x7f\x7f"}, "not a compressed"),
        ((*_A, "segmentation"), {**_RLE, "counts": "ooooooooooo0"}, "not a compressed"),
        ((*_A, "segmentation"), {**_RLE, "counts": None}, "list or a string"),
        ((*_A, "keypoints"), [1, 2], "x, y, visibility"),
        ((*_A, "keypoints"), [1, 2, 3], "visibility 0, 1 or 2"),
    ],
)
def test_broken_content_is_reported(
    tmp_path: Path, place: tuple[Any, ...], value: Any, pattern: str
) -> None:
    json_file, root = write(tmp_path, content())
    Path(json_file).write_text(json.dumps(changed(content(), place, value)))
    with pytest.raises(DataError, match=pattern) as info:
        load_coco_json(json_file, root)
    assert json_file in str(info.value)


@pytest.mark.parametrize("text", ["", "[]", "3", '{"images": [', "\x00", "[" * 100_000])
def test_not_a_coco_json(tmp_path: Path, text: str) -> None:
    json_file, root = write(tmp_path, content())
    Path(json_file).write_text(text)
    with pytest.raises(DataError, match=re.escape(json_file)):
        load_coco_json(json_file, root)


def test_binary_file(tmp_path: Path) -> None:
    json_file, root = write(tmp_path, content())
    Path(json_file).write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match="not valid json"):
        load_coco_json(json_file, root)


def test_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    json_file, root = write(tmp_path, content())
    plain = load_coco_json(json_file, root)
    text = Path(json_file).read_text()
    Path(json_file).write_text(text, encoding="utf-8-sig")
    assert load_coco_json(json_file, root) == plain
    Path(json_file).write_text(text, encoding="utf-16")
    with pytest.raises(DataError, match=r"UTF-16.*save it as UTF-8"):
        load_coco_json(json_file, root)


def test_missing_file_names_it_and_the_nearest_folder(tmp_path: Path) -> None:
    missing = tmp_path / "no" / "where.json"
    with pytest.raises(DataError) as info:
        load_coco_json(missing, tmp_path)
    assert str(missing) in str(info.value)
    assert f"nearest existing folder is {tmp_path})" in str(info.value)


def test_missing_image_folder(tmp_path: Path) -> None:
    json_file, _ = write(tmp_path, content())
    with pytest.raises(DataError, match="elsewhere does not exist"):
        load_coco_json(json_file, tmp_path / "elsewhere")


def test_wrong_image_folder_is_noticed_at_once(tmp_path: Path) -> None:
    json_file, _ = write(tmp_path, content())
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match=r"3 of 3 images .*other/10\.jpg.*image root"):
        load_coco_json(json_file, tmp_path / "other")


def test_a_backslash_in_the_name_of_a_missing_image_is_named(tmp_path: Path) -> None:
    data = changed(content(), ("images", 0, "file_name"), r"sub\10.jpg")
    json_file, root = write(tmp_path, data, images=False)
    with pytest.raises(DataError, match=r"backslash.* '/'"):
        load_coco_json(json_file, root)
    write(tmp_path, data)  # on Linux, a file may have this name
    assert load_coco_json(json_file, root).dicts[0]["file_name"].endswith(r"sub\10.jpg")


def test_other_classes_than_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 classes .* has 1 \(\['person'\]\)"):
        load_coco_json(*write(tmp_path, content()), expected=["person"])


def test_repeated_ids_of_minival_files_are_accepted(tmp_path: Path) -> None:
    json_file, root = write(tmp_path, changed(content(), ("annotations", 1, "id"), 110))
    renamed = Path(json_file).rename(tmp_path / "instances_minival2014.json")
    assert sum(len(d["annotations"]) for d in load_coco_json(renamed, root).dicts) == 3


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_run_lengths_agree_with_pycocotools(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 300))
    seed = data.draw(st.integers(0, 2**31))
    rng = np.random.RandomState(seed)
    mask = np.asfortranarray(rng.rand(height, width) < rng.rand(), dtype=np.uint8)
    compressed = mask_util.encode(mask)
    as_text = {"size": [height, width], "counts": compressed["counts"].decode()}
    assert run_lengths(as_text, height, width, "x") == as_text
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    counts = np.diff([0, *edges, flat.size]).tolist()
    encoded = run_lengths({"size": [height, width], "counts": counts}, height, width, "x")
    np.testing.assert_array_equal(mask_util.decode(encoded), mask)
    # A pixel too few or too many is noticed.
    with pytest.raises(DataError, match="cover"):
        run_lengths({**as_text, "size": [height, width + 1]}, height, width + 1, "x")


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    found = [place] if place else []
    for key, child in children:
        found += _places(child, (*place, key))
    return found


_CONTENT = content()
_CONTENT["annotations"][0]["segmentation"] = {
    "size": [HEIGHT, WIDTH],
    "counts": [5, 10, HEIGHT * WIDTH - 15],
}
_CONTENT["annotations"][1]["keypoints"] = [1, 2, 2]
_CONTENT["annotations"][2]["segmentation"] = mask_util.encode(
    np.asfortranarray(np.eye(HEIGHT, WIDTH, dtype=np.uint8))
)
_CONTENT["annotations"][2]["segmentation"]["counts"] = _CONTENT["annotations"][2]["segmentation"][
    "counts"
].decode()
_CONTENT["categories"][0].update(keypoints=["nose"], skeleton=[[1, 1]])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=7)
        | st.dictionaries(
            st.sampled_from(["id", "size", "counts", "bbox", "name", "x"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return write(tmp_path_factory.mktemp("fuzz"), _CONTENT)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    changes=st.lists(
        st.tuples(st.sampled_from(_places(_CONTENT)), st.just(...) | _JSON), min_size=1, max_size=3
    )
)
def test_any_change_is_accepted_or_a_data_error(
    written: tuple[str, str], changes: list[tuple[tuple[Any, ...], Any]]
) -> None:
    data = _CONTENT
    for place, value in changes:
        try:
            data = changed(data, place, value)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    json_file, root = written
    Path(json_file).write_text(json.dumps(data))
    try:
        loaded = load_coco_json(json_file, root)
    except DataError:
        return
    for record in loaded.dicts:
        for entry in record["annotations"]:
            assert 0 <= entry["category_id"] < len(loaded.categories.names)  # type: ignore[union-attr]
            if isinstance(entry.get("segmentation"), dict):
                mask = mask_util.decode(entry["segmentation"])
                assert mask.shape == (record["height"], record["width"])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(json.dumps(_CONTENT)) - 1))
def test_truncated_at_any_place_is_a_data_error(written: tuple[str, str], length: int) -> None:
    json_file, root = written
    Path(json_file).write_text(json.dumps(_CONTENT)[:length])
    with pytest.raises(DataError, match="not valid json"):
        load_coco_json(json_file, root)
