"""The base class of the generated data sets: writes them with several processes and caches them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from mask_rcnn_embedded.cache import embedded_root, ensure_in_cache
from mask_rcnn_embedded.errors import DataError
from mask_rcnn_embedded.parallel import map_in_processes
from mask_rcnn_embedded.sheet import in_rows, write_image
from mask_rcnn_embedded.spec import DataSetSpec

MANIFEST = "manifest.json"

_Spec = TypeVar("_Spec", bound=DataSetSpec)


class DataSet(ABC, Generic[_Spec]):
    """A generated data set. Subclasses draw images and name files.

    Attributes:
        package: package that ``python -m`` runs.
        full: spec of the data set itself.
        tiny: spec of the small data set of the tests.
        images_per_worker: number of images for which another process is worth its start.
        sheet_count: default number of pictures on a contact sheet.
        tile_height: height of the images on a contact sheet in pixels.
        tiles: (H, W, 3) uint8 BGR images that show one picture on a contact sheet, given the
            spec, the split, the index, and whether to show the annotations.
        format_stats: Markdown tables of counts and sizes of the data set in a directory.
    """

    package: str
    full: _Spec
    tiny: _Spec
    images_per_worker: int
    sheet_count: int
    tile_height: int
    tiles: Callable[[_Spec, str, int, bool], list[np.ndarray]]
    format_stats: Callable[[str | Path], str]

    @abstractmethod
    def directories(self, spec: _Spec) -> Iterable[str]:
        """Directories to create, relative to the root."""

    @abstractmethod
    def write_image(self, root: Path, spec: _Spec, split: str, index: int) -> Any:
        """Writes the files of one image and returns what :meth:`finish` needs."""

    @abstractmethod
    def finish(self, root: Path, spec: _Spec, results: list[Any]) -> dict[str, Any]:
        """Writes what is left after all images and returns SHA-256 sums for the manifest.

        Args:
            root: directory of the data set.
            spec: the data set.
            results: of :meth:`write_image`, in the order of the splits and indices.
        """

    @abstractmethod
    def has_files(self, root: Path, spec: _Spec, sums: dict[str, Any]) -> bool:
        """Whether all files are there, given the sums of the manifest."""

    def generate(self, root: str | Path, spec: _Spec, num_workers: int | None = None) -> Path:
        """Writes a data set below ``root``.

        The bytes depend on the spec, not on the number of processes. They also depend on the CPU,
        by whose kind OpenCV's IPP chooses its code, and on the versions of numpy, OpenCV and
        Pillow: a few pixels of some images differ, and seldom an object. The manifest holds the
        SHA-256 sums of what was written, and results on different annotations are not compared.

        Args:
            root: directory to fill, which must be empty or absent.
            spec: what to generate.
            num_workers: number of processes; None chooses by the number of cores.

        Returns:
            ``root`` as an absolute path.

        Raises:
            DataError: ``root`` is not empty or cannot be written.
        """
        root = Path(root).expanduser().resolve()
        try:
            if root.exists() and any(root.iterdir()):
                raise DataError(f"{root} is not empty. Give a new directory for the {spec.TITLE}.")
            for directory in (".", *self.directories(spec)):
                (root / directory).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot write the {spec.TITLE} to {root}: {error}") from error
        tasks = [(split, index) for split in spec.SPLITS for index in range(spec.num_images(split))]
        if num_workers is None:
            affinity = getattr(os, "sched_getaffinity", None)
            cores = len(affinity(0)) if affinity else os.cpu_count() or 1
            num_workers = min(cores, len(tasks) // self.images_per_worker)
        bar = tqdm(
            _parallel(functools.partial(self._work, root, spec), tasks, num_workers),
            total=len(tasks),
            desc=f"embedded data ({spec.name})",
            unit="img",
            mininterval=0.3 if sys.stderr.isatty() else 5.0,
        )
        manifest = {
            "fingerprint": spec.fingerprint(),
            "spec": dataclasses.asdict(spec),
            "images": {split: spec.num_images(split) for split in spec.SPLITS},
            "sha256": self.finish(root, spec, list(bar)),
        }
        (root / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        return root

    def _work(self, root: Path, spec: _Spec, task: tuple[str, int]) -> Any:
        return self.write_image(root, spec, *task)

    def is_complete(self, root: Path, spec: _Spec) -> bool:
        """Whether ``root`` holds the manifest of a data set and its files."""
        try:
            manifest = json.loads((root / MANIFEST).read_text())
            return manifest["fingerprint"] == spec.fingerprint() and self.has_files(
                root, spec, manifest["sha256"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def ensure_generated(self, spec: _Spec, num_workers: int | None = None) -> Path:
        """The directory of a data set in the cache, generated if it is not there yet.

        Args:
            spec: which data set.
            num_workers: as in :meth:`generate`.

        Returns:
            ``embedded_root() / "<name>-<fingerprint>"``.

        Raises:
            DataError: the cache cannot be written.
        """
        return ensure_in_cache(
            embedded_root() / f"{spec.name}-{spec.fingerprint()}",
            title=spec.TITLE,
            generate=lambda root: self.generate(root, spec, num_workers),
            is_complete=lambda root: self.is_complete(root, spec),
        )

    def write_sheet(
        self,
        path: str | Path,
        spec: _Spec,
        split: str,
        count: int,
        start: int = 0,
        annotated: bool = True,
    ) -> Path:
        """Writes a contact sheet; needs no files of the data set.

        Args:
            path: image file to write.
            spec: which data set.
            split: which split.
            count: number of pictures.
            start: index of the first picture.
            annotated: whether to show the annotations.

        Returns:
            ``path``.

        Raises:
            DataError: the file cannot be written, or its suffix is not that of an image.
        """
        indices = range(start, min(start + count, spec.num_images(split)))
        tiles = [tile for index in indices for tile in self.tiles(spec, split, index, annotated)]
        return write_image(path, in_rows(tiles, self.tile_height))


@contextlib.contextmanager
def _single_threaded_opencv() -> Iterator[None]:
    """Small images gain nothing from OpenCV's threads, and the processes fill the cores."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _parallel(
    work: Callable[[tuple[str, int]], Any], tasks: list[tuple[str, int]], num_workers: int
) -> Iterator[Any]:
    """Results in the order of the tasks."""
    # Also before forking: a worker that inherits OpenCV's pool, without its threads, would hang.
    with _single_threaded_opencv():
        if num_workers <= 1:
            yield from map(work, tasks)
            return
        yield from map_in_processes(work, tasks, num_workers, 8, cv2.setNumThreads, (1,))
