"""Jobs that take no time: a stand-in for `train_net.py`, and records for them."""

from __future__ import annotations

import copy
import functools
import json
import sys
from pathlib import Path

from mask_rcnn_repro.config import get_config
from mask_rcnn_repro.records.record import Record, make_record
from mask_rcnn_tools.tables.jobs import Job

QUICKSTART = "quickstart/mask_rcnn_r18_fpn"

# Does what the job's name says, in the folder that `folders.json` beside it names for the job.
STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path
arguments = sys.argv[1:]
config = arguments[arguments.index("--config-file") + 1]
seed = arguments[arguments.index("--seed") + 1]
facts = json.loads(Path(__file__).with_name("folders.json").read_text())[f"{config} seed {seed}"]
folder = Path(facts["folder"])
folder.mkdir(parents=True, exist_ok=True)
log = Path(__file__).with_name("events.txt")
def note(event):
    with log.open("a") as file:
        file.write(f"{event} {config} {seed} {os.environ.get('CUDA_VISIBLE_DEVICES', '')} "
                   f"{os.environ.get('OMP_NUM_THREADS', '')}\\n")
def stop(number, frame):
    note("asked")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
note("begin")
if "fail" in config:
    print("first line\\n" + "x" * 500 + "\\nerror: the data are missing", flush=True)
    sys.exit(2)
if "slow" in config:
    (folder / "metrics.json").write_text('{"iteration": 3, "time": 0.1}\\n{"iterat')
    time.sleep(60)
while "pair" in config and log.read_text().count("begin") < 2:
    time.sleep(0.02)
if "silent" not in config:
    (folder / "record.json").write_text(json.dumps(facts["record"]))
note("end")
"""


@functools.cache
def template() -> Record:
    """A complete record of the quickstart at `tiny`."""
    cfg = get_config(QUICKSTART, "tiny")
    return make_record(
        cfg,
        config_id=QUICKSTART,
        profile="tiny",
        overrides=[],
        mode="train",
        metrics={"segm": {"AP": 1.0, "per_class": {}}},
        seconds_per_image={"data": 0.0, "inference": 0.5, "postprocess": 0.0, "total": 0.5},
        iterations_done=cfg.train.max_iter,
        checkpoint=None,
        train_seconds=20.0,
    )


def record(**changes: object) -> Record:
    """The template with some fields changed; `config__id` is that of a section."""
    content = template().model_dump()
    for key, value in copy.deepcopy(changes).items():  # sections are changed in place
        section, _, name = key.partition("__")
        if name:
            content[section][name] = value
        else:
            content[section] = value
    return Record.model_validate(content)


def job(folder: Path, config: str, seed: int = 0, inputs: tuple[tuple[str, Job], ...] = ()) -> Job:
    """A row of any name whose config is the quickstart's, and the stand-in knows its folder."""
    cfg = get_config(QUICKSTART, "tiny", seed=seed)
    made = Job("row", config, cfg, folder / "runs" / config / f"seed{seed}", (), inputs)
    file = folder / "folders.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    sources = {
        key: {"id": stage.config, "hash": stage.hash, "seed": stage.seed, "checkpoint": None}
        for key, stage in inputs
    }
    facts = record(config__hash=made.hash, seed=seed, **sources).model_dump(mode="json")
    known[made.name] = {"folder": str(made.folder), "record": facts}
    file.write_text(json.dumps(known))
    return made


def command(folder: Path) -> list[str]:
    """How the stand-in is started."""
    script = folder / "stand_in.py"
    script.write_text(STAND_IN)
    return [sys.executable, str(script)]


def events(folder: Path) -> list[list[str]]:
    """What the stand-ins noted: begin, end or asked; config, seed, GPUs, threads."""
    file = folder / "events.txt"
    return [line.split(" ") for line in file.read_text().splitlines()] if file.is_file() else []
