"""Records that count for a job. Such jobs are not run again, and tables are made of the records.

The rule is that of :mod:`mask_rcnn_tools.evidence.results`: the run is complete, and the hash of
its config equals that of the present config. The same holds for the runs that it depends on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mask_rcnn_repro.config.stored_proposals import keeps_rpn
from mask_rcnn_repro.data.proposals.files import proposals_exist
from mask_rcnn_repro.engine.dependencies import data_sets
from mask_rcnn_repro.engine.run import RECORD_FILE
from mask_rcnn_repro.engine.stages.prepare import PROPOSAL_FOLDER
from mask_rcnn_repro.engine.stages.pretrained import find_weights
from mask_rcnn_repro.errors import RecordError
from mask_rcnn_repro.records.record import Record, load_record
from mask_rcnn_tools.evidence.results import is_complete, record_files
from mask_rcnn_tools.tables.jobs import Job
from mask_rcnn_tools.tables.plan import Plan

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A record and its location.

    Attributes:
        record: The record.
        file: Its file.
        local: Whether it is in the directory of a run instead of the collected results.
    """

    record: Record
    file: Path
    local: bool


def beside(found: Found, name: str) -> Path:
    """Returns the path of a file that belongs to a record, such as `curves.json`."""
    return found.file.with_name(name if found.local else f"{found.file.stem}.{name}")


def find_records(output_root: Path, results: Path | None) -> list[Found]:
    """Returns all records of runs and of collected results, oldest first. Logs broken ones.

    Args:
        output_root: Directory of all runs.
        results: Directory of collected records. None for none.
    """
    files = [(file, True) for file in output_root.rglob(RECORD_FILE)]
    if results is not None:
        files += [(file, False) for file in record_files(results)]
    found = []
    for file, local in files:
        try:
            found.append(Found(load_record(file), file, local))
        except RecordError as error:
            logger.warning("Left aside: %s", str(error).partition("\n")[0])
    return sorted(found, key=lambda f: (f.record.created, f.local))


def find_valid(job: Job, records: Sequence[Found]) -> Found | None:
    """Returns the newest record that counts for a job. None if there is none.

    Args:
        job: A row or a stage. For an evaluation for a server, the record in its directory.
        records: Any records, oldest first.
    """
    if job.kind == "server":
        return _evaluation(job, records)
    counting = [f for f in records if counts(job, f.record)]
    return counting[-1] if counting else None


def counts(job: Job, record: Record) -> bool:
    """Returns whether a record is of a complete run of a job."""
    if record.config.hash != job.hash or record.seed != job.seed:
        return False
    if not is_complete(record):
        return False
    for key, stage in job.inputs:
        source = getattr(record, key)
        if source is None or (source.hash, source.seed) != (stage.hash, stage.seed):
            return False
    return True


def _evaluation(job: Job, records: Sequence[Found]) -> Found | None:
    """Returns the record of the weights that are there now."""
    trained = job.inputs[0][1].record_file
    of = {found.file: found for found in records}
    if trained not in of or job.record_file not in of:
        return None
    weights, evaluated = (of[f].record.checkpoint for f in (trained, job.record_file))
    same = weights and evaluated and weights.sha256 == evaluated.sha256
    return of[job.record_file] if same else None


def stage_is_ready(stage: Job, key: str, job: Job) -> bool:
    """Returns whether the files that a job takes from a stage exist.

    Args:
        stage: The stage.
        key: Key in `job.inputs`. `proposals` needs weights and stored proposals, others weights.
        job: The job that needs it.
    """
    if stage.run.is_classifier:
        return find_weights(stage.run) is not None
    if key == "proposals" and job.iterations > 0 and not keeps_rpn(job.cfg):
        sets = [data for split in ("train", "test") for data in data_sets(job.cfg, split)]
        folders = [stage.folder / PROPOSAL_FOLDER / data.folder for data in sets]
        if all(proposals_exist(folder) for folder in folders):
            return True  # of another RPN, perhaps; then the run reports it
    if not (stage.record_file.is_file() and stage.checkpoint.is_file()):
        return False
    try:
        return counts(stage, load_record(stage.record_file))
    except RecordError:
        return False


def jobs_to_run(plan: Plan, records: Sequence[Found], ignore_results: bool) -> list[Job]:
    """Returns the jobs without a record that counts, and those that they need first, in order.

    Args:
        plan: Plan of the table.
        records: From :func:`find_records`.
        ignore_results: Ignore collected records.
    """
    known = [found for found in records if found.local] if ignore_results else records
    wanted: set[Job] = set()

    def add(job: Job) -> None:
        wanted.add(job)
        for key, stage in job.inputs:
            if stage not in wanted and not stage_is_ready(stage, key, job):
                add(stage)

    for row in plan.rows:
        for job in row.jobs.values():
            if find_valid(job, known) is None:
                add(job)
        for job in row.server.values():
            weights = job.inputs[0][1]
            here = weights in wanted or weights.checkpoint.is_file()
            if here and find_valid(job, known) is None:
                add(job)
    return [job for job in plan.jobs if job in wanted]
