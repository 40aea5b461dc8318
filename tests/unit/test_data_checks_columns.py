"""Annotations as columns: by hand, and the same one by one as all together."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mask_rcnn_tools.check_data.columns import IS_POLYGON, IS_RUNS, NO_MASK, columns_of

from .data_helpers import annotation


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
    assert rows.id.tolist() == [1, 2, 3, 4, 5, 0]
    assert sorted(rows.odd) == [4, 5]
    assert rows.crowd.tolist() == [0, 0, 1, -1, 0, -1]
    assert rows.mask[:4].tolist() == [IS_POLYGON, IS_POLYGON, IS_RUNS, NO_MASK]
    assert (rows.polygons[1], rows.bad_polygons[1]) == (3, 2)
    assert rows.mask_area[:3].tolist() == [50.0, 6.0, 3.0]
    assert rows.mask_bounds[1:3].tolist() == [[0, 0, 4, 3], [1, 1, 3, 3]]
    assert (*rows.run_size[2], rows.run_total[2]) == (3, 4, 12)
    assert (rows.keypoints[0], rows.labelled[0], rows.num_keypoints[0]) == (12, 2, 2)
    assert (rows.ghosts[0], rows.unknown_visibility[0]) == (1, 0)
    assert rows.point_bounds[0].tolist() == [1, 2, 5, 6]
    assert np.isnan(rows.area[2]) and np.isnan(rows.boxes[4]).all()


def test_no_annotations() -> None:
    assert len(columns_of([])) == 0 and columns_of([]).boxes.shape == (0, 4)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_bounds_of_runs_are_those_of_the_mask(seed: int) -> None:
    rng = np.random.RandomState(seed)
    mask = np.asfortranarray(rng.rand(*rng.randint(1, 7, 2)) < rng.rand()).astype(np.uint8)
    rle = mask_util.encode(mask)
    rle["counts"] = rle["counts"].decode()
    row = columns_of([annotation(1, 1, segmentation=rle)])
    assert row.run_total[0] == mask.size
    assert row.mask_area[0] == mask.sum()
    if mask.any():
        y, x = np.nonzero(mask)
        expected = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert row.mask_bounds[0].tolist() == expected


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


@given(_ENTRIES)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_an_annotation_does_not_change_its_neighbors(entries: list[Any]) -> None:
    """One unusual value sends a whole block through slower code with the same result."""
    together, alone = columns_of(entries), [columns_of([entry]) for entry in entries]
    for name in (field.name for field in fields(together) if field.name != "odd"):
        found = getattr(together, name)
        for row, single in zip(found, alone, strict=True):
            np.testing.assert_allclose(row, getattr(single, name)[0], rtol=1e-12, err_msg=name)
    odd = [row for row, single in enumerate(alone) if single.odd]
    assert list(together.odd) == odd
    assert all(together.odd[row] is entries[row] for row in odd)


def test_blocks_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [annotation(i, i % 3, bbox=[i, 0, 1, "x"[: i == 4] or 1]) for i in range(7)]
    whole = columns_of(entries)
    monkeypatch.setattr("mask_rcnn_tools.check_data.columns._BLOCK", 2)
    parts = columns_of(entries)
    np.testing.assert_array_equal(parts.boxes, whole.boxes)
    assert parts.id.tolist() == list(range(7)) and list(parts.odd) == [4]
