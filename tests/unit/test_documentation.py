"""Generated documents are up to date and right; links in all documents lead somewhere."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest

from generate_docs import pages
from generate_docs.__main__ import main
from generate_docs.files import generated_files
from generate_docs.pages import (
    format_configs_readme,
    format_delta,
    format_numbers,
    stated_differences,
)
from mask_rcnn_repro.config import (
    ABSENT,
    config_hash,
    get_config,
    list_configs,
)
from mask_rcnn_repro.errors import RecordError
from mask_rcnn_repro.paper.numbers import TIMING
from mask_rcnn_repro.records.record import InputRun, SecondsPerImage, make_record, save_record
from mask_rcnn_tools.evidence import rows
from mask_rcnn_tools.evidence.comparison import number_of
from mask_rcnn_tools.evidence.results import (
    load_results,
    records_of,
    same_run,
    stages_of,
    state_without_result,
)
from mask_rcnn_tools.evidence.rows import Row, all_rows
from mask_rcnn_tools.evidence.titles import table_title
from mask_rcnn_tools.report import files as report_files
from mask_rcnn_tools.report.cli import parse_args as parse_report_args
from mask_rcnn_tools.report.files import is_current, load_report
from mask_rcnn_tools.report.main import run as run_report
from mask_rcnn_tools.report.markdown import PLOTS

from ..configs.config_sets import PRINTED_TWICE

ROOT = Path(__file__).resolve().parents[2]


def test_generated_files_are_up_to_date():
    """`make docs` writes them."""
    files = generated_files(ROOT)
    assert len([f for f in files if f.suffix != ".svg"]) == 7
    assert {f for f in files if f.parent.name == "report"} == set((ROOT / PLOTS).glob("*.svg"))
    assert [f for f, text in files.items() if not is_current(f, text)] == []


def documents():
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    names = tracked.stdout.split() if tracked.returncode == 0 else []
    return [ROOT / n for n in names if (ROOT / n).is_file()] or sorted(ROOT.glob("docs/*.md"))


GENERATED = (
    *("configs/README.md", "results/README.md", "RESULTS.md"),
    *("docs/performance.md", "docs/records.md", "docs/train_keys.md"),
)
WRITTEN = [f for f in documents() if f.relative_to(ROOT).as_posix() not in GENERATED]


def anchors(file):
    """The anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("file", documents(), ids=lambda f: f.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(file):
    text = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        name, _, anchor = link.partition("#")
        target = file.parent / name if name else file
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("file", documents(), ids=lambda f: f.relative_to(ROOT).as_posix())
def test_lines_are_at_most_100_columns(file):
    """Except for tables, headings and printed output, which is fenced as ```text."""
    text = re.sub(r"```text\n.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "#"))]
    long = [line for line in lines if len(line) > 100]
    assert long == []


@pytest.mark.parametrize(
    "file",
    [f for f in WRITTEN if f.name != "CHANGELOG.md"],
    ids=lambda f: f.relative_to(ROOT).as_posix(),
)
def test_python_files_that_are_named_exist(file):
    named = re.findall(r"`((?!own_|configs/my_)[\w/]+\.py)`", file.read_text(encoding="utf-8"))
    folders = ("projects", "configs", "docs", "tests", "tools", "benchmarks", "requirements")
    files = [*ROOT.glob("*.py"), *(f for folder in folders for f in (ROOT / folder).rglob("*.py"))]
    known = [f"/{file.as_posix()}" for file in files]
    assert [n for n in named if not any(f.endswith(f"/{n}") for f in known)] == []


def test_the_readme_counts_verdicts_as_the_results_do():
    words = ("confirmed", "contradicted", "undecided", "estimate only", "interim", "not run")
    verdicts = ",\\s+".join(rf"(\d+) {word}".replace(" ", r"\s+") for word in words)
    readme, results = ((ROOT / name).read_text() for name in ("README.md", "RESULTS.md"))
    assert re.search(verdicts, readme).groups() == re.search(verdicts, results).groups()
    rows = re.search(r"(\d+ of the paper's \d+ rows) were run", results)
    assert rows[1] in " ".join(readme.split())


def test_the_index_names_every_document():
    index = (ROOT / "docs" / "README.md").read_text()
    for file in (ROOT / "docs").glob("*.md"):
        assert file.name == "README.md" or f"({file.name})" in index


def test_rows_come_in_the_papers_order_with_all_configs():
    rows = all_rows()
    assert sorted(row.config for row in rows) == list_configs()
    table_2a = [row.name for row in rows if row.table == "2a"]
    assert table_2a[:3] == ["R50-C4", "R101-C4", "R50-FPN"]
    assert [row.is_printed for row in rows] == sorted(
        (row.is_printed for row in rows), reverse=True
    )
    by_id = {row.config: row for row in rows}
    assert by_id["table2a/r101_fpn"].control == "table2a/r50_fpn"
    assert by_id["table2a/r101_fpn"].summary.startswith("Table 2a, row `R101-FPN`: ResNet-101")
    assert by_id["quickstart/mask_rcnn_r18_fpn"].table == "quickstart"
    tables = list(dict.fromkeys(row.table for row in rows))
    assert tables[:3] == ["1", "2a", "2b"]
    assert tables[-3:] == ["rpn", "quickstart", "model_zoo"]


def test_folders_of_ones_own_come_last(monkeypatch):
    known = ["quickstart/mask_rcnn_r18_fpn", "rpn/r50_c4", "table2a/r50_c4"]
    monkeypatch.setattr(rows, "list_configs", lambda: ["zoo_of_mine/b", "ablations/a", *known])
    read, mine = rows.stated_in, rows.Stated({}, {}, "Mine.")
    monkeypatch.setattr(rows, "stated_in", lambda f: read(f) if f.is_file() else mine)
    order = ["table2a/r50_c4", "rpn/r50_c4", known[0], "ablations/a", "zoo_of_mine/b"]
    assert [row.config for row in all_rows.__wrapped__()] == order


def test_titles():
    assert table_title("2a") == "Table 2a: Backbone architecture (minival)"
    assert table_title("text-4.2-fpn-roipool").startswith("RoIAlign against RoIPool on FPN")
    assert table_title("my_ablations") == "my_ablations"


def test_numbers_are_the_papers():
    assert format_numbers("2a", "R50-C4") == "mask AP 30.3, AP50 51.2, AP75 31.5"
    align = "mask AP 30.9, AP50 51.8, AP75 32.1; box AP 34.0, AP50 55.3, AP75 36.4"
    assert format_numbers("2d", "RoIAlign") == align
    both = "box (person) AP 52.0; mask (person) AP 45.1; keypoint AP 64.7"
    assert format_numbers("5", "keypoint & mask") == both
    assert format_numbers("text-4.2-fpn-roipool", "RoIPool").endswith("(derived: 33.6 - 1.5)")
    shared = format_numbers("timing", "R101-FPN inference, shared features")
    assert shared == "ms per image 195; cpu resize ms 15"


def test_a_delta_is_what_the_file_says():
    differences = stated_differences("table2a/r101_c4", "table2a/r50_c4")
    assert format_delta(differences) == (
        "`model.backbone.depth`: 50 -> 101<br>"
        "`train.init_checkpoint`: .../R-50.pkl -> .../R-101.pkl<br>"
        "`train.proposals`: rpn/r50_c4 -> rpn/r101_c4"
    )
    assert format_delta(stated_differences("table2a/r50_c4", "table2a/r50_c4")) == "nothing"
    absent = ABSENT
    assert format_delta([("a", absent, 1), ("b", "x|y", absent), ("c._target_", "m.A", "n.B")]) == (
        "+ `a`: 1<br>- `b`: x|y<br>`c._target_`: A -> B"
    )


@pytest.fixture(scope="module")
def configs_readme():
    return format_configs_readme()


def test_the_table_of_configs_has_every_file_and_long_differences_in_full(configs_readme):
    text = configs_readme
    for config in list_configs():
        assert f"[{config}]({config}.py)" in text
    long = re.findall(r"(?:\| |<br>)(\d+) keys, listed below \|", text)
    assert len(long) == text.count("<details>") >= 1  # FPN against C4
    assert "+ model.backbone.bottom_up:" in text
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line[:1] == "|"}
    assert cells == {3, 4, 6}  # folders, RPN stages, tables of the paper


def test_rpn_stages_tell_who_needs_them(configs_readme):
    lines = configs_readme.splitlines()
    assert "| file | what | needed by |" in lines
    c5 = next(line for line in lines if line.startswith("| [rpn/r50_c5]"))
    assert c5.endswith("| `table2d/roi_pool`, `table2d/roi_align` |")
    shared = next(line for line in lines if line.startswith("| [rpn/r101_fpn_shared]"))
    assert shared.endswith("| `section4_4/r101_fpn_shared` |")


def test_deltas_of_rows_are_what_the_rows_are_about(configs_readme):
    rows = [line.split(" | ") for line in configs_readme.splitlines()]

    def delta(config):
        return next(cells[3] for cells in rows if cells[1:2] == [f"[{config}]({config}.py)"])

    pooler = "`model.roi_heads.pooler.pooler_type`: ROIAlign -> "
    assert delta("table2c/roi_pool_max") == f"{pooler}ROIPool"
    assert delta("table2c/roi_warp_ave") == f"{pooler}ROIWarpAve"
    assert delta("table2d/roi_pool") == pooler.replace("pooler.", "box_pooler.") + "ROIPool"
    loss = "`model.roi_heads.mask_head.loss._target_`: PerClassSigmoidMaskLoss -> "
    assert delta("table2b/softmax") == f"{loss}MultinomialMaskLoss"
    assert delta("section4_2/class_agnostic") == f"{loss}ClassAgnosticMaskLoss"
    assert delta("table2e/mlp_3fc") == "`model.roi_heads.mask_head.num_fc`: 2 -> 3"
    equal = "`section4_2/class_specific`, `table2a/r50_c4`, `table2c/roi_align_ave`"
    assert delta("table2b/sigmoid") == f"the same run as {equal}"
    assert delta("table1/r101_c4") == "-"


def test_rows_that_say_the_same_are_marked(monkeypatch):
    both = ["table2a/r101_c4", "table2a/r50_c4"]
    monkeypatch.setattr(pages, "all_rows", lambda: [Row("2a", "R101-C4", *both)])
    monkeypatch.setattr(pages, "same_run", lambda config: both)
    assert "the same run as `table2a/r50_c4`<br>`model.backbone.depth`" in format_configs_readme()


def test_the_same_run_is_that_of_equal_configs():
    for ids in PRINTED_TWICE:
        assert same_run(ids[-1]) == ids
    assert same_run("table2b/softmax") == ["table2b/softmax"]


def input_run(config, profile="mini", seed=0, overrides=()):
    """A run that a record stands on."""
    cfg = get_config(config, profile, overrides, seed=seed)
    return InputRun(id=config, hash=config_hash(cfg), seed=seed, checkpoint=None)


def record(
    config,
    ap,
    profile="mini",
    seed=0,
    overrides=(),
    done=None,
    metrics=None,
    stages=None,
    **changes,
):
    """A record of a run whose mask AP is `ap`; box AP is one more."""
    cfg = get_config(config, profile, overrides, seed=seed)
    if stages is None:
        stages = {
            key: input_run(stage, profile) for key, stage in stages_of(config, profile).items()
        }
    made = make_record(
        cfg,
        config_id=config,
        profile=profile,
        overrides=list(overrides),
        mode="train",
        metrics=metrics or {"bbox": {"AP": ap + 1}, "segm": {"AP": ap, "AP50": 2 * ap}},
        seconds_per_image=None,
        iterations_done=cfg.train.max_iter if done is None else done,
        checkpoint=None,
    )
    return made.model_copy(update={"test_data": None, "train_data": None, **stages, **changes})


def format_ours(config, records):
    """The mask AP of the records that count, for each profile that was run."""
    parts = []
    for profile, runs in records_of(config, records).items():
        values = [number_of(run, "segm/AP") for run in runs.values()]
        parts.append(f"{profile} {fmean(values):.1f} ({len(runs)})")
    return "; ".join(parts) or "not run"


@pytest.fixture
def no_data(monkeypatch):
    """Records of COCO configs are made without COCO."""
    monkeypatch.setattr("mask_rcnn_repro.records.provenance.dataset_info", lambda node: None)


@pytest.mark.usefixtures("no_data")
def test_our_results_are_those_of_the_config_as_it_is():
    config = "table2a/r50_fpn"
    assert format_ours(config, []) == "not run"
    records = [
        record(config, 20.0, seed=0),
        record(config, 23.0, seed=1),
        record(config, 99.0, overrides=["train.max_iter=3"]),  # another config
        record(config, 99.0, seed=2, done=5),  # stopped early
        record("table2a/r101_fpn", 30.0),
    ]
    assert format_ours(config, records) == "mini 21.5 (2)"
    again = record(config, 21.0, seed=1)  # repeated: the later counts
    assert format_ours(config, [*records, again]) == "mini 20.5 (2)"
    full = record(config, 33.9, profile="paper")
    begun = record(config, 1.0, profile="paper", done=19200)
    assert state_without_result(config, [begun], "paper") == "partial: 12 % of the schedule"
    assert state_without_result(config, [begun], "mini") == "not run"
    part = record(config, 1.0, seed=3, done=5)
    assert state_without_result(config, [part], "mini") == "partial: 1 % of the schedule"
    assert format_ours(config, [*records, begun]) == "mini 21.5 (2)"
    assert format_ours(config, [*records, full]) == "paper 33.9 (1); mini 21.5 (2)"
    assert format_ours("table2a/r101_fpn", records) == "mini 30.0 (1)"


@pytest.mark.usefixtures("no_data")
def test_a_record_counts_while_its_rpn_is_the_current_one():
    config = "table2b/softmax"
    assert stages_of(config) == {"proposals": "rpn/r50_c4"}
    assert stages_of(config, "mini") == {"init_from": "pretrain/r50", **stages_of(config)}
    begins = {"init_from": input_run("pretrain/r50")}
    made = record(config, 20.0)
    assert format_ours(config, [made]) == "mini 20.0 (1)"
    seeded = {
        **begins,
        "proposals": input_run("rpn/r50_c4", seed=5),
    }  # seeds need not be those of the row
    assert format_ours(config, [record(config, 20.0, stages=seeded)]) == "mini 20.0 (1)"
    others = [
        input_run("rpn/r50_c4", overrides=["optimizer.lr=0.5"]),
        input_run("rpn/r50_c4", profile="tiny"),
        input_run("rpn/r50_fpn"),
        None,
    ]
    for other in others:
        stages = {**begins, "proposals": other}
        assert format_ours(config, [record(config, 20.0, stages=stages)]) == "not run"
    stages = {**begins, "proposals": None}
    joint = record(config, 20.0, overrides=["train.proposals=null"], stages=stages)
    assert format_ours(config, [joint]) == "not run"
    stages = {"proposals": input_run("rpn/r50_c4"), "init_from": None}
    assert format_ours(config, [record(config, 20.0, stages=stages)]) == "not run"


@pytest.mark.usefixtures("no_data")
def test_a_record_counts_while_its_initial_weights_are_current_ones():
    config = "section4_4/r101_fpn_shared"
    good = {"proposals": "rpn/r101_fpn_shared", "init_from": "table2a/r101_fpn"}
    assert stages_of(config) == good
    made = record(config, 20.0)
    assert records_of(config, [made]) == {"mini": {0: made}}
    stale = input_run(good["init_from"], overrides=["optimizer.lr=0.5"])
    assert records_of(config, [made.model_copy(update={"init_from": stale})]) == {}


@pytest.mark.usefixtures("no_data")
def test_numbers_of_a_record():
    recall = {"proposals": {"AR@100": 40.0, "AR@300": 50.04, "AR@1000": 60.0, "ARs": 9.0}}
    assert number_of(record("rpn/r50_c4", 0.0, metrics=recall), "proposals/AR@300") == 50.04
    seconds = SecondsPerImage(data=1.0, inference=0.1954, postprocess=0.015, total=1.2104)
    timed = record("section4_4/r101_c4", 30.0, seconds_per_image=seconds)
    assert number_of(timed, TIMING) == pytest.approx(195.4)
    assert number_of(timed.model_copy(update={"seconds_per_image": None}), TIMING) is None


@pytest.mark.usefixtures("no_data")
def test_a_record_of_an_equal_row_counts():
    config = "table2b/sigmoid"
    made = record("table2a/r50_c4", 12.0)
    assert made.config.hash == config_hash(get_config("table2b/sigmoid", "mini"))
    assert format_ours(config, [made]) == "mini 12.0 (1)"


@pytest.mark.usefixtures("no_data")
def test_results_are_read_from_a_folder_and_must_be_records(tmp_path):
    save_record(record("table2a/r50_c4", 12.0), tmp_path / "table2a" / "a.json")
    records = load_results(tmp_path)
    assert [r.config.id for r in records] == ["table2a/r50_c4"]
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(RecordError, match=r"b\.json"):
        load_results(tmp_path)
    assert load_results(tmp_path / "absent") == []


def test_the_benchmarks_page_alone(copy, capsys):
    assert main([]) == 0
    plot = next((copy / PLOTS).glob("*.svg"), None)
    page = copy / "docs" / "performance.md"
    for file in (page, copy / "RESULTS.md"):
        file.write_text("changed")
    assert main(["--performance"]) == 0
    assert page.read_text() != "changed" and (copy / "RESULTS.md").read_text() == "changed"
    assert plot is None or plot.is_file()


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A checkout with documents that can be spoilt."""
    for folder in ("docs", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copytree(ROOT / "projects", tmp_path / "projects")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "train_net.py").write_text("")
    monkeypatch.setattr(report_files, "config_root", lambda: tmp_path / "configs")
    return tmp_path


def test_check_names_stale_files_and_writing_fixes_them(copy, capsys):
    assert main([]) == 0
    assert main(["--check"]) == 0
    capsys.readouterr()
    (copy / "docs" / "train_keys.md").write_text("old")
    (copy / "configs" / "README.md").unlink()
    assert main(["--check"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed] == [
        "configs/README.md",
        "docs/train_keys.md",
    ]
    assert (copy / "docs" / "train_keys.md").read_text() == "old"
    assert main([]) == 0
    assert "train.max_iter" in (copy / "docs" / "train_keys.md").read_text()
    assert main(["--check"]) == 0


def test_the_report_is_checked_and_written_from_the_records_alone(copy, capsys):
    (copy / "results").mkdir()
    assert run_report(parse_report_args([])) == 0
    assert (copy / "output" / "report.html").read_text().count("<p>Not run.</p>") == 2
    assert run_report(parse_report_args(["--check"])) == 0
    capsys.readouterr()
    (copy / "RESULTS.md").write_text("old")
    (copy / "docs" / "report" / "of_earlier_records.svg").write_text("<svg/>")
    (copy / "configs" / "README.md").unlink()  # is made from other things
    (copy / "output" / "report.html").unlink()  # is not committed
    assert run_report(parse_report_args(["--check"])) == 1
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed] == [
        "docs/report/of_earlier_records.svg",
        "RESULTS.md",
    ]
    assert run_report(parse_report_args(["--html", str(copy / "mine.html")])) == 0
    assert not list((copy / "docs" / "report").glob("*.svg"))
    assert (copy / "mine.html").is_file()
    assert not (copy / "configs" / "README.md").exists()


@pytest.mark.slow
def test_it_runs_as_a_module():
    """`make docs` calls it so."""
    assert "tools/generate_docs" in (ROOT / "Makefile").read_text()
    result = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "generate_docs"), "--help"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "--check" in result.stdout


def test_rows_on_a_smaller_network_are_set_beside_the_papers_gain():
    rows = {row.config: row for row in all_rows() if row.table == "enhanced_r50"}
    assert list(rows)[:2] == ["enhanced_r50/updated_baseline", "enhanced_r50/e2e"]
    assert rows["enhanced_r50/updated_baseline"].control == "table2a/r50_fpn"
    row = rows["enhanced_r50/test_aug"]
    assert row.control == "enhanced_r50/non_local"
    assert row.difference_of == (("8", "+ test-time augm."), ("8", "+ Non-local"))
    assert all(row.difference_of for row in rows.values()), "each has a counterpart"
    (mini,) = [scale for scale in load_report([]).scales if scale.profile == "mini"]
    (table,) = [t for t in mini.tables if t.table == "enhanced_r50"]
    assert [o.row for o in table.rows] == list(rows.values()), "in the order of the tables"
    outcome = next(o for o in table.rows if o.row == row)
    assert table.control_of(outcome).row.config == "enhanced_r50/non_local"
    # table 8: mask AP 40.3 -> 41.8, box AP 45.0 -> 47.3
    gains = {task: row.printed_difference(f"{task}/AP") for task in row.tasks}
    assert gains == pytest.approx({"segm": 1.5, "bbox": 2.3})
