"""Which files are generated, with their texts."""

from __future__ import annotations

from pathlib import Path

from generate_docs.architecture import format_architecture
from generate_docs.pages import format_configs_readme, format_train_keys
from generate_docs.record_docs import format_record_schema
from harness.page import format_performance_page, performance_plots
from harness.record import RECORDS, load_benchmarks
from mask_rcnn_tools.report.files import load_report, report_files


def performance_files(root: Path) -> dict[Path, str]:
    """Returns the files that are made from the records of benchmarks."""
    benchmarks = load_benchmarks(root / RECORDS)
    return {
        root / "docs" / "performance.md": format_performance_page(benchmarks),
        **{root / file: text for file, text in performance_plots(benchmarks).items()},
    }


def generated_files(root: Path) -> dict[Path, str]:
    """Returns every generated file with its text."""
    results = root / "results"
    return {
        root / "configs" / "README.md": format_configs_readme(),
        root / "docs" / "images" / "architecture.svg": format_architecture(root),
        root / "docs" / "train_keys.md": format_train_keys(),
        root / "docs" / "records.md": format_record_schema(),
        **performance_files(root),
        **report_files(root, load_report([results] if results.is_dir() else [])),
    }
