"""Our Cityscapes metrics and matches are those of the official scripts, to the last bit."""

import copy
import io
import itertools
import math
import os
import types

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as scripts
from cityscapesscripts.evaluation.instances2dict import instances2dict
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import CityscapesInstanceEvaluator as Detectron2Evaluator
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mask_rcnn_repro.evaluation.cityscapes.evaluator import CityscapesInstanceEvaluator
from mask_rcnn_repro.evaluation.cityscapes.matching import match_image
from mask_rcnn_repro.evaluation.cityscapes.scores import instance_metrics

from ..unit.cityscapes_scenes import (
    CAR_GROUP,
    CARAVAN,
    CLASSES,
    LABELS,
    ROAD,
    VOID,
    as_instances,
    one_of_each,
    scene,
    stem,
    truth,
    write_annotation,
)

NAME = "parity_cityscapes_evaluation"
SIZE = (96, 160)

pytestmark = pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning")


class EarlierNumpy(types.ModuleType):
    """NumPy as the scripts know it: 2.4 dropped `in1d`, and counts in types that json lacks."""

    def __getattr__(self, name):
        return getattr(np, name)

    def in1d(self, values, among):
        return np.isin(values, among).ravel()

    def count_nonzero(self, values):
        return int(np.count_nonzero(values))


@pytest.fixture(autouse=True)
def dataset(tmp_path, monkeypatch):
    """A registered data set; the scripts write `matches.json` to the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scripts, "np", EarlierNumpy("numpy"))
    DatasetCatalog.register(NAME, list)
    MetadataCatalog.get(NAME).set(
        thing_classes=list(CLASSES), gt_dir=str(tmp_path / "gtFine" / "val")
    )
    yield
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def official_args(tmp_path, predictions):
    args = copy.copy(scripts.args)
    args.predictionPath = os.path.abspath(predictions)
    args.predictionWalk = None
    args.gtInstancesFile = str(tmp_path / "gtInstances.json")
    args.JSONOutput, args.quiet = False, True
    return args


def official(tmp_path, predictions, inputs):
    """The scripts' numbers from a folder of prediction files, in percent."""
    args = official_args(tmp_path, predictions)
    annotations = [image["instance_ids_file"] for image in inputs]
    files = [scripts.getPrediction(file, args) for file in annotations]
    averages = scripts.evaluateImgLists(files, annotations, args)["averages"]
    return {
        "AP": averages["allAp"] * 100,
        "AP50": averages["allAp50%"] * 100,
        "per_class": {name: c["ap"] * 100 for name, c in averages["classes"].items()},
    }


def write_predictions(folder, inputs, found):
    """Prediction files, written here and not by the code under test."""
    folder.mkdir()
    for image, predictions in zip(inputs, found, strict=True):
        lines = []
        for index, (mask, name, score) in enumerate(predictions):
            file = f"{image['image_id']}_{index}.png"
            Image.fromarray(mask.astype(np.uint8)).save(folder / file)
            lines.append(f"{file} {LABELS[name]} {float(np.float32(score))!r}\n")
        (folder / f"{image['image_id']}.txt").write_text("".join(lines))


def ours(inputs, found, **options):
    evaluator = CityscapesInstanceEvaluator(NAME, **options)
    for image, predictions in zip(inputs, found, strict=True):
        size = image["height"], image["width"]
        evaluator.process([image], [{"instances": as_instances(predictions, size)}])
    return evaluator.evaluate()["segm"]


def same(a, b):
    """Equal to the last bit, with NaN equal to NaN."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b or (math.isnan(a) and math.isnan(b))


# --- perturbations of the ground truth: function of (mask, class, score) and a generator ----------


def shifted(mask, by):
    return np.roll(mask, by, axis=(0, 1))


def dilated(mask, times):
    for _ in range(times):
        mask = mask | shifted(mask, (0, 1)) | shifted(mask, (1, 0)) | shifted(mask, (-1, 0))
    return mask


def exact(ids, found, generator):
    return found


def shift(ids, found, generator):
    return [(shifted(m, generator.randint(-3, 4, 2)), c, s) for m, c, s in found]


def dilate(ids, found, generator):
    return [(dilated(m, generator.randint(0, 4)), c, s) for m, c, s in found]


def erode(ids, found, generator):
    return [(~dilated(~m, generator.randint(0, 4)), c, s) for m, c, s in found]


def drop(ids, found, generator):
    return [entry for entry in found if generator.rand() < 0.6]


def wrong_class(ids, found, generator):
    return [(m, generator.choice([c, "car", "person"]), s) for m, c, s in found]


def duplicate(ids, found, generator):
    return found + [(shifted(m, (1, 1)), c, s) for m, c, s in found]


def merge(ids, found, generator):
    merged = [(a[0] | b[0], a[1], a[2]) for a, b in itertools.pairwise(found)]
    return merged + found[::2]


def coarse_scores(ids, found, generator):
    """Few values, so that there are ties; 0 is among them."""
    return [(m, c, generator.randint(0, 4) / 4) for m, c, _ in found]


def fine_scores(ids, found, generator):
    """Values that only float32's full digits tell apart."""
    return [(m, c, 0.7 + 1e-7 * generator.randint(0, 9)) for m, c, _ in found]


def over_void_and_groups(ids, found, generator):
    groups = [(ids == value, "car", 0.8) for value in (VOID, CAR_GROUP, ROAD)]
    partly = [(dilated(mask, 4), "car", 0.6) for mask, _, _ in groups]
    trailers = [(ids // 1000 == CARAVAN, "truck", 0.5), (ids == CARAVAN, "truck", 0.9)]
    return found + groups + partly + trailers


def empty_masks(ids, found, generator):
    nothing = np.zeros(ids.shape, bool)
    return [(nothing, "car", 0.9), *found, (nothing, "train", 0.9)]


def none(ids, found, generator):
    return []


def mixed(ids, found, generator):
    for change in (drop, duplicate, merge, shift, wrong_class, over_void_and_groups, empty_masks):
        found = change(ids, found, generator)
    return coarse_scores(ids, found, generator)


PERTURBATIONS = [
    *(exact, shift, dilate, erode, drop, wrong_class, duplicate, merge, coarse_scores),
    *(fine_scores, over_void_and_groups, empty_masks, none, mixed),
]


@pytest.mark.parametrize("perturb", PERTURBATIONS, ids=lambda f: f.__name__)
def test_numbers_equal_the_official_ones(tmp_path, perturb):
    generator = np.random.RandomState(7)
    annotations = [*(scene(seed, SIZE) for seed in range(4)), one_of_each(SIZE)]
    inputs = [write_annotation(tmp_path, i, ids) for i, ids in enumerate(annotations)]
    found = [perturb(ids, truth(ids), generator) for ids in annotations]
    if perturb is not exact:
        found[2] = []  # an image without predictions
    if perturb is not none:
        # of each class something counts, else the scripts stop (see the last test)
        found[4] = [(mask, name, 0.45) for mask, name, _ in truth(annotations[4])]
    write_predictions(tmp_path / "predictions", inputs, found)
    expected = official(tmp_path, tmp_path / "predictions", inputs)
    metrics = ours(inputs, found)
    assert same(metrics, expected)
    if perturb is exact:
        assert metrics["AP"] == metrics["AP50"] == 100
        assert metrics["per_class"] == dict.fromkeys(CLASSES, 100.0)
    elif perturb is none:
        assert metrics["per_class"] == dict.fromkeys(CLASSES, 0.0)
    else:
        assert 0 < metrics["AP"] < 100


def test_upload_folder_is_read_by_the_official_scripts(tmp_path):
    generator = np.random.RandomState(3)
    annotations = [scene(seed, SIZE) for seed in range(10, 14)]
    inputs = [write_annotation(tmp_path, i, ids) for i, ids in enumerate(annotations)]
    found = [mixed(ids, truth(ids), generator) for ids in annotations[:3]] + [[]]
    metrics = ours(inputs, found, output_dir=str(tmp_path / "out"), write_upload=True)
    folder = tmp_path / "out" / NAME / "upload"
    assert same(metrics, official(tmp_path, folder, inputs))
    args = official_args(tmp_path, folder)
    for image, predictions in zip(inputs, found, strict=True):
        file = scripts.getPrediction(image["instance_ids_file"], args)
        rows = list(scripts.readPredInfo(file, args).items())
        assert len(rows) == len(predictions)
        for (png, row), (mask, name, score) in zip(rows, predictions, strict=True):
            assert row == {"labelID": LABELS[name], "conf": float(np.float32(score))}
            with Image.open(png) as stored:
                assert stored.mode == "L"
                np.testing.assert_array_equal(np.array(stored), mask * np.uint8(255))


def small_predictions(generator, found, size, original):
    """A model's output for masks (H, W): 28 x 28 probabilities in a frame of another size."""
    full = as_instances(found, original)
    small = Instances(size)
    scale = torch.tensor([size[1] / original[1], size[0] / original[0]] * 2)
    noise = torch.tensor(generator.normal(0, 1, (len(found), 4)), dtype=torch.float32)
    small.pred_boxes = Boxes(full.pred_boxes.tensor * scale + noise)
    small.scores = torch.tensor(generator.rand(len(found)), dtype=torch.float32)
    small.pred_classes = full.pred_classes
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    blob = 1 / (1 + np.exp(6 * (x**2 + y**2 - 1) + generator.normal(0, 1, (len(found), 28, 28))))
    small.pred_masks = torch.tensor(blob[:, None], dtype=torch.float32)
    return small


def test_equals_detectron2s_evaluator(tmp_path):
    generator = np.random.RandomState(5)
    annotations = [scene(seed, SIZE) for seed in range(20, 24)]
    inputs = [write_annotation(tmp_path, i, ids) for i, ids in enumerate(annotations)]
    mine, theirs = CityscapesInstanceEvaluator(NAME), Detectron2Evaluator(NAME)
    theirs.reset()
    for image, ids in zip(inputs, annotations, strict=True):
        small = small_predictions(generator, truth(ids), (120, 200), SIZE)
        mine.process([image], [{"instances": copy.deepcopy(small)}])
        theirs.process([image], [{"instances": detector_postprocess(small, *SIZE)}])
    kept = dict(vars(scripts.args))
    try:
        expected = theirs.evaluate()["segm"]
    finally:
        vars(scripts.args).update(kept)
    metrics = mine.evaluate()["segm"]
    assert 0 < metrics["AP"] < metrics["AP50"] < 100
    assert {key: metrics[key] for key in ("AP", "AP50")} == expected


VALUES = [
    *(ROAD, VOID, 0, CAR_GROUP, 24, CARAVAN, 33),
    *(24000, 24001, 24999, 25000, 26000, 26001, 26002, 29001, 30000, 31005, 33000),
]


@st.composite
def pictures(draw):
    """A label image of few large pixels, and predictions of any kind on it."""
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    enlarge = draw(st.sampled_from([1, 5, 11]))  # instances are below, around and above 100 pixels

    def grid(values):
        row = st.lists(values, min_size=width, max_size=width)
        rows = draw(st.lists(row, min_size=height, max_size=height))
        return np.kron(np.array(rows), np.ones((enlarge, enlarge), int))

    palette = draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=6))
    ids = grid(st.sampled_from(palette)).astype(np.uint16)
    predictions = []
    for _ in range(draw(st.integers(0, 6))):
        # often nearly an instance
        base = ids == draw(st.sampled_from(palette))
        mask = base ^ (grid(st.integers(0, 5)) == 0) if draw(st.booleans()) else base
        label = draw(st.sampled_from([24, 26, 26, 31, 33, CARAVAN, ROAD]))
        predictions.append((mask, label, draw(st.sampled_from([0.0, 0.25, 0.5, 0.5, 1.0]))))
    return ids, predictions


@given(st.lists(pictures(), min_size=1, max_size=2))
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_matches_and_numbers_of_any_picture(tmp_path, images):
    args = official_args(tmp_path, tmp_path)
    scripts.setInstanceLabels(args)
    expected, found = {}, {}
    for number, (ids, predictions) in enumerate(images):
        file = str(tmp_path / f"{stem(number)}.png")
        Image.fromarray(ids).save(file)
        instances = scripts.filterGtInstances(instances2dict(file)[file], args)
        predicted = {}
        for mask, label, score in predictions:
            png = io.BytesIO()
            Image.fromarray(mask.astype(np.uint8)).save(png, "png")
            predicted[png] = {"labelID": label, "conf": score}
        with Image.open(file) as image:
            matched = scripts.assignGt2Preds(instances, image, predicted, args)
        expected[file] = dict(zip(("groundTruth", "prediction"), matched, strict=True))
        rles = [mask_util.encode(np.asfortranarray(m.astype(np.uint8))) for m, _, _ in predictions]
        found[file] = match_image(ids, rles, *list(zip(*predictions, strict=True))[1:] or ((), ()))
    assert found == without_names(expected)
    try:
        table = scripts.evaluateMatches(expected, args)
    except IndexError:  # see test_predictions_on_ignored_pixels_alone
        return
    metrics = instance_metrics(found)
    averages = scripts.computeAverages(table, args)
    assert same(metrics["AP"], averages["allAp"] * 100)
    assert same(metrics["AP50"], averages["allAp50%"] * 100)
    for name, values in averages["classes"].items():
        assert same(metrics["per_class"][name], values["ap"] * 100)


def without_names(value):
    """Drops the mask files' names, which are all that our matches lack."""
    if isinstance(value, dict):
        return {key: without_names(v) for key, v in value.items() if key != "imgName"}
    return [without_names(v) for v in value] if isinstance(value, list) else value


def test_predictions_on_ignored_pixels_alone(tmp_path):
    """The official scripts stop there; for us the class has found nothing."""
    ids = np.full(SIZE, ROAD, np.uint16)
    ids[:20, :20], ids[20:40, :20], ids[60:] = 26000, 24000, VOID
    inputs = [write_annotation(tmp_path, 0, ids)]
    found = [[(ids == VOID, "car", 0.9), (ids == 24000, "person", 0.5)]]
    write_predictions(tmp_path / "predictions", inputs, found)
    with pytest.raises(IndexError):
        official(tmp_path, tmp_path / "predictions", inputs)
    metrics = ours(inputs, found)
    assert metrics["per_class"]["car"] == 0 and metrics["per_class"]["person"] == 100
    assert metrics["AP"] == metrics["AP50"] == 50
    # the same as without the prediction that is ignored, which the scripts can count
    write_predictions(tmp_path / "others", inputs, [found[0][1:]])
    assert same(metrics, official(tmp_path, tmp_path / "others", inputs))
