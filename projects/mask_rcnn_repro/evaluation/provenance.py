"""Where a result comes from: code, versions, hardware, data, weights."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mask_rcnn_repro

_COUNTED_BYTES = 200 * 2**20
"""Annotation files above this size are hashed but not parsed: that takes gigabytes."""


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
    """Identifies the data set of a loader's config node.

    Args:
        loader: ``cfg.dataloader.train`` or ``.test``; None gives None.

    Returns:
        The fields of a record's data set, or None if the node names no registered data set.
    """
    dataset = loader.get("dataset") if loader is not None else None
    names = dataset.get("names") if dataset is not None else None
    if not names:
        return None
    names = [names] if isinstance(names, str) else list(names)
    parts = [_one_dataset(name) for name in names]
    if len(parts) == 1:
        return parts[0]
    digest = hashlib.sha256("".join(part["fingerprint"] for part in parts).encode()).hexdigest()
    return {
        "name": "+".join(names),
        "fingerprint": f"sha256:{digest}",
        "images": _sum(part["images"] for part in parts),
        "instances": _sum(part["instances"] for part in parts),
    }


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def dicts_sha256(dicts: Iterable[Any]) -> str:
    """SHA-256 of data set dicts; of file names only the last part counts."""
    digest = hashlib.sha256()
    for record in dicts:
        stable = {
            key: os.path.basename(value) if key.endswith("file_name") else value
            for key, value in record.items()
        }
        text = json.dumps(stable, sort_keys=True, default=_jsonable)
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()


def _one_dataset(name: str) -> dict[str, Any]:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    metadata = MetadataCatalog.get(name)
    files = metadata.get("json_files") or [metadata.get("json_file")]
    if files[0] is not None and all(os.path.isfile(file) for file in files):
        stamps = [(os.fspath(f), os.stat(f).st_size, os.stat(f).st_mtime_ns) for f in files]
        digest, images, instances = _files_content(tuple(stamps))
    else:
        dicts = DatasetCatalog.get(name)
        digest, images = dicts_sha256(dicts), len(dicts)
        instances = sum(len(record.get("annotations", ())) for record in dicts)
    return {
        "name": name,
        "fingerprint": f"sha256:{digest}",
        "images": images,
        "instances": instances,
    }


@functools.lru_cache(maxsize=8)
def _files_content(stamps: tuple[tuple[str, int, int], ...]) -> tuple[str, int | None, int | None]:
    """Hash, images and annotations of json files, given as (path, size, time of change)."""
    hashes = [file_sha256(path) for path, _, _ in stamps]
    joined = "".join(hashes).encode()
    digest = hashes[0] if len(hashes) == 1 else hashlib.sha256(joined).hexdigest()
    if sum(size for _, size, _ in stamps) > _COUNTED_BYTES:
        return digest, None, None
    images = instances = 0
    for path, _, _ in stamps:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        images += len(content.get("images", ()))
        instances += len(content.get("annotations", ()))
    return digest, images, instances


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


def _jsonable(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _sum(values: Iterable[int | None]) -> int | None:
    listed = list(values)
    return None if None in listed else sum(v for v in listed if v is not None)
