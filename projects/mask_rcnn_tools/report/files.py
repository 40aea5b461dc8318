"""Writes or checks the generated files of a checkout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from mask_rcnn_repro.config import config_root
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.utils.atomic import atomic_write_text
from mask_rcnn_tools.common.plot_style import same_plot
from mask_rcnn_tools.evidence.rows import all_rows
from mask_rcnn_tools.report.figures import Report, build_report
from mask_rcnn_tools.report.markdown import (
    PLOTS,
    format_records_index,
    format_results_page,
)
from mask_rcnn_tools.report.readme import format_section, with_section
from mask_rcnn_tools.report.runs import load_runs


def load_report(folders: Iterable[Path]) -> Report:
    """Makes a report on all rows, from the records in directories."""
    return build_report(all_rows(), load_runs(folders))


def report_files(root: Path, report: Report) -> dict[Path, str]:
    """Returns the committed files that are made from records alone, with their texts."""
    plots = {root / PLOTS / figure.name: figure.svg for figure in report.all_figures()}
    readme = root / "README.md"
    texts = {}
    if readme.is_file():
        known = readme.read_text(encoding="utf-8")
        texts[readme] = with_section(known, format_section(report))
    return {
        **texts,
        root / "RESULTS.md": format_results_page(report, root),
        root / "results" / "README.md": format_records_index(report),
        **plots,
    }


def checkout_root() -> Path:
    """Returns the directory of this checkout.

    Raises:
        ConfigError: The package is installed without a checkout.
    """
    root = config_root().parent
    if not (root / "train_net.py").is_file():
        raise ConfigError(f"Documentation is generated in a checkout, and {root} is none.")
    return root


def is_current(file: Path, text: str) -> bool:
    """Returns whether a file holds a text. Plots may differ as they do between machines."""
    if not file.is_file():
        return False
    found = file.read_text(encoding="utf-8")
    return same_plot(found, text) if file.suffix == ".svg" else found == text


def write_files(root: Path, files: Mapping[Path, str], check: bool, command: str) -> int:
    """Writes generated files that are not current, or with `check` prints their names.

    Plots in docs/report/ that are not among the files of a report are of earlier records. They are
    removed.

    Args:
        root: Directory of the checkout.
        files: Texts of the files.
        check: Write nothing.
        command: Command that writes the files, for messages about stale ones.

    Returns:
        Number of stale files that `check` found.
    """
    stale = 0
    plots = (root / PLOTS).glob("*.svg") if root / "RESULTS.md" in files else ()
    for file in sorted(set(plots) - set(files)):
        if check:
            print(f"{file.relative_to(root)}: stale, nothing shows it; `{command}` removes it")
            stale += 1
        else:
            file.unlink()
            print(f"{file.relative_to(root)}: removed")
    for file, text in files.items():
        if is_current(file, text):
            continue
        if check:
            print(f"{file.relative_to(root)}: stale; `{command}` writes it")
            stale += 1
        else:
            write(file, text, file.relative_to(root))
    return stale


def write(file: Path, text: str, name: Path | None = None) -> None:
    """Writes a file, creates its directory if needed, and prints its name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(file, text)
    print(f"{name or file}: written")
