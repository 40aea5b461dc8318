"""Evaluate a model as its config says: loader, evaluator, metrics."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig, OmegaConf

from mask_rcnn_repro.data.coco.file import shared_when_taken
from mask_rcnn_repro.engine.predictor import join_rpn
from mask_rcnn_repro.engine.run import Evaluation
from mask_rcnn_repro.engine.tta import with_original_images, with_tta
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation.coco.evaluator import CocoEvaluator
from mask_rcnn_repro.evaluation.loop import evaluate
from mask_rcnn_repro.modeling import TestTimeAugmentation, optimize_for_inference
from mask_rcnn_repro.modeling.inference.optimize import runs_in_threads
from mask_rcnn_repro.utils.precision import autocast_context, compute_dtype

logger = logging.getLogger(__name__)

RESULTS_FOLDER = "inference"  # in the directory of a run


def evaluate_model(
    cfg: DictConfig, model: torch.nn.Module, device: torch.device, output_dir: Path, final: bool
) -> Evaluation:
    """Evaluates `model` on `cfg.dataloader.test`.

    Args:
        cfg: A validated config.
        model: Detection model, not wrapped. Its weights and training mode do not change. With
            `cfg.train.optimize_inference` a copy is evaluated, see :func:`faster_copy`. On a CPU
            it then predicts on two images concurrently. On a GPU it predicts on an image while the
            results of the one before are encoded.
        device: Device of the model.
        output_dir: Result files are written to `<output_dir>/inference`.
        final: Whether this is the last evaluation of a run, which uses `cfg.train.tta`.

    Raises:
        CheckpointError: The RPN that test-time augmentation needs has no weights.
        ConfigError: Test-time augmentation does not suit the model.
    """
    augmented = final and cfg.train.tta.enabled
    if augmented:
        cfg, model = _augmented(cfg, model, device)
    loader = instantiate(cfg.dataloader.test)
    evaluator = _build_evaluator(cfg, output_dir)
    if cfg.train.optimize_inference:
        model = faster_copy(cfg, model)
    metrics, seconds = evaluate(
        model,
        loader,
        evaluator,
        autocast=lambda: autocast_context(device, cfg.train.amp.enabled, cfg.train.amp.dtype),
        read=model.views_ahead if isinstance(model, TestTimeAugmentation) else iter,
        at_once=0 if augmented else _images_at_once(cfg, model, device),
    )
    comm.synchronize()
    computed_by, curves = getattr(evaluator, "computed_by", None), getattr(evaluator, "curves", {})
    return Evaluation(metrics or {}, seconds, computed_by, curves)


def _build_evaluator(cfg: DictConfig, output_dir: Path) -> DatasetEvaluator:
    node = copy.deepcopy(cfg.dataloader.evaluator)
    OmegaConf.update(node, "output_dir", str(output_dir / RESULTS_FOLDER))
    return instantiate(node)


def check_test_data(cfg: DictConfig, output_dir: Path) -> None:
    """Reads the test data and builds the evaluator, so that a fault costs no training.

    Raises:
        UserError: `cfg.dataloader.test.dataset` or `cfg.dataloader.evaluator` cannot be used.
    """
    with shared_when_taken():
        records = instantiate(cfg.dataloader.test.dataset)
        first = records[0].get("file_name") if isinstance(records, list) and records else None
        if first and not PathManager.isfile(first):
            raise DataError(f"The test image {first} is missing. Give its directory, or fetch it.")
        evaluator = _build_evaluator(cfg, output_dir)
        if isinstance(evaluator, CocoEvaluator):
            head = OmegaConf.select(cfg, "model.roi_heads.keypoint_head")
            evaluator.check(None if head is None else head.get("num_keypoints", 17))


def faster_copy(cfg: DictConfig, model: torch.nn.Module) -> torch.nn.Module:
    """Returns a copy for inference in the config's precision, or the model if that fails."""
    amp = cfg.train.amp
    try:
        dtype = compute_dtype(next(model.parameters()).device, amp.enabled, amp.dtype)
        return optimize_for_inference(model, dtype)
    except Exception as error:  # of any module; the training's result must not be lost
        logger.warning(
            "The model is evaluated as it is: no faster copy could be made of it (%s: %s). "
            "train.optimize_inference=false omits the attempt.",
            *(type(error).__name__, error),
        )
        return model


def _images_at_once(cfg: DictConfig, model: torch.nn.Module, device: torch.device) -> int:
    """Returns 1 on a GPU, 2 on a CPU if threads may share the model, otherwise 0."""
    if device.type != "cpu":
        return 1
    several = cfg.train.optimize_inference and torch.get_num_threads() > 1
    return 2 if several and runs_in_threads(model) else 0


def _augmented(
    cfg: DictConfig, model: torch.nn.Module, device: torch.device
) -> tuple[DictConfig, torch.nn.Module]:
    """Returns the config for original images, and the model with test-time augmentation."""
    stored = cfg.train.tta.average_boxes
    augmented = with_tta(cfg, model if stored else join_rpn(cfg, model, device))
    logger.info(
        "Test-time augmentation: shorter edges of %s pixels%s, in place of "
        "dataloader.test.mapper.augmentations.",
        *(", ".join(map(str, augmented.sizes)), " and mirrored" * augmented.flip),
    )
    return with_original_images(cfg), augmented
