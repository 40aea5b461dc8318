"""Store the proposals of a trained RPN for a data set."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

from detectron2.config import instantiate
from detectron2.utils import comm

from mask_rcnn_repro.engine.builders import build_model
from mask_rcnn_repro.engine.checkpoint.checkpointer import SafeCheckpointer
from mask_rcnn_repro.engine.dependencies import DataSet, data_sets
from mask_rcnn_repro.engine.run import Run
from mask_rcnn_repro.engine.run_folder import setup_logging
from mask_rcnn_repro.engine.seeding import seed_everything
from mask_rcnn_repro.engine.stages.up_to_date import facts_of_run
from mask_rcnn_repro.evaluation.loop import evaluate
from mask_rcnn_repro.evaluation.proposals.evaluator import ProposalStore
from mask_rcnn_repro.utils.precision import autocast_context

logger = logging.getLogger(__name__)

PROPOSAL_FOLDER = "proposals"  # in the directory of an RPN's run


def store_proposals(rpn: Run, data: DataSet, folder: Path) -> None:
    """Runs a trained RPN over a data set and writes its proposals.

    Images that the RPN was trained on, or that a row will be trained on, get as many proposals as
    in training. All others get as many as at test time.
    """
    setup_logging(rpn.folder)
    cfg = copy.deepcopy(rpn.cfg)
    trains_on_it = data.unlabeled or data in data_sets(cfg, "train")
    generator = cfg.model.proposal_generator
    for key in ("pre_nms_topk", "post_nms_topk"):
        count = generator[key][0 if trains_on_it else 1]
        generator[key] = [count, count]
    node = cfg.dataloader.test.dataset
    node.update({k: v for k, v in data.keys().items() if v is not None or k in node})
    logger.info("Storing the proposals of %s for %s in %s.", rpn.config_id, data.name, folder)
    seed_everything(cfg.train.seed)
    model = build_model(cfg, rpn.device)
    loaded = SafeCheckpointer(model, str(rpn.folder)).load(
        str(rpn.checkpoint), checkpointables=[], policy="exact"
    )
    amp = cfg.train.amp
    facts, last_iteration = facts_of_run(rpn), loaded.get("iteration")
    source = {
        "config": facts["id"],
        "profile": rpn.profile,
        "config_hash": facts["hash"],
        "seed": facts["seed"],
        "checkpoint_sha256": facts["checkpoint"],
        "iterations": None if last_iteration is None else last_iteration + 1,
        "recall": facts["recall"],
        "image_bits": data.image_bits,
    }
    evaluate(
        model,
        instantiate(cfg.dataloader.test),
        ProposalStore(folder, data.name, source=source, topk=generator.post_nms_topk[1]),
        autocast=lambda: autocast_context(rpn.device, amp.enabled, amp.dtype),
    )
    comm.synchronize()
