"""Which files are generated, and how they are written or found stale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from generate_docs.pages import (
    COMMAND,
    format_configs_readme,
    format_train_keys,
)
from generate_docs.record_docs import format_record_schema
from generate_docs.rows import (
    VARIANTS,
    Row,
    group_title,
    load_rows,
    load_variants,
)
from harness.page import format_performance_page, performance_plots
from harness.record import RECORDS, load_benchmarks
from mask_rcnn_repro.config import config_root
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.paper import paper_numbers
from mask_rcnn_repro.utils.atomic import atomic_write_text
from mask_rcnn_tools.report.build import Report, build_report
from mask_rcnn_tools.report.markdown import PLOTS, format_records_index, format_results_page
from mask_rcnn_tools.report.rows import ReportRow
from mask_rcnn_tools.report.store import load_material


def load_report(folders: Iterable[Path]) -> Report:
    """A report on all rows, from the records in folders."""
    rows = load_rows()
    by_id = {row.id: row for row in rows}
    variants = {variant.config: variant for variant in load_variants()}
    shown = []
    last = {config: place for place, config in enumerate(variants)}
    # variants build upon each other, which the order of their names does not tell
    for row in sorted(rows, key=lambda row: (row.group == VARIANTS, last.get(row.id, 0))):
        name, control, gains = row.name or row.id.partition("/")[2], row.control, None
        if variant := variants.get(row.id):
            control = variant.parent
            gains = _gains(by_id[variant.row], by_id[variant.row_parent])
        shown.append(ReportRow(row.group, name, row.id, control, gains))
    titles = {row.group: group_title(row.group) for row in rows}
    return build_report(shown, titles, load_material(folders))


def _gains(row: Row, control: Row) -> dict[str, float]:
    """The paper's differences of AP between two rows, by task."""
    better, worse = (paper_numbers(str(r.table), r.name) for r in (row, control))
    return {
        task: round(better[task]["AP"] - worse[task]["AP"], 6)
        for task in better
        if "AP" in better[task] and "AP" in worse.get(task, {})
    }


def report_files(root: Path, report: Report) -> dict[Path, str]:
    """Returns the files that are made from the records, as :func:`generated_files`."""
    plots = {
        root / PLOTS / figure.name: figure.svg
        for figures in report.figures.values()
        for found in figures.values()
        for figure in found
    }
    return {
        root / "RESULTS.md": format_results_page(report, root),
        root / "results" / "README.md": format_records_index(report),
        **plots,
    }


def performance_files(root: Path) -> dict[Path, str]:
    """Returns the files that are made from the records of benchmarks."""
    benchmarks = load_benchmarks(root / RECORDS)
    return {
        root / "docs" / "performance.md": format_performance_page(benchmarks),
        **{root / file: text for file, text in performance_plots(benchmarks).items()},
    }


def generated_files(root: Path) -> dict[Path, str]:
    """Returns every generated file with its text."""
    folder = root / "results"
    report = load_report([folder] if folder.is_dir() else [])
    return {
        root / "configs" / "README.md": format_configs_readme(),
        root / "docs" / "train_keys.md": format_train_keys(),
        root / "docs" / "records.md": format_record_schema(),
        **performance_files(root),
        **report_files(root, report),
    }


def checkout_root() -> Path:
    """The folder of this checkout.

    Raises:
        ConfigError: the package is installed without one.
    """
    root = config_root().parent
    if not (root / "train_net.py").is_file():
        raise ConfigError(f"Documentation is generated in a checkout, and {root} is none.")
    return root


def write_files(root: Path, files: Mapping[Path, str], check: bool) -> int:
    """Writes generated files, or with `check` names those that are stale.

    Plots in docs/report/ that are not among the report's files are of earlier records: they are
    removed.

    Returns:
        1 where `check` found something, else 0.
    """
    problems = 0
    plots = (root / PLOTS).glob("*.svg") if root / "RESULTS.md" in files else ()
    for file in sorted(set(plots) - set(files)):
        if check:
            print(f"{file.relative_to(root)}: stale, nothing shows it; `{COMMAND}` removes it")
            problems += 1
        else:
            file.unlink()
            print(f"{file.relative_to(root)}: removed")
    for file, text in files.items():
        name = file.relative_to(root)
        if file.is_file() and file.read_text(encoding="utf-8") == text:
            continue
        elif not check:
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(file, text)
            print(f"{name}: written")
            continue
        else:
            print(f"{name}: stale; `{COMMAND}` (or `make docs`) writes it")
        problems += 1
    return min(problems, 1)
