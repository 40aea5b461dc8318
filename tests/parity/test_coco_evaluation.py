"""Our COCO results and metrics are Detectron2's, to the last bit."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances

from mask_rcnn_repro.evaluation import CocoEvaluator, instances_to_results
from mask_rcnn_repro.evaluation.masks import rle as rle_module

CLASSES = ["cat", "dog", "bird"]
CATEGORY_IDS = [3, 7, 18]


def predictions(generator, count, size, masks=True, keypoints=False, boxes=None):
    """Random small predictions in the frame of the network's input."""
    height, width = size
    if boxes is None:
        # some reach out of the image, some lie outside it
        ends = generator.uniform(-0.2, 1.2, (count, 2)) * [width, height]
        starts = ends - generator.uniform(0, 0.7, (count, 2)) * [width, height]
        corners = np.concatenate([starts, ends], axis=1)
    else:
        corners = boxes
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.tensor(corners, dtype=torch.float32))
    instances.scores = torch.tensor(generator.rand(len(corners)), dtype=torch.float32)
    instances.pred_classes = torch.tensor(generator.randint(0, 3, len(corners)))
    if masks:
        coarse = generator.rand(len(corners), 1, 14, 14) * 0.6 + 0.3
        instances.pred_masks = torch.tensor(coarse, dtype=torch.float32)
    if keypoints:
        points = generator.rand(len(corners), 17, 3) * [width, height, 1]
        instances.pred_keypoints = torch.tensor(points, dtype=torch.float32)
    return instances


@pytest.mark.parametrize("chunk", [1, 5000, 1 << 25])
def test_results_equal_detectron2_postprocessing(monkeypatch, chunk):
    monkeypatch.setattr(rle_module, "_CHUNK_PIXELS", chunk)
    generator = np.random.RandomState(0)
    for number in range(12):
        size = tuple(generator.randint(20, 90, 2).tolist())
        original = tuple(generator.randint(10, 150, 2).tolist())
        instances = predictions(generator, 1 + number, size, keypoints=number % 2 == 0)
        untouched = copy.deepcopy(instances)
        ours = instances_to_results(instances, *original, image_id=number)
        theirs = instances_to_coco_json(
            detector_postprocess(copy.deepcopy(instances), *original), number
        )
        assert [{**r, "segmentation": dict(r["segmentation"])} for r in theirs] == ours
        json.dumps(ours)
        for name, value in untouched.get_fields().items():
            kept = instances.get(name)
            kept, value = (v.tensor if isinstance(v, Boxes) else v for v in (kept, value))
            assert torch.equal(kept, value), name
        # predictions that Detectron2 has post-processed already pass through
        full = detector_postprocess(copy.deepcopy(instances), *original)
        again = instances_to_results(full, *original, image_id=number)
        assert again == ours


def annotation(number, image_id, category, box, segmentation, **extra):
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "bbox": box,
        "area": box[2] * box[3] * 0.8,
        "iscrowd": 0,
        "segmentation": segmentation,
        **extra,
    }


@pytest.fixture
def dataset(tmp_path):
    """Twelve images with objects of all sizes, crowds, and non-contiguous category ids."""
    generator = np.random.RandomState(1)
    images, annotations = [], []
    for index in range(12):
        height, width = generator.randint(100, 200, 2).tolist()
        image_id = 100 - 7 * index
        images.append(
            {"id": image_id, "file_name": f"{index}.jpg", "height": height, "width": width}
        )
        for _ in range(generator.randint(0, 6)):
            w, h = (generator.rand(2) ** 2 * [width, height] * 0.9 + 4).tolist()
            x, y = generator.rand() * (width - w), generator.rand() * (height - h)
            crowd = generator.rand() < 0.15
            polygon = [x, y, x + w, y, x + w, y + h * 0.8, x, y + h]
            counts = [int(y) * 3, 40, height * width - int(y) * 3 - 40]
            annotations.append(
                annotation(
                    len(annotations) + 1,
                    image_id,
                    CATEGORY_IDS[generator.randint(0, 3)],
                    [x, y, w, h],
                    {"size": [height, width], "counts": counts} if crowd else [polygon],
                    keypoints=(generator.rand(17, 3) * [w, h, 0] + [x, y, 2]).ravel().tolist(),
                    num_keypoints=17,
                )
            )
            annotations[-1]["iscrowd"] = int(crowd)
    categories = [{"id": i, "name": n} for i, n in zip(CATEGORY_IDS, CLASSES, strict=True)]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    yield register(tmp_path, content), content
    unregister()


NAME = "parity_coco_evaluation"


def register(folder, content):
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    unregister()
    DatasetCatalog.register(NAME, lambda: [])
    MetadataCatalog.get(NAME).set(
        json_file=str(path),
        evaluator_type="coco",
        thing_classes=CLASSES,
        thing_dataset_id_to_contiguous_id={c: i for i, c in enumerate(CATEGORY_IDS)},
    )
    return NAME


def unregister():
    if NAME in DatasetCatalog.list():
        DatasetCatalog.remove(NAME)
    if NAME in MetadataCatalog.list():
        MetadataCatalog.remove(NAME)


def near_truth(generator, content, image, scale):
    """Boxes around the annotations, so that there is something to score, and some noise."""
    boxes = []
    for item in content["annotations"]:
        if item["image_id"] == image["id"]:
            x, y, w, h = item["bbox"]
            jitter = generator.normal(0, 0.08, 4) * [w, h, w, h]
            boxes += [np.array([x, y, x + w, y + h]) + jitter, [x, y, x + w, y + h]]
    boxes += [[5, 5, 30 + 10 * k, 40] for k in range(3)]
    return np.array(boxes) * scale


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("keypoints", [True, False])
def test_metrics_equal_detectron2(dataset, masks, keypoints):
    name, content = dataset
    generator = np.random.RandomState(2)
    ours, theirs = CocoEvaluator(name), COCOEvaluator(name, use_fast_impl=False, distributed=False)
    theirs.reset()
    for image in content["images"]:
        scale = 0.5 + generator.rand()
        size = (round(image["height"] * scale), round(image["width"] * scale))
        boxes = near_truth(generator, content, image, scale)
        instances = predictions(generator, 0, size, masks, keypoints, boxes)
        instances.scores = (instances.scores * 20).round() / 20  # ties
        inputs = [{**image, "image_id": image["id"]}]
        full = detector_postprocess(copy.deepcopy(instances), image["height"], image["width"])
        theirs.process(inputs, [{"instances": full}])
        ours.process(inputs, [{"instances": instances}])
    expected, found = theirs.evaluate(), ours.evaluate()
    assert list(found) == ["bbox", *["segm"] * masks, *["keypoints"] * keypoints]
    assert set(found) == set(expected)
    for task, values in found.items():
        mine = {k: v for k, v in values.items() if k != "per_class"}
        mine.update({f"AP-{k}": v for k, v in values["per_class"].items()})
        assert set(mine) == set(expected[task])
        for metric, value in expected[task].items():
            assert value == mine[metric] or (math.isnan(value) and math.isnan(mine[metric])), metric
    assert 5 < found["bbox"]["AP"] < 95
