"""State of a prediction command: options, model, output files, timing, and what is drawn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from mask_rcnn_tools.drawing.painter import paint
from mask_rcnn_tools.drawing.results import proposal_marks, result_marks
from mask_rcnn_tools.predict.coco_writer import CocoWriter
from mask_rcnn_tools.predict.output_files import OutputFiles
from mask_rcnn_tools.predict.prediction import Results
from mask_rcnn_tools.predict.predictor import Picture, Predictor
from mask_rcnn_tools.predict.sources import Source

_THRESHOLD = 0.5
_MAX_PROPOSALS = 20
_PHASES = ("reading", "model", "drawing and writing")


@dataclass(frozen=True)
class Options:
    """Options of a prediction command besides config, weights and inputs.

    Attributes:
        output: Directory of all results.
        pictures: Whether to draw.
        json: Whether to write predictions.
        threshold: Minimum score of drawn objects; None: 0.5, and 0 for proposals.
        top_k: Maximum number of objects drawn on a picture; None: all, and 20 for proposals.
        keypoint_threshold: Minimum score of drawn keypoints.
        scale: Scale of pictures relative to the images; None enlarges small images.
        color_by: "class", "instance", or "auto": by instance if there is only one class.
        batch_size: Images that go through the model together.
        every: Predict on every n-th frame of a video.
        max_frames: Maximum number of frames of a video; None: all.
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


@dataclass
class PredictionSummary:
    """Summary of a prediction command.

    Attributes:
        images: Number of images and frames that were predicted on.
        failed: Maps each failed file to its error.
        stopped: Whether Ctrl-C stopped it. Earlier results are written.
    """

    images: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    stopped: bool = False


class PhaseTimer:
    """Sums up seconds by phase. Omits the first batch, a warm-up, if others follow."""

    def __init__(self) -> None:
        self._first: dict[str, float] | None = None
        self._sums = dict.fromkeys(_PHASES, 0.0)
        self._first_images = self._images = 0
        self.start()

    def start(self) -> None:
        """Starts a batch."""
        self.last = dict.fromkeys(_PHASES, 0.0)
        self._since = time.perf_counter()

    def stop(self, phase: str) -> None:
        """Adds the time since the last call to a phase."""
        now = time.perf_counter()
        self.last[phase] += now - self._since
        self._since = now

    def count(self, images: int) -> None:
        """Ends a batch of so many images."""
        if self._first is None:
            self._first, self._first_images = self.last, images
            return
        self._images += images
        for phase in _PHASES:
            self._sums[phase] += self.last[phase]

    def seconds_per_image(self) -> dict[str, float]:
        """Seconds by phase; empty before the first image."""
        sums, images = self._sums, self._images
        if not images and self._first is not None:
            sums, images = self._first, self._first_images
        return {phase: total / images for phase, total in sums.items()} if images else {}


class Job:
    """State that images, videos and cameras of one command share.

    Args:
        predictor: The model.
        options: The options.
        files: Output files of each source.
        print_line: Prints a line.
    """

    def __init__(
        self,
        predictor: Predictor,
        options: Options,
        files: Mapping[Source, OutputFiles],
        print_line: Callable[[str], None],
    ) -> None:
        self.predictor, self.options, self.files = predictor, options, files
        self.print_line = print_line
        self.summary = PredictionSummary()
        self.timer = PhaseTimer()
        self.coco: CocoWriter | None = None
        self._done = 0

    def fail(self, source: Source, error: str) -> None:
        """Reports a file that cannot be used."""
        self.summary.failed[source.name] = error
        self.report(source.name, f"FAILED: {error}")

    def report(self, name: str, text: str) -> None:
        """Prints a line about a finished file."""
        self._done += 1
        total = max(len(self.files), self._done)
        self.print_line(f"{self._done:{len(str(total))}}/{total}  {name}  {text}")

    def predict(self, pictures: Sequence[Picture]) -> list[Results]:
        """Predicts on a batch and measures the time."""
        results = self.predictor.predict(pictures)
        self.timer.stop("model")
        self.summary.images += len(pictures)
        return results

    def select(self, results: Results) -> Results:
        """Returns the results to draw, in descending order of score."""
        threshold, top_k = self.options.threshold, self.options.top_k
        if threshold is None:
            threshold = 0.0 if self.predictor.is_rpn else _THRESHOLD
        if top_k is None and self.predictor.is_rpn:
            top_k = _MAX_PROPOSALS
        good = [result for result in results if result["score"] >= threshold]
        return sorted(good, key=lambda result: -result["score"])[:top_k]

    def draw(self, pixels: np.ndarray, results: Results) -> np.ndarray:
        """Draws selected results.

        Args:
            pixels: (H, W, 3) uint8 image in the model's channel order.
            results: Results of this image.

        Returns:
            (H', W', 3) uint8 RGB picture.
        """
        if self.predictor.is_rpn:
            marks = proposal_marks(results)
        else:
            marks = result_marks(results, self.predictor.classes, self.options.color_by)
        return paint(
            pixels[:, :, ::-1] if self.predictor.image_format == "BGR" else pixels,
            marks,
            skeleton=self.predictor.skeleton,
            zoom=self.options.scale,
            keypoint_threshold=self.options.keypoint_threshold,
        )

    def describe(self, results: Results, best: float | None) -> str:
        """Describes selected results: "2 person (98, 71 %), 1 mug (55 %)".

        Args:
            results: Results that are drawn. Up to four scores per class are listed.
            best: Highest score of all results, which is given if nothing is drawn.
        """
        if self.predictor.is_rpn:
            return f"{len(results)} proposals drawn"
        classes = self.predictor.classes
        scores: dict[str, list[str]] = {}
        for result in results:
            name = classes.name(classes.index(result["category_id"]))
            scores.setdefault(name, []).append(f"{100 * result['score']:.0f}")
        parts = [
            f"{len(all_)} {name} ({', '.join([*all_[:4], *['...'] * (len(all_) > 4)])} %)"
            for name, all_ in scores.items()
        ]
        nothing = "nothing" if best is None else f"nothing (best score {100 * best:.0f} %)"
        return ", ".join(parts) or nothing
