"""Loads records, and the curves and drawn examples beside them, from directories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mask_rcnn_repro.config import config_root
from mask_rcnn_repro.engine.run import RECORD_FILE
from mask_rcnn_repro.errors import RecordError
from mask_rcnn_repro.records.curves import CURVES_FILE, Curves
from mask_rcnn_repro.records.record import Record, load_record
from mask_rcnn_tools.common.curves import load_curves
from mask_rcnn_tools.evidence.ablation_file import ABLATION_FILE, Ablation, load_ablation
from mask_rcnn_tools.evidence.causes import CauseKey, KnownCause, load_causes
from mask_rcnn_tools.evidence.image_bootstrap import BOOTSTRAP_FILE, KnownReplicates
from mask_rcnn_tools.evidence.results import counting_files, load_results, recorded_file
from mask_rcnn_tools.evidence.seed_plan import PLAN_FILE, SeedPlan, load_plan
from mask_rcnn_tools.report.examples import EXAMPLES_FILE, Examples, load_examples


class RunKey(NamedTuple):
    """The identity of a run.

    Attributes:
        hash: Hash of its config.
        seed: Its seed.
        created: When its record was made.
    """

    hash: str
    seed: int
    created: str


class Runs(NamedTuple):
    """Records and the files beside them.

    Attributes:
        records: Oldest first.
        curves: Curves by run.
        examples: Directory of the pictures and manifest, by run.
        replicates: Metrics on samples of the test images, by record.
        plan: What was fixed about claims before the runs.
        ablations: Own ablations as they were planned.
        files: Records of runs, with their files.
        causes: Why claims were not confirmed, as tests showed it.
    """

    records: list[Record]
    curves: Mapping[RunKey, Curves]
    examples: Mapping[RunKey, tuple[Path, Examples]]
    replicates: KnownReplicates = KnownReplicates()
    plan: SeedPlan = SeedPlan()
    ablations: Sequence[Ablation] = ()
    files: Sequence[tuple[Path, Record]] = ()
    causes: Mapping[CauseKey, KnownCause] = {}

    def curves_of(self, record: Record) -> Curves | None:
        """Returns the curves of a record's run, if there are any."""
        return self.curves.get(key_of(record))

    def examples_of(self, record: Record) -> tuple[Path, Examples] | None:
        """Returns the drawn examples of a record's run, if there are any."""
        return self.examples.get(key_of(record))


def key_of(record: Record) -> RunKey:
    """Returns the run of a record."""
    return RunKey(record.config.hash, record.seed, record.created)


def load_runs(folders: Iterable[Path]) -> Runs:
    """Reads records and the files beside them, below directories.

    The plan of seeds is that of the first directory that has one, or else that of the checkout.
    Causes of all directories are merged. For each claim, the first one counts.

    Args:
        folders: Directories of committed records (``results``: all json files are records or belong
            to one) or of runs (``output``: records are named ``record.json``).

    Raises:
        RecordError: A directory is missing, or one of these files does not follow its schema.
    """
    records: list[Record] = []
    curves: dict[RunKey, Curves] = {}
    examples: dict[RunKey, tuple[Path, Examples]] = {}
    bootstraps: list[Path] = []
    ablations: list[Ablation] = []
    files: list[tuple[Path, Record]] = []
    planned: Path | None = None
    causes: dict[CauseKey, KnownCause] = {}
    for folder in folders:
        if not folder.is_dir():
            raise RecordError(f"There is no folder {folder} to read records from.")
        of_runs = [(file, load_record(file)) for file in sorted(folder.rglob(RECORD_FILE))]
        files += of_runs
        records += [record for _, record in of_runs] or load_results(folder)
        ablations += [load_ablation(file) for file in sorted(folder.rglob(ABLATION_FILE))]
        bootstraps += counting_files(folder, f"*{BOOTSTRAP_FILE}")
        causes = load_causes(folder) | causes
        planned = planned or (folder if (folder / PLAN_FILE).is_file() else None)
        for file in counting_files(folder, f"*{CURVES_FILE}"):
            loaded = load_curves(file)
            of = loaded.record
            curves[RunKey(of.hash, of.seed, of.created)] = loaded
        for file in counting_files(folder, EXAMPLES_FILE):
            drawn = load_examples(file)
            of = drawn.record
            examples[RunKey(of.hash, of.seed, of.created)] = (file.parent, drawn)
    # a run that is in two folders counts once
    by_key = {key_of(record): record for record in records}
    plan = load_plan(planned or config_root().parent / "results")
    records = sorted(by_key.values(), key=lambda r: r.created)
    replicates = KnownReplicates(bootstraps)
    return Runs(records, curves, examples, replicates, plan, ablations, files, causes)


def record_file(record: Record, folder: Path) -> Path:
    """Returns the path of a committed record: ``<id>[@<profile>]/seed<k>.json``."""
    return recorded_file(record.config.id, record.config.profile, record.seed, folder)


def examples_folder(record: Record, folder: Path) -> Path:
    """Returns the path of the drawn examples of a committed record: ``seed<k>.examples``."""
    return record_file(record, folder).with_suffix(".examples")


def bootstrap_file(record: Record, folder: Path) -> Path:
    """Returns the path of the bootstrap of a committed record: ``seed<k>.bootstrap.json``."""
    return record_file(record, folder).with_suffix(f".{BOOTSTRAP_FILE}")


def curves_file(record: Record, folder: Path) -> Path:
    """Returns the path of the curves of a committed record: ``seed<k>.curves.json``."""
    return record_file(record, folder).with_suffix(f".{CURVES_FILE}")
