"""Cityscapes evaluation: hand-computed numbers, corner cases, files, faults, several processes."""

import copy
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
import torch.multiprocessing
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as scripts
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mask_rcnn_repro.errors import ConfigError, DataError
from mask_rcnn_repro.evaluation import build_evaluator
from mask_rcnn_repro.evaluation.cityscapes.evaluator import CityscapesInstanceEvaluator
from mask_rcnn_repro.evaluation.cityscapes.matching import (
    annotation_runs,
    evaluated_labels,
    overlaps,
    rle_runs,
)
from mask_rcnn_repro.evaluation.cityscapes.upload import write_image

from .cityscapes_scenes import (
    CAR_GROUP,
    CARAVAN,
    CLASSES,
    LABELS,
    ROAD,
    VOID,
    as_instances,
    scene,
    stem,
    truth,
    write_annotation,
)

NAME = "unit_cityscapes_evaluation"
SIZE = (60, 80)
CAR, PERSON = 26000, 24000


@pytest.fixture(autouse=True)
def dataset():
    DatasetCatalog.register(NAME, list)
    MetadataCatalog.get(NAME).set(thing_classes=list(CLASSES), evaluator_type="cityscapes_instance")
    yield
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def box(top, left, height, width, size=SIZE):
    """A mask (H, W) that is a rectangle."""
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def picture(*parts, size=SIZE):
    """Road with parts (mask, value)."""
    ids = np.full(size, ROAD, np.uint16)
    for mask, value in parts:
        ids[mask] = value
    return ids


def measure(tmp_path, *images, **options):
    """Metrics of images (annotation, predictions as (mask, class, score))."""
    evaluator = CityscapesInstanceEvaluator(NAME, **options)
    for number, (ids, found) in enumerate(images):
        image = write_annotation(tmp_path, number, ids)
        evaluator.process([image], [{"instances": as_instances(found, ids.shape)}])
    return evaluator.evaluate()["segm"]


# --- run lengths ----------------------------------------------------------------------------------


def test_classes_are_those_of_table_7():
    assert evaluated_labels() == {label: name for name, label in LABELS.items()}


@pytest.mark.parametrize(
    ("numbers", "starts", "ends"),
    [
        ([6], [], []),
        ([0, 6], [0], [6]),
        ([2, 3, 1], [2], [5]),
        ([0, 1, 2, 3], [0, 3], [1, 6]),
        ([5, 20, 4, 3, 40, 2000], [5, 29, 72], [25, 32, 2072]),  # falls, rises, several groups
    ],
)
def test_runs_of_run_lengths(numbers, starts, ends):
    counts = mask_util.frPyObjects({"size": [sum(numbers), 1], "counts": numbers}, 1, 1)["counts"]
    for given_counts in (counts, counts.decode()):
        found = rle_runs(given_counts)
        assert [part.tolist() for part in found] == [starts, ends]


@given(
    st.integers(1, 40).flatmap(
        lambda width: st.lists(
            st.lists(st.booleans(), min_size=width, max_size=width), min_size=1, max_size=40
        )
    )
)
@settings(max_examples=60, deadline=None)
def test_runs_cover_the_mask(rows):
    mask = np.array(rows)
    starts, ends = rle_runs(mask_util.encode(np.asfortranarray(mask, np.uint8))["counts"])
    again = np.zeros(mask.size, bool)
    for start, end in zip(starts, ends, strict=True):
        assert not again[start:end].any()
        again[start:end] = True
    np.testing.assert_array_equal(again.reshape(mask.shape, order="F"), mask)


def test_overlaps_count_pixels():
    ids = scene(0)
    generator = np.random.RandomState(0)
    masks = [generator.rand(*ids.shape) < share for share in (0, 0.01, 0.5, 1)]
    masks += [box(20, 30, 50, 90, ids.shape), ids == ids.max()]
    rles = [mask_util.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
    annotation = annotation_runs(ids)
    shared, pixels = overlaps(annotation, rles)
    assert annotation.values.tolist() == np.unique(ids).tolist()
    assert annotation.pixels.tolist() == [(ids == v).sum() for v in annotation.values]
    assert pixels.tolist() == [mask.sum() for mask in masks]
    assert shared.tolist() == [
        [(mask & (ids == value)).sum() for value in annotation.values] for mask in masks
    ]
    assert [part.shape for part in overlaps(annotation, [])] == [(0, shared.shape[1]), (0,)]


# --- numbers by hand ------------------------------------------------------------------------------


def test_numbers_by_hand(tmp_path):
    car, person = box(5, 5, 20, 20), box(30, 5, 10, 20)
    ids = picture((car, CAR), (person, PERSON))
    # car: IoU 13 * 20 / 400 = 0.65, above 0.5, 0.55 and 0.6; person: never found
    metrics = measure(tmp_path, (ids, [(box(5, 5, 13, 20), "car", 0.9)]))
    assert metrics["AP50"] == 50
    assert metrics["AP"] == pytest.approx(100 * 0.3 / 2)
    assert metrics["per_class"]["car"] == pytest.approx(30)
    assert metrics["per_class"]["person"] == 0
    undefined = [name for name, value in metrics["per_class"].items() if math.isnan(value)]
    assert undefined == ["rider", "truck", "bus", "train", "motorcycle", "bicycle"]


def test_false_positives_and_ties(tmp_path):
    car, beside = box(5, 5, 20, 20), box(5, 40, 20, 20)
    ids = picture((car, CAR))

    def ap(*found):
        return measure(tmp_path, (ids, list(found)))["per_class"]["car"]

    assert ap((car, "car", 0.9), (beside, "car", 0.5)) == 100  # ranked below the hit
    # the scripts' curve: precision at recall 1 and 0, and an artificial 1 at recall 0; a point's
    # weight is half the distance of its neighbours: 1/2 * 1/2 + 1/2 * 0 + 0 * 1
    assert ap((car, "car", 0.5), (beside, "car", 0.9)) == 25
    # one point, and the artificial one: 1/2 * 1/2 + 1/2 * 1
    assert ap((car, "car", 0.5), (beside, "car", 0.5)) == 75
    assert ap((beside, "car", 0.5), (car, "car", 0.5)) == 75  # in any order
    # the second mask on an instance is a false positive, whichever comes first
    assert ap((car, "car", 0.9), (car, "car", 0.5)) == ap((car, "car", 0.5), (car, "car", 0.9))
    # scores that differ in float32's last digits are not tied
    close = float(np.nextafter(np.float32(0.5), np.float32(1)))
    assert ap((car, "car", close), (beside, "car", 0.5)) == 100


@pytest.mark.parametrize(("height", "expected"), [(10, 100), (9, float("nan"))])
def test_instances_count_from_100_pixels_on(tmp_path, height, expected):
    mask = box(0, 0, height, 10)
    metrics = measure(tmp_path, (picture((mask, CAR)), [(mask, "car", 0.9)]))
    assert metrics["AP"] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("value", "counts"),
    [
        (VOID, False),
        (CAR_GROUP, False),
        (CARAVAN, False),  # a group of caravans is void
        (29000, True),  # a single one is not
        (24, True),  # a group of another class
        (ROAD, True),
    ],
)
def test_predictions_on_ignored_regions(tmp_path, value, counts):
    car, region = box(5, 5, 20, 20), box(30, 30, 20, 20)
    ids = picture((car, CAR), (region, value))
    metrics = measure(tmp_path, (ids, [(car, "car", 0.5), (region, "car", 0.9)]))
    assert (metrics["per_class"]["car"] < 100) == counts


def test_a_class_whose_predictions_are_all_ignored_has_found_nothing(tmp_path):
    car, person, void = box(5, 5, 20, 20), box(5, 40, 20, 20), box(30, 30, 20, 20)
    ids = picture((car, CAR), (person, PERSON), (void, VOID))
    metrics = measure(tmp_path, (ids, [(void, "car", 0.9), (person, "person", 0.9)]))
    assert metrics["AP"] == metrics["AP50"] == 50
    assert metrics["per_class"]["car"] == 0 and metrics["per_class"]["person"] == 100


def test_masks_without_pixels_are_left_out(tmp_path):
    car = box(5, 5, 20, 20)
    found = [(np.zeros(SIZE, bool), "car", 0.99), (car, "car", 0.5)]
    assert measure(tmp_path, (picture((car, CAR)), found))["AP"] == 100


def test_probabilities_below_the_threshold_make_no_mask(tmp_path):
    car = box(5, 5, 20, 20)
    image = write_annotation(tmp_path, 0, picture((car, CAR)))
    instances = as_instances([(car, "car", 0.9)], SIZE)
    for probability, expected in ((1.0, 100), (0.49, 0)):
        instances.remove("pred_masks")
        instances.pred_masks = torch.full((1, 1, 14, 14), probability)
        evaluator = CityscapesInstanceEvaluator(NAME)
        evaluator.process([image], [{"instances": instances}])
        assert evaluator.evaluate()["segm"]["AP"] == expected


def test_nothing_predicted_and_nothing_seen(tmp_path):
    car = box(5, 5, 20, 20)
    metrics = measure(tmp_path, (picture((car, CAR)), []), (picture(), []))
    assert metrics["AP"] == metrics["AP50"] == metrics["per_class"]["car"] == 0
    assert math.isnan(measure(tmp_path, (picture(), [(car, "car", 0.9)]))["AP"])
    metrics = measure(tmp_path)
    assert math.isnan(metrics["AP"]) and list(metrics["per_class"]) == list(CLASSES)


def test_reset_and_images_seen_again(tmp_path):
    car = box(5, 5, 20, 20)
    image = write_annotation(tmp_path, 0, picture((car, CAR)))
    evaluator = CityscapesInstanceEvaluator(NAME)
    for found in ([(box(30, 5, 20, 20), "car", 0.9)], [(car, "car", 0.9)]):
        evaluator.process([image], [{"instances": as_instances(found, SIZE)}])
    assert evaluator.evaluate()["segm"]["AP"] == 100  # the last time counts
    evaluator.reset()
    assert math.isnan(evaluator.evaluate()["segm"]["AP"])


def test_order_of_images_does_not_matter(tmp_path):
    images = [(scene(seed), truth(scene(seed))[::2]) for seed in range(4)]
    inputs = [write_annotation(tmp_path, i, ids) for i, (ids, _) in enumerate(images)]
    results = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 0, 1]):
        evaluator = CityscapesInstanceEvaluator(NAME)
        for i in order:
            ids, found = images[i]
            evaluator.process([inputs[i]], [{"instances": as_instances(found, ids.shape)}])
        results.append(json.dumps(evaluator.evaluate()))
    assert results[0] == results[1] == results[2]


# --- files ----------------------------------------------------------------------------------------


def test_nothing_is_written_or_changed_for_others(tmp_path, monkeypatch):
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    for folder in (work, temporary):
        folder.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    # somebody else's settings
    monkeypatch.setattr(scripts.args, "quiet", "theirs")
    monkeypatch.setattr(scripts.args, "instLabels", ["theirs"])
    before = copy.deepcopy(vars(scripts.args))
    car = box(5, 5, 20, 20)
    assert measure(tmp_path, (picture((car, CAR)), [(car, "car", 0.9)]))["AP"] == 100
    with pytest.raises(DataError):
        measure(tmp_path, (picture((car, 40000)), [(car, "car", 0.9)]))
    after = vars(scripts.args)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) for key in before)
    assert list(work.iterdir()) == list(temporary.iterdir()) == []


def test_result_files(tmp_path):
    car, person = box(5, 5, 20, 20), box(30, 5, 10, 20)
    ids = picture((car, CAR), (person, PERSON))
    found = [(car, "car", 0.9), (person, "person", 0.5)]
    measure(tmp_path, (ids, found), (ids, []), (ids, found[:1]), output_dir=str(tmp_path / "out"))
    folder = tmp_path / "out" / NAME
    assert {file.name for file in folder.iterdir()} == {"bbox_results.json", "segm_results.json"}
    boxes = json.loads((folder / "bbox_results.json").read_text())
    masks = json.loads((folder / "segm_results.json").read_text())
    assert [(b["image_id"], b["category_id"], b["bbox"]) for b in boxes] == [
        (stem(0), 26, [5, 5, 20, 20]),
        (stem(0), 24, [5, 30, 20, 10]),
        (stem(2), 26, [5, 5, 20, 20]),
    ]
    assert [m["image_id"] for m in masks] == [b["image_id"] for b in boxes]
    np.testing.assert_array_equal(mask_util.decode(masks[1]["segmentation"]), person)


def test_split_without_annotations_gives_an_upload_folder(tmp_path):
    car = box(5, 5, 20, 20)
    evaluator = build_evaluator(NAME, str(tmp_path))
    found = [(car, "car", 0.9), (box(1, 1, 2, 3), "train", 0.1)]
    for number, predictions in enumerate((found, [])):
        image = {"image_id": stem(number), "height": SIZE[0], "width": SIZE[1]}
        evaluator.process([image], [{"instances": as_instances(predictions, SIZE)}])
    assert evaluator.evaluate() == {}
    folder = tmp_path / NAME / "upload"
    assert (folder / f"{stem(1)}_pred.txt").read_text() == ""
    lines = [line.split(" ") for line in (folder / f"{stem(0)}_pred.txt").read_text().splitlines()]
    assert [(label, float(score)) for _, label, score in lines] == [
        ("26", float(np.float32(0.9))),
        ("31", float(np.float32(0.1))),
    ]
    with Image.open(folder / lines[0][0]) as mask:
        assert mask.mode == "L" and set(np.unique(mask)) == {0, 255}
        np.testing.assert_array_equal(np.array(mask) == 255, car)
    assert len(list(folder.iterdir())) == 4
    # an image that is no longer evaluated leaves no file behind
    evaluator.reset()
    evaluator.process([image], [{"instances": as_instances([], SIZE)}])
    evaluator.evaluate()
    assert [file.name for file in folder.iterdir()] == [f"{stem(1)}_pred.txt"]
    assert {f.name for f in (tmp_path / NAME).iterdir()} == {
        *("upload", "bbox_results.json", "segm_results.json")
    }


def test_split_without_annotations_or_folder(caplog):
    evaluator = CityscapesInstanceEvaluator(NAME)
    instances = as_instances([(box(5, 5, 20, 20), "car", 0.9)], SIZE)
    with caplog.at_level("INFO"):
        evaluator.process([{"image_id": stem(0)}], [{"instances": instances}])
        assert evaluator.evaluate() == {}
    assert "not written" in caplog.text


@pytest.mark.parametrize("fault", ["image id", "disk"])
def test_a_failing_upload_leaves_the_older_one_alone(tmp_path, monkeypatch, fault):
    folder = tmp_path / NAME / "upload"
    folder.mkdir(parents=True)
    (folder / "older.txt").write_text("older")
    evaluator = CityscapesInstanceEvaluator(NAME, str(tmp_path))
    names = [stem(0), "no stem" if fault == "image id" else stem(1)]
    for name in names:
        instances = as_instances([(box(5, 5, 20, 20), "car", 0.9)], SIZE)
        evaluator.process([{"image_id": name}], [{"instances": instances}])
    if fault == "disk":
        write_text = Path.write_text

        def full(self, *args, **kwargs):
            if stem(1) in self.name:
                raise OSError(28, "No space left on device")
            return write_text(self, *args, **kwargs)

        monkeypatch.setattr(Path, "write_text", full)
    error, message = (DataError, "'no stem'") if fault == "image id" else (OSError, "No space")
    with pytest.raises(error, match=message):
        evaluator.evaluate()
    assert [file.name for file in (tmp_path / NAME).iterdir()] == ["upload"]
    assert [file.name for file in folder.iterdir()] == ["older.txt"]


# --- faults ---------------------------------------------------------------------------------------


def faulty(tmp_path, change):
    """Evaluates one image after `change(image)`, which may return other instances."""
    car = box(5, 5, 20, 20)
    image = write_annotation(tmp_path, 0, picture((car, CAR)))
    instances = change(image) or as_instances([(car, "car", 0.9)], SIZE)
    evaluator = CityscapesInstanceEvaluator(NAME)
    evaluator.process([image], [{"instances": instances}])
    evaluator.evaluate()


def overwrite(image, content):
    Path(image["instance_ids_file"]).write_bytes(content)


def truncate(image):
    overwrite(image, Path(image["instance_ids_file"]).read_bytes()[:60])


def colour(image):
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(image["instance_ids_file"])


def train_ids(image):
    Image.fromarray(np.full(SIZE, 255, np.uint16)).save(image["instance_ids_file"])


def numbered_train_ids(image):
    Image.fromarray(np.full(SIZE, 13002, np.uint16)).save(image["instance_ids_file"])


def label_ids(image):
    Image.fromarray(np.full(SIZE, 26, np.uint8)).save(image["instance_ids_file"])


def other_size(image):
    Image.fromarray(picture()[:30]).save(image["instance_ids_file"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image.update(instance_ids_file="gone.png"), "gone.png is missing"),
        (lambda image: overwrite(image, b"no png"), "cannot be read"),
        (truncate, "cannot be read"),
        (colour, "mode 'RGB'"),
        (train_ids, r"ids \[255\], of label ids that are not public"),
        (numbered_train_ids, r"ids \[13002\], which would be numbered instances of fence"),
        (label_ids, "16 bits. A labelIds or color file was taken"),
        (other_size, r"size \(60, 80\), but the annotation has size \(30, 80\)"),
    ],
)
def test_faulty_annotations(tmp_path, change, message):
    with pytest.raises(DataError, match=message) as caught:
        faulty(tmp_path, change)
    assert stem(0) in str(caught.value)


def without_masks(image):
    instances = as_instances([(box(5, 5, 20, 20), "car", 0.9)], SIZE)
    instances.remove("pred_masks")
    return instances


def ninth_class(image):
    instances = as_instances([(box(5, 5, 20, 20), "car", 0.9)], SIZE)
    instances.pred_classes += 6
    return instances


@pytest.mark.parametrize(
    ("change", "message"),
    [(without_masks, "boxes without masks"), (ninth_class, "class 8, but .* has 8 classes")],
)
def test_faulty_predictions(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        faulty(tmp_path, change)


def test_annotations_of_some_images_only(tmp_path):
    evaluator = CityscapesInstanceEvaluator(NAME)
    inputs = [write_annotation(tmp_path, 0, picture()), {"image_id": stem(1)}]
    evaluator.process(inputs, [{"instances": as_instances([], SIZE)}] * 2)
    with pytest.raises(DataError, match=f"1 of 2 evaluated images, such as '{stem(1)}'"):
        evaluator.evaluate()


@pytest.mark.parametrize("classes", [None, [], ["car", "cat"], ["road"]])
def test_data_sets_of_other_classes(classes):
    metadata = MetadataCatalog.get(NAME)
    del metadata.thing_classes
    if classes is not None:
        metadata.thing_classes = classes
    with pytest.raises(DataError, match=r"are among bicycle, bus, car, .* person"):
        CityscapesInstanceEvaluator(NAME)


def test_upload_without_a_folder():
    with pytest.raises(ConfigError, match="output_dir"):
        CityscapesInstanceEvaluator(NAME, write_upload=True)


def test_unknown_label_in_an_upload(tmp_path):
    rle = mask_util.encode(np.asfortranarray(box(0, 0, 5, 5), np.uint8))
    with pytest.raises(DataError, match="77 is no Cityscapes label"):
        write_image(tmp_path, stem(0), [rle], [77], [0.5])


# --- several processes ----------------------------------------------------------------------------


def process_part(rank, world_size, rendezvous, images, output_dir, fails):
    if world_size > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size
        )
    evaluator = CityscapesInstanceEvaluator(NAME, str(output_dir), write_upload=True)
    for image, found in images[rank::world_size]:
        size = image["height"], image["width"]
        evaluator.process([image], [{"instances": as_instances(found, size)}])
    try:
        metrics = evaluator.evaluate()
    except DataError:
        assert fails
        (output_dir / f"failed{rank}").touch()
        return
    assert bool(metrics) == (rank == 0)
    if rank == 0:
        (output_dir / "metrics.json").write_text(json.dumps(metrics))


def run_processes(world_size, images, folder, fails=False):
    folder.mkdir()
    torch.multiprocessing.start_processes(
        process_part,
        args=(world_size, folder / "rendezvous", images, folder, fails),
        nprocs=world_size,
        start_method="fork",
    )


def test_result_does_not_depend_on_the_number_of_processes(tmp_path):
    annotations = [scene(seed) for seed in range(5)]
    images = [(write_annotation(tmp_path, i, a), truth(a)[::2]) for i, a in enumerate(annotations)]
    found = {}
    # other orders of images; with 6 processes one has none
    for world_size, step in ((1, 1), (2, -1), (6, 1)):
        folder = tmp_path / str(world_size)
        run_processes(world_size, images[::step], folder)
        files = sorted(path for path in folder.rglob("*") if path.name != "rendezvous")
        found[world_size] = {
            str(path.relative_to(folder)): path.read_bytes() for path in files if path.is_file()
        }
    assert found[1] == found[2] == found[6]
    assert 0 < json.loads(found[1]["metrics.json"])["segm"]["AP"] < 100
    assert len(found[1]) == 3 + len(images) + sum(len(masks) for _, masks in images)


def test_an_error_of_one_process_reaches_the_first(tmp_path):
    ids = picture((box(5, 5, 20, 20), CAR))
    images = [(write_annotation(tmp_path, i, ids), []) for i in range(2)]
    Path(images[1][0]["instance_ids_file"]).unlink()
    run_processes(2, images, tmp_path / "out", fails=True)
    assert {p.name for p in (tmp_path / "out").glob("failed*")} == {"failed0", "failed1"}
