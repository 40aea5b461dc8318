"""The stages of data distillation: predict, choose the threshold, write annotations."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import nn

from mask_rcnn_repro.config import config_hash
from mask_rcnn_repro.config.stored_proposals import keeps_rpn
from mask_rcnn_repro.data import dataset_fingerprint, get_test_dicts, get_training_dicts
from mask_rcnn_repro.data.generated.annotations import (
    GENERATED_FILE,
    default_unlabeled,
    distillation_info,
)
from mask_rcnn_repro.data.loading.loader import Mapper
from mask_rcnn_repro.data.registration import coco_parts
from mask_rcnn_repro.distillation.annotation_file import labeled_categories, write_generated
from mask_rcnn_repro.distillation.predict import predict_missing
from mask_rcnn_repro.distillation.predictions import IMAGES_PER_FILE, PredictionStore
from mask_rcnn_repro.distillation.threshold import Threshold, choose_threshold, labeled_average
from mask_rcnn_repro.engine.builders import resolve_device
from mask_rcnn_repro.engine.dependencies import DataSet, data_sets, find_rpn
from mask_rcnn_repro.engine.predictor import build_predictor
from mask_rcnn_repro.engine.tta import tta_sizes, with_original_images, with_tta
from mask_rcnn_repro.errors import ConfigError
from mask_rcnn_repro.records.provenance import checkpoint_info
from mask_rcnn_repro.utils.atomic import atomic_write_text
from mask_rcnn_repro.utils.precision import autocast_context

logger = logging.getLogger(__name__)

SUMMARY_FILE = "summary.json"
PREDICTION_FOLDER = "predictions"
FORMAT_VERSION = 1


def distill(
    cfg: DictConfig,
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    config_id: str,
    unlabeled: DataSet | None = None,
    rpn_checkpoint: str | os.PathLike[str] | None = None,
    device: torch.device | None = None,
    single_view: bool = False,
    instances_per_image: float | None = None,
    min_keypoint_score: float = 0.0,
    images_per_file: int = IMAGES_PER_FILE,
) -> Path:
    """Annotates unlabeled images with a trained model (Radosavovic et al. 2017).

    All processes of a run call it together. Existing predictions are not made again. The result
    does not depend on interruptions or on the number of processes.

    Args:
        cfg: Config of the trained model. Its test transforms, `train.tta` and test score threshold
            determine the predictions. Its training data determines threshold and categories.
        checkpoint: Weights of the model.
        output: Directory of `generated.json`, `summary.json` and the predictions.
        config_id: Name of the config.
        unlabeled: The images. Defaults to those of :func:`default_unlabeled`.
        rpn_checkpoint: See :func:`~mask_rcnn_repro.engine.predictor.build_predictor`.
        device: Device of the model. Defaults to `train.device`.
        single_view: Predict without transforms.
        instances_per_image: Target number of instances. Defaults to the average of labeled images.
        min_keypoint_score: See :func:`~mask_rcnn_repro.distillation.annotation_file.annotation`.
        images_per_file: Images per file of predictions.

    Returns:
        The path of `generated.json`.

    Raises:
        CheckpointError: Weights are missing or do not fit.
        ConfigError: The directory holds other predictions, or the images are not known.
        DataError: Labeled data or images are missing or broken.
    """
    folder = Path(output)
    device = device or resolve_device(cfg.train.device)
    unlabeled = unlabeled or DataSet(default_unlabeled(data_sets(cfg, "train")[0].name))
    records = get_test_dicts(
        *(unlabeled.name, unlabeled.json, unlabeled.image_root),
        image_bits=cfg.dataloader.train.dataset.get("image_bits"),
    )
    image_root = _image_root(unlabeled)
    transforms = None if single_view else transforms_of(cfg)
    image_ids = [record["image_id"] for record in records]
    store = PredictionStore(folder / PREDICTION_FOLDER, image_ids, images_per_file)
    file = folder / GENERATED_FILE
    settings: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    if comm.is_main_process():
        labeled = _labeled_facts(cfg)
        settings = _settings(cfg, config_id, checkpoint, rpn_checkpoint, device)
        settings.update(unlabeled=_unlabeled_facts(unlabeled), transforms=transforms)
        facts = {
            "format_version": FORMAT_VERSION,
            **settings,
            "labeled": labeled,
            "wanted_per_image": instances_per_image or labeled["per_image"],
            "min_keypoint_score": min_keypoint_score,
        }
    if comm.all_gather(comm.is_main_process() and _is_finished(file, facts))[0]:
        logger.info("The generated annotations already exist: %s", file)
        return file
    if comm.is_main_process():
        store.claim(settings)
    comm.synchronize()

    def build() -> nn.Module:
        model = build_predictor(cfg, checkpoint, rpn_checkpoint, device)
        return model if transforms is None else with_tta(cfg, model)

    amp = cfg.train.amp
    predict_missing(
        store,
        records,
        build,
        _mapper(cfg, single_view),
        num_workers=cfg.dataloader.test.num_workers,
        autocast=lambda: autocast_context(device, amp.enabled, amp.dtype),
    )
    if comm.is_main_process():
        categories = labeled_categories(data_sets(cfg, "train")[0].name)
        _annotate(file, store, records, image_root, categories, facts)
    comm.synchronize()
    return file


def transforms_of(cfg: DictConfig) -> dict[str, Any]:
    """Returns the transforms of `train.tta` as plain data."""
    tta = cfg.train.tta  # views_per_batch does not change results
    voting = {} if tta.vote_iou is None else {"vote_iou": tta.vote_iou}
    averaging = {"average_boxes": True} if tta.average_boxes else {}
    sizes = {"sizes": tta_sizes(cfg), "flip": tta.flip, "max_size": tta.max_size}
    return {**sizes, **voting, **averaging}


def _mapper(cfg: DictConfig, single_view: bool) -> Mapper:
    """Returns the test mapper without stored proposals, which the predictor computes itself."""
    if not single_view:
        cfg = with_original_images(cfg)
    node = cfg.dataloader.test.mapper.copy()
    for key in ("precomputed_proposal_topk", "proposal_files"):
        if key in node:
            node[key] = None
    mapper: Mapper = instantiate(node)
    return mapper


def _image_root(unlabeled: DataSet) -> str:
    parts = coco_parts(unlabeled.name)
    if parts is None or len(parts) != 1:
        raise ConfigError(
            f"The images of {unlabeled.name!r} are not in one directory with one json in COCO "
            "format. Give --unlabeled-json and --unlabeled-images."
        )
    return parts[0].image_root


def _labeled_facts(cfg: DictConfig) -> dict[str, Any]:
    dataset = cfg.dataloader.train.dataset
    dicts = get_training_dicts(
        dataset.names if isinstance(dataset.names, str) else list(dataset.names),
        dataset.get("json"),
        dataset.get("image_root"),
        filter_empty=False,
    )
    keypoints = OmegaConf.select(cfg, "model.roi_heads.keypoint_head") is not None
    average = labeled_average(dicts, with_keypoints=keypoints)
    return {
        "names": [data.name for data in data_sets(cfg, "train")],
        **dataclasses.asdict(average),
        "per_image": average.per_image,
    }


def _settings(
    cfg: DictConfig,
    config_id: str,
    checkpoint: str | os.PathLike[str],
    rpn_checkpoint: str | os.PathLike[str] | None,
    device: torch.device,
) -> dict[str, Any]:
    """Returns what determines the predictions, as plain data."""
    facts: dict[str, Any] = {
        "config": config_id,
        "profile": str(cfg.train.profile),
        "config_hash": config_hash(cfg),
        "seed": cfg.train.seed,
        "checkpoint_sha256": checkpoint_info(checkpoint)["sha256"],
        "rpn": None,
    }
    if cfg.train.proposals is not None and not keeps_rpn(cfg):
        weights = rpn_checkpoint or find_rpn(cfg, device).checkpoint
        sha256 = checkpoint_info(weights)["sha256"]
        facts["rpn"] = {"config": cfg.train.proposals, "checkpoint_sha256": sha256}
    return facts


def _unlabeled_facts(unlabeled: DataSet) -> dict[str, Any]:
    found = dataset_fingerprint(unlabeled.name, unlabeled.json, unlabeled.image_root)
    facts = {"name": unlabeled.name, "images": found["num_images"], "sha256": found["sha256"]}
    if unlabeled.json is not None and unlabeled.image_root is not None:
        facts["json"] = os.path.abspath(unlabeled.json)
        facts["image_root"] = os.path.abspath(unlabeled.image_root)
    return facts


def _is_finished(file: Path, facts: Mapping[str, Any]) -> bool:
    """Returns whether the file was made with these settings."""
    if not file.is_file():
        return False
    held = distillation_info(file)
    held.pop("threshold", None)
    return bool(held == json.loads(json.dumps(facts)))


def _annotate(
    file: Path,
    store: PredictionStore,
    records: Sequence[Mapping[str, Any]],
    image_root: str,
    categories: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> None:
    """Chooses the threshold and writes the annotations, with the facts in their "info"."""
    scores = (d["score"] for _, detections in store.read() for d in detections)
    chosen = choose_threshold(scores, len(records), facts["wanted_per_image"])
    _report(chosen, facts["labeled"])
    threshold = {
        "score": chosen.score if chosen.predictions else None,
        "per_image": chosen.per_image,
        "instances": chosen.kept,
        "images": chosen.images,
        "predictions": chosen.predictions,
    }
    facts = {**facts, "threshold": threshold}
    info = {"description": "Generated annotations: data distillation", "distillation": facts}
    keypoint_score = facts["min_keypoint_score"]
    write_generated(
        *(file, store, records, image_root, categories, info),
        score=chosen.score,
        min_keypoint_score=keypoint_score,
    )
    atomic_write_text(file.with_name(SUMMARY_FILE), json.dumps(facts, indent=2) + "\n")
    logger.info("Generated annotations written to %s", file)


def _report(chosen: Threshold, labeled: Mapping[str, Any]) -> None:
    kind = "instances with labeled keypoints" if labeled["with_keypoints"] else "instances"
    logger.info(
        "Labeled: %d %s on %d images, %.3f per image.",
        *(labeled["instances"], kind, labeled["images"], labeled["per_image"]),
    )
    logger.info(
        "Threshold %.6f keeps %d of %d predictions on %d images, %.3f per image (target: %.3f).",
        *(chosen.score, chosen.kept, chosen.predictions, chosen.images),
        *(chosen.per_image, chosen.wanted),
    )
    if chosen.short_of_predictions:
        logger.warning(
            "All predictions together are fewer than the target. Predict more with a lower "
            "model.roi_heads.box_predictor.test_score_thresh, in another --output."
        )
