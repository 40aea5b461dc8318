"""Provenance of a result: code, versions, hardware, data, weights."""

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
    """Returns commit and dirtiness (``results/`` aside) of this package's checkout, or None."""
    package = Path(mask_rcnn_repro.__file__).resolve().parent
    none = {"commit": None, "dirty": None}
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() not in package.parents:
        return none
    # the package may be installed in an environment inside another project's checkout
    if not _git(package, "ls-files", "--", "__init__.py"):
        return none
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(Path(top), "status", "--porcelain", "--", ".", ":(exclude)results")
    if commit is None or changes is None:
        return none
    return {"commit": commit, "dirty": bool(changes)}


def versions() -> dict[str, str | None]:
    """Returns the versions of Python, the main libraries and this project."""
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
    """Returns kind and model of a device, which is a ``torch.device`` or its name."""
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        kinds = {"matmul": torch.backends.cuda.matmul, "convolution": torch.backends.cudnn}
        tf32 = [kind for kind, backend in kinds.items() if backend.allow_tf32]
        name = torch.cuda.get_device_name(device)
        return {"type": "cuda", "name": name, "threads": None, "tf32": tf32}
    return {"type": "cpu", "name": _processor(), "threads": torch.get_num_threads()}


def checkpoint_info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the name (an address, or the last part of a path) and the hash of a checkpoint."""
    from detectron2.utils.file_io import PathManager

    # an address that went through pathlib has lost a slash
    text = re.sub(r"^([a-z0-9]{2,}):/(?!/)", r"\1://", os.fspath(path))
    name, local = os.path.basename(text), text
    if "://" in text:
        name = text
        try:  # it was loaded before, so this finds the copy in the cache
            local = PathManager.get_local_path(text.partition("?")[0])
        except Exception:
            return {"name": text, "sha256": None}
    return {"name": name, "sha256": file_sha256(local) if os.path.isfile(local) else None}


def dataset_info(loader: Any) -> dict[str, Any] | None:
    """Returns the fields of a record's data set, or None if there is none.

    Args:
        loader: ``cfg.dataloader.train`` or ``.test``. May be None.

    Raises:
        DataError: Files of the data set are missing or broken.
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
        "image_bits": dataset.get("image_bits"),
    }


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _git(folder: Path, *command: str) -> str | None:
    git = ["git", "-C", str(folder), *command]
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=20, check=True)
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
