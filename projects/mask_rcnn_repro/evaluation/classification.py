"""Accuracy of image classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from mask_rcnn_repro.evaluation.evaluator_parts import log_metrics
from mask_rcnn_repro.evaluation.registry import EVALUATOR_REGISTRY


@EVALUATOR_REGISTRY.register()
class ClassificationEvaluator(DatasetEvaluator):
    """Top-1 and top-5 accuracy in percent. Writes no files, and ignores its arguments.

    Of equally probable classes the one with the lower index comes first.
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
        """Takes a batch: `category_id` of inputs and `probabilities` (K,) of outputs."""
        for image, output in zip(inputs, outputs, strict=True):
            p, k = output["probabilities"], image["category_id"]
            rank = (p > p[k]).sum() + (p[:k] == p[k]).sum()
            self._ranks.append(int(rank) if p.isfinite().all() else len(p))

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Returns `{"classification": {"top1", "top5"}}`. Empty off the first process."""
        ranks = [rank for part in comm.gather(self._ranks) for rank in part]
        if not comm.is_main_process() or not ranks:
            return {}
        metrics = {f"top{n}": 100 * sum(r < n for r in ranks) / len(ranks) for n in (1, 5)}
        log_metrics("classification", metrics)
        return {"classification": metrics}
