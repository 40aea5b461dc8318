"""Checks of annotations against their images, their categories and themselves.

Shapes: N annotations; boxes (N, 4) XYWH in pixels.
"""

from __future__ import annotations

from itertools import groupby

import numpy as np

from mask_rcnn_repro.data.coco.normalize import FAR
from mask_rcnn_repro.data.keypoint_metadata import (
    KeypointSet,
    keypoint_metadata,
    lacks_pairs,
    one_sided,
)
from mask_rcnn_tools.check_data.columns import IS_POLYGON, IS_RUNS, NO_MASK
from mask_rcnn_tools.check_data.findings import Report
from mask_rcnn_tools.check_data.tables import AnnotationTable

_SLACK = 1.0  # pixels; tools round in different ways
_DROPS = dict.fromkeys(("empty-box", "box-outside", "far-coordinates"), True)


def check_annotations(
    table: AnnotationTable, report: Report, split: str, heads: frozenset[str]
) -> None:
    """Adds findings about the annotations of a table.

    Args:
        table: The annotations to check.
        report: Findings are added to it.
        split: `"train"` or `"test"`.
        heads: Branches of the model, of `"mask"` and `"keypoint"`.
    """
    for kind, group in groupby(sorted(table.problems, key=lambda p: p[0]), lambda p: p[0]):
        report.add(kind, split, table.source, [text for _, text in group])
    if split == "train" and not len(table.columns):
        report.add("no-annotations", split, table.source, [f"{len(table)} images"])
    if not len(table.columns):
        return
    checks = _Checks(table, report, split)
    checks.images()
    checks.boxes()
    checks.masks("mask" in heads)
    checks.categories()
    _check_keypoints(checks, "keypoint" in heads)


class _Checks:
    """Arrays that several checks use."""

    def __init__(self, table: AnnotationTable, report: Report, split: str) -> None:
        self.table, self.report, self.split = table, report, split
        self.columns = table.columns
        self.listed = table.image_of >= 0
        sizes = table.sizes[np.maximum(table.image_of, 0)] if len(table) else np.zeros((1, 2))
        self.height, self.width = np.where(self.listed[:, None], sizes, 0).T.astype(np.float64)
        self.crowd = self.columns.crowd == 1
        # what is refused or dropped is reported once, without what follows from it
        self.reported = table.refused.copy()
        self.in_pixels = True  # boxes; otherwise they are parts of the image's size
        self.fine = self.listed & ~self.reported & np.isfinite(self.columns.boxes).all(1)

    def add(self, kind: str, chosen: np.ndarray, text: str = "") -> None:
        """Adds a finding of the annotations chosen by a mask (N,)."""
        rows = np.flatnonzero(chosen)
        self.reported |= chosen & _DROPS.get(kind, False)
        examples = self.table.describe(rows, text)
        self.report.add(kind, self.split, self.table.source, examples, len(rows))

    def images(self) -> None:
        """Checks for images that are not listed, and for duplicate annotations."""
        self.add("annotation-without-image", ~self.listed & ~self.reported)
        c = self.columns
        # Boxes by their bits: as floats, ids above 2**53 would become equal.
        bits = np.ascontiguousarray(c.boxes + 0.0, np.float64).view(np.int64)
        key = np.column_stack([c.image, c.category, c.crowd, bits])
        rows = np.flatnonzero(self.fine & ~self.crowd)
        _, first = np.unique(_as_bytes(key[rows]), return_index=True)
        copies = np.zeros(len(key), bool)
        copies[rows] = True
        copies[rows[first]] = False
        self.add("duplicate-annotation", copies)

    def boxes(self) -> None:
        """Checks boxes, alone and against their image."""
        x, y, w, h = self.columns.boxes.T
        with np.errstate(invalid="ignore", over="ignore"):
            right, bottom = x + w, y + h
            empty = self.fine & ((w <= 0) | (h <= 0))
            broken = self.listed & ~self.fine & ~self.reported
            self.add("empty-box", empty | broken)
            rest = self.fine & ~empty
            outside = rest & ((x >= self.width) | (y >= self.height) | (right <= 0) | (bottom <= 0))
            far = self._far(np.stack([x, y], 1), np.stack([right, bottom], 1))
            far &= self.fine
            over = (x < -_SLACK) | (y < -_SLACK)
            over |= (right > self.width + _SLACK) | (bottom > self.height + _SLACK)
            over &= rest & ~outside & ~far
            corners = rest & (w > x) & (h > y) & (w <= self.width + 1) & (h <= self.height + 1)
            fractions = rest & (np.maximum(right, bottom) <= 1) & (np.minimum(x, y) >= 0)
        many = max(10, 0.5 * rest.sum())
        self.in_pixels = bool(fractions.sum() != rest.sum())
        if not self.in_pixels and len(rest) > 1:
            self.add("box-fractions", fractions)
        elif corners.sum() == rest.sum() and (over | outside).sum() >= many:
            self.add("box-corners", over | outside)
        self.add("box-outside", outside & ~far)
        self.add("far-coordinates", far)
        self.add("box-partly-outside", over)
        if self.in_pixels:
            self.add("tiny-box", rest & ((w < 1) | (h < 1)))

    def _far(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        limit = FAR * np.maximum(self.width, self.height)[:, None]
        with np.errstate(invalid="ignore"):
            far: np.ndarray = ((low < -limit) | (high > limit)).any(1)
        return far

    def masks(self, wanted: bool) -> None:
        """Checks masks, alone and against their box."""
        kind, bounds = self.columns.mask, self.columns.mask_bounds
        known = self.listed & ~self.reported
        far = known & self._far(bounds[:, :2], bounds[:, 2:])
        area = np.where(far, np.nan, self.columns.mask_area)  # of what is left it is not known
        self.add("bad-polygon", known & (self.columns.bad_polygons > 0) | far)
        self._areas(known, area)
        has = (kind != NO_MASK) & ((kind != IS_RUNS) | (area > 0))
        if not has.any():
            if wanted and not self.reported.any():
                self.report.add(
                    "no-masks", self.split, self.table.source, [f"{len(kind)} annotations"]
                )
            return
        usable = self.fine & known & np.isfinite(area)
        self.add("mask-without-area", usable & (area <= 0))
        x, y, w, h = self.columns.boxes.T
        x0, y0, x1, y1 = self.columns.mask_bounds.T
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            # bounds are widened by half a pixel: masks of pixels and of points differ by so much
            wide = np.minimum(x1, x + w) - np.maximum(x0, x) + 1
            high = np.minimum(y1, y + h) - np.maximum(y0, y) + 1
            inner = wide.clip(0) * high.clip(0)
            union = (w + 1) * (h + 1) + (x1 - x0 + 1) * (y1 - y0 + 1) - inner
            off = usable & (area > 0) & (w > 0) & (h > 0) & (inner < 0.5 * union)
        self.add("mask-off-box", off)
        self.add("missing-mask", known & ~has)
        self.add("crowd-polygon", self.crowd & ~self.reported & (kind == IS_POLYGON))

    def _areas(self, known: np.ndarray, mask: np.ndarray) -> None:
        """Checks the areas of `known` annotations, which loaders take, against box and mask."""
        stated = self.columns.area
        w, h = self.columns.boxes[:, 2:].T
        with np.errstate(invalid="ignore", over="ignore"):
            # the loader's rule: not omitted quietly, as a missing field is
            bad = self.columns.area_given & ~((stated > 0) & (stated <= (w + 1) * (h + 1)))
            # thinner than a pixel along the whole box
            thin = (stated < np.maximum(w, h)) & (stated < 0.5 * w * h)
            # of crowds and of several polygons, which may overlap, areas are stated loosely
            plain = ~self.crowd & (self.columns.polygons <= 1) & (np.maximum(stated, mask) > 16)
            differs = plain & (mask > 0) & ((stated > 2 * mask) | (stated < 0.5 * mask))
        differs |= thin & ~self.crowd & ~(mask > 0)
        self.add("area-field", known & self.in_pixels & (bad | differs))
        if self.split == "test":
            self.add("no-area-field", known & ~self.columns.area_given)

    def categories(self) -> None:
        """Checks for categories without annotations, and for names that are not unique."""
        known = self.table.categories
        if known is None:
            return
        used = set(np.unique(self.columns.category[self.listed]).tolist())
        unused = [known.names[k] for identity, k in known.id_map.items() if identity not in used]
        self.report.add("unused-category", self.split, self.table.source, unused)
        twice = sorted({name for name in known.names if known.names.count(name) > 1})
        self.report.add("duplicate-class-name", self.split, self.table.source, twice)


def _check_keypoints(checks: _Checks, wanted: bool) -> None:
    table, columns = checks.table, checks.columns
    has = columns.keypoints > 0
    names = table.categories.keypoint_names if table.categories is not None else ()
    if not has.any():
        if wanted:
            checks.report.add(
                "no-keypoints", checks.split, table.source, [f"{len(columns)} instances"]
            )
        return
    has &= checks.listed & ~table.refused
    if not names and wanted:
        cases = [f"{has.sum()} annotations with keypoints"]
        checks.report.add("keypoint-names", checks.split, table.source, cases)
    stated = columns.num_keypoints
    checks.add("keypoint-count", has & (stated >= 0) & (stated != columns.labelled))
    x0, y0, x1, y1 = columns.point_bounds.T
    x, y, w, h = columns.boxes.T
    with np.errstate(invalid="ignore", over="ignore"):
        outside = (x0 < 0) | (y0 < 0) | (x1 > checks.width) | (y1 > checks.height)
        outside &= checks.fine
        off = (x0 < x - _SLACK) | (y0 < y - _SLACK) | (x1 > x + w + _SLACK) | (y1 > y + h + _SLACK)
    checks.add("keypoint-outside", outside)
    checks.add("keypoint-off-box", off & ~outside & checks.fine)
    checks.add("keypoint-ghost", has & (columns.ghosts > 0))


def check_keypoint_set(
    keypoints: KeypointSet | None, report: Report, split: str, source: str
) -> None:
    """Adds findings about names, pairs and sigmas of the keypoints of a data set."""
    if keypoints is None:
        return
    alone = one_sided(keypoints)
    report.add("keypoint-sides", split, source, alone)
    if split != "test" and not alone and lacks_pairs(keypoints):
        report.add("keypoint-pairs", split, source, [", ".join(keypoints.names)])
    if split == "test" and not keypoints.sigmas:
        report.add("keypoint-sigmas", split, source, [", ".join(keypoints.names)])


def keypoints_of(table: AnnotationTable) -> KeypointSet | None:
    """Returns what the json itself states about its keypoints."""
    known = keypoint_metadata(table.categories)
    if not known:
        return None
    return KeypointSet(
        known["keypoint_names"],
        known["keypoint_flip_map"],
        tuple(known.get("keypoint_oks_sigmas", ())),
    )


def _as_bytes(rows: np.ndarray) -> np.ndarray:
    """Returns rows as (n,) void values. Sorting them finds equal rows."""
    rows = np.ascontiguousarray(rows)
    return rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).reshape(-1)
