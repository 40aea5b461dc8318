"""Reading videos and cameras frame by frame, and writing videos.

Shapes: (H, W) size of a frame in pixels.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mask_rcnn_repro.errors import DataError

_USUAL_RATE = 25.0


@dataclass(frozen=True)
class Frame:
    """A frame.

    Attributes:
        index: Number, from 0.
        seconds: Time since the start of the video.
        pixels: (H, W, 3) uint8 BGR in the orientation in which the video is shown.
    """

    index: int
    seconds: float
    pixels: np.ndarray


class FrameReader:
    """Iterates over the frames of a video. Holds one frame at a time.

    Args:
        source: A file, or the number of a camera.
        every: Yield every n-th frame, starting with the first.
        max_frames: Maximum number of frames; None: all.

    Attributes:
        rate: Yielded frames per second; based on 25 if the video has no rate.
        expected: Number of frames in the video's header, which may be slightly wrong; None if
            unknown.
        decoded: Number of frames so far, yielded or skipped.

    Raises:
        DataError: The video cannot be opened.
    """

    def __init__(self, source: Path | int, every: int = 1, max_frames: int | None = None) -> None:
        self._capture = open_capture(source)
        if not self._capture.isOpened():
            self._capture.release()
            if isinstance(source, int):
                raise DataError(f"Camera {source} cannot be opened.")
            raise DataError("cannot be opened: damaged, or not a video")
        self._every, self._max_frames = every, max_frames
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        known = math.isfinite(rate) and 0 < rate <= 1000
        self.rate = (rate if known else _USUAL_RATE) / every
        self.expected = int(count) if math.isfinite(count) and 0 < count < 2**31 else None
        self.decoded = 0

    def __iter__(self) -> Iterator[Frame]:
        given = 0
        while self._max_frames is None or given < self._max_frames:
            if self.decoded % self._every:
                if not self._capture.grab():
                    return
                self.decoded += 1
                continue
            good, pixels = self._capture.read()
            if not good or pixels is None:
                return
            seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            index, self.decoded = self.decoded, self.decoded + 1
            given += 1
            yield Frame(index, seconds, pixels)

    def ended_early(self, given: int) -> bool:
        """Whether decoding stopped well before the end, after `given` frames."""
        if self.expected is None or (self._max_frames is not None and given >= self._max_frames):
            return False
        return self.decoded < self.expected - max(2, self.expected // 50)

    def close(self) -> None:
        """Releases the file or camera."""
        self._capture.release()


def open_capture(source: Path | int) -> cv2.VideoCapture:
    """Opens OpenCV's reader of a file, turned as its header states, or of a camera."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "8")  # FrameReader reports errors
    if isinstance(source, int):
        return cv2.VideoCapture(source)
    capture = cv2.VideoCapture(os.fspath(source))
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return capture


class VideoWriter:
    """Writes an MP4 (MPEG-4 part 2), which appears under its name when it is closed.

    Args:
        path: Path that ends in ``.mp4``; its directory must exist.
        rate: Frames per second.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self._path = path
        # OpenCV infers the format from the suffix
        self._temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}.partial.mp4")
        self._rate = rate
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, picture: np.ndarray, times: int = 1) -> None:
        """Appends a picture `times` times. Resizes it to the size of the first one.

        The codec needs even sides, so the last row or column of an odd side is repeated.

        Args:
            picture: (H, W, 3) uint8 RGB.
            times: Number of frames.

        Raises:
            DataError: The video cannot be written.
        """
        odd = picture.shape[0] % 2, picture.shape[1] % 2
        frame = np.pad(picture, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
        size = frame.shape[1], frame.shape[0]
        if self._writer is None:
            self._size = size
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(os.fspath(self._temporary), codec, self._rate, size)
            if not self._writer.isOpened():
                self.discard()
                raise DataError(
                    f"A video of {size[0]} x {size[1]} pixels cannot be written to {self._path}: "
                    "it may be too large for the codec (--scale makes it smaller), or the folder "
                    "is not writable."
                )
        if size != self._size:  # a stream may change its size
            frame = cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA)
        for _ in range(times):
            self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Completes the file. Without a picture there is none."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
            os.replace(self._temporary, self._path)

    def discard(self) -> None:
        """Deletes the incomplete file."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        self._temporary.unlink(missing_ok=True)
