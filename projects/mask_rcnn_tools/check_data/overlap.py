"""Finds images that are both in the training and in the test set."""

from __future__ import annotations

import os

from mask_rcnn_tools.check_data.findings import Report
from mask_rcnn_tools.check_data.image_checks import ImageFile
from mask_rcnn_tools.check_data.tables import AnnotationTable

Looked = tuple[AnnotationTable, dict[int, ImageFile]]


def check_overlap(train: list[Looked], test: list[Looked], report: Report) -> None:
    """Adds findings about images that training and test data have in common.

    The same file, also by different links, is an error. So is equal content, if files were hashed.
    An equal name in another directory is a hint, and equal length makes it stronger.

    Args:
        train: Tables of the training data, and facts about their files.
        test: The same for the test data.
        report: Findings are added to it.
    """
    first, second = _files(train), _files(test)
    sources = " and ".join(
        dict.fromkeys(table.source for table, _ in (*train, *test) if table.source)
    )
    by_path = {path: name for path, name, _ in first}
    shared = [name for path, name, _ in second if path in by_path]
    same = {path for path, _, _ in second if path in by_path}
    by_digest = {file.digest: name for _, name, file in first if file.digest}
    copies = [
        f"{name} is {by_digest[file.digest]}"
        for path, name, file in second
        if file.digest in by_digest and path not in same
    ]
    both = "train and test"
    report.add("split-same-file", both, sources, shared)
    report.add("split-same-content", both, sources, copies)
    if by_digest:
        return
    by_name = {os.path.basename(name): file.size for _, name, file in first}
    equal: list[str] = []
    other: list[str] = []
    for path, name, file in second:
        length = by_name.get(os.path.basename(name))
        if length is None or path in same:
            continue
        (equal if length == file.size >= 0 else other).append(name)
    report.add("split-same-name-and-size", both, sources, equal)
    report.add("split-same-name", both, sources, other)


def _files(looked: list[Looked]) -> list[tuple[str, str, ImageFile]]:
    """Yields path without links, name and file of each image. Missing ones have the plain path."""
    found = []
    for table, files in looked:
        root = os.path.realpath(table.root) if table.root else ""
        for row, name in enumerate(table.names):
            file = files.get(row, ImageFile())
            found.append((file.real or os.path.join(root, name), name, file))
    return found


def check_class_lists(
    train: list[AnnotationTable], test: list[AnnotationTable], report: Report
) -> None:
    """Adds findings about classes of training and test data that do not agree."""
    if not (train and test):
        return
    first, second = train[0], test[0]
    if first.categories is None or second.categories is None:
        return
    sources = f"{first.source} and {second.source}"
    both = "train and test"
    a, b = first.categories.names, second.categories.names
    if a != b:
        text = f"{len(a)} classes {_some(a)} in training, {len(b)} classes {_some(b)} in the test"
        report.add("class-lists", both, sources, [text])
        return
    if not (first.annotated and second.annotated):
        return
    learned, tested = (
        {name for table in tables for name in used_classes(table)} for tables in (train, test)
    )
    report.add("untrained-category", both, sources, [n for n in b if n in tested - learned])
    report.add("untested-category", both, sources, [n for n in a if n in learned - tested])


def used_classes(table: AnnotationTable) -> list[str]:
    """Returns the names of the classes with annotations in a table."""
    from mask_rcnn_tools.check_data.statistics import per_class

    return [name for name, count in per_class(table).items() if count]


def _some(names: tuple[str, ...]) -> str:
    return "(" + ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") + ")"
