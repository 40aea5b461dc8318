"""COCO's box, mask and keypoint metrics over a data set."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from mask_rcnn_repro.engine.atomic import atomic_write_text
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation.backends import DEFAULT_BACKEND, check_backend, coco_metrics
from mask_rcnn_repro.evaluation.ground_truth import GroundTruth, load_ground_truth
from mask_rcnn_repro.evaluation.registry import EVALUATOR_REGISTRY
from mask_rcnn_repro.evaluation.rle import instances_to_results

logger = logging.getLogger(__name__)

_TASK_FIELDS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}


@EVALUATOR_REGISTRY.register()
class CocoEvaluator(DatasetEvaluator):
    """Collects predictions and computes COCO's metrics on the images it has seen.

    Predictions are kept as COCO results (boxes and RLE), never as full-size masks. Which tasks are
    evaluated follows from what the model predicts: boxes always, masks and keypoints where it
    predicts them and the annotations have them.

    Result files in the test server's format go to ``<output_dir>/<data set>/``:
    ``bbox_results.json``, ``segm_results.json``, ``keypoints_results.json``. They list the same
    detections in the same order. On a split without annotations they are all there is.

    With several processes the results are gathered on the first, and do not depend on how the
    images were spread over the processes.

    Args:
        dataset_name: a registered data set in COCO format, or one that Detectron2 can convert.
        output_dir: folder for result files; None writes none.
        backend: see :data:`mask_rcnn_repro.evaluation.backends.COCO_BACKENDS`.
        max_dets: limits of detections an image; the last is the one that AP is computed with.

    Raises:
        DataError: unknown backend.
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
        self._ground_truth: GroundTruth | None = None
        self.reset()

    def reset(self) -> None:
        """Forgets all predictions."""
        self._predictions: dict[Any, list[dict[str, Any]]] = {}
        self._tasks = {"bbox"}

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
            height, width = (
                int(image.get(key, size))
                for key, size in zip(("height", "width"), instances.image_size, strict=True)
            )
            for task, field in (("segm", "pred_masks"), ("keypoints", "pred_keypoints")):
                if instances.has(field):
                    self._tasks.add(task)
            results = instances_to_results(instances, height, width, image["image_id"])
            self._predictions[image["image_id"]] = results

    def evaluate(self) -> dict[str, dict[str, Any]]:
        """Gathers the predictions, writes the result files and computes the metrics.

        Returns:
            Task to metric to percent (NaN: undefined), with AP by class name under "per_class".
            Empty on all processes but the first, and on splits without annotations.

        Raises:
            DataError: predictions and data set do not fit each other.
        """
        gathered = comm.gather((self._predictions, self._tasks))
        if not comm.is_main_process():
            return {}
        if self._ground_truth is None:
            self._ground_truth = load_ground_truth(self.dataset_name)
        gt = self._ground_truth
        predictions: dict[Any, list[dict[str, Any]]] = {}
        tasks: set[str] = set()
        for part, part_tasks in gathered:
            predictions.update(part)
            tasks |= part_tasks
        image_ids = self._image_ids(predictions)
        class_names = self._class_names()
        detections = [d for image_id in image_ids for d in predictions[image_id]]
        detections = self._with_dataset_classes(detections, list(class_names))
        ordered = [task for task in _TASK_FIELDS if task in tasks]
        for task in ordered:
            self._write(task, detections)
        if not gt.annotated:
            logger.info(
                "%s has no annotations: %d detections on %d images were %s, nothing was measured.",
                self.dataset_name,
                len(detections),
                len(image_ids),
                f"written to {self.output_dir}" if self.output_dir else "not written (no folder)",
            )
            return {}
        if not detections:
            logger.warning("The model detected nothing on %d images.", len(image_ids))
        metrics = {}
        for task in ordered:
            if not self._can_measure(task):
                continue
            metrics[task] = coco_metrics(
                gt.coco,
                _fields(detections, task, with_box=task == "keypoints"),
                task,
                image_ids=image_ids,
                class_names=class_names,
                max_dets=self.max_dets,
                oks_sigmas=self._oks_sigmas() if task == "keypoints" else (),
                backend=self.backend,
            )
            _log(task, metrics[task])
        return metrics

    def _image_ids(self, predictions: Mapping[Any, Any]) -> list[Any]:
        """The processed images in the order of the annotation file."""
        assert self._ground_truth is not None
        known = [image["id"] for image in self._ground_truth.coco.dataset["images"]]
        if unknown := set(predictions) - set(known):
            raise DataError(
                f"{len(unknown)} of {len(predictions)} evaluated images, such as image_id "
                f"{next(iter(unknown))!r}, are not in the annotations of {self.dataset_name!r}. "
                "The evaluator's data set must be the loader's (dataloader.evaluator.dataset_name)."
            )
        return [image_id for image_id in known if image_id in predictions]

    def _class_names(self) -> dict[int, str]:
        """Category id of the annotations to class name, in the order of the model's classes."""
        metadata = MetadataCatalog.get(self.dataset_name)
        assert self._ground_truth is not None
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

    def _with_dataset_classes(
        self, detections: list[dict[str, Any]], categories: list[int]
    ) -> list[dict[str, Any]]:
        highest = max((d["category_id"] for d in detections), default=-1)
        if highest >= len(categories):
            raise DataError(
                f"The model predicted class {highest}, but {self.dataset_name!r} has "
                f"{len(categories)} classes (0 to {len(categories) - 1}). Set "
                f"model.roi_heads.num_classes={len(categories)}, or evaluate on the data set that "
                "the model was trained for."
            )
        return [{**d, "category_id": categories[d["category_id"]]} for d in detections]

    def _oks_sigmas(self) -> Sequence[float]:
        """The metadata's; none leaves COCO's to the backend, which only COCO's keypoints may have.

        Raises:
            DataError: other keypoints without sigmas.
        """
        metadata = MetadataCatalog.get(self.dataset_name)
        sigmas: Sequence[float] = metadata.get("keypoint_oks_sigmas", ())
        names = metadata.get("keypoint_names")
        if not sigmas and names is not None and list(names) != list(COCO_PERSON_KEYPOINT_NAMES):
            raise DataError(
                f"The keypoints of {self.dataset_name!r} ({', '.join(names)}) are not COCO's, and "
                "their OKS sigmas are not known. Set keypoint_oks_sigmas in the data set's "
                "metadata, or dataloader.test.dataset.oks_sigmas, to one value a keypoint."
            )
        return sigmas

    def _can_measure(self, task: str) -> bool:
        """Whether the annotations have what the task needs."""
        assert self._ground_truth is not None
        annotations = self._ground_truth.coco.dataset["annotations"]
        field = _TASK_FIELDS[task]
        having = sum(field in annotation for annotation in annotations)
        if having == 0 and annotations:
            logger.info("%s has no %s annotations: not measured.", self.dataset_name, task)
            return False
        if having < len(annotations) and task != "keypoints":
            raise DataError(
                f"{len(annotations) - having} of {len(annotations)} annotations of "
                f"{self.dataset_name!r} have no {field!r}, so {task} cannot be measured."
            )
        return bool(annotations) or task != "keypoints"

    def _write(self, task: str, detections: list[dict[str, Any]]) -> None:
        if self.output_dir is None:
            return
        self.output_dir.mkdir(parents=True, exist_ok=True)
        rows = _fields(detections, task)
        atomic_write_text(self.output_dir / f"{task}_results.json", json.dumps(rows))


def _fields(
    detections: list[dict[str, Any]], task: str, with_box: bool = False
) -> list[dict[str, Any]]:
    """Cuts detections down to a task's fields.

    Mask results must not hold the box: pycocotools would take its area for the mask's. For
    keypoints Detectron2 leaves it in when measuring, and so does this project.
    """
    keys = ["image_id", "category_id", "score", _TASK_FIELDS[task], *(["bbox"] if with_box else [])]
    return [{key: detection[key] for key in keys} for detection in detections]


def _log(task: str, metrics: dict[str, Any]) -> None:
    values = ", ".join(
        f"{name} {'undefined' if math.isnan(value) else f'{value:.2f}'}"
        for name, value in metrics.items()
        if isinstance(value, float)
    )
    logger.info("%s: %s", task, values)
