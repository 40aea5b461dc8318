"""Average recall and storing of proposals, by hand and over processes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from mask_rcnn_repro.config import get_config
from mask_rcnn_repro.data import ProposalFile, build_test_loader, dataset_fingerprint
from mask_rcnn_repro.data.registration import register_custom
from mask_rcnn_repro.errors import ConfigError, DataError
from mask_rcnn_repro.evaluation import (
    EVALUATOR_REGISTRY,
    ProposalEvaluator,
    ProposalStore,
    evaluate,
)
from mask_rcnn_repro.evaluation.registry import evaluator_types
from mask_rcnn_repro.records import make_record
from mask_rcnn_tools.evidence.summary import format_results

from .data_helpers import write
from .proposal_helpers import random_proposals

NAME = "unit_proposals"
SIZE = (100, 120)
METRICS = ["AR@100", "AR@300", "AR@1000", "ARs@1000", "ARm@1000", "ARl@1000"]


def ground_truth(number: int, image_id: Any, box: list[float], **fields: Any) -> dict[str, Any]:
    x, y, w, h = box
    polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "bbox": box,
        "area": w * h,
        "iscrowd": 0,
        "segmentation": polygon,
        **fields,
    }


def data(annotations: list[dict[str, Any]] | None, images: int = 3) -> dict[str, Any]:
    sizes = {"height": SIZE[0], "width": SIZE[1]}
    result: dict[str, Any] = {
        "images": [{"id": i + 1, "file_name": f"{i + 1}.jpg", **sizes} for i in range(images)],
        "categories": [{"id": 1, "name": "cog"}],
    }
    if annotations is not None:
        result["annotations"] = annotations
    return result


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Callable[[dict[str, Any]], str]]:
    def do(content: dict[str, Any]) -> str:
        register_custom(NAME, *write(tmp_path / "data", content))
        return NAME

    yield do
    for catalog in (DatasetCatalog, MetadataCatalog):
        if NAME in catalog.list():
            catalog.remove(NAME)


def inputs(image_id: Any) -> list[dict[str, Any]]:
    return [{"image_id": image_id, "height": SIZE[0], "width": SIZE[1]}]


def outputs(boxes: Any, logits: Any) -> list[dict[str, Any]]:
    proposals = Instances(SIZE)
    proposals.proposal_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    proposals.objectness_logits = torch.tensor(logits, dtype=torch.float32)
    return [{"proposals": proposals}]


def test_recall_by_hand(register: Callable[..., str]) -> None:
    """Four objects, IoU 1, 0.8, 0.6 and 0: of ten thresholds 10, 7, 3 and 0 are passed."""
    register(
        data(
            [
                ground_truth(1, 1, [0, 0, 10, 10]),  # small
                ground_truth(2, 1, [50, 0, 40, 40]),  # medium
                ground_truth(3, 2, [0, 0, 100, 100]),  # large
                ground_truth(4, 3, [20, 20, 20, 20]),  # small, nothing near
                ground_truth(5, 1, [0, 50, 30, 30], iscrowd=1),
            ]
        )
    )
    evaluator = ProposalEvaluator(NAME, limits=(1, 2, 5))
    # the best has the lowest score, so the first limits miss it
    evaluator.process(
        inputs(1), outputs([[0, 0, 10, 10], [50, 0, 90, 32], [0, 50, 30, 80]], [-1.0, 2.0, 1.0])
    )
    evaluator.process(inputs(2), outputs([[0, 0, 100, 60]], [0.0]))
    evaluator.process(inputs(3), outputs([[60, 60, 80, 80]], [0.0]))
    metrics = evaluator.evaluate()["proposals"]
    assert list(metrics) == ["AR@1", "AR@2", "AR@5", "ARs@5", "ARm@5", "ARl@5"]
    expected = [(7 + 3) / 40, (7 + 3) / 40, (10 + 7 + 3) / 40, 10 / 20, 7 / 10, 3 / 10]
    assert list(metrics.values()) == pytest.approx([100 * x for x in expected], abs=1e-4)
    assert ProposalEvaluator(NAME).limits == (100, 300, 1000)


def test_a_proposal_covers_one_object(register: Callable[..., str]) -> None:
    register(data([ground_truth(i, 1, [0, 0, 10, 10]) for i in (1, 2)]))
    evaluator = ProposalEvaluator(NAME, limits=[100])
    evaluator.process(inputs(1), outputs([[0, 0, 10, 10]], [0.0]))
    assert evaluator.evaluate()["proposals"]["AR@100"] == pytest.approx(50)


def test_only_processed_images_count_and_objects_without_proposals_are_missed(
    register: Callable[..., str],
) -> None:
    register(data([ground_truth(i, i, [0, 0, 10, 10]) for i in (1, 2, 3)]))
    evaluator = ProposalEvaluator(NAME)
    evaluator.process(inputs(1), outputs([[0, 0, 10, 10]], [0.0]))
    metrics = evaluator.evaluate()["proposals"]
    assert list(metrics) == METRICS
    assert metrics["AR@100"] == metrics["ARs@1000"] == 100
    assert math.isnan(metrics["ARl@1000"])
    evaluator.process(inputs(2), outputs([], []))
    assert evaluator.evaluate()["proposals"]["AR@1000"] == 50
    evaluator.reset()
    evaluator.process(inputs(2), outputs([], []))
    assert evaluator.evaluate()["proposals"]["AR@1000"] == 0


def test_no_annotations_give_no_metrics(register: Callable[..., str]) -> None:
    register(data(None))
    evaluator = ProposalEvaluator(NAME, output_dir="unused")
    evaluator.process(inputs(1), outputs([[0, 0, 10, 10]], [0.0]))
    assert evaluator.evaluate() == {}


@pytest.mark.usefixtures("register")
def test_text_ids(tmp_path: Path) -> None:
    """pycocotools takes a text for a list of letters."""
    content = data([ground_truth(1, "left", [0, 0, 10, 10])], images=1)
    content["images"][0]["id"] = "left"
    DatasetCatalog.register(NAME, lambda: [])
    path = tmp_path / "text_ids.json"
    path.write_text(json.dumps(content))
    MetadataCatalog.get(NAME).set(json_file=str(path))
    evaluator = ProposalEvaluator(NAME, limits=[10])
    evaluator.process(inputs("left"), outputs([[0, 0, 10, 10]], [0.0]))
    assert evaluator.evaluate()["proposals"]["AR@10"] == 100


def test_wrong_inputs(register: Callable[..., str]) -> None:
    register(data([]))
    for limits in ([], [300, 100], [100, 100], [0, 10]):
        with pytest.raises(ConfigError, match=r"evaluator\.limits"):
            ProposalEvaluator(NAME, limits=limits)
    evaluator = ProposalEvaluator(NAME)
    with pytest.raises(DataError, match=r"has \['instances'\], not 'proposals'.*ProposalNetwork"):
        evaluator.process(inputs(1), [{"instances": None}])
    with pytest.raises(DataError, match=r"\(100, 120\).*\(200, 240\)"):
        evaluator.process(
            [{"image_id": 1, "height": 200, "width": 240}], outputs([[0, 0, 1, 1]], [0.0])
        )
    evaluator.process(inputs(99), outputs([[0, 0, 1, 1]], [0.0]))
    with pytest.raises(DataError, match=r"image_id 99, .*annotations"):
        evaluator.evaluate()


def test_no_data_set_type_chooses_it() -> None:
    assert EVALUATOR_REGISTRY.get("ProposalEvaluator") is ProposalEvaluator
    assert ProposalEvaluator.computed_by == "detectron2"
    assert ProposalEvaluator not in evaluator_types().values()
    assert "coco" in evaluator_types()


def test_results_are_printed_and_recorded() -> None:
    metrics = {"proposals": dict(zip(METRICS, [10.0, 20, 30.04, math.nan, 5, 6], strict=True))}
    record = make_record(
        get_config("table2a/r50_fpn", profile="tiny"),
        config_id="rpn/r50_fpn",
        profile="tiny",
        overrides=[],
        mode="train",
        metrics=metrics,
        seconds_per_image=None,
        iterations_done=2,
        checkpoint=None,
        train_seconds=1.0,
        device="cpu",
    )
    assert record.metrics["proposals"].values()["ARs@1000"] is None
    lines = format_results(record).splitlines()
    header = next(i for i, line in enumerate(lines) if "AR@100" in line)
    assert lines[header].split() == METRICS
    assert lines[header + 2].split() == ["proposals", "10.0", "20.0", "30.0", "-", "5.0", "6.0"]
    assert not any("AP" in line.split() for line in lines)


# --- storing, several processes ---------------------------------------------------------------


class Proposer(torch.nn.Module):
    """Gives each image its random proposals, with logits as under autocast."""

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        made = random_proposals(range(1, 10), SIZE[1], SIZE[0])
        predictions = [outputs(*made[image["image_id"]])[0] for image in batch]
        for prediction in predictions:
            proposals = prediction["proposals"]
            proposals.objectness_logits = proposals.objectness_logits.to(torch.bfloat16)
        return predictions


def test_storing_in_the_inference_loop(register: Callable[..., str], tmp_path: Path) -> None:
    register(data([ground_truth(1, 1, [0, 0, 10, 10])], images=4))
    store = ProposalStore(tmp_path / "p", NAME, {"config": "rpn/x"}, topk=2)
    loader = build_test_loader([inputs(i)[0] for i in (1, 2, 3, 4)], dict, num_workers=0)
    assert evaluate(Proposer(), loader, store)[0] == {}
    file = ProposalFile(tmp_path / "p")
    assert file.image_ids == [1, 2, 3, 4]
    assert file.info.topk == 2 and file.info.source == {"config": "rpn/x"}
    assert file.info.fingerprint == f"sha256:{dataset_fingerprint(NAME)['sha256']}"
    for image_id, (boxes, scores) in random_proposals(range(1, 5), SIZE[1], SIZE[0]).items():
        np.testing.assert_array_equal(file.get(image_id)[0], boxes[:2])
        np.testing.assert_array_equal(file.get(image_id)[1], scores[:2])
    with pytest.raises(DataError, match="already exists"):
        evaluate(Proposer(), loader, ProposalStore(tmp_path / "p", NAME, {}, topk=2))


def test_storing_a_part_of_the_data_fails(register: Callable[..., str], tmp_path: Path) -> None:
    register(data([], images=4))
    store = ProposalStore(tmp_path / "p", NAME, {}, topk=2)
    store.reset()
    store.process(inputs(1), outputs([[0, 0, 1, 1]], [0.0]))
    store.reset()  # forgets it
    assert len([p for p in tmp_path.iterdir() if p.name.startswith(".p")]) == 1
    for image_id in (1, 2, 4):
        store.process(inputs(image_id), outputs([[0, 0, 1, 1]], [0.0]))
    with pytest.raises(DataError, match=r"1 of 4 images .* missing.* image 3"):
        store.evaluate()
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def _work(rank: int, size: int, rendezvous: Path, folder: Path) -> None:
    if size > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size
        )
    loader = build_test_loader([inputs(i)[0] for i in range(1, 10)], dict, num_workers=0)
    metrics, _ = evaluate(Proposer(), loader, ProposalEvaluator(NAME, limits=(1, 3, 9)))
    evaluate(Proposer(), loader, ProposalStore(folder / "p", NAME, {"seed": 1}, topk=4))
    assert bool(metrics) == (rank == 0)
    if rank == 0:
        (folder / "metrics.json").write_text(json.dumps(metrics))


def test_nothing_depends_on_the_number_of_processes(
    register: Callable[..., str], tmp_path: Path
) -> None:
    generator = np.random.RandomState(0)
    annotations: list[dict[str, Any]] = []
    for image_id, (boxes, _) in random_proposals(range(1, 10), SIZE[1], SIZE[0]).items():
        for x1, y1, x2, y2 in (boxes + generator.uniform(-6, 6, boxes.shape)).tolist():
            box = [x1, y1, max(x2 - x1, 1.0), max(y2 - y1, 1.0)]
            annotations.append(ground_truth(len(annotations) + 1, image_id, box))
    register(data(annotations, images=9))
    found = []
    for size in (1, 2, 4):
        folder = tmp_path / str(size)
        folder.mkdir()
        torch.multiprocessing.start_processes(
            _work, (size, folder / "rendezvous", folder), nprocs=size, start_method="fork"
        )
        files = [folder / "metrics.json", *sorted((folder / "p").iterdir())]
        found.append({file.name: file.read_bytes() for file in files})
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 6
    recall = json.loads(found[0]["metrics.json"])["proposals"]
    assert 0 < recall["AR@1"] < recall["AR@9"] < 100
