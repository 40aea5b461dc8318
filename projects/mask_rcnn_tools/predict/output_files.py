"""Output files of predictions. None overwrites an input, and no two are equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_tools.predict.sources import Source

PREDICTIONS = "predictions.json"
PICTURES, VIDEOS, FRAMES = "pictures", "videos", "frames"
_KEPT = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class OutputFiles:
    """Output files of one source.

    Attributes:
        drawn: Picture or video with the detections.
        frames: Predictions on the frames of a video; None for an image.
    """

    drawn: Path
    frames: Path | None = None


def plan_output_files(output: Path, sources: Sequence[Source]) -> dict[Source, OutputFiles]:
    """Chooses the output files of each source.

    They keep the names of the sources and their directories below the common one. JPEG and PNG
    images keep their format. Other images become PNG, with ``.png`` appended to the whole name, and
    videos become MP4 in the same way.

    Raises:
        ConfigError: An output file would overwrite an input.
    """
    taken = {(output / PREDICTIONS).resolve()}
    planned = {}
    for source in sources:
        if source.is_video:
            drawn = _named(output / VIDEOS, source.name, (".mp4",), ".mp4", taken)
            frames = _named(output / FRAMES, source.name + ".jsonl", (".jsonl",), ".jsonl", taken)
            planned[source] = OutputFiles(drawn, frames)
        else:
            drawn = _named(output / PICTURES, source.name, _KEPT, ".png", taken)
            planned[source] = OutputFiles(drawn)
    if overwritten := taken & {source.path.resolve() for source in sources}:
        path = min(overwritten)
        raise ConfigError(
            f"The result {path} would overwrite an input. Give another directory with "
            "--output FOLDER."
        )
    return planned


def _named(folder: Path, name: str, kept: tuple[str, ...], suffix: str, taken: set[Path]) -> Path:
    path = folder / (name if name.lower().endswith(kept) else name + suffix)
    while path.resolve() in taken:  # a.bmp beside a.bmp.png
        path = path.with_name(path.name + suffix)
    taken.add(path.resolve())
    return path
