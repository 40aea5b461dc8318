"""Files of strangers: nothing in them is executed, no path in them leads out, none fills memory.

Each kind of file is really attacked; docs/security.md says what is protected.
"""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mask_rcnn_repro
from mask_rcnn_repro.config import load_config
from mask_rcnn_repro.data.coco.file import coco_file
from mask_rcnn_repro.data.coco.load import load_coco_json
from mask_rcnn_repro.data.generated.annotations import generated_source
from mask_rcnn_repro.data.loading.images import read_image
from mask_rcnn_repro.data.proposals.files import ProposalFile
from mask_rcnn_repro.engine.checkpoint.safe_load import safe_pickle_load, safe_torch_load
from mask_rcnn_repro.errors import CheckpointError, ConfigError, DataError, UserError
from mask_rcnn_repro.records.record import load_record

from .data_helpers import changed, content, write
from .proposal_helpers import random_proposals, write_folder

PACKAGE = Path(mask_rcnn_repro.__file__).parent

# What loads or runs something, and the only places where it may stand.
_DANGEROUS = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "np.load", "numpy.load",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "LazyConfig.load", "eval", "exec",
    "marshal.loads", "shelve.open", "joblib.load", "os.system", "os.popen", "cloudpickle.loads",
    "dill.load",
}  # fmt: skip
_ALLOWED = {
    ("engine/checkpoint/safe_load.py", "torch.load"),  # weights_only
    ("data/proposals/files.py", "np.load"),  # allow_pickle=False
    ("config/yaml_io.py", "yaml.load"),  # with a safe loader
    ("config/load.py", "LazyConfig.load"),  # config files are code
    ("config/targets.py", "eval"),  # annotations of functions that are imported already
}


def _calls() -> set[tuple[str, str]]:
    found = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in _DANGEROUS:
                    found.add((file.relative_to(PACKAGE).as_posix(), name))
                if name.startswith("subprocess."):
                    assert "shell" not in {k.arg for k in node.keywords}, file
                if name == "torch.load":
                    keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    assert keywords.get("weights_only") == "True", file
                if name in ("np.load", "np.save"):
                    keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    assert keywords.get("allow_pickle") == "False", file
    return found


def test_nothing_else_in_the_package_loads_or_runs_code() -> None:
    assert _calls() == _ALLOWED


class Evil:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def _record_file(file: Path) -> Any:
    return read_image({"file_name": str(file), "image_id": 1}, "BGR")


def _proposals(file: Path) -> Any:
    folder = file.parent / "proposals"
    if not folder.exists():
        write_folder(folder, random_proposals([1, 2, 3]))
    (folder / file.name).write_bytes(file.read_bytes())
    reader = ProposalFile(folder)
    return reader.get(reader.image_ids[0])


_READERS: list[tuple[str, Callable[[Path], Any]]] = [
    ("model.pth", safe_torch_load),
    ("model.pkl", safe_pickle_load),
    ("config.yaml", load_config),
    ("data.json", lambda file: load_coco_json(file, file.parent)),
    ("data.json", lambda file: coco_file(file).categories),
    ("data.json", lambda file: coco_file(file).content),
    ("generated.json", generated_source),
    ("record.json", load_record),
    ("image.png", _record_file),
    ("image.jpg", _record_file),
    *((name, _proposals) for name in ("info.json", "image_ids.json", "boxes.npy", "offsets.npy")),
]


@pytest.mark.parametrize(("name", "read"), _READERS)
def test_a_pickle_in_place_of_every_file(
    tmp_path: Path, name: str, read: Callable[[Path], Any]
) -> None:
    marker = tmp_path / "executed"
    payload = pickle.dumps(Evil(marker))
    pickle.loads(payload)  # it is a weapon
    marker.rmdir()
    (tmp_path / name).write_bytes(payload)
    with pytest.raises(UserError):
        read(tmp_path / name)
    assert not marker.exists()


def test_arrays_of_objects(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    for name in ("boxes.npy", "scores.npy", "offsets.npy"):
        np.save(tmp_path / name, np.array([Evil(marker)] * 2, object), allow_pickle=True)
        with pytest.raises(DataError, match=r"plain \.npy"):
            _proposals(tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize(
    "text",
    [
        "model: !!python/object/apply:os.mkdir ['{marker}']",
        "model: !!python/object/new:os.mkdir ['{marker}']",
        "model: !!python/name:os.system",
        "model: !!python/module:antigravity",
        "train: {{max_iter: !!python/object/apply:eval [\"__import__('os').mkdir('{marker}')\"]}}",
    ],
)
def test_yaml_tags(tmp_path: Path, text: str) -> None:
    marker = tmp_path / "executed"
    file = tmp_path / "config.yaml"
    file.write_text(text.format(marker=marker))
    with pytest.raises(ConfigError):
        load_config(file)
    with pytest.raises(ConfigError):
        load_config(
            "quickstart/mask_rcnn_r18_fpn",
            "tiny",
            [text.format(marker=marker).replace(": ", "=", 1)],
        )
    assert not marker.exists()


def test_yaml_that_unfolds_without_end(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    file = tmp_path / "config.yaml"
    file.write_text("\n".join(lines))
    with pytest.raises(ConfigError):
        load_config(file)


def _nested(depth: int) -> bytes:
    """A pickle of a tuple of twice the same tuple, and so on: 2 ** depth in all."""
    body = b")q\x00"
    for n in range(1, depth):
        body += b"h" + bytes([n - 1]) + b"\x86q" + bytes([n])
    return b"\x80\x02" + body + b"."


@pytest.mark.parametrize(
    "payload",
    [
        b"\x80\x02c__builtin__\nbytearray\nq\x00\x8a\x06"
        + (10**13).to_bytes(6, "little")
        + b"\x85R.",
        b"\x80\x02c__builtin__\nbytes\nq\x00\x8a\x06" + (10**13).to_bytes(6, "little") + b"\x85R.",
        b"\x80\x04\x96" + (10**15).to_bytes(8, "little") + b".",
        b"\x80\x04\x8e" + (10**15).to_bytes(8, "little") + b"x.",
        b"\x80\x04\x8d" + (10**15).to_bytes(8, "little") + b"x.",
    ],
    ids=["bytearray", "bytes", "long bytearray", "long bytes", "long text"],
)
def test_pickles_that_ask_for_memory(tmp_path: Path, payload: bytes) -> None:
    file = tmp_path / "bomb.pkl"
    file.write_bytes(payload)
    with pytest.raises(CheckpointError):
        safe_pickle_load(file)
    archive = io.BytesIO()
    torch.save({"w": torch.zeros(2)}, archive)
    with (
        zipfile.ZipFile(archive) as source,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w") as target,
    ):
        for part in source.infolist():
            target.writestr(
                part, payload if part.filename.endswith("data.pkl") else source.read(part)
            )
    with pytest.raises(CheckpointError):
        safe_torch_load(tmp_path / "bomb.pth")


def test_pickles_that_name_the_same_again_and_again(tmp_path: Path) -> None:
    (tmp_path / "deep.pkl").write_bytes(_nested(60))
    code = (
        "import sys; from mask_rcnn_repro.engine.checkpoint.safe_load import safe_pickle_load;"
        "value = safe_pickle_load(sys.argv[1]);"
        "print(len(value))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "deep.pkl")],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )
    assert done.stdout == "2\n", done.stderr


def test_archives_that_grow(tmp_path: Path) -> None:
    saved = io.BytesIO()
    torch.save({"w": torch.zeros(1000)}, saved)
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(packed, "w") as target:
        for part in source.infolist():
            target.writestr(part.filename, source.read(part), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="larger than the file"):
        safe_torch_load(packed)


def _npy(shape: tuple[int, ...], header: str | None = None) -> bytes:
    text = header or repr({"descr": "<f4", "fortran_order": False, "shape": shape})
    body = text.encode() + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(body)) + body + b"\x00" * 64


@pytest.mark.parametrize(
    "content",
    [
        _npy((10**12, 4)),
        _npy((2**62, 4)),
        _npy((), "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "(" * 5000 + ")"),
        _npy((), "__import__('os').mkdir('executed')"),
        _npy((), repr({"descr": "<V1000000000000", "fortran_order": False, "shape": (1,)})),
        _npy((), repr({"descr": "|O", "fortran_order": False, "shape": (1,)})),
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{",
        b"PK\x03\x04" + b"\x00" * 60,
    ],
)  # fmt: skip
def test_npy_headers(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "boxes.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"boxes\.npy"):
        _proposals(tmp_path / "boxes.npy")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "a/../../secret.png",
        "..\\secret.png",
        "/etc/passwd",
        "C:\\secret.png",
        "\\\\host\\share\\x.png",
        "//etc/passwd",
        "a/..",
        "x\0.png",
        "x\n.png",
        "\x1b[2J.png",
    ],
)
def test_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    file, root = write(tmp_path, content(1))
    write(tmp_path, changed(content(1), ("images", 0, "file_name"), name), images=False)
    with pytest.raises(DataError, match=r"leaves the image folder|must be a file name"):
        load_coco_json(file, root)


@pytest.mark.parametrize(
    "name", ["http://localhost/x.png", "file:///etc/passwd", "s3://a/b.png", "~/x.png", "$HOME/x"]
)
def test_addresses_are_names_below_the_folder(tmp_path: Path, name: str) -> None:
    file, root = write(tmp_path, content(1))
    write(tmp_path, changed(content(1), ("images", 0, "file_name"), name), images=False)
    with pytest.raises(DataError, match="images looked for are missing"):
        load_coco_json(file, root)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    """A reader would wait for ever, or read until the memory is full."""
    os.mkfifo(tmp_path / "pipe.jpg")
    os.symlink("/dev/zero", tmp_path / "zero.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.jpg", "zero.png", "folder.png"):
        with pytest.raises(DataError, match="not a file"):
            _record_file(tmp_path / name)


def test_links_are_followed(tmp_path: Path) -> None:
    """As documented: a json cannot make links, and data sets are often put together by them."""
    file, root = write(tmp_path, content(1))
    os.rename(Path(root, "10.jpg"), tmp_path / "elsewhere.jpg")
    os.symlink(tmp_path / "elsewhere.jpg", Path(root, "10.jpg"))
    (record,) = load_coco_json(file, root).dicts
    assert read_image(record, "BGR").shape == (30, 40, 3)


def test_files_beyond_the_limit(tmp_path: Path) -> None:
    with open(tmp_path / "huge.png", "wb") as huge:
        huge.truncate((1 << 30) + 1)  # sparse: takes no room
    with pytest.raises(DataError, match="bytes; more than"):
        _record_file(tmp_path / "huge.png")


def test_text_of_a_json_stays_text(tmp_path: Path) -> None:
    """Class names with formatting or interpolation in them mean nothing."""
    data = content(1)
    data["categories"][0]["name"] = "${oc.env:HOME} {0.__class__} %s !!python/name:os.system"
    loaded = load_coco_json(*write(tmp_path, data))
    assert loaded.categories is not None
    assert loaded.categories.names[1] == data["categories"][0]["name"]
    assert json.loads(json.dumps(loaded.categories.names))[1].startswith("${oc.env")
