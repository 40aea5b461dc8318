"""`curves.json` beside a record: learning curves, and precision over recall.

``docs/records.md`` is generated from the models below, which are the schema.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mask_rcnn_repro.evaluation.coco.precision_recall import RECALLS, Curve, PrecisionRecall
from mask_rcnn_repro.records.record import Record
from mask_rcnn_repro.utils.atomic import atomic_write_text

CURVES_FILE = "curves.json"
CURVES_VERSION: Literal[1] = 1
MAX_POINTS = 200  # of a learning curve

_DIGITS = 5  # significant digits of a loss


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


Point = tuple[int, float]
Precision = list[float]


class OfRecord(_Section):
    """Which record the curves belong to."""

    id: str = Field(min_length=1, description="The record's `config.id`.")
    hash: str = Field(pattern=r"^[0-9a-f]{12,64}$", description="Its `config.hash`.")
    seed: int = Field(description="Its `seed`.")
    created: str = Field(description="Its `created`.")


class TaskCurves(_Section):
    """Precision as a fraction at the 101 recalls 0.00, 0.01, ... 1.00, over all sizes.

    Interpolated as COCO does: at each recall the highest precision at it or at any higher one.
    """

    mean: Precision | None = Field(
        description="Mean over IoU 0.50 to 0.95 and over classes; its mean is AP. null: no objects."
    )
    at_50: Precision | None = Field(description="At IoU 0.50, over classes; its mean is AP50.")
    per_class_at_50: dict[str, Precision | None] = Field(
        description="At IoU 0.50 by class name; null: no such object."
    )

    @model_validator(mode="after")
    def _is_precision(self) -> TaskCurves:
        for curve in (self.mean, self.at_50, *self.per_class_at_50.values()):
            if curve is not None and len(curve) != RECALLS:
                raise ValueError(f"a curve has {len(curve)} points, not {RECALLS}")
            if curve is not None and not all(0 <= value <= 1 for value in curve):
                raise ValueError("a precision is not between 0 and 1")
        return self


class Curves(_Section):
    """What lies behind a record's numbers."""

    schema_version: Literal[1] = Field(description="Version of this schema.")
    record: OfRecord = Field(description="See below.")
    training: dict[str, list[Point]] = Field(
        description="`total_loss`, its parts and `lr`, each as pairs of iterations done and value; "
        f"at most {MAX_POINTS} pairs, each the mean over a stretch of iterations that ends there. "
        "Empty for `eval`."
    )
    evaluations: dict[str, list[Point]] = Field(
        description="Metric, such as `segm/AP`, to pairs of iterations done and percent, one for "
        "each evaluation that measured it."
    )
    precision_recall: dict[str, TaskCurves] = Field(
        description="Task to its curves; without those that have none (proposals, Cityscapes)."
    )

    @model_validator(mode="after")
    def _learning_is_in_order(self) -> Curves:
        for points in (*self.training.values(), *self.evaluations.values()):
            done = [iterations for iterations, _ in points]
            if any(d < 0 for d in done) or done != sorted(done):
                raise ValueError("iterations done do not ascend")
        return self


def make_curves(
    record: Record,
    metrics_file: str | os.PathLike[str] | None,
    precision_recall: Mapping[str, PrecisionRecall[str]],
) -> Curves:
    """Makes the curves of a run.

    Args:
        record: Record of the run.
        metrics_file: `metrics.json` of the run. May be None or missing if it did not train.
        precision_recall: The evaluator's `curves`, by task.
    """
    rows = metrics_rows(Path(metrics_file)) if metrics_file and record.mode == "train" else []
    training: dict[str, list[Point]] = {}
    evaluations: dict[str, list[Point]] = {}
    for row in sorted(rows, key=lambda row: row["iteration"]):
        # a row is written after its iteration; that of the last evaluation after all of them
        done = min(int(row["iteration"]) + 1, record.iterations_planned)
        for key, value in row.items():
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                continue
            if key == "lr" or key.rpartition("/")[2].startswith(("loss", "total_loss")):
                training.setdefault(key, []).append((done, float(value)))
            elif key.partition("/")[0] in record.metrics:
                evaluations.setdefault(key, []).append((done, round(float(value), 4)))
    return Curves(
        schema_version=CURVES_VERSION,
        record=record_identity(record),
        training={key: thinned(training[key]) for key in sorted(training)},
        evaluations={key: evaluations[key] for key in sorted(evaluations)},
        precision_recall={
            task: TaskCurves(
                mean=_rounded(curves.mean),
                at_50=_rounded(curves.at_50),
                per_class_at_50={k: _rounded(v) for k, v in curves.per_class_at_50.items()},
            )
            for task, curves in precision_recall.items()
        },
    )


def thinned(points: list[Point], most: int = MAX_POINTS) -> list[Point]:
    """Averages stretches of equally many points, so that at most `most` points remain.

    Each mean gets the iteration at which its stretch ends. The iterations of `points` ascend.
    """
    stretch = max(-(-len(points) // most), 1)
    result = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        mean = sum(value for _, value in part) / len(part)
        result.append((part[-1][0], float(f"{mean:.{_DIGITS}g}")))
    return result


def save_curves(curves: Curves, path: str | os.PathLike[str]) -> None:
    """Writes curves as JSON atomically, one curve per line."""
    atomic_write_text(path, _one_list_a_line(curves.model_dump(mode="json")) + "\n")


def record_identity(record: Record) -> OfRecord:
    """Returns what distinguishes a record from all others."""
    return OfRecord(
        id=record.config.id, hash=record.config.hash, seed=record.seed, created=record.created
    )


def metrics_rows(file: Path) -> list[dict[str, Any]]:
    """Returns the rows of `metrics.json` without a line that a kill truncated."""
    if not file.is_file():
        return []
    rows = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("iteration"), int):
            rows.append(row)
    return rows


def _rounded(curve: Curve | None) -> list[float] | None:
    return None if curve is None else [round(value, 4) for value in curve]


def _one_list_a_line(value: Any, indent: str = "") -> str:
    if not isinstance(value, dict) or not value:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    inner = indent + " "
    lines = [f"{inner}{json.dumps(k)}: {_one_list_a_line(v, inner)}" for k, v in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
