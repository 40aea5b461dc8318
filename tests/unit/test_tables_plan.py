"""Tables by name, what they need, and which of it has a record already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mask_rcnn_repro.config import config_root, get_config
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.paper import load_tables
from mask_rcnn_repro.records.record import InputRun, save_record
from mask_rcnn_tools.evidence.results import load_results, recorded_file, records_of
from mask_rcnn_tools.evidence.rows import all_rows, parent_of
from mask_rcnn_tools.tables import main
from mask_rcnn_tools.tables.choose import choose_rows, find_tables
from mask_rcnn_tools.tables.cli import parse_args
from mask_rcnn_tools.tables.cost import Device, estimate, format_seconds, simulate
from mask_rcnn_tools.tables.jobs import Job
from mask_rcnn_tools.tables.plan import make_plan
from mask_rcnn_tools.tables.usable_records import counts, find_records, find_valid, jobs_to_run

from .tables_helpers import job, record

EARLIER = config_root().parent / "results" / "earlier" / "mini_from_random_weights"


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("2c", ["2c"]),
        ("table2C", ["2c"]),
        ("Table 7", ["7"]),
        ("configs/table9/", ["9"]),
        ("text-4.2-class-agnostic", ["text-4.2-class-agnostic"]),
        ("class_agnostic", ["text-4.2-class-agnostic"]),
        ("section4_2", ["text-4.2-class-agnostic", "text-4.2-fpn-roipool"]),
        ("4.2", ["text-4.2-class-agnostic", "text-4.2-fpn-roipool"]),
        ("section 4.4", ["timing"]),
        ("2", ["2a", "2b", "2c", "2d", "2e"]),
        ("enhanced-r50", ["enhanced_r50"]),
    ],
)
def test_tables_by_any_name(name, tables):
    assert find_tables([name]) == tables


def test_several_tables_each_once():
    assert find_tables(["2c", "2b", "table2c"]) == ["2c", "2b"]
    every = find_tables(["all"])
    assert {"1", "9", "timing"} <= set(every)
    assert not {"rpn", "quickstart"} & set(every)


def test_an_unknown_table_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no table 'enhanced_r5O'. Did you mean enhanced_r50\?"):
        find_tables(["enhanced_r5O"])
    with pytest.raises(ConfigError, match=": 1, 2a, 2b"):
        find_tables(["x"])


def test_every_row_of_the_paper_that_is_ours_is_found():
    ours = {
        (table, row["row"])
        for table, content in load_tables().items()
        for row in content.get("rows", ())
        if not row.get("peer") and row["row"] != "mask branch overhead"
    }
    found = {row.key for row in all_rows()}
    assert {key for key in ours if key[0] != "timing"} <= found
    assert ("timing", "R101-C4 inference") in found


def test_rows_by_any_name():
    assert [r.config for r in choose_rows(["2c"], ["RoIPool max,roi_align_ave"])] == [
        "table2c/roi_pool_max",
        "table2c/roi_align_ave",
    ]
    named = choose_rows(["3"], ["Faster R-CNN, RoIAlign"])  # a comma of the paper's own
    assert [r.config for r in named] == ["table3/faster_rcnn_roi_align"]
    with pytest.raises(ConfigError, match="Did you mean table2c/roi_pool_max"):
        choose_rows(["2c"], ["roi_pol_max"])


def test_a_row_on_another_network_differs_as_its_counterpart():
    row = next(r for r in all_rows() if r.config == "enhanced_r50/e2e")
    assert row.control == parent_of("enhanced_r50/e2e") == "enhanced_r50/updated_baseline"
    assert row.difference_of == (("8", "+ e2e training"), ("8", "+ updated baseline"))
    assert row.numbers == {}


def plan_of(table, rows=(), seeds=(0,), overrides=()):
    return make_plan(choose_rows([table], rows), "tiny", seeds, overrides)


def names(jobs):
    return [j.name for j in jobs]


def test_stages_come_first_and_once():
    plan = plan_of("2b", seeds=(0, 1, 2))
    assert names(plan.jobs) == [
        "rpn/r50_c4 seed 0",
        "table2b/softmax seed 0",
        "table2b/sigmoid seed 0",
        "rpn/r50_c4 seed 1",
        "table2b/softmax seed 1",
        "table2b/sigmoid seed 1",
        "table2b/softmax seed 2",
        "table2b/sigmoid seed 2",
    ]
    stages = [j for j in plan.jobs if j.kind == "stage"]
    rows = [j for j in plan.jobs if j.kind == "row"]
    assert all(row.inputs == (("proposals", stages[row.seed % 2]),) for row in rows)
    assert stages[1].folder == Path("output/rpn/r50_c4@tiny/seed1")
    assert stages[1].arguments()[4:6] == ["--seed", "1"]
    assert rows[2].arguments() == [
        *("--config-file", "table2b/softmax", "--profile", "tiny", "--seed", "1", "--resume")
    ]


def test_the_seed_of_a_job_is_that_of_its_config():
    """Planning loads a config once for all seeds; its hash must be that of the loaded one."""
    plan = plan_of("2b", ["softmax"], seeds=(0, 3))
    own = get_config("table2b/softmax", "tiny", seed=3)
    job = plan.rows[0].jobs[3]
    assert (job.seed, job.cfg) == (3, own)


def test_stages_of_another_seed_can_be_named():
    plan = plan_of("2b", ["softmax"], seeds=(0, 1), overrides=("train.stage_seed=5",))
    assert [j.name for j in plan.jobs if j.kind == "stage"] == ["rpn/r50_c4 seed 5"]


def test_stages_of_stages_have_the_same_seed():
    """The model with shared features: four steps, whose RPN starts from a detector's backbone."""
    plan = plan_of("timing", ["r101_fpn_shared"], seeds=(1,))
    assert {j.seed for j in plan.jobs} == {1}
    assert len(plan.jobs) > 2


def test_equal_configs_run_once():
    rows = choose_rows(["2b"], ["sigmoid"]) + choose_rows(["2c"], ["roi_align_ave"])
    plan = make_plan(rows, "tiny", (0,))
    assert names(plan.jobs) == ["rpn/r50_c4 seed 0", "table2b/sigmoid seed 0"]
    assert plan.rows[0].jobs[0] is plan.rows[1].jobs[0]


def test_a_row_that_trains_nothing_has_the_seed_of_its_weights():
    plan = plan_of("enhanced_r50", ["test_aug"], seeds=(0, 3))
    assert names(plan.jobs) == [
        "enhanced_r50/non_local seed 0",
        "enhanced_r50/test_aug seed 0",
        "enhanced_r50/non_local seed 3",
        "enhanced_r50/test_aug seed 3",
    ]
    assert dict(plan.jobs[3].inputs)["init_from"] is plan.jobs[2]


def test_a_teacher_is_run_before_its_pupil():
    plan = plan_of("enhanced_r50", ["data_distillation"])
    pupil = plan.jobs[-1]
    teacher = dict(pupil.inputs)["teacher"]
    assert pupil.name == "enhanced_r50/data_distillation seed 0"
    assert plan.jobs.index(teacher) < plan.jobs.index(pupil)


def test_a_test_dev_row_is_measured_on_val_and_evaluated_for_the_server():
    plan = plan_of("3", ["faster_rcnn_roi_align", "table3/r101_fpn"], seeds=(0, 1))
    own, full = plan.rows
    # the row of table 2a is trained the same, and tested on val
    assert full.jobs[1].name == "table2a/r101_fpn seed 1"
    assert full.note == "val: table2a/r101_fpn"
    # there is no such row without masks: the row itself, on val
    assert own.jobs[0].overrides == ("dataloader.test.dataset.names=embedded_tiny_val",)
    (server,) = full.server.values()  # one upload is enough
    assert server.arguments()[6:] == [
        "--eval-only",
        "train.init_checkpoint=output/table2a/r101_fpn@tiny/seed0/model_final.pth",
        "train.output_dir=output/table3/r101_fpn@tiny/seed0/eval/test_dev",
    ]
    assert plan.jobs.index(server) > plan.jobs.index(full.jobs[0])


def test_overrides_make_other_runs_and_places_do_not():
    plain, changed, elsewhere = (
        plan_of("2b", ["softmax"], overrides=o)
        for o in ((), ("train.max_iter=7",), ("train.output_root=there", "train.num_threads=1"))
    )
    stage, row = changed.jobs
    assert row.hash != plain.jobs[1].hash
    assert row.folder.name.startswith("seed0-")
    assert stage.hash == plain.jobs[0].hash  # a stage has overrides of its own only
    assert [j.hash for j in elsewhere.jobs] == [j.hash for j in plain.jobs]
    assert elsewhere.jobs[0].folder == Path("there/rpn/r50_c4@tiny/seed0")
    assert elsewhere.jobs[0].overrides == ("train.output_root=there", "train.num_threads=1")


def test_each_row_has_its_own_seeds():
    rows = choose_rows(["2d"])
    plan = make_plan(rows, "tiny", {("2d", "RoIPool"): (0,), ("2d", "RoIAlign"): (0, 5)})
    assert [(row.row.name, *row.jobs) for row in plan.rows] == [("RoIPool", 0), ("RoIAlign", 0, 5)]
    assert plan.seeds == (0, 5)


@pytest.mark.slow
def test_records_count_as_they_do_for_the_results_page(tmp_path):
    """Real records of table 2c, told to be of its present configs.

    The page also shows runs on a stage of another seed than the rule's; a plan runs them again.
    """
    plan = make_plan(choose_rows(["2c"]), "mini", (0, 1, 2))
    jobs = {(job.config, job.seed): job for job in plan.jobs}
    stages = {
        key: InputRun(id=stage.config, hash=stage.hash, seed=0, checkpoint=None)
        for key, stage in jobs["table2c/roi_align_ave", 0].inputs
    }
    assert set(stages) == {"proposals", "init_from"}
    for made in load_results(EARLIER):
        if job := jobs.get((made.config.id, made.seed)):
            config = made.config.model_copy(update={"hash": job.hash})
            made = made.model_copy(update={"config": config, **stages})
            save_record(made, recorded_file(made.config.id, "mini", made.seed, tmp_path))
    found, records = find_records(Path("nowhere"), tmp_path), load_results(tmp_path)
    counting = 0
    for row in plan.rows:
        theirs = records_of(row.row.config, records).get("mini", {})
        ours = {s: f.record for s, j in row.jobs.items() if (f := find_valid(j, found))}
        by_rule = {s: r for s, r in theirs.items() if s < 3 and r.proposals.seed == s % 2}
        assert ours == by_rule
        counting += len(ours)
        assert set(theirs) - set(ours) <= {1}, "seed 1 stands on a stage of seed 0"
    assert counting >= 3


def saved(root, made, name="record.json", **changes):
    sources = {
        key: {"id": stage.config, "hash": stage.hash, "seed": stage.seed, "checkpoint": None}
        for key, stage in made.inputs
    }
    made.folder.mkdir(parents=True, exist_ok=True)
    facts = {"config__hash": made.hash, "seed": made.seed, **sources, **changes}
    save_record(record(**facts), root / made.folder / name)
    return root / made.folder / name


def test_what_has_a_record_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = plan_of("2b")
    stage, softmax, sigmoid = plan.jobs

    def to_run():
        return names(jobs_to_run(plan, find_records(Path("output"), None), False))

    assert to_run() == names([stage, softmax, sigmoid])
    saved(tmp_path, stage)
    assert to_run() == names([stage, softmax, sigmoid])  # its weights are not here
    stage.checkpoint.write_bytes(b"")
    assert to_run() == names([softmax, sigmoid])
    saved(tmp_path, softmax)
    assert to_run() == names([sigmoid])
    saved(tmp_path, sigmoid, iterations_done=3)
    assert to_run() == names([sigmoid])  # half a run
    saved(tmp_path, sigmoid)
    assert to_run() == []
    stage.checkpoint.unlink()
    assert to_run() == []  # nothing needs it any more


def test_a_record_on_another_stage_or_config_does_not_count(tmp_path):
    stage = job(tmp_path, "stage")
    row = job(tmp_path, "row", 1, inputs=(("proposals", stage),))
    known = {
        j["folder"]: j["record"]
        for j in json.loads((tmp_path / "folders.json").read_text()).values()
    }
    facts = known[str(row.folder)]

    def counting(**changes):
        return counts(row, record(**{**facts, **changes}))

    assert counting()
    assert not counting(config__hash="0" * 12)
    assert not counting(seed=2)
    assert not counting(proposals=None)
    assert not counting(proposals={**facts["proposals"], "hash": "0" * 12})
    assert not counting(proposals={**facts["proposals"], "seed": 7})


def test_a_broken_record_is_left_aside(tmp_path, caplog):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "record.json").write_text("{}")
    (tmp_path / "seed0.curves.json").write_text("{}")  # belongs to a record, and is none
    assert find_records(tmp_path, tmp_path) == []
    assert caplog.text.count("Left aside") == 2  # once as a run's, once as a collected one
    assert "curves" not in caplog.text


CPU = Device("cpu", "here")


def test_costs_come_from_the_nearest_records(tmp_path):
    made = job(tmp_path, "table2b/softmax")  # 8 iterations
    here = {"device__name": "here", "iterations_planned": 10, "iterations_done": 10}
    here["config__hash"] = "0" * 12  # stand-ins have the config, and so the hash, of `made`
    own = record(**here, training_seconds=30.0, config__id="table2b/softmax")
    folder = record(**here, training_seconds=50.0, config__id="table2b/sigmoid")
    other = record(**here, training_seconds=90.0, config__id="table6/roi_pool")
    elsewhere = record(training_seconds=16.0, config__id="table2b/softmax", device__name="there")
    assert estimate(made, [other, folder, own, elsewhere], CPU).seconds == pytest.approx(12 + 24)
    # a training that was continued or suspended has another time
    times = [record(**here, training_seconds=t, config__id="table2b/softmax") for t in (2, 500)]
    assert estimate(made, [own, *times], CPU).seconds == pytest.approx(12 + 24)
    assert estimate(made, [other, folder], CPU).seconds == pytest.approx(12 + 40)
    assert estimate(made, [other], CPU).source == "records at tiny"
    assert estimate(made, [elsewhere], CPU).source == "its own record on there"
    guess = estimate(made, [], CPU)
    assert guess.source == "guess: 0.2 s an iteration"
    assert guess.seconds == pytest.approx(12 + 8 * 0.2 + 8 * 0.1)
    streets = record(**here, training_seconds=90.0, train_data__name="cityscapes_fine_train")
    assert estimate(made, [streets], CPU).source == guess.source
    gpu = record(device__type="cuda", device__name="here", training_seconds=1.0)
    assert estimate(made, [gpu], CPU).source == guess.source


def test_an_rpn_stage_also_stores_proposals(tmp_path):
    """For its training and test images, which are those of records on the same data."""
    cfg = get_config("rpn/r50_fpn", "tiny")
    made = Job("stage", "rpn/r50_fpn", cfg, tmp_path)
    name = str(cfg.dataloader.train.dataset.names)
    images = {"train_data__name": name, "train_data__images": 60, "test_data__images": 10}
    half = {"data": 0.1, "inference": 0.3, "postprocess": 0.1, "total": 0.5}
    facts = {"config__id": made.config, "config__hash": made.hash, "seconds_per_image": half}
    here = {"device__name": "here", "iterations_planned": 10, "iterations_done": 10}
    own = record(**here, **images, **facts, training_seconds=30.0)
    training = 3.0 * cfg.train.max_iter
    assert estimate(made, [own], CPU).seconds == pytest.approx(12 + training + 0.5 * 70)
    assert estimate(made, [own], CPU, 2).seconds == pytest.approx(12 + (training + 0.5 * 70) / 2)
    guess = estimate(made, [], CPU).seconds
    assert guess == pytest.approx(12 + 0.2 * cfg.train.max_iter + 0.1 * (8 + 24))


def test_time_side_by_side(tmp_path):
    stage = job(tmp_path, "stage")
    rows = [job(tmp_path, f"r{i}", inputs=(("proposals", stage),)) for i in range(3)]
    seconds = {stage: 10.0, rows[0]: 5.0, rows[1]: 4.0, rows[2]: 3.0}
    assert simulate([stage, *rows], seconds, 1) == 22
    assert simulate([stage, *rows], seconds, 2) == 17  # 10, then 5 beside 4 + 3
    assert simulate(rows, seconds, 2, running={stage: 1.0}) == 8
    assert simulate([], {}, 3) == 0


def test_times_in_words():
    words = [format_seconds(s) for s in (4.4, 99, 700, 12000, 400000)]
    assert words == ["4 s", "99 s", "12 min", "3 h 20 min", "4.6 days"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "which table"),
        (["2c", "train.seed=1"], "use --seeds"),
        (["2c", "train.output_dir=x"], "use train.output_root"),
        (["2c", "--seeds", "0"], "1 to 100 seeds"),
        (["2c", "--seeds", "1,1"], "names a seed twice"),
        (["2c", "--seeds", "-1"], "neither a number of seeds"),
        (["2c", "--plan-seeds", "--show"], "exclude each other"),
        (["2c", "--plan-seeds", "train.max_iter=3"], "plans whole tables"),
        (["2c", "--jobs", "0"], "at least 1"),
        (["2c", "--gpus-per-row", "0"], "needs --slurm"),
        (["2c", "--show", "--dry-run"], "exclude"),
        (["2c", "--slurm-set", "time=3"], "needs --slurm"),
        (["2c", "--slurm", "--slurm-set", "time"], "KEY=VALUE"),
    ],
)
def test_mistakes_of_the_command_line(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args(argv)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_command_line():
    args = parse_args(
        ["2c", "train.max_iter=3", "2b", "--seeds", "0,7", "~model.x", "--rows", "a,b"]
    )
    assert (args.tables, args.overrides) == (["2c", "2b"], ["train.max_iter=3", "~model.x"])
    assert args.seeds == (0, 7)
    assert parse_args(["2c", "--seeds", "3"]).seeds == (0, 1, 2)
    assert parse_args(["2c", "--seeds", "3,"]).seeds == (3,)
    assert parse_args(["2c", "--seeds", "planned"]).seeds == ()


def slots_of(monkeypatch, *argv, gpus=4):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    overrides = [word for word in argv if "=" in word]
    plan = plan_of("2b", ["softmax"], overrides=overrides)
    return main._slots(plan, parse_args(["2b", *argv]))


def test_one_row_on_each_gpu(monkeypatch):
    device, slots = slots_of(monkeypatch)
    assert (device.type, device.name) == ("cuda", "Some GPU")
    assert [slot.gpus for slot in slots] == [("0",), ("1",), ("2",), ("3",)]
    _, slots = slots_of(monkeypatch, "--gpus-per-row", "2")
    assert [slot.gpus for slot in slots] == [("0", "1"), ("2", "3")]
    assert slots[1].environment() == {"CUDA_VISIBLE_DEVICES": "2,3"}
    _, slots = slots_of(monkeypatch, "--jobs", "1")
    assert [slot.gpus for slot in slots] == [("0",)]
    with pytest.raises(ConfigError, match="more than the 4 GPUs"):
        slots_of(monkeypatch, "--jobs", "5")


def test_cores_are_split_among_rows_on_the_cpu(monkeypatch):
    monkeypatch.setattr(main, "usable_cpus", lambda: 8)
    device, slots = slots_of(monkeypatch, "--jobs", "3", "train.device=cpu")
    assert device.type == "cpu"
    assert [slot.threads for slot in slots] == [2, 2, 2]
    _, slots = slots_of(monkeypatch, gpus=0)
    assert [slot.threads for slot in slots] == [None]  # a row alone decides for itself
    with pytest.raises(ConfigError, match=r"--gpus-per-row is 2, .*CPU"):
        slots_of(monkeypatch, "--gpus-per-row", "2", gpus=0)
