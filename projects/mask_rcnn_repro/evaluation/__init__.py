"""Evaluation: evaluators by data set type, the inference loop, metrics, and result records."""

from mask_rcnn_repro.evaluation.backends import COCO_BACKENDS, coco_metrics
from mask_rcnn_repro.evaluation.cityscapes import CityscapesInstanceEvaluator
from mask_rcnn_repro.evaluation.coco import CocoEvaluator
from mask_rcnn_repro.evaluation.loop import evaluate
from mask_rcnn_repro.evaluation.proposals import ProposalEvaluator, ProposalStore
from mask_rcnn_repro.evaluation.records import Record, load_record, make_record, save_record
from mask_rcnn_repro.evaluation.registry import EVALUATOR_REGISTRY, build_evaluator
from mask_rcnn_repro.evaluation.rle import instances_to_results

__all__ = [
    "COCO_BACKENDS",
    "EVALUATOR_REGISTRY",
    "CityscapesInstanceEvaluator",
    "CocoEvaluator",
    "ProposalEvaluator",
    "ProposalStore",
    "Record",
    "build_evaluator",
    "coco_metrics",
    "evaluate",
    "instances_to_results",
    "load_record",
    "make_record",
    "save_record",
]
