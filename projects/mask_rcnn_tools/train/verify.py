"""Whether an evaluation meets numbers that were known before it: `--verify` of `train_net.py`.

The numbers are the paper's, those of a recorded run, or the config's own (`train.verify.expected`).
What cannot be compared is an error, never a pass: another data set, a missing number, a number
that only a server can measure.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mask_rcnn_repro.errors import ConfigError, RecordError
from mask_rcnn_repro.paper.numbers import load_tables, paper_numbers
from mask_rcnn_repro.records.record import Record, load_record
from mask_rcnn_tools.common.text_tables import Table
from mask_rcnn_tools.evidence.comparison import compare
from mask_rcnn_tools.evidence.results import recorded_file
from mask_rcnn_tools.evidence.verdicts import FEWEST_SEEDS

PAPER, RECORDED = "paper", "recorded"
RESULTS_FOLDER = Path("results")

DEVIATIONS = 5.0
"""Tolerance for a training under other conditions, in standard deviations over seeds.

The difference of two trainings has 1.4 times the deviation of one, so that one number of a correct
training is off by more with a chance of 1 in 2,500.
"""

_MINIVAL = ("minival", "coco_2017_val")
"""Names of the images that the paper calls minival contain one of these."""

Numbers = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Expected:
    """Numbers to be met.

    Attributes:
        source: What they are, in words.
        numbers: Task to metric to percent; "per_class" to AP by class.
        tolerance: Percentage points for AP and average recall over all; finer metrics: twice that.
        record: The run that they are of, if any.
        left_out: Why some of the source's numbers are not among them; empty: all are.
        seeds: Recorded trainings of the same config, `record` among them. Their scatter is the
            tolerance for a training under other conditions.
    """

    source: str
    numbers: Numbers
    tolerance: float
    record: Record | None = None
    left_out: str = ""
    seeds: tuple[Record, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """One metric.

    Attributes:
        metric: Such as "segm/AP"; of one class "segm/AP (person)".
        got: Percent.
        expected: Percent.
        tolerance: Percentage points, both ways.
    """

    metric: str
    got: float
    expected: float
    tolerance: float

    @property
    def verdict(self) -> str:
        """`met`, `too low` or `too high`."""
        difference = self.got - self.expected
        if abs(difference) <= self.tolerance + 1e-9:  # 30.8 - 30.3 is above 0.5 in binary
            return "met"
        return "too low" if difference < 0 else "too high"


def verifier(cfg: DictConfig, config_id: str, against: str) -> Callable[[Record], bool]:
    """Finds the numbers now, and returns what compares a record with them.

    Args:
        cfg: See :func:`expected_numbers`, as for the other arguments.

    Returns:
        A function that prints the comparison and returns whether all numbers are met.
    """
    expected = expected_numbers(cfg, config_id, against)

    def check(record: Record) -> bool:
        comparisons = verify(record, expected)
        text = format_verification(expected, comparisons)
        notes = conditions_text(record, expected, comparisons)
        print("\n" + "\n\n".join(part for part in (text, notes) if part), flush=True)
        return all(c.verdict == "met" for c in comparisons)

    return check


def expected_numbers(
    cfg: DictConfig, config_id: str, against: str = PAPER, results: Path = RESULTS_FOLDER
) -> Expected:
    """Finds the numbers that an evaluation is to meet, before it begins.

    Args:
        cfg: The config; its `train.verify` is read.
        config_id: Its id.
        against: :data:`PAPER` for `train.verify.expected`, or where that is null the paper's row;
            :data:`RECORDED` for this config's record below `results`; else a record's file.
        results: Folder of committed records.

    Raises:
        ConfigError: There are no such numbers, or they cannot be compared with this evaluation.
        RecordError: The record cannot be read.
    """
    verify = cfg.train.verify
    if against != PAPER:
        file = _recorded(cfg, config_id, results) if against == RECORDED else Path(against)
        record = load_record(file)
        expected = _of_record(record, file, str(cfg.train.profile), verify.tolerance)
        return replace(expected, seeds=_seeds(record, file))
    if verify.expected is not None:
        given = OmegaConf.to_container(verify.expected)
        assert isinstance(given, dict)
        return Expected("train.verify.expected", _nested(given), verify.tolerance)
    return _of_paper(cfg, config_id, verify.tolerance)


def verify(record: Record, expected: Expected) -> list[Comparison]:
    """Compares an evaluation with what was expected.

    Returns:
        One entry per expected number.

    Raises:
        RecordError: A number is missing in the record, or it is of another data set.
    """
    of = expected.record
    ours, theirs = record.test_data, of.test_data if of else None
    if ours and theirs and ours.fingerprint != theirs.fingerprint:
        raise RecordError(
            f"{expected.source} is of other data: {theirs.name}, {theirs.images} images, "
            f"{theirs.fingerprint[:19]}; this evaluation was on {ours.name}, {ours.images} images, "
            f"{ours.fingerprint[:19]}. Their numbers cannot be compared."
        )
    differences = compare(record, expected.numbers)
    missing = [d.metric for d in differences if d.ours is None]
    if missing:
        there = [f"{task}/{name}" for task, m in record.metrics.items() for name in m.values()]
        raise RecordError(
            f"Numbers to be met are missing in this evaluation: {', '.join(missing)}. It has "
            f"{', '.join(there) or 'none: its data has no annotations'}."
        )
    comparisons = []
    scatter = seed_scatter(record, expected)
    for d in differences:
        main = _is_main(d.metric)
        tolerance = expected.tolerance if main else 2 * expected.tolerance
        tolerance = max(tolerance, DEVIATIONS * scatter.get(main, 0.0))
        comparisons.append(Comparison(d.metric, float(d.ours or 0.0), d.paper, tolerance))
    return comparisons


def _is_main(metric: str) -> bool:
    return metric.endswith("/AP") or "/AR@" in metric


def other_conditions(record: Record, of: Record) -> list[str]:
    """Returns what two trainings were run on differently, in words; empty for equal conditions.

    Two trainings are equal bit for bit only under equal conditions. The rounding of other
    instructions, threads or types grows over the iterations until the weights differ as between
    seeds. Also empty if both records are of the same weights.
    """
    weights = [r.checkpoint.sha256 if r.checkpoint else None for r in (record, of)]
    if weights[0] is not None and weights[0] == weights[1]:
        return []
    ours, theirs = _conditions(record), _conditions(of)
    return [
        f"{name} {ours[name]}, not {theirs[name]}" for name in ours if ours[name] != theirs[name]
    ]


def _conditions(record: Record) -> dict[str, str]:
    device, versions = record.device, record.versions
    return {
        "device": device.name,
        "threads": str(device.threads),
        "TF32": str(device.tf32),
        "precision": record.amp.dtype or "float32",
        "processes": str(record.world_size),
        "PyTorch": versions.torch,
        "torchvision": str(versions.torchvision),
        "Detectron2": str(versions.detectron2),
        "NumPy": str(versions.numpy),
    }


def seed_scatter(record: Record, expected: Expected) -> dict[bool, float]:
    """Returns the standard deviation over recorded seeds, in points.

    It is pooled over AP (key True) and over finer metrics (key False). Empty for equal conditions
    and with fewer than :data:`FEWEST_SEEDS` seeds.
    """
    if (
        expected.record is None
        or len(expected.seeds) < FEWEST_SEEDS
        or not other_conditions(record, expected.record)
    ):
        return {}
    variances: dict[bool, list[float]] = {}
    known = [{d.metric: d.ours for d in compare(r, expected.numbers)} for r in expected.seeds]
    for metric in known[0]:
        values = [row[metric] for row in known]
        if all(value is not None for value in values):
            spread = variance([float(value) for value in values if value is not None])
            variances.setdefault(_is_main(metric), []).append(spread)
    return {main: fmean(found) ** 0.5 for main, found in variances.items()}


def conditions_text(record: Record, expected: Expected, comparisons: list[Comparison]) -> str:
    """Says what differs from the conditions of the record, and what that means for the tolerance.

    Empty for equal conditions, and if a tolerance that is not that of the scatter was met.
    """
    if expected.record is None:
        return ""
    differs = other_conditions(record, expected.record)
    scatter = seed_scatter(record, expected)
    if not differs or (not scatter and all(c.verdict == "met" for c in comparisons)):
        return ""
    text = (
        f"This run differs from the recorded one in: {'; '.join(differs)}. Weights are "
        "equal only if all of these are. Otherwise rounding differs, and grows until two trainings "
        "differ as two seeds do."
    )
    if scatter:
        sizes = ", ".join(
            f"{scatter[main]:.2f} for {name}"
            for main, name in ((True, "AP"), (False, "finer metrics"))
            if main in scatter
        )
        text += (
            f" The tolerance is {DEVIATIONS:g} standard deviations of the {len(expected.seeds)} "
            f"recorded seeds ({sizes}), if that is more than train.verify.tolerance."
        )
    else:
        text += (
            f" Their scatter is known from {FEWEST_SEEDS} recorded seeds on, and "
            f"{len(expected.seeds)} of this config {'is' if len(expected.seeds) == 1 else 'are'} "
            "recorded. To accept as much as you think right: train.verify.tolerance=POINTS."
        )
    return textwrap.fill(text, 100)


def format_verification(expected: Expected, comparisons: list[Comparison]) -> str:
    """The comparisons as a table, and a sentence that sums them up."""
    rows = [
        (c.metric, f"{c.got:.2f}", f"{c.expected:.2f}", f"{c.tolerance:.2f}", c.verdict)
        for c in comparisons
    ]
    table = Table(["metric", "got", "expected", "tolerance", "verdict"], rows).text()
    failed = sum(c.verdict != "met" for c in comparisons)
    verdict = f"Not met: {failed} of" if failed else "Met: all"
    verdict = f"{verdict} {len(comparisons)} numbers."
    parts = [f"Verified against {expected.source}:", table, expected.left_out, verdict]
    return "\n\n".join(part for part in parts if part)


def _nested(flat: Mapping[str, float]) -> Numbers:
    numbers: Numbers = {}
    for metric, value in flat.items():
        task, separator, name = str(metric).partition("/")
        if not (separator and task and name):
            raise ConfigError(
                f"train.verify.expected has the key {metric!r}; allowed are task/metric, such as "
                "segm/AP, bbox/AP50 or proposals/AR@1000."
            )
        numbers.setdefault(task, {})[name] = float(value)
    if not numbers:
        raise ConfigError(
            "train.verify.expected is empty, so nothing could be verified. Give numbers, such as "
            "'train.verify.expected={segm/AP: 33.3}', or null for the paper's."
        )
    return numbers


def _of_record(record: Record, file: Path, profile: str, tolerance: float) -> Expected:
    if record.config.profile != profile:
        raise ConfigError(
            f"{file} is of profile {record.config.profile}, this run of profile {profile}: other "
            "data and another model. Give a record of the same profile."
        )
    numbers: Numbers = {}
    for task, metrics in record.metrics.items():
        known = {name: v for name, v in metrics.values().items() if v is not None}
        classes = {name: v for name, v in metrics.per_class.items() if v is not None}
        numbers[task] = {**known, **({"per_class": classes} if len(classes) > 1 else {})}
    if not any(numbers.values()):
        raise RecordError(f"{file} holds no metrics that an evaluation could be compared with.")
    what = f"{record.config.id}, profile {record.config.profile}, seed {record.seed}"
    return Expected(f"{file.name} ({what})", numbers, tolerance, record)


def _seeds(record: Record, file: Path) -> tuple[Record, ...]:
    """The recorded trainings beside a record that differ from it in the seed alone."""
    found = {record.seed: record}
    for other in sorted(file.parent.glob("seed*.json")):
        with contextlib.suppress(RecordError):  # of curves, or of an older version
            one = load_record(other)
            same = one.config.hash == record.config.hash and one.mode == record.mode == "train"
            if same and one.test_data == record.test_data:
                found.setdefault(one.seed, one)
    return tuple(found.values())


def _recorded(cfg: DictConfig, config_id: str, results: Path) -> Path:
    file = recorded_file(config_id, cfg.train.profile, cfg.train.seed, results)
    if not file.is_file():
        there = ", ".join(sorted(f.stem for f in file.parent.glob("seed*.json"))) or "none"
        raise ConfigError(
            f"There is no recorded run of {config_id} at profile {cfg.train.profile}, seed "
            f"{cfg.train.seed}: looked for {file}; recorded there: {there}. Give a record's file: "
            "--verify RECORD.json."
        )
    return file


_ELSE = (
    "Compare with a recorded run (--verify recorded, --verify RECORD.json) or with numbers of "
    "your own ('train.verify.expected={segm/AP: 33.3}')."
)


def _of_paper(cfg: DictConfig, config_id: str, tolerance: float) -> Expected:
    paper = cfg.get("paper") or {}
    table, row = paper.get("table"), paper.get("row")
    if not table or not row:
        raise ConfigError(
            f"{config_id} is no row of the paper, which has no numbers for it. {_ELSE}"
        )
    if cfg.train.profile != "paper":
        raise ConfigError(
            f"--verify compares with the paper's numbers, which are of COCO or Cityscapes; profile "
            f"{cfg.train.profile} is a small model on generated data, whose numbers mean "
            f"something else. {_ELSE}"
        )
    numbers: Numbers = paper_numbers(str(table), str(row))
    source = f"the paper's table {table}, row {row!r}"
    if not numbers:
        raise ConfigError(f"For {source}, no metric is printed that could be compared. {_ELSE}")
    data = str(OmegaConf.select(cfg, "dataloader.test.dataset.names"))
    problem = _other_data(str(load_tables()[str(table)].get("split", "")), data)
    if problem:
        raise ConfigError(f"{source[0].upper()}{source[1:]}: {problem} {_ELSE}")
    others = [task for task in numbers if task.startswith("cityscapes_") and task != data]
    kept = {task: values for task, values in numbers.items() if task not in others}
    left_out = f"Left out: {', '.join(others)}, which only the server can measure."
    return Expected(source, kept, tolerance, left_out=left_out if others else "")


def _other_data(split: str, data: str) -> str:
    """Why numbers of the paper's split cannot be computed on this data; empty where they can."""
    if split == "test-dev" or "test_dev" in data or data == "cityscapes_test":
        where = "COCO's test-dev" if "cityscapes" not in data else "the test set of Cityscapes"
        return (
            f"the number is of {where}, whose annotations only its server has. The evaluation "
            "writes the files to upload, and no number to verify."
        )
    minival = any(part in data for part in _MINIVAL)
    fits = {"minival": minival, "val and test": data == "cityscapes_val"}.get(split, True)
    return "" if fits else f"the number is of {split!r}, this evaluation of {data!r}."
