"""Which predictions meet which Cityscapes instances, from run lengths instead of mask files.

The result is what the official scripts (``cityscapesscripts.evaluation``,
``evalInstanceLevelSemanticLabeling``) find by opening a full-size PNG for each prediction and by
comparing it with each instance: numbers of pixels. Here the annotation is cut into runs of equal
pixels once an image, and the runs of all predictions are laid over them together.

Shapes: (H, W) size of the image; R predictions; S runs of the annotation; G values in it. Runs go
down the columns, as in COCO's run-length encoding (RLE).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from mask_rcnn_repro.data.cityscapes.labels import check_ids, label_id
from mask_rcnn_repro.data.coco.run_lengths import decode_counts
from mask_rcnn_repro.errors import DataError

_LARGEST = 1 << 16  # of instanceIds files: 16 bits


def official_scripts() -> ModuleType:
    """``cityscapesscripts``' instance-level evaluation, imported when it is needed first."""
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling

    return evalInstanceLevelSemanticLabeling


@functools.cache
def evaluated_labels() -> Mapping[int, str]:
    """Label id to name of the classes that the official scripts evaluate, by rising id."""
    labels = official_scripts().labels
    found = {x.id: x.name for x in labels if x.hasInstances and not x.ignoreInEval}
    return dict(sorted(found.items()))


@functools.cache
def _ignored_values() -> np.ndarray:
    """Pixel values that are void, as a table (65536,) of bool.

    Single caravans and trailers (29001, say) are not among them, only groups of these (29): that
    is how the official scripts count.
    """
    table = np.zeros(_LARGEST, dtype=bool)
    table[[x.id for x in official_scripts().labels if x.ignoreInEval and x.id >= 0]] = True
    return table


class AnnotationRuns(NamedTuple):
    """An instanceIds image as runs of equal pixels, down the columns. Arrays are int64."""

    size: tuple[int, int]  # (H, W), pixels
    starts: np.ndarray  # (S,) first pixel of each run; rises from 0
    ends: np.ndarray  # (S,) pixel behind each run
    column: np.ndarray  # (S,) position in `values` of each run's value
    values: np.ndarray  # (G,) the values that occur, rising
    pixels: np.ndarray  # (G,) number of pixels with each value


def annotation_runs(ids: np.ndarray) -> AnnotationRuns:
    """Cuts an instanceIds image (H, W), into runs; not empty.

    Raises:
        DataError: A value of no Cityscapes label, or of train ids.
    """
    # a transposed copy is (W, H) in memory order: pixels go down the columns
    flat = np.ascontiguousarray(ids.astype(np.uint16, copy=False).T).ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([np.zeros(1, changes.dtype), changes]).astype(np.int64)
    ends = np.concatenate([changes, np.full(1, flat.size, changes.dtype)]).astype(np.int64)
    run_values = flat[starts].astype(np.int64)
    # sums of integers below 2**53 are exact in the float64 that bincount adds up
    pixels = np.bincount(run_values, weights=ends - starts, minlength=_LARGEST).astype(np.int64)
    values = np.flatnonzero(pixels)
    check_ids("An annotation", values)
    column = np.searchsorted(values, run_values)
    height, width = ids.shape
    return AnnotationRuns((height, width), starts, ends, column, values, pixels[values])


def rle_runs(counts: str | bytes) -> tuple[np.ndarray, np.ndarray]:
    """Decodes pycocotools' compressed run lengths to the runs of the mask, without making the mask.

    Returns:
        Starts and ends (exclusive) of the runs of 1, int64, in pixels down the columns; none for
        an empty mask.
    """
    lengths = decode_counts(counts)
    assert lengths is not None, counts
    edges = np.cumsum(lengths)
    starts, ends = edges[0::2], edges[1::2]
    starts = starts[: len(ends)]
    return starts[ends > starts], ends[ends > starts]


def overlaps(
    annotation: AnnotationRuns, rles: Sequence[Mapping[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    """Counts the pixels that R compressed RLEs share with each value of the annotation.

    Returns:
        Pixels shared, int64 (R, G), and pixels of each prediction, int64 (R,). R may be 0.

    Raises:
        DataError: A mask has another size than the annotation.
    """
    for rle in rles:
        if tuple(rle["size"]) != annotation.size:
            raise DataError(
                f"A predicted mask has size {tuple(rle['size'])}, but the annotation has size "
                f"{annotation.size} (height, width). 'height' and 'width' of the data set's dicts "
                "must be those of the original image."
            )
    width = len(annotation.values)
    if not rles:
        return np.zeros((0, width), np.int64), np.zeros(0, np.int64)
    runs = [rle_runs(rle["counts"]) for rle in rles]
    starts = np.concatenate([start for start, _ in runs])
    ends = np.concatenate([end for _, end in runs])
    row = np.repeat(np.arange(len(rles)), [len(start) for start, _ in runs])
    # the annotation's runs `first` to `last` touch a prediction's run; one line for each of them
    first = np.searchsorted(annotation.starts, starts, side="right") - 1
    last = np.searchsorted(annotation.starts, ends, side="left") - 1
    number = last - first + 1
    line = np.repeat(np.arange(len(starts)), number)
    run = np.arange(len(line)) - np.repeat(np.cumsum(number) - number, number) + first[line]
    common = np.minimum(ends[line], annotation.ends[run]) - np.maximum(
        starts[line], annotation.starts[run]
    )
    cell = row[line] * width + annotation.column[run]
    table = np.bincount(cell, weights=common, minlength=len(rles) * width).astype(np.int64)
    table = table.reshape(len(rles), width)
    return table, table.sum(axis=1)


def match_image(
    ids: np.ndarray,
    rles: Sequence[Mapping[str, Any]],
    label_ids: Sequence[int],
    confidences: Sequence[float],
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Matches the predictions and instances of one image, as the official scripts do.

    Predictions without a pixel, or of a label that is not evaluated, are left out.

    Args:
        ids: The annotation (H, W).
        rles: R compressed RLEs of that size.
        label_ids: R Cityscapes label ids.
        confidences: R scores.

    Returns:
        What ``assignGt2Preds`` gives, without the mask files' names: under "groundTruth" instances
        by label name with their `matchedPred`, under "prediction" predictions by label name with
        their `matchedGt`; plain numbers.

    Raises:
        DataError: Sizes or values that do not fit.
    """
    annotation = annotation_runs(ids)
    evaluated = evaluated_labels()
    shared, pixels = overlaps(annotation, rles)
    void = shared[:, _ignored_values()[annotation.values]].sum(axis=1)

    ground_truth: dict[str, list[dict[str, Any]]] = {name: [] for name in evaluated.values()}
    columns: dict[str, list[int]] = {name: [] for name in evaluated.values()}
    for column, value in enumerate(annotation.values.tolist()):
        label = label_id(value)
        if label in evaluated:
            count = int(annotation.pixels[column])
            facts = {"instID": value, "labelID": label, "pixelCount": count}
            no_distance = {"medDist": -1, "distConf": 0.0}  # distances are not evaluated
            columns[evaluated[label]].append(column)
            ground_truth[evaluated[label]].append({**facts, **no_distance, "matchedPred": []})
    predictions: dict[str, list[dict[str, Any]]] = {name: [] for name in evaluated.values()}
    number = 0
    for row, (label, confidence) in enumerate(zip(label_ids, confidences, strict=True)):
        if label not in evaluated or pixels[row] == 0:
            continue
        name = evaluated[label]
        prediction: dict[str, Any] = {
            "predID": number,
            "labelID": label,
            "pixelCount": int(pixels[row]),
            "confidence": float(confidence),
            "voidIntersection": int(void[row]),
        }
        matched = []
        counts = shared[row, columns[name]].tolist()
        for count, instance in zip(counts, ground_truth[name], strict=True):
            if count:
                facts = {key: value for key, value in instance.items() if key != "matchedPred"}
                matched.append({**facts, "intersection": count})
                instance["matchedPred"].append({**prediction, "intersection": count})
        prediction["matchedGt"] = matched
        predictions[name].append(prediction)
        number += 1
    return {"groundTruth": ground_truth, "prediction": predictions}
