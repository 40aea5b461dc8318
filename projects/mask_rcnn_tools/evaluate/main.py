"""`tools/evaluate.py` after parsing."""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from tabulate import tabulate

from mask_rcnn_tools.common.command_line import run_command
from mask_rcnn_tools.evaluate.measure import (
    Measured,
    best_iou_type,
    interval,
    measure,
    read_annotations,
    read_detections,
)


def main(args: argparse.Namespace) -> None:
    """Runs a parsed command line and exits; see :func:`run_command`."""
    run_command(run, args)


def run(args: argparse.Namespace) -> None:
    """Measures one or two result files and prints tables or JSON."""
    content = evaluate(args)
    print(json.dumps(content, indent=1) if args.json else format_text(content))


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Measures what a parsed command line names.

    Returns:
        Plain data, as `--json` prints it: `metrics` and `classes` map names to `values` (percent,
        one per file), `intervals`, and for two files `difference` and `difference_interval`. What
        cannot be measured is None.

    Raises:
        DataError: A file cannot be used.
    """
    gt = read_annotations(Path(args.annotations))
    found = [read_detections(Path(file), gt, args.annotations) for file in args.results]
    iou_type = args.iou_type or best_iou_type(found)
    measured = [
        measure(
            gt,
            rows,
            iou_type,
            samples=args.samples,
            max_detections=args.max_detections,
            oks_sigmas=args.oks_sigmas,
        )
        for rows in found
    ]
    counts = _counts(gt)
    classes = {name: counts.get(name, (0, 0)) for name in measured[0].classes}
    return {
        "annotations": args.annotations,
        "results": list(args.results),
        "iou_type": iou_type,
        "images": len(gt.imgs),
        "detections": [len(rows) for rows in found],
        "samples": args.samples,
        "confidence": args.confidence,
        "backend": measured[0].backend,
        "metrics": {
            name: _compared([m.metrics for m in measured], measured, name, False, args.confidence)
            for name in measured[0].metrics
        },
        "classes": {
            name: {
                "images": images,
                "objects": objects,
                **_compared([m.classes for m in measured], measured, name, True, args.confidence),
            }
            for name, (images, objects) in classes.items()
        },
    }


def _counts(gt: COCO) -> dict[str, tuple[int, int]]:
    """Images with objects of a class, and objects, by class name. Crowds do not count."""
    pairs = Counter(
        (str(gt.cats[a["category_id"]]["name"]), a["image_id"])
        for a in gt.dataset["annotations"]
        if not a["iscrowd"]
    )
    images = Counter(name for name, _ in pairs)
    objects: Counter[str] = Counter()
    for (name, _), number in pairs.items():
        objects[name] += number
    return {name: (images[name], objects[name]) for name in images}


def _compared(
    values: list[Mapping[str, float]],
    measured: list[Measured],
    name: str,
    of_class: bool,
    confidence: float,
) -> dict[str, Any]:
    """The values of a metric, their intervals, and the difference of two."""
    samples: list[np.ndarray | None] = [
        (m.class_samples if of_class else m.samples).get(name) for m in measured
    ]
    row: dict[str, Any] = {
        "values": [_plain(v[name]) for v in values],
        "intervals": [interval(s, confidence) for s in samples],
    }
    if len(values) == 2:
        row["difference"] = _plain(values[1][name] - values[0][name])
        first, second = samples
        apart = None if first is None or second is None else second - first
        row["difference_interval"] = interval(apart, confidence)
    return row


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def format_text(content: Mapping[str, Any]) -> str:
    """Tables of what :func:`evaluate` returns."""
    results = content["results"]
    titles = ["first", "second"] if len(results) == 2 else [""]
    lines = [
        f"{content['iou_type']} on {content['annotations']}: {content['images']} images, metrics "
        f"by {content['backend']}"
    ]
    lines += [
        f"{title + ': ' if title else ''}{file}, {number} detections"
        for title, file, number in zip(titles, results, content["detections"], strict=True)
    ]
    classes = {n: row for n, row in content["classes"].items() if row["objects"]}
    blocks = [
        "\n".join(lines),
        _table(content["metrics"], titles, content),
        _table(classes, titles, content, ("images", "objects")),
    ]
    left = len(content["classes"]) - len(classes)
    notes = [f"Classes without objects, not shown: {left}."] if left else []
    if content["samples"]:
        notes += [
            f"Brackets: {content['confidence']:g} % intervals over {content['samples']} bootstrap "
            "samples of the images. A value",
            "without one depends on too few images: some sample has none of them.",
        ]
        if len(results) == 2:
            notes.append("*: the interval of the difference does not contain 0.")
    return "\n\n".join([*blocks, "\n".join(notes)] if notes else blocks)


def _table(
    rows: Mapping[str, Mapping[str, Any]],
    titles: list[str],
    content: Mapping[str, Any],
    counts: tuple[str, ...] = (),
) -> str:
    two, with_intervals = len(titles) == 2, bool(content["samples"])
    header = ["class" if counts else "metric", *counts]
    for title in titles:
        header += [title or "AP" if counts else title or "value", *[""] * with_intervals]
    header += ["difference", *[""] * with_intervals] if two else []
    cells = []
    for name, row in rows.items():
        line = [name, *(str(row[key]) for key in counts)]
        for value, limits in zip(row["values"], row["intervals"], strict=True):
            line += [_number(value), *[_brackets(limits)] * with_intervals]
        if two:
            limits = row["difference_interval"]
            sure = limits is not None and (limits[0] > 0 or limits[1] < 0)
            line += [_number(row["difference"], "+")]
            line += [_brackets(limits, "+") + " *" * sure] * with_intervals
        cells.append(line)
    right = ["left", *["right"] * len(counts)]
    right += ["right", *["left"] * with_intervals] * (len(titles) + two)
    return tabulate(cells, header, disable_numparse=True, colalign=right)


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.1f}"


def _brackets(limits: tuple[float, float] | None, sign: str = "") -> str:
    return "" if limits is None else f"[{limits[0]:{sign}.1f}, {limits[1]:{sign}.1f}]"
