"""Remove from a COCO json the annotations that training omits, so that evaluation agrees.

Metrics read the annotations of the json itself. Those that the loader omits must not
count there: NaN boxes have no overlap with anything, and pycocotools takes a polygon of two points
for a box.
"""

from __future__ import annotations

import logging
from typing import Any

from mask_rcnn_repro.data.coco.categories import parse_categories
from mask_rcnn_repro.data.coco.fields import (
    Findings,
    finite_numbers,
    positive_int,
    records,
    required,
)
from mask_rcnn_repro.data.coco.load import parse_annotation

_logger = logging.getLogger(__name__)


def clean_annotations(content: dict[str, Any], file: str) -> None:
    """Removes, in place, what the loader omits and has warned of.

    An annotation without a usable `area` loses it, and `num_keypoints` that is missing or no whole
    number is counted. What is fine stays the very object.

    Args:
        content: a parsed COCO json with annotations.
        file: its name, for messages.

    Raises:
        DataError: what :func:`~mask_rcnn_repro.data.coco.load.load_coco_json` refuses.
    """
    # ids may be text here, which the loader does not take
    images = {
        required(image, "id", f"{file}: images[{index}]"): {
            side: positive_int(required(image, side, f"{file}: images[{index}]"), side)
            for side in ("height", "width")
        }
        for index, image in enumerate(records(content.get("images"), "images", file))
    }
    categories = parse_categories(content.get("categories"), file)
    kept = []
    annotations = records(content.get("annotations"), "annotations", file)
    for entry in annotations:
        identity = entry.get("id", 0)  # renumbered later if need be
        where = f"{file}: annotation {identity}"
        image = images.get(required(entry, "image_id", where))
        if image is None:
            continue
        parsed = parse_annotation(entry, image, categories, where, identity, Findings())
        if parsed is None:
            continue
        mask = entry.get("segmentation")
        if type(mask) is list and len(parsed.get("segmentation", ())) != len(mask):
            entry["segmentation"] = parsed["segmentation"]
        if "area" in entry and not _is_area(entry["area"]):
            del entry["area"]
        points = entry.get("keypoints")
        if points and type(entry.get("num_keypoints")) is not int:
            entry["num_keypoints"] = sum(v > 0 for v in points[2::3])
        kept.append(entry)
    if len(kept) < len(annotations):
        _logger.info(
            "%s: %d annotations that cannot be used are omitted from the evaluation, too.",
            file,
            len(annotations) - len(kept),
        )
        content["annotations"] = kept


def _is_area(value: Any) -> bool:
    return type(value) in (int, float) and finite_numbers([value], "area") and value >= 0
