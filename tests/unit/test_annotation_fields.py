"""Each field of an annotation present, missing, null, empty or extreme, from the json to the AP.

Either an error before the training that names file, annotation and field, or every step takes the
annotation: check, two training steps, evaluation, drawing and analysis. Their numbers are those of
pycocotools on the same normalized ground truth.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import itertools
import json
import logging
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask_rcnn_repro.config import load_config
from mask_rcnn_repro.config.from_data import fit_to_data
from mask_rcnn_repro.data import MaskRCNNMapper, register_custom
from mask_rcnn_repro.data.coco.load import load_coco_json
from mask_rcnn_repro.data.datasets import get_test_dicts
from mask_rcnn_repro.engine.builders import build_model, build_optimizer
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation.coco.evaluator import CocoEvaluator
from mask_rcnn_repro.evaluation.coco.ground_truth import load_ground_truth
from mask_rcnn_repro.evaluation.coco.numbers import METRIC_NAMES
from mask_rcnn_repro.registration import register
from mask_rcnn_tools.analyze.cli import PARTS
from mask_rcnn_tools.analyze.evaluation_data import load_evaluation_data
from mask_rcnn_tools.analyze.results import analyze
from mask_rcnn_tools.check_data.check import Options, check
from mask_rcnn_tools.check_data.findings import Report
from mask_rcnn_tools.check_data.sources import sources_of_json
from mask_rcnn_tools.drawing.evaluation import draw_pair

from .data_helpers import write

register()

WIDTH, HEIGHT = 64, 48
SIGMAS = [0.1, 0.1, 0.1]
ABSENT = ...

# Four objects, two an image. Each is 20 x 24 pixels.
BOXES = [[4, 6, 20, 24], [34, 10, 20, 24], [8, 12, 20, 24], [40, 20, 20, 24]]


def _square(box: list[int]) -> list[int]:
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def _points(box: list[int]) -> list[int]:
    x, y, _, _ = box
    return [x + 4, y + 4, 2, x + 15, y + 5, 1, x + 10, y + 18, 2]


def _encoded(box: list[int], compressed: bool) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    x, y, w, h = box
    mask[y : y + h, x : x + w] = 1
    if compressed:
        runs = mask_util.encode(np.asfortranarray(mask))
        return {"size": runs["size"], "counts": runs["counts"].decode()}
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *ends, len(flat)]).tolist()}


Form = Callable[[list[int]], Any]

# What may be written for a field, by name. Which of them mean a mask, keypoints, an object.
MASKS: dict[str, Form] = {
    "polygon": lambda box: [_square(box)],
    "polygon and rest": lambda box: [[1, 2], _square(box), [], [1, 2, 3, 4]],
    "polygon and far": lambda box: [_square(box), [0, 0, 1e12, 1e12, 0, 5]],
    "runs": lambda box: _encoded(box, False),
    "text": lambda box: _encoded(box, True),
}
NO_MASKS: dict[str, Form] = {
    "absent": lambda _: ABSENT,
    "null": lambda _: None,
    "[]": lambda _: [],
    "[[]]": lambda _: [[]],
    "{}": lambda _: {},
    "four numbers": lambda box: [[box[0], box[1], box[0] + box[2], box[1] + box[3]]],
    "odd": lambda box: [_square(box)[:7]],
    "nan": lambda _: [[1, 2, 3, 4, 5, math.nan]],
    "far": lambda _: [[0, 0, 1e300, 0, 0, 5]],
    "no pixel": lambda _: {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]},
}
BAD_MASKS: dict[str, Form] = {
    "word": lambda _: "mask",
    "flat": lambda box: _square(box),
    "words": lambda _: [["1", "2", "3", "4", "5", "6"]],
    "other size": lambda _: {"size": [5, 5], "counts": [0, 25]},
    "short": lambda _: {"size": [HEIGHT, WIDTH], "counts": [5]},
    "no size": lambda _: {"counts": [0, HEIGHT * WIDTH]},
}
POINTS: dict[str, Form] = {
    "three": _points,
    "floats": lambda box: [v + (0.25 if i % 3 < 2 else 0) for i, v in enumerate(_points(box))],
    "one": lambda box: [*_points(box)[:3], 0, 0, 0, 0, 0, 0],
    "outside": lambda box: [-5, 99, 2, *_points(box)[3:]],
    "far": lambda box: [1e9, -1e9, 2, *_points(box)[3:]],
}
NO_POINTS: dict[str, Form] = {
    "absent": lambda _: ABSENT,
    "null": lambda _: None,
    "[]": lambda _: [],
    "zeros": lambda _: [0] * 9,
    "ghosts": lambda box: [v if i % 3 < 2 else 0 for i, v in enumerate(_points(box))],
}
BAD_POINTS: dict[str, Form] = {
    "eight": lambda box: _points(box)[:8],
    "two": lambda box: _points(box)[:6],
    "visibility": lambda box: [*_points(box)[:8], 3],
    "nan": lambda box: [math.nan, *_points(box)[1:]],
    "word": lambda _: "left",
}
AREAS: list[Any] = [480, 480.0, 300, 505, ABSENT]
NO_AREAS: list[Any] = [None, 0, -1, 0.0, math.nan, math.inf, 1e6, 10**400, "480", [480], True, 600]
COUNTS: list[Any] = [3, 0, 17, -1, None, math.nan, "3", ABSENT]
CROWDS: list[Any] = [0, ABSENT, None, False]
BAD_CROWDS: list[Any] = [2, "0", 0.5, []]
NO_BOXES: list[Any] = [[4, 6, 0, 24], [4, 6, 20, -1], [99, 6, 20, 24], [4, math.nan, 20, 24],
                       [4, 6, 1e9, 24]]  # fmt: skip
BAD_BOXES: list[Any] = [ABSENT, None, [], [1, 2, 3], "box", [1, 2, 3, "4"]]

Choice = dict[str, Any]
PLAIN: Choice = {"segmentation": "polygon", "keypoints": "three", "area": 480, "iscrowd": 0}


def _one_of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([v for group in values for v in group])


CHOICES = st.fixed_dictionaries(
    {
        "segmentation": _one_of(MASKS, MASKS, NO_MASKS),
        "keypoints": _one_of(POINTS, POINTS, NO_POINTS),
        "area": _one_of(AREAS, NO_AREAS),
        "iscrowd": _one_of(CROWDS, CROWDS, [1]),
    },
    optional={
        "num_keypoints": _one_of(COUNTS),
        "ignore": _one_of([0, None]),
        "category_id": _one_of([1, 2]),  # the second has no names of keypoints
    },
)
BROKEN = st.one_of(
    st.tuples(st.just("segmentation"), _one_of(BAD_MASKS)),
    st.tuples(st.just("keypoints"), _one_of(BAD_POINTS)),
    st.tuples(st.just("iscrowd"), _one_of(BAD_CROWDS)),
    st.tuples(st.just("bbox"), _one_of(BAD_BOXES)),
    st.tuples(st.just("ignore"), _one_of([1, "no"])),
    st.tuples(st.just("category_id"), _one_of([ABSENT, None, 9, "1"])),
)
CONTENTS = st.lists(CHOICES, min_size=4, max_size=4)


def _content(choices: list[Choice]) -> dict[str, Any]:
    annotations = []
    for number, (box, choice) in enumerate(zip(BOXES, choices, strict=True)):
        fields = {"id": 11 + number, "image_id": 1 + number // 2, "category_id": 1, "bbox": box}
        fields.update({k: v for k, v in choice.items() if k not in ("segmentation", "keypoints")})
        masks, points = {**MASKS, **NO_MASKS, **BAD_MASKS}, {**POINTS, **NO_POINTS, **BAD_POINTS}
        fields["segmentation"] = masks[choice["segmentation"]](box)
        fields["keypoints"] = points[choice["keypoints"]](box)
        annotations.append({k: v for k, v in fields.items() if v is not ABSENT})
    names = ["ear_left", "ear_right", "chin"]
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in (1, 2)
        ],
        "annotations": annotations,
        "categories": [
            {"id": 1, "name": "acrobat", "keypoints": names, "skeleton": [[1, 3]]},
            {"id": 2, "name": "ball"},
        ],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two images; quiet about what is normalized."""
    path = tmp_path_factory.mktemp("fields")
    write(path, _content([PLAIN] * 4))
    loggers = [logging.getLogger(name) for name in ("mask_rcnn_repro", "fvcore")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    yield path
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


_numbers = itertools.count()


def _register(folder: Path, content: dict[str, Any]) -> tuple[str, Path]:
    """Writes and registers the json under a name of its own."""
    name = f"fields_{next(_numbers)}"
    file = folder / f"{name}.json"
    file.write_text(json.dumps(content))
    register_custom(name, str(file), str(folder / "images"), oks_sigmas=SIGMAS)
    return name, file


def _report(file: Path, folder: Path) -> Report:
    report = Report("fields")
    sources = sources_of_json(str(file), str(folder / "images"), report)
    return check(sources, report, Options(images=False))


@given(CONTENTS, BROKEN)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_refused_is_named_before_training(
    folder: Path, choices: list[Choice], broken: tuple[str, Any]
) -> None:
    field, value = broken
    if field in ("segmentation", "keypoints"):
        content = _content([choices[0], {**choices[1], field: value}, *choices[2:]])
    else:
        content = _content(choices)
        content["annotations"][1].pop(field, None)
        content["annotations"][1].update({} if value is ABSENT else {field: value})
    _, file = _register(folder, content)
    with pytest.raises(DataError) as refused:
        load_coco_json(file, folder / "images")
    message = str(refused.value)
    words = {"segmentation": "segmentation|run|counts", "category_id": "category"}
    assert f"{file}: annotation 12" in message and re.search(words.get(field, field), message)
    assert any(finding.level == "error" for finding in _report(file, folder).findings)


def _truth(choices: list[Choice]) -> list[dict[str, Any]]:
    """What the choices mean, written anew: the ground truth that pycocotools gets."""
    truth = []
    for number, (box, choice) in enumerate(zip(BOXES, choices, strict=True)):
        if choice.get("bbox") is not None:
            continue
        mask = choice["segmentation"] in MASKS
        points = POINTS[choice["keypoints"]](box) if choice["keypoints"] in POINTS else [0] * 9
        area = choice["area"]
        if any(area is value for value in NO_AREAS) or area is ABSENT:
            area = mask_util.area(_encoded(box, True)) if mask else box[2] * box[3]
        fields = {"id": 11 + number, "image_id": 1 + number // 2, "category_id": 1, "bbox": box}
        truth.append(
            {
                **fields,
                "category_id": choice.get("category_id", 1),
                "iscrowd": int(choice["iscrowd"] == 1),
                "segmentation": _encoded(box, True) if mask else None,
                "keypoints": points,
                "num_keypoints": sum(v > 0 for v in points[2::3]),
                "area": float(area),
            }
        )
    return truth


def _with_points(choices: list[Choice]) -> set[int]:
    """The categories with keypoints, labeled or not."""
    written = {**POINTS, "zeros": 0, "ghosts": 0}
    kept = [choice for choice in choices if "bbox" not in choice]
    return {c.get("category_id", 1) for c in kept if c["keypoints"] in written}


def _pycocotools(
    truth: list[dict[str, Any]], results: list[dict[str, Any]], task: str, categories: set[int]
) -> dict[str, float]:
    """Metrics in percent by pycocotools' own summary."""
    truth = copy.deepcopy(truth)
    if task == "segm":  # as documented: without a mask, the box is a crowd region
        for annotation in truth:
            if annotation["segmentation"] is None:
                annotation.update(segmentation=_encoded(annotation["bbox"], True), iscrowd=1)
    coco = COCO()
    images = [{"id": i, "width": WIDTH, "height": HEIGHT} for i in (1, 2)]
    coco.dataset = {"images": images, "annotations": truth}
    coco.dataset["categories"] = [{"id": 1}, {"id": 2}]
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        found = COCO()
        found.dataset = {**coco.dataset, "annotations": []}
        found.createIndex()
        if results:  # loadRes fails without
            found = coco.loadRes(copy.deepcopy(results))
        evaluation = COCOeval(coco, found, task)
        evaluation.params.catIds = sorted(categories)
        if task == "keypoints":
            evaluation.params.kpt_oks_sigmas = np.array(SIGMAS)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = [float(v) * 100 if v >= 0 else math.nan for v in evaluation.stats]
    return dict(zip(METRIC_NAMES[task], stats, strict=False))


def _detect(shift: list[int]) -> list[dict[str, Any]]:
    """A detection of each of the four objects, moved by some pixels."""
    outputs = []
    for image in (1, 2):
        instances = Instances((HEIGHT, WIDTH))
        pairs = list(zip(BOXES, shift, strict=True))[2 * image - 2 : 2 * image]
        boxes = [[x + s, y, x + s + w, y + h] for (x, y, w, h), s in pairs]
        masks = np.zeros((2, HEIGHT, WIDTH), bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
            mask[y0:y1, x0:x1] = True
        moved = [np.array([s, 0, 0]) for _, s in pairs]
        points = [np.reshape(_points(box), (3, 3)) for box, _ in pairs]
        instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
        instances.scores = torch.tensor([0.9, 0.8]) - image / 100
        instances.pred_classes = torch.zeros(2, dtype=torch.int64)
        instances.pred_masks = torch.from_numpy(masks)
        instances.pred_keypoints = torch.from_numpy(
            np.add(points, np.stack(moved)[:, None])
        ).float()
        outputs.append({"instances": instances})
    return outputs


@pytest.fixture(scope="module")
def two_steps(folder: Path) -> Callable[[list[dict[str, Any]]], None]:
    """Trains the smallest model with all branches two steps on mapped images."""
    name, file = _register(folder, _content([PLAIN] * 4))
    overrides = ["train.proposals=null", "dataloader.test.dataset.oks_sigmas=[0.1,0.1,0.1]"]
    for split in ("train", "test"):
        keys = {"names": f"{name}_{split}", "json": file, "image_root": folder / "images"}
        overrides += [f"dataloader.{split}.dataset.{key}={value}" for key, value in keys.items()]
    cfg = load_config("table5/keypoint_and_mask", "tiny", overrides)
    cfg = fit_to_data(cfg, overrides)
    model = build_model(cfg, torch.device("cpu")).train()
    start = copy.deepcopy(model.state_dict())

    def train(images: list[dict[str, Any]]) -> None:
        torch.manual_seed(0)
        model.load_state_dict(start)
        optimizer = build_optimizer(cfg, model)
        with EventStorage():
            for image in images[:2]:
                losses = model([image])
                assert all(torch.isfinite(loss) for loss in losses.values())
                optimizer.zero_grad()
                sum(losses.values()).backward()
                optimizer.step()

    return train


NONE_LABELED = [{**PLAIN, "segmentation": "[]", "keypoints": "[]"}] * 4
BALL: Choice = {**PLAIN, "category_id": 2, "keypoints": "absent"}
DAMAGED: Choice = {"segmentation": "[[]]", "keypoints": "null", "area": 0, "iscrowd": None}


@given(
    CONTENTS,
    st.lists(st.integers(-3, 3), min_size=4, max_size=4),
    st.none() | st.tuples(st.integers(0, 3), _one_of(NO_BOXES)),
    st.just(False),
)
@example([PLAIN] * 4, [0, 0, 0, 0], None, True)
@example([DAMAGED, PLAIN, PLAIN, PLAIN], [0, 0, 0, 0], None, True)
@example([{**PLAIN, "segmentation": "four numbers"}, *[PLAIN] * 3], [0, 1, 2, 3], None, False)
@example([{**PLAIN, "segmentation": "no pixel"}, *[PLAIN] * 3], [0, 0, 0, 0], None, True)
@example([{**PLAIN, "segmentation": "far"}, *[PLAIN] * 3], [0, 0, 0, 0], None, False)
@example([{**PLAIN, "keypoints": "absent"}, *[PLAIN] * 3], [2, 1, 0, 3], None, False)
@example([{**PLAIN, "num_keypoints": 0}, *[PLAIN] * 3], [0, 0, 0, 0], None, False)
@example([{**PLAIN, "keypoints": "far"}, *[PLAIN] * 3], [0, 0, 0, 0], None, True)
@example([BALL, PLAIN, BALL, PLAIN], [0, 0, 0, 0], None, True)
@example([{**BALL, "keypoints": "three"}, PLAIN, BALL, PLAIN], [0, 0, 0, 1], None, False)
@example([{**PLAIN, "area": 0}] * 4, [1, 1, 1, 1], None, False)
@example([{**PLAIN, "area": 1e6, "segmentation": "null"}] * 4, [1, 1, 1, 1], None, False)
@example([{**PLAIN, "iscrowd": 1}] * 4, [0, 0, 0, 0], None, False)
@example(NONE_LABELED, [1, 0, 0, 0], None, False)
@example([PLAIN] * 4, [0, 0, 0, 0], (2, [4, 6, 0, 24]), True)
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_step_takes_what_is_loaded(
    folder: Path,
    two_steps: Callable[[list[dict[str, Any]]], None],
    choices: list[Choice],
    shift: list[int],
    unusable: tuple[int, list[Any]] | None,
    trained: bool,
) -> None:
    choices = copy.copy(choices)
    if unusable is not None:
        choices[unusable[0]] = {**choices[unusable[0]], "bbox": unusable[1]}
    name, file = _register(folder, _content(choices))
    truth = _truth(choices)
    report = _report(file, folder)
    assert not [finding for finding in report.findings if finding.level == "error"]
    odd = any(any(c["area"] is v for v in NO_AREAS[1:]) for c in choices if "bbox" not in c)
    assert odd == any(finding.kind == "area-field" for finding in report.findings)

    records = get_test_dicts(name)
    with_points = _with_points(choices)
    _check_ground_truth(name, truth, with_points)
    if any(a["segmentation"] and not a["iscrowd"] for a in truth):
        flips = [1, 0, 2]
        mapper = MaskRCNNMapper(True, augmentations=[], use_instance_mask=True, use_keypoint=True,
                                keypoint_hflip_indices=flips)  # fmt: skip
        images = [mapper(record) for record in records]
        if trained:
            two_steps(images)

    output = folder / "output"
    evaluator = CocoEvaluator(name, str(output))
    evaluator.check(3)
    evaluator.process([{"image_id": i, "height": HEIGHT, "width": WIDTH} for i in (1, 2)],
                      _detect(shift))  # fmt: skip
    metrics = evaluator.evaluate()
    held = {
        "bbox": True,
        "segm": any(a["segmentation"] for a in truth),
        "keypoints": bool(with_points),
    }  # fmt: skip
    assert set(metrics) == {task for task in held if held[task]}
    files = {task: output / name / f"{task}_results.json" for task in metrics}
    for task, found in metrics.items():
        results = json.loads(files[task].read_text())
        if task == "keypoints":  # the area of a detection is its box's
            boxes = json.loads(files["bbox"].read_text())
            results = [{**r, "bbox": b["bbox"]} for r, b in zip(results, boxes, strict=True)]
        if task == "keypoints":
            results = [r for r in results if r["category_id"] in with_points]
        expected = _pycocotools(
            truth, results, task, with_points if task == "keypoints" else {1, 2}
        )
        assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-9, nan_ok=True)
    objects = [a for a in truth if not a["iscrowd"]]
    if shift == [0] * 4 and len(truth) == 4 and {a["category_id"] for a in objects} == {1}:
        assert metrics["bbox"]["AP"] == pytest.approx(100)

    _check_drawings(records, files["bbox"], name)
    data = load_evaluation_data(name, list(files.values()))
    assert set(data.tasks) == set(metrics)
    options = {"iou_threshold": 0.5, "background_threshold": 0.1, "score_threshold": 0.5}
    analysis = analyze(data, argparse.Namespace(parts=PARTS, **options))
    for task, errors in analysis.errors.items():
        assert errors.ap == pytest.approx(metrics[task]["AP50"], abs=1e-9, nan_ok=True)
    if held["segm"]:
        for key in ("AP", "AP50", "APm"):
            same = pytest.approx(metrics["segm"][key], abs=1e-9, nan_ok=True)
            assert analysis.mask_ap[key] == same
    if held["keypoints"]:
        assert analysis.keypoints is not None
        same = pytest.approx(metrics["keypoints"]["AP"], abs=1e-9, nan_ok=True)
        assert analysis.keypoints.ap == same


def _check_ground_truth(name: str, truth: list[dict[str, Any]], with_points: set[int]) -> None:
    """The evaluation's annotations are what the choices mean."""
    found = load_ground_truth(name).coco
    assert list(found.anns) == [annotation["id"] for annotation in truth]
    for annotation in truth:
        own = found.anns[annotation["id"]]
        for key in ("bbox", "category_id", "iscrowd", "area"):
            assert own[key] == annotation[key], key
        assert ("segmentation" in own) == (annotation["segmentation"] is not None)
        if annotation["segmentation"] is not None:
            mask = mask_util.decode(annotation["segmentation"])
            np.testing.assert_array_equal(found.annToMask(own), mask)
        if annotation["category_id"] in with_points:
            assert own["num_keypoints"] == annotation["num_keypoints"]
            points = np.reshape(own["keypoints"], (-1, 3))
            labeled = points * (points[:, 2:] > 0)
            np.testing.assert_array_equal(labeled.ravel(), annotation["keypoints"])


def _check_drawings(records: list[dict[str, Any]], file: Path, name: str) -> None:
    results = json.loads(file.read_text())
    for record in records:
        own = [r for r in results if r["image_id"] == record["image_id"]]
        picture = draw_pair(record, own, MetadataCatalog.get(name))
        assert picture.ndim == 3 and picture.dtype == np.uint8
