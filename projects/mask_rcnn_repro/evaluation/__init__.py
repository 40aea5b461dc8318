"""Evaluation: evaluators by data set type, the inference loop, and metrics."""

from mask_rcnn_repro.evaluation.cityscapes.evaluator import CityscapesInstanceEvaluator
from mask_rcnn_repro.evaluation.classification import ClassificationEvaluator
from mask_rcnn_repro.evaluation.coco.backends import COCO_BACKENDS, coco_metrics
from mask_rcnn_repro.evaluation.coco.evaluator import CocoEvaluator
from mask_rcnn_repro.evaluation.loop import evaluate
from mask_rcnn_repro.evaluation.masks.rle import instances_to_results
from mask_rcnn_repro.evaluation.proposals.evaluator import ProposalEvaluator, ProposalStore
from mask_rcnn_repro.evaluation.registry import EVALUATOR_REGISTRY, build_evaluator

__all__ = [
    "COCO_BACKENDS",
    "EVALUATOR_REGISTRY",
    "CityscapesInstanceEvaluator",
    "ClassificationEvaluator",
    "CocoEvaluator",
    "ProposalEvaluator",
    "ProposalStore",
    "build_evaluator",
    "coco_metrics",
    "evaluate",
    "instances_to_results",
]
