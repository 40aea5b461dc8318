"""Weights of pre-training stages, which stand for ImageNet's at the small scales.

A stage is a classifier with a run of its own, like an RPN stage. `train.init_checkpoint=
stage://<config>` names it. Its backbone's weights are in `pretrained.safetensors` in the directory
of its run, with their record in `pretrained.json`. Copies of both in `weights/` of this package are
the published weights.
"""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from detectron2.config import instantiate
from detectron2.utils import comm
from fvcore.nn.precise_bn import update_bn_stats
from omegaconf import DictConfig
from safetensors import safe_open
from torch import nn

import mask_rcnn_repro
from mask_rcnn_repro.config import config_hash, load_config
from mask_rcnn_repro.data.catalog import spec_fingerprint
from mask_rcnn_repro.engine.builders import build_model
from mask_rcnn_repro.engine.checkpoint.checkpointer import SafeCheckpointer
from mask_rcnn_repro.engine.dependencies import data_sets
from mask_rcnn_repro.engine.run import Run
from mask_rcnn_repro.engine.run_folder import setup_logging
from mask_rcnn_repro.engine.seeding import seed_everything
from mask_rcnn_repro.engine.stages.up_to_date import fingerprint
from mask_rcnn_repro.records import load_record, save_record
from mask_rcnn_repro.records.provenance import checkpoint_info, file_sha256
from mask_rcnn_repro.records.record import CheckpointInfo
from mask_rcnn_repro.utils.atomic import atomic_write_bytes
from mask_rcnn_repro.utils.locks import exclusive

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "pretrained.safetensors"
PUBLISHED = Path(mask_rcnn_repro.__file__).parent / "weights"


def published_file(stage: Run) -> Path:
    """Returns where the published weights of a stage are, whether or not they exist."""
    return (
        PUBLISHED / f"{stage.config_id}@{stage.profile}" / f"seed{stage.cfg.train.seed}.safetensors"
    )


def find_weights(stage: Run) -> Path | None:
    """Returns weights of a stage's config and seed: its own run's, the published ones, or None."""
    files = [stage.folder / WEIGHTS_FILE]
    if stage.cfg.train.published_weights:
        files.append(published_file(stage))
    return next((file for file in files if _fits(stage, file)), None)


def _fits(stage: Run, file: Path) -> bool:
    """Returns whether weights are there, whole, and of the stage's config, seed and data."""
    description = file.with_suffix(".json")
    if not (file.is_file() and description.is_file()):
        return False
    record = load_record(description)
    if (record.config.hash, record.seed) != (config_hash(stage.cfg), stage.cfg.train.seed):
        return False
    if record.checkpoint is None or record.checkpoint.sha256 != file_sha256(file):
        return False
    with safe_open(file, "pt") as weights:
        known = dict(weights.metadata() or {})
    if record.train_data is not None:
        known["train_data"] = record.train_data.fingerprint
    return known.items() <= {**known, **_fingerprints(stage)}.items()


def facts_of_weights(file: Path) -> dict[str, Any]:
    """Returns facts about weights and the stage that they are of, for records."""
    record = load_record(file.with_suffix(".json"))
    sha256 = record.checkpoint.sha256 if record.checkpoint else None
    run = {"id": record.config.id, "hash": record.config.hash, "seed": record.seed}
    return {**run, "checkpoint": sha256}


def store_weights(stage: Run) -> None:
    """Writes the weights of a finished stage for the runs that start from them, if missing.

    Convolutions are stored in float16, all else in float32. All processes call it together.
    """
    file = stage.folder / WEIGHTS_FILE
    if comm.all_gather(_fits(stage, file))[0]:
        return
    # this process may hold the lock of the run
    lock = exclusive(stage.folder, purpose="its weights", wait=True, lock_file=".weights.lock")
    with lock as waited:
        if comm.is_main_process() and not (waited and _fits(stage, file)):
            setup_logging(stage.folder)
            _store(stage, file)
        comm.synchronize()


def _store(stage: Run, file: Path) -> None:
    record = load_record(stage.folder / "record.json")
    seed_everything(stage.cfg.train.seed)
    model = build_model(stage.cfg, stage.device)
    SafeCheckpointer(model, str(stage.folder)).load(str(stage.checkpoint), checkpointables=[])
    if stage.cfg.train.statistics_from is not None:
        estimate_statistics(stage, model)
    state = {
        key: (value.half() if value.ndim > 1 else value).cpu().contiguous()
        for key, value in model.backbone.state_dict().items()
        if not key.startswith("linear.") and not key.endswith("num_batches_tracked")
    }
    known = _fingerprints(stage)
    known.pop("train_data")  # is in the record
    atomic_write_bytes(file, safetensors.torch.save(state, known))
    weights = CheckpointInfo(**checkpoint_info(file))
    save_record(record.model_copy(update={"checkpoint": weights}), file.with_suffix(".json"))
    logger.info("Weights of %s for runs that start from it: %s", stage.config_id, file)


def _fingerprints(stage: Run) -> dict[str, str]:
    """Returns fingerprints: `train_data` and, in the metadata of weights, `statistics_data`."""
    found = {"train_data": fingerprint(data_sets(stage.cfg, "train"))}
    if stage.cfg.train.statistics_from is not None:
        sets = data_sets(_statistics_config(stage), "train")
        specs = [spec_fingerprint(data.name) for data in sets]
        # published weights are known to fit before their data has been generated
        found["statistics_data"] = (
            " ".join(filter(None, specs)) if all(specs) else fingerprint(sets)
        )
    return found


def _statistics_config(stage: Run) -> DictConfig:
    """Returns the config `train.statistics_from`."""
    profile = "mini" if stage.profile == "paper" else stage.profile
    # proposals are not needed
    return load_config(stage.cfg.train.statistics_from, profile, ["train.proposals=null"])


def estimate_statistics(stage: Run, model: nn.Module) -> None:
    """Estimates the statistics of batch norm on images of detection, in place.

    They are means and variances over `train.statistics_batches` batches of the training data of the
    config `train.statistics_from`. In detection they are frozen, and crops of objects have others.
    """
    train = stage.cfg.train
    node = copy.deepcopy(_statistics_config(stage).dataloader.train)
    node.update(seed=train.seed, rank=0, world_size=1, num_workers=0)
    logger.info("Estimating batch norm's statistics on %s.", node.dataset.names)
    batches = (model.preprocess(batch) for batch in instantiate(node))
    mode = model.training
    with torch.no_grad():
        update_bn_stats(model.train().backbone, batches, train.statistics_batches)
    model.train(mode)
