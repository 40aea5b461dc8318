"""Accuracy of image classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation.evaluator_parts import log_metrics
from mask_rcnn_repro.evaluation.registry import EVALUATOR_REGISTRY


@EVALUATOR_REGISTRY.register()
class ClassificationEvaluator(DatasetEvaluator):
    """Top-1 and top-5 accuracy in percent.

    Args:
        dataset_name: Ignored, as no file is written. Other evaluators have the same arguments.
        output_dir: Ignored.
    """

    evaluator_types = ("classification",)

    def __init__(self, dataset_name: str, output_dir: str | None = None) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets all predictions."""
        self._ranks: list[int] = []  # numbers of classes before the true one

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Takes a batch: `category_id` of inputs and `probabilities` (K,) of outputs.

        Of equally probable classes the one with the lower index comes first.

        Raises:
            DataError: An image is of a class that the model does not predict.
        """
        for image, output in zip(inputs, outputs, strict=True):
            p, k = output["probabilities"], image["category_id"]
            if not 0 <= k < len(p):
                raise DataError(
                    f"Image {image.get('image_id')!r} is of class {k}, but the model predicts "
                    f"{len(p)} classes. Set model.backbone.num_classes={k + 1} or more."
                )
            before = (p > p[k]).sum() + (p[:k] == p[k]).sum()
            self._ranks.append(int(before))

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Returns `{"classification": {"top1", "top5"}}`. Empty off the first process."""
        gathered = comm.gather(self._ranks)
        ranks = [rank for part in gathered for rank in part]
        if not comm.is_main_process() or not ranks:
            return {}
        metrics = {f"top{n}": 100 * sum(r < n for r in ranks) / len(ranks) for n in (1, 5)}
        log_metrics("classification", metrics)
        return {"classification": metrics}
