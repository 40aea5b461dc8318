"""Where a result comes from: code, versions, hardware, data, weights."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import mask_rcnn_repro


def code_info() -> dict[str, Any]:
    """Commit and dirtiness of the checkout that this package lies in; None outside one.

    ``results/`` does not count: there records are written.
    """
    package = Path(mask_rcnn_repro.__file__).resolve().parent
    top = _git(package, "rev-parse", "--show-toplevel")
    # Installed into an environment that lies in someone else's checkout: not our commit.
    if top is None or Path(top).resolve() not in package.parents:
        return {"commit": None, "dirty": None}
    if not _git(package, "ls-files", "--", "__init__.py"):
        return {"commit": None, "dirty": None}
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(Path(top), "status", "--porcelain", "--", ".", ":(exclude)results")
    if commit is None or changes is None:
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(changes)}


def versions() -> dict[str, str | None]:
    """Versions of Python, the libraries that matter, and this project."""
    import torch

    def installed(*names: str) -> str | None:
        for name in names:
            try:
                found = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
            return found if name == names[0] else f"{name} {found}"
        return None

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": installed("torchvision"),
        "detectron2": installed("detectron2", "sal-detectron2"),
        "numpy": installed("numpy"),
        "pycocotools": installed("pycocotools"),
        "mask_rcnn_repro": mask_rcnn_repro.__version__,
    }


def device_info(device: Any) -> dict[str, Any]:
    """Kind and model of a device.

    Args:
        device: a ``torch.device`` or its name.
    """
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        return {"type": "cuda", "name": torch.cuda.get_device_name(device), "threads": None}
    return {"type": "cpu", "name": _processor(), "threads": torch.get_num_threads()}


def checkpoint_info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Name and hash of a checkpoint; an address is kept as it is, of a path the last part."""
    from detectron2.utils.file_io import PathManager

    # an address that went through pathlib has lost a slash
    text = re.sub(r"^([a-z0-9]{2,}):/(?!/)", r"\1://", os.fspath(path))
    local = text
    if "://" in text:
        # loaded a moment ago, so this finds the copy in the cache
        try:
            local = PathManager.get_local_path(text.partition("?")[0])
        except Exception:
            return {"name": text, "sha256": None}
    name = text if "://" in text else os.path.basename(text)
    return {"name": name, "sha256": file_sha256(local) if os.path.isfile(local) else None}


def dataset_info(loader: Any) -> dict[str, Any] | None:
    """Identifies the data of a loader's config node.

    Args:
        loader: ``cfg.dataloader.train`` or ``.test``; None gives None.

    Returns:
        The fields of a record's data set, or None if the node names no data set.

    Raises:
        DataError: its files are missing or broken.
    """
    from mask_rcnn_repro.data import dataset_fingerprint

    dataset = loader.get("dataset") if loader is not None else None
    names = dataset.get("names") if dataset is not None else None
    if dataset is None or not names:
        return None
    names = names if isinstance(names, str) else list(names)
    facts = dataset_fingerprint(names, dataset.get("json"), dataset.get("image_root"))
    return {
        "name": "+".join(facts["names"]),
        "fingerprint": f"sha256:{facts['sha256']}",
        "images": facts["num_images"],
        "instances": facts["num_instances"],
    }


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _git(folder: Path, *command: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *command],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
