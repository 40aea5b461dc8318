"""Check that all hosts of a run see the same checkpoints."""

from __future__ import annotations

import logging
import secrets
import socket
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from mask_rcnn_repro.engine.checkpoint.checkpointer import find_last_checkpoint
from mask_rcnn_repro.errors import CheckpointError, UserError
from mask_rcnn_repro.records.provenance import file_sha256

logger = logging.getLogger(__name__)


def check_hosts_agree(folder: Path) -> None:
    """Checks that all hosts of a run would continue from the same checkpoint.

    Only the first process writes results. To resume a run whose output directory is not shared,
    each host needs a copy of the last checkpoint. All processes call it together.

    Raises:
        UserError: Hosts see different checkpoints. Raised in all processes.
    """
    if comm.get_world_size() == comm.get_local_size() or _is_shared(folder):
        return
    seen = comm.all_gather((f"{socket.gethostname()} (process {comm.get_rank()})", _last(folder)))
    if len({checkpoint for _, checkpoint in seen}) > 1:
        listed = "\n".join(f"  {host}: {checkpoint[0]}" for host, checkpoint in seen)
        raise UserError(
            f"The hosts of this run do not share {folder} and see different last checkpoints in "
            f"it:\n{listed}\nPut the folder (train.output_dir or train.output_root) on a disk that "
            "all hosts share, or copy it from the host that has written it to the others."
        )
    logger.info(
        "The hosts do not share %s: results are written on %s alone. To resume, the folder must "
        "be copied to the other hosts.",
        *(folder, seen[0][0]),
    )


def _is_shared(folder: Path) -> bool:
    """Returns whether all processes see a file that the first one makes."""
    token = folder / f".seen-{comm.all_gather(secrets.token_hex(8))[0]}"
    if comm.is_main_process():
        token.touch()
    try:
        comm.synchronize()
        return all(comm.all_gather(token.is_file()))
    finally:
        if comm.is_main_process():
            token.unlink(missing_ok=True)


def _last(folder: Path) -> tuple[str, Any]:
    """Returns the name and the digest of the last checkpoint."""
    try:
        file = find_last_checkpoint(folder)
    except CheckpointError as error:
        return str(error), None
    return ("no checkpoint", None) if file is None else (file.name, file_sha256(file))
