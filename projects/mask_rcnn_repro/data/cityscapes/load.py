"""Cityscapes in its official layout, as Detectron2's data set dicts.

Masks come from the ``instanceIds`` PNGs or from the ``polygons`` json, see
:mod:`mask_rcnn_repro.data.cityscapes.instances`. Both give the same pixels; run lengths (the
default) are decoded to whole images in training, polygons stay small, as those of Detectron2's own
loader do, and their flipping, resizing and cropping is exact.

Differences from Detectron2's loader: boxes of masks end behind their last pixel (its boxes from
PNGs end on it, those from polygons behind it, as here), instances one pixel wide or high are kept,
outlines lose nothing at their edges and holes, ``image_id`` is the stem without
``_leftImg8bit.png``, and files are checked.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from detectron2.structures import BoxMode

from mask_rcnn_repro.data.cityscapes.files import has_instance_ids
from mask_rcnn_repro.data.cityscapes.instances import Masks
from mask_rcnn_repro.data.cityscapes.scan import ScannedImage, scan


def load_cityscapes(
    root: str | os.PathLike[str],
    split: str,
    masks: Masks = "instance_ids",
    num_workers: int | None = None,
    expected: int | None = None,
) -> list[dict[str, Any]]:
    """Reads one split.

    Args:
        root: The folder that holds ``leftImg8bit`` and ``gtFine``.
        split: `"train"`, `"val"` or `"test"`.
        masks: `"instance_ids"` for run lengths from the PNGs, `"polygons"` for polygons.
        num_workers: Processes that scan what is not cached. None chooses.
        expected: Expected number of images. Another number is a warning. None: any.

    Returns:
        Dicts in Detectron2's format, sorted by city and image id: file_name, height, width,
        image_id (text, such as `aachen_000000_000019`), annotations and, where there is one,
        instance_ids_file. Annotations have a tight bbox (XYXY_ABS, in pixels), a contiguous
        category_id, a segmentation and iscrowd (1 for groups). On `"test"`, which is not
        annotated, annotations and instance_ids_file are absent.

    Raises:
        ConfigError: `split` or `masks` is unknown.
        DataError: Files are missing, damaged or do not fit each other. The message names the file.
    """
    return [_record(image) for image in scan(root, split, masks, num_workers, expected)]


def annotation_facts(
    root: str | os.PathLike[str], split: str, expected: int | None = None
) -> tuple[str, int, int]:
    """Returns what identifies the annotations of one split; see :func:`load_cityscapes`.

    It depends on image ids and instance ids alone: not on paths, on how a PNG is packed, or on
    which of several equivalent files was read (polygons if there are no PNGs).

    Returns:
        SHA-256 as hex digits, number of images, number of instances and groups.
    """
    masks: Masks = "instance_ids"
    if split != "test" and not has_instance_ids(root, split):
        masks = "polygons"
    images = scan(root, split, masks, expected=expected)
    lines = sorted(f"{image.files.image_id} {image.digest}\n" for image in images)
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return digest, len(images), sum(len(image.instances or ()) for image in images)


def _record(image: ScannedImage) -> dict[str, Any]:
    record: dict[str, Any] = {
        "file_name": image.files.image,
        "height": image.height,
        "width": image.width,
        "image_id": image.files.image_id,
    }
    if image.instances is not None:
        record["annotations"] = annotations = []
        for category_id, iscrowd, bbox, mask in image.instances:
            segmentation: Any = mask
            if isinstance(mask, str):  # bytes, as pycocotools makes them; text only in the cache
                size = [image.height, image.width]
                segmentation = {"size": size, "counts": mask.encode("ascii")}
            annotation = {
                "iscrowd": iscrowd,
                "category_id": category_id,
                "bbox": [float(value) for value in bbox],
                "bbox_mode": BoxMode.XYXY_ABS,
                "segmentation": segmentation,
            }
            annotations.append(annotation)
    if image.files.instance_ids is not None:
        record["instance_ids_file"] = image.files.instance_ids
    return record
