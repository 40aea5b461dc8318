"""What a reader sees first: the plot of all claims, counts of verdicts, causes; README's part."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from mask_rcnn_repro.errors import ConfigError, RecordError
from mask_rcnn_tools.common import plot_style as style
from mask_rcnn_tools.evidence.causes import load_causes
from mask_rcnn_tools.evidence.claims import claims_of, claims_to_test, counterpart_claims
from mask_rcnn_tools.evidence.rows import all_rows
from mask_rcnn_tools.evidence.verdicts import VERDICTS
from mask_rcnn_tools.report import scales
from mask_rcnn_tools.report.claim_summary import counts_table, not_confirmed, not_run
from mask_rcnn_tools.report.claims_plot import MARKS, draw_claims, drawn_claims
from mask_rcnn_tools.report.figures import CLAIMS, Figure, Report
from mask_rcnn_tools.report.markdown import format_results_page
from mask_rcnn_tools.report.page import format_html_page
from mask_rcnn_tools.report.readme import BEGIN, END, format_section, with_section
from mask_rcnn_tools.report.runs import load_runs
from mask_rcnn_tools.report.scales import build_scales

from .report_helpers import pretended_plan, pretended_records, records_by_name

FEW = ["table2c/roi_pool_max", "table2c/roi_align_ave", "table2c/roi_warp_max"]
WEAK = ("enhanced-updated", "enhanced-deeper")
WORDS = [word for word in VERDICTS if word != "not run"]


@pytest.fixture
def by_name(monkeypatch):
    monkeypatch.setattr(scales, "records_of", records_by_name)
    monkeypatch.setattr(scales, "state_without_result", lambda *arguments: "not run")


def report_of(records, plan=None, causes=None, folder=None):
    """A report with the plot of claims alone."""
    runs = load_runs([])._replace(records=records, plan=plan or pretended_plan())
    runs = runs._replace(causes=causes or {})
    made = build_scales(all_rows(), runs)
    figures = {
        scale.profile: {CLAIMS: [Figure("mini-claims.svg", "All claims", "How to read.", svg)]}
        if (svg := draw_claims(scale))
        else {}
        for scale in made
        if scale.was_run
    }
    return Report(runs, made, figures)


@pytest.fixture
def all_judged(by_name):
    """Every row run; masks of FCN and person boxes of mask-only worse than in the paper."""
    changes = {"table2e__fcn": -5.0, "table5__mask_only": -2.5, "enhanced_r50__e2e": -6.0}
    return report_of(pretended_records(**changes), pretended_plan(weak=WEAK))


def mini(report):
    return next(scale for scale in report.scales if scale.profile == "mini")


def texts(svg):
    """Texts of a plot, each line of them on its own."""
    found = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(element.itertext()).strip() for element in found]


def numbers_in(page):
    """Verdict to its number in the counts table of a page."""
    return {
        word: int(re.search(rf"^\| \**\W*{word}\** \| (\d+) ", page, re.M)[1]) for word in WORDS
    }


def test_every_verdict_has_its_own_shape_and_sign():
    assert set(MARKS) == set(WORDS)
    assert len({mark.shape for mark in MARKS.values()}) == len(MARKS)
    assert len({mark.sign for mark in MARKS.values()}) == len(MARKS)
    decided = {MARKS[verdict].color for verdict in ("confirmed", "contradicted", "undecided")}
    assert len(decided) == 3


def test_without_a_run_there_is_no_plot_and_all_claims_are_listed(by_name, tmp_path):
    report = report_of([])
    assert draw_claims(mini(report)) is None
    listed = "; ".join(names for _, names in not_run(mini(report)))
    assert len(listed.split("; ")) == len({claim.id for claim in claims_to_test()})
    assert "(no run of" not in listed
    section = " ".join(format_section(report).split())
    assert "![" not in section and section.count("**0 of the paper's") == 2
    assert "0 confirmed" in section and "expected to be false" not in section
    page = format_results_page(report, tmp_path)
    assert "![All claims]" not in page and page.count("no row was run") == 2


def test_few_claims_are_drawn_and_the_others_listed(by_name, tmp_path):
    report = report_of(pretended_records(FEW))
    items = drawn_claims(mini(report))
    assert [item.claim.id for item in items] == [
        "align-over-pool",
        "warp-like-pool",
        "gain-at-strict-iou",
    ]
    shown = texts(draw_claims(mini(report)))
    assert "RoIAlign beats RoIPool at stride 16" in shown
    assert not any("FPN" in text for text in shown)
    listed = dict(not_run(mini(report)))
    assert listed["2a"].count(";") == 4
    assert "RoIAlign beats RoIWarp (no run of RoIWarp ave (2c))" in listed["2c"]
    assert "RoIAlign beats RoIPool at stride 32;" in listed["2d"]
    page = format_results_page(report, tmp_path)
    counts = mini(report).count_verdicts()
    assert numbers_in(page) == {word: counts[word] for word in WORDS}
    assert counts["not run"] == 41 - 3
    assert page.index("![All claims]") < page.index("How to read this page")


def test_all_claims_are_drawn_by_table_with_their_verdicts(all_judged):
    scale = mini(all_judged)
    items = drawn_claims(scale)
    counts = scale.count_verdicts()
    assert len(items) == sum(counts[word] for word in WORDS) >= 40
    tables = [item.claim.terms[0].table for item in items]
    runs = [t for t, before in zip(tables, [None, *tables], strict=False) if t != before]
    assert len(runs) == len(set(runs)), "each table once"
    assert runs[:3] == ["2a", "2b", "text-4.2-class-agnostic"], "in the paper's order"
    shown = texts(draw_claims(scale))
    for word in WORDS:  # one of them is in the legend
        assert shown.count(word) == counts[word]
        assert (f"here: {word}" in shown) == (counts[word] > 0)
    assert counts["estimate only"] == len(WEAK)
    assert "§4.2" in shown


def test_the_plot_holds_every_text_inside(all_judged):
    """Rough widths of letters: no column runs into the next one."""
    root = ElementTree.fromstring(draw_claims(mini(all_judged)))
    width = float(root.get("width").removesuffix("pt"))
    for element in root.iter("{http://www.w3.org/2000/svg}text"):
        words = "".join(element.itertext()).strip()
        look = element.get("style", "")
        place = element.get("transform") or ""
        x = float(element.get("x") or re.search(r"translate\((-?[\d.]+)", place)[1])
        size = float(re.search(r"font-size: ([\d.]+)px", look)[1])
        wide = 0.56 * size * len(words)
        if "text-anchor: end" in look:
            assert x - wide > 0, words
        elif "text-anchor: middle" not in look:
            assert x + wide < width, words
            if x < 60:
                assert x + wide < 310, words


def test_equal_records_give_equal_bytes(all_judged):
    assert draw_claims(mini(all_judged)) == draw_claims(mini(all_judged))


def test_long_intervals_end_at_the_axis_with_arrows(by_name):
    plan = pretended_plan(5)
    arrow = re.compile(rf"<use [^>]*fill: {style.TEXT}")
    records = pretended_records(FEW, seeds=5)
    assert not arrow.findall(draw_claims(mini(report_of(records, plan))))
    for record in records:
        if record.config.id == FEW[1]:
            masks = record.metrics["segm"]
            changed = {"AP": masks.AP + (40.0 if record.seed % 2 else -40.0)}
            record.metrics["segm"] = masks.model_copy(update=changed)
    assert len(arrow.findall(draw_claims(mini(report_of(records, plan))))) == 2


def test_the_counts_say_how_many_false_verdicts_to_expect(all_judged):
    table = counts_table(mini(all_judged))
    lines = {line[0].text: [cell.text for cell in line[1:]] for line in table.lines}
    assert lines["all"] == ["41", "68"]
    counts = mini(all_judged).count_verdicts()
    judged = counts["confirmed"] + counts["contradicted"] + counts["undecided"]
    assert lines["false verdicts to expect"][0] == f"at most {0.05 * judged:.1f}"
    assert {"● confirmed", "✖ contradicted", "◇ undecided", "not run"} < set(lines)


@pytest.fixture
def causes(tmp_path):
    """A file of causes, written by a function that is given its entries."""
    (tmp_path / "longer").mkdir()
    (tmp_path / "longer" / "seed0.json").write_text("{}")

    def written(*entries, **changes):
        base = {
            "claim": "fcn-over-mlp",
            "profile": "mini",
            "cause": "With twice the schedule FCN is ahead.",
            "command": "python tools/run_table.py 2e",
            "records": ["longer/seed0.json"],
        }
        made = [base | entry for entry in entries or ({},)]
        content = {"schema_version": 1, "causes": made, **changes}
        (tmp_path / "causes.json").write_text(json.dumps(content))
        return tmp_path

    return written


def test_causes_stand_beside_their_claims(by_name, causes, tmp_path):
    changes = {"table2e__fcn": -5.0, "enhanced_r50__e2e": -6.0}
    folder = causes({}, {"claim": "enhanced_r50/e2e", "cause": "A fault was put in."})
    report = report_of(pretended_records(**changes), causes=load_causes(folder))
    found = not_confirmed(mini(report), report.runs.causes)
    by_label = {each.label: each for each in found}
    fcn = by_label["FCN mask branch beats MLP (2e)"]
    assert fcn.verdict == "contradicted"
    assert fcn.sentence == "With twice the schedule FCN is ahead."
    assert "mask AP -" in fcn.found and "in the paper +2.1: contradicted" in fcn.found
    assert any("enhanced_r50" in label for label in by_label), "counterparts, too"
    order = [each.verdict for each in found]
    assert order == sorted(order, key=lambda v: VERDICTS.index(v) or len(VERDICTS))
    page = format_results_page(report, tmp_path.parent).replace("\n  ", " ")  # one line an item
    line = next(line for line in page.splitlines() if line.startswith("- **FCN mask branch"))
    link = f"[seed0.json]({tmp_path.name}/longer/seed0.json)"
    assert line.endswith(f"ahead. Tested by `python tools/run_table.py 2e` ({link}).")
    lines = [
        line for line in page.splitlines() if re.match(r"- \*\*.*(contradicted|undecided)", line)
    ]
    assert len(lines) == len(found)
    assert all("Cause unknown." in line or "Tested by" in line for line in lines)
    html = " ".join(format_html_page(report).split())
    assert "With twice the schedule FCN is ahead." in html
    assert html.count("Cause unknown.") == page.count("Cause unknown.") > 0


def test_a_cause_of_a_claim_with_another_verdict_is_not_shown(by_name, causes, tmp_path):
    report = report_of(pretended_records(), causes=load_causes(causes()))
    assert "twice the schedule" not in format_results_page(report, tmp_path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"claim": "fcn-over-mpl"}], r"'fcn-over-mpl', which does not exist. Did you mean 'fcn-o"),
        ([{"records": ["longer/seed1.json"]}], r"no file 'longer/seed1.json'"),
        ([{}, {}], "two causes for 'fcn-over-mlp'"),
        ([{"cause": "no end"}], "one line that ends with a full stop"),
        ([{"records": []}], "records"),
        ([{"command": ""}], "command"),
        ([{"profile": "tiny"}], "profile"),
        ([{"because": "x"}], "because"),
    ],
)
def test_faults_of_causes_are_errors(causes, entries, message):
    with pytest.raises(RecordError, match=message):
        load_causes(causes(*entries))


def test_causes_lie_beside_records_and_are_none(causes, tmp_path):
    causes()
    (tmp_path / "longer" / "seed0.json").unlink()
    with pytest.raises(RecordError, match="no file"):
        load_runs([tmp_path])
    causes(causes=[])
    assert load_runs([tmp_path]).records == []
    assert load_causes(Path(tmp_path / "absent")) == {}


def test_claims_of_a_table_are_those_that_were_planned():
    """Claims about counterparts belong to their own folder, not to the table of their control."""
    ids = {claim.id for claim in claims_of("2a")}
    assert not any("/" in claim_id for claim_id in ids)
    assert {c.id for c in claims_of("enhanced_r50")} == {c.id for c in counterpart_claims()}


def test_readme_states_what_results_state(all_judged):
    section = " ".join(format_section(all_judged).split())
    counts = mini(all_judged).count_verdicts()
    assert ", ".join(f"{n} {verdict}" for verdict, n in counts.items()) in section
    assert "![All claims](docs/report/mini-claims.svg) *How to read.*" in section
    assert "51 of the paper's 51 rows were run" in section
    assert all(len(line) <= 100 for line in format_section(all_judged).splitlines())


def test_the_generated_part_of_readme_is_replaced_and_nothing_else():
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert with_section(text, "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert with_section(with_section(text, "new"), "new") == with_section(text, "new")
    for broken in (f"{BEGIN}\n", f"{END}\n{BEGIN}\n", ""):
        with pytest.raises(ConfigError, match="no part that is generated"):
            with_section(broken, "new")
