"""Error types of keypoints, in the manner of Ronchi and Perona (ICCV 2017).

Detections are matched with persons at an OKS of at least 0.1. The type of each labeled keypoint of
a match depends on its highest keypoint similarity ks (the term of one keypoint in OKS) with the
keypoints of the same or the mirrored name of all persons in the image:

    good       its own keypoint, ks >= 0.85
    jitter     its own keypoint, 0.5 <= ks < 0.85
    inversion  the mirrored keypoint of the same person (left for right), ks >= 0.5
    swap       the same or the mirrored keypoint of another person, ks >= 0.5
    miss       none with ks >= 0.5

The dAP of a type is the AP gain if all its errors are fixed as in the paper: a jitter to ks 0.85, a
miss to ks 0.5, an inversion or swap to the ks that it has at the wrong place.

Shapes: M matched detections, K keypoints, P persons of an image.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES
from pycocotools.cocoeval import COCOeval

from mask_rcnn_repro.data.keypoint_metadata import COCO_PERSON_SIGMAS, keypoint_flip_indices
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation.coco.backends import coco_metrics
from mask_rcnn_repro.evaluation.coco.ground_truth import fill_keypoints
from mask_rcnn_tools.analyze.evaluation_data import Detections, EvaluationData

KEYPOINT_ERRORS = ("jitter", "inversion", "swap", "miss")
KINDS = ("good", *KEYPOINT_ERRORS)
UNLABELLED = -1

_GOOD, _JITTER, _INVERSION, _SWAP, _MISS = range(5)
_MATCH_OKS = 0.1
_NEAR, _EXACT = 0.5, 0.85


@dataclass(frozen=True)
class KeypointErrors:
    """Error types of the keypoints of matched detections.

    Attributes:
        names: K names.
        detection: (M,) indices of detections.
        kind: (M, K) indices in `KINDS`, or `UNLABELLED` if the annotation has no keypoint.
        ap: COCO's keypoint AP in percent.
        delta: DAP of each error type in percent.
    """

    names: tuple[str, ...]
    detection: np.ndarray
    kind: np.ndarray
    ap: float
    delta: dict[str, float]

    def counts(self) -> dict[str, np.ndarray]:
        """Maps kinds to (K,) numbers."""
        return {name: (self.kind == code).sum(axis=0) for code, name in enumerate(KINDS)}


def keypoint_errors(data: EvaluationData) -> KeypointErrors:
    """Classifies the keypoints of matched detections and computes the dAP of the types.

    Args:
        data: Annotations and detections with keypoints.

    Raises:
        DataError: The OKS sigmas of the keypoints are unknown.
    """
    metadata = MetadataCatalog.get(data.dataset)
    assert data.annotations.keypoints is not None
    assert data.detections.keypoints is not None
    count = data.annotations.keypoints.shape[1]
    given = metadata.get("keypoint_names")
    names = tuple(given) if given is not None else tuple(f"keypoint {i}" for i in range(count))
    sigmas = _sigmas(data.dataset, names)
    flip = keypoint_flip_indices(names, metadata.get("keypoint_flip_map", ()))
    detection, person = _matched(data, sigmas)
    kind, similarity = _kinds(data, detection, person, sigmas, flip)

    def ap(found: Detections) -> float:
        return coco_metrics(
            data.coco,
            data.results("keypoints", found),
            "keypoints",
            image_ids=list(data.image_ids),
            class_names=dict(zip(data.category_ids, data.classes, strict=True)),
            oks_sigmas=list(sigmas),
        )["AP"]

    base = ap(data.detections)
    delta = {}
    for code, name in enumerate(KINDS[1:], start=1):
        wrong = kind == code
        fixed = _fixed(data, detection, person, sigmas, similarity, wrong, code)
        delta[name] = ap(replace(data.detections, keypoints=fixed)) - base
    return KeypointErrors(names, detection, kind, base, delta)


def _sigmas(dataset: str, names: Sequence[str]) -> tuple[float, ...]:
    known = MetadataCatalog.get(dataset).get("keypoint_oks_sigmas", ())
    if not known and list(names) == list(COCO_PERSON_KEYPOINT_NAMES):
        known = COCO_PERSON_SIGMAS
    if len(known) != len(names):
        raise DataError(
            f"The OKS sigmas of the keypoints of {dataset!r} are unknown. Set "
            "dataloader.test.dataset.oks_sigmas to one value per keypoint."
        )
    return tuple(known)


def _matched(data: EvaluationData, sigmas: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (M,) detections and (M,) persons, as matched by COCO's evaluation."""
    rows = data.results("keypoints")
    if not rows:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    with contextlib.redirect_stdout(io.StringIO()):
        # loadRes numbers the detections from 1 in their order
        evaluation = COCOeval(data.coco, data.coco.loadRes(rows), "keypoints")
        evaluation.params.imgIds = list(data.image_ids)
        holding = fill_keypoints(data.coco.dataset["annotations"])
        evaluation.params.catIds = [c for c in data.category_ids if c in holding]
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.params.iouThrs = np.array([_MATCH_OKS])
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
        evaluation.evaluate()
    place = {annotation["id"]: index for index, annotation in enumerate(_annotations(data))}
    pairs = [
        (found - 1, place[int(truth)])
        for image in evaluation.evalImgs
        if image is not None
        for found, truth in zip(image["dtIds"], image["dtMatches"][0], strict=True)
        if truth
    ]
    pairs.sort()
    both = np.array(pairs, np.int64).reshape(-1, 2)
    assert data.annotations.keypoints is not None
    labelled = (data.annotations.keypoints[both[:, 1], :, 2] > 0).any(axis=1)
    return both[labelled, 0], both[labelled, 1]


def _annotations(data: EvaluationData) -> list[dict[str, int]]:
    """Returns the annotations in the order of `data.annotations`."""
    known = set(data.category_ids)
    return [
        annotation
        for image in data.image_ids
        for annotation in data.coco.imgToAnns.get(image, [])
        if annotation["category_id"] in known
    ]


def _kinds(
    data: EvaluationData,
    detection: np.ndarray,
    person: np.ndarray,
    sigmas: Sequence[float],
    flip: Sequence[int],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (M, K) kinds and (M, K) highest similarities."""
    truth, found = data.annotations, data.detections
    assert truth.keypoints is not None
    assert found.keypoints is not None
    shape = len(detection), truth.keypoints.shape[1]
    kind = np.full(shape, UNLABELLED)
    highest = np.zeros(shape)
    starts = np.searchsorted(truth.image, np.arange(len(data.image_ids) + 1))
    variance = (2 * np.array(sigmas)) ** 2
    for index, (d, g) in enumerate(zip(detection.tolist(), person.tolist(), strict=True)):
        image = truth.image[g]
        others = [p for p in range(starts[image], starts[image + 1]) if p != g]
        persons = np.array([g, *others])
        points = truth.keypoints[persons]  # (P, K, 3)
        similar = np.concatenate(
            [
                _similarity(found.keypoints[d], candidates, truth.area[persons], variance)
                for candidates in (points, points[:, flip])
            ]
        )  # (2 P, K): the own person is first, and its mirrored keypoints are at P
        best = similar.argmax(axis=0)
        highest[index] = np.maximum(similar.max(axis=0), 0)
        own, mirrored = best == 0, best == len(persons)
        kind[index] = np.select(
            [highest[index] < _NEAR, own & (highest[index] >= _EXACT), own, mirrored],
            [_MISS, _GOOD, _JITTER, _INVERSION],
            _SWAP,
        )
        kind[index][points[0, :, 2] == 0] = UNLABELLED
    return kind, highest


def _similarity(
    points: np.ndarray, candidates: np.ndarray, area: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    """Returns (P, K) similarities of (K, 3) points with (P, K, 3) ones; -1 if not labeled."""
    square = ((candidates[:, :, :2] - points[None, :, :2]) ** 2).sum(axis=2)
    similar = np.exp(-square / variance / (area[:, None] + np.spacing(1)) / 2)
    return np.where(candidates[:, :, 2] > 0, similar, -1.0)


def _fixed(
    data: EvaluationData,
    detection: np.ndarray,
    person: np.ndarray,
    sigmas: Sequence[float],
    similarity: np.ndarray,
    wrong: np.ndarray,
    code: int,
) -> np.ndarray:
    """Returns (R, K, 3) keypoints of all detections, the wrong ones (M, K) moved."""
    assert data.annotations.keypoints is not None
    assert data.detections.keypoints is not None
    reached = {_JITTER: np.full(wrong.shape, _EXACT), _MISS: np.full(wrong.shape, _NEAR)}
    similar = reached.get(code, similarity)
    area = data.annotations.area[person][:, None]
    variance = (2 * np.array(sigmas)) ** 2
    # the distance at which a keypoint has this similarity, laid along x
    distance = np.sqrt(-np.log(np.where(wrong, similar, 1.0)) * 2 * area * variance)
    points = data.detections.keypoints.copy()
    right = data.annotations.keypoints[person]
    moved = points[detection]
    moved[:, :, 0] = np.where(wrong, right[:, :, 0] + distance, moved[:, :, 0])
    moved[:, :, 1] = np.where(wrong, right[:, :, 1], moved[:, :, 1])
    points[detection] = moved
    return points
