"""Precision over recall, and the curves that a run leaves beside its record."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mask_rcnn_repro.errors import DataError, RecordError
from mask_rcnn_repro.evaluation.coco.backends import COCO_BACKENDS, coco_result
from mask_rcnn_repro.evaluation.coco.ground_truth import index_ground_truth
from mask_rcnn_repro.evaluation.coco.precision_recall import PrecisionRecall, precision_recall
from mask_rcnn_repro.records.curves import (
    MAX_POINTS,
    make_curves,
    record_identity,
    save_curves,
    thinned,
)
from mask_rcnn_repro.records.record import load_record, save_record
from mask_rcnn_tools.common.curves import load_curves
from mask_rcnn_tools.report.run_curves import curves_of_run
from mask_rcnn_tools.report.runs import load_runs

RESULTS = Path(__file__).resolve().parents[2] / "results"
EARLIER = RESULTS / "earlier" / "mini_from_random_weights"
FLAT = tuple([0.5] * 101)


@pytest.fixture(scope="module")
def record():
    return load_record(EARLIER / "table2c" / "roi_align_ave@mini" / "seed0.json")


def boxes():
    """Two objects of class 1, none of class 2; found, missed, found, at falling scores."""
    truth = [[0, 0, 10, 10], [20, 20, 10, 10]]
    found = [(0.9, truth[0]), (0.8, [50, 50, 10, 10]), (0.7, truth[1])]
    gt = index_ground_truth(
        {
            "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 100}],
            "categories": [{"id": 1, "name": "thing"}, {"id": 2, "name": "nothing"}],
            "annotations": [
                {"id": i, "image_id": 1, "category_id": 1, "bbox": b, "area": 100, "iscrowd": 0}
                for i, b in enumerate(truth, 1)
            ],
        }
    ).coco
    results = [{"image_id": 1, "category_id": 1, "score": s, "bbox": b} for s, b in found]
    return gt, results


@pytest.mark.parametrize("backend", ["pycocotools", "hotcoco"])
def test_precision_is_that_at_each_recall(backend):
    if backend == "hotcoco":
        pytest.importorskip("hotcoco")
    result = coco_result(*boxes(), "bbox", backend=backend)
    assert result.backend == backend
    # up to recall 1/2 one of one is right, up to 1 two of three: the best at that recall or later
    expected = [1.0] * 51 + [2 / 3] * 50
    assert result.curves.at_50 == pytest.approx(expected)
    assert result.curves.mean == pytest.approx(expected)  # both are exact at every IoU
    assert list(result.curves.per_class_at_50) == ["thing", "nothing"]
    assert result.curves.per_class_at_50["thing"] == pytest.approx(expected)
    assert result.curves.per_class_at_50["nothing"] is None
    assert 100 * np.mean(result.curves.mean) == pytest.approx(result.metrics["AP"])


def test_nothing_found_is_zero_and_nothing_to_find_is_none():
    gt, _ = boxes()
    nothing_found = coco_result(gt, [], "bbox").curves
    assert nothing_found.mean == tuple([0.0] * 101)
    nothing_to_find = coco_result(gt, [], "bbox", class_names={2: "nothing"}).curves
    assert nothing_to_find == PrecisionRecall(None, None, {"nothing": None})


def test_curves_come_from_the_right_place_of_the_array():
    # (IoUs, recalls, classes, sizes, limits): all sizes are the first, the limit of AP the last
    array = np.full((10, 101, 2, 4, 3), 0.9)
    array[:, :, :, 0, -1] = 0.2
    array[0, :, 1, 0, -1] = 0.6
    curves = precision_recall(array, [7, 9])
    assert curves.per_class_at_50 == {7: tuple([0.2] * 101), 9: tuple([0.6] * 101)}
    assert curves.at_50 == pytest.approx([0.4] * 101)
    assert curves.mean == pytest.approx([(19 * 0.2 + 0.6) / 20] * 101)
    array[:, :, 0] = -1  # no such object
    curves = precision_recall(array, [7, 9])
    assert curves.per_class_at_50[7] is None
    assert curves.at_50 == pytest.approx([0.6] * 101)


def test_a_backend_without_curves_is_one_all_the_same():
    COCO_BACKENDS["bare"] = lambda *a, **k: ([0.5] * 6, {1: 0.5, 2: -1.0})
    try:
        result = coco_result(*boxes(), "bbox", backend="bare")
    finally:
        del COCO_BACKENDS["bare"]
    assert result.curves is None
    assert result.metrics["AP"] == 50


METRICS = [
    {"iteration": 19, "total_loss": 3.0, "loss_cls": 1.0, "lr": 0.1, "time": 2.0},
    # an evaluation in the middle is written with the losses
    {"iteration": 39, "total_loss": 2.0, "loss_cls": 0.123456789, "lr": 0.1, "segm/AP": 10.0},
    {"iteration": 59, "total_loss": float("nan"), "fast_rcnn/cls_accuracy": 0.5, "lr": 0.1},
    {"iteration": 1000, "segm/AP": 31.29444, "segm/AP50": 58.0},
]


def test_learning_is_read_from_metrics(tmp_path, record):
    file = tmp_path / "metrics.json"
    lines = [json.dumps(row) for row in METRICS]
    file.write_text("\n".join([*lines[:3], '{"iteration": 79, "total_l', lines[3]]))
    curves = make_curves(record, file, {})
    assert curves.training == {
        "loss_cls": [(20, 1.0), (40, 0.12346)],
        "lr": [(20, 0.1), (40, 0.1), (60, 0.1)],
        "total_loss": [(20, 3.0), (40, 2.0)],
    }
    assert curves.evaluations == {
        "segm/AP": [(40, 10.0), (1000, 31.2944)],
        "segm/AP50": [(1000, 58.0)],
    }
    assert curves.precision_recall == {}
    assert curves.record == record_identity(record)
    assert curves.record != record_identity(record.model_copy(update={"seed": 5}))
    evaluated = record.model_copy(update={"mode": "eval"})
    assert make_curves(evaluated, file, {}).training == {}
    assert make_curves(record, tmp_path / "absent.json", {}).training == {}


def test_a_long_curve_is_thinned_to_means():
    assert thinned([]) == []
    points = [(20 * i, float(i)) for i in range(1, 7)]
    assert thinned(points, most=3) == [(40, 1.5), (80, 3.5), (120, 5.5)]
    assert thinned(points, most=4) == [(40, 1.5), (80, 3.5), (120, 5.5)]
    assert thinned(points, most=6) == points


@given(st.lists(st.floats(-1e3, 1e3), max_size=1000))
def test_thinning_keeps_the_end_and_the_range(values):
    points = list(enumerate(values))
    result = thinned(points)
    assert len(result) <= MAX_POINTS
    assert [x for x, _ in result] == sorted({x for x, _ in result})
    if points:
        assert result[-1][0] == points[-1][0]
        slack = 1e-4 * max(map(abs, values)) + 1e-9
        low, high = min(values) - slack, max(values) + slack
        assert all(low <= y <= high for _, y in result)


@pytest.fixture
def saved(tmp_path, record):
    curves = make_curves(
        record, None, {"segm": PrecisionRecall(FLAT, FLAT, {"mug": FLAT, "cup": None})}
    )
    save_curves(curves, tmp_path / "curves.json")
    return curves, tmp_path / "curves.json"


def test_saved_curves_read_back(saved):
    curves, file = saved
    assert load_curves(file) == curves
    assert file.read_text().count("\n") < 25, "one curve a line"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, r"schema_version 2.*newer version"),
        ({"extra": 1}, r"extra"),
        ({"training": {"lr": [[20, 0.1], [10, 0.1]]}}, r"do not ascend"),
        ({"training": {"lr": [[-1, 0.1]]}}, r"do not ascend"),
        (
            {"precision_recall": {"segm": {"mean": [1], "at_50": None, "per_class_at_50": {}}}},
            r"precision_recall\.segm: .*1 points, not 101",
        ),
        (
            {"precision_recall": {"segm": {"mean": None, "at_50": None,
                                           "per_class_at_50": {"a": [1.5] * 101}}}},
            r"not between 0 and 1",
        ),
    ],
)  # fmt: skip
def test_wrong_curves_are_refused(saved, change, message):
    file = saved[1]
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(RecordError, match=message):
        load_curves(file)


def test_unreadable_curves_are_refused(tmp_path):
    with pytest.raises(RecordError, match=r"absent\.json"):
        load_curves(tmp_path / "absent.json")
    (tmp_path / "cut.json").write_text('{"schema_')
    with pytest.raises(RecordError, match="cannot be read"):
        load_curves(tmp_path / "cut.json")


def test_committed_curves_are_those_of_committed_records():
    material = load_runs([RESULTS, EARLIER])
    seen = 0
    for key in material.curves:
        (record,) = [
            r for r in material.records if record_identity(r) == material.curves[key].record
        ]
        for task, curves in material.curves[key].precision_recall.items():
            metrics = record.metrics[task].values()
            assert 100 * np.mean(curves.mean) == pytest.approx(metrics["AP"], abs=0.01)
            assert 100 * np.mean(curves.at_50) == pytest.approx(metrics["AP50"], abs=0.01)
            seen += 1
        for name, points in material.curves[key].evaluations.items():
            task, _, metric = name.partition("/")
            value = record.metrics[task].values()[metric]
            assert points[-1] == (record.iterations_planned, pytest.approx(value, abs=1e-3))
    assert seen >= len(material.curves) > 20


def write_results(folder, results, task="bbox"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{task}_results.json").write_text(json.dumps(results))


@pytest.fixture
def run(tmp_path, record, monkeypatch):
    """Folder of a finished run on a data set of one image."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    gt, results = boxes()
    (tmp_path / "gt.json").write_text(json.dumps(gt.dataset))
    name = "curves_unit"
    MetadataCatalog.get(name).set(json_file=str(tmp_path / "gt.json"), evaluator_type="coco")
    DatasetCatalog.register(name, list)
    data = record.test_data.model_copy(update={"name": name})
    metrics = {"bbox": {"AP": 100 * (51 + 50 * 2 / 3) / 101, "per_class": {}}}
    changed = record.model_dump() | {"test_data": data.model_dump(), "metrics": metrics}
    save_record(type(record).model_validate(changed), tmp_path / "record.json")
    write_results(tmp_path / "inference" / name, results)
    yield tmp_path
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_curves_of_an_earlier_run_are_measured_again(run):
    curves = curves_of_run(run)
    assert curves.precision_recall["bbox"].at_50 == [1.0] * 51 + [0.6667] * 50
    (run / "inference" / "curves_unit" / "bbox_results.json").unlink()
    assert curves_of_run(run).precision_recall == {}


def test_results_of_another_run_are_refused(run):
    write_results(run / "inference" / "curves_unit", boxes()[1][:1])
    with pytest.raises(DataError, match=r"bbox AP 50\.4950, the record .* 83"):
        curves_of_run(run)
    (run / "inference" / "curves_unit" / "bbox_results.json").write_text("[{")
    with pytest.raises(DataError, match="cannot be read"):
        curves_of_run(run)
    write_results(run / "inference" / "curves_unit", boxes()[1])
    write_results(run / "inference" / "curves_unit", [], "segm")
    with pytest.raises(DataError, match=r"bbox_results\.json lists 3 .*segm_results\.json 0"):
        curves_of_run(run)
