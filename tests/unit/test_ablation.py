"""Own ablations: configs anywhere as rows, their controls, sweeps, claims and verdicts."""

from __future__ import annotations

import csv
import dataclasses
import io
import shlex
from pathlib import Path

import pytest

from mask_rcnn_repro.config import (
    config_hash,
    config_id,
    config_root,
    default_output_dir,
    load_config,
    save_config,
)
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.records.record import save_record
from mask_rcnn_tools.evidence import rows as rows_module
from mask_rcnn_tools.evidence.ablation_file import load_ablation, save_ablation
from mask_rcnn_tools.evidence.claims import Claim, Term
from mask_rcnn_tools.evidence.groups import short_keys
from mask_rcnn_tools.evidence.learning import bars
from mask_rcnn_tools.evidence.outcomes import Evidence
from mask_rcnn_tools.evidence.power import power, smallest_effect
from mask_rcnn_tools.evidence.rows import Expectation, stated_in
from mask_rcnn_tools.evidence.seed_plan import ScalePlan, Scatter, SeedPlan
from mask_rcnn_tools.evidence.sweep_plot import draw_sweep, numbers_of
from mask_rcnn_tools.evidence.verdicts import Planned, judge
from mask_rcnn_tools.report import figures, own_runs, scales
from mask_rcnn_tools.report.runs import load_runs
from mask_rcnn_tools.report.tables import rows_table
from mask_rcnn_tools.tables.ablation import Asked, finished_group, own_group
from mask_rcnn_tools.tables.choose import find_tables
from mask_rcnn_tools.tables.cli import parse_args
from mask_rcnn_tools.tables.expected_power import expected_power, known_scatter, power_note
from mask_rcnn_tools.tables.main import _groups, _plan_ablations, _this_command
from mask_rcnn_tools.tables.named import configs_in, find_named
from mask_rcnn_tools.tables.outcomes import table_outcomes
from mask_rcnn_tools.tables.plan import make_plan
from mask_rcnn_tools.tables.show import as_csv, as_json, format_outcome
from mask_rcnn_tools.tables.sweep import combinations, parse_sweep
from mask_rcnn_tools.tables.usable_records import find_records

from .tables_helpers import QUICKSTART, record
from .test_tables_outcome import save

FPN = "table2a/r50_fpn"

ROW = """\
{docstring}
from mask_rcnn_repro import get_config

_row = get_config("table2a/r50_fpn")
model, dataloader, train = _row.model, _row.dataloader, _row.train
optimizer, lr_multiplier = _row.optimizer, _row.lr_multiplier
{change}
"""


def write(file: Path, change: str = "", docstring: str = '"""A row."""') -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(ROW.format(docstring=docstring, change=change))
    return file


def ratio(value: int, more: str = "") -> str:
    return f"model.roi_heads.mask_pooler.sampling_ratio = {value}\n{more}"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my/s1.py", ratio(1))
    write(tmp_path / "my/s4.py", ratio(4))
    return tmp_path


def planned(*argv: str, profile: str = "tiny", seeds: int = 1):
    """The groups and the plan of a command line."""
    args = parse_args([*argv, "--profile", profile, "--seeds", str(seeds)])
    groups = _groups(args)
    plan = make_plan([r for g in groups for r in g.rows], profile, args.seeds, args.overrides)
    for place, group in enumerate(groups):
        if group.own:
            groups[place], plan = finished_group(group, plan)
    return groups, plan


def test_files_against_a_row_of_the_paper(here):
    (group,), plan = planned("my/s1.py", "my/s4", "--control", FPN, seeds=2)
    assert [(r.name, r.config, r.control) for r in group.rows] == [
        ("s1", "my/s1", FPN),
        ("s4", "my/s4", FPN),
        ("r50_fpn", FPN, None),
    ]
    assert group.table == "s1+s4"
    assert [(c.text, c.relation, c.metric, c.margin) for c in group.claims] == [
        ("s1 beats r50_fpn", "greater", "segm/AP", 0),
        ("s4 beats r50_fpn", "greater", "segm/AP", 0),
    ]
    jobs = [job.name for job in plan.jobs if job.kind == "row"]
    assert jobs == [f"{c} seed {s}" for s in (0, 1) for c in ("my/s1", "my/s4", FPN)]
    own = next(job for job in plan.jobs if job.config_id == "my/s1")
    assert own.config == str(here / "my/s1.py")  # what train_net.py is given
    assert own.folder == Path("output/my/s1@tiny/seed0")
    assert own.hash == config_hash(load_config(here / "my/s1.py", "tiny", seed=0))


def test_a_directory_holds_configs_beside_other_modules(here):
    (here / "my/parts.py").write_text("class Part: ...")
    write(here / "my/deeper/s8.py", ratio(8))
    write(here / "my/_draft.py", ratio(9))
    (here / "my/broken.py").write_text("model = (")
    assert [f.name for f in configs_in(here / "my")] == ["s8.py", "s1.py", "s4.py"]
    (group,), _ = planned("my")
    assert (group.table, [r.config for r in group.rows]) == ("my", ["deeper/s8", "my/s1", "my/s4"])
    assert group.claims == ()  # no control: numbers alone
    (here / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty holds no config: none of its 0"):
        find_named(["empty"])


def test_what_a_file_states_and_what_the_command_line_changes(here):
    stated = 'ablation = dict(control="s1.py", metric="bbox/AP75", expect="at_least", margin=0.5)'
    write(here / "my/s2.py", ratio(3, stated))
    (group,), _ = planned("my/s2.py")
    assert [r.config for r in group.rows] == ["my/s2", "my/s1"]  # the file beside it
    (claim,) = group.claims
    assert (claim.relation, claim.metric, claim.margin) == ("at least", "bbox/AP75", 0.5)
    assert claim.text == "s2 is no worse than s1"
    changed = ("--control", FPN, "--expect", "equal", "--metric", "segm/AP50")
    (group,), _ = planned("my/s2.py", *changed)
    (claim,) = group.claims
    assert (claim.relation, claim.metric, claim.margin) == ("nearly equal", "segm/AP50", 0.5)
    assert group.rows[0].control == FPN
    cfg, plain = load_config(here / "my/s2.py"), write(here / "my/plain.py", ratio(3))
    assert config_hash(cfg) == config_hash(load_config(plain))  # says what it is about, no more


def test_rows_of_the_paper_in_an_ablation_keep_their_numbers(here):
    (group,), plan = planned("table2c/roi_pool_max", "table2c/roi_align_ave")
    row, control = group.rows
    assert (row.table, row.name, row.control) == (group.table, "roi_pool_max", control.id)
    assert row.printed_number("segm/AP") == 26.9
    assert row.printed_difference("segm/AP") == pytest.approx(-3.4)
    assert len(plan.rows) == 2


def test_a_row_on_other_training_data_is_named_and_compared(here):
    """Data may be the experiment; only what is measured on must be shared."""
    write(here / "my/less.py", 'dataloader.train.dataset.names = "coco_2014_train"')
    (group,), plan = planned("my/less.py", "--control", FPN, profile="paper")
    assert group.note == "Trained on other data than the control: less."
    (outcome,) = table_outcomes(plan, (0,), [], groups=[group])
    assert group.note in format_outcome(outcome)


def test_a_saved_config_is_a_row(here):
    file = here / "kept" / "config.yaml"
    file.parent.mkdir()
    write(here / "my/s3.py", ratio(3, f'ablation = dict(control="{FPN}", expect="equal")'))
    save_config(load_config(here / "my/s3.py"), file)
    (group,), _ = planned("kept/config.yaml", profile="paper")
    assert [(r.config, r.control) for r in group.rows] == [("kept/config", FPN), (FPN, None)]
    assert group.claims[0].relation == "nearly equal"


def test_stages_write_where_the_file_of_their_row_says(here):
    """Each run is a process of its own, so that its command line has to say it."""
    stated = 'train.writers = ["csv"]\ntrain.output_root = "there"'
    write(here / "my/s3.py", ratio(3, stated))
    _, plan = planned("my/s3.py", "train.output_root=here")
    handed = ("train.output_root=here", 'train.writers=["csv"]')
    assert [job.overrides for job in plan.jobs] == [handed, ("train.output_root=here",)]
    _, plan = planned("my/s3.py")
    handed = ("train.output_root=there", 'train.writers=["csv"]')
    assert [job.overrides for job in plan.jobs] == [handed, ()]
    assert plan.jobs[0].folder.parts[0] == "there"


def test_tables_and_configs_side_by_side(here):
    groups, plan = planned("2b", "my/s1.py")
    assert [g.table for g in groups] == ["2b", "s1"]
    assert {p.row.table for p in plan.rows} == {"2b", "s1"}
    (group,), _ = planned("2b", "--rows", "softmax", "--control", "table2b/sigmoid")
    assert [r.name for r in group.rows] == ["softmax", "sigmoid"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["my/s1.py", "--control", "table2a/r50_fpm"], r"'table2a/r50_fpm' \(--control\).*r50_fpn"),
        (["my/s1.py", "--control", "my/nothing.py"], "does not exist"),
        (["my/s1.py", "--control", FPN, "--metric", "segm"], "not a task and a name"),
        (["my/s1.py", "--control", FPN, "--metric", "segm/ap75"], "Did you mean segm/AP75"),
        (["my/s1.py", "--control", FPN, "--metric", "keypoints/AP"], "has no .*keypoint_head"),
        (["my/s1.py", "--control", "table7/fine"], "differ in the evaluation"),
        (["my/s1.py", "my/same.py", "--control", "my/same.py"], "are one config at the profile"),
        (["my/s1.py", "--control", "common/models"], "is not known"),
        (["s11"], "There is no table 's11'"),
        (["r50_fpm"], "Configs of such a name: .*table2a/r50_fpn"),
        (["my/s1.py", "--rows", "s2"], "no row 's2' here"),
        (["my/row.py"], "The paper has no row of table 2c 'mine'"),
        (["my/table.py"], "The paper has no table 'mine'.*write ablation = dict"),
        (["my/expect.py"], r"ablation.expect must be one of greater, equal, at_least, got 'more'"),
        (["my/margin.py"], "ablation.margin must be 0 or more points, got -1"),
        (["my/key.py"], r"my/key\.py: ablation has no key 'metrik'\. Did you mean 'metric'\?"),
        (["my/keys.py"], "no row of table 2c 'mine'.*no key 'metrik'.*no key 'expekt'"),
        (["my/s1.py", "other/my/s1.py"], "have the same id, my/s1"),
        ([FPN, "--sweep", "optimizer.lrr=1,2"], "Did you mean 'optimizer.lr'"),
        ([FPN, "--sweep", "optimizer.lr=1,"], "not in Hydra's syntax"),
    ],
)
def test_mistakes_are_answered_when_planned(here, argv, message):
    write(here / "my/same.py", ratio(1))
    write(here / "other/my/s1.py", ratio(3))
    for name, section in {
        "row": 'paper = dict(table="2c", row="mine")',
        "table": 'paper = dict(table="mine", row="x")',
        "expect": 'ablation = dict(expect="more")',
        "margin": "ablation = dict(margin=-1)",
        "key": 'ablation = dict(metrik="segm/AP")',
        "keys": 'paper = dict(table="2c", row="mine")\nablation = dict(metrik="a", expekt="b")',
    }.items():
        write(here / f"my/{name}.py", section)
    with pytest.raises(ConfigError, match=message):
        planned(*argv)


def test_a_config_with_a_table_of_its_own_disturbs_no_other_command(tmp_path, monkeypatch):
    """Below configs/, every command reads every file: an unknown table, a syntax error."""
    files = {
        "mine/a": 'paper = dict(table="mine", row="x", control="table2a/r50_fpn")',
        "mine/b": 'paper = dict(table="2a", row="R50-FPN", control="table2a/r50_fpn")',
        "mine/c": "paper = dict(",
        "mine/d": 'ablation = dict(control="mine/a", expect="equal")',
        "table2a/r50_fpn": 'paper = dict(table="2a", row="R50-FPN")',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(rows_module, "config_root", lambda: tmp_path)
    monkeypatch.setattr(rows_module, "list_configs", lambda: sorted(files))
    rows = {row.config: row for row in rows_module.all_rows.__wrapped__()}
    assert list(rows) == ["table2a/r50_fpn", "mine/a", "mine/b", "mine/c", "mine/d"]
    assert [row.key for row in rows.values()][:3] == [
        ("2a", "R50-FPN"),
        ("mine", "a"),
        ("mine", "b"),  # beside the row of that name, with the paper's numbers
    ]
    assert rows["mine/b"].numbers == rows["table2a/r50_fpn"].numbers != {}
    assert "has no table 'mine'" in rows["mine/a"].problem
    assert "cannot be read" in rows["mine/c"].problem
    assert rows["mine/d"].expectation == Expectation(expect="equal")
    assert rows["mine/d"].problem == ""


def test_ids_of_files_elsewhere(tmp_path):
    assert config_id(tmp_path / "a/x.py") == "a/x"
    assert config_id(tmp_path / "b/x.py") == "b/x"
    copy = tmp_path / "mine/table2a/r50_fpn.py"
    copy.parent.mkdir(parents=True)
    copy.write_text("")
    assert config_id(copy) == "mine/table2a/r50_fpn"
    assert config_id(config_root() / "table2a/r50_fpn.py") == FPN


def test_sections_may_be_written_as_a_mapping(tmp_path):
    file = tmp_path / "x.py"
    file.write_text('"""Two\nlines."""\nablation = {"control": "a", "margin": None}\n')
    stated = stated_in(file)
    assert (stated.ablation, stated.summary) == ({"control": "a"}, "Two lines.")


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["a=1,2"], ["a=1", "a=2"]),
        (["a=1,2", "b=x,y"], ["a=1 b=x", "a=1 b=y", "a=2 b=x", "a=2 b=y"]),
        (["a=range(1,4)"], ["a=1", "a=2", "a=3"]),
        (["a=range(0.1,0.5,0.1)"], ["a=0.1", "a=0.2", "a=0.3", "a=0.4"]),
        (["a=[1,2],[3]"], ["a=[1,2]", "a=[3]"]),
        (["a=choice(p,q)"], ["a=p", "a=q"]),
        (["a=1,1,2"], ["a=1", "a=2"]),
        (["a=1e-3,null"], ["a=0.001", "a=null"]),
        (["a=5"], ["a=5"]),
        (["+a=1,2"], ["+a=1", "+a=2"]),
    ],
)
def test_sweeps_in_hydras_syntax(texts, found):
    assert [" ".join(each) for each in combinations(parse_sweep(texts))] == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=interval(0,1)", "give values"),
        ("a=range(3,3)", "empty range"),
        ("~a", "deleted"),
        ("a=glob(*)", "Hydra's syntax"),
        ("=1,2", "Hydra's syntax"),
    ],
)
def test_sweeps_that_cannot_be_run(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_sweep([text])
    with pytest.raises(ConfigError, match="names a twice"):
        parse_sweep(["a=1", "a=2"])


def test_a_sweep_is_a_table_with_a_column_a_key(here):
    """0, 1 and 2 samples; the row itself takes 2, so that combination is the control."""
    key = "model.roi_heads.mask_pooler.sampling_ratio"
    (group,), plan = planned(FPN, "--sweep", f"{key}=0,1,2")
    assert [dict(r.settings)[key] for r in group.rows] == ["0", "1", "2"]
    assert [r.control for r in group.rows] == [f"{FPN} {key}=2"] * 2 + [None]
    assert [c.text for c in group.claims] == [
        f"r50_fpn sampling_ratio={n} beats r50_fpn sampling_ratio=2" for n in (0, 1)
    ]
    assert len([job for job in plan.jobs if job.kind == "row"]) == 3
    # not among the values: the row as it is comes on top
    (group,), plan = planned(FPN, "--sweep", f"{key}=1,4", "optimizer.lr=0.5,0.25")
    assert [[v for _, v in r.settings] for r in group.rows][-2:] == [["4", "0.25"], ["2", "0.001"]]
    assert {r.control for r in group.rows[:-1]} == {FPN}
    # combinations that are equal once resolved are one run
    (group,), plan = planned(FPN, "--sweep", "optimizer.lr=0.5,0.50,5e-1", "train.eval_period=0,0")
    assert len([job for job in plan.jobs if job.kind == "row"]) == 2
    assert short_keys(["a.b.x", "a.c.x", "y"]) == ["b.x", "c.x", "y"]


@pytest.mark.parametrize(
    ("relation", "margin", "values", "verdict"),
    [
        # mean 1, s = 0.1: 1 +- 2.920 * 0.1 / sqrt(3) = [0.83, 1.17]
        ("greater", 0.0, (0.9, 1.0, 1.1), "confirmed"),
        ("greater", 0.8, (0.9, 1.0, 1.1), "confirmed"),
        ("greater", 0.9, (0.9, 1.0, 1.1), "undecided"),
        ("greater", 1.2, (0.9, 1.0, 1.1), "contradicted"),
        ("at least", 0.5, (-0.1, 0.0, 0.1), "confirmed"),
        ("at least", 0.1, (-0.1, 0.0, 0.1), "undecided"),
        ("at least", 0.5, (-0.9, -1.0, -1.1), "contradicted"),
        ("at least", 0.5, (9.9, 10.0, 10.1), "confirmed"),
        ("nearly equal", 0.5, (-0.1, 0.0, 0.1), "confirmed"),
        ("greater", 0.0, (0.9, 1.0), "interim"),
    ],
)
def test_verdicts_on_own_rows_by_hand(relation, margin, values, verdict):
    found = judge(relation, dict(enumerate(values)), Planned(3, None), effect=None, margin=margin)
    assert found.verdict == verdict


def test_the_smallest_effect_has_the_power():
    for relation, margin in (("greater", 0.0), ("greater", 0.5), ("at least", 0.5)):
        effect = smallest_effect(relation, 0.7, 4, image_sd=0.2, margin=margin)
        assert power(relation, effect, 0.7, 4, image_sd=0.2, margin=margin) == pytest.approx(0.8)


def test_the_power_is_estimated_before_the_runs():
    """Four rows of two seeds with differences of 1 scatter by sqrt(1/2), with 4 degrees."""
    rows = [
        record(
            config__id=f"x/{row}",
            config__profile="mini",
            config__hash=f"{row}{seed}" * 6,
            seed=seed,
            metrics={"segm": {"AP": 30.0 + row + seed, "per_class": {}}},
        )
        for row in range(4)
        for seed in range(2)
    ]
    (scatter, source) = known_scatter(["segm/AP"], "mini", rows, (), SeedPlan())["segm/AP"]
    assert (scatter.seed_sd, scatter.degrees, source) == (0.707, 4, "all rows at mini")
    own = {r.config.hash for r in rows}
    assert known_scatter(["segm/AP"], "mini", rows, own, SeedPlan())["segm/AP"][1] == "these rows"
    assert known_scatter(["segm/AP"], "mini", rows[:6], own, SeedPlan()) == {}
    assert known_scatter(["segm/AP"], "tiny", rows, own, SeedPlan()) == {}
    planned = Scatter(seed_sd=1.0, degrees=9, image_sd=0.5, runs={})
    scale = ScalePlan(wanted_power=0.8, most_seeds=8, error=0.05, scatter={}, claims=[])
    scale = scale.model_copy(update={"scatter": {"segm/AP": planned}})
    fixed = SeedPlan(profiles={"mini": scale})
    scatters = known_scatter(["segm/AP", "bbox/AP"], "mini", rows, (), fixed)
    assert scatters == {"segm/AP": (planned, "plan.json")}

    terms = (Term(1, "t", "a", "segm/AP"), Term(-1, "t", "b", "segm/AP"))
    claim = Claim("a", "a beats b", "greater", "segm/AP", None, terms, own_margin=0.0)
    text = expected_power(claim, 5, scatters)
    least = smallest_effect("greater", 2**0.5, 5, image_sd=0.5, margin=0.0)
    assert text == f"80 % from +{least:.1f}"
    assert power("greater", least, 2**0.5, 5, image_sd=0.5) == pytest.approx(0.8, abs=1e-3)
    equal = dataclasses.replace(claim, relation="nearly equal", own_margin=3.0)
    reached = power("nearly equal", 0.0, 2**0.5, 5, image_sd=0.5, margin=3.0)
    assert expected_power(equal, 5, scatters) == f"{100 * reached:.0f} % if equal"
    assert expected_power(claim, 2, scatters) == "no verdict below 3 seeds"
    assert expected_power(claim, 5, {}) == "not known"
    note = power_note(["segm/AP", "bbox/AP"], scatters)
    assert "1.00 mask AP over seeds (plan.json, 9 degrees of freedom)" in note
    assert "The power in box AP is not known" in note


def test_an_ablation_by_hand(here):
    """s1 31, 33, 32 against 30, 31, 32: +1, +2, 0; s4 at least: -1, -1.1, -0.9."""
    stated = 'ablation = dict(expect="at_least", margin=0.5)'
    write(here / "my/s4.py", ratio(4, stated))
    (group,), plan = planned("my", "--control", FPN, profile="mini", seeds=3)
    values = {"s1": (31, 33, 32), "s4": (29, 29.9, 31.1), "r50_fpn": (30, 31, 32)}
    for p in plan.rows:
        for seed, job in p.jobs.items():
            save(job, segm_AP=float(values[p.row.name][seed]), bbox_AP=40.0)
    groups = [group]
    ((ablation, folder),) = _plan_ablations(groups, plan, (0, 1, 2))
    records = find_records(Path("output"), None)
    (outcome,) = table_outcomes(plan, (0, 1, 2), records, groups=groups)
    better, worse = outcome.claims
    assert isinstance(better, Evidence)
    assert better.by_seed == {0: 1.0, 1: 2.0, 2: 0.0}
    # mean 1, s = 1: 1 +- 2.920 / sqrt(3)
    assert better.interval == pytest.approx((1 - 1.686, 1 + 1.686), abs=1e-3)
    assert (better.verdict, worse.verdict) == ("undecided", "contradicted")
    text = format_outcome(outcome)
    assert "Ablation my" in text
    assert "mask AP  33.6     31.0 ± 1.0" in text  # the control is a row of the paper
    assert "+1.0 [-0.7, +2.7]" in text
    assert "no worse (less by at most 0.5)" in " ".join(text.split())
    assert as_json(outcome)["rows"][0]["numbers"][0]["difference"] == pytest.approx(1)
    assert "+1.0, +2.0, +0.0" in text
    # what is measured, for data frames
    table = list(csv.DictReader(io.StringIO(as_csv([outcome]))))
    assert len(table) == 3 * 3 * 2  # rows, seeds, metrics
    (line,) = [r for r in table if (r["row"], r["seed"], r["metric"]) == ("s1", "1", "segm/AP")]
    assert (line["value"], line["control"], line["difference"]) == ("33.0", "31.0", "2.0")
    # the number of seeds is fixed by the first command with three or more
    assert save_ablation(ablation, folder) == Path("output/tables/my@mini/ablation.json")
    assert load_ablation(folder / "ablation.json") == ablation
    for seeds in ((0,), (0, 1, 2, 3, 4)):
        ((later, _),) = _plan_ablations([group], plan, seeds)
        assert [e.seeds for e in later.expected] == [3, 3]
    ((first, _),) = _plan_ablations([dataclasses.replace(group, table="x")], plan, (0, 1))
    assert [e.seeds for e in first.expected] == [None, None]
    assert first.group().planned == {}
    # a report knows the runs from the file alone
    known = [found.record for found in records]
    row = ablation.group().rows[0]
    assert (row.name, sorted(ablation.runs_of(row, known))) == ("s1", [0, 1, 2])
    assert ablation.group().claims == group.claims


def test_two_versions_of_the_code_are_named(here):
    (group,), plan = planned("my/s1.py", "--control", FPN, profile="mini", seeds=1)
    for p, commit in zip(plan.rows, ("a" * 40, "b" * 40), strict=True):
        save(p.jobs[0], {"code": {"commit": commit, "dirty": False}}, segm_AP=1.0)
    records = find_records(Path("output"), None)
    (outcome,) = table_outcomes(plan, (0,), records, groups=[group])
    text = format_outcome(outcome)
    assert "The runs are of 2 versions of the code:\n- aaaaaaaaa, torch" in text
    assert ": r50_fpn seed 0." in text.partition("- bbbbbbbbb")[2]
    assert list(as_json(outcome)["versions"].values()) == [["s1 seed 0"], ["r50_fpn seed 0"]]


def test_a_report_shows_a_sweep_from_its_records_alone(here):
    """0 gives 28, 29, 30 and 1 gives 30, 31, 32; the row as it is, with 2, gives 31, 32, 33."""
    key = "model.roi_heads.mask_pooler.sampling_ratio"
    (group,), plan = planned(FPN, "--sweep", f"{key}=0,1,2", profile="mini", seeds=3)
    for p in plan.rows:
        first = {"0": 28.0, "1": 30.0, "2": 31.0}[dict(p.row.settings)[key]]
        for seed, job in p.jobs.items():
            save(job, segm_AP=first + seed)
    ((ablation, folder),) = _plan_ablations([group], plan, (0, 1, 2))
    save_ablation(ablation, folder)
    runs = load_runs([Path("output")])
    (found,) = scales.own_ablations(runs, "mini", set())
    assert found == ablation
    table = scales._own_table(found, runs)
    lines = [[cell.text for cell in line] for line in rows_table(table).lines]
    assert [line[:4] for line in lines] == [
        ["r50_fpn", "0", "mask", "29.0 ± 1.0"],
        ["r50_fpn", "1", "mask", "31.0 ± 1.0"],
        ["r50_fpn", "2", "mask", "32.0 ± 1.0"],
    ]
    assert [e.by_seed for e in table.claims] == [dict.fromkeys(range(3), -d) for d in (3.0, 1.0)]
    assert [value for value, _ in numbers_of(table, key)] == [0, 1, 2]
    svg = draw_sweep(table, key)
    assert svg is not None and key in svg and "mask AP, %" in svg
    assert next(f.name for f in figures._of_table(table)).endswith("-sweep-0.svg")
    one = dataclasses.replace(table, rows=table.rows[:1])
    assert draw_sweep(one, key) is None


def test_a_report_finds_the_control_of_runs_without_a_plan(here):
    """Trained by train_net.py: config.yaml beside the record says what it is compared with."""
    stated = 'ablation = dict(control="../configs/table2a/r50_fpn.py", expect="equal", margin=1.5)'
    write(here / "my/s3.py", ratio(3, stated))
    _, plan = planned("my/s3.py", "my/s1.py", "--control", FPN, profile="mini", seeds=2)
    for p in plan.rows:
        for seed, job in p.jobs.items():
            save(job, segm_AP=30.0 + seed)
            save_config(load_config(p.row.source, "mini", seed=seed), job.folder / "config.yaml")
    runs = load_runs([Path("output")])
    (found,) = scales.own_ablations(runs, "mini", set())
    assert (found.table, [row.name for row in found.rows]) == (
        "my",
        ["my/s1", "my/s3", "table2a/r50_fpn"],
    )
    table = scales._own_table(found, runs)
    (evidence,) = table.claims
    assert evidence.by_seed == {0: 0.0, 1: 0.0}
    assert (evidence.claim.relation, evidence.claim.margin) == ("nearly equal", 1.5)
    assert (evidence.verdict, evidence.planned) == ("interim", None)
    assert "--seeds 3 or more" in evidence.reason
    # rows of the project show these runs themselves
    known = {(r.config.hash, r.seed) for r in runs.records if r.config.id == FPN}
    assert len(scales.own_ablations(runs, "mini", known)) == 1
    assert scales.own_ablations(runs, "tiny", known) == []


def run_once(config: str, overrides: list[str], value: float, digest: str = "") -> None:
    """As `train_net.py` leaves a run at `tiny`: its record, and its config beside it."""
    cfg = load_config(config, "tiny", overrides)
    made = record(
        config__id=config,
        config__hash=digest or config_hash(cfg),
        config__overrides=["train.output_root=output", *reversed(overrides)],
        metrics={"segm": {"AP": value, "per_class": {}}},
        iterations_planned=cfg.train.max_iter,
        iterations_done=cfg.train.max_iter,
    )
    folder = Path(default_output_dir(config, "tiny", 0, overrides))
    save_record(made, folder / "record.json")
    save_config(cfg, folder / "config.yaml")


def test_a_report_shows_rows_of_the_project_with_overrides(here):
    key, lr = "model.roi_heads.mask_head.num_conv", "optimizer.lr=0.0005"
    run_once(QUICKSTART, [], 30.0)
    run_once(QUICKSTART, [f"{key}=2"], 31.0)
    run_once(QUICKSTART, [lr, f"{key}=2"], 28.0)
    run_once(QUICKSTART, [f"{key}=3"], 1.0, digest="0" * 12)  # its config has changed since
    run_once("table2b/softmax", [lr], 20.0)
    run_once("table2b/sigmoid", [lr], 25.0)
    runs = load_runs([Path("output")])
    known = {(r.config.hash, r.seed) for r in runs.records if len(r.config.overrides) == 1}
    first, second = scales.own_ablations(runs, "tiny", known)
    assert (first.table, first.title) == (
        "quickstart-overridden",
        "Runs of quickstart with key=value",
    )
    assert {row.name: row.control for row in first.rows} == {
        f"{QUICKSTART} num_conv=2": QUICKSTART,
        QUICKSTART: None,
        f"{QUICKSTART} num_conv=2 lr=0.0005": QUICKSTART,
    }
    assert {row.name: row.control for row in second.rows} == {
        "table2b/sigmoid lr=0.0005": None,
        "table2b/softmax lr=0.0005": f"table2b/sigmoid {lr}",  # with the same overrides
    }
    differences = [e.by_seed for a in (first, second) for e in scales._own_table(a, runs).claims]
    assert sorted(differences, key=str) == [{0: -2.0}, {0: -5.0}, {0: 1.0}]
    one, two = (f"model.roi_heads.{head}.num_conv=3" for head in ("box_head", "mask_head"))
    assert own_runs._names([(FPN, one), (FPN, two)]) == {
        (FPN, one): f"{FPN} {one}",
        (FPN, two): f"{FPN} {two}",
    }


def test_curves_as_characters():
    assert bars([0, 1, 2, 3, 4, 5, 6, 7], 0, 7) == "▁▂▃▄▅▆▇█"
    assert bars([5, 5], 5, 5) == "▁▁"
    assert bars([], 0, 1) == ""
    assert bars([0, 0, 1, 1], 0, 1, width=2) == "▁█"


@pytest.mark.parametrize(
    "words",
    [
        "my/s1.py --control table2a/r50_fpn --margin 0.5 --expect equal --metric segm/AP50 "
        "--seeds 2 --sweep optimizer.lr=1,2",
        "2c 2d --seeds planned --profile mini --rows roi_align_ave,roi_pool_max train.max_iter=3 "
        "--results there --all-metrics",
    ],
)
def test_the_command_is_repeated_as_it_was(here, words):
    """By the Slurm job that prints the table, and in `table.json`."""
    args = parse_args(shlex.split(words))
    again = parse_args(_this_command(args)[2:])
    assert vars(again) == vars(args)


def test_names_of_tables_stay_those_of_the_paper(here):
    """A directory of one's own takes the place of no table."""
    (here / "2c").mkdir()
    write(here / "2c/x.py", ratio(1))
    assert find_named(["2c"]) == (["2c"], [])
    assert [r.config for r in find_named(["./2c"])[1]] == ["2c/x"]
    assert find_named(["configs/table2c"]) == (find_tables(["2c"]), [])
    assert find_named([FPN])[1][0].config == find_named([f"configs/{FPN}.py"])[1][0].config == FPN
    assert own_group(find_named([FPN])[1], Asked()).rows[0].control is None
