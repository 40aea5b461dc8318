"""Cityscapes' instance metrics over a data set, and result folders for its server."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from mask_rcnn_repro.data.cityscapes.instances import read_instance_ids
from mask_rcnn_repro.errors import ConfigError, DataError
from mask_rcnn_repro.evaluation.cityscapes.matching import match_image
from mask_rcnn_repro.evaluation.cityscapes.scores import instance_metrics
from mask_rcnn_repro.evaluation.cityscapes.upload import upload_folder, write_image
from mask_rcnn_repro.evaluation.evaluator_parts import check_classes, log_metrics, original_size
from mask_rcnn_repro.evaluation.masks.rle import instances_to_results
from mask_rcnn_repro.evaluation.registry import EVALUATOR_REGISTRY
from mask_rcnn_repro.utils.atomic import atomic_write_text
from mask_rcnn_repro.utils.threads import usable_cpus

logger = logging.getLogger(__name__)

_TASK_FIELDS = {"bbox": "bbox", "segm": "segmentation"}
_MAX_WORKERS = 4  # compressing masks runs outside Python, the rest of writing them does not


@EVALUATOR_REGISTRY.register()
class CityscapesInstanceEvaluator(DatasetEvaluator):
    """Collects predictions and computes the official metrics on the images it has seen.

    The numbers are those of ``cityscapesscripts``, whose functions compute them; only the search
    for overlapping predictions and instances is done in memory, from run lengths, instead of from
    a file for each prediction. No temporary files are written. Predictions are kept as run
    lengths, never as full-size masks. Scores are used as they are (float32): Detectron2's
    evaluator writes all their digits, so that it sees the same ones.

    The official scripts know no metric of boxes, so there is none here.

    Files go to ``<output_dir>/<data set>/``: ``bbox_results.json`` and ``segm_results.json``, COCO
    results whose `category_id` is the Cityscapes label id (24 to 33); and in ``upload/`` the
    server's format (see :mod:`mask_rcnn_repro.evaluation.cityscapes.upload`) if `write_upload` is
    set, and on splits without annotations, where nothing is measured.

    With several processes each matches its own images; the matches are gathered on the first. The
    numbers do not depend on how the images were spread.

    Args:
        dataset_name: A registered data set. Its metadata has `thing_classes`, the names of
            Cityscapes labels in the order of the model's classes.
        output_dir: Directory for result files, visible to all processes. None writes no files.
        write_upload: Whether to write the server's format for splits with annotations, too.
        num_workers: Threads per process that write mask files. None uses up to 4.

    Raises:
        ConfigError: `write_upload` is set without `output_dir`.
        DataError: A class is not a Cityscapes label, or the classes are unknown.
    """

    evaluator_types = ("cityscapes_instance",)
    computed_by = "cityscapesscripts"

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        write_upload: bool = False,
        num_workers: int | None = None,
    ) -> None:
        if write_upload and not output_dir:
            raise ConfigError(
                "write_upload=True needs a folder to write to: set output_dir, or leave "
                "write_upload at False."
            )
        self.dataset_name = dataset_name
        self.output_dir = Path(output_dir, dataset_name) if output_dir else None
        self.write_upload = write_upload
        if num_workers is None:
            num_workers = max(1, min(_MAX_WORKERS, usable_cpus() // comm.get_world_size()))
        self.num_workers = num_workers
        self._labels = _label_ids(dataset_name)
        self.reset()

    def reset(self) -> None:
        """Forgets all predictions."""
        self._results: dict[str, list[dict[str, Any]]] = {}  # image to its predictions
        self._files: dict[str, str | None] = {}  # image to its annotation; None on test splits

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Takes a batch of predictions, small or post-processed.

        Args:
            inputs: `image_id`, the common stem of the image's files; `height`, `width` of the
                original image; `instance_ids_file`, absent on splits without annotations.
            outputs: `instances` as
                :func:`~mask_rcnn_repro.evaluation.masks.rle.instances_to_results` takes them.

        Raises:
            DataError: A class that the data set lacks, or predictions without masks.
        """
        for image, output in zip(inputs, outputs, strict=True):
            instances: Instances = output["instances"]
            height, width = original_size(image, instances)
            results = instances_to_results(instances, height, width, image["image_id"])
            self._check(results)
            self._results[str(image["image_id"])] = results
            self._files[str(image["image_id"])] = image.get("instance_ids_file")

    def evaluate(self) -> dict[str, dict[str, Any]]:
        """Matches, gathers, writes the result files and computes the metrics.

        Returns:
            "segm" to `AP`, `AP50` and `per_class` (AP by class name) in percent; NaN where there
            is no instance of at least 100 pixels. Empty on all processes but the first, and on
            splits without annotations.

        Raises:
            DataError: Annotations that are missing or do not fit the predictions, an image id
                that is no Cityscapes stem if the server's format is written.
        """
        annotated = self._annotated()
        if self.output_dir is not None and (self.write_upload or not annotated):
            self._write_upload(self.output_dir / "upload")
        matches, results = self._gather(annotated)
        if not comm.is_main_process():
            return {}
        detections = [d for image_id in sorted(results) for d in results[image_id]]
        for task in _TASK_FIELDS:
            self._write(task, detections)
        if not annotated:
            logger.info(
                "%s has no annotations: its predictions were %s, nothing was measured.",
                self.dataset_name,
                f"written to {self.output_dir}" if self.output_dir else "not written (no folder)",
            )
            return {}
        if not any(found for match in matches.values() for found in match["prediction"].values()):
            logger.warning("The model detected nothing on %d images.", len(matches))
        metrics = instance_metrics({image_id: matches[image_id] for image_id in sorted(matches)})
        log_metrics("segm", {**metrics, **metrics["per_class"]})
        return {"segm": metrics}

    def _check(self, results: list[dict[str, Any]]) -> None:
        highest = max((result["category_id"] for result in results), default=-1)
        check_classes(highest, len(self._labels), self.dataset_name)
        if results and "segmentation" not in results[0]:
            raise DataError(
                "The model predicted boxes without masks. Cityscapes' metrics are defined for "
                "masks only: evaluate a model that has a mask head."
            )

    def _annotated(self) -> bool:
        """Whether the images have annotations, over all processes."""
        absent = [name for name, file in self._files.items() if file is None]
        everywhere = comm.all_gather((len(self._files), absent))
        images = sum(count for count, _ in everywhere)
        without = sorted(name for _, names in everywhere for name in names)
        if 0 < len(without) < images:
            raise DataError(
                f"{len(without)} of {images} evaluated images, such as {without[0]!r}, have no "
                "'instance_ids_file', the others do. A data set is annotated as a whole (train, "
                "val) or not at all (test)."
            )
        return not without

    def _gather(self, annotated: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """Matches and, if they are written, results by image; whole on the first process."""
        failure: Exception | None = None
        own: dict[str, Any] = {}
        try:
            if annotated:
                # one by one: threads were no faster, since little of it is done outside Python
                own = {name: self._match(name) for name in self._results}
        except Exception as error:  # not yet: the other processes wait in `gather`
            failure = error
        gathered = comm.gather((own, self._results if self.output_dir else {}, failure))
        matches: dict[str, Any] = {}
        results: dict[str, Any] = {}
        for part_matches, part_results, other in [(own, {}, failure), *gathered]:
            if other is not None:
                raise other
            matches.update(part_matches)
            results.update(part_results)
        return matches, results

    def _match(self, image_id: str) -> dict[str, Any]:
        file = self._files[image_id]
        assert file is not None
        try:
            return match_image(read_instance_ids(file), *self._columns(image_id))
        except DataError as error:
            raise DataError(f"Image {image_id!r}: {error}") from error

    def _columns(self, image_id: str) -> tuple[list[Any], list[int], list[float]]:
        """Masks, Cityscapes label ids and scores of an image's predictions."""
        results = self._results[image_id]
        labels = [self._labels[result["category_id"]] for result in results]
        return [r["segmentation"] for r in results], labels, [r["score"] for r in results]

    def _write_upload(self, folder: Path) -> None:
        def write(name: str) -> None:
            write_image(partial, name, *self._columns(name))

        with upload_folder(folder) as partial, ThreadPoolExecutor(max(1, self.num_workers)) as pool:
            list(pool.map(write, self._results))  # raises the first error

    def _write(self, task: str, detections: list[dict[str, Any]]) -> None:
        if self.output_dir is None:
            return
        self.output_dir.mkdir(parents=True, exist_ok=True)
        keys = ("image_id", "category_id", "score", _TASK_FIELDS[task])
        rows = [
            {key: detection[key] for key in keys}
            | {"category_id": self._labels[detection["category_id"]]}
            for detection in detections
        ]
        atomic_write_text(self.output_dir / f"{task}_results.json", json.dumps(rows))


def _label_ids(dataset_name: str) -> list[int]:
    """Cityscapes label id of each of the model's classes."""
    from cityscapesscripts.helpers.labels import name2label

    classes = MetadataCatalog.get(dataset_name).get("thing_classes")
    instance_labels = sorted(name for name, label in name2label.items() if label.hasInstances)
    if not classes or any(name not in instance_labels for name in classes):
        raise DataError(
            f"The classes of {dataset_name!r} are {classes}; Cityscapes' evaluation takes data "
            f"sets whose metadata 'thing_classes' are among {', '.join(instance_labels)}."
        )
    return [name2label[name].id for name in classes]
