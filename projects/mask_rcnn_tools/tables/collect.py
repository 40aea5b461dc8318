"""Copies the records of finished runs to the directory of collected results."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mask_rcnn_repro.records.curves import CURVES_FILE
from mask_rcnn_repro.records.record import save_record
from mask_rcnn_tools.evidence.image_bootstrap import BOOTSTRAP_FILE
from mask_rcnn_tools.evidence.results import recorded_file
from mask_rcnn_tools.tables.jobs import Job
from mask_rcnn_tools.tables.plan import Plan
from mask_rcnn_tools.tables.usable_records import Found, find_valid


@dataclass(frozen=True)
class Collected:
    """What was done with the record of a job.

    Attributes:
        job: The job.
        what: "written", "unchanged", or why nothing was done.
        file: Where the record is now. None if there is none.
    """

    job: Job
    what: str
    file: Path | None = None


def collect(plan: Plan, records: Sequence[Found], results: Path) -> list[Collected]:
    """Copies the records that count, of rows and of the stages that they depend on.

    A newer record that counts replaces one of the same config and seed. Runs with overrides are not
    runs of the config's row, and are not copied.

    Args:
        plan: Rows with their jobs.
        records: From :func:`~mask_rcnn_tools.tables.usable_records.find_records`.
        results: Directory. It is created if needed.
    """
    local = [found for found in records if found.local]
    return [_collect(job, local, results) for job in plan.jobs if job.kind != "server"]


def _collect(job: Job, records: Sequence[Found], results: Path) -> Collected:
    found = find_valid(job, records)
    if found is None:
        return Collected(job, "not run here")
    if job.folder.name != f"seed{job.seed}":
        return Collected(job, "not copied: its overrides make it a different row")
    # a row of an equal config counts for both, and is collected under the name that it was run by
    target = recorded_file(found.record.config.id, job.profile, job.seed, results)
    text = found.file.read_bytes()
    for name in (CURVES_FILE, BOOTSTRAP_FILE):
        if (found.file.parent / name).is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found.file.parent / name, target.with_suffix(f".{name}"))
    if target.is_file() and target.read_bytes() == text:
        return Collected(job, "unchanged", target)
    save_record(found.record, target)
    return Collected(job, "written", target)
