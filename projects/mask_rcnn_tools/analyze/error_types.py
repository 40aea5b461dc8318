"""Error types of detections and what each costs, as in TIDE (Bolya et al., ECCV 2020).

Every false positive gets one type, by its IoU with the objects of its image, in this order (t_f:
`iou_threshold`, t_b: `background_threshold`):

    Loc   right class, badly placed: t_b <= IoU <= t_f with an object of its class
    Cls   well placed, wrong class: IoU >= t_f with an object of another class
    Dupe  IoU >= t_f with an object of its class that a better detection has found
    Bkg   on the background: IoU <= t_b with every object
    Both  wrong class and badly placed: what is left

    Miss  an object that no detection found, and that no Cls or Loc error would have found

dAP of a type is the AP that is gained if all errors of the type are mended and nothing else is:
Cls gets the right class, Loc the right place (of several at one object the one with the highest
score; the others vanish), Both, Dupe and Bkg vanish, a missed object is no longer asked for. The
dAP of types do not sum to what is missing to 100. FP is the gain if every false positive had the
lowest score, FN if no unfound object were asked for.

Numbers equal those of the authors' `tidecv`, but for one thing: a class without any object in the
data set is left out, as in COCO's AP, where `tidecv` counts it as AP 0.

Shapes: R detections, G annotations, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mask_rcnn_tools.analyze.average_precision import class_average_precisions
from mask_rcnn_tools.analyze.detections import Material
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
_CODES = {name: code for code, name in enumerate(DETECTION_ERRORS)}


@dataclass(frozen=True)
class ErrorTypes:
    """Each detection's and each object's error, and the price of the types.

    Attributes:
        task: "bbox" or "segm".
        matches: who found what.
        kind: (R,) index in `DETECTION_ERRORS`; `CORRECT`: none. Detections in crowd regions have a
            type although they cost nothing, as in TIDE.
        missed: (G,) bool: Miss.
        ap: AP at the IoU threshold in percent.
        delta: type to dAP in percent, of `MAIN_ERRORS` and `SPECIAL_ERRORS`.
        counts: type to number, of `MAIN_ERRORS`.
        class_ap: (C,) AP in percent; NaN: no objects.
        class_delta: type to (C,) dAP in percent; NaN: no objects.
        class_counts: type to (C,) numbers; errors count for the predicted class.
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
    material: Material,
    task: str,
    iou_threshold: float = 0.5,
    background_threshold: float = 0.1,
) -> ErrorTypes:
    """Types all errors and computes their dAP.

    Args:
        material: annotations and detections.
        task: "bbox" or "segm".
        iou_threshold: least IoU of a true positive.
        background_threshold: up to this IoU a detection has nothing to do with an object.
    """
    matches = match(material, task, iou_threshold)
    kind, target = _kinds(material, task, matches, iou_threshold, background_threshold)
    truth, found = material.truth, material.found
    asked = ~truth.crowd
    unfound = asked & (matches.detection < 0)
    mended = _mended(found.score, kind, target, unfound)
    usable = np.zeros(len(truth), bool)
    usable[target[target >= 0]] = True
    missed = unfound & ~usable

    count = len(material.classes)
    positives = np.bincount(truth.category[asked], minlength=count)
    there = positives > 0
    prices = _Prices(material, matches, kind, positives, there)
    base = prices.of(kind == CORRECT, found.category)
    class_delta = {}
    for name, code in _CODES.items():
        own = kind == code
        category = found.category.copy()
        fixed = own & mended
        category[fixed] = truth.category[target[fixed]]
        class_delta[name] = (
            prices.of(
                (kind == CORRECT) | fixed, category, gone=own & ~mended, back=fixed, mending=True
            )
            - base
        )
    without = positives - np.bincount(truth.category[missed], minlength=count)
    class_delta["Miss"] = (
        prices.of(kind == CORRECT, found.category, positives=without, mending=True) - base
    )
    lowest = (kind == CORRECT).astype(float)
    class_delta["FP"] = (
        prices.of(kind == CORRECT, found.category, score=lowest, mending=True) - base
    )
    without = positives - np.bincount(truth.category[unfound], minlength=count)
    class_delta["FN"] = (
        prices.of(kind == CORRECT, found.category, positives=without, mending=True) - base
    )

    ap = _mean(base)
    # the mean after less the mean before: a class may lose its last object
    gains = {name: _mean(base + values) - ap for name, values in class_delta.items()}
    # where nothing at all is left to be found, nothing can be gained
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


@dataclass(frozen=True)
class _Prices:
    """AP of the classes under changes to the true and false positives."""

    material: Material
    matches: Matches
    kind: np.ndarray
    positives: np.ndarray
    there: np.ndarray

    def of(
        self,
        correct: np.ndarray,
        category: np.ndarray,
        gone: np.ndarray | None = None,
        back: np.ndarray | None = None,
        score: np.ndarray | None = None,
        positives: np.ndarray | None = None,
        mending: bool = False,
    ) -> np.ndarray:
        """(C,) AP in percent, NaN without objects.

        Args:
            correct: (R,) bool.
            category: (R,).
            gone: (R,) bool, detections that vanish.
            back: (R,) bool, detections that count even if they lie in a crowd region.
            score: (R,), else the detections' own.
            positives: (C,), else the data set's.
            mending: errors precede true positives of equal score, as in tidecv.
        """
        score = self.material.found.score if score is None else score
        positives = self.positives if positives is None else positives
        kept = ~self.matches.ignored
        if back is not None:
            kept |= back
        if gone is not None:
            kept &= ~gone
        index = np.flatnonzero(kept)
        if mending:
            index = index[np.argsort(self.kind[index] == CORRECT, kind="stable")]
        values = class_average_precisions(category[index], score[index], correct[index], positives)
        return np.where(self.there, values * 100, np.nan)


def _kinds(
    material: Material,
    task: str,
    matches: Matches,
    iou_threshold: float,
    background_threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """(R,) types, and (R,) for Cls and Loc the unfound object that they would have found, or -1."""
    truth, found = material.truth, material.found
    kind = np.full(len(found), CORRECT)
    target = np.full(len(found), -1)
    for (rows, columns), overlap in zip(material.images(), material.overlaps(task), strict=True):
        wrong = np.flatnonzero(matches.truth[rows] < 0)
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


def _mended(
    score: np.ndarray, kind: np.ndarray, target: np.ndarray, unfound: np.ndarray
) -> np.ndarray:
    """(R,) bool: of the Cls and Loc errors at an unfound object the one with the highest score."""
    mended = np.zeros(len(kind), bool)
    candidates = np.flatnonzero(target >= 0)
    order = candidates[np.lexsort((candidates, -score[candidates], target[candidates]))]
    _, first = np.unique(target[order], return_index=True)
    mended[order[first]] = True
    return mended
