"""Formats a report as text."""

from __future__ import annotations

import textwrap
from typing import Any

from tabulate import tabulate

from mask_rcnn_tools.check_data.findings import Finding, Report

_WIDTH = 100
_MOST_CLASSES = 20
_BAR = 24


def format_report(report: Report, all_classes: bool = False) -> str:
    """Formats a report as text of at most 100 columns, except for examples.

    Args:
        report: A sorted report.
        all_classes: List every class, instead of the most and least frequent ones.
    """
    parts = [f"{report.subject}\n", _counts(report.statistics)]
    parts += [_distribution(s, all_classes) for s in report.statistics if s["classes"]]
    parts += [_finding(finding) for finding in report.findings]
    parts.append("\n".join([*report.looked_at, summary(report)]))
    return "\n".join(part for part in parts if part)


def summary(report: Report) -> str:
    """Formats the number of kinds of each level in one line."""
    if not report.findings:
        return "No findings."
    return ", ".join(
        f"{report.count(level)} kind{'s' * (report.count(level) != 1)} of {level}"
        for level in ("error", "warning", "note")
    )


def _counts(all_statistics: list[dict[str, Any]]) -> str:
    rows = []
    for s in all_statistics:
        sides = s["image_sides"]
        size = " x ".join("-".join(str(n) for n in sides[k][::2]) for k in sides)
        boxes = s["box_sizes"]
        each = s["instances_per_image"]
        rows.append(
            [
                s["split"],
                textwrap.shorten(s["source"], 40)
                if len(s["source"]) < 40
                else f"...{s['source'][-37:]}",
                s["images"],
                s["annotations"],
                s["crowd"],
                s["masks"],
                s["with_keypoints"],
                f"{each['mean']}, {each['max']}",
                f"{boxes['small']}/{boxes['medium']}/{boxes['large']}",
                size,
            ]
        )
    if not rows:
        return ""
    headers = ["", "data", "images", "instances", "crowd", "masks", "keypoints"]
    headers += ["an image", "S/M/L boxes", "height x width"]
    return tabulate(rows, headers) + "\n"


def _distribution(s: dict[str, Any], every: bool) -> str:
    classes = sorted(s["classes"].items(), key=lambda item: -item[1])
    total = max(1, sum(s["classes"].values()))
    most = max(1, classes[0][1])
    left = len(classes) - _MOST_CLASSES
    if left > 1 and not every:
        half = _MOST_CLASSES // 2
        shown = [*classes[:half], (f"... {left} more ...", -1), *classes[-half:]]
    else:
        shown = classes
    rows = [
        ["", name, "", ""]
        if count < 0
        else ["", name, count, f"{100 * count / total:5.1f} %  {'#' * round(_BAR * count / most)}"]
        for name, count in shown
    ]
    each = s["instances_per_image"]["histogram"]
    images = ", ".join(f"{name}: {count}" for name, count in each.items() if count)
    lines = tabulate(
        rows, tablefmt="plain", disable_numparse=True, colalign=("left", "left", "right", "left")
    )
    return (
        f"{s['split']}, {s['source']}: instances a class\n{lines}\n"
        f"images by number of instances: {images}\n"
    )


def _finding(finding: Finding) -> str:
    where = f"{finding.level.upper()} {finding.kind} [{finding.split}, {finding.source}]"
    lines = textwrap.wrap(f"{where}: {finding.title}: {finding.count}", _WIDTH)
    lines += [textwrap.indent(text, "    ") for text in finding.examples]
    if finding.count > len(finding.examples):
        lines.append(f"    ... and {finding.count - len(finding.examples)} more")
    lines += textwrap.wrap(finding.fix, _WIDTH, initial_indent="  > ", subsequent_indent="    ")
    return "\n".join(lines) + "\n"
