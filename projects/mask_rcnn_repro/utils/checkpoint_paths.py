"""Where checkpoints lie: addresses to local files, and whether a file is there."""

from __future__ import annotations

import os

from detectron2.utils.file_io import PathManager

from mask_rcnn_repro.errors import CheckpointError


def local_path(path: str) -> str:
    """Resolves an address or path; what comes back is an existing local file.

    Raises:
        CheckpointError: It cannot be fetched, or there is no such file.
    """
    try:
        local = PathManager.get_local_path(path.partition("?")[0])
    except Exception as error:  # whatever the network or a catalogue raises
        raise CheckpointError(
            f"Checkpoint {path!r} cannot be fetched: {type(error).__name__}: {error}. Check the "
            "address and the network, or download it and give the local path."
        ) from error
    _check_is_file(path, local)
    return local


def check_exists(path: str) -> None:
    """Refuses the path of a file that is not there, before work that would be in vain.

    An address is fetched when it is loaded, and an empty path loads nothing.

    Raises:
        CheckpointError: There is no such file.
    """
    if path and "://" not in path:
        _check_is_file(path, path.partition("?")[0])


def _check_is_file(path: str, local: str) -> None:
    if not os.path.isfile(local):
        raise CheckpointError(
            f"Checkpoint {path!r} does not exist (looked for {os.path.abspath(local)!r}). Give the "
            "path of an existing .pth, .pyth or .pkl file."
        )
