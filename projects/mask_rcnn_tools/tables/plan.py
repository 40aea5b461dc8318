"""From rows and seeds to the runs that they need: inputs first, equal configs once.

A row of a table that the paper measured on COCO's test-dev becomes two jobs: a training that is
evaluated on val, and an evaluation of its weights on test-dev, which writes the files for COCO's
server. The training is that of the val row which the row's config is made from, where only the
test data differ; else the row itself, on that row's test data.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from mask_rcnn_repro.config import (
    config_hash,
    config_id,
    config_root,
    default_output_dir,
    load_config,
)
from mask_rcnn_repro.config.from_data import fit_to_data
from mask_rcnn_repro.config.schema import train_defaults
from mask_rcnn_repro.config.serialization import WHERE_KEYS
from mask_rcnn_repro.engine.dependencies import (
    INHERITED,
    STAGES,
    dependency,
    override_text,
    pretraining_of,
    teacher_of,
)
from mask_rcnn_repro.engine.run import Run
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.registration import register
from mask_rcnn_tools.evidence.groups import short_overrides
from mask_rcnn_tools.evidence.rows import PaperRow, Row, all_rows, parent_of
from mask_rcnn_tools.tables.jobs import Job

_ANY_DEVICE = torch.device("cpu")  # planning needs none
_TEST_NAMES = "dataloader.test.dataset.names"


@dataclass(frozen=True)
class PlannedRow:
    """A row of a table with its runs.

    Attributes:
        row: the row.
        jobs: seed to the run whose record gives the row's numbers.
        server: of test-dev rows, the first seed to the evaluation whose files COCO's server takes.
        measured_on: name of the test data of `jobs`.
        note: where the numbers come from, if not from the row itself.
    """

    row: Row
    jobs: Mapping[int, Job]
    server: Mapping[int, Job]
    measured_on: str
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """What a command is about.

    Attributes:
        rows: in the order of the paper.
        jobs: every run once, inputs before what needs them.
        profile: scale.
        output_root: folder of all runs.
        overrides: of the command line.
    """

    rows: tuple[PlannedRow, ...]
    jobs: tuple[Job, ...]
    profile: str
    output_root: Path
    overrides: tuple[str, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Every seed that a row has."""
        return tuple(sorted({seed for row in self.rows for seed in row.jobs}))


def make_plan(
    rows: Sequence[Row],
    profile: str,
    seeds: Iterable[int] | Mapping[PaperRow, Iterable[int]],
    overrides: Sequence[str] = (),
) -> Plan:
    """Works out the runs of some rows. Nothing is written.

    Args:
        rows: as :func:`~mask_rcnn_tools.tables.choose.choose_rows` gives them.
        profile: `paper`, `mini` or `tiny`.
        seeds: of all rows, or of each; a row without training evaluates the weights of the same
            seed.
        overrides: as on the command line.

    Raises:
        ConfigError: a config or an override that cannot be used.
        DataError: data of the user's own that cannot be read.
    """
    problems = [row.problem for row in rows if row.problem]
    if problems:
        raise ConfigError(" ".join(problems))
    register()
    if not isinstance(seeds, Mapping):
        seeds = dict.fromkeys((row.key for row in rows), tuple(seeds))
    return _Planner(profile, tuple(overrides)).plan(rows, seeds)


class _Planner:
    """Collects jobs; of equal configs the first stands for all, inputs before rows."""

    def __init__(self, profile: str, overrides: tuple[str, ...]) -> None:
        self.profile = profile
        self.overrides = overrides
        self.by_folder: dict[Path, Job] = {}
        self.by_hash: dict[str, Job] = {}
        self.loaded: dict[tuple[str, tuple[str, ...]], DictConfig] = {}
        self.inputs: dict[tuple[str, tuple[str, ...], int], tuple[tuple[str, Job], ...]] = {}
        self.root = "output"
        remembered = functools.cache(load_config)  # rows of a table share one or two stages
        self.load_stage = lambda *asked: copy.deepcopy(remembered(*asked))

    def plan(self, rows: Sequence[Row], seeds: Mapping[PaperRow, Iterable[int]]) -> Plan:
        specs = [(row, *self._spec(row)) for row in rows]
        runs = [
            [
                self._run(config, overrides, seed)
                for seed in (seeds[row.key] if self._scatters(config, overrides) else (0,))
            ]
            for row, config, overrides, _ in specs
        ]
        for run in (run for of_row in runs for run in of_row):
            self._inputs(run)
        planned = []
        for (row, _, _, note), of_row in zip(specs, runs, strict=True):
            by_seed = {int(run.cfg.train.seed): self._row_job(run) for run in of_row}
            server = {}
            if row.on_test_dev:  # one upload is enough, and as many as the server takes
                seed, job = next(iter(by_seed.items()))
                server = {seed: self._server_job(row, seed, job)}
            names = of_row[0].cfg.dataloader.test.dataset.names
            measured = names if isinstance(names, str) else "+".join(names)
            planned.append(PlannedRow(row, by_seed, server, measured, note))
        jobs = self._ordered(planned)
        return Plan(tuple(planned), jobs, self.profile, Path(self.root), self.overrides)

    def _spec(self, row: Row) -> tuple[str, tuple[str, ...], str]:
        """Config and overrides whose run gives a row's numbers, and a note about it."""
        if not row.on_test_dev:
            return row.source, (*self.overrides, *row.overrides), ""
        own = _training_hash(self._load(row.config, self.overrides))
        test_dev = {other.config for other in all_rows() if other.on_test_dev}
        parent = parent_of(row.config)
        while parent in test_dev:
            parent = parent_of(parent)
        if parent is None:
            raise ConfigError(f"{row.config} is made from no row on val.")
        other = self._load(parent, self.overrides)
        if _training_hash(other) == own:
            return parent, self.overrides, f"val: {parent}"
        names = other.dataloader.test.dataset.names
        return row.config, (*self.overrides, f"{_TEST_NAMES}={names}"), f"val: {names}"

    def _scatters(self, config: str, overrides: tuple[str, ...]) -> bool:
        """Without training, another seed would evaluate the weights of a checkpoint again."""
        train = self._load(config, overrides).train
        return bool(train.max_iter > 0 or train.init_from)

    def _load(self, config: str, overrides: tuple[str, ...], seed: int = 0) -> DictConfig:
        if (config, overrides) not in self.loaded:
            cfg = load_config(config, self.profile, list(overrides), seed=0)
            self.loaded[config, overrides] = fit_to_data(cfg, list(overrides))
        cfg = copy.deepcopy(self.loaded[config, overrides])
        cfg.train.seed = seed
        self.root = str(cfg.train.output_root)
        return cfg

    def _run(self, config: str, overrides: tuple[str, ...], seed: int) -> Run:
        cfg = self._load(config, overrides, seed)
        name, file = config_id(config), Path(config)
        folder = default_output_dir(name, self.profile, seed, overrides, root=self.root)
        elsewhere = file if file.is_absolute() else None
        return Run(name, cfg, Path(folder), _ANY_DEVICE, overrides, elsewhere)

    def _inputs(self, run: Run, above: tuple[str, ...] = ()) -> tuple[tuple[str, Job], ...]:
        """The jobs that a run stands on, and theirs, added where they are new."""
        trains = run.cfg.train.max_iter > 0  # then seeds share two of each stage
        key = (run.config_id, run.overrides, run.cfg.train.seed % (STAGES if trains else 2**32))
        if key not in self.inputs:
            self.inputs[key] = self._find_inputs(run, (*above, run.config_id))
        return self.inputs[key]

    def _find_inputs(self, run: Run, chain: tuple[str, ...]) -> tuple[tuple[str, Job], ...]:
        train = run.cfg.train
        named = {
            "init_from": train.init_from or pretraining_of(run.cfg),
            "proposals": train.proposals,
            "teacher": teacher_of(run.cfg),
        }
        found = []
        for key, path in named.items():
            if path is None or not path:
                continue
            other = dependency(run, path, chain, self.load_stage)
            if other.folder not in self.by_folder:
                job = self._job(other, "stage", self._inputs(other, chain))
                self.by_folder[other.folder] = job
                self.by_hash.setdefault(job.hash, job)
            found.append((key, self.by_folder[other.folder]))
        return tuple(found)

    def _row_job(self, run: Run) -> Job:
        digest = config_hash(run.cfg)
        if digest not in self.by_hash:
            job = self._job(run, "row", self._inputs(run))
            self.by_hash[digest] = self.by_folder[run.folder] = job
        return self.by_hash[digest]

    def _job(self, run: Run, kind: str, inputs: tuple[tuple[str, Job], ...]) -> Job:
        overrides = run.overrides
        if kind == "stage":  # what a run hands on to those that it depends on
            overrides = (*overrides, *(o for o in self.overrides if _says_where(o)))
            overrides += _stated_where(run.cfg, overrides)
        inside = run.file is None or run.file.is_relative_to(config_root().resolve())
        config, label = (run.config_id, "") if inside else (str(run.file), run.config_id)
        assert kind in ("stage", "row")
        own = [text for text in overrides if text not in self.overrides] if kind == "row" else []
        return Job(
            "stage" if kind == "stage" else "row",
            config,
            run.cfg,
            run.folder,
            overrides,
            inputs,
            "" if _TEST_NAMES in " ".join(own) else " ".join(short_overrides(own)),
            label,
        )

    def _server_job(self, row: Row, seed: int, job: Job) -> Job:
        run = self._run(row.config, self.overrides, seed)
        folder = run.folder / "eval" / "test_dev"
        if folder not in self.by_folder:
            weights = (
                f"train.init_checkpoint={job.checkpoint}",
                f"train.output_dir={folder}",
            )
            self.by_folder[folder] = Job(
                "server",
                row.config,
                run.cfg,
                folder,
                (*self.overrides, *weights),
                (("weights", job),),
                "on test-dev",
            )
        return self.by_folder[folder]

    def _ordered(self, rows: Sequence[PlannedRow]) -> tuple[Job, ...]:
        """Inputs first; rows seed by seed, so that a whole table exists as early as possible."""
        order: dict[Job, None] = {}

        def add(job: Job) -> None:
            for _, other in job.inputs:
                add(other)
            order.setdefault(job)

        seeds = sorted({seed for row in rows for seed in row.jobs})
        for kind in ("jobs", "server"):
            for seed in seeds:
                for row in rows:
                    job = getattr(row, kind).get(seed)
                    if job is not None:
                        add(job)
        return tuple(order)


def _says_where(override: str) -> bool:
    return override.lstrip("+~").partition("=")[0] in WHERE_KEYS


def _stated_where(cfg: DictConfig, overrides: Iterable[str]) -> tuple[str, ...]:
    """Returns overrides for what a row's file says about where it runs, such as `train.writers`."""
    given = {text.partition("=")[0] for text in overrides}
    usual = OmegaConf.create({"train": train_defaults()})
    values = {key: OmegaConf.select(cfg, key) for key in INHERITED if key not in given}
    return tuple(
        override_text(key, value)
        for key, value in values.items()
        if key.startswith("train.") and value != OmegaConf.select(usual, key)
    )


def _training_hash(cfg: DictConfig) -> str:
    """Hash of what a config trains, whatever it is tested on."""
    part = copy.deepcopy(cfg)
    part.dataloader.test = part.dataloader.evaluator = None
    return config_hash(part)
