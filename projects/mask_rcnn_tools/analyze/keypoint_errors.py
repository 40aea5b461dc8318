"""Error types of keypoints, in the manner of Ronchi and Perona (ICCV 2017).

Detections are matched with persons at an OKS of at least 0.1. Each labelled keypoint of a match is
told by its keypoint similarity ks (the term of one keypoint in OKS) with all keypoints of the same
name, or of the mirrored name, of all persons in the image; the highest one decides:

    good       its own keypoint, ks >= 0.85
    jitter     its own keypoint, 0.5 <= ks < 0.85
    inversion  the mirrored keypoint of the same person (left for right), ks >= 0.5
    swap       the same or the mirrored keypoint of another person, ks >= 0.5
    miss       none with ks >= 0.5

dAP of a type is the AP that is gained if all its errors are mended as far as the paper does: a
jitter to ks 0.85, a miss to ks 0.5, an inversion or swap to the ks that it has in the wrong place.

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
from mask_rcnn_tools.analyze.detections import Found, Material

KEYPOINT_ERRORS = ("jitter", "inversion", "swap", "miss")
KINDS = ("good", *KEYPOINT_ERRORS)
UNLABELLED = -1

_GOOD, _JITTER, _INVERSION, _SWAP, _MISS = range(5)
_MATCH_OKS = 0.1
_NEAR, _EXACT = 0.5, 0.85


@dataclass(frozen=True)
class KeypointErrors:
    """What became of the keypoints of the persons found.

    Attributes:
        names: K names.
        detection: (M,) index of the detection.
        kind: (M, K) index in `KINDS`; `UNLABELLED` where the annotation has no keypoint.
        ap: COCO's keypoint AP in percent.
        delta: error type to dAP in percent.
    """

    names: tuple[str, ...]
    detection: np.ndarray
    kind: np.ndarray
    ap: float
    delta: dict[str, float]

    def counts(self) -> dict[str, np.ndarray]:
        """Kind to (K,) numbers."""
        return {name: (self.kind == code).sum(axis=0) for code, name in enumerate(KINDS)}


def keypoint_errors(material: Material) -> KeypointErrors:
    """Types the keypoints of matched detections and computes their dAP.

    Args:
        material: annotations and detections with keypoints.

    Raises:
        DataError: the keypoints' OKS sigmas are not known.
    """
    metadata = MetadataCatalog.get(material.dataset)
    assert material.truth.keypoints is not None
    assert material.found.keypoints is not None
    count = material.truth.keypoints.shape[1]
    given = metadata.get("keypoint_names")
    names = tuple(given) if given is not None else tuple(f"keypoint {i}" for i in range(count))
    sigmas = _sigmas(material.dataset, names)
    flip = keypoint_flip_indices(names, metadata.get("keypoint_flip_map", ()))
    detection, person = _matched(material, sigmas)
    kind, similarity = _kinds(material, detection, person, sigmas, flip)

    def ap(found: Found) -> float:
        return coco_metrics(
            material.coco,
            material.results("keypoints", found),
            "keypoints",
            image_ids=list(material.image_ids),
            class_names=dict(zip(material.category_ids, material.classes, strict=True)),
            oks_sigmas=list(sigmas),
        )["AP"]

    base = ap(material.found)
    delta = {}
    for code, name in enumerate(KINDS[1:], start=1):
        wrong = kind == code
        mended = _mended(material, detection, person, sigmas, similarity, wrong, code)
        delta[name] = ap(replace(material.found, keypoints=mended)) - base
    return KeypointErrors(names, detection, kind, base, delta)


def _sigmas(dataset: str, names: Sequence[str]) -> tuple[float, ...]:
    known = MetadataCatalog.get(dataset).get("keypoint_oks_sigmas", ())
    if not known and list(names) == list(COCO_PERSON_KEYPOINT_NAMES):
        known = COCO_PERSON_SIGMAS
    if len(known) != len(names):
        raise DataError(
            f"The OKS sigmas of the keypoints of {dataset!r} are not known, so keypoints cannot "
            "be compared. Set dataloader.test.dataset.oks_sigmas to one value a keypoint."
        )
    return tuple(known)


def _matched(material: Material, sigmas: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """(M,) detections and (M,) the persons that they were matched with, by COCO's evaluation."""
    rows = material.results("keypoints")
    if not rows:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    with contextlib.redirect_stdout(io.StringIO()):
        # loadRes numbers the detections from 1 in their order
        evaluation = COCOeval(material.coco, material.coco.loadRes(rows), "keypoints")
        evaluation.params.imgIds = list(material.image_ids)
        evaluation.params.catIds = list(material.category_ids)
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.params.iouThrs = np.array([_MATCH_OKS])
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
        evaluation.evaluate()
    place = {annotation["id"]: index for index, annotation in enumerate(_annotations(material))}
    pairs = [
        (found - 1, place[int(truth)])
        for image in evaluation.evalImgs
        if image is not None
        for found, truth in zip(image["dtIds"], image["dtMatches"][0], strict=True)
        if truth
    ]
    pairs.sort()
    both = np.array(pairs, np.int64).reshape(-1, 2)
    assert material.truth.keypoints is not None
    labelled = (material.truth.keypoints[both[:, 1], :, 2] > 0).any(axis=1)
    return both[labelled, 0], both[labelled, 1]


def _annotations(material: Material) -> list[dict[str, int]]:
    """The annotations in the order of `material.truth`."""
    known = set(material.category_ids)
    return [
        annotation
        for image in material.image_ids
        for annotation in material.coco.imgToAnns.get(image, [])
        if annotation["category_id"] in known
    ]


def _kinds(
    material: Material,
    detection: np.ndarray,
    person: np.ndarray,
    sigmas: Sequence[float],
    flip: Sequence[int],
) -> tuple[np.ndarray, np.ndarray]:
    """(M, K) kinds and the (M, K) highest similarity."""
    truth, found = material.truth, material.found
    assert truth.keypoints is not None
    assert found.keypoints is not None
    shape = len(detection), truth.keypoints.shape[1]
    kind = np.full(shape, UNLABELLED)
    highest = np.zeros(shape)
    starts = np.searchsorted(truth.image, np.arange(len(material.image_ids) + 1))
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
            [
                highest[index] < _NEAR,
                own & (highest[index] >= _EXACT),
                own,
                mirrored,
            ],
            [_MISS, _GOOD, _JITTER, _INVERSION],
            _SWAP,
        )
        kind[index][points[0, :, 2] == 0] = UNLABELLED
    return kind, highest


def _similarity(
    points: np.ndarray, candidates: np.ndarray, area: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    """(P, K) keypoint similarity of (K, 3) points with (P, K, 3); -1 where not labelled."""
    square = ((candidates[:, :, :2] - points[None, :, :2]) ** 2).sum(axis=2)
    similar = np.exp(-square / variance / (area[:, None] + np.spacing(1)) / 2)
    return np.where(candidates[:, :, 2] > 0, similar, -1.0)


def _mended(
    material: Material,
    detection: np.ndarray,
    person: np.ndarray,
    sigmas: Sequence[float],
    similarity: np.ndarray,
    wrong: np.ndarray,
    code: int,
) -> np.ndarray:
    """(R, K, 3) all detections' keypoints, the wrong ones (M, K) moved towards their place."""
    assert material.truth.keypoints is not None
    assert material.found.keypoints is not None
    reached = {_JITTER: np.full(wrong.shape, _EXACT), _MISS: np.full(wrong.shape, _NEAR)}
    similar = reached.get(code, similarity)
    area = material.truth.area[person][:, None]
    variance = (2 * np.array(sigmas)) ** 2
    # the distance at which a keypoint has this similarity, laid along x
    distance = np.sqrt(-np.log(np.where(wrong, similar, 1.0)) * 2 * area * variance)
    points = material.found.keypoints.copy()
    right = material.truth.keypoints[person]
    moved = points[detection]
    moved[:, :, 0] = np.where(wrong, right[:, :, 0] + distance, moved[:, :, 0])
    moved[:, :, 1] = np.where(wrong, right[:, :, 1], moved[:, :, 1])
    points[detection] = moved
    return points
