"""The wheel holds configs and numbers and works without the checkout; importing it is light."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mask_rcnn_embedded.cache import embedded_root
from mask_rcnn_repro.config import config_hash, get_config, list_configs

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy, so that the build leaves nothing in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("configs", "projects"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    result = subprocess.run(
        [*command, "--no-index", "--quiet", "-w", str(folder), "."],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    """The wheel's content in a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def python(code, path, folder, **environment):
    """Runs code that finds this project in `path` alone, from another folder; returns its json."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_the_wheel_holds_every_config_and_the_papers_numbers(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        f.relative_to(ROOT).as_posix()
        for f in (ROOT / "configs").rglob("*.py")
        if "__pycache__" not in f.parts
    }
    assert len(sources) > 10
    assert {f"mask_rcnn_repro/{name}" for name in sources} <= names
    modules = {
        f.relative_to(ROOT / "projects").as_posix()
        for f in (ROOT / "projects").rglob("*")
        if f.suffix in (".py", ".json", ".typed", ".j2") and "__pycache__" not in f.parts
    }
    assert {f"mask_rcnn_repro/paper/{n}.json" for n in ("tables", "claims")} <= modules <= names
    packages = {"mask_rcnn_embedded", "mask_rcnn_repro", "mask_rcnn_tools"}
    others = {n.split("/")[0] for n in names} - packages
    assert all(name.endswith(".dist-info") for name in others), "no tests, no folder `configs`"


def test_configs_load_from_the_wheel(unpacked, tmp_path):
    code = """
import json
import mask_rcnn_repro
from mask_rcnn_repro.config import config_hash, config_root, list_configs
from mask_rcnn_embedded.cache import embedded_root
from mask_rcnn_repro.paper import paper_numbers

cfg = mask_rcnn_repro.get_config("table2a/r50_c4", profile="mini")
mask_rcnn_repro.register()
print(json.dumps({
    "file": mask_rcnn_repro.__file__,
    "root": str(config_root()),
    "ids": list_configs(),
    "hash": config_hash(cfg),
    "row": cfg.paper.row,
    "ap": paper_numbers(cfg.paper.table, cfg.paper.row)["segm"]["AP"],
    "data": str(embedded_root()),
}))
"""
    found = python(code, unpacked, tmp_path, MASK_RCNN_REPRO_CACHE="")
    assert Path(found["file"]).parent == unpacked / "mask_rcnn_repro"
    assert Path(found["root"]) == unpacked / "mask_rcnn_repro" / "configs"
    assert found["ids"] == list_configs()
    assert found["hash"] == config_hash(get_config("table2a/r50_c4", "mini"))
    assert (found["row"], found["ap"]) == ("R50-C4", 30.3)
    assert not Path(found["data"]).is_relative_to(unpacked), "data is not written into packages"


def test_a_row_trains_from_the_wheel(unpacked, tmp_path):
    """A config outside takes its row from the wheel; the engine runs without the checkout."""
    (tmp_path / "mine.py").write_text(
        "from mask_rcnn_repro import get_config\n"
        '_row = get_config("table2a/r50_c4")\n'
        "model, dataloader, train = _row.model, _row.dataloader, _row.train\n"
        "optimizer, lr_multiplier = _row.optimizer, _row.lr_multiplier\n"
    )
    code = """
import contextlib, json, sys
from mask_rcnn_tools.train.cli import parse_args
from mask_rcnn_tools.train.main import main

with contextlib.redirect_stdout(sys.stderr):
    main(parse_args(["--config-file", "mine.py", "--profile", "tiny", "train.max_iter=1"]))
print(json.dumps("done"))
"""
    cache = str(embedded_root())  # not in the home folder
    assert python(code, unpacked, tmp_path, MASK_RCNN_REPRO_CACHE=cache) == "done"
    rpn, record = sorted(tmp_path.rglob("record.json"), key=lambda p: "mine" in str(p))
    assert rpn.parent.relative_to(tmp_path).as_posix() == "output/rpn/r50_c4@tiny/seed0"
    assert record.parent.relative_to(tmp_path).as_posix().startswith("output/mine@tiny/seed0")
    assert json.loads(record.read_text())["code"] == {"commit": None, "dirty": None}


@pytest.mark.parametrize("source", ["checkout", "wheel"])
def test_importing_the_package_is_light(source, request, tmp_path):
    path = ROOT / "projects" if source == "checkout" else request.getfixturevalue("unpacked")
    code = """
import json, sys
import mask_rcnn_repro
import mask_rcnn_repro.errors, mask_rcnn_tools.train.cli
names = dir(mask_rcnn_repro)
heavy = [m for m in ("torch", "detectron2", "omegaconf", "numpy", "cv2") if m in sys.modules]
print(json.dumps({"heavy": heavy, "names": names, "version": mask_rcnn_repro.__version__}))
"""
    found = python(code, path, tmp_path)
    assert found["heavy"] == []
    assert {"get_config", "load_config", "register"} <= set(found["names"])
    assert found["version"] in (ROOT / "CHANGELOG.md").read_text()
