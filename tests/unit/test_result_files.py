"""Result files of any detector: converted exactly, or refused with file, row and reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_util

from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation.coco.backends import coco_metrics
from mask_rcnn_repro.evaluation.coco.ground_truth import index_ground_truth
from mask_rcnn_repro.evaluation.coco.result_files import KnownIds, read_results

HEIGHT, WIDTH = 40, 60
POLYGONS = [[5, 5, 25.5, 5, 25.5, 30.2, 5, 30.2], [20, 8, 50, 8, 50, 20]]
GT = index_ground_truth(
    {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in (1, 2)],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 3,
                "bbox": [5, 5, 45, 25.2],
                "segmentation": POLYGONS,
            }
        ],
    }
).coco
KNOWN = KnownIds.of(GT, "scene")


def _rle() -> dict[str, Any]:
    rle = GT.annToRLE(GT.anns[1])
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def _run_lengths(rle: dict[str, Any]) -> dict[str, Any]:
    pixels = np.concatenate([[0], mask_util.decode(rle).flatten("F"), [2]])
    changes = np.flatnonzero(np.diff(pixels))
    return {"size": rle["size"], "counts": np.diff(np.append(0, changes)).tolist()}


def _row(**changes: Any) -> dict[str, Any]:
    row = {"image_id": 1, "category_id": 3, "score": 0.5, "bbox": [5, 5, 45, 25.2]}
    return {**row, "segmentation": _rle(), **changes}


def _read(folder: Path, *rows: Any, **options: Any) -> list[dict[str, Any]]:
    file = folder / "results.json"
    file.write_text(json.dumps(list(rows)))
    return read_results([file], KNOWN, **options)


@pytest.mark.parametrize(
    "row",
    [
        _row(),
        _row(segmentation=POLYGONS),
        _row(segmentation=_run_lengths(_rle())),
        _row(image_id=1.0, category_id=3.0),
        _row(keypoints=None, area=7, id=12, iscrowd=0),
        _row(keypoints=[]),
    ],
    ids=["exact", "polygons", "run lengths", "whole floats", "other fields", "empty keypoints"],
)
def test_what_is_converted_exactly(tmp_path: Path, row: dict[str, Any]) -> None:
    (read,) = _read(tmp_path, row)
    assert read == _row()
    assert type(read["image_id"]) is int
    assert coco_metrics(GT, [read], "segm")["AP"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"segmentation": {**_rle(), "size": [WIDTH, HEIGHT]}}, r"size is \[60, 40\]"),
        ({"segmentation": {**_rle(), "counts": "abc"}}, "not a compressed"),
        ({"segmentation": {**_rle(), "counts": "PPYo0"}}, "cover"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [5]}}, "cover 5 pixels"),
        ({"segmentation": {"counts": [5]}}, "'size'"),
        ({"segmentation": POLYGONS[0]}, "polygons"),
        ({"segmentation": [[1, 2, 3, 4]]}, "at least 3 points"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "at least 3 points"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "finite"),
        ({"segmentation": [[1, 2, 3, 4, 5, 1e9]]}, "further than"),
        ({"segmentation": 7}, "polygons"),
        ({"segmentation": None}, "has no 'segmentation'"),
        ({"keypoints": [1, 2, 1]}, "has no 'keypoints'"),
        ({"keypoints": [1, 2]}, "'keypoints'"),
        ({"bbox": [1, 2, 3]}, r"x, y, width, height"),
        ({"bbox": [1, 2, "3", 4]}, "'bbox'"),
        ({"bbox": [1, 2, True, 4]}, "'bbox'"),
        ({"bbox": [1, 2, float("inf"), 4]}, "'bbox'"),
        ({"bbox": {}}, "'bbox'"),
        ({"score": None}, "'score'"),
        ({"score": "0.9"}, "'score'"),
        ({"score": True}, "'score'"),
        ({"score": float("nan")}, "'score'"),
        ({"score": float("-inf")}, "'score'"),
        ({"score": 10**400}, "'score'"),
        ({"image_id": 99}, "image_id 99"),
        ({"image_id": "1"}, "image_id '1'"),
        ({"image_id": None}, "'image_id'"),
        ({"image_id": [1]}, "'image_id'"),
        ({"image_id": True}, "'image_id'"),
        ({"image_id": float("nan")}, "'image_id'"),
        ({"category_id": 0}, "category_id 0"),
        ({"category_id": "cat"}, "category_id 'cat'"),
        ({"bbox": [], "segmentation": None}, "no bbox, segmentation or keypoints"),
    ],
)
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason) as error:
        _read(tmp_path, _row(), _row(**changes))
    assert "results.json: row " in str(error.value)
    if "keypoints' " not in str(error.value):  # of which the first row has none
        assert "row 1" in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("text", ["{", "{}", "[1]", "[[]]", "[" * 100_000])
def test_files_that_are_no_results(tmp_path: Path, text: str) -> None:
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"results\.json"):
        read_results([file], KNOWN)


def test_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps([_row()]), encoding="utf-8-sig")
    assert read_results([tmp_path / "results.json"], KNOWN) == [_row()]


def test_rows_of_some_images(tmp_path: Path) -> None:
    rows = [_row(), _row(image_id=2, score=None)]
    assert _read(tmp_path, *rows, images={1}) == [_row()]
    with pytest.raises(DataError, match="image_id 99"):
        _read(tmp_path, *rows, _row(image_id=99), images={1})
    assert _read(tmp_path) == []


def test_files_are_joined(tmp_path: Path) -> None:
    box, mask = _row(), _row()
    del box["segmentation"], mask["bbox"]
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, row in zip(files, (box, mask), strict=True):
        file.write_text(json.dumps([row]))
    assert read_results(files, KNOWN) == [_row()]
    files[1].write_text(json.dumps([mask, mask]))
    with pytest.raises(DataError, match=r"lists 1 detections and .* 2"):
        read_results(files, KNOWN)
    files[1].write_text(json.dumps([{**mask, "score": 0.6}]))
    with pytest.raises(DataError, match="same order"):
        read_results(files, KNOWN)


def test_predictions_beside_their_images(tmp_path: Path) -> None:
    """As `tools/predict.py` writes them; other objects are refused as before."""
    file = tmp_path / "predictions.json"
    rows = [{"id": 1, **_row(), "area": 4.0, "iscrowd": 0}]
    content = {"annotations": rows, "images": [], "info": {"image_ids": "scene"}}
    file.write_text(json.dumps(content))
    assert read_results([file], KNOWN) == _read(tmp_path, _row()) != []
    file.write_text(json.dumps({**content, "info": {"image_ids": "counted from 1"}}))
    with pytest.raises(DataError, match="images from 1"):
        read_results([file], KNOWN)
    file.write_text(json.dumps({"annotations": {}}))
    with pytest.raises(DataError, match="top level is a dict"):
        read_results([file], KNOWN)
