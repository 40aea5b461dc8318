"""One HTML page with all tables, plots and drawn examples, which needs no network."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from mask_rcnn_tools.common.plot_style import css_variables, inline_svg
from mask_rcnn_tools.evidence.outcomes import claims_table
from mask_rcnn_tools.evidence.verdicts import RULE, VERDICTS
from mask_rcnn_tools.report.claim_summary import chance, expected_false, not_confirmed, not_run
from mask_rcnn_tools.report.examples import EXAMPLES_NOTE, Examples
from mask_rcnn_tools.report.figures import CLAIMS, Figure, Report
from mask_rcnn_tools.report.scales import NOTES, Scale
from mask_rcnn_tools.report.tables import rows_table, runs_table

_TEMPLATE = "page.html.j2"


def format_html_page(report: Report) -> str:
    """Returns the text of the page."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mask_rcnn_tools.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    light, dark = css_variables()
    records = report.runs.records
    return environment.get_template(_TEMPLATE).render(
        # what was not run at all needs no reader's time
        scales=[_scale(report, s) for s in sorted(report.scales, key=lambda s: not s.was_run)],
        rule=RULE.replace("*", "").replace("+-", "±"),
        light=light,
        dark=dark,
        runs=len(records),
        newest=records[-1].created[:10] if records else None,
        verdicts=VERDICTS,
        examples_note=EXAMPLES_NOTE,
    )


def _scale(report: Report, scale: Scale) -> dict[str, Any]:
    name, _, about = scale.title.partition(": ")
    if not scale.was_run:
        return {"name": name, "about": about.capitalize(), "id": scale.profile, "was_run": False}
    figures = report.figures[scale.profile]
    run, rows = scale.count_rows()
    sections = [
        {
            "id": f"{scale.profile}-{outcome.table}",
            "nav": outcome.table.removeprefix("text-").replace("-", " ", 1),
            "title": outcome.title,
            "note": outcome.note,
            "table": rows_table(outcome),
            "claims": claims_table(outcome.judged),
            "figures": [_figure(f) for f in figures.get(outcome.table, ())],
        }
        for outcome in scale.tables
        if outcome.was_run
    ]
    return {
        "name": name,
        "about": f"{about.capitalize()}. {NOTES.get(scale.profile, '')}".strip(". "),
        "id": scale.profile,
        "was_run": True,
        "rows_run": run,
        "rows": rows,
        "counts": scale.count_verdicts(),
        "chance": chance(scale),
        "false": f"{expected_false(scale.count_verdicts()):.1f}",
        "claims": [_figure(f) for f in figures.get(CLAIMS, ())],
        "not_confirmed": not_confirmed(scale, report.runs.causes),
        "claims_not_run": not_run(scale),
        "sections": sections,
        "missing": [(s.title, "; ".join(names)) for s, names in scale.without_run()],
        "examples": [_examples(*found) for found in scale.examples(report.runs)],
        "runs": runs_table(scale, report.runs),
    }


def _figure(figure: Figure) -> dict[str, str]:
    return {
        "title": figure.title,
        "caption": figure.caption,
        "svg": inline_svg(figure.svg, f"{figure.title}. {figure.caption}"),
    }


def _examples(title: str, folder: Path, examples: Examples) -> dict[str, Any]:
    pictures = [
        {
            "data": base64.b64encode((folder / picture.file).read_bytes()).decode(),
            "width": picture.width,
            "height": picture.height,
            "image_id": picture.image_id,
        }
        for picture in examples.pictures
    ]
    return {
        "title": title,
        "seed": examples.record.seed,
        "run": examples.record.id,
        "dataset": examples.dataset,
        "threshold": examples.score_threshold,
        "pictures": pictures,
    }
