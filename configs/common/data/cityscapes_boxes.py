"""Cityscapes for RPN stages: the same images, boxes without masks, average recall as the metric."""

from detectron2.config import LazyCall as L

from mask_rcnn_repro.evaluation import ProposalEvaluator

from .cityscapes import dataloader

dataloader.train.mapper.use_instance_mask = False
dataloader.evaluator = L(ProposalEvaluator)(dataset_name="${..test.dataset.names}")
