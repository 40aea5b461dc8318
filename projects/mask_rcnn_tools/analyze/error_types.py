"""Error types of detections and their cost, as in TIDE (Bolya et al., ECCV 2020).

Every false positive gets the first type that applies to its IoU with the objects of its image (t_f:
`iou_threshold`, t_b: `background_threshold`):

    Loc   right class, wrong place: t_b <= IoU <= t_f with an object of its class
    Cls   right place, wrong class: IoU >= t_f with an object of another class
    Dupe  IoU >= t_f with an object of its class that a better detection matches
    Bkg   on the background: IoU <= t_b with every object
    Both  wrong class and place: all others

    Miss  an unmatched object that no Cls or Loc error would match after its fix

The dAP of a type is the AP gain if only the errors of this type are fixed: Cls gets the right
class, Loc the right place (only the detection with the highest score for each object, the others
are removed), Both, Dupe and Bkg are removed, and Miss removes the object. FP is the gain if all
false positives had the lowest score, FN the gain without unmatched objects. The dAP values do not
sum to 100 - AP.

The numbers equal those of the authors' `tidecv`, except that a class without objects is omitted, as
in COCO's AP, which `tidecv` counts as AP 0, and that a limit of detections is one per image and
class, as COCO's, not per image.

Shapes: R detections, G annotations, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mask_rcnn_tools.analyze.evaluation_data import EvaluationData
from mask_rcnn_tools.analyze.matching import Matches, match

DETECTION_ERRORS = ("Cls", "Loc", "Both", "Dupe", "Bkg")
MAIN_ERRORS = (*DETECTION_ERRORS, "Miss")
SPECIAL_ERRORS = ("FP", "FN")

MEANING = {
    "Cls": "right place, wrong class",
    "Loc": "right class, wrong place",
    "Both": "wrong class and place",
    "Dupe": "found before",
    "Bkg": "nothing there",
    "Miss": "not found",
    "FP": "all false positives",
    "FN": "all unfound objects",
}

CORRECT = -1
_RECALLS = np.arange(101) / 100
_CODES = {name: code for code, name in enumerate(DETECTION_ERRORS)}


@dataclass(frozen=True)
class ErrorTypes:
    """Error types of detections and objects, and their cost.

    Attributes:
        task: "bbox" or "segm".
        matches: Matches of detections and objects.
        kind: (R,) index in `DETECTION_ERRORS`, or `CORRECT`. Detections in crowd regions have a
            type without a cost, as in TIDE.
        missed: (G,) bool, Miss.
        ap: AP at the IoU threshold in percent.
        delta: DAP in percent of `MAIN_ERRORS` and `SPECIAL_ERRORS`.
        counts: Numbers of `MAIN_ERRORS`.
        class_ap: (C,) AP in percent; NaN without objects.
        class_delta: (C,) dAP of each type in percent; NaN without objects.
        class_counts: (C,) numbers of each type, by predicted class.
    """

    task: str
    matches: Matches
    kind: np.ndarray
    missed: np.ndarray
    ap: float
    delta: dict[str, float]
    counts: dict[str, int]
    class_ap: np.ndarray
    class_delta: dict[str, np.ndarray]
    class_counts: dict[str, np.ndarray]


def error_types(
    data: EvaluationData, task: str, iou_threshold: float = 0.5, background_threshold: float = 0.1
) -> ErrorTypes:
    """Classifies all errors and computes their dAP.

    Args:
        data: Annotations and detections.
        task: "bbox" or "segm".
        iou_threshold: Minimum IoU of a true positive.
        background_threshold: Maximum IoU of a detection on the background.
    """
    matches = match(data, task, iou_threshold)
    kind, target = _kinds(data, task, matches, iou_threshold, background_threshold)
    truth, found = data.truth(task), data.detections
    asked = ~truth.crowd
    unfound = asked & (matches.detection < 0)
    fixable = _fixable(found.score, target)
    usable = np.zeros(len(truth), bool)
    usable[target[target >= 0]] = True
    missed = unfound & ~usable

    count = len(data.classes)
    positives = np.bincount(truth.category[asked], minlength=count)

    def class_ap(
        category: np.ndarray = found.category,
        correct: np.ndarray = kind == CORRECT,
        counted: np.ndarray = ~matches.ignored,
        score: np.ndarray = found.score,
        objects: np.ndarray = positives,
        fixed: bool = True,
    ) -> np.ndarray:
        """(C,) AP in percent. After a fix, errors precede true positives of equal score."""
        index = np.flatnonzero(counted)
        if fixed:  # as in tidecv
            index = index[np.argsort(kind[index] == CORRECT, kind="stable")]
        values = class_average_precisions(category[index], score[index], correct[index], objects)
        return np.where(positives > 0, values * 100, np.nan)

    base = class_ap(fixed=False)
    class_delta = {}
    for name, code in _CODES.items():
        own = kind == code
        category = found.category.copy()
        corrected = own & fixable
        category[corrected] = truth.category[target[corrected]]
        counted = (~matches.ignored | corrected) & ~(own & ~fixable)
        class_delta[name] = class_ap(category, (kind == CORRECT) | corrected, counted) - base
    without = positives - np.bincount(truth.category[missed], minlength=count)
    class_delta["Miss"] = class_ap(objects=without) - base
    class_delta["FP"] = class_ap(score=(kind == CORRECT).astype(float)) - base
    without = positives - np.bincount(truth.category[unfound], minlength=count)
    class_delta["FN"] = class_ap(objects=without) - base

    ap = _mean(base)
    # not the mean of the differences: a class may lose its last object
    gains = {name: _mean(base + values) - ap for name, values in class_delta.items()}
    # without any object left there is no gain
    delta = {name: 0.0 if np.isnan(gain) else gain for name, gain in gains.items()}
    delta.update({name: max(delta[name], 0.0) for name in MAIN_ERRORS})
    class_counts = {
        name: np.bincount(found.category[kind == code], minlength=count)
        for name, code in _CODES.items()
    }
    class_counts["Miss"] = np.bincount(truth.category[missed], minlength=count)
    return ErrorTypes(
        task=task,
        matches=matches,
        kind=kind,
        missed=missed,
        ap=ap,
        delta=delta,
        counts={name: int(values.sum()) for name, values in class_counts.items()},
        class_ap=base,
        class_delta=class_delta,
        class_counts=class_counts,
    )


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _kinds(
    data: EvaluationData,
    task: str,
    matches: Matches,
    iou_threshold: float,
    background_threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (R,) types, and (R,) unmatched objects that fixed Cls and Loc errors match, or -1."""
    truth, found = data.truth(task), data.detections
    kind = np.full(len(found), CORRECT)
    target = np.full(len(found), -1)
    for (rows, columns), overlap in zip(data.images(), data.overlaps(task), strict=True):
        wrong = np.flatnonzero(matches.annotation[rows] < 0)
        if not len(wrong):
            continue
        asked = np.flatnonzero(~truth.crowd[columns])
        if not len(asked):
            kind[rows.start + wrong] = _CODES["Bkg"]
            continue
        iou = overlap[np.ix_(wrong, asked)]
        same = found.category[rows][wrong, None] == truth.category[columns][asked][None]
        taken = matches.detection[columns][asked] >= 0
        same_iou, other_iou = iou * same, iou * ~same
        best_same, best_other = same_iou.argmax(axis=1), other_iou.argmax(axis=1)
        highest_same, highest_other = same_iou.max(axis=1), other_iou.max(axis=1)
        loc = (background_threshold <= highest_same) & (highest_same <= iou_threshold)
        types = np.select(
            [
                loc,
                highest_other >= iou_threshold,
                (same_iou * taken).max(axis=1) >= iou_threshold,
                iou.max(axis=1) <= background_threshold,
            ],
            [_CODES["Loc"], _CODES["Cls"], _CODES["Dupe"], _CODES["Bkg"]],
            _CODES["Both"],
        )
        nearest = np.where(loc, best_same, best_other)
        may = np.isin(types, (_CODES["Loc"], _CODES["Cls"])) & ~taken[nearest]
        kind[rows.start + wrong] = types
        target[rows.start + wrong[may]] = columns.start + asked[nearest[may]]
    return kind, target


def _fixable(score: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(R,) bool: for each target of Cls and Loc errors, the error with the highest score."""
    fixable = np.zeros(len(target), bool)
    candidates = np.flatnonzero(target >= 0)
    order = candidates[np.lexsort((candidates, -score[candidates], target[candidates]))]
    _, first = np.unique(target[order], return_index=True)
    fixable[order[first]] = True
    return fixable


def average_precision(correct: np.ndarray, positives: int) -> float:
    """Computes AP over 101 points of recall, as COCO and TIDE do.

    Args:
        correct: (R,) bool, true positives in descending order of score.
        positives: Number of objects.

    Returns:
        AP in [0, 1]; 0 without detections or objects.
    """
    if positives == 0 or len(correct) == 0:
        return 0.0
    true = np.cumsum(correct)
    precision = true / np.arange(1, len(correct) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(true / positives, _RECALLS, side="left")
    reached = places[places < len(precision)]
    return float(precision[reached].sum() / len(_RECALLS))


def class_average_precisions(
    category: np.ndarray, score: np.ndarray, correct: np.ndarray, positives: np.ndarray
) -> np.ndarray:
    """Computes the AP of each class.

    Args:
        category: (R,) class indices.
        score: (R,) scores. Of equal ones the first counts as higher.
        correct: (R,) bool, true positives.
        positives: (C,) numbers of objects.

    Returns:
        (C,) AP in [0, 1]; NaN for a class without objects and detections.
    """
    order = np.lexsort((-score, category))
    ends = np.searchsorted(category[order], np.arange(len(positives) + 1))
    values = np.full(len(positives), np.nan)
    for index, count in enumerate(positives.tolist()):
        own = correct[order[ends[index] : ends[index + 1]]]
        if count or len(own):
            values[index] = average_precision(own, count)
    return values
