"""The compiled reader of annotations: the same columns as Python's, whatever the file."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mask_rcnn_repro.utils import compiled
from mask_rcnn_tools.check_data import columns as c
from mask_rcnn_tools.check_data.columns import columns_of
from mask_rcnn_tools.check_data.read import _Unusual, read_content, scan_content

from .data_helpers import annotation, content

needs_numba = pytest.mark.skipif(not compiled.HAVE_NUMBA, reason="Numba is not installed")


def test_columns_by_hand() -> None:
    runs = {"size": [3, 4], "counts": [4, 1, 2, 2, 3]}  # columns of 3: (1, 1); (1, 2) and (2, 2)
    rows = columns_of(
        [
            annotation(1, 10, keypoints=[1, 2, 2, 5, 6, 1, 0, 0, 0, 7, 8, 0], num_keypoints=2),
            annotation(2, 10, segmentation=[[0, 0, 4, 0, 4, 3], [1, 2], [1, 1, 2, 2, 3]]),
            annotation(3, 20, segmentation=runs, iscrowd=1, area=...),
            annotation(4, 20, segmentation=..., iscrowd=...),
            annotation(5, 20, bbox=[1, 2, "3", 4]),
            7,
        ]
    )
    ints, floats = rows.ints, rows.floats
    assert ints[:5, c.ID].tolist() == [1, 2, 3, 4, 5]
    assert ints[:, c.ODD].tolist() == [0, 0, 0, 0, 1, 1]
    assert sorted(rows.odd) == [4, 5]
    assert ints[:5, c.CROWD].tolist() == [0, 0, 1, -1, 0]
    assert ints[:4, c.SEGMENT].tolist() == [c.IS_POLYGON, c.IS_POLYGON, c.IS_RUNS, c.NO_MASK]
    assert (ints[1, c.POLYGONS], ints[1, c.BAD_POLYGONS]) == (3, 2)
    assert floats[:3, c.MASK_AREA].tolist() == [50.0, 6.0, 3.0]
    assert floats[1, c.MASK : c.MASK + 4].tolist() == [0, 0, 4, 3]
    assert floats[2, c.MASK : c.MASK + 4].tolist() == [1, 1, 3, 3]
    assert ints[2, [c.RUN_HEIGHT, c.RUN_WIDTH, c.RUN_TOTAL]].tolist() == [3, 4, 12]
    assert ints[0, [c.KEYPOINT_NUMBERS, c.KEYPOINTS_LABELLED]].tolist() == [12, 2]
    assert ints[0, [c.KEYPOINTS_GHOST, c.KEYPOINTS_WRONG, c.NUM_KEYPOINTS]].tolist() == [1, 0, 2]
    assert floats[0, c.POINTS : c.POINTS + 4].tolist() == [1, 2, 5, 6]
    assert np.isnan(floats[2, c.AREA]) and np.isnan(floats[4, c.BOX])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_bounds_of_runs_are_those_of_the_mask(seed: int) -> None:
    rng = np.random.RandomState(seed)
    mask = np.asfortranarray(rng.rand(*rng.randint(1, 7, 2)) < rng.rand()).astype(np.uint8)
    rle = mask_util.encode(mask)
    rle["counts"] = rle["counts"].decode()
    row = columns_of([annotation(1, 1, segmentation=rle)])
    assert row.ints[0, c.RUN_TOTAL] == mask.size
    assert row.floats[0, c.MASK_AREA] == mask.sum()
    if mask.any():
        y, x = np.nonzero(mask)
        expected = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert row.floats[0, c.MASK : c.MASK + 4].tolist() == expected


_NUMBERS = st.one_of(
    st.integers(-5, 700),
    st.floats(-1e4, 1e4).map(lambda x: round(x, 2)),
    st.floats(width=32),
    st.sampled_from([0, -0.0, 1e-9, 123456789012345678901, 2**63, 1e300, True, None, "1", [], {}]),
)
_FIELDS = {
    "id": st.one_of(st.integers(0, 9), _NUMBERS),
    "image_id": st.one_of(st.integers(0, 9), _NUMBERS),
    "category_id": st.one_of(st.integers(0, 9), _NUMBERS),
    "iscrowd": st.sampled_from([0, 1, 2, True, None, 0.0]),
    "area": _NUMBERS,
    "ignore": st.sampled_from([0, 1, None]),
    "num_keypoints": st.one_of(st.integers(-1, 17), _NUMBERS),
    "bbox": st.one_of(st.lists(_NUMBERS, min_size=4, max_size=4), st.lists(_NUMBERS, max_size=5)),
    "segmentation": st.one_of(
        st.none(),
        st.lists(st.lists(_NUMBERS, max_size=9), max_size=3),
        st.fixed_dictionaries(
            {}, optional={"size": st.lists(_NUMBERS, max_size=3), "counts": st.text(max_size=3)}
        ),
        _NUMBERS,
    ),
    "keypoints": st.one_of(st.lists(_NUMBERS, max_size=12), _NUMBERS),
    "attributes": st.recursive(
        st.one_of(st.text(max_size=3), _NUMBERS),
        lambda inner: st.dictionaries(st.text(max_size=2), inner, max_size=2),
    ),
    'a"\\é': st.text(max_size=3),
}
_ENTRIES = st.lists(
    st.one_of(
        st.fixed_dictionaries({}, optional=_FIELDS),
        st.fixed_dictionaries(_FIELDS),
        st.builds(
            lambda base, other: {**base, **other},
            st.just(annotation(3, 10)),
            st.fixed_dictionaries({}, optional=_FIELDS),
        ),
        _NUMBERS,
    ),
    max_size=4,
)


@needs_numba
@given(_ENTRIES, st.sampled_from([None, 1]), st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_compiled_equals_python(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Any], indent: int | None, ascii: bool
) -> None:
    data = {"info": {"x": [1, {"y": "}]"}]}, "annotations": entries, "images": [], "note": "é"}
    file = tmp_path_factory.getbasetemp() / "scan.json"
    file.write_text(json.dumps(data, indent=indent, ensure_ascii=ascii), encoding="utf-8")
    rest, found = scan_content(str(file))
    expected = columns_of(json.loads(file.read_text())["annotations"])
    assert found is not None
    np.testing.assert_array_equal(found.ints, expected.ints)
    np.testing.assert_allclose(found.floats, expected.floats, rtol=1e-12, atol=1e-9)
    assert repr(found.odd) == repr(expected.odd)
    assert repr(rest) == repr({k: v for k, v in data.items() if k != "annotations"})


@needs_numba
@given(st.data())
@settings(max_examples=400, deadline=None)
def test_damaged_files_are_left_to_python(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    base = content(2)
    base["annotations"][0]["note"] = "text"
    base["annotations"][1].update(keypoints=[1, 2, 2], segmentation=None)
    text = bytearray(json.dumps(base).encode())
    kind = data.draw(st.sampled_from(["cut", "flip", "insert"]))
    place = data.draw(st.integers(0, len(text) - 1))
    if kind == "cut":
        del text[place:]
    elif kind == "flip":
        text[place] ^= data.draw(st.integers(1, 255))
    else:
        text[place:place] = data.draw(
            st.sampled_from([b",", b"]", b"}", b'"', b"{", b"1", b"0", b"\\"])
        )
    file = tmp_path_factory.getbasetemp() / "damaged.json"
    file.write_bytes(text)
    try:
        expected = json.loads(bytes(text))
    except ValueError:
        expected = None
    try:
        _, found = scan_content(str(file))
    except _Unusual:
        return  # Python reads it
    assert expected is not None, "a damaged file was taken for a whole one"
    if "annotations" not in expected:
        assert found is None
        return
    assert found is not None and len(found) == len(expected["annotations"])
    np.testing.assert_array_equal(found.ints, columns_of(expected["annotations"]).ints)


def test_large_files_take_the_compiled_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = content(3)
    extra = copy.deepcopy(data["annotations"][0])
    data["annotations"] += [{**extra, "id": i, "area": i / 7} for i in range(1000, 1300)]
    file = tmp_path / "data.json"
    file.write_text(json.dumps(data))
    _, slow = read_content(str(file))
    monkeypatch.setattr("mask_rcnn_tools.check_data.read._SMALLEST_COMPILED", 0)
    monkeypatch.setattr("mask_rcnn_tools.check_data.read._BLOCK", 64)
    _, fast = read_content(str(file))
    assert slow is not None and fast is not None and len(slow) == 303
    np.testing.assert_array_equal(fast.ints, slow.ints)
    np.testing.assert_allclose(fast.floats, slow.floats, rtol=1e-14)
