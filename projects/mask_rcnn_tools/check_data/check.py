"""Runs all checks on tables and collects the findings in a report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mask_rcnn_tools.check_data.annotation_checks import check_annotations, check_keypoint_set
from mask_rcnn_tools.check_data.findings import Report
from mask_rcnn_tools.check_data.image_checks import (
    ImageFile,
    check_coverage,
    check_images,
    look_at,
)
from mask_rcnn_tools.check_data.overlap import check_class_lists, check_overlap
from mask_rcnn_tools.check_data.sources import Sources
from mask_rcnn_tools.check_data.statistics import statistics
from mask_rcnn_tools.check_data.tables import AnnotationTable


@dataclass(frozen=True)
class Options:
    """How thoroughly images are checked.

    Attributes:
        images: Open images. False: check annotations only.
        hashed: Compare file contents, which reads whole files.
        decode: Decode every image, as training does.
        sample: Number of images per data set, evenly spaced. None: all.
        threads: See :func:`~mask_rcnn_tools.check_data.image_checks.look_at`.
    """

    images: bool = True
    hashed: bool = False
    decode: bool = False
    sample: int | None = None
    threads: int | None = None


def check(
    sources: Sources,
    report: Report,
    options: Options = Options(),
    progress: Callable[[str, int], Callable[[int], None]] | None = None,
) -> Report:
    """Runs all checks.

    Args:
        sources: The tables to check.
        report: Findings are added to it. It is sorted and returned.
        options: How thoroughly to check.
        progress: Called with a data set and its number of images before they are opened. Returns a
            function that takes numbers of checked images.
    """
    began = time.perf_counter()
    looked: dict[str, list[tuple[AnnotationTable, dict[int, ImageFile]]]] = {}
    every = [table for tables in sources.tables.values() for table in tables]
    images = 0
    for split, tables in sources.tables.items():
        looked[split] = []
        for table, keypoints in zip(tables, sources.keypoints[split], strict=True):
            report.statistics.append(statistics(table, split))
            check_annotations(
                table,
                report,
                split,
                sources.wanted.heads if table.annotated or split == "train" else frozenset(),
            )
            check_keypoint_set(keypoints, report, split, table.source)
            check_coverage(table, report, split)
            _check_head(table, sources.wanted.num_classes, report, split)
            files: dict[int, ImageFile] = {}
            if options.images:
                rows = _chosen(len(table), options.sample)
                files = look_at(
                    table,
                    hashed=options.hashed,
                    decode=options.decode,
                    threads=options.threads,
                    only=rows,
                    progress=progress(table.source, len(rows)) if progress else None,
                )
                others = [other for other in every if other is not table]
                check_images(
                    table, files, report, split, sampled=len(rows) < len(table), others=others
                )
                images += len(rows)
            looked[split].append((table, files))
    if "train" in looked:
        train, test = looked["train"], looked["test"]
        check_class_lists([t for t, _ in train], [t for t, _ in test], report)
        if train and test:
            check_overlap(train, test, report)
    report.looked_at.append(_looked_at(every, images, options, time.perf_counter() - began))
    report.sort()
    return report


def _check_head(
    table: AnnotationTable, num_classes: int | None, report: Report, split: str
) -> None:
    if num_classes is None or table.categories is None or not table.annotated:
        return
    found = len(table.categories.names)
    if found != num_classes:
        text = f"the head has {num_classes} classes, the data {found}"
        report.add("class-count", split, table.source, [text])


def _chosen(count: int, sample: int | None) -> list[int]:
    if sample is None or sample >= count:
        return list(range(count))
    return np.linspace(0, count - 1, sample).round().astype(int).tolist()


def _looked_at(tables: list[AnnotationTable], images: int, options: Options, seconds: float) -> str:
    annotations = sum(len(table.columns) for table in tables)
    listed = sum(map(len, tables))
    how = "decoded" if options.decode else "opened"
    seen = f"{images} of {listed} images {how}" if options.images else "no image opened"
    if options.images and options.hashed:
        seen += " and hashed"
    return f"{annotations} annotations of {listed} images; {seen}; {seconds:.1f} s"
