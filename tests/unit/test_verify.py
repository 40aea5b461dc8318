"""`--verify`: which numbers are to be met, and whether they are."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from mask_rcnn_repro.config import config_hash, get_config
from mask_rcnn_repro.errors import ConfigError, RecordError
from mask_rcnn_repro.records.record import Record, load_record
from mask_rcnn_tools.train.verify import (
    RECORDED,
    Expected,
    conditions_text,
    expected_numbers,
    format_verification,
    verify,
)

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "results" / "earlier" / "mini_from_random_weights"
FILE = RESULTS / "table2e" / "fcn@mini" / "seed0.json"


def config(name: str, profile: str = "paper", *overrides: str) -> DictConfig:
    return get_config(name, profile, overrides=list(overrides))


def record(**metrics: dict[str, Any]) -> Record:
    content = json.loads(FILE.read_text())
    content["metrics"] = metrics
    return Record.model_validate(content)


def verdicts(got: Record, expected: Expected) -> dict[str, str]:
    return {c.metric: c.verdict for c in verify(got, expected)}


def test_papers_numbers_with_their_tolerances() -> None:
    expected = expected_numbers(config("table2d/roi_align"), "table2d/roi_align")
    assert expected.source == "the paper's table 2d, row 'RoIAlign'"
    segm = {"AP": 30.9, "AP50": 51.8, "AP75": 32.1}
    assert expected.numbers["segm"] == segm
    bbox = expected.numbers["bbox"]
    # AP may be 0.5 points off both ways, the others 1.0; limits are met
    got = record(
        segm={"AP": 31.4, "AP50": 50.8, "AP75": 33.2, "per_class": {}},
        bbox={"AP": bbox["AP"] - 0.6, "AP50": bbox["AP50"], "AP75": bbox["AP75"], "per_class": {}},
    )
    assert verdicts(got, expected) == {
        "segm/AP": "met",
        "segm/AP50": "met",
        "segm/AP75": "too high",
        "bbox/AP": "too low",
        "bbox/AP50": "met",
        "bbox/AP75": "met",
    }
    text = format_verification(expected, verify(got, expected))
    assert text.endswith("Not met: 2 of 6 numbers.")
    assert [line.split() for line in text.splitlines() if "segm/AP75" in line] == [
        ["segm/AP75", "33.20", "32.10", "1.00", "too", "high"]
    ]


def test_tolerance_is_a_key() -> None:
    row = "table2d/roi_align"
    expected = expected_numbers(config(row, "paper", "train.verify.tolerance=0"), row)
    exact = {task: {**values, "per_class": {}} for task, values in expected.numbers.items()}
    assert set(verdicts(record(**exact), expected).values()) == {"met"}
    exact["segm"]["AP"] += 0.01
    assert verdicts(record(**exact), expected)["segm/AP"] == "too high"


def test_a_missing_number_is_an_error() -> None:
    expected = expected_numbers(config("table2d/roi_align"), "table2d/roi_align")
    whole = {task: {**values, "per_class": {}} for task, values in expected.numbers.items()}
    for change in ("segm", "AP75", None):
        part = copy.deepcopy(whole)
        if change == "segm":
            del part["segm"]
        elif change:
            del part["segm"][change]
        else:
            part["segm"]["AP75"] = None  # nothing to measure
        with pytest.raises(RecordError, match="missing in this evaluation: segm/"):
            verify(record(**part), expected)
    with pytest.raises(RecordError, match="no annotations"):
        verify(record(), expected)


@pytest.mark.parametrize("profile", ["mini", "tiny"])
def test_other_profiles_are_not_the_papers(profile: str) -> None:
    with pytest.raises(ConfigError, match=f"profile {profile} is a small model on generated data"):
        expected_numbers(config("table2d/roi_align", profile), "table2d/roi_align")


@pytest.mark.parametrize(
    ("row", "overrides", "message"),
    [
        ("quickstart/mask_rcnn_r18_fpn", (), "no row of the paper.*--verify RECORD.json"),
        ("table1/r101_fpn", (), "COCO's test-dev, whose annotations only its server has"),
        ("table4/keypoint_only", (), "only its server has"),
        (
            "table2d/roi_align",
            ("dataloader.test.dataset.names=coco_trainval35k",),
            "number is of 'minival', this evaluation of 'coco_trainval35k'",
        ),
        (
            "table7/fine",
            ("dataloader.test.dataset.names=cityscapes_test",),
            "test set of Cityscapes, whose annotations only its server has",
        ),
        ("section4_4/r101_c4", (), "no metric is printed"),
    ],
)
def test_what_cannot_be_compared(row: str, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expected_numbers(config(row, "paper", *overrides), row)


def test_cityscapes_val_is_compared_and_test_left_out() -> None:
    expected = expected_numbers(config("table7/fine"), "table7/fine")
    assert list(expected.numbers) == ["cityscapes_val"]
    assert "cityscapes_test, which only the server can measure" in expected.left_out
    content = json.loads((RESULTS / "table7" / "fine@mini" / "seed0.json").read_text())
    content["test_data"]["name"] = "cityscapes_val"
    numbers = expected.numbers["cityscapes_val"]
    content["metrics"] = {"segm": {"AP": numbers["AP"], "per_class": dict(numbers["per_class"])}}
    found = verdicts(Record.model_validate(content), expected)
    assert found["cityscapes_val/AP"] == "met" and set(found.values()) == {"met"}
    assert "cityscapes_val/AP (truck)" in found


def test_own_numbers() -> None:
    name = "quickstart/mask_rcnn_r18_fpn"
    cfg = config(name, "mini", "train.verify.expected={segm/AP: 30, bbox/AP50: 50}")
    expected = expected_numbers(cfg, name)
    assert expected.numbers == {"segm": {"AP": 30.0}, "bbox": {"AP50": 50.0}}
    got = record(segm={"AP": 30.2, "per_class": {}}, bbox={"AP50": 48.9, "per_class": {}})
    assert verdicts(got, expected) == {"segm/AP": "met", "bbox/AP50": "too low"}
    for wrong, message in (("{AP: 30}", "allowed are task/metric"), ("{}", "is empty")):
        bad = config(name, "mini", f"train.verify.expected={wrong}")
        with pytest.raises(ConfigError, match=message):
            expected_numbers(bad, name)


def test_verifying_changes_no_hash() -> None:
    name = "quickstart/mask_rcnn_r18_fpn"
    plain = config_hash(config(name))
    for change in ("train.verify.tolerance=3", "train.verify.expected={segm/AP: 30}"):
        assert config_hash(config(name, "paper", change)) == plain


def test_recorded_run_is_found_and_met_by_itself() -> None:
    cfg = config("table2e/fcn", "mini")
    expected = expected_numbers(cfg, "table2e/fcn", RECORDED, RESULTS)
    assert expected.source == "seed0.json (table2e/fcn, profile mini, seed 0)"
    own = load_record(FILE)
    comparisons = verify(own, expected)
    assert all(c.verdict == "met" for c in comparisons)
    metrics = {c.metric for c in comparisons}
    assert {"segm/AP", "segm/APs", "bbox/AP75", "segm/AP (person)", "bbox/AP (cog)"} <= metrics
    assert expected_numbers(cfg, "table2e/fcn", str(FILE)).numbers == expected.numbers


def test_records_that_cannot_be_compared(tmp_path: Path) -> None:
    cfg = config("table2e/fcn", "mini")
    other_seed = config("table2e/fcn", "mini", "train.seed=5")
    with pytest.raises(ConfigError, match=r"seed 5: looked for .*recorded there: seed0"):
        expected_numbers(other_seed, "table2e/fcn", RECORDED, RESULTS)
    with pytest.raises(ConfigError, match=r"profile mini, .*profile paper"):
        expected_numbers(config("table2e/fcn"), "table2e/fcn", str(FILE))
    with pytest.raises(RecordError, match="cannot be read"):
        expected_numbers(cfg, "table2e/fcn", str(tmp_path / "none.json"))
    content = json.loads(FILE.read_text())
    content["metrics"] = {}
    (tmp_path / "empty.json").write_text(json.dumps(content))
    with pytest.raises(RecordError, match="holds no metrics"):
        expected_numbers(cfg, "table2e/fcn", str(tmp_path / "empty.json"))


def test_records_of_other_data() -> None:
    expected = expected_numbers(config("table2e/fcn", "mini"), "table2e/fcn", str(FILE))
    content = json.loads(FILE.read_text())
    content["test_data"]["fingerprint"] = "sha256:" + 64 * "0"
    with pytest.raises(RecordError, match="is of other data: embedded_val, 300 images"):
        verify(Record.model_validate(content), expected)


def _seed(folder: Path, seed: int, ap: float, finer: float, **changes: Any) -> Record:
    """A recorded training of the quickstart with chosen numbers, written to a directory."""
    content = json.loads(FILE.read_text())
    content["seed"] = seed
    content["metrics"] = {"segm": {"AP": ap, "AP50": finer, "per_class": {}}}
    content["checkpoint"]["sha256"] = f"{seed:064x}"
    content.update(changes)
    (folder / f"seed{seed}.json").write_text(json.dumps(content))
    return Record.model_validate(content)


def _elsewhere(of: Record, ap: float, finer: float) -> Record:
    content = of.model_dump(mode="json")
    content["metrics"] = {"segm": {"AP": ap, "AP50": finer, "per_class": {}}}
    content["checkpoint"]["sha256"] = "f" * 64
    content["device"].update(name="another CPU", threads=7)
    content["amp"] = {"enabled": False, "dtype": None}
    return Record.model_validate(content)


def test_elsewhere_the_tolerance_is_that_of_the_scatter_over_seeds(tmp_path: Path) -> None:
    first = _seed(tmp_path, 0, 30.0, 50.0)
    for seed, ap, finer in ((1, 31.0, 54.0), (2, 32.0, 58.0)):  # deviations 1 and 4
        _seed(tmp_path, seed, ap, finer)
    _seed(tmp_path, 3, 99.0, 99.0, config={**first.config.model_dump(), "hash": "0" * 12})
    expected = expected_numbers(
        config("table2e/fcn", "mini"), "table2e/fcn", str(tmp_path / "seed0.json")
    )
    assert [record.seed for record in expected.seeds] == [0, 1, 2]  # one is of another config
    for ap, finer, verdict in ((35, 70, "met"), (25, 30, "met"), (35.01, 70.01, "too high")):
        got = _elsewhere(first, ap, finer)
        comparisons = verify(got, expected)
        assert [c.tolerance for c in comparisons] == pytest.approx([5, 20])
        assert {c.verdict for c in comparisons} == {verdict}
        text = conditions_text(got, expected, comparisons)
        assert "device another CPU, not" in text and "threads 7, not 2;" in text
        assert "precision float32, not bf16" in text.replace("\n", " ")
        assert "5 standard deviations of the 3 recorded seeds (1.00 for AP, 4.00 for finer" in (
            text.replace("\n", " ")
        )
    # under equal conditions a training repeats the record
    again = first.model_copy(update={"checkpoint": None})
    assert [c.tolerance for c in verify(again, expected)] == [0.5, 1.0]
    assert conditions_text(again, expected, verify(again, expected)) == ""
    # other weights do not come in: the same ones are evaluated elsewhere
    same = _elsewhere(first, 30.4, 50.9).model_copy(update={"checkpoint": first.checkpoint})
    assert [c.tolerance for c in verify(same, expected)] == [0.5, 1.0]


def test_without_seeds_it_says_what_must_be_equal(tmp_path: Path) -> None:
    first = _seed(tmp_path, 0, 30.0, 50.0)
    expected = expected_numbers(
        config("table2e/fcn", "mini"), "table2e/fcn", str(tmp_path / "seed0.json")
    )
    far, near = _elsewhere(first, 33.0, 50.0), _elsewhere(first, 30.1, 50.0)
    comparisons = verify(far, expected)
    assert [c.verdict for c in comparisons] == ["too high", "met"]
    text = conditions_text(far, expected, comparisons).replace("\n", " ")
    assert "threads 7, not 2" in text and "1 of this config is recorded" in text
    assert text.endswith("train.verify.tolerance=POINTS.")
    assert conditions_text(near, expected, verify(near, expected)) == ""
