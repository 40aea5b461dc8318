"""`bootstrap.json` beside a record: its metrics on samples of the test images.

Test images are a sample themselves: other images would have given other numbers. The bootstrap
draws as many images as there are, with replacement, and computes AP on them, many times. Sample b
holds the same images for every run on the same data. The difference of two runs on sample b
therefore contains nothing that is common to both, and its standard deviation over b is that of a
paired comparison (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 8).
hotcoco.compare needs the detections of both runs at once and counts each drawn image once, which
makes its standard errors 0.76 of the bootstrap's.

Shapes: B samples, N images, K classes, T IoU thresholds, D detections of one class.
"""

from __future__ import annotations

import contextlib
import json
import logging
import operator
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools.cocoeval import COCOeval
from pydantic import BaseModel, ConfigDict, Field, field_validator

from mask_rcnn_repro.errors import RecordError
from mask_rcnn_repro.evaluation.coco.backends import COCO_BACKENDS, pycocotools_evaluation
from mask_rcnn_repro.evaluation.coco.evaluator import CocoEvaluator
from mask_rcnn_repro.evaluation.coco.hotcoco_backend import hotcoco_evaluation
from mask_rcnn_repro.evaluation.coco.numbers import METRIC_NAMES, BackendCannot, CocoNumbers
from mask_rcnn_repro.evaluation.registry import build_evaluator
from mask_rcnn_repro.records.curves import OfRecord, record_identity
from mask_rcnn_repro.records.record import Record, read_json, validated
from mask_rcnn_repro.registration import register
from mask_rcnn_repro.utils.atomic import atomic_write_text
from mask_rcnn_tools.evidence.outcomes import Replicates
from mask_rcnn_tools.evidence.verdicts import BOOTSTRAP_SAMPLES

BOOTSTRAP_FILE = "bootstrap.json"
BOOTSTRAP_VERSION: Literal[1] = 1

_BACKEND = "image bootstrap"
_THRESHOLDS = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}
_OWN_CLASS = "person"  # the paper prints its AP alone (table 5)
_MOST_NUMBERS = 4_000_000  # of samples times detections at a time; bounds memory
_MOST_IMAGES = 2000  # of a run's own bootstrap

logger = logging.getLogger(__name__)


class Bootstrap(BaseModel):
    """Metrics of a run on samples of its test images."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    schema_version: Literal[1] = Field(description="Version of this schema.")
    record: OfRecord = Field(description="The run that they are of.")
    images: int = Field(ge=1, description="Test images, and size of a sample.")
    values: dict[str, list[float]] = Field(
        description="Metric, such as `segm/AP`, to percent on each sample. The samples are the "
        "same for all runs on the same images."
    )

    @field_validator("values")
    @classmethod
    def _all_samples(cls, values: dict[str, list[float]]) -> dict[str, list[float]]:
        for metric, of_samples in values.items():
            if len(of_samples) != BOOTSTRAP_SAMPLES:
                raise ValueError(f"{metric} has {len(of_samples)} values, not {BOOTSTRAP_SAMPLES}")
        return values


def image_counts(images: int, samples: int = BOOTSTRAP_SAMPLES) -> np.ndarray:
    """How often each image is in each sample: (B, N). The same numbers for the same arguments."""
    return np.random.default_rng(0).multinomial(images, [1 / images] * images, size=samples)


def sampled_ap(evaluation: COCOeval, counts: np.ndarray) -> np.ndarray:
    """AP on samples of images, as if each image were there as often as it was drawn.

    Args:
        evaluation: evaluated (:meth:`COCOeval.evaluate`), with COCO's sizes.
        counts: (B, N), images in the order of `evaluation.params.imgIds`.

    Returns:
        (B, K, T) fractions: AP of each class at each IoU threshold over all sizes; NaN for a class
        without objects in a sample.
    """
    params = evaluation.params
    all_sizes, most = list(params.areaRng[0]), params.maxDets[-1]
    place = {image: index for index, image in enumerate(params.imgIds)}
    entries: dict[Any, list[tuple[int, Any]]] = {category: [] for category in params.catIds}
    for entry in evaluation.evalImgs:
        if entry is not None and list(entry["aRng"]) == all_sizes:
            entries[entry["category_id"]].append((place[entry["image_id"]], entry))
    found = np.full((len(counts), len(params.catIds), len(params.iouThrs)), np.nan)
    for k, of_class in enumerate(entries.values()):
        if not of_class:
            continue
        known = [entry for _, entry in sorted(of_class, key=operator.itemgetter(0))]
        of_image = np.array([place[entry["image_id"]] for entry in known])
        objects = np.array([np.sum(np.asarray(e["gtIgnore"]) == 0) for e in known], np.int64)
        scores = [np.asarray(e["dtScores"])[:most] for e in known]
        order = np.argsort(-np.concatenate(scores), kind="mergesort")  # as pycocotools sorts
        image = np.repeat(of_image, [len(s) for s in scores])[order]
        matched, ignored = (
            np.concatenate(
                [np.reshape(e[key], (len(params.iouThrs), -1))[:, :most] for e in known], axis=1
            )[:, order]
            > 0
            for key in ("dtMatches", "dtIgnore")
        )
        right, wrong = matched & ~ignored, ~matched & ~ignored
        at_once = max(1, _MOST_NUMBERS // max(len(image), 1))
        for low in range(0, len(counts), at_once):
            part = counts[low : low + at_once]
            weights, there = part[:, image], part[:, of_image] @ objects
            for t in range(len(params.iouThrs)):
                found[low : low + at_once, k, t] = _average_precision(
                    weights, right[t], wrong[t], there, params.recThrs
                )
    return found


def _average_precision(
    weights: np.ndarray, right: np.ndarray, wrong: np.ndarray, objects: np.ndarray, at: np.ndarray
) -> np.ndarray:
    """COCO's interpolated AP with weighted detections.

    The highest precision at a recall or above it is that of a true positive. So false positives
    are only counted, where true positives follow.

    Args:
        weights: (B, D) whole numbers, detections by falling score.
        right, wrong: (D,), true and false positives.
        objects: (B,), number of objects.
        at: recalls.
    """
    chosen = np.flatnonzero(right)
    if not len(chosen):
        return np.where(objects > 0, 0.0, np.nan)
    true = np.cumsum(weights[:, chosen], axis=1)
    false = np.cumsum(weights * wrong, axis=1)[:, chosen]
    precision = true / np.maximum(true + false, np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    precision = np.pad(precision, ((0, 0), (0, 1)))  # 0 at recalls that are not reached
    # the smallest number of objects whose share is at least the recall, with its rounding
    many = np.maximum(objects, 1)[:, None]
    needed = np.ceil(at * many).astype(np.int64)
    needed -= (needed > 0) & ((needed - 1) / many >= at)
    needed += needed / many < at
    # one search in all samples: each has its own range of numbers
    first = np.arange(len(weights))[:, None] * (max(true.max(), needed.max()) + 1)
    place = np.searchsorted((true + first).ravel(), needed + first)
    place += np.arange(len(weights))[:, None]  # the column that was padded
    result: np.ndarray = precision.ravel()[place].mean(axis=1)
    return np.where(objects > 0, result, np.nan)


@contextlib.contextmanager
def in_place_of_backend(function: Callable[..., None]) -> Iterator[str]:
    """Registers a function that is called with the input of backends, and yields its name.

    The numbers of the evaluation that calls it are all unknown.
    """

    def backend(gt: Any, detections: Any, iou_type: str, **options: Any) -> CocoNumbers:
        function(gt, detections, iou_type, **options)
        unknown = [-1.0] * len(METRIC_NAMES[iou_type])
        return CocoNumbers(unknown, dict.fromkeys(options["category_ids"], -1.0))

    COCO_BACKENDS[_BACKEND] = backend
    try:
        yield _BACKEND
    finally:
        del COCO_BACKENDS[_BACKEND]


def bootstrap_of_run(record: Record, results: Path) -> Bootstrap | None:
    """Computes a run's metrics on samples of its test images, from its result files.

    Args:
        record: of the run.
        results: directory of the result files of all data sets, `inference`.

    Returns:
        None where there are no COCO metrics: proposals, Cityscapes, no annotations, no files.

    Raises:
        DataError: the result files cannot be read.
    """
    data = record.test_data
    if data is None or not record.metrics or "proposals" in record.metrics:
        return None
    register()
    evaluator = build_evaluator(data.name, str(results))
    if not isinstance(evaluator, CocoEvaluator):
        return None
    values: dict[str, list[float]] = {}

    def keep(gt: Any, detections: Any, iou_type: str, **options: Any) -> None:
        try:
            evaluation = hotcoco_evaluation(gt, detections, iou_type, each_image=True, **options)
        except BackendCannot:
            evaluation = pycocotools_evaluation(gt, detections, iou_type, **options)
        counts = image_counts(len(evaluation.params.imgIds))
        names = [str(gt.cats[c]["name"]) for c in evaluation.params.catIds]
        values.update(_metrics(iou_type, sampled_ap(evaluation, counts), names))

    with in_place_of_backend(keep) as evaluator.backend:
        evaluator.evaluate_files()
    if not values:
        return None
    return Bootstrap(
        schema_version=BOOTSTRAP_VERSION,
        record=record_identity(record),
        images=data.images,
        values=values,
    )


def _metrics(task: str, ap: np.ndarray, classes: list[str]) -> dict[str, list[float]]:
    """Metric to percent by sample; without those that some sample has no objects for."""
    chosen = {f"{task}/{name}": ap[:, :, part] for name, part in _THRESHOLDS.items()}
    if _OWN_CLASS in classes:
        chosen[f"{task}_{_OWN_CLASS}/AP"] = ap[:, [classes.index(_OWN_CLASS)]]
    flat = {name: part.reshape(len(ap), -1) for name, part in chosen.items()}
    return {
        name: [round(float(v), 3) for v in 100 * np.nanmean(part, axis=1)]
        for name, part in flat.items()
        if not np.isnan(part).all(axis=1).any()
    }


def write_bootstrap(record: Record, results: Path, file: Path) -> None:
    """Writes the bootstrap of a run if it has one. A failure is logged: the record stays.

    It evaluates once more, by pycocotools, which takes minutes on COCO. So it omits test sets of
    more than 2,000 images; `tools/report.py --curves-of` makes theirs.
    """
    if record.test_data is not None and record.test_data.images > _MOST_IMAGES:
        return
    try:
        made = bootstrap_of_run(record, results)
        if made is not None:
            save_bootstrap(made, file)
    except Exception as error:  # of any evaluator: the record is written, and it stays
        logger.warning("No bootstrap over test images: %s: %s", type(error).__name__, error)


def save_bootstrap(bootstrap: Bootstrap, file: Path) -> None:
    """Writes a bootstrap atomically, one metric a line."""
    content = bootstrap.model_dump(mode="json")
    values = content.pop("values")
    lines = ",\n".join(
        f'  "{k}": {json.dumps(v, separators=(",", ":"))}' for k, v in values.items()
    )
    head = json.dumps(content, indent=1).removesuffix("\n}")
    atomic_write_text(file, f'{head},\n "values": {{\n{lines}\n }}\n}}\n')


def load_bootstrap(file: Path) -> Bootstrap:
    """Reads and validates a bootstrap.

    Raises:
        RecordError: it cannot be read or does not follow the schema.
    """
    content = read_json(file, "bootstrap")
    return validated(Bootstrap, content, repr(str(file)), BOOTSTRAP_VERSION, "is no bootstrap")


class KnownReplicates:
    """Bootstraps by the run that they are of. Called with a record, it returns its replicates.

    Args:
        files: of bootstraps. Those that cannot be read or do not follow the schema are logged.
    """

    def __init__(self, files: Iterable[Path] = ()) -> None:
        self.by_run: dict[str, Replicates] = {}
        for file in files:
            try:
                loaded = load_bootstrap(file)
            except RecordError as error:
                logger.warning("Left aside: %s", str(error).partition("\n")[0])
            else:
                self.by_run[loaded.record.model_dump_json()] = loaded.values

    def __call__(self, record: Record) -> Replicates | None:
        """The metrics of a record's run on samples of test images; None where there are none."""
        return self.by_run.get(record_identity(record).model_dump_json())
