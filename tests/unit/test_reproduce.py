"""`run_table.py --reproduce`: whether runs here repeat the recorded ones."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from mask_rcnn_repro.config import get_config
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_tools.evidence.outcomes import BySeed
from mask_rcnn_tools.evidence.rows import Row
from mask_rcnn_tools.tables.cli import parse_args
from mask_rcnn_tools.tables.jobs import Job
from mask_rcnn_tools.tables.main import run
from mask_rcnn_tools.tables.plan import Plan, PlannedRow
from mask_rcnn_tools.tables.reproduce import (
    DIFFERS,
    Repetition,
    allowed_difference,
    check_recorded,
    compare_runs,
    format_repetitions,
    pooled_scatter,
    report_repetition,
)
from mask_rcnn_tools.tables.usable_records import Found

from .tables_helpers import QUICKSTART, record

ROOT = Path(__file__).resolve().parents[2]
RATES = {"RoIAlign ave": 0.1, "RoIPool max": 0.2}  # what makes their configs unlike


def by_seed(*values: float) -> BySeed:
    return BySeed(dict(enumerate(values)))


def test_scatter_is_pooled_over_rows():
    """Variances 2 and 8, one degree of freedom each: their mean is 5. One seed adds nothing."""
    rows = [by_seed(30.0, 32.0), by_seed(20.0, 24.0), by_seed(7.0)]
    assert pooled_scatter(rows) == (pytest.approx(math.sqrt(5)), 2)
    # variances 4 and 2, with two degrees and one: (2 * 4 + 1 * 2) / 3
    uneven = [by_seed(30.0, 32.0, 34.0), by_seed(1.0, 3.0)]
    assert pooled_scatter(uneven) == (pytest.approx(math.sqrt(10 / 3)), 3)
    assert pooled_scatter([by_seed(7.0)]) == (0.0, 0)


def test_allowed_difference_by_hand():
    """With two degrees of freedom t has a closed form: a * sqrt(2 / (1 - a^2)), a = 2 p - 1."""
    a = 1 - 0.05 / 2  # two comparisons: 2.5 % for both ends of each
    t = a * math.sqrt(2 / (1 - a * a))
    assert t == pytest.approx(6.2053, abs=1e-4)
    expected = t * math.sqrt(5) * math.sqrt(1 / 3 + 1 / 2)
    assert allowed_difference(math.sqrt(5), 2, 3, 2, 2) == pytest.approx(expected)
    # one degree of freedom is Cauchy's distribution: tan(pi * (p - 1/2)), p = 0.975
    one = math.tan(math.pi * 0.475) * 2.0 * math.sqrt(2)
    assert allowed_difference(2.0, 1, 1, 1, 1) == pytest.approx(one)


@functools.cache
def job(name: str, seed: int) -> Job:
    cfg = get_config(QUICKSTART, "tiny", [f"optimizer.lr={RATES[name]}"], seed=seed)
    return Job("row", name, cfg, Path("runs") / name / f"seed{seed}")


def plan_of(seeds: int = 3) -> Plan:
    rows = tuple(
        PlannedRow(Row("2c", name, name), {s: job(name, s) for s in range(seeds)}, {}, "x")
        for name in RATES
    )
    jobs = tuple(j for row in rows for j in row.jobs.values())
    return Plan(rows, jobs, "tiny", Path("output"), ())


def found(name: str, values: Mapping[int, float], *, local: bool, **changes: object) -> list[Found]:
    """Records with these mask APs by seed."""
    created = "2030-02-02T00:00:00Z" if local else "2030-01-01T00:00:00Z"
    made = []
    for seed, ap in values.items():
        metrics = {"segm": {"AP": ap, "per_class": {}}}
        facts = {"config__hash": job(name, seed).hash, "config__id": name, "seed": seed}
        one = record(**facts, metrics=metrics, created=created, **changes)
        made.append(Found(one, Path(f"{name}-{seed}-{local}.json"), local))
    return made


ALIGN, POOL = RATES
RECORDED = [
    *found(ALIGN, {0: 30.0, 1: 32.0, 2: 34.0}, local=False),
    *found(POOL, {0: 20.0, 1: 21.0, 2: 22.0}, local=False),
]


def here(align: float, pool: float, **changes: object) -> list[Found]:
    """Three seeds of each row around these means."""
    return [
        *found(ALIGN, {0: align - 1, 1: align, 2: align + 1}, local=True, **changes),
        *found(POOL, {0: pool - 1, 1: pool, 2: pool + 1}, local=True, **changes),
    ]


def test_rows_within_the_scatter_are_reproduced(capsys):
    """Variances 4 and 1 give 2.5 with four degrees of freedom; t (two comparisons) is 3.495.

    So means of three seeds each may differ by 3.495 * sqrt(2.5) * sqrt(2 / 3) = 4.51.
    """
    records = [*RECORDED, *here(36.5, 17.0)]
    check_recorded(plan_of(), records)
    align, pool = compare_runs(plan_of(), records)
    assert (align.row, align.metric) == (ALIGN, "segm/AP")
    assert align.difference == pytest.approx(4.5) and pool.difference == pytest.approx(-4.0)
    assert align.allowed == pool.allowed == pytest.approx(4.512, abs=1e-3)
    assert {align.verdict, pool.verdict} == {"reproduced"}
    assert report_repetition(plan_of(), records) == 0
    out = capsys.readouterr().out
    assert "Verdict: reproduced. All 2 means" in out
    line = next(line for line in out.splitlines() if line.startswith(ALIGN))
    assert re.split(r"\s{2,}", line) == [
        *(ALIGN, "mask AP", "32.0 ± 2.0", "36.5 ± 1.0", "+4.5", "±4.5", "0, 1, 2; 0, 1, 2"),
        "reproduced",
    ]


@pytest.mark.parametrize("pool", [16.4, 25.6])
def test_a_row_that_differs_is_named(capsys, pool):
    """In either direction: 4.6 is more than 4.51."""
    assert report_repetition(plan_of(), [*RECORDED, *here(32.0, pool)]) == DIFFERS == 3
    sentence = capsys.readouterr().out.splitlines()[-1]
    size = f"{pool - 21:+.1f}"
    assert sentence == f"Verdict: not reproduced. 1 of 2 differ: RoIPool max (mask AP {size})."


def test_other_test_data_are_no_repetition():
    data = {"name": "coco_val", "images": 3, "instances": 5}
    of_each = [{"test_data": {**data, "fingerprint": f"sha256:{d * 64}"}} for d in "ab"]
    recorded = [
        *found(ALIGN, {0: 30.0, 1: 32.0, 2: 34.0}, local=False, **of_each[0]),
        *found(POOL, {0: 20.0, 1: 21.0, 2: 22.0}, local=False, **of_each[0]),
    ]
    records = [*recorded, *here(32.0, 21.0, **of_each[1])]
    assert {item.verdict for item in compare_runs(plan_of(), records)} == {"other data"}
    assert report_repetition(plan_of(), records) == DIFFERS
    text = format_repetitions(compare_runs(plan_of(), records))
    assert "2 of 2 differ: RoIAlign ave (the runs' test data differ)" in text


def test_fewer_seeds_here_may_differ_by_more():
    (one, _) = compare_runs(plan_of(), [*RECORDED, *here(32.0, 21.0)])
    single = [*found(ALIGN, {0: 31.0}, local=True), *found(POOL, {0: 21.0}, local=True)]
    (other, _) = compare_runs(plan_of(), [*RECORDED, *single])
    assert other.allowed / one.allowed == pytest.approx(math.sqrt((1 / 3 + 1) / (2 / 3)))


def test_nothing_recorded_is_said_before_anything_is_run():
    with pytest.raises(ConfigError, match="nothing to compare with"):
        check_recorded(plan_of(), here(32.0, 21.0))
    message = r"counts for RoIPool max \(seed 1, 2\) at profile tiny"
    with pytest.raises(ConfigError, match=message):
        check_recorded(plan_of(), RECORDED[:4])


def test_too_few_seeds_have_no_scatter():
    few = [f for f in RECORDED if f.record.seed < 2]
    with pytest.raises(ConfigError, match=r"mask AP .* 2 degrees .* 4 are"):
        check_recorded(plan_of(2), few)


def test_the_recorded_run_itself_repeats_nothing():
    itself = Found(RECORDED[0].record, Path("output/record.json"), True)
    with pytest.raises(ConfigError, match=r"output/record\.json"):
        check_recorded(plan_of(), [*RECORDED, itself])


def test_the_boundary_belongs_to_the_allowed_differences():
    item = Repetition("a", "segm/AP", by_seed(30.0), by_seed(32.0), 2.0)
    assert item.verdict == "reproduced"
    assert Repetition("a", "segm/AP", by_seed(30.0), by_seed(32.0), 1.99).verdict == "differs"


@pytest.mark.parametrize("flag", ["--show", "--collect", "--plan-seeds", "--slurm"])
def test_flags_that_run_nothing_are_refused(flag, capsys):
    with pytest.raises(SystemExit):
        parse_args(["2c", "--reproduce", flag])
    assert "--reproduce runs rows here" in capsys.readouterr().err


def test_make_reproduce_is_such_a_command():
    makefile = (ROOT / "Makefile").read_text()
    recipe = re.search(r"^reproduce: .*\n\t.*run_table\.py (.*)$", makefile, re.MULTILINE)
    assert recipe is not None
    args = parse_args(recipe[1].replace("$(TABLE)", "2c").replace("$(JOBS)", "2").split())
    assert args.reproduce and args.tables == ["2c"] and args.jobs == 2
    assert (args.profile, args.seeds) == ("mini", (0, 1, 2))
    assert args.overrides == ["train.output_root=output/reproduce"], "never the recorded runs"


def test_the_command_stops_after_the_plan_where_nothing_is_recorded(tmp_path, capsys):
    words = ["2c", "--rows", "roi_pool_max", "--profile", "tiny", "--reproduce"]
    words += ["--results", str(tmp_path), f"train.output_root={tmp_path / 'runs'}"]
    with pytest.raises(ConfigError, match="Nothing was run"):
        run(parse_args(words))
    assert "table2c/roi_pool_max seed 0" in capsys.readouterr().out, "the plan and its cost"
    assert not (tmp_path / "runs").exists()
