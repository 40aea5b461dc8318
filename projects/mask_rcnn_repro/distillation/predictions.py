"""Predictions on disk, in atomically written files of a fixed number of images each.

The images of a file do not depend on the number of processes, so any number can continue. Each line
is a JSON object of one image: its ``image_id`` and its ``detections``. These are COCO results in
the frame of the original image: ``category_id`` (the model's class index), ``bbox`` (XYWH),
``score``, ``segmentation`` (compressed RLE) and ``keypoints`` (x, y, score).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mask_rcnn_repro.errors import ConfigError, DataError
from mask_rcnn_repro.utils.atomic import atomic_write_text, clean_leftovers

IMAGES_PER_FILE = 16
SETTINGS_FILE = "settings.json"

Detections = list[dict[str, Any]]


class StalePredictionsError(ConfigError):
    """A directory holds predictions of other settings.

    Attributes:
        differences: The differing settings, one per line.
    """

    def __init__(self, message: str, differences: str) -> None:
        super().__init__(message)
        self.differences = differences


class PredictionStore:
    """The predictions of one model on one list of images.

    Args:
        folder: Directory of the files, created by :meth:`claim`.
        image_ids: Ids of all images, in order.
        images_per_file: Images per file. A killed process loses at most these.
    """

    def __init__(
        self, folder: Path, image_ids: Sequence[int | str], images_per_file: int = IMAGES_PER_FILE
    ) -> None:
        self.folder = folder
        self.image_ids = list(image_ids)
        self.images_per_file = images_per_file

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Reserves the directory for predictions of these settings, which are JSON data.

        Raises:
            StalePredictionsError: The directory holds predictions of other settings.
            ConfigError: It cannot be created or written to.
        """
        now = json.loads(json.dumps({**settings, "images_per_file": self.images_per_file}))
        file = self.folder / SETTINGS_FILE
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            clean_leftovers(self.folder)
            if not any(self.folder.glob("*.jsonl")):
                atomic_write_text(file, json.dumps(now, indent=2) + "\n")
                return
            held = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"The directory {self.folder} cannot be written to: {error}. Give another one "
                "with --output FOLDER."
            ) from None
        except ValueError:
            held = None
        if held != now:
            differences = _differences(held, now)
            raise StalePredictionsError(
                f"The directory {self.folder} holds predictions of other settings:\n"
                f"{differences}\nGive another one with --output FOLDER, or delete this one.",
                differences,
            )

    @property
    def num_files(self) -> int:
        """Number of files for all images."""
        return -(-len(self.image_ids) // self.images_per_file)

    def file(self, number: int) -> Path:
        """Returns the path of a file."""
        return self.folder / f"{number:06d}.jsonl"

    def images_of(self, number: int) -> range:
        """Returns the indices of the images in a file."""
        start = number * self.images_per_file
        return range(start, min(start + self.images_per_file, len(self.image_ids)))

    def missing(self) -> list[int]:
        """Returns the numbers of the missing files."""
        return [n for n in range(self.num_files) if not self.file(n).is_file()]

    def write(self, number: int, detections: Sequence[Detections]) -> None:
        """Writes a file atomically. `detections` holds one list for each of its images."""
        ids = [self.image_ids[i] for i in self.images_of(number)]
        lines = [
            json.dumps({"image_id": i, "detections": d}, separators=(",", ":"))
            for i, d in zip(ids, detections, strict=True)
        ]
        atomic_write_text(self.file(number), "\n".join(lines) + "\n")

    def read(self) -> Iterator[tuple[int | str, Detections]]:
        """Yields id and detections of each image, in order, with one file in memory at a time.

        Raises:
            DataError: A file is missing, damaged, or of other images.
        """
        for number in range(self.num_files):
            path = self.file(number)
            try:
                rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
                found = [(row["image_id"], list(row["detections"])) for row in rows]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise self._damaged(path, f"{type(error).__name__}: {error}") from None
            expected = [self.image_ids[i] for i in self.images_of(number)]
            if [image_id for image_id, _ in found] != expected:
                raise self._damaged(path, "it is of other images")
            yield from found

    def _damaged(self, path: Path, what: str) -> DataError:
        return DataError(
            f"The predictions in {path} cannot be used ({what}). Delete this file and run the same "
            "command again, which predicts on its images only."
        )


def _differences(held: Any, now: Mapping[str, Any]) -> str:
    if not isinstance(held, dict):
        return f"  {SETTINGS_FILE} cannot be read"
    keys = [key for key in {**held, **now} if held.get(key) != now.get(key)]
    return "\n".join(f"  {key}: {held.get(key)} there, {now.get(key)} now" for key in keys)
