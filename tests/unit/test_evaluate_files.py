"""`tools/evaluate.py`: by hand, and against pycocotools on data sets that hold the samples."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation.coco import hotcoco_backend
from mask_rcnn_repro.evaluation.coco.numbers import BackendCannot
from mask_rcnn_tools.evaluate import measure as measuring
from mask_rcnn_tools.evaluate.cli import build_parser, parse_args
from mask_rcnn_tools.evaluate.main import evaluate, main, run
from mask_rcnn_tools.evaluate.measure import (
    best_iou_type,
    interval,
    measure,
    read_annotations,
    read_detections,
)
from mask_rcnn_tools.evidence import image_bootstrap
from mask_rcnn_tools.evidence.image_bootstrap import image_counts

SIDE = 200


def _outline(box: list[float]) -> list[list[float]]:
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def _annotation(number: int, image: int, category: int, box: list[float]) -> dict[str, Any]:
    shape = {"bbox": box, "segmentation": _outline(box), "area": box[2] * box[3]}
    return {"id": number, "image_id": image, "category_id": category, "iscrowd": 0, **shape}


def _content(images: int, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE}
            for i in range(1, images + 1)
        ],
        "categories": [
            {"id": 3, "name": "cat"},
            {"id": 7, "name": "dog"},
            {"id": 9, "name": "eel"},
        ],
        "annotations": annotations,
    }


def _scene(seed: int, images: int = 15) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects of all sizes and imperfect detections with masks."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    detections = []
    for image in range(1, images + 1):
        for _ in range(6):
            side = float(rng.choice([20, 60, 110]))
            x, y = rng.integers(0, SIDE - int(side), 2).tolist()
            box = [float(x), float(y), side, side]
            category = int(rng.choice([3, 7]))
            annotations.append(_annotation(len(annotations) + 1, image, category, box))
            if rng.random() < 0.8:
                moved = [x + float(rng.integers(0, 5)), float(y), side, side]
                detections.append(_detection(image, category, moved, float(rng.random())))
        detections.append(_detection(image, 3, [0.0, 0.0, 30.0, 30.0], float(rng.random())))
    return _content(images, annotations), detections


def _detection(image: int, category: int, box: list[float], score: float) -> dict[str, Any]:
    shape = {"bbox": box, "segmentation": _outline(box)}
    return {"image_id": image, "category_id": category, "score": score, **shape}


def _args(folder: Path, content: dict[str, Any], *results: list[Any], **flags: Any) -> Any:
    (folder / "gt.json").write_text(json.dumps(content))
    argv = ["--annotations", str(folder / "gt.json"), "--results"]
    for number, rows in enumerate(results):
        file = folder / f"dt{number}.json"
        file.write_text(json.dumps(rows))
        argv.append(str(file))
    for name, value in flags.items():
        argv += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return parse_args(argv)


def _result(row: dict[str, Any], iou_type: str) -> dict[str, Any]:
    ids = {key: row[key] for key in ("image_id", "category_id", "score")}
    if iou_type == "bbox":
        return {**ids, "bbox": row["bbox"]}
    shape = mask_util.merge(mask_util.frPyObjects(row["segmentation"], SIDE, SIDE))
    return {**ids, "segmentation": shape}


def _pycocotools(content: dict[str, Any], rows: list[dict[str, Any]], iou_type: str) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(content))
        truth.createIndex()
        found = truth.loadRes([_result(row, iou_type) for row in rows])
        evaluation = COCOeval(truth, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _class_ap(evaluation: COCOeval, place: int) -> float:
    precision = evaluation.eval["precision"][:, :, place, 0, -1]
    return 100 * precision[precision > -1].mean()


NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_numbers_are_those_of_pycocotools(tmp_path, iou_type):
    content, rows = _scene(0)
    found = evaluate(_args(tmp_path, content, rows, iou_type=iou_type, samples=0))
    reference = _pycocotools(content, rows, iou_type)
    for name, value in zip(NAMES, reference.stats[:6], strict=True):
        assert found["metrics"][name]["values"] == [pytest.approx(100 * value, abs=1e-9)]
        assert found["metrics"][name]["intervals"] == [None]
    for place, name in enumerate(("cat", "dog")):
        expected = pytest.approx(_class_ap(reference, place), abs=1e-9)
        assert found["classes"][name]["values"] == [expected]
    eel = found["classes"]["eel"]
    assert (eel["images"], eel["objects"], eel["values"]) == (0, 0, [None])
    assert sum(row["objects"] for row in found["classes"].values()) == 15 * 6


def _repeated(
    content: dict[str, Any], rows: list[dict[str, Any]], times: np.ndarray
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The data set in which each image is as often as it was drawn."""
    copies = {i + 1: [100 * (i + 1) + k for k in range(n)] for i, n in enumerate(times)}
    objects = [{**a, "image_id": c} for a in content["annotations"] for c in copies[a["image_id"]]]
    made = {
        **content,
        "images": [{**im, "id": c} for im in content["images"] for c in copies[im["id"]]],
        "annotations": [{**a, "id": k + 1} for k, a in enumerate(objects)],
    }
    return made, [{**d, "image_id": c} for d in rows for c in copies[d["image_id"]]]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_a_sample_is_the_data_set_with_its_images_repeated(tmp_path, monkeypatch, fast, iou_type):
    if not fast:

        def cannot(*args: Any, **options: Any) -> Any:
            raise BackendCannot("not here")

        monkeypatch.setattr(measuring, "hotcoco_evaluation", cannot)
    content, rows = _scene(1)
    args = _args(tmp_path, content, rows)
    gt = read_annotations(Path(args.annotations))
    read = read_detections(Path(args.results[0]), gt, "these")
    measured = measure(gt, read, iou_type, samples=100)
    counts = image_counts(15, 100)
    for sample in (0, 1, 57):
        reference = _pycocotools(*_repeated(content, rows, counts[sample]), iou_type)
        for name, value in zip(NAMES, reference.stats[:6], strict=True):
            assert measured.samples[name][sample] == pytest.approx(100 * value, abs=1e-9), name
        for place, name in enumerate(("cat", "dog")):
            expected = pytest.approx(_class_ap(reference, place), abs=1e-9)
            assert measured.class_samples[name][sample] == expected
    assert np.isnan(measured.class_samples["eel"]).all()
    assert image_bootstrap._BACKEND not in image_bootstrap.COCO_BACKENDS


def test_interval_and_paired_difference_by_hand(tmp_path):
    """Four images with one cat each. The first file finds those of two, the second of three.

    Both find image 1, the second image 2, too. Of a sample in which the images occur n1 to n4
    times, AP is the area below a curve that is 1 up to the recall n / 4: (1 + floor(100 n / 4)) /
    101, or 0 where nothing is found.
    """
    box = [10.0, 10.0, 50.0, 50.0]
    content = _content(4, [_annotation(i, i, 3, box) for i in (1, 2, 3, 4)])
    first = [_detection(i, 3, box, 0.9) for i in (1, 3)]
    second = [_detection(i, 3, box, 0.9) for i in (1, 2, 3)]
    found = evaluate(_args(tmp_path, content, first, second, samples=200, confidence=90))

    def ap(number: np.ndarray) -> np.ndarray:
        return 100 * np.where(number > 0, (1 + 25 * number) / 101, 0)

    counts = image_counts(4, 200)
    one, two = counts[:, [0, 2]].sum(axis=1), counts[:, :3].sum(axis=1)
    row = found["metrics"]["AP"]
    assert row["values"] == pytest.approx([100 * 51 / 101, 100 * 76 / 101])
    assert row["difference"] == pytest.approx(100 * 25 / 101)
    expected = np.percentile(ap(two) - ap(one), [5, 95])
    assert row["difference_interval"] == pytest.approx(expected)
    for values, limits in zip((ap(one), ap(two)), row["intervals"], strict=True):
        assert limits == pytest.approx(np.percentile(values, [5, 95]))
    assert found["classes"]["cat"]["difference"] == row["difference"]
    assert found["metrics"]["APs"]["difference"] is None  # no small objects
    # 2500 pixels are a medium object
    assert found["metrics"]["APm"]["difference_interval"] == row["difference_interval"]


def test_equal_files_differ_by_exactly_nothing(tmp_path):
    content, rows = _scene(2)
    found = evaluate(_args(tmp_path, content, rows, rows, samples=100))
    for row in (*found["metrics"].values(), found["classes"]["cat"]):
        assert row["difference"] == 0 and row["difference_interval"] == (0, 0)


def test_a_class_in_too_few_images_has_no_interval(tmp_path, capsys):
    box = [10.0, 10.0, 50.0, 50.0]
    objects = [_annotation(i, i, 3, box) for i in range(1, 31)] + [_annotation(99, 1, 7, box)]
    rows = [_detection(a["image_id"], a["category_id"], box, 0.9) for a in objects]
    args = _args(tmp_path, _content(30, objects), rows, samples=100)
    found = evaluate(args)
    assert found["classes"]["dog"]["values"] == [pytest.approx(100)]
    assert found["classes"]["dog"]["intervals"] == [None]
    assert found["classes"]["cat"]["intervals"] == [pytest.approx((100, 100))]
    run(args)
    text = capsys.readouterr().out
    assert [
        line.split() for line in text.splitlines() if line.startswith(("cat", "dog", "eel"))
    ] == [
        ["cat", "30", "30", "100.0", "[100.0,", "100.0]"],
        ["dog", "1", "1", "100.0"],
    ]
    assert "Classes without objects, not shown: 1." in text


def test_interval_without_samples_is_none():
    assert interval(None, 95) is None
    assert interval(np.array([]), 95) is None
    assert interval(np.array([1, math.nan]), 95) is None
    assert interval(np.arange(101), 90) == (5, 95)


def test_the_text_marks_differences_that_are_not_zero(tmp_path, capsys):
    content, rows = _scene(3, images=40)
    worse = [row for k, row in enumerate(rows) if k % 2]
    run(_args(tmp_path, content, rows, worse, samples=100))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("AP ")]
    assert line.endswith("*") and line.count("[") == 3
    run(_args(tmp_path, content, rows, rows, samples=100))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("AP ")]
    assert line.endswith("[+0.0, +0.0]")


def test_json_is_what_is_measured(tmp_path, capsys):
    content, rows = _scene(4)
    args = _args(tmp_path, content, rows, samples=100, json=True)
    run(args)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(evaluate(args)))


def test_no_detections_find_nothing(tmp_path):
    content, _ = _scene(5)
    found = evaluate(_args(tmp_path, content, [], samples=100))
    assert found["iou_type"] == "bbox"
    assert found["metrics"]["AP"] == {"values": [0.0], "intervals": [(0.0, 0.0)]}


def test_what_is_measured_by_default():
    box, mask, points = ({"bbox": 0}, {"bbox": 0, "segmentation": 0}, {"bbox": 0, "keypoints": 0})
    assert best_iou_type([[mask]]) == "segm"
    assert best_iou_type([[mask], [box]]) == "bbox"
    assert best_iou_type([[mask], []]) == "segm"
    assert best_iou_type([[points]]) == "keypoints"
    assert best_iou_type([[], []]) == "bbox"


def test_keypoints_with_sigmas_of_their_own(tmp_path):
    objects = [
        {**_annotation(i, i, 3, [10.0, 10.0, 50.0, 50.0]), "keypoints": [20, 20, 2, 40, 40, 2],
         "num_keypoints": 2}
        for i in (1, 2, 3)
    ]  # fmt: skip
    rows = [
        {"image_id": i, "category_id": 3, "score": 0.9, "keypoints": [20, 20, 1, 40, 40, 1]}
        for i in (1, 2)
    ]
    args = _args(tmp_path, _content(3, objects), rows, samples=100, iou_type="keypoints")
    with pytest.raises(DataError, match="numbers of keypoints"):
        evaluate(args)
    args.oks_sigmas = [0.05, 0.05]
    found = evaluate(args)["metrics"]
    assert list(found) == ["AP", "AP50", "AP75", "APm", "APl"]
    # two of three found: precision is 1 up to a recall of 2/3
    assert found["AP"]["values"] == [pytest.approx(100 * 67 / 101)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content, rows: content.pop("annotations"), "has no list 'annotations'"),
        (lambda content, rows: rows[3].update(image_id=99), "row 3 .*image_id 99 is not in"),
        (lambda content, rows: [r.pop("segmentation") for r in rows], "have no 'segmentation'"),
    ],
)
def test_unusable_files_say_why(tmp_path, capsys, change, message):
    content, rows = _scene(6)
    change(content, rows)
    with pytest.raises(SystemExit) as stop:
        main(_args(tmp_path, content, rows, iou_type="segm"))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--annotations", "a"], "--results"),
        (["--annotations", "a", "--results", "b", "c", "d"], "one or two files, got 3"),
        (["--gt", "a", "--annotations", "a", "--results", "b"], "write --annotations FILE"),
        (["--annotations", "a", "--results", "b", "--samples", "5"], "0 or at least 100"),
        (["--annotations", "a", "--results", "b", "--oks-sigmas", "1"], "--iou-type keypoints"),
    ],
)
def test_mistakes_on_the_command_line(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args(argv)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_examples_of_the_help_parse():
    text = build_parser().format_help().split("examples:")[1]
    commands = [line.split()[1:] for line in text.splitlines() if "tools/evaluate.py" in line]
    assert len([parse_args(argv) for argv in commands]) == 3


def test_only_the_chosen_size_is_evaluated():
    content, rows = _scene(7)
    gt = _pycocotools(content, rows, "bbox").cocoGt
    options = {"image_ids": list(range(1, 16)), "category_ids": [3, 7, 9], "oks_sigmas": []}
    plain = [{k: v for k, v in row.items() if k != "segmentation"} for row in rows]
    small = hotcoco_backend.hotcoco_evaluation(
        gt, plain, "bbox", max_dets=[1, 10, 100], **options, each_image=True, size="small"
    )
    assert {tuple(e["aRng"]) for e in small.evalImgs if e} == {(0, 32**2)}
