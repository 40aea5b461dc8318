"""Check that finished runs and stored proposals belong to the current config and data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from mask_rcnn_repro.config import claim_output_dir, config_hash
from mask_rcnn_repro.data import dataset_fingerprint
from mask_rcnn_repro.data.proposals.files import ProposalFile, check_proposals
from mask_rcnn_repro.engine.dependencies import (
    DataSet,
    check_stage_seeds,
    command,
    data_sets,
)
from mask_rcnn_repro.engine.run import Run
from mask_rcnn_repro.engine.stages.generated import facts_of, find_teacher, generated_file
from mask_rcnn_repro.errors import CheckpointError, ConfigError, DataError


def check_finished(run: Run, purpose: str) -> None:
    """Checks that a finished run is of its config and its data.

    Raises:
        ConfigError: It is of another config.
        DataError: It was trained on other data or other generated annotations.
    """
    check_config(run, purpose)
    record = run.finished_record()
    if record is None or record.train_data is None:
        return
    check_stage_seeds(run, record.model_dump())
    known = [(record.train_data, fingerprint(data_sets(run.cfg, "train")), "data")]
    file = generated_file(run, find_teacher(run, ()))
    if record.generated_data and file and file.is_file():  # else no longer needed
        now = facts_of(file)[0]["fingerprint"]
        what = f"generated annotations than those in {file} now"
        known.append((record.generated_data, now, what))
    for then, now, what in known:
        if then.fingerprint != now:
            raise DataError(
                f"The run in {run.folder}, which gives {purpose}, is stale: it was trained on "
                f"other {what} ({then.name}: {then.fingerprint[:19]}... then, {now[:19]}... now). "
                "Delete the folder to have it run again."
            )


def check_trained(run: Run, purpose: str) -> None:
    """Checks that a run has weights of its config (else CheckpointError or ConfigError)."""
    if not run.checkpoint.is_file():
        raise CheckpointError(
            f"There are no weights of {run.config_id}, {purpose}, in {run.folder}. An evaluation "
            f"trains nothing: run\n  {command(run)}\nfirst."
        )
    check_config(run, purpose)


def check_config(run: Run, purpose: str) -> None:
    """Checks that a directory holds the run of this config, or nothing (else ConfigError)."""
    try:
        if comm.is_main_process():
            claim_output_dir(run.folder, run.cfg)
    except ConfigError as error:
        raise stale(run, purpose, error) from None


def stale(run: Run, purpose: str, error: ConfigError) -> ConfigError:
    """Returns the error for a directory that holds the run of another config."""
    return ConfigError(
        f"{run.folder} is stale: {run.config_id}, which gives {purpose}, has changed since.\n"
        f"{error}\nDelete the folder to have it run again, with its proposals."
    )


def fingerprint(sets: Sequence[DataSet]) -> str:
    """Returns the fingerprint of data sets as records state it, "sha256:..."."""
    names = [data.name for data in sets]
    facts = dataset_fingerprint(names, sets[0].json, sets[0].image_root)
    return f"sha256:{facts['sha256']}"


def check_stored(rpn: Run, data: DataSet, folder: Path) -> None:
    """Checks that stored proposals are of this RPN, its weights and this data.

    Raises:
        DataError: They are of another config, of other weights, of other data or of its images at
            other bits.
    """
    check_proposals(folder, fingerprint=fingerprint([data]), source_hash=config_hash(rpn.cfg))
    record = rpn.finished_record()
    now = record.checkpoint.sha256 if record is not None and record.checkpoint else None
    source = ProposalFile(folder).info.source
    then, bits = source.get("checkpoint_sha256"), source.get("image_bits", data.image_bits)
    fault = ""
    if now is not None and then is not None and now != then:
        fault = (
            f"by other weights ({then[:12]}...) of {rpn.config_id} than beside them ({now[:12]}...)"
        )
    if bits != data.image_bits:
        fault = f"from images of {bits} bits (dataset.image_bits), which are now {data.image_bits}"
    if fault:
        raise DataError(
            f"The stored proposals in {folder} are stale: they were made {fault}. Delete {folder} "
            "to have them made again."
        )


def facts_of_run(run: Run, *stored: Path) -> dict[str, Any]:
    """Returns facts about a run that others depend on, for records and proposal files.

    The facts in its directories of proposals, `stored`, take precedence: its record may be gone.
    """
    record = run.finished_record()
    found = record.metrics.get("proposals") if record is not None else None
    facts = {
        "id": run.config_id,
        "hash": config_hash(run.cfg),
        "seed": run.cfg.train.seed,
        "checkpoint": record.checkpoint.sha256 if record and record.checkpoint else None,
        "recall": found.values() if found is not None else None,
    }
    for folder in stored[:1]:
        source = ProposalFile(folder).info.source
        known = {"checkpoint": source.get("checkpoint_sha256"), "recall": source.get("recall")}
        facts.update({key: value for key, value in known.items() if value is not None})
    return facts
