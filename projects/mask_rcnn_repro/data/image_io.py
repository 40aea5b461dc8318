"""Reading an image so that a broken one is reported with its file and image id."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from detectron2.data import detection_utils

from mask_rcnn_repro.errors import DataError


def read_image(record: Mapping[str, Any], image_format: str) -> np.ndarray:
    """Reads the image of a data set dict and checks its size against the dict.

    Args:
        record: with ``file_name`` and, where known, ``image_id``, ``height`` and ``width``.
        image_format: ``"BGR"``, ``"RGB"`` or another that Detectron2's ``read_image`` takes.

    Returns:
        An array (H, W, C), uint8 in [0, 255], turned as its EXIF orientation says.

    Raises:
        DataError: the file is missing, truncated, no image, or of another size than annotated.
    """
    file = record["file_name"]
    which = f"Image {record.get('image_id', '(without id)')}, file {file},"
    try:
        image = detection_utils.read_image(file, format=image_format)
    except FileNotFoundError:
        folder = os.path.dirname(file)
        state = "exists" if os.path.isdir(folder) else "does not exist either"
        raise DataError(
            f"{which} is missing (its folder {state}). The annotations list it: fetch it again, or "
            "remove its record from the json."
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise DataError(
            f"{which} cannot be decoded: {type(error).__name__}: {error}. It is truncated, damaged "
            "or no image; fetch it again, or remove its record from the json."
        ) from error
    height, width = image.shape[:2]
    annotated = record.get("height", height), record.get("width", width)
    if (height, width) != annotated:
        raise DataError(
            f"{which} is {height} x {width} (height x width), but is annotated as {annotated[0]} x "
            f"{annotated[1]}. Boxes and masks would be wrong: use the image that was annotated, or "
            "mend 'height' and 'width' in the json."
        )
    return image
