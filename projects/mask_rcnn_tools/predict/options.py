"""How predictions are made and shown. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Options:
    """What a command line says besides config, weights and files.

    Attributes:
        output: Folder of all results.
        pictures: Whether to draw.
        json: Whether to write predictions.
        threshold: Least score that is drawn; None: 0.5, proposals all.
        top_k: Most objects drawn on a picture; None: all, of proposals the best 20.
        keypoint_threshold: Keypoints with a lower score are not drawn.
        scale: Size of pictures by that of the images; None enlarges small ones.
        color_by: "class", "instance", or "auto": by instance where there is one class.
        batch_size: Images that go through the model together.
        every: Of a video every n-th frame.
        max_frames: Of a video no more than these; None: all.
    """

    output: Path
    pictures: bool = True
    json: bool = True
    threshold: float | None = None
    top_k: int | None = None
    keypoint_threshold: float = 0.05
    scale: float | None = None
    color_by: Literal["auto", "class", "instance"] = "auto"
    batch_size: int = 1
    every: int = 1
    max_frames: int | None = None
