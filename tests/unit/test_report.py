"""Reports: what is worked out from records, plots, and pages that say it without a blank."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest

from mask_rcnn_repro.errors import RecordError
from mask_rcnn_repro.records.curves import Curves, TaskCurves, record_identity, save_curves
from mask_rcnn_repro.records.record import load_record, save_record
from mask_rcnn_tools.common.markdown import wrap_prose
from mask_rcnn_tools.common.plot_style import MUTED, inline_svg, same_plot
from mask_rcnn_tools.evidence.claims import claims_to_test
from mask_rcnn_tools.evidence.learning import mean_curve
from mask_rcnn_tools.evidence.outcomes import BySeed, claims_table
from mask_rcnn_tools.evidence.rows import Row
from mask_rcnn_tools.evidence.seed_plan import SeedPlan, measure_scatter, plan_claims, save_plan
from mask_rcnn_tools.report import scales
from mask_rcnn_tools.report.claim_summary import chance, expected_false
from mask_rcnn_tools.report.cli import parse_args
from mask_rcnn_tools.report.examples import Examples, Picture, load_examples
from mask_rcnn_tools.report.figures import build_report
from mask_rcnn_tools.report.main import run as run_tool
from mask_rcnn_tools.report.markdown import format_records_index, format_results_page
from mask_rcnn_tools.report.page import format_html_page
from mask_rcnn_tools.report.runs import curves_file, key_of, load_runs, record_file
from mask_rcnn_tools.report.scales import build_scales
from mask_rcnn_tools.report.tables import rows_table

ROOT = Path(__file__).resolve().parents[2]
EARLIER = ROOT / "results" / "earlier" / "mini_from_random_weights"
TEMPLATE = EARLIER / "table2c" / "roi_align_ave@mini" / "seed0.json"

PAIRS = [
    (("2c", "RoIPool max"), ("2c", "RoIAlign ave")),
    (("2d", "RoIPool"), ("2d", "RoIAlign")),
]
ROWS = [
    Row(*PAIRS[0][0], "table2c/roi_pool_max", "table2c/roi_align_ave", PAIRS[0]),
    Row(*PAIRS[0][1], "table2c/roi_align_ave"),
    Row(*PAIRS[1][0], "table2d/roi_pool", "table2d/roi_align", PAIRS[1]),
    Row(*PAIRS[1][1], "table2d/roi_align"),
]


def make(config, seed, ap, box=30.0, profile="mini", **changes):
    """A record of a run with this mask AP."""
    content = load_record(TEMPLATE).model_dump()
    content["config"] |= {"id": config, "profile": profile, "hash": f"{abs(hash(config)):016x}"}
    content |= {"seed": seed, "created": f"2026-01-0{seed + 1}T00:00:00Z"}
    content["metrics"] = {
        "bbox": {"AP": box, "AP50": 50.0, "AP75": 30.0, "per_class": {"mug": box, "<cup>": 1.0}},
        "segm": {"AP": ap, "AP50": 2 * ap, "AP75": None, "per_class": {"mug": ap, "<cup>": 2.0}},
    }
    return type(load_record(TEMPLATE)).model_validate(content | changes)


def curves(record, **changes):
    """Curves of a record."""
    falling = np.linspace(1, 0, 101).round(4).tolist()
    steps = range(20, 1001, 20)
    content = {
        "schema_version": 1,
        "record": record_identity(record),
        "training": {"total_loss": [(i, 2.0 - i / 1000) for i in steps], "lr": [(20, 0.1)]},
        "evaluations": {"segm/AP": [(1000, 30.0)]},
        "precision_recall": {
            "segm": TaskCurves(
                mean=falling, at_50=falling, per_class_at_50={"mug": falling, "<cup>": None}
            )
        },
    }
    return Curves(**{**content, **changes})


@pytest.fixture
def known(monkeypatch):
    """Records are told to their rows by the config's name, without loading configs."""

    def records_of(config, records):
        found = {}
        for r in records:
            if r.config.id == config and r.iterations_done == r.iterations_planned:
                found.setdefault(r.config.profile, {})[r.seed] = r
        return found

    def state(config, records, profile):
        return next(
            (
                f"partial: {100 * r.iterations_done // r.iterations_planned} % of the schedule"
                for r in records
                if r.config.id == config and r.config.profile == profile
            ),
            "not run",
        )

    monkeypatch.setattr(scales, "records_of", records_of)
    monkeypatch.setattr(scales, "state_without_result", state)


@pytest.fixture
def records():
    """Two seeds of 2c, 12 % of a row of 2d, nothing of the other."""
    return [
        make("table2c/roi_pool_max", 0, 24.0),
        make("table2c/roi_pool_max", 1, 25.0),
        make("table2c/roi_align_ave", 0, 30.0),
        make("table2c/roi_align_ave", 1, 32.0),
        make("table2d/roi_align", 0, 9.0, iterations_done=120, iterations_planned=1000),
    ]


@pytest.fixture
def folder(tmp_path, records):
    """The records as they are committed, with curves of two and examples of one."""
    folder = tmp_path / "results"
    for record in records:
        save_record(record, record_file(record, folder))
    for record in records[::2]:
        save_curves(curves(record), curves_file(record, folder))
    save_plan(SeedPlan(), folder)
    examples = folder / "table2c" / "roi_align_ave@mini" / "seed0.examples"
    examples.mkdir()
    cv2.imwrite(str(examples / "7.jpg"), np.full((40, 80, 3), 200, np.uint8))
    manifest = Examples(
        schema_version=1,
        record=record_identity(records[2]),
        dataset="embedded_val",
        score_threshold=0.5,
        pictures=[Picture(file="7.jpg", image_id=7, width=80, height=40)],
    )
    (examples / "examples.json").write_text(manifest.model_dump_json())
    return folder


@pytest.fixture
def report(folder, known):
    return build_report(ROWS, load_runs([folder]))


def texts(table):
    return [[cell.text for cell in line] for line in table.lines]


def test_what_lies_beside_records_is_found_by_the_run_that_it_is_of(folder, records):
    runs = load_runs([folder])
    assert sorted(map(key_of, runs.records)) == sorted(map(key_of, records))
    assert runs.curves_of(records[0]).record == record_identity(records[0])
    assert runs.curves_of(records[1]) is None
    where, examples = runs.examples_of(records[2])
    assert (where / examples.pictures[0].file).is_file()
    again = records[0].model_copy(update={"created": "2026-05-01T00:00:00Z"})
    assert runs.curves_of(again) is None, "curves of an earlier run of that seed"
    assert load_runs([folder, folder]).records == runs.records, "each counts once"
    with pytest.raises(RecordError, match="no folder"):
        load_runs([folder / "absent"])


def test_runs_are_found_as_they_lie_in_their_folders(tmp_path, records):
    run = tmp_path / "output" / "table2c" / "roi_align_ave@mini" / "seed0"
    save_record(records[2], run / "record.json")
    save_curves(curves(records[2]), run / "curves.json")
    (run / "inputs.json").write_text("{}")  # such files are no records
    runs = load_runs([tmp_path / "output"])
    assert runs.records == [records[2]]
    assert runs.curves_of(records[2]) is not None


def test_a_missing_picture_or_a_broken_manifest_is_told(folder):
    manifest = folder / "table2c" / "roi_align_ave@mini" / "seed0.examples" / "examples.json"
    (manifest.parent / "7.jpg").unlink()
    with pytest.raises(RecordError, match=r"not there: 7\.jpg"):
        load_examples(manifest)
    content = json.loads(manifest.read_text())
    content["pictures"][0]["file"] = "../../secret.jpg"
    manifest.write_text(json.dumps(content))
    with pytest.raises(RecordError, match="no manifest"):
        load_runs([folder])


def test_rows_stand_beside_the_paper_with_their_spread(report):
    mini = next(scale for scale in report.scales if scale.profile == "mini")
    table = rows_table(mini.tables[0])
    assert list(table.header) == [
        "row", "in", "AP, paper", "AP, here", "AP50, AP75, paper", "AP50, AP75, here",
        "against", "difference, paper", "difference, here", "seed",
    ]  # fmt: skip
    # deviations: 0.5 * sqrt 2 and sqrt 2; the differences are -6 and -7, whose mean is -6.5 with
    # Student's interval of 6.3138 * (0.7071 / sqrt 2) = 3.157 to each side
    assert texts(table) == [
        ["RoIPool max", "mask", "26.9", "24.5 ± 0.7", "48.8, 26.4", "49.0, -",
         "RoIAlign ave", "-3.4", "-6.5 [-9.7, -3.3]", "0, 1"],
        ["RoIAlign ave", "mask", "30.3", "31.0 ± 1.4", "51.2, 31.5", "62.0, -",
         "-", "-", "-", "0, 1"],
    ]  # fmt: skip


def test_stages_show_what_they_are_trained_for(tmp_path, known):
    rows = [
        Row("pretrain", "r50", "pretrain/r50"),
        Row("pretrain", "r101", "pretrain/r101"),
        Row("rpn", "r50_c4", "rpn/r50_c4"),
    ]
    measured = {
        ("pretrain/r50", 0): {"classification": {"top1": 74.0, "top5": 91.0}},
        ("pretrain/r50", 1): {"classification": {"top1": 76.0, "top5": 93.0}},
        ("rpn/r50_c4", 0): {"proposals": {"AR@100": 40.0, "AR@300": 50.04, "AR@1000": 60.0}},
    }
    for (config, seed), metrics in measured.items():
        made = make(config, seed, 0.0, metrics=metrics)
        save_record(made, record_file(made, tmp_path))
    mini = build_report(rows, load_runs([tmp_path])).scales[-1]
    assert [[list(t.header), *texts(t)] for t in map(rows_table, mini.tables)] == [
        [
            ["pre-training stage", "top-1, here", "top-5, here", "seed"],
            ["r50", "75.0 ± 1.4", "92.0 ± 1.4", "0, 1"],
            ["r101", "not run", "not run", "none"],
        ],
        [
            ["RPN stage", "AR@100, here", "AR@300, here", "AR@1000, here", "seed"],
            ["r50_c4", "40.0", "50.0", "60.0", "0"],
        ],
    ]


def test_what_was_not_run_or_not_finished_says_so(report):
    mini = next(scale for scale in report.scales if scale.profile == "mini")
    states = {row[0]: row[3] for row in texts(rows_table(mini.tables[1]))}
    assert states == {"RoIPool": "not run", "RoIAlign": "partial: 12 % of the schedule"}
    ((section, names),) = mini.without_run()
    assert section.table == "2d"
    assert names == ["RoIPool", "RoIAlign (partial: 12 % of the schedule)"]
    assert mini.count_rows() == (2, 4)
    full = next(scale for scale in report.scales if scale.profile == "paper")
    assert not full.was_run
    assert set(report.figures) == {"mini"}


def test_claims_count_once_by_their_main_metric(report):
    mini = next(scale for scale in report.scales if scale.profile == "mini")
    counts = mini.count_verdicts()
    table = claims_table([e for e in mini.evidence if e.by_seed])
    assert "RoIAlign beats RoIPool at stride 16" in {line[0] for line in texts(table)}
    assert counts["interim"] == 1
    assert expected_false(counts) == 0
    assert sum(counts.values()) == len({e.claim.id for e in mini.evidence})
    assert sum(mini.count_in_all_metrics().values()) == len(mini.evidence)
    in_ap = next(line for line in texts(table) if line[1] == "mask AP")
    numbers = ["+3.4, better", "+6.5 [+3.3, +9.7]", "0.5, -"]
    assert in_ap[2:] == [*numbers, "0, 1", "none", "interim", "no number of seeds was planned"]


def test_chance_is_stated_for_judged_claims(known):
    values = {
        "table2c/roi_pool_max": (24.0, 25.0, 24.2),
        "table2c/roi_align_ave": (30.0, 32.0, 31.0),
    }
    stage = load_record(TEMPLATE).model_dump()["proposals"]
    records = [
        make(config, s, v, proposals=stage | {"seed": s % 2})
        for config, aps in values.items()
        for s, v in enumerate(aps)
    ]
    claims = [c for c in claims_to_test() if c.id == "align-over-pool" and c.metric == "segm/AP"]
    baselines = {"a": dict(enumerate(records[:3])), "b": dict(enumerate(records[3:]))}
    made = plan_claims([(claims[0], 0)], measure_scatter(baselines, ["segm/AP"]), None, 0.8, 3)
    runs = load_runs([])._replace(records=records, plan=SeedPlan(profiles={"mini": made}))
    mini = build_scales(ROWS, runs)[1]
    assert mini.count_verdicts()["confirmed"] == 1
    assert expected_false(mini.count_verdicts()) == pytest.approx(0.05)
    assert "a chance of at most about 5 %" in chance(mini)
    assert "estimated" not in chance(mini)


def test_differences_need_a_shared_seed(known):
    records = [make(ROWS[0].config, 0, 24.0), make(ROWS[1].config, 1, 30.0)]
    table = build_scales(ROWS[:2], load_runs([])._replace(records=records))[1].tables[0]
    assert table.difference(table.rows[0], "segm/AP").by_seed == {}
    assert table.difference(table.rows[1], "segm/AP") is None, "has no control"
    one = BySeed({0: 3.0})
    assert (one.deviation, one.interval, one.with_deviation()) == (None, None, "3.0")


def test_tiny_is_shown_only_where_something_ran(known):
    only = load_runs([])._replace(records=[make(ROWS[0].config, 0, 1.0, profile="tiny")])
    assert [s.profile for s in build_scales(ROWS, only)] == ["paper", "mini", "tiny"]
    assert [s.profile for s in build_scales(ROWS, load_runs([]))] == ["paper", "mini"]


def test_a_mean_curve_has_the_iterations_of_all():
    assert mean_curve([[(20, 1.0), (40, 2.0)], [(20, 3.0), (60, 9.0)]]) == [(20, 2.0)]
    assert mean_curve([]) == []


def test_plots_are_the_same_whatever_the_user_set(report, folder, known):
    figures = [f for found in report.figures["mini"].values() for f in found]
    assert [f.name for f in figures] == [
        "mini-claims.svg",
        "mini-2c-learning.svg",
        "mini-2c-precision-segm.svg",
        "mini-2c-classes-segm.svg",
    ]
    with matplotlib.rc_context({"xtick.direction": "in", "legend.fontsize": 30, "font.size": 30}):
        again = build_report(ROWS, load_runs([folder])).figures["mini"]
    assert [f for found in again.values() for f in found] == figures
    for figure in figures:
        assert "<dc:date>" not in figure.svg
        assert not re.search(r"[ \t]$", figure.svg, re.MULTILINE)
        assert "RoIPool" in figure.svg, "text is text"


def test_plots_of_another_machine_are_the_same(report):
    """There, coordinates differ in their last digits, and with them the ids of clip paths."""
    svg = report.figures["mini"]["2c"][0].svg
    clip = re.search(r'id="(p[0-9a-f]{10})"', svg)[1]
    x = re.search(r'x="(\d+\.\d{3})', svg)[1]
    assert same_plot(svg, svg.replace(clip, "p0123456789").replace(x, f"{float(x) + 0.01:.3f}"))
    assert not same_plot(svg, svg.replace(x, f"{float(x) + 10:.3f}"))
    assert not same_plot(svg, svg.replace("RoIPool", "RoIWarp"))
    assert not same_plot(svg, svg.replace("<g", "<g><path/>", 1))


def test_plots_show_the_numbers(report):
    claims = report.figures["mini"]["claims"][0].svg
    assert "RoIAlign beats RoIPool at stride 16" in claims
    assert "interim" in claims
    learning = next(f for f in report.figures["mini"]["2c"] if "learning" in f.name)
    assert "mask AP, %" in learning.svg
    assert "at the end" in learning.svg, "one evaluation a run: side by side"


def test_learning_with_several_evaluations_is_over_iterations(folder, records, known):
    several = {"segm/AP": [(500, 20.0), (1000, 30.0)]}
    for record in records[::2]:
        save_curves(curves(record, evaluations=several), curves_file(record, folder))
    figures = build_report(ROWS, load_runs([folder])).figures["mini"]["2c"]
    learning = next(f for f in figures if "learning" in f.name).svg
    assert "at the end" not in learning
    assert learning.count("iterations") == 2


def test_runs_that_a_table_has_shown_are_not_drawn_again(folder, known):
    rows = [*ROWS, Row("mine", "FCN", "table2c/roi_align_ave")]
    report = build_report(rows, load_runs([folder]))
    assert list(report.figures["mini"]) == ["claims", "2c"]


def test_no_cell_of_a_page_is_blank_and_its_pictures_are_there(report, folder):
    page = format_results_page(report, folder.parent, Path("plots"))
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) > 10
    assert not [row for row in rows if re.search(r"\|\s*\|", row)]
    assert page.count("Not run.") == 1, "full scale"
    assert "partial: 12 % of the schedule" in " ".join(page.split())
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page)
    names = {f"plots/{f.name}" for found in report.figures["mini"].values() for f in found}
    assert set(pictures) - names == {"results/table2c/roi_align_ave@mini/seed0.examples/7.jpg"}
    assert names < set(pictures)
    assert "[RoIPool max](configs/table2c/roi_pool_max.py)" in page
    assert "](configs/" not in format_results_page(report, folder.parent, configs=None)


def test_long_lines_of_prose_are_wrapped_and_nothing_else():
    kept = "\n".join(
        [f"| {'cell ' * 30}|", f"# {'title ' * 30}", f"![{'x ' * 60}](a.svg)", "short, as", "it is"]
    )
    code = f"```text\n{'word ' * 30}\n\n- {'word ' * 30}\n```"
    assert wrap_prose(f"{kept}\n\n{code}\n") == f"{kept}\n\n{code}\n"
    item = f"- {'x' * 90} `some code` - 1. end"
    wrapped = wrap_prose(f"{'a ' * 60}b\nc\n{item}\n- d\n").splitlines()
    assert wrapped == [
        " ".join("a" * 50),
        " ".join("a" * 10) + " b c",
        f"- {'x' * 90}",
        "  `some code` - 1. end",
        "- d",
    ]
    dash = wrap_prose(f"{'x' * 49} {'x' * 49} - y").splitlines()
    assert dash == ["x" * 49, f"{'x' * 49} - y"], "a line that starts with a dash is an item"


def test_the_index_says_which_records_count(report):
    lines = format_records_index(report).splitlines()
    assert "| `table2c/roi_pool_max@mini` | 0, 1 | none |" in lines
    assert "| `table2d/roi_align@mini` | none | 1 |" in lines


def test_a_report_of_nothing_says_so(known):
    report = build_report(ROWS, load_runs([]))
    assert format_results_page(report, Path()).count("Not run.") == 2
    page = format_html_page(report)
    assert page.count("<p>Not run.</p>") == 2
    assert "What 0 result records show" in " ".join(page.split())


def test_names_in_a_page_are_text(folder, known):
    rows = [Row("Mine <script>", "<b>bold</b> & co", "table2c/roi_pool_max")]
    report = build_report(rows, load_runs([folder]))
    page = Page(format_html_page(report))
    words = " ".join(" ".join(page.text).split())
    assert "<b>bold</b> & co" in words
    assert "Mine <script>" in words
    assert "<cup>" in words


class Page(HTMLParser):
    """What a browser would find in a page."""

    VOID = {"meta", "img", "br", "hr", "link", "input"}

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.images, self.text = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        assert tag not in ("script", "link", "iframe")
        self.ids += [found["id"]] if "id" in found else []
        self.links += [v for k, v in attributes if k in ("href", "xlink:href", "src", "srcset")]
        self.images += [found["src"]] if tag == "img" else []
        self.open += [] if tag in self.VOID else [tag]

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, content):
        self.text.append(content)


def test_the_page_stands_alone(report):
    text = format_html_page(report)
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids)), "plots do not take each other's parts"
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert inside <= set(page.ids)
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in page.links)
    assert not re.search(r"url\((?!#)|@import|//(?!www\.w3\.org)\w+\.\w+/", text)
    for used in re.findall(r"url\(#([^)]+)\)", text):
        assert used in page.ids
    assert len(page.images) == 1
    words = " ".join(" ".join(page.text).split())
    assert "partial: 12 % of the schedule" in words
    assert "1 claim interim" in words
    assert text == format_html_page(report)


def test_plots_follow_the_page_into_the_dark(report):
    figure = report.figures["mini"]["claims"][0]
    inline = inline_svg(figure.svg, 'so "quoted"')
    assert inline.startswith('<svg role="img" aria-label="so &quot;quoted&quot;"')
    assert MUTED in figure.svg
    assert MUTED not in inline
    assert set(re.findall(r"#[0-9a-f]{6}\b", inline)) == set(), "no colour stays as it is"
    variables = set(re.findall(r"var\((--plot-\d+)\)", inline))
    page = format_html_page(report)
    assert variables
    for variable in variables:
        assert page.count(f"{variable}:") == 3, "light, dark, print"


def test_the_committed_page_is_small_and_whole():
    """Of the committed plots and pictures; their text is checked in test_documentation."""
    plots = sum(file.stat().st_size for file in (ROOT / "docs" / "report").glob("*.svg"))
    pictures = list((ROOT / "results").rglob("*.jpg"))
    assert len(pictures) <= 12
    assert all(file.stat().st_size < 40_000 for file in pictures)
    assert plots + 4 / 3 * sum(file.stat().st_size for file in pictures) < 2.5e6
    text = (ROOT / "RESULTS.md").read_text()
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert (ROOT / path).is_file()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert not [row for row in rows if re.search(r"\|\s*\|", row)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--curves-of", "a", "--check"], "give them alone"),
        (["--into", "results"], "--into is the folder"),
        (["--output", "x"], "--output needs --records"),
        (["--check", "--html", "x"], "neither --records nor --html"),
        (["--count", "0", "--examples-of", "a"], "at least 1 and at most 100, got 0"),
    ],
)
def test_mistakes_on_the_command_line_are_told(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_args(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_folders_without_a_record_are_told(tmp_path, folder, records):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match="no record below"):
        run_tool(parse_args(["--records", str(tmp_path / "empty")]))
    with pytest.raises(RecordError, match="finished run"):
        run_tool(parse_args(["--curves-of", str(tmp_path / "empty")]))
    other = records[2].model_copy(update={"created": "2026-05-01T00:00:00Z"})
    save_record(other, tmp_path / "run" / "record.json")
    with pytest.raises(RecordError, match="is not the record of"):
        run_tool(parse_args(["--examples-of", str(tmp_path / "run"), "--into", str(folder)]))


def test_help_answers_without_torch():
    code = (
        "import sys; sys.argv = ['report.py', '--help']\n"
        "import runpy\n"
        "try: runpy.run_path('tools/report.py', run_name='__main__')\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--curves-of" in done.stdout
    assert done.stdout.endswith("False\n")
