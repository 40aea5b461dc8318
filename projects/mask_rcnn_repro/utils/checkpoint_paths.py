"""Local files of checkpoint addresses."""

from __future__ import annotations

import os

from detectron2.utils.file_io import PathManager

from mask_rcnn_repro.errors import CheckpointError

_STAGE = "stage://"


def stage_of(path: str) -> str | None:
    """Returns the config of a pre-training stage whose weights a path stands for, else None."""
    return path.removeprefix(_STAGE) if path.startswith(_STAGE) else None


def local_path(path: str) -> str:
    """Resolves an address or path to an existing local file.

    Raises:
        CheckpointError: If it cannot be fetched or does not exist.
    """
    try:
        local = PathManager.get_local_path(path.partition("?")[0])
    except Exception as error:  # of any type, from the network or a catalog
        raise CheckpointError(
            f"Checkpoint {path!r} cannot be fetched: {type(error).__name__}: {error}. Check the "
            "address and the network, or download the file and give its local path."
        ) from error
    _check_is_file(path, local)
    return local


def check_exists(path: str) -> None:
    """Checks that a local checkpoint exists; addresses and the empty path are not checked.

    Raises:
        CheckpointError: If the file does not exist.
    """
    if path and "://" not in path:
        _check_is_file(path, path.partition("?")[0])


def _check_is_file(path: str, local: str) -> None:
    if os.path.isdir(local):
        inside = sorted(name for name in os.listdir(local) if name.endswith(".pth"))
        raise CheckpointError(
            f"Checkpoint {path!r} is a directory. Give a file in it: "
            f"{', '.join(inside) or 'it has no .pth file'}."
        )
    if not os.path.isfile(local):
        raise CheckpointError(
            f"Checkpoint {path!r} does not exist (looked for {os.path.abspath(local)!r}). Give the "
            "path of an existing .pth, .pyth, .pkl or .safetensors file."
        )
