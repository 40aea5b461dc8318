"""COCO's box, mask and keypoint metrics over a data set."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from mask_rcnn_repro.errors import ConfigError, DataError
from mask_rcnn_repro.evaluation.coco.backends import DEFAULT_BACKEND, check_backend, coco_result
from mask_rcnn_repro.evaluation.coco.detections import (
    TASK_FIELDS,
    Detections,
    ResultStream,
    gather_detections,
)
from mask_rcnn_repro.evaluation.coco.ground_truth import GroundTruth, load_ground_truth
from mask_rcnn_repro.evaluation.coco.precision_recall import PrecisionRecall
from mask_rcnn_repro.evaluation.coco.result_files import ID_FIELDS, KnownIds, read_results
from mask_rcnn_repro.evaluation.evaluator_parts import (
    check_classes,
    check_images,
    log_metrics,
    original_size,
)
from mask_rcnn_repro.evaluation.masks.rle import instances_to_results
from mask_rcnn_repro.evaluation.registry import EVALUATOR_REGISTRY
from mask_rcnn_repro.utils.atomic import atomic_write

logger = logging.getLogger(__name__)

_IDS = ("image", "category")


@EVALUATOR_REGISTRY.register()
class CocoEvaluator(DatasetEvaluator):
    """Collects predictions and computes COCO's metrics on the images it has seen.

    Predictions are kept in flat arrays (boxes and run lengths, see `detections.py`), never as
    full-size masks. Boxes are always evaluated; masks and keypoints if the model predicts them and
    the annotations have them.

    Result files in the test server's format go to ``<output_dir>/<data set>/``:
    ``bbox_results.json``, ``segm_results.json``, ``keypoints_results.json``. They list the same
    detections in the same order. On a split without annotations they are all there is.

    With several processes the results are gathered on the first, and do not depend on how the
    images were spread over the processes.

    Args:
        dataset_name: A registered data set in COCO format, or one that Detectron2 can convert.
        output_dir: Directory for result files. None writes no files.
        backend: Name in :data:`~.backends.COCO_BACKENDS`, or "auto" for the fastest that is
            installed.
        max_dets: Limits of detections per image and class, from 1 on. All metrics are those of the
            largest.

    Attributes:
        computed_by: Backend that computed the last metrics ("hotcoco and pycocotools" if each
            computed some). None before :meth:`evaluate`, and on all processes but the first.
        curves: Task to precision over recall of the last metrics. Empty before :meth:`evaluate`,
            on all processes but the first, and for tasks whose backend has none.

    Raises:
        ConfigError: `max_dets` is empty or has a number below 1.
        DataError: The backend is unknown or not installed.
    """

    evaluator_types = ("coco", "coco_person")

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        backend: str = DEFAULT_BACKEND,
        max_dets: Sequence[int] = (1, 10, 100),
    ) -> None:
        self.dataset_name = dataset_name
        self.output_dir = Path(output_dir, dataset_name) if output_dir else None
        self.backend = check_backend(backend)
        self.max_dets = tuple(max_dets)
        if not self.max_dets or not all(type(n) is int and n >= 1 for n in self.max_dets):
            raise ConfigError(
                "evaluator.max_dets must be whole numbers from 1 on, such as [1, 10, 100]; got "
                f"{list(max_dets)}."
            )
        self.max_dets = tuple(sorted(self.max_dets))
        self.computed_by: str | None = None
        self.curves: dict[str, PrecisionRecall[str]] = {}
        self.reset()

    @functools.cached_property
    def _ground_truth(self) -> GroundTruth:
        return load_ground_truth(self.dataset_name)

    def check(self, num_keypoints: int | None) -> None:
        """Reports before a training what an evaluation after it would refuse.

        Args:
            num_keypoints: Number of keypoints that the model predicts. None if it predicts none.

        Raises:
            DataError: The annotations cannot be read, or their keypoints do not fit.
        """
        gt = self._ground_truth
        if num_keypoints and gt.annotated and self._can_measure("keypoints"):
            labeled = [a for a in gt.coco.dataset["annotations"] if a.get("keypoints")]
            if not labeled:
                return
            ids = {f"{key}_id": labeled[0][f"{key}_id"] for key in _IDS}
            made_up = {**ids, "bbox": [0, 0, 1, 1], "keypoints": [0] * 3 * num_keypoints}
            sigmas = self._oks_sigmas()
            found = [{**made_up, "score": 0.5}]
            coco_result(gt.coco, found, "keypoints", oks_sigmas=sigmas, backend=self.backend)

    def reset(self) -> None:
        """Forgets all predictions."""
        self._detections = Detections()

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Takes a batch of predictions, small or post-processed.

        Args:
            inputs: `image_id`, and `height`, `width` of the original image.
            outputs: `instances` as :func:`instances_to_results` takes them.
        """
        for image, output in zip(inputs, outputs, strict=True):
            instances: Instances = output["instances"]
            height, width = original_size(image, instances)
            predicted = (("segm", "pred_masks"), ("keypoints", "pred_keypoints"))
            tasks = [task for task, field in predicted if instances.has(field)]
            results = instances_to_results(instances, height, width, image["image_id"])
            self._detections.append(image["image_id"], height, width, results, tasks)

    def evaluate(self) -> dict[str, dict[str, Any]]:
        """Gathers the predictions, writes the result files and computes the metrics.

        Returns:
            Task to metric to percent (NaN: undefined), with AP by class name under "per_class".
            Empty on all processes but the first, and on splits without annotations.

        Raises:
            DataError: Predictions and data set do not fit each other.
        """
        parts = gather_detections(self._detections)
        if not comm.is_main_process():
            return {}
        gt = self._ground_truth
        image_ids = self._image_ids({i for part in parts for i in part.image_ids})
        class_names = self._class_names()
        highest = max((max(part.classes, default=-1) for part in parts), default=-1)
        check_classes(highest, len(class_names), self.dataset_name)
        chosen: dict[str, Any] = {"image_ids": image_ids, "category_ids": list(class_names)}
        streams = {
            task: ResultStream(parts, task, **chosen, with_box=task == "keypoints")
            for task in TASK_FIELDS
            if any(task in part.tasks for part in parts)
        }
        for task, stream in streams.items():
            self._write(task, stream)
        if not gt.annotated:
            logger.info(
                "%s has no annotations: %d detections on %d images were %s, nothing was measured.",
                self.dataset_name,
                len(streams["bbox"]),
                len(image_ids),
                f"written to {self.output_dir}" if self.output_dir else "not written (no folder)",
            )
            return {}
        if not len(streams["bbox"]):
            logger.warning("The model detected nothing on %d images.", len(image_ids))
        metrics = self._measure(streams, image_ids, class_names)
        for task, values in metrics.items():
            log_metrics(task, values)
        return metrics

    def evaluate_files(self) -> dict[str, dict[str, Any]]:
        """Computes the metrics again from the result files of an evaluation of the whole data set.

        Returns:
            As :meth:`evaluate`, of the tasks whose files there are; empty if there are none.

        Raises:
            DataError: Files that cannot be read or do not list the same detections.
        """
        folder = self.output_dir or Path()
        files = {task: folder / f"{task}_results.json" for task in TASK_FIELDS}
        files = {task: file for task, file in files.items() if file.is_file()}
        gt = self._ground_truth = load_ground_truth(self.dataset_name)
        if not gt.annotated or not files:
            return {}
        rows = read_results(
            list(files.values()), KnownIds.of(gt.coco, self.dataset_name, self._class_names())
        )
        found = {}
        for task in files:  # pycocotools takes the area of the box if there is one
            keys = (*ID_FIELDS, TASK_FIELDS[task], *(["bbox"] if task == "keypoints" else []))
            found[task] = [{key: row[key] for key in keys if key in row} for row in rows]
        image_ids = [image["id"] for image in self._ground_truth.coco.dataset["images"]]
        return self._measure(found, image_ids, self._class_names())

    def _measure(
        self,
        results: Mapping[str, Sequence[dict[str, Any]] | ResultStream],
        image_ids: Sequence[Any],
        class_names: Mapping[int, str],
    ) -> dict[str, dict[str, Any]]:
        """The metrics of results by task, where they can be measured; keeps curves and backends."""
        gt = self._ground_truth
        metrics = {}
        curves: dict[str, PrecisionRecall[str]] = {}
        used: set[str] = set()
        for task, detections in results.items():
            if not self._can_measure(task):
                continue
            result = coco_result(
                gt.coco,
                detections,
                task,
                image_ids=image_ids,
                class_names=class_names,
                max_dets=self.max_dets,
                oks_sigmas=self._oks_sigmas() if task == "keypoints" else (),
                backend=self.backend,
            )
            metrics[task] = result.metrics
            if result.curves is not None:
                curves[task] = result.curves
            used.add(result.backend)
        self.curves = curves
        self.computed_by = " and ".join(sorted(used)) or None
        return metrics

    def _image_ids(self, seen: set[Any]) -> list[Any]:
        """The processed images in the order of the annotation file."""
        known = [image["id"] for image in self._ground_truth.coco.dataset["images"]]
        check_images(seen, known, self.dataset_name)
        return [image_id for image_id in known if image_id in seen]

    def _class_names(self) -> dict[int, str]:
        """Category id of the annotations to class name, in the order of the model's classes."""
        metadata = MetadataCatalog.get(self.dataset_name)
        categories = self._ground_truth.coco.dataset.get("categories", [])
        names = {c["id"]: str(c["name"]) for c in categories}
        mapping = metadata.get("thing_dataset_id_to_contiguous_id")
        classes = metadata.get("thing_classes")
        if mapping is None:
            mapping = {category: index for index, category in enumerate(sorted(names))}
        ordered = sorted(mapping, key=lambda category: mapping[category])
        if classes is not None:
            names.update({category: classes[mapping[category]] for category in ordered})
        return {category: names[category] for category in ordered}

    def _oks_sigmas(self) -> Sequence[float]:
        """The metadata's; none leaves COCO's to the backend, which only COCO's keypoints may have.

        Raises:
            DataError: Other keypoints without sigmas.
        """
        metadata = MetadataCatalog.get(self.dataset_name)
        sigmas: Sequence[float] = metadata.get("keypoint_oks_sigmas", ())
        names = metadata.get("keypoint_names")
        if (
            len(sigmas) == 0
            and names is not None
            and list(names) != list(COCO_PERSON_KEYPOINT_NAMES)
        ):
            raise DataError(
                f"The keypoints of {self.dataset_name!r} ({', '.join(names)}) are not COCO's, and "
                "their OKS sigmas are not known. Set keypoint_oks_sigmas in the data set's "
                "metadata, or dataloader.test.dataset.oks_sigmas, to one value a keypoint."
            )
        return sigmas

    def _can_measure(self, task: str) -> bool:
        """Whether the annotations have what the task needs."""
        annotations = self._ground_truth.coco.dataset["annotations"]
        field = TASK_FIELDS[task]
        if annotations and not any(annotation.get(field) for annotation in annotations):
            logger.info("%s has no %s annotations: not measured.", self.dataset_name, task)
            return False
        return bool(annotations) or task != "keypoints"

    def _write(self, task: str, stream: ResultStream) -> None:
        if self.output_dir is None:
            return
        self.output_dir.mkdir(parents=True, exist_ok=True)
        path = self.output_dir / f"{task}_results.json"
        fields = [field for field in stream.fields if task == "bbox" or field != "bbox"]
        with atomic_write(path, text=True) as file:
            stream.write(file, fields)
        if fields == stream.fields:
            stream.file = path
