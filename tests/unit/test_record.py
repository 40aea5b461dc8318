"""The result record: made, saved, validated, documented, and set beside the paper."""

import hashlib
import json
import math
import re
import subprocess
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import mask_rcnn_repro.config
from generate_docs.record_docs import format_record_schema
from mask_rcnn_repro.errors import ConfigError, RecordError
from mask_rcnn_repro.paper import load_claims, paper_numbers
from mask_rcnn_repro.records import provenance
from mask_rcnn_repro.records.record import (
    _ABSOLUTE_PATH,
    Record,
    _without_folders,
    load_record,
    make_record,
    parse_record,
    save_record,
)
from mask_rcnn_repro.utils import precision
from mask_rcnn_tools.evidence.comparison import compare
from mask_rcnn_tools.evidence.results import load_results
from mask_rcnn_tools.evidence.summary import format_results
from mask_rcnn_tools.train.writers import final_metrics

NAME = "unit_record"
ROOT = Path(__file__).parents[2]
METRICS = {
    "bbox": {
        "AP": 38.25,
        "AP50": 60.0,
        "APs": float("nan"),
        "per_class": {"person": 52.5, "cat": float("nan")},
    },
    "segm": {"AP": 34.5, "AP50": 55.0, "AP75": 36.0, "per_class": {"person": 45.0, "cat": 24.0}},
}


@pytest.fixture
def dataset(tmp_path):
    path = tmp_path / "val.json"
    path.write_text(json.dumps({"images": [{}, {}], "annotations": [{}, {}, {}]}))
    DatasetCatalog.register(NAME, lambda: [])
    files = {"json_file": str(path), "image_root": str(tmp_path)}
    MetadataCatalog.get(NAME).set(evaluator_type="coco", **files)
    yield path
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture
def make(dataset, tmp_path, monkeypatch):
    (tmp_path / "model_final.pth").write_bytes(b"weights")
    monkeypatch.setattr(mask_rcnn_repro.config, "config_hash", lambda cfg: "0123456789ab", False)

    def do(**changes):
        cfg = OmegaConf.create(
            {
                "train": {"seed": 3, "max_iter": 100, "amp": {"enabled": True, "dtype": "bf16"}},
                "dataloader": {
                    "train": {"dataset": {"names": [NAME, NAME]}},
                    "test": {"dataset": {"names": NAME}},
                    "evaluator": {"dataset_name": NAME},
                },
            }
        )
        arguments = {
            "config_id": "table2a/r50_c4",
            "profile": "mini",
            "overrides": ["train.max_iter=100", f"train.init_checkpoint={tmp_path}/a/R-50.pkl"],
            "mode": "train",
            "metrics": METRICS,
            "seconds_per_image": {"data": 0.1, "inference": 0.2, "postprocess": 0.3, "total": 0.6},
            "iterations_done": 100,
            "checkpoint": tmp_path / "model_final.pth",
            "train_seconds": 12.5,
            "device": torch.device("cpu"),
        }
        return make_record(cfg, **{**arguments, **changes})

    return do


def test_record_holds_what_was_run(make):
    record = make()
    assert record.schema_version == 4 and record.mode == "train"
    assert record.proposals is None and record.init_from is None
    assert record.generated_data is None and record.teacher is None
    assert record.config.id == "table2a/r50_c4" and record.config.hash == "0123456789ab"
    assert record.config.overrides == ["train.max_iter=100", "train.init_checkpoint=R-50.pkl"]
    assert (record.iterations_done, record.iterations_planned) == (100, 100)
    assert record.metrics["segm"].values() == {"AP": 34.5, "AP50": 55.0, "AP75": 36.0}
    assert record.metrics["bbox"].values()["APs"] is None
    assert record.metrics["bbox"].per_class == {"person": 52.5, "cat": None}
    assert record.seconds_per_image.total == 0.6
    assert record.evaluator_backend is None
    assert make(evaluator_backend="hotcoco").evaluator_backend == "hotcoco"
    test_data = record.test_data.model_dump()
    assert re.fullmatch("sha256:[0-9a-f]{64}", test_data.pop("fingerprint"))
    assert test_data == {"name": NAME, "images": 2, "instances": 3, "image_bits": None}
    assert (record.train_data.name, record.train_data.images) == (f"{NAME}+{NAME}", 4)
    assert record.checkpoint.name == "model_final.pth"
    assert record.checkpoint.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert record.device.type == "cpu" and record.device.threads == torch.get_num_threads()
    assert record.seed == 3 and record.world_size == 1 and record.training_seconds == 12.5
    assert record.versions.torch == torch.__version__ and record.versions.pycocotools
    assert record.versions.detectron2


@pytest.mark.parametrize(("instructions", "dtype"), [(True, "bf16"), (False, None)])
def test_record_has_the_precision_that_was_used(make, monkeypatch, instructions, dtype):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: instructions)
    assert make().amp.model_dump() == {"enabled": instructions, "dtype": dtype}


RPN = {"id": "rpn/r50_c4", "hash": "ba9876543210", "seed": 0, "checkpoint": "0" * 64}


def test_record_says_what_the_run_stands_on(make, tmp_path):
    recall = {"AR@100": 40.5, "AR@1000": None}
    source = {**RPN, "id": "table2a/r101_fpn", "checkpoint": None, "recall": None}
    record = make(proposals={**RPN, "recall": recall}, init_from=source)
    assert record.proposals.model_dump() == {**RPN, "recall": recall}
    assert record.init_from.model_dump() == source
    save_record(record, tmp_path / "record.json")
    assert load_record(tmp_path / "record.json") == record


@pytest.mark.parametrize("field", ["proposals", "init_from"])
@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint": "abc"},
        {"hash": "xyz"},
        {"seed": None},
        {"id": ""},
        {"id": "/home/me/rpn"},
        {"recall": {"AR@100": "high"}},
        {"recall": {"AR@100": math.nan}},
        {"extra": 1},
    ],
)
def test_wrong_facts_about_another_run_are_refused(make, field, change):
    key = next(iter(change))
    with pytest.raises(RecordError, match=rf"{field}\.{key}"):
        make(**{field: {**RPN, **change}})


def test_facts_about_another_run_are_required(make):
    for key in RPN:
        with pytest.raises(RecordError, match=rf"proposals\.{key}: Field required"):
            make(proposals={k: v for k, v in RPN.items() if k != key})


@pytest.mark.parametrize("version", [1, 2, 3])
def test_records_of_earlier_versions_can_be_read(make, version):
    """Those of version 1 were of runs that stood on no other."""
    content = {**make(proposals=RPN).model_dump(mode="json"), "schema_version": version}
    added = {2: ["proposals", "init_from"], 3: ["generated_data", "teacher"], 4: ["best"]}
    later = [name for since, names in added.items() if since > version for name in names]
    for name in later:
        del content[name]
    record = parse_record(content, "it")
    assert record.schema_version == version
    assert [getattr(record, name) for name in later] == [None] * len(later)
    assert (record.proposals is not None) == (version >= 2)


BEST = {"metric": "segm/AP", "value": 35.25, "iteration": 60}


def test_best_checkpoint_and_early_end(make, tmp_path):
    assert make().best is None and "Best" not in format_results(make())
    record = make(best=BEST, stopped_early=True, iterations_done=80)
    assert record.best.model_dump() == BEST and record.ran_to_its_end
    save_record(record, tmp_path / "record.json")
    assert load_record(tmp_path / "record.json") == record
    title, best, *_ = format_results(record).split("\n\n")
    assert "iteration 80 of 100 (stopped early)" in title
    assert best == "Best checkpoint (model_best.pth): mask AP 35.2 after 60 iterations"
    assert final_metrics(record)[-1] == ("segm", "best AP", 35.25)
    with pytest.raises(RecordError, match=r"best\.value: Field required"):
        make(best={k: v for k, v in BEST.items() if k != "value"})


def test_generated_annotations_and_their_teacher(make, tmp_path):
    data = {"name": "u", "fingerprint": f"sha256:{'a' * 64}", "images": 5, "instances": 7}
    record = make(generated_data=data, teacher=RPN)
    assert record.generated_data.model_dump() == {**data, "image_bits": None}
    assert record.teacher.model_dump() == {**record.teacher.model_dump(), **RPN}
    save_record(record, tmp_path / "record.json")
    assert load_record(tmp_path / "record.json") == record
    with pytest.raises(RecordError, match=r"generated_data\.fingerprint"):
        make(generated_data={**data, "fingerprint": "a"})
    with pytest.raises(RecordError, match=r"generated_data\.name: .*|absolute path"):
        make(generated_data={**data, "name": "/data/mine.json"})


def test_committed_records_can_be_read():
    records = load_results(ROOT / "results")
    assert records
    assert {record.schema_version for record in records} <= {1, 2, 3, 4}


def test_evaluation_of_published_weights(make):
    record = make(
        mode="eval",
        iterations_done=None,
        metrics={},
        seconds_per_image={},
        checkpoint="detectron2:/nothing/model_final.pkl",
        train_seconds=None,
    )
    assert record.train_data is None and record.seconds_per_image is None
    assert record.checkpoint.name == "detectron2://nothing/model_final.pkl"
    assert record.checkpoint.sha256 is None
    assert "No metrics" in format_results(record)


def test_saved_record_reads_back(make, tmp_path):
    record = make()
    path = tmp_path / "new" / "record.json"
    save_record(record, path)
    assert load_record(path) == record
    text = path.read_text()
    assert str(tmp_path) not in text and "NaN" not in text
    save_record(load_record(path), path)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        (("schema_version",), 0, "schema_version"),
        (("seed",), "three", "seed"),
        (("seed",), None, "seed"),
        (("config", "hash"), "xyz", "config.hash"),
        (("config", "extra"), 1, "config.extra"),
        (("metrics", "bbox", "AP"), "high", "metrics.bbox.AP"),
        (("metrics", "bbox", "AP"), math.nan, "metrics.bbox.AP"),
        (("metrics", "bbox", "per_class", "cat"), [1], "metrics.bbox.per_class.cat"),
        (("test_data", "fingerprint"), "md5:0", "test_data.fingerprint"),
        (("amp", "dtype"), "fp8", "amp.dtype"),
        (("world_size",), 0, "world_size"),
        (("created",), "yesterday", "created"),
        (("checkpoint", "name"), "/home/me/model.pth", "checkpoint.name"),
        (("config", "overrides"), ["a=[/data/x,/data/y]"], r"config.overrides\[0\]"),
        (("unknown",), 1, "unknown"),
    ],
)
def test_wrong_field_is_named(make, tmp_path, field, value, named):
    content = make().model_dump(mode="json")
    inner = content
    for key in field[:-1]:
        inner = inner[key]
    inner[field[-1]] = value
    path = tmp_path / "record.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=rf"record\.json.*docs/records\.md(.|\n)*{named}"):
        load_record(path)


def test_every_field_is_required(make):
    content = make().model_dump(mode="json")
    # earlier records have none
    later = {"proposals", "init_from", "generated_data", "teacher", "stopped_early", "best"}
    for name in Record.model_fields.keys() - later:
        without = {k: v for k, v in content.items() if k != name}
        with pytest.raises(RecordError, match=rf"{name}: Field required"):
            parse_record(without, "it")


def test_unreadable_records(make, tmp_path):
    for text in ("{", "[]", "3", "null"):
        (tmp_path / "record.json").write_text(text)
        with pytest.raises(RecordError, match=r"record\.json"):
            load_record(tmp_path / "record.json")
    with pytest.raises(RecordError, match="nowhere"):
        load_record(tmp_path / "nowhere.json")
    newer = {**make().model_dump(mode="json"), "schema_version": 5}
    with pytest.raises(RecordError, match="newer version"):
        parse_record(newer, "it")


def test_unsuitable_values_are_refused_when_made(make):
    with pytest.raises(RecordError, match="mode"):
        make(mode="test")


@pytest.mark.parametrize(
    ("override", "kept"),
    [
        ("a=/x/y.pth", "a=y.pth"),
        ("a=[/x/y, '/z/w/']", "a=[y, 'w']"),
        ("a=~/x/y.pth", "a=y.pth"),
        ("a=C:\\x\\y.pth", "a=y.pth"),
        ("a=file:///x/y.pth", "a=y.pth"),
        ("a=detectron2://x/y.pkl", "a=detectron2://x/y.pkl"),
        ("a=https://x.org/y.pkl", "a=https://x.org/y.pkl"),
        ("a=x/y.pth", "a=x/y.pth"),
        ("a=1/2", "a=1/2"),
        ("~train.amp", "~train.amp"),
    ],
)
def test_overrides_lose_folders(override, kept):
    assert _without_folders(override) == kept


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="/~:=[], ab'\"\\{", max_size=12))
def test_what_is_left_of_an_override_is_acceptable(override):
    assert not _ABSOLUTE_PATH.search(_without_folders(override))


# --- where results come from ----------------------------------------------------------------


def git(folder, *command):
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run(["git", *identity, *command], cwd=folder, check=True, capture_output=True)


def test_commit_and_dirtiness(tmp_path, monkeypatch):
    package = tmp_path / "repo" / "projects" / "mask_rcnn_repro"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.setattr(provenance.mask_rcnn_repro, "__file__", str(package / "__init__.py"))
    nothing = {"commit": None, "dirty": None}
    assert provenance.code_info() == nothing
    top = tmp_path / "repo"
    git(top, "init")
    assert provenance.code_info() == nothing  # someone else's checkout around us
    git(top, "add", ".")
    assert provenance.code_info() == nothing  # no commit yet
    git(top, "commit", "-m", "x")
    found = provenance.code_info()
    assert re.fullmatch("[0-9a-f]{40}", found["commit"]) and found["dirty"] is False
    (top / "results").mkdir()
    (top / "results" / "record.json").touch()
    assert provenance.code_info() == found
    (package / "new.py").touch()
    assert provenance.code_info() == {**found, "dirty": True}


def test_changed_file_changes_the_fingerprint(dataset):
    node = OmegaConf.create({"dataset": {"names": NAME}})
    before = provenance.dataset_info(node)
    dataset.write_text(json.dumps({"images": [{}], "annotations": []}))
    after = provenance.dataset_info(node)
    assert before["fingerprint"] != after["fingerprint"] and after["images"] == 1


# --- documentation, tables ------------------------------------------------------------------


def test_documentation_is_current():
    assert (ROOT / "docs" / "records.md").read_text() == format_record_schema(), (
        "run: python tools/generate_docs"
    )


def test_documentation_names_every_field():
    text = format_record_schema()
    for name, field in Record.model_fields.items():
        assert f"| `{name}` |" in text and field.description
    assert "None |" not in text and "mask_rcnn_repro.records.record." not in text


def test_paper_numbers():
    assert paper_numbers("2a", "R50-C4") == {"segm": {"AP": 30.3, "AP50": 51.2, "AP75": 31.5}}
    assert set(paper_numbers("5", "keypoint & mask")) == {"bbox_person", "segm_person", "keypoints"}
    assert paper_numbers("timing", "R101-C4 inference") == {}
    with pytest.raises(ConfigError, match="Did you mean 'R50-C4'"):
        paper_numbers("2a", "R50_C4")
    with pytest.raises(ConfigError, match="2f"):
        paper_numbers("2f", "R50-C4")


def test_every_claim_refers_to_printed_rows():
    in_one_table = [claim for claim in load_claims() if claim.get("better")]
    assert len(in_one_table) > 20
    for claim in in_one_table:
        task, metric = claim["metric"].split("/")
        for side in ("better", "worse"):
            assert metric in paper_numbers(claim["table"], claim[side])[task]


def test_comparison_with_the_paper(make):
    paper = {
        "segm": {"AP": 30.3, "APs": 12.0},
        "bbox_person": {"AP": 52.0},
        "keypoints": {"AP": 60},
    }
    rows = compare(make(), paper)
    assert [(r.metric, r.ours, r.paper) for r in rows] == [
        ("segm/AP", 34.5, 30.3),
        ("segm/APs", None, 12.0),
        ("bbox_person/AP", 52.5, 52.0),
        ("keypoints/AP", None, 60),
    ]
    assert rows[0].difference == pytest.approx(4.2) and rows[1].difference is None
    (per_class,) = compare(make(), {"segm": {"per_class": {"person": 40.0}}})
    assert (per_class.metric, per_class.difference) == ("segm/AP (person)", 5.0)


def test_formatted_results(make):
    lines = format_results(make()).splitlines()
    assert lines[0] == f"table2a/r50_c4 (mini), seed 3, iteration 100 of 100, on {NAME}"
    table = [line.split() for line in lines]
    assert ["AP", "AP50", "AP75", "APs"] in table
    assert ["box", "38.2", "60.0", "-", "-"] in table
    assert ["mask", "34.5", "55.0", "36.0", "-"] in table
    assert ["class", "box", "AP", "mask", "AP"] in table
    assert ["cat", "-", "24.0"] in table and ["person", "52.5", "45.0"] in table
    assert any(line.startswith("Seconds per image: data 0.1000") for line in lines)
