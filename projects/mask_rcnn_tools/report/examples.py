"""Drawn examples of a run: small pictures, ground truth beside prediction, and what they show."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mask_rcnn_repro.engine.run import RECORD_FILE
from mask_rcnn_repro.errors import DataError, RecordError
from mask_rcnn_repro.records.curves import OfRecord, record_identity
from mask_rcnn_repro.records.record import load_record
from mask_rcnn_repro.registration import register
from mask_rcnn_repro.utils.atomic import atomic_write_bytes, atomic_write_text
from mask_rcnn_tools.report.run_curves import RESULTS_FOLDER

EXAMPLES_FILE = "examples.json"
EXAMPLES_NOTE = (
    "Left ground truth, right prediction. The images are evenly spaced in their data set, not "
    "chosen."
)

_WIDTHS = (720, 1080)
"""Pixels of a picture, both halves together: of one that is not wide, and at most."""
_AREA = 310_000  # pixels; wide pictures are low, and may be wider
_MAX_BYTES = 40_000


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Picture(_Section):
    """One picture."""

    file: str = Field(pattern=r"^[\w.@-]+$", description="Its name, beside the manifest.")
    image_id: int | str = Field(description="Image of the data set.")
    width: int = Field(gt=0, description="Pixels.")
    height: int = Field(gt=0, description="Pixels.")


class Examples(_Section):
    """Which pictures there are, and of what."""

    schema_version: Literal[1] = Field(description="Version of this schema.")
    record: OfRecord = Field(description="The run whose predictions are drawn.")
    dataset: str = Field(description="Registered name of the images' data set.")
    score_threshold: float = Field(description="Predictions below it are not drawn.")
    pictures: list[Picture] = Field(description="In the data set's order.")


def make_examples(
    run: Path, target: Path, count: int = 2, score_threshold: float = 0.5
) -> Examples:
    """Draws evenly spaced images of a run's test data, small, and writes them with a manifest.

    Args:
        run: Directory of a finished run, with its record and result files.
        target: Directory of the pictures and of ``examples.json``. Its content is replaced.
        count: Number of pictures.
        score_threshold: Predictions below it are not drawn.

    Raises:
        DataError: The run has no result files to draw from, or no image can be drawn.
        RecordError: There is no record.
    """
    from mask_rcnn_tools.drawing.evaluation import draw_results

    register()
    record = load_record(run / RECORD_FILE)
    data = record.test_data
    if data is None or not (run / RESULTS_FOLDER / data.name).is_dir():
        raise DataError(
            f"{run} has no result files ({RESULTS_FOLDER}/{data.name if data else 'DATA SET'}) to "
            "draw from: evaluate the run again (train_net.py --eval-only --resume)."
        )
    target.mkdir(parents=True, exist_ok=True)
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_results(
            data.name, run / RESULTS_FOLDER, Path(folder), count, score_threshold=score_threshold
        )
        for file in drawn:
            drawing = cv2.imread(str(file))
            assert drawing is not None, "written just now"
            picture, encoded = _small(drawing)
            name = f"{file.stem}.jpg"
            atomic_write_bytes(target / name, encoded)
            image_id = int(file.stem) if file.stem.isdigit() else file.stem
            pictures.append(
                Picture(
                    file=name,
                    image_id=image_id,
                    width=picture.shape[1],
                    height=picture.shape[0],
                )
            )
    if not pictures:
        raise DataError(
            f"None of the {count} images of {data.name} could be drawn; the log has the reasons."
        )
    for old in set(target.glob("*.jpg")) - {target / picture.file for picture in pictures}:
        old.unlink()
    examples = Examples(
        schema_version=1,
        record=record_identity(record),
        dataset=data.name,
        score_threshold=score_threshold,
        pictures=pictures,
    )
    text = json.dumps(examples.model_dump(mode="json"), indent=2)
    atomic_write_text(target / EXAMPLES_FILE, text + "\n")
    return examples


def load_examples(file: Path) -> Examples:
    """Reads and validates a manifest, and checks that its pictures exist.

    Raises:
        RecordError: It cannot be read, does not follow the schema, or names missing pictures.
    """
    try:
        examples = Examples.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise RecordError(
            f"{str(file)!r} is no manifest of drawn examples: {error}. `tools/report.py "
            "--examples-of RUN` writes it."
        ) from error
    missing = [p.file for p in examples.pictures if not (file.parent / p.file).is_file()]
    if missing:
        raise RecordError(f"{str(file)!r} names pictures that are not there: {', '.join(missing)}.")
    return examples


def _small(
    picture: np.ndarray, qualities: Sequence[int] = (85, 75, 65, 55, 45)
) -> tuple[np.ndarray, bytes]:
    """Scales a picture down and encodes it with the best quality that makes it small enough."""
    aspect = picture.shape[1] / picture.shape[0]
    width = min(max(round(math.sqrt(_AREA * aspect)), _WIDTHS[0]), *_WIDTHS[1:], picture.shape[1])
    small = cv2.resize(
        picture, (width, max(1, round(width / aspect))), interpolation=cv2.INTER_AREA
    )
    encoded = b""
    for quality in qualities:
        encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(encoded) <= _MAX_BYTES:
            break
    return small, encoded
