"""What a training writes beside `metrics.json`: TensorBoard, CSV, and trackers of experiments.

Each of them gets the name of the run, its config and tags, metrics by iteration, the final metrics
as a table, and drawn images. A resumed training continues its run of a tracker.
"""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import os
import re
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils.events import TensorboardXWriter, get_event_storage
from omegaconf import DictConfig
from PIL import Image

from mask_rcnn_repro.config import format_config, to_plain
from mask_rcnn_repro.engine.extensions import RunWriter
from mask_rcnn_repro.engine.run import Run
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.records import Record
from mask_rcnn_repro.utils.atomic import atomic_write, atomic_write_text
from mask_rcnn_tools.common.text_tables import Table

PROJECT = "mask-rcnn-repro"
"""Project or experiment of the trackers, unless their environment variables name another one."""

IDS_FILE = "trackers.json"
"""File in the directory of a run with its ids by tracker; of Trackio its name."""

_EXTRAS = ("wandb", "mlflow", "trackio")
_WINDOW = 20  # iterations of a median, as in Detectron2's writers
_PER_CALL = 100  # MLflow takes at most as many parameters at once
_LONGEST = 500  # characters of a parameter that all versions of MLflow store
_LONGEST_TAG = 64  # that wandb accepts


def check_installed(cfg: DictConfig) -> None:
    """Checks that the libraries of `train.writers` are installed.

    Raises:
        ConfigError: One is not. Names the extra to install.
    """
    for name in cfg.train.writers:
        if name in _EXTRAS and importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"train.writers has {name!r}, but the library {name} is not installed. Install the "
                f"extra {name}: pip install -e '.[{name}]' in a checkout, else "
                f"pip install 'mask-rcnn-repro[{name}]'."
            )


def build_writers(run: Run) -> list[RunWriter]:
    """Returns the writers of `train.writers`. TensorBoard comes first, since others drop images.

    Raises:
        ConfigError: A library is not installed, or its tracker cannot be started.
    """
    check_installed(run.cfg)
    names = dict.fromkeys(run.cfg.train.writers)
    return [_start(_WRITERS[name], name, run) for name in _WRITERS if name in names]


def _start(kind: Callable[[Run], RunWriter], name: str, run: Run) -> RunWriter:
    try:
        return kind(run)
    except Exception as error:  # of a library: no account, no network, a full disk
        raise ConfigError(
            f"train.writers: {name} could not be started ({type(error).__name__}: {error}). Set it "
            f"up, or omit {name} from train.writers."
        ) from error


def run_name(run: Run) -> str:
    """Returns the name of a run, such as `table2a/r50_fpn@mini/seed0`."""
    profile = "" if run.profile == "paper" else f"@{run.profile}"
    return f"{run.config_id}{profile}/{run.folder.name}"


def run_tags(run: Run) -> list[str]:
    """Returns tags to find a run by: config, profile, seed, and the row of the paper, if any."""
    paper = run.cfg.get("paper") or {}
    row = [f"table {paper['table']}", str(paper["row"])] if paper.get("row") else []
    tags = [run.config_id, run.profile, f"seed{run.cfg.train.seed}", *row]
    return [tag[-_LONGEST_TAG:] for tag in tags]


def final_metrics(record: Record) -> list[tuple[str, str, float]]:
    """Returns task, metric and value in percent of a record.

    AP by class is called `AP (class)`, and the value of `model_best.pth` such as `best AP`.
    """
    rows = []
    for task, metrics in record.metrics.items():
        classes = {f"AP ({name})": value for name, value in metrics.per_class.items()}
        values = {**metrics.values(), **(classes if len(classes) > 1 else {})}
        rows += [(task, name, value) for name, value in values.items() if value is not None]
    if record.best is not None:
        task, _, name = record.best.metric.partition("/")
        rows.append((task, f"best {name}", record.best.value))
    return rows


class _Writer(RunWriter):
    """Hands new scalars to :meth:`log`, those of a smoothed kind as medians."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._written = -1

    def write(self) -> None:
        """Logs the scalars that are newer than those of the last call."""
        storage, rows = get_event_storage(), dict[int, dict[str, float]]()
        for name, (value, iteration) in storage.latest_with_smoothing_hint(_WINDOW).items():
            if iteration > self._written:
                rows.setdefault(iteration, {})[name] = float(value)
        for iteration in sorted(rows):
            self.log(iteration, rows[iteration])
            self._written = iteration
        storage.clear_images()  # only TensorBoard's writer, which comes first, writes them
        storage.clear_histograms()

    @abstractmethod
    def log(self, iteration: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of an iteration."""


class _Tensorboard(TensorboardXWriter, RunWriter):
    def __init__(self, run: Run) -> None:
        super().__init__(str(run.folder / "tensorboard"))
        self._run = run

    def finish(self, record: Record, images: Sequence[Path]) -> None:
        board, step = self._writer, record.iterations_done
        board.add_text("run", f"{run_name(self._run)}: {', '.join(run_tags(self._run))}", step)
        board.add_text("config", f"```yaml\n{format_config(self._run.cfg)}\n```", step)
        board.add_text("results", _table(record).markdown(), step)
        for file in images:
            picture = np.asarray(Image.open(file).convert("RGB"))
            board.add_image(f"drawings/{file.stem}", picture, step, dataformats="HWC")
        board.close()


class _Csv(_Writer):
    """`metrics.csv` with a row per iteration, and `results.csv`. Pictures are in `drawings`."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._file = run.folder / "metrics.csv"
        self._rows: dict[int, dict[str, Any]] = {}
        self._columns = ["iteration"]
        self._resumed = self._file.is_file()
        if self._resumed:
            with self._file.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    self._keep(int(row["iteration"]), {k: v for k, v in row.items() if v})

    def log(self, iteration: int, scalars: Mapping[str, float]) -> None:
        if self._resumed:  # what was done after the checkpoint is done again
            self._rows = {k: row for k, row in self._rows.items() if k <= iteration}
        appends = not self._resumed and iteration not in self._rows and self._file.is_file()
        self._resumed = False
        appends = not self._keep(iteration, scalars) and appends
        if appends:
            with self._file.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(self._rows[iteration])
            return
        with atomic_write(self._file, text=True) as file:
            table = csv.DictWriter(file, self._columns)
            table.writeheader()
            table.writerows(self._rows[k] for k in sorted(self._rows))

    def _keep(self, iteration: int, scalars: Mapping[str, Any]) -> bool:
        """Keeps values of an iteration; returns whether there are new columns."""
        row = self._rows.setdefault(iteration, {"iteration": iteration})
        row.update({**scalars, "iteration": iteration})
        new = [name for name in sorted(scalars) if name not in self._columns]
        self._columns += new
        return bool(new)

    def finish(self, record: Record, images: Sequence[Path]) -> None:
        with atomic_write(self._run.folder / "results.csv", text=True) as file:
            csv.writer(file).writerows([("task", "metric", "percent"), *final_metrics(record)])


class _Wandb(_Writer):
    """Weights & Biases. `WANDB_MODE`, `WANDB_PROJECT` and its other variables have effect."""

    def __init__(self, run: Run) -> None:
        import wandb

        super().__init__(run)
        self._board = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_name(run),
            config=to_plain(run.cfg),
            tags=run_tags(run),
            dir=str(run.folder),
            id=_known_id(run, "wandb"),
            resume="allow",
        )
        _keep_id(run, "wandb", self._board.id)
        # wandb's own steps may not go back, as those of a resumed training do
        self._board.define_metric("iteration")
        self._board.define_metric("*", step_metric="iteration")

    def log(self, iteration: int, scalars: Mapping[str, float]) -> None:
        self._board.log({**scalars, "iteration": iteration})

    def finish(self, record: Record, images: Sequence[Path]) -> None:
        import wandb

        rows, pictures = (
            final_metrics(record),
            [wandb.Image(str(f), caption=f.stem) for f in images],
        )
        table = wandb.Table(columns=["task", "metric", "percent"], data=[list(r) for r in rows])
        self._board.log({"results": table, **({"drawings": pictures} if pictures else {})})
        self._board.summary.update({f"{task}/{name}": value for task, name, value in rows})
        self._board.finish()


class _Mlflow(_Writer):
    """MLflow. `MLFLOW_TRACKING_URI` and `MLFLOW_EXPERIMENT_NAME` have effect."""

    def __init__(self, run: Run) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        super().__init__(run)
        self._client = MlflowClient()
        self._id = _known_id(run, "mlflow") or ""
        if self._id:
            self._client.update_run(self._id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        tags = {"tags": ", ".join(run_tags(run)), "config": run.config_id, "profile": run.profile}
        started = self._client.create_run(experiment, run_name=run_name(run), tags=tags)
        self._id = started.info.run_id
        _keep_id(run, "mlflow", self._id)
        flat = [(_allowed(k), str(v)[:_LONGEST]) for k, v in _flat(to_plain(run.cfg)) if str(v)]
        for k in range(0, len(flat), _PER_CALL):
            part = [Param(key, value) for key, value in flat[k : k + _PER_CALL]]
            self._client.log_batch(self._id, params=part)
        self._client.log_text(self._id, format_config(run.cfg), "config.yaml")

    def log(self, iteration: int, scalars: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        rows = [Metric(_allowed(k), v, now, iteration) for k, v in scalars.items()]
        self._client.log_batch(self._id, metrics=rows)

    def finish(self, record: Record, images: Sequence[Path]) -> None:
        rows = [list(row) for row in final_metrics(record)]
        table = {"columns": ["task", "metric", "percent"], "data": rows}
        self._client.log_dict(self._id, table, "results.json")
        for file in images:
            self._client.log_artifact(self._id, str(file), "drawings")
        self._client.set_terminated(self._id)


class _Trackio(_Writer):
    """Trackio, which stores runs on this machine. It has no tags, so they are in the config."""

    def __init__(self, run: Run) -> None:
        import trackio

        super().__init__(run)
        config = {**dict(_flat(to_plain(run.cfg))), "tags": ", ".join(run_tags(run))}
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        name = _known_id(run, "trackio") or self._new_name(project, run_name(run))
        _keep_id(run, "trackio", name)
        self._board = trackio.init(project=project, name=name, config=config, resume="allow")

    @staticmethod
    def _new_name(project: str, name: str) -> str:
        """Numbers a name that a run in another directory has, since it resumes by name alone."""
        import trackio

        try:
            taken = {run.name for run in trackio.Api().runs(project)}
        except ValueError:  # there is no project yet
            taken = set()
        names = (f"{name} ({k})" if k > 1 else name for k in itertools.count(1))
        return next(new for new in names if new not in taken)

    def log(self, iteration: int, scalars: Mapping[str, float]) -> None:
        self._board.log(dict(scalars), step=iteration)

    def finish(self, record: Record, images: Sequence[Path]) -> None:
        import trackio

        rows = [list(row) for row in final_metrics(record)]
        table = trackio.Table(columns=["task", "metric", "percent"], data=rows)
        pictures = {f"drawings/{f.stem}": trackio.Image(str(f), caption=f.stem) for f in images}
        step = record.iterations_done
        self._board.log({"results": table, **pictures}, step=step)
        self._board.finish()


_WRITERS: dict[str, Callable[[Run], RunWriter]] = {
    "tensorboard": _Tensorboard,
    "csv": _Csv,
    "wandb": _Wandb,
    "mlflow": _Mlflow,
    "trackio": _Trackio,
}


def _table(record: Record) -> Table:
    rows = [(task, name, f"{value:.2f}") for task, name, value in final_metrics(record)]
    return Table(["task", "metric", "percent"], rows)


def _flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted keys and values of nested dicts; a list is one value."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, list) else value


def _allowed(name: str) -> str:
    """Replaces what MLflow does not allow in the name of a metric, such as the `@` of AR@1000."""
    return re.sub(r"[^\w\-./ ]", "_", name)


def _ids(run: Run) -> dict[str, str]:
    file = run.folder / IDS_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _known_id(run: Run, tracker: str) -> str | None:
    return _ids(run).get(tracker)


def _keep_id(run: Run, tracker: str, value: str) -> None:
    text = json.dumps({**_ids(run), tracker: value}, indent=2) + "\n"
    atomic_write_text(run.folder / IDS_FILE, text)
