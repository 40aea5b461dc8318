"""Where results go: never onto an input, and no two to one place."""

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
class Target:
    """Files that belong to a source.

    Attributes:
        drawn: The picture or video with what was found.
        frames: Of a video: the predictions of its frames.
    """

    drawn: Path
    frames: Path | None = None


def plan(output: Path, sources: Sequence[Source]) -> dict[Source, Target]:
    """Chooses the files for each source.

    Results keep the sources' names and folders, counted from the folder that all have in common.
    JPEG and PNG stay what they are, other images become PNG with ``.png`` at their whole name;
    videos become MP4 in the same way.

    Raises:
        ConfigError: A result would take the place of an input.
    """
    inputs = {source.path.resolve(): source for source in sources}
    taken = {(output / PREDICTIONS).resolve()}
    planned = {}
    for source in sources:
        if source.is_video:
            drawn = _named(output / VIDEOS, source.name, (".mp4",), ".mp4", taken)
            frames = _named(output / FRAMES, source.name + ".jsonl", (".jsonl",), ".jsonl", taken)
            planned[source] = Target(drawn, frames)
        else:
            planned[source] = Target(_named(output / PICTURES, source.name, _KEPT, ".png", taken))
    for path in taken:
        if path in inputs:
            raise ConfigError(
                f"The result {path} would overwrite an input. Give another folder with "
                "--output FOLDER."
            )
    return planned


def _named(folder: Path, name: str, kept: tuple[str, ...], suffix: str, taken: set[Path]) -> Path:
    path = folder / (name if name.lower().endswith(kept) else name + suffix)
    while path.resolve() in taken:  # a.bmp beside a.bmp.png
        path = path.with_name(path.name + suffix)
    taken.add(path.resolve())
    return path
