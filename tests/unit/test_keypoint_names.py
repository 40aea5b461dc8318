"""Left and right in keypoint names: usual spellings, no false pairs, a stop without pairs."""

from __future__ import annotations

import itertools
import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data.datasets.builtin_meta import (
    COCO_PERSON_KEYPOINT_FLIP_MAP,
    COCO_PERSON_KEYPOINT_NAMES,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mask_rcnn_repro.config import load_config
from mask_rcnn_repro.config.from_data import fit_to_data
from mask_rcnn_repro.data.keypoint_metadata import KeypointSet, one_sided, pairs_by_name
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.registration import register
from mask_rcnn_tools.check_data.check import Options, check
from mask_rcnn_tools.check_data.findings import Report
from mask_rcnn_tools.check_data.sources import sources_of_json

WORDS = st.text(string.ascii_lowercase, min_size=2, max_size=8).filter(
    lambda word: not any(side in word for side in ("left", "right", "reft", "light"))
)
STYLES = {
    "word": lambda side, part: f"{side}_{part}",
    "last": lambda side, part: f"{part}_{side}",
    "capitals": lambda side, part: f"{side}_{part}".upper(),
    "dotted": lambda side, part: f"{part}.{side}",
    "dashed": lambda side, part: f"{side}-{part}",
    "spaced": lambda side, part: f"{side.title()} {part}",
    "joined": lambda side, part: f"{side}{part}",
    "camel": lambda side, part: f"{side}{part.title()}",
    "camel last": lambda side, part: f"{part.title()}{side.title()}",
    "letter": lambda side, part: f"{side[0].upper()}_{part}",
    "letter last": lambda side, part: f"{part}_{side[0]}",
    "letter dashed": lambda side, part: f"{side[0]}-{part}",
    "letter camel": lambda side, part: f"{side[0].upper()}{part.title()}",
    "letter camel last": lambda side, part: f"{part}{side[0].upper()}",
    "numbered": lambda side, part: f"{part}_{side[0]}1",
}
quick = settings(max_examples=40, deadline=None)


@pytest.mark.parametrize("style", STYLES)
@quick
@given(parts=st.lists(WORDS, min_size=1, max_size=4, unique=True), seed=st.integers(0, 99))
def test_usual_spellings_are_pairs(style: str, parts: list[str], seed: int) -> None:
    spell = STYLES[style]
    pairs = [(spell("left", part), spell("right", part)) for part in parts]
    names = ["1", *itertools.chain.from_iterable(pairs)]
    names = [names[i] for i in np.random.RandomState(seed).permutation(len(names))]
    found = KeypointSet(tuple(names), pairs_by_name(names))
    assert set(found.flip_pairs) == set(pairs)
    assert one_sided(found) == []
    assert [found.flip_indices[i] for i in found.flip_indices] == list(range(len(names)))


@quick
@given(words=st.lists(WORDS, min_size=1, max_size=6))
def test_words_that_differ_in_l_and_r_are_no_pairs(words: list[str]) -> None:
    swap = str.maketrans("lr", "rl")
    names = list(dict.fromkeys(w for word in words for w in (word, word.translate(swap))))
    for spelled in (names, [n.upper() for n in names], [n.title() for n in names]):
        assert pairs_by_name(spelled) == ()
        assert one_sided(KeypointSet(tuple(spelled), ())) == []


def test_names() -> None:
    assert pairs_by_name(COCO_PERSON_KEYPOINT_NAMES) == tuple(COCO_PERSON_KEYPOINT_FLIP_MAP)
    for none in (
        ["collar", "cellar", "lip", "rip", "LIP", "RIP", "Lip", "Rip", "lear", "rear"],
        list(string.ascii_lowercase),
        [f"point_{letter}" for letter in string.ascii_uppercase],
        ["L1", "L2", "R1", "R2", "T1", "T2"],
        ["cleft", "upright", "UPRIGHT", "bright_spot"],
    ):
        assert pairs_by_name(none) == ()
        assert one_sided(KeypointSet(tuple(none), ())) == []
    paws = ["L_F_Paw", "R_F_Paw", "L_B_Paw", "R_B_Paw", "C_Paw"]
    assert pairs_by_name(paws) == (("L_F_Paw", "R_F_Paw"), ("L_B_Paw", "R_B_Paw"))
    for names, alone in (
        (["L_ear", "R_ear", "L_eye"], ["L_eye"]),
        (["left_ear", "nose"], ["left_ear"]),
        (["earLeft", "nose"], ["earLeft"]),
    ):
        assert one_sided(KeypointSet(tuple(names), pairs_by_name(names))) == alone
        assert one_sided(KeypointSet(tuple(names), (), pairs_stated=True)) == []


def _own_data(folder: Path, names: list[str]) -> tuple[str, list[str]]:
    Image.fromarray(np.full((96, 128, 3), 90, np.uint8)).save(folder / "1.png")
    points = [value for i in range(len(names)) for value in (10 + i, 20, 2)]
    box = {"bbox": [8, 10, 36, 40], "area": 1440, "iscrowd": 0}
    box["segmentation"] = [[8, 10, 44, 10, 44, 50, 8, 50]]
    person = {"id": 1, "image_id": 1, "category_id": 1, "keypoints": points, **box}
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 128, "height": 96}],
        "annotations": [person | {"num_keypoints": len(names)}],
        "categories": [{"id": 1, "name": "a", "keypoints": names}],
    }
    file = folder / "own.json"
    file.write_text(json.dumps(content))
    keys = ["train.proposals=null"]
    for split in ("train", "test"):
        values: dict[str, Any] = {"names": folder.name, "json": file, "image_root": folder}
        keys += [f"dataloader.{split}.dataset.{key}={value}" for key, value in values.items()]
    return str(file), [*keys, f"dataloader.test.dataset.oks_sigmas={[0.1] * len(names)}"]


def _flips(keys: list[str]) -> list[int]:
    register()
    cfg = fit_to_data(load_config("table5/keypoint_only", "tiny", keys), keys)
    return list(cfg.dataloader.train.mapper.keypoint_hflip_indices)


def test_mirrored_training_without_pairs_says_what_to_set(tmp_path: Path) -> None:
    file, keys = _own_data(tmp_path, ["tip", "side_a", "side_b"])
    with pytest.raises(ConfigError, match=r"dataset\.flip_pairs.*\[\] for a symmetric object"):
        _flips(keys)
    report = Report("test")
    check(sources_of_json(file, str(tmp_path), report), report, Options(threads=1))
    assert "keypoint-pairs" in {finding.kind for finding in report.findings}

    upright = ["dataloader.train.mapper.augmentations.1.horizontal=false"]
    assert _flips([*keys, *upright]) == [0, 1, 2]
    stated = "dataloader.train.dataset.flip_pairs="
    assert _flips([*keys, f"{stated}[]"]) == [0, 1, 2]


def test_pairs_can_be_stated(tmp_path: Path) -> None:
    _, keys = _own_data(tmp_path, ["tip", "side_a", "side_b"])
    assert _flips([*keys, "dataloader.train.dataset.flip_pairs=[[side_a, side_b]]"]) == [0, 2, 1]


def test_one_keypoint_needs_no_pairs(tmp_path: Path) -> None:
    _, keys = _own_data(tmp_path, ["tip"])
    assert _flips(keys) == [0]
