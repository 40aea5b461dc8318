"""Stored proposals on their way to the model: the mapper, the loaders, Detectron2's heads."""

from __future__ import annotations

import itertools
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage

from mask_rcnn_repro.config import load_config
from mask_rcnn_repro.data import (
    MaskRCNNMapper,
    ProposalFile,
    build_test_loader,
    build_train_loader,
)
from mask_rcnn_repro.data.coco.load import load_coco_json
from mask_rcnn_repro.errors import ConfigError, DataError

from .data_helpers import HEIGHT, WIDTH, annotation, content, write
from .model_helpers import build, infer, narrow_config
from .proposal_helpers import random_proposals, write_folder


@pytest.fixture
def dicts(tmp_path: Path) -> list[dict[str, Any]]:
    return load_coco_json(*write(tmp_path / "data", content(7))).dicts


def mapper(folder: Any, *augmentations: Any, **options: Any) -> MaskRCNNMapper:
    options = {"is_train": True, "precomputed_proposal_topk": 10, **options}
    files = None if folder is None else [str(folder)]
    return MaskRCNNMapper(augmentations=list(augmentations), proposal_files=files, **options)


BOXES = np.array([[4, 6, 14, 16], [30, 20, 50, 28], [0, 0, 1.5, 3]], np.float32)
LOGITS = np.array([3.5, 0.0, -2.25], np.float32)


@pytest.mark.parametrize("is_train", [True, False])
def test_flip_and_resize_by_hand(
    tmp_path: Path, dicts: list[dict[str, Any]], is_train: bool
) -> None:
    folder = write_folder(tmp_path / "p", {10: (BOXES, LOGITS)})
    record = dicts[0]
    keys = set(record)

    def mapped(*augmentations: Any, **options: Any) -> Any:
        result = mapper(folder, *augmentations, is_train=is_train, **options)(record)
        assert not any(key.startswith("proposal_") for key in result)
        assert ("instances" in result) == is_train
        assert result["proposals"].image_size == tuple(result["image"].shape[1:])
        assert set(result["proposals"].get_fields()) == {"proposal_boxes", "objectness_logits"}
        return result["proposals"]

    plain = mapped()
    clipped = [[4, 6, 14, 16], [30, 20, WIDTH, 28], [0, 0, 1.5, 3]]
    assert plain.proposal_boxes.tensor.tolist() == clipped
    assert plain.proposal_boxes.tensor.dtype == plain.objectness_logits.dtype == torch.float32
    assert plain.objectness_logits.tolist() == LOGITS.tolist()
    flipped = mapped(T.RandomFlip(prob=1.0))
    mirrored = [[26, 6, 36, 16], [0, 20, 10, 28], [38.5, 0, 40, 3]]
    assert flipped.proposal_boxes.tensor.tolist() == mirrored
    resized = mapped(T.Resize((3 * HEIGHT, 2 * WIDTH)))
    scaled = [[8, 18, 28, 48], [60, 60, 2 * WIDTH, 84], [0, 0, 3, 9]]
    assert resized.proposal_boxes.tensor.tolist() == scaled
    assert mapped(precomputed_proposal_topk=2).proposal_boxes.tensor.tolist() == clipped[:2]
    # the first box leaves the image, so the first two of those that stay are taken
    cropped = mapped(T.CropTransform(16, 0, 20, HEIGHT), precomputed_proposal_topk=2)
    assert cropped.proposal_boxes.tensor.tolist() == [[14, 20, 20, 28]]
    assert cropped.objectness_logits.tolist() == [0.0]
    assert set(record) == keys
    np.testing.assert_array_equal(ProposalFile(folder).get(10)[0], BOXES)


def test_integer_proposals_of_a_dict_are_not_rounded(dicts: list[dict[str, Any]]) -> None:
    boxes = np.array([[3, 3, 8, 8]])
    logits = np.array([2])
    record = {
        **dicts[0],
        "proposal_boxes": boxes,
        "proposal_objectness_logits": logits,
        "proposal_bbox_mode": BoxMode.XYXY_ABS,
    }
    for array in (boxes, logits):
        array.flags.writeable = False
    result = mapper(None, T.Resize((45, 60)))(record)["proposals"]
    assert result.proposal_boxes.tensor.tolist() == [[4.5, 4.5, 12.0, 12.0]]
    assert result.objectness_logits.tolist() == [2.0]
    assert record["proposal_boxes"] is boxes


IN_CROWDS = [  # part of each box in the crowds (10, 10) - (20, 20) and (20, 10) - (30, 20)
    ([13, 10, 23, 20], 0.7),  # exactly Detectron's limit, in the first
    ([12, 10, 22, 20], 0.8),
    ([15, 10, 25, 20], 0.5),  # half in each of the two, which do not add up
    ([0, 0, 40, 30], 1 / 12),  # contains both
    ([11, 11, 19, 12], 1.0),
    ([10, 10, 20, 45], 0.5),  # clipped to 20 rows before it is measured, of 35
    ([2, 2, 9, 9], 0.0),
]


@pytest.mark.parametrize("overlap", [0.05, 0.49, 0.5, 0.7, 0.8, 1.0, None])
@pytest.mark.parametrize("change", [(), (T.Resize((90, 80)), T.RandomFlip(prob=1.0))])
def test_proposals_inside_crowds_by_hand(tmp_path: Path, overlap: Any, change: Any) -> None:
    data = content(2)
    for number, x in enumerate((10, 20)):
        crowd = annotation(number, 10, bbox=[x, 10, 10, 10], iscrowd=1, category_id=3)
        data["annotations"].append(crowd)
    crowded, plain = load_coco_json(*write(tmp_path / "data", data)).dicts
    boxes = np.array([box for box, _ in IN_CROWDS], np.float32)
    logits = np.arange(len(boxes), 0, -1, dtype=np.float32)
    folder = write_folder(tmp_path / "p", {10: (boxes, logits), 20: (boxes, logits)})

    def kept(record: Any, **options: Any) -> list[float]:
        made = mapper(folder, *change, crowd_overlap=overlap, **options)(record)
        return [float(logit) for logit in made["proposals"].objectness_logits]

    everything = logits.tolist()
    wanted = [
        logit
        for logit, (_, part) in zip(everything, IN_CROWDS, strict=True)
        if overlap is None or part <= overlap
    ]
    assert kept(crowded) == wanted
    best = [logit for logit in everything[:2] if logit in wanted]  # the limit comes first
    assert kept(crowded, precomputed_proposal_topk=2) == best
    assert kept(crowded, is_train=False) == kept(plain) == everything
    without = mapper(folder, *change)(crowded)
    assert without["instances"].gt_boxes.tensor.shape == (1, 4)
    assert len(without["proposals"]) == len(boxes)


@pytest.mark.parametrize("overlap", [0, -0.7, 70])
def test_parts_that_are_none_are_refused(overlap: float) -> None:
    with pytest.raises(ConfigError, match=rf"crowd_overlap={overlap} must be a part .* or null"):
        mapper(None, crowd_overlap=overlap)


def test_missing_proposals(tmp_path: Path, dicts: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError, match=r"Image 10, .* has no proposals, .*topk is 10.*train.prop"):
        mapper(None)(dicts[0])
    one = write_folder(tmp_path / "one", random_proposals([10]))
    with pytest.raises(DataError, match=rf"{one} have no image 20"):
        mapper(one)(dicts[1])
    two = write_folder(tmp_path / "two", random_proposals([20]))
    both = MaskRCNNMapper(
        True, augmentations=[], precomputed_proposal_topk=5, proposal_files=[str(one), str(two)]
    )
    for record, file in zip(dicts, (one, two), strict=False):
        boxes, _ = ProposalFile(file).get(record["image_id"])
        assert len(both(record)["proposals"]) == len(boxes) > 0
    with pytest.raises(DataError, match=rf"None of .*{one}, {two} has image 30.*one folder"):
        both(dicts[2])


def test_data_sets_must_not_share_ids(tmp_path: Path, dicts: list[dict[str, Any]]) -> None:
    folders = [
        write_folder(tmp_path / name, random_proposals(ids))
        for name, ids in (("a", [10, 20]), ("b", [30, "20"]))
    ]
    both = MaskRCNNMapper(
        True, augmentations=[], precomputed_proposal_topk=5, proposal_files=map(str, folders)
    )
    with pytest.raises(DataError, match=rf"{folders[0]} and {folders[1]} both have image '20'"):
        both(dicts[0])


def test_files_without_a_number_of_proposals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precomputed_proposal_topk"):
        mapper(tmp_path, precomputed_proposal_topk=None)


def test_files_are_opened_when_first_needed(tmp_path: Path, dicts: list[dict[str, Any]]) -> None:
    late = mapper(tmp_path / "p")
    write_folder(tmp_path / "p", random_proposals([10]))
    assert len(late(dicts[0])["proposals"]) > 0
    again = pickle.loads(pickle.dumps(late))
    assert len(again(dicts[0])["proposals"]) > 0


def flat(batches: Any, count: int) -> list[tuple[Any, ...]]:
    result = []
    for batch in itertools.islice(batches, count):
        for x in batch:
            proposals = x["proposals"]
            arrays = (proposals.proposal_boxes.tensor, proposals.objectness_logits, x["image"])
            result.append((x["image_id"], *(a.tolist() for a in arrays)))
    return result


def test_loaders_give_the_same_with_and_without_workers(
    tmp_path: Path, dicts: list[dict[str, Any]]
) -> None:
    proposals = random_proposals([record["image_id"] for record in dicts])
    folder = write_folder(tmp_path / "p", proposals)
    changes = (T.ResizeShortestEdge([16, 24], 64, "choice"), T.RandomFlip())
    train = [
        flat(build_train_loader(dicts, mapper(folder, *changes), 2, num_workers=n), 6)
        for n in (0, 2)
    ]
    assert train[0] == train[1] and len({x[0] for x in train[0]}) == 7
    test = [
        flat(build_test_loader(dicts, mapper(folder, is_train=False), num_workers=n), 7)
        for n in (0, 2)
    ]
    assert test[0] == test[1]
    assert [x[1] for x in test[0]] == [boxes.tolist() for boxes, _ in proposals.values()]
    other = write_folder(tmp_path / "q", random_proposals([99]))
    loader = build_test_loader(dicts, mapper(other, is_train=False), num_workers=2)
    with pytest.raises(DataError, match=r"have no image 10") as caught:
        list(loader)
    assert "Traceback" not in str(caught.value)


def test_detectron2s_heads_take_them_in_training(
    tmp_path: Path, dicts: list[dict[str, Any]]
) -> None:
    """Sampling with the ground truth appended: from none, and from one that matches it."""
    nothing = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    match = (np.array([[4, 4, 14, 14], [20, 1, 39, 9]], np.float32), np.array([2, 1], np.float32))
    folder = write_folder(tmp_path / "p", {10: nothing, 20: match})
    heads = ROIHeads(
        num_classes=2,
        batch_size_per_image=8,
        positive_fraction=0.5,
        proposal_matcher=Matcher([0.5], [0, 1]),
        proposal_append_gt=True,
    )
    inputs = [mapper(folder, T.RandomFlip(prob=1.0))(record) for record in dicts[:2]]
    with EventStorage():
        sampled = heads.label_and_sample_proposals(
            [x["proposals"] for x in inputs], [x["instances"] for x in inputs]
        )
    # class 1 is the triangle's, class 2 the background; the ground truth comes last
    assert [sorted(s.gt_classes.tolist()) for s in sampled] == [[1], [1, 1, 2]]
    assert sampled[0].proposal_boxes.tensor.tolist() == [[25.5, 4.5, 35.5, 14.5]]


def test_a_model_without_rpn_predicts_from_them(
    tmp_path: Path, dicts: list[dict[str, Any]]
) -> None:
    nothing = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    folder = write_folder(tmp_path / "p", {10: (BOXES, LOGITS), 20: nothing})
    cfg = narrow_config("fpn")
    cfg.proposal_generator = None
    model = build(cfg)
    resize = T.Resize((3 * HEIGHT, 3 * WIDTH))
    inputs = [mapper(folder, resize, is_train=False)(record) for record in dicts[:2]]
    some, none = (x["instances"] for x in infer(model, inputs, postprocess=True))
    assert len(some) > 0 and len(none) == 0
    assert some.image_size == (HEIGHT, WIDTH)


def test_the_documents_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/proposals.md as it stands: files from numpy, read, and given to a row."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "proposals.md").read_text()
    *scripts, config = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(scripts) == 3
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for script in scripts:
        exec(compile(script, "docs/proposals.md", "exec"), names)
    streamed, whole = (ProposalFile(f"my_proposals/{f}") for f in ("streamed", "embedded_tiny_val"))
    assert streamed.image_ids == whole.image_ids and len(whole) == 12
    assert {len(streamed.get(i)[0]) for i in streamed.image_ids} == {20}
    Path("own_proposals.py").write_text(config)
    cfg = load_config("own_proposals.py", profile="tiny")
    assert cfg.model.proposal_generator is None
    for split in ("train", "test"):
        batch = next(iter(instantiate(cfg.dataloader[split])))
        assert 0 < len(batch[0]["proposals"]) <= 50
