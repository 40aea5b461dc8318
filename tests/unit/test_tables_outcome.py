"""The table at the end: numbers by hand, what is missing said, test-dev, files, collecting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.records.record import load_record, save_record
from mask_rcnn_tools.evidence.claims import claims_of
from mask_rcnn_tools.evidence.seed_plan import PlannedClaim, ScalePlan, SeedPlan, load_plan
from mask_rcnn_tools.report.runs import Runs
from mask_rcnn_tools.report.scales import Scale
from mask_rcnn_tools.report.tables import runs_table
from mask_rcnn_tools.tables.choose import choose_rows
from mask_rcnn_tools.tables.collect import collect
from mask_rcnn_tools.tables.outcomes import table_outcomes
from mask_rcnn_tools.tables.plan import make_plan
from mask_rcnn_tools.tables.seeds import write_seed_plan
from mask_rcnn_tools.tables.show import as_json, format_outcome
from mask_rcnn_tools.tables.usable_records import find_records

from .tables_helpers import record


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan_of(table, rows=(), seeds=(0, 1, 2), profile="mini"):
    return make_plan(choose_rows([table], rows), profile, seeds)


def save(made, changes=None, **metrics):
    """A valid record of a job, with metrics such as segm_AP=30.0."""
    tasks = {}
    for name, value in metrics.items():
        task, _, metric = name.rpartition("_")
        tasks.setdefault(task, {"per_class": {}})[metric] = value
    sources = {
        key: {"id": s.config, "hash": s.hash, "seed": s.seed, "checkpoint": None}
        for key, s in made.inputs
    }
    facts = record(
        config__id=made.config_id,
        config__hash=made.hash,
        config__profile=made.profile,
        seed=made.seed,
        metrics=tasks,
        iterations_planned=made.iterations,
        **({"iterations_done": made.iterations} | sources | (changes or {})),
    )
    save_record(facts, made.folder / "record.json")


def fixed(*tables):
    """A plan of three seeds for every claim."""
    facts = {"seed_sd": 1.0, "image_sd": 0.0, "seeds": 3, "power": 0.9, "seen": 0}
    claims = {(c.id, c.metric): c for table in tables for c in claims_of(table)}
    planned = [
        PlannedClaim(
            id=c.id, metric=c.metric, relation=c.relation, effect=c.delta, margin=c.margin, **facts
        )
        for c in claims.values()
    ]
    scale = ScalePlan(wanted_power=0.8, most_seeds=8, error=0.05, scatter={}, claims=planned)
    return SeedPlan(profiles={"mini": scale})


def outcomes(plan, seeds=(0, 1, 2), **options):
    options.setdefault("fixed", fixed(*{row.row.table for row in plan.rows}))
    return table_outcomes(plan, seeds, find_records(Path("output"), None), **options)


def lines(text, start):
    return [line.split() for line in text.splitlines() if line.startswith(start)]


def test_a_table_by_hand(here):
    """softmax 20, 21, 22 and sigmoid 30, 32, 31: differences -10, -11, -9."""
    plan = plan_of("2b")
    for seed, (softmax, sigmoid) in enumerate([(20.0, 30.0), (21.0, 32.0), (22.0, 31.0)]):
        save(plan.rows[0].jobs[seed], segm_AP=softmax, segm_AP50=40.0 + seed)
        save(plan.rows[1].jobs[seed], segm_AP=sigmoid, segm_AP50=41.0)
    (outcome,) = outcomes(plan)
    text = format_outcome(outcome)
    # mean of the differences -10, s = 1: -10 +- 2.920 / sqrt(3)
    (softmax,) = lines(text, "softmax")
    assert " ".join(softmax) == "softmax mask AP 24.8 21.0 ± 1.0 0, 1, 2 -5.5 -10.0 [-11.7, -8.3]"
    (sigmoid,) = lines(text, "sigmoid")
    assert " ".join(sigmoid) == "sigmoid mask AP 30.3 31.0 ± 1.0 0, 1, 2 (control)"
    by_metric = {e.claim.metric: e for e in outcome.claims}
    assert by_metric["segm/AP"].verdict == "confirmed"
    assert by_metric["segm/AP50"].verdict == "undecided"  # 1, 0, -1
    assert by_metric["segm/AP75"].verdict == "not run"
    assert "Verdicts: differences are formed seed by seed" in text
    content = as_json(outcome)
    assert content["rows"][0]["numbers"][0]["difference"] == pytest.approx(-10)
    assert json.loads(json.dumps(content)) == content


def test_early_ends_and_best_checkpoints_are_said(here):
    """A run that stopped early counts. The plan's schedule is 500 iterations."""
    plan = plan_of("2b", seeds=(0, 1))
    softmax, sigmoid = plan.rows
    best = {"metric": "segm/AP", "value": 21.26, "iteration": 400}
    save(softmax.jobs[0], {"stopped_early": True, "iterations_done": 480}, segm_AP=20.0)
    save(softmax.jobs[1], {"best": best}, segm_AP=21.0)
    save(sigmoid.jobs[0], segm_AP=30.0)
    (outcome,) = outcomes(plan)
    text = format_outcome(outcome)
    assert "- softmax: seed 0 stopped early after 480 of 500 iterations." in text
    assert "- softmax: best checkpoint of seed 1: mask AP 21.3 after 400 iterations." in text
    (row,) = lines(text, "softmax")
    assert "20.5" in row and "0, 1" in " ".join(row)
    assert not any("best" in note or "early" in note for note in outcome.notes_of(outcome.rows[1]))
    table = runs_table(Scale("mini", [outcome], ()), Runs([], {}, {}))
    assert table.header[-1] == "best checkpoint"
    shown = [[cell.text for cell in line] for line in table.lines]
    assert [(line[2], line[-1]) for line in shown] == [
        ("480 of 500, stopped early", "-"),
        ("500", "mask AP 21.3 after 400 iterations"),
        ("500", "-"),
    ]


def test_what_is_missing_is_said(here):
    plan = plan_of("2b", seeds=(0, 1))
    softmax, sigmoid = plan.rows
    save(softmax.jobs[0], segm_AP=20.0)
    partial = softmax.jobs[1].folder
    partial.mkdir(parents=True)
    (partial / "metrics.json").write_text('{"iteration": 120}\n')
    (outcome,) = outcomes(plan, (0, 1), failed={sigmoid.jobs[1]: "exit status 1"})
    assert [row.missing for row in outcome.rows] == [
        "seed 1 partial: 24 % of the schedule",
        "seed 0 not run, seed 1 failed",
    ]
    text = format_outcome(outcome)
    assert "20.0 (seed 1 partial: 24 % of" in text
    assert "independent masks beat multinomial masks: no run of sigmoid (2b)" in text
    assert "No claim can be judged yet." in text


def test_one_seed_is_interim(here):
    plan = plan_of("2b", seeds=(0,))
    for row, ap in zip(plan.rows, (20.0, 60.0), strict=True):
        save(row.jobs[0], segm_AP=ap)
    (outcome,) = outcomes(plan, (0,))
    text = " ".join(format_outcome(outcome).split())
    assert "+40.0 -, - 0 3, 90 % interim 1 of 3 planned" in text


def test_rows_on_test_dev_say_so_and_show_val(here):
    plan = plan_of("4", seeds=(0,))
    for row in plan.rows:
        save(row.jobs[0], keypoints_AP=12.5)
    (outcome,) = outcomes(plan, (0,))
    text = format_outcome(outcome)
    assert lines(text, "keypoint-only  ")[0][2:5] == ["AP", "62.7", "12.5"]
    assert "which only COCO's server can measure (no files for it yet)" in text
    assert "here: val: table5/keypoint_only" in text
    (server,) = plan.rows[0].server.values()
    server.folder.mkdir(parents=True)
    (server.folder / "record.json").write_text("{}")
    (outcome,) = outcomes(plan, (0,))
    assert f"its files for the server: {server.folder}/inference" in format_outcome(outcome)


def test_controls_and_claims_of_other_tables_are_looked_up(here):
    """Table 2d's stride 32 against table 2c's stride 16."""
    plan = plan_of("2d")
    beside = plan_of("2c", ["roi_align_ave"])
    for seed in (0, 1, 2):
        save(plan.rows[1].jobs[seed], segm_AP=30.0 + seed)
        save(beside.rows[0].jobs[seed], segm_AP=29.0 + 1.01 * seed)
    (outcome,) = outcomes(plan)
    found = next(e for e in outcome.claims if e.claim.id == "c5-over-c4-with-align")
    assert found.by_seed == pytest.approx({0: 1.0, 1: 0.99, 2: 0.98})
    assert found.stages == (0, 1)
    assert found.verdict == "confirmed"


def test_rows_on_another_network_are_judged_by_the_kind_of_their_difference(here):
    plan = plan_of("enhanced_r50", ["e2e", "updated_baseline"])
    for row, ap in zip(plan.rows, (31.0, 33.0), strict=True):
        for seed in (0, 1, 2):
            save(row.jobs[seed], segm_AP=ap + 0.1 * seed * ap, bbox_AP=ap)
    (outcome,) = outcomes(plan)
    e2e = next(row for row in outcome.rows if row.row.name == "e2e")
    assert e2e.row.printed_number("segm/AP") is None
    assert e2e.row.printed_difference("segm/AP") == pytest.approx(0.6)
    claim = next(e for e in outcome.claims if e.claim.id == "enhanced_r50/e2e")
    assert (claim.claim.delta, claim.verdict) == (pytest.approx(0.6), "confirmed")


def test_differences_on_other_data_are_left_out_and_named(here):
    plan = plan_of("2b")
    for row, ap in zip(plan.rows, (20.0, 30.0), strict=True):
        for seed in (0, 1, 2):
            save(row.jobs[seed], segm_AP=ap + seed * ap / 10)
    changed = record().test_data.model_copy(update={"fingerprint": "sha256:" + "b" * 64})
    save(plan.rows[0].jobs[1], {"test_data": changed.model_dump()}, segm_AP=20.0)
    (outcome,) = outcomes(plan)
    assert outcome.difference(outcome.rows[0], "segm/AP").by_seed == {0: -10.0, 2: -12.0}
    text = "seed 1 is left out: the runs' test data differ"
    assert f"- softmax: {text}." in format_outcome(outcome)
    assert as_json(outcome)["rows"][0]["notes"] == [text]
    assert as_json(outcome)["claims"][0]["reason"] == f"2 of 3 planned seeds; {text}"


def test_seeds_are_planned_from_runs_on_the_stages_of_their_seeds(here):
    """Sigmoid scatters by 1, on the stages of the rule; one run is on another stage, one on others
    of the same name's images.
    """
    plan = plan_of("2b", seeds=range(7))
    sigmoid = plan.rows[1].jobs
    stage = dict(sigmoid[0].inputs)["proposals"]
    wrong = {"id": stage.config, "hash": stage.hash, "seed": 0, "checkpoint": None}
    other = record().test_data.model_copy(update={"fingerprint": "sha256:" + "b" * 64})
    (here / "results").mkdir()

    def planned():
        return write_seed_plan(["2b"], "mini", find_records(Path("output"), None), here / "results")

    for seed, ap in enumerate((30.0, 32.0, 31.0, 30.0)):
        save(sigmoid[seed], segm_AP=ap)
    save(sigmoid[5], {"proposals": wrong}, segm_AP=90.0)
    save(
        sigmoid[6], {"test_data": other.model_dump(), "created": "2020-01-01T00:00:00Z"}, segm_AP=5
    )
    with pytest.raises(ConfigError, match=r"mask AP 3.*--rows sigmoid --profile mini --seeds 5"):
        planned()
    assert not list((here / "results").iterdir())
    save(sigmoid[4], segm_AP=32.0)
    for seed in (0, 5):
        save(plan.rows[0].jobs[seed], segm_AP=20.0)
    text = planned()
    scale = load_plan(here / "results").profiles["mini"]
    scatter = scale.scatter["segm/AP"]
    assert scatter.runs == {"table2a/r50_c4": [0, 1, 2, 3, 4]}
    assert (scatter.seed_sd, scatter.degrees) == (1.0, 4)
    (sigmoid_claim,) = scale.claims
    assert sigmoid_claim.seen == 1, "seed 5 is on a stage that it does not use"
    assert "Not planned: sigmoid (segm/AP50)" in text
    assert "mask AP50 0" in text


def test_markdown_is_a_table(here):
    (outcome,) = outcomes(plan_of("2b"))
    text = format_outcome(outcome, markdown=True)
    assert text.startswith("## Table 2b: ")
    assert "| softmax | mask AP | 24.8 | not run |" in text


def test_collecting_copies_what_counts(here):
    plan = plan_of("2b", seeds=(0, 1))
    stage = dict(plan.rows[0].jobs[0].inputs)["proposals"]
    softmax = plan.rows[0].jobs[0]
    save(stage, proposals_AR=50.0)
    save(softmax, segm_AP=20.0)
    (softmax.folder / "curves.json").write_text("[]")
    (softmax.folder / "bootstrap.json").write_text("{}")
    results = here / "results"

    def collected():
        done = collect(plan, find_records(Path("output"), results), results)
        return {item.job.name: item.what for item in done}

    assert collected() == {
        "pretrain/r50 seed 0": "not run here",
        "pretrain/r50 seed 1": "not run here",
        "rpn/r50_c4 seed 0": "written",
        "rpn/r50_c4 seed 1": "not run here",
        "table2b/softmax seed 0": "written",
        "table2b/sigmoid seed 0": "not run here",
        "table2b/softmax seed 1": "not run here",
        "table2b/sigmoid seed 1": "not run here",
    }
    copy = results / "table2b/softmax@mini/seed0.json"
    assert load_record(copy) == load_record(softmax.folder / "record.json")
    assert copy.with_name("seed0.curves.json").read_text() == "[]"
    assert copy.with_name("seed0.bootstrap.json").read_text() == "{}"
    assert collected()["table2b/softmax seed 0"] == "unchanged"
    # a collected record counts like a run's own
    assert len(find_records(Path("nowhere"), results)) == 2


def test_runs_with_overrides_are_not_collected(here):
    plan = make_plan(choose_rows(["2b"], ["softmax"]), "mini", (0,), ("train.max_iter=5",))
    save(plan.rows[0].jobs[0], segm_AP=20.0)
    done = collect(plan, find_records(Path("output"), None), here / "results")
    assert "its overrides make it a different row" in done[-1].what
    assert not list((here / "results").rglob("*.json"))
