"""`ablation.json`: an own ablation as it was planned, beside its table.

It fixes the number of seeds of what is expected before the runs, as `plan.json` does for the
paper's claims, and it says which runs are whose, so that a report needs none of the configs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mask_rcnn_repro.records.record import Record, read_json, validated
from mask_rcnn_repro.utils.atomic import atomic_write_text
from mask_rcnn_tools.evidence.claims import Claim, Term
from mask_rcnn_tools.evidence.groups import RowGroup
from mask_rcnn_tools.evidence.results import is_complete
from mask_rcnn_tools.evidence.rows import Row
from mask_rcnn_tools.evidence.verdicts import FEWEST_SEEDS, Planned

ABLATION_FILE = "ablation.json"
ABLATION_VERSION: Literal[1] = 1


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class PlannedRun(_Section):
    """A run of a row."""

    seed: int = Field(description="`train.seed`.")
    hash: str = Field(description="Of its config, as the record has it.")


class AblationRow(_Section):
    """A row."""

    name: str = Field(description="In the table.")
    config: str = Field(description="Id of its config.")
    overrides: list[str] = Field(description="That make it from the config: those of a sweep.")
    settings: dict[str, str] = Field(description="Keys of the sweep with its values.")
    control: str | None = Field(description="`config` and `overrides` of the control, with blanks.")
    paper: tuple[str, str] | None = Field(description="The row of the paper that it is.")
    runs: list[PlannedRun] = Field(description="One for each seed.")


class Expected(_Section):
    """What is expected of a row."""

    row: str = Field(description="`config` and `overrides` of the row.")
    control: str = Field(description="Those of the control.")
    text: str = Field(description="In words.")
    metric: str = Field(description="Such as `segm/AP`.")
    relation: Literal["greater", "nearly equal", "at least"] = Field(description="To the control.")
    margin: float = Field(ge=0, description="In points.")
    seeds: int | None = Field(
        description="Number of seeds, fixed by the first command with three or more; else null."
    )


class Ablation(_Section):
    """The file."""

    schema_version: Literal[1] = Field(default=ABLATION_VERSION, description="Of this schema.")
    table: str = Field(description="Name of the ablation.")
    title: str = Field(description="Heading.")
    profile: str = Field(description="Scale of the runs.")
    swept: list[str] = Field(description="Keys of a sweep.")
    rows: list[AblationRow] = Field(description="In the order shown.")
    expected: list[Expected] = Field(description="Judged.")

    def group(self) -> RowGroup:
        """The ablation as a table."""
        rows = tuple(self._row(row) for row in self.rows)
        by_id = {row.id: row for row in rows}
        claims = tuple(
            Claim(
                e.row,
                e.text,
                e.relation,
                e.metric,
                None,
                (
                    Term(1, *by_id[e.row].key, e.metric),
                    Term(-1, *by_id[e.control].key, e.metric),
                ),
                own_margin=e.margin,
            )
            for e in self.expected
        )
        planned = {(e.row, e.metric): Planned(e.seeds, None) for e in self.expected if e.seeds}
        return RowGroup(self.table, self.title, rows, claims, tuple(self.swept), True, "", planned)

    def _row(self, row: AblationRow) -> Row:
        return Row(
            self.table,
            row.name,
            row.config,
            row.control,
            paper=row.paper,
            overrides=tuple(row.overrides),
            settings=tuple(row.settings.items()),
        )

    def runs_of(self, row: Row, records: Sequence[Record]) -> dict[int, Record]:
        """The complete records of a row by seed, of several the last.

        Args:
            row: of :meth:`group`.
            records: any, oldest first.
        """
        (own,) = [r for r in self.rows if r.name == row.name]
        wanted = {(run.seed, run.hash) for run in own.runs}
        return {r.seed: r for r in records if (r.seed, r.config.hash) in wanted and is_complete(r)}


def load_ablation(file: Path) -> Ablation:
    """Reads the file.

    Raises:
        RecordError: it is not JSON, or does not follow the schema.
    """
    content = read_json(file, "plan of an ablation")
    what = "is no plan of an ablation"
    return validated(Ablation, content, repr(str(file)), ABLATION_VERSION, what)


def planned_ablation(
    group: RowGroup,
    profile: str,
    runs: Mapping[str, Mapping[int, str]],
    seeds: Sequence[int],
    folder: Path,
) -> Ablation:
    """What is to be written before the runs. Numbers of seeds that the file fixes already stay.

    Args:
        group: an own ablation.
        profile: scale of the runs.
        runs: id of a row to seed to hash of the config.
        seeds: asked for.
        folder: that has the file, if there is one.

    Raises:
        RecordError: the file there cannot be read.
    """
    file = folder / ABLATION_FILE
    earlier = load_ablation(file) if file.is_file() else None

    def terms(e: Expected) -> tuple[object, ...]:
        return e.row, e.control, e.metric, e.relation, e.margin

    fixed = {terms(e): e.seeds for e in earlier.expected} if earlier else {}
    asked = len(seeds) if len(seeds) >= FEWEST_SEEDS else None
    controls = {row.id: row.control for row in group.rows}
    expected = []
    for claim in group.claims:
        made = Expected(
            row=claim.id,
            control=str(controls[claim.id]),
            text=claim.text,
            metric=claim.metric,
            relation=claim.relation,  # type: ignore[arg-type]
            margin=claim.margin,
            seeds=asked,
        )
        expected.append(made.model_copy(update={"seeds": fixed.get(terms(made)) or asked}))
    rows = [
        AblationRow(
            name=row.name,
            config=row.config,
            overrides=list(row.overrides),
            settings=dict(row.settings),
            control=row.control,
            paper=row.printed,
            runs=[PlannedRun(seed=s, hash=h) for s, h in runs[row.id].items()],
        )
        for row in group.rows
    ]
    return Ablation(
        table=group.table,
        title=group.title,
        profile=profile,
        swept=list(group.swept),
        rows=rows,
        expected=expected,
    )


def with_plan(group: RowGroup, ablation: Ablation) -> RowGroup:
    """The group with the numbers of seeds that the file fixes."""
    return dataclasses.replace(group, planned=ablation.group().planned)


def save_ablation(ablation: Ablation, folder: Path) -> Path:
    """Writes the file atomically into a directory, which is made; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(ablation.model_dump(mode="json"), indent=2)
    atomic_write_text(folder / ABLATION_FILE, text + "\n")
    return folder / ABLATION_FILE
