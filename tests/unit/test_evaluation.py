"""The evaluator registry, COCO evaluation in its corner cases, and the inference loop."""

import json
import logging
import math
import time

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
import torch.multiprocessing
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from torch import nn

from mask_rcnn_repro.errors import ConfigError, DataError
from mask_rcnn_repro.evaluation import (
    COCO_BACKENDS,
    CocoEvaluator,
    build_evaluator,
    evaluate,
    instances_to_results,
)
from mask_rcnn_repro.evaluation.coco.backends import coco_result
from mask_rcnn_repro.evaluation.coco.ground_truth import index_ground_truth, load_ground_truth

NAME = "unit_coco_evaluation"


def content(count=3, annotate=True, **extra):
    """`count` images of 40 x 60 pixels, each with a 20 x 10 box at (10, 5) of category 5."""
    images = [
        {"id": i + 1, "file_name": f"{i}.jpg", "height": 40, "width": 60} for i in range(count)
    ]
    result = {
        "images": images,
        "categories": [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}],
    }
    if annotate:
        result["annotations"] = [
            {
                "id": i + 1,
                "image_id": i + 1,
                "category_id": 5,
                "bbox": [10, 5, 20, 10],
                "area": 200,
                "iscrowd": 0,
                "segmentation": [[10, 5, 30, 5, 30, 15, 10, 15]],
                **extra,
            }
            for i in range(count)
        ]
    return result


@pytest.fixture
def register(tmp_path):
    """Registers content under NAME; `json_file=False` gives dicts only."""

    def do(data, **metadata):
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps(data))
        DatasetCatalog.register(NAME, lambda: [])
        fields = {
            "json_file": str(path),
            "evaluator_type": "coco",
            "thing_classes": ["cat", "dog"],
            "thing_dataset_id_to_contiguous_id": {2: 0, 5: 1},
        }
        MetadataCatalog.get(NAME).set(**{**fields, **metadata})
        return NAME

    yield do
    for catalog in (DatasetCatalog, MetadataCatalog):
        if NAME in catalog.list():
            catalog.remove(NAME)


def detection(boxes=((10, 5, 30, 15),), classes=(1,), masks=True, keypoints=None, scale=1.0):
    """Predictions on an image that the network sees `scale` times as large as 40 x 60."""
    instances = Instances((round(40 * scale), round(60 * scale)))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) * scale)
    instances.scores = torch.linspace(0.9, 0.5, len(boxes))
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    if masks:
        instances.pred_masks = torch.ones(len(boxes), 1, 28, 28)
    if keypoints is not None:
        instances.pred_keypoints = torch.tensor(keypoints, dtype=torch.float32)
    return instances


def nothing(masks=True):
    return detection(boxes=(), classes=(), masks=masks)


def inputs(image_id):
    return [{"image_id": image_id, "height": 40, "width": 60}]


def run(evaluator, outputs):
    evaluator.reset()
    for image_id, instances in outputs.items():
        evaluator.process(inputs(image_id), [{"instances": instances}])
    return evaluator.evaluate()


# --- registry -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["coco", "coco_person"])
def test_evaluator_follows_the_data_set(register, kind, tmp_path):
    register(content(), evaluator_type=kind)
    evaluator = build_evaluator(NAME, output_dir=str(tmp_path))
    assert isinstance(evaluator, CocoEvaluator)
    assert evaluator.output_dir == tmp_path / NAME


def test_unknown_type_data_set_and_backend(register):
    register(content(), evaluator_type="panoptic")
    with pytest.raises(DataError, match=r"'panoptic'.*Known types: .*coco, coco_person"):
        build_evaluator(NAME)
    with pytest.raises(DataError, match=r"'no_such_set'.*dataloader\.test"):
        build_evaluator("no_such_set")
    assert "no_such_set" not in MetadataCatalog.list()
    with pytest.raises(DataError, match=r"'slow'.*allowed: .*pycocotools"):
        CocoEvaluator(NAME, backend="slow")


# --- metrics and files ----------------------------------------------------------------------


def test_perfect_and_missed_detections(register):
    """One of three objects found: recall 1/3, so 34 of 101 recall points have precision 1."""
    register(content())
    metrics = run(CocoEvaluator(NAME), {1: detection(scale=2.0), 2: nothing(), 3: nothing()})
    for task in ("bbox", "segm"):
        assert metrics[task]["AP"] == pytest.approx(100 * 34 / 101)
        assert metrics[task]["APs"] == metrics[task]["AP"]
        assert math.isnan(metrics[task]["APm"]) and math.isnan(metrics[task]["APl"])
        assert metrics[task]["per_class"]["dog"] == metrics[task]["AP"]
        assert math.isnan(metrics[task]["per_class"]["cat"])


def test_subset_is_measured_on_the_images_seen(register):
    register(content())
    assert run(CocoEvaluator(NAME), {2: detection()})["bbox"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("masks", [True, False])
def test_no_detection_at_all_is_zero(register, masks):
    register(content())
    metrics = run(CocoEvaluator(NAME), {i: nothing(masks) for i in (1, 2, 3)})
    assert set(metrics) == ({"bbox", "segm"} if masks else {"bbox"})
    for values in metrics.values():
        assert values["AP"] == 0.0 and values["per_class"]["dog"] == 0.0


def test_no_images_and_no_annotations(register):
    register({**content(), "annotations": []})
    assert math.isnan(run(CocoEvaluator(NAME), {})["bbox"]["AP"])
    assert math.isnan(run(CocoEvaluator(NAME), {1: detection()})["segm"]["AP"])


def test_result_files(register, tmp_path):
    register(content())
    found = {3: detection(((0, 0, 6, 4), (10, 5, 30, 15)), (0, 1)), 1: detection()}
    run(CocoEvaluator(NAME, output_dir=str(tmp_path / "out")), found)
    folder = tmp_path / "out" / NAME
    assert sorted(path.name for path in folder.iterdir()) == [
        "bbox_results.json",
        "segm_results.json",
    ]
    boxes = json.loads((folder / "bbox_results.json").read_text())
    masks = json.loads((folder / "segm_results.json").read_text())
    # in the order of the annotation file
    assert [(b["image_id"], b["category_id"], b["bbox"]) for b in boxes] == [
        (1, 5, [10, 5, 20, 10]),
        (3, 2, [0, 0, 6, 4]),
        (3, 5, [10, 5, 20, 10]),
    ]
    assert boxes[0]["score"] == pytest.approx(0.9)
    assert set(masks[0]) == {"image_id", "category_id", "segmentation", "score"}
    decoded = mask_util.decode(masks[0]["segmentation"])
    expected = np.zeros((40, 60))
    expected[5:15, 10:30] = 1
    np.testing.assert_array_equal(decoded, expected)


def test_split_without_annotations_writes_results_only(register, tmp_path, caplog):
    register(content(annotate=False))
    caplog.set_level(logging.INFO)
    metrics = run(CocoEvaluator(NAME, output_dir=str(tmp_path)), {1: detection(), 2: nothing()})
    assert metrics == {}
    assert "no annotations" in caplog.text
    rows = json.loads((tmp_path / NAME / "segm_results.json").read_text())
    assert [row["category_id"] for row in rows] == [5]
    run(CocoEvaluator(NAME, output_dir=str(tmp_path)), {1: nothing()})
    assert json.loads((tmp_path / NAME / "segm_results.json").read_text()) == []


def test_wrong_class_count_and_foreign_images(register):
    register(content())
    with pytest.raises(DataError, match=r"class 2.*has 2 classes.*num_classes=2"):
        run(CocoEvaluator(NAME), {1: detection(classes=(2,))})
    with pytest.raises(DataError, match="99"):
        run(CocoEvaluator(NAME), {99: detection()})


def test_annotations_without_masks_or_with_some(register):
    data = content()
    for item in data["annotations"]:
        del item["segmentation"]
    register(data)
    assert set(run(CocoEvaluator(NAME), {1: detection()})) == {"bbox"}
    data["annotations"][0]["segmentation"] = [[10, 5, 30, 5, 30, 15]]
    MetadataCatalog.remove(NAME)
    DatasetCatalog.remove(NAME)
    register(data)
    metrics = run(CocoEvaluator(NAME), {1: detection()})
    assert set(metrics) == {"bbox", "segm"}


@pytest.mark.parametrize("ids", [[0, 1, 2], [4, 4, 4]])
def test_unusual_annotation_ids_do_not_change_the_result(register, ids):
    """pycocotools alone takes the object with id 0 for unmatched."""
    data = content()
    for item, number in zip(data["annotations"], ids, strict=True):
        item["id"] = number
        del item["iscrowd"], item["area"]
    register(data)
    metrics = run(CocoEvaluator(NAME), {i: detection() for i in (1, 2, 3)})
    assert metrics["bbox"]["AP"] == pytest.approx(100)
    assert metrics["segm"]["APs"] == pytest.approx(100)
    truth = index_ground_truth({**data, "annotations": [dict(data["annotations"][0])]})
    assert truth.coco.dataset["annotations"][0]["area"] == 200


def test_data_set_of_dicts_without_json(register):
    register(content())
    MetadataCatalog.remove(NAME)
    DatasetCatalog.remove(NAME)
    box = {"bbox": [10, 5, 20, 10], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}
    record = {"file_name": "a.jpg", "image_id": 7, "height": 40, "width": 60, "annotations": [box]}
    DatasetCatalog.register(NAME, lambda: [record])
    MetadataCatalog.get(NAME).set(evaluator_type="coco", thing_classes=["cat", "dog"])
    assert run(CocoEvaluator(NAME), {7: detection(masks=False)})["bbox"]["AP"] == pytest.approx(100)


def person(x=0.0, count=17):
    """Visible keypoints on a line through the box, `x` pixels to the right of it."""
    columns = np.linspace(12, 28, count) + x, np.linspace(6, 14, count), np.full(count, 2.0)
    return np.stack(columns, axis=1)


def test_keypoints_of_one_class_among_others(register):
    """COCO's keypoints are pixel indices, half a pixel off the model's coordinates."""
    data = content(keypoints=person(-0.5).ravel().tolist(), num_keypoints=17)
    for item in data["annotations"]:
        item["keypoints"] = (person() - [0.5, 0.5, 0]).ravel().tolist()
    data["annotations"].append(
        {**content()["annotations"][0], "id": 9, "category_id": 2, "iscrowd": 0}
    )
    register(data)
    metrics = run(
        CocoEvaluator(NAME),
        {i: detection(keypoints=person()[None] * [2, 2, 1], scale=2.0) for i in (1, 2, 3)},
    )
    assert metrics["keypoints"]["AP"] == pytest.approx(100)
    assert metrics["keypoints"]["per_class"] == {"dog": pytest.approx(100)}
    # one pixel off costs something, all of it at a sigma of a thousandth
    shifted = {i: detection(keypoints=person(1.0)[None]) for i in (1, 2, 3)}
    lenient = run(CocoEvaluator(NAME), shifted)["keypoints"]["AP"]
    MetadataCatalog.get(NAME).set(keypoint_oks_sigmas=[0.001] * 17)
    strict = run(CocoEvaluator(NAME), shifted)["keypoints"]["AP"]
    assert 0 < lenient < 100 and strict == 0


def test_keypoint_counts_must_agree(register):
    register(content(keypoints=person().ravel().tolist(), num_keypoints=17))
    with pytest.raises(DataError, match=r"predictions: \[5\].*keypoint_oks_sigmas"):
        run(CocoEvaluator(NAME), {1: detection(keypoints=person(count=5)[None])})


def test_backends_are_exchangeable(register):
    register(content())
    seen = {}

    def fake(gt, detections, iou_type, **options):
        seen[iou_type] = options["category_ids"]
        return [0.25] * 6, {2: -1.0, 5: 0.5}

    COCO_BACKENDS["fake"] = fake
    try:
        metrics = run(CocoEvaluator(NAME, backend="fake"), {1: detection(masks=False)})
    finally:
        del COCO_BACKENDS["fake"]
    assert metrics["bbox"]["AP75"] == 25 and metrics["bbox"]["per_class"]["dog"] == 50
    assert seen == {"bbox": [2, 5]}


# --- predictions to results -----------------------------------------------------------------


def test_not_finite_and_empty_detections_are_dropped():
    boxes = ((10, 5, 30, 15), (0, 0, float("nan"), 5), (1, 1, 1, 9), (0, 0, float("inf"), 2))
    instances = detection((*boxes, (70, 0, 90, 9), (0, 0, 60, 40)), (1, 0, 0, 0, 0, 0))
    instances.scores[5] = float("nan")
    results = instances_to_results(instances, 40, 60, image_id=1)
    assert [r["bbox"] for r in results] == [[10, 5, 20, 10]]
    assert results[0]["segmentation"]["size"] == [40, 60]
    assert instances_to_results(nothing(), 40, 60, 1) == []
    assert instances_to_results(detection(((70, 0, 90, 9),), (0,)), 40, 60, 1) == []


def test_half_precision_predictions():
    instances = detection()
    instances.pred_boxes = Boxes(instances.pred_boxes.tensor.bfloat16())
    instances.pred_masks = instances.pred_masks.bfloat16()
    results = instances_to_results(instances, 40, 60, 1)
    assert mask_util.area(results[0]["segmentation"]) == 200


# --- the loop -------------------------------------------------------------------------------


class Model(nn.Module):
    """Finds the object in every image, as small predictions; slow on request."""

    def __init__(self, seconds=0.0):
        super().__init__()
        self.part = nn.BatchNorm2d(1)
        self.seconds = seconds
        self.seen = []

    def inference(self, batch, do_postprocess=True):
        assert not do_postprocess and not self.training and not self.part.training
        assert not torch.is_grad_enabled()
        self.seen += [image["image_id"] for image in batch]
        time.sleep(self.seconds)
        return [detection() for _ in batch]


def loader(count, size=1):
    images = [inputs(i + 1)[0] for i in range(count)]
    return torch.utils.data.DataLoader(images, batch_size=size, collate_fn=list)


def test_loop_measures_and_restores_modes(register):
    register(content(8))
    model = Model(0.01)
    model.part.eval()  # a frozen part stays frozen
    metrics, seconds = evaluate(model, loader(8), CocoEvaluator(NAME))
    assert metrics["segm"]["AP"] == pytest.approx(100)
    assert model.training and not model.part.training
    assert model.seen == list(range(1, 9))
    assert set(seconds) == {"data", "inference", "postprocess", "total"}
    assert seconds["inference"] >= 0.01
    assert seconds["total"] == pytest.approx(sum(seconds.values()) / 2)
    # an image, not a batch
    assert evaluate(Model(0.2), loader(8, 4), CocoEvaluator(NAME))[1]["inference"] < 0.2


def test_first_batches_are_not_timed(register):
    register(content(7))

    class SlowStart(Model):
        def inference(self, batch, do_postprocess=True):
            self.seconds = 0.1 if len(self.seen) < 5 else 0.0
            return super().inference(batch, do_postprocess)

    assert evaluate(SlowStart(), loader(7), CocoEvaluator(NAME))[1]["inference"] < 0.05


def test_loop_restores_modes_after_an_error():
    class Broken(Model):
        def inference(self, batch, do_postprocess=True):
            raise ZeroDivisionError

    model = Broken()
    with pytest.raises(ZeroDivisionError):
        evaluate(model, loader(1), CocoEvaluator("unused"))
    assert model.training and model.part.training


def test_loop_takes_batches_as_they_are_read(register):
    register(content(3))
    model = Model()
    evaluate(model, loader(3), CocoEvaluator(NAME), read=lambda batches: reversed(list(batches)))
    assert model.seen == [3, 2, 1]


def test_loop_without_images(register):
    register(content(0))
    metrics, seconds = evaluate(Model(), loader(0), CocoEvaluator(NAME))
    assert seconds == {} and math.isnan(metrics["bbox"]["AP"])


def test_loop_shows_progress(register, caplog):
    register(content(6))
    caplog.set_level(logging.INFO, logger="mask_rcnn_repro")
    evaluate(Model(0.02), loader(6, 2), CocoEvaluator(NAME), log_seconds=0.0)
    lines = [r.getMessage() for r in caplog.records if "ETA" in r.getMessage()]
    assert [line.split()[1] for line in lines] == ["2/6", "4/6", "6/6"]
    assert lines[-1].endswith("ETA 0:00:00") and "inference 0." in lines[0]


def test_loop_runs_inference_in_the_given_context(register):
    register(content(1))

    class Asks(Model):
        def inference(self, batch, do_postprocess=True):
            self.autocast = torch.is_autocast_enabled("cpu")
            return super().inference(batch, do_postprocess)

    model = Asks()
    evaluate(
        model,
        loader(1),
        CocoEvaluator(NAME),
        autocast=lambda: torch.autocast("cpu", torch.bfloat16),
    )
    assert model.autocast


def test_other_models_are_called(register):
    register(content(2))

    class Wrapper(nn.Module):
        def forward(self, batch):
            full = detection()
            full.pred_masks = torch.zeros(1, 40, 60, dtype=torch.bool)
            full.pred_masks[:, 5:15, 10:30] = True
            return [{"instances": full} for _ in batch]

    metrics, _ = evaluate(Wrapper(), loader(2), CocoEvaluator(NAME))
    assert metrics["segm"]["AP"] == pytest.approx(100)


# --- limits of detections ---------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["pycocotools", "auto"])
@pytest.mark.parametrize(
    ("limits", "expected"),
    [([1, 10, 100], 67 / 101), ([100], 67 / 101), ([300], 1), ([1, 10, 300], 1),
     ([1, 10, 100, 300], 1), ([300, 1], 1), ([149], 100 / 101), ([148], 99 / 101)],
)  # fmt: skip
def test_all_metrics_are_those_of_the_largest_limit(limits, expected, backend):
    """Of 150 objects, all found exactly: recall 100/150 reaches the recalls 0 to 0.66."""
    data = content(1)
    data["images"][0].update(height=400, width=400)
    boxes = [[n % 10 * 36 + 4, n // 10 * 25 + 4, 14, 14] for n in range(150)]
    row = {"image_id": 1, "category_id": 5}
    data["annotations"] = [{**row, "id": n, "bbox": b} for n, b in enumerate(boxes, start=1)]
    results = [{**row, "bbox": b, "score": 1 - n / 1000} for n, b in enumerate(boxes)]
    gt = index_ground_truth(data).coco
    found = coco_result(gt, results, "bbox", max_dets=limits, backend=backend)
    for name in ("AP", "AP50", "AP75", "APs"):
        assert found.metrics[name] == pytest.approx(100 * expected)
    assert found.metrics["per_class"]["dog"] == found.metrics["AP"]
    assert np.mean(found.curves.mean) == pytest.approx(expected)
    assert math.isnan(found.metrics["APl"])


@pytest.mark.parametrize("limits", [[], [0, 10], [-1], [1, 10, 100.0], ["1", 10]])
def test_impossible_limits_are_refused(limits):
    with pytest.raises(ConfigError, match=r"whole numbers from 1 on"):
        CocoEvaluator(NAME, max_dets=limits)


@pytest.mark.parametrize(("polygons", "area"), [(1, 200), (2, 400)])
def test_areas_of_polygons_add_up_as_in_coco(register, polygons, area):
    """400 pixels in a box of 20 x 10 are possible for two polygons, not for one."""
    polygon = [10, 5, 30, 5, 30, 15, 10, 15]
    register(content(1, area=400, segmentation=[polygon] * polygons))
    truth = load_ground_truth(NAME).coco
    assert truth.dataset["annotations"][0]["area"] == area


def test_keypoints_that_do_not_fit_are_reported_before_training(register):
    register(content(keypoints=[1, 1, 2] * 17, num_keypoints=17))
    CocoEvaluator(NAME).check(17)
    CocoEvaluator(NAME).check(None)
    with pytest.raises(DataError, match="numbers of keypoints"):
        CocoEvaluator(NAME).check(3)


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_keypoints_of_a_later_annotation_are_checked_too(register, backend):
    data = content(keypoints=[1, 1, 2] * 17, num_keypoints=17)
    data["annotations"][0].update(category_id=2, keypoints=[], num_keypoints=0)
    register(data)
    CocoEvaluator(NAME, backend=backend).check(17)
    with pytest.raises(DataError, match="numbers of keypoints"):
        CocoEvaluator(NAME, backend=backend).check(3)


# --- several processes ----------------------------------------------------------------------


def noisy(image_id):
    """Differs by image; scores are coarse, so that there are ties."""
    generator = np.random.RandomState(image_id)
    boxes = np.array([10, 5, 30, 15]) + generator.normal(0, 2, (6, 4))
    instances = detection(boxes.tolist(), generator.randint(0, 2, 6).tolist())
    instances.scores = torch.tensor(generator.randint(1, 5, 6) / 5)
    return instances


def work(rank, world_size, rendezvous, image_ids, output_dir):
    if world_size > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size
        )

    class Noisy(Model):
        def inference(self, batch, do_postprocess=True):
            return [noisy(image["image_id"]) for image in batch]

    mine = [inputs(i)[0] for i in image_ids[rank::world_size]]
    data = torch.utils.data.DataLoader(mine, batch_size=1, collate_fn=list)
    evaluator = CocoEvaluator(NAME, output_dir=str(output_dir))
    metrics, seconds = evaluate(Noisy(), data, evaluator)
    assert set(seconds) == {"data", "inference", "postprocess", "total"}
    assert bool(metrics) == (rank == 0)
    if rank == 0:
        (output_dir / "metrics.json").write_text(json.dumps(metrics))


def test_result_does_not_depend_on_the_number_of_processes(register, tmp_path):
    register(content(9))
    found = {}
    # other numbers of processes, other orders of images
    for world_size, image_ids in ((1, range(1, 10)), (2, range(9, 0, -1)), (3, range(1, 10))):
        folder = tmp_path / str(world_size)
        folder.mkdir()
        torch.multiprocessing.start_processes(
            work,
            args=(world_size, folder / "rendezvous", list(image_ids), folder),
            nprocs=world_size,
            start_method="fork",
        )
        names = ["metrics.json", f"{NAME}/bbox_results.json", f"{NAME}/segm_results.json"]
        found[world_size] = [(folder / name).read_text() for name in names]
    assert found[1] == found[2] == found[3]
    assert 0 < json.loads(found[1][0])["bbox"]["AP"] < 100
