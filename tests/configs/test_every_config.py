"""Every config file loads at every scale, keeps the rules of rows, and can be saved and read back.

Rules of a row, beside those of `check_row_rules`: it has `paper` with a table and a row that the
paper prints about its own models, no other file has the same, `control` is the id of another row,
and the docstring begins with "Table <table>, row `<row>`" ("Section 4.2, ..." for numbers in the
text) and says the paper's claim. Its folder is the table's. Configs in other folders are no rows:
they have no `paper`, or one that names a control and may name a counterpart, a row with a control.
"""

import re
from collections import Counter

import pytest

from mask_rcnn_repro.config import (
    config_id,
    config_root,
    find_config,
    load_config,
    save_config,
    to_plain,
)
from mask_rcnn_repro.paper import load_claims, load_tables

from .config_sets import (
    IDS,
    JOINT_ROWS,
    ON_TEST_DEV,
    PROFILES,
    ROWS,
    RPN_STAGES,
    STAGE_WISE,
    WITH_CONTROL,
    docstring,
    is_row,
    load,
)
from .row_rules import check_row_rules


def test_there_are_configs():
    assert {"table2a/r50_c4", "quickstart/mask_rcnn_r18_fpn"} <= set(IDS)
    assert "table2a/r50_c4" in ROWS
    assert "quickstart/mask_rcnn_r18_fpn" not in ROWS
    assert [config for config in ROWS if load(config).paper.get("control")] == WITH_CONTROL
    on_test_dev = [c for c in IDS if load(c).dataloader.test.dataset.names.endswith("test_dev")]
    assert on_test_dev == sorted(ON_TEST_DEV)
    assert [config for config in IDS if load(config).train.proposals is not None] == STAGE_WISE


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("config", IDS)
def test_it_loads_validates_and_survives_saving(config, profile, tmp_path):
    cfg = load(config, profile)  # which validates it, as below
    file = tmp_path / "config.yaml"
    save_config(cfg, file)
    loaded = load_config(file)
    assert to_plain(loaded) == to_plain(cfg)  # so their hashes are equal, too
    assert to_plain(loaded, resolve=False) == to_plain(cfg, resolve=False)


@pytest.mark.parametrize("config", IDS)
def test_it_keeps_the_rules(config):
    file = config_root() / f"{config}.py"
    assert check_row_rules(file) == []
    assert config_id(file) == config_id(config) == config
    assert find_config(config) == file.resolve()
    assert re.fullmatch(r"[a-z0-9_]+/[A-Za-z0-9_]+", config), "folder/file, plain names"
    assert load(config).train.output_dir == ""
    assert load(config).train.output_root == "output"
    paper = load(config).get("paper")
    if is_row(config):
        assert "table" in paper
    elif paper is not None:
        assert set(paper) <= {"counterpart", "control"}
        assert paper.control in IDS
        assert paper.get("counterpart") in (None, *WITH_CONTROL)


@pytest.mark.parametrize(
    "text", ["train.output_root = 'x'", "train = dict(output_root='x')", "train['output_root'] = 1"]
)
def test_a_row_does_not_say_where_runs_are_written(text, tmp_path):
    file = tmp_path / "row.py"
    file.write_text(f'"""A row."""\n\n{text}\n')
    assert check_row_rules(file) == ["line 3: sets train.output_root"]


def table_text(table: str) -> str:
    """How a docstring names a table: `Table 2a`, or `Section 4.2` for numbers in the text."""
    if table.startswith("text-"):
        return f"Section {table.split('-')[1]}"
    return "Section 4.4" if table == "timing" else f"Table {table}"


@pytest.mark.parametrize(
    ("table", "text"),
    [("2a", "Table 2a"), ("text-4.2-class-agnostic", "Section 4.2"), ("timing", "Section 4.4")],
)
def test_how_tables_are_named(table, text):
    assert table_text(table) == text


@pytest.mark.parametrize("config", ROWS)
def test_a_row_is_one_of_the_paper(config):
    paper = load(config).paper
    assert set(paper) <= {"table", "row", "control"}
    printed = {r["row"]: r for r in load_tables()[paper.table]["rows"]}
    assert paper.row in printed
    assert not printed[paper.row].get("peer"), "a number of another system"
    first = docstring(config).partition("\n\n")[0]
    begin = f"{table_text(paper.table)}, row `{paper.row}`"
    assert " ".join(first.split()).startswith(begin), f"the docstring begins with {begin}"
    folder = table_text(paper.table).lower().replace("table ", "table").replace(" ", "")
    assert config.partition("/")[0] == folder.replace(".", "_")  # table2a, section4_2


@pytest.mark.parametrize("config", ROWS)
def test_a_row_says_the_claim_that_it_bears_on(config):
    """Where the paper compares a row with its control, the docstring has the claim's words."""
    text = " ".join(docstring(config).split())
    assert "Claim: " in text
    paper = load(config).paper
    if not paper.get("control"):
        return
    control = load(paper.control).paper
    pair = {(paper.table, paper.row), (control.table, control.row)}
    for claim in load_claims():
        if pair == {(claim["table"], claim["better"]), (claim["table"], claim["worse"])}:
            assert claim["claim"] in text


def test_every_claim_about_two_rows_has_configs():
    """Of a table that has configs, each claim can be tested."""
    rows = {(load(config).paper.table, load(config).paper.row) for config in ROWS}
    tables = {table for table, _ in rows}
    claims = [c for c in load_claims() if c["table"] in tables and c["better"]]
    assert len(claims) >= 15
    sides = {(c["table"], c[side]) for c in claims for side in ("better", "worse")}
    assert sides <= rows


@pytest.mark.parametrize("config", IDS)
def test_what_a_config_stands_on(config):
    """Proposals come from RPN stages, weights and generated annotations from runs, and no config
    waits for itself.
    """
    train = load(config).train
    if config in ROWS and config not in JOINT_ROWS:
        assert train.proposals in RPN_STAGES, "rows are trained stage by stage"
    waiting, seen = [config], set()
    while waiting:
        stage = load(waiting.pop())
        teacher = stage.dataloader.train.dataset.get("teacher")
        needed = {stage.train.proposals, stage.train.init_from, teacher} - {None}
        assert config not in needed
        waiting += sorted(needed - seen)
        seen |= needed
    assert seen <= set(IDS), "by id, so that runs are shared"


def test_no_two_files_are_the_same_row():
    rows = Counter((load(config).paper.table, load(config).paper.row) for config in ROWS)
    assert [row for row, count in rows.items() if count > 1] == []


@pytest.mark.parametrize("config", WITH_CONTROL)
def test_the_control_is_another_row(config):
    seen = [config]
    while control := load(seen[-1]).paper.get("control"):
        assert control in ROWS
        assert control not in seen, f"controls go round: {seen}"
        seen.append(control)
