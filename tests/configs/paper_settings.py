"""What the paper states about its rows, and the RPN stages beside them, typed in from the paper.

Each dict below holds the settings of one place in the paper; a row joins such dicts, later ones
first. A key is a key of the config, or one of these, which `test_paper_settings.py` reads:

| key | value |
|---|---|
| `joint.<key>` | the key in joint training, where the row has its own RPN |
| `resnet.<key>` | the key of the ResNet or ResNeXt |
| `drops` | iteration to factor of the learning rate from there on, after the warm-up |
| `anchors` | sizes in pixels, of all levels |
| `poolers` | name of each RoI layer to its side |
| `roi.type`, `roi.ratio`, `roi.strides`, `roi.features` | of all RoI layers |
| `tta` | shorter edges of the views at test |

A node with a `_target_` is compared by the name of its class. None: it is null or not there.
"""

from __future__ import annotations

import re
from typing import Any

Settings = dict[str, Any]

HEADS = "model.roi_heads"
MASK_LOSS = f"{HEADS}.mask_head.loss"
INIT = "train.init_checkpoint"
RPN = "train.proposals"


def images(number: int, lr: float) -> Settings:
    """Images an iteration, and the learning rate that goes with them."""
    return {
        "dataloader.train.total_batch_size": number,
        "train.reference_batch_size": number,
        "optimizer.lr": lr,
    }


def schedule(iterations: int, *drops: int) -> Settings:
    """Length of the training, and the iterations from which on the rate is divided by 10."""
    return {
        "train.max_iter": iterations,
        "drops": {at: 0.1 ** (n + 1) for n, at in enumerate(drops)},
    }


def edges(train: list[int], test: int = 800, longest: int = 1333) -> Settings:
    """Shorter edges in pixels: a length, or the ends of a range; and the limit of the longer."""
    resize = "dataloader.{}.mapper.augmentations.0."
    return {
        resize.format("train") + "short_edge_length": train,
        resize.format("train") + "sample_style": "range" if len(train) == 2 else "choice",
        resize.format("train") + "max_size": longest,
        resize.format("test") + "short_edge_length": [test],
        resize.format("test") + "max_size": longest,
    }


def data(train: str, test: str) -> Settings:
    """Training and test set."""
    return {"dataloader.train.dataset.names": train} | tested_on(test)


def tested_on(name: str) -> Settings:
    return {"dataloader.test.dataset.names": name, "dataloader.evaluator.dataset_name": name}


def resnet(depth: int, groups: int, width: int, weights: str) -> Settings:
    """Backbone, and a pattern of its initial weights."""
    return {
        "resnet.depth": depth,
        "resnet.num_groups": groups,
        "resnet.width_per_group": width,
        "resnet.stride_in_1x1": groups == 1,  # as the weights have it
        "resnet.non_local": None,
        INIT: re.compile(weights),
    }


# --- sections 3 and 3.1 ------------------------------------------------------------------------

TRAINING = (
    {
        "optimizer": "SGD",
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 1e-4,
        "train.amp.enabled": False,
        "train.tta.enabled": False,
        "train.init_from": None,
        "train.init_classes": None,
        "dataloader.train.mapper.augmentations": ["ResizeShortestEdge", "RandomFlip"],
        "dataloader.test.mapper.augmentations": ["ResizeShortestEdge"],
        "dataloader.test.dataset": "get_test_dicts",  # all images, not a choice
        "dataloader.train.dataset.teacher": None,
        "dataloader.train.dataset.generated": None,
        "dataloader.train.dataset.min_keypoints": None,
    }
    | images(16, lr=0.02)
    | schedule(160_000, 120_000)
    | edges([800])
    | data("coco_trainval35k", "coco_minival")
)
TEST_DEV = tested_on("coco_test_dev")

R50 = resnet(50, 1, 64, "MSRA/R-50")
R101 = resnet(101, 1, 64, "MSRA/R-101")
X101 = resnet(101, 64, 4, "X-101-64x4d$") | images(8, lr=0.01)

DETECTION = {
    f"{HEADS}.num_classes": 80,
    f"{HEADS}.positive_fraction": 0.25,  # positives : negatives = 1 : 3
    f"{HEADS}.proposal_matcher.thresholds": [0.5],
    f"{HEADS}.box_predictor.test_nms_thresh": 0.3,
    f"{HEADS}.box_predictor.test_topk_per_image": 100,  # boxes that get a mask
    f"{HEADS}.keypoint_head": None,
    "roi.type": "ROIAlign",
    "roi.ratio": 2,
    "model.proposal_generator": None,
    "joint.model.proposal_generator.nms_thresh": 0.7,
}
MASKS = {
    f"{HEADS}.mask_head": "FCNMaskHead",
    MASK_LOSS: "PerClassSigmoidMaskLoss",
    "dataloader.train.mapper.use_instance_mask": True,
}
NO_MASKS = {
    f"{HEADS}.mask_head": None,
    "dataloader.train.mapper.use_instance_mask": False,
    "poolers": {"box_pooler": 7},
}


def proposals(sampled: int, at_test: int) -> Settings:
    """RoIs sampled from an image in training, and proposals of an image at test."""
    return {
        f"{HEADS}.batch_size_per_image": sampled,
        "joint.model.proposal_generator.post_nms_topk": [2000, at_test],
    }


C4 = proposals(64, 300) | {"poolers": {"pooler": 7}, "roi.strides": [16], "roi.features": ["res4"]}
FPN = proposals(512, 1000) | {
    "poolers": {"box_pooler": 7, "mask_pooler": 14},
    "roi.strides": [4, 8, 16, 32],
    "roi.features": ["p2", "p3", "p4", "p5"],
}
# The numbers of RoIs and proposals for C5 are not in the paper.
C5 = FPN | {"roi.strides": [32], "roi.features": ["res5"]}  # table 2d

MASK_RCNN = TRAINING | DETECTION | MASKS
R50_C4 = MASK_RCNN | R50 | C4 | {RPN: "rpn/r50_c4"}
R101_C4 = MASK_RCNN | R101 | C4 | {RPN: "rpn/r101_c4"}
R50_C5 = MASK_RCNN | R50 | C5 | {RPN: "rpn/r50_c5"}
R50_FPN = MASK_RCNN | R50 | FPN | {RPN: "rpn/r50_fpn"}
R101_FPN = MASK_RCNN | R101 | FPN | {RPN: "rpn/r101_fpn"}
X101_FPN = MASK_RCNN | X101 | FPN | {RPN: "rpn/x101_fpn"}


def mlp(hidden: int) -> Settings:
    """Table 2e: fc layers of 1024, then 80 masks of 28x28."""
    sizes = {"num_fc": hidden, "fc_dim": 1024, "output_size": 28, "num_classes": 80}
    head = f"{HEADS}.mask_head"
    return {head: "MLPMaskHead"} | {f"{head}.{name}": value for name, value in sizes.items()}


# --- section 5: persons ------------------------------------------------------------------------

PERSONS = (
    schedule(90_000, 60_000, 80_000)
    | edges([640, 800])
    | data("keypoints_coco_trainval35k", "keypoints_coco_minival")
    | {"dataloader.train.dataset.min_keypoints": 1}
)
PERSONS_DEV = tested_on("keypoints_coco_test_dev")


def branches(*, mask: bool, keypoint: bool) -> Settings:
    """Tables 4 to 6: which branches there are."""
    poolers = {"box_pooler": 7}
    poolers |= {"mask_pooler": 14} if mask else {}
    poolers |= {"keypoint_pooler": 14} if keypoint else {}
    head = "KeypointHead" if keypoint else None
    return (MASKS if mask else NO_MASKS) | {
        f"{HEADS}.num_classes": 1,  # boxes and, where there are any, masks
        f"{HEADS}.keypoint_head": head,
        f"{HEADS}.keypoint_head.loss_normalizer": "visible" if keypoint else None,
        f"{HEADS}.box_predictor.test_nms_thresh": 0.5,
        "dataloader.train.mapper.use_keypoint": keypoint,
        "dataloader.train.mapper.precomputed_proposal_topk": 2000,
        "dataloader.test.mapper.precomputed_proposal_topk": 1000,
        "poolers": poolers,
    }


PERSON_FPN = TRAINING | DETECTION | R50 | FPN | PERSONS | {RPN: "rpn/r50_fpn_person"}
BOXES = PERSON_FPN | branches(mask=False, keypoint=False)
MASK = PERSON_FPN | branches(mask=True, keypoint=False)
KEYPOINT = PERSON_FPN | branches(mask=False, keypoint=True)
BOTH = PERSON_FPN | branches(mask=True, keypoint=True)

# --- appendix A: Cityscapes --------------------------------------------------------------------

CITYSCAPES = (
    images(8, lr=0.01)  # one image per GPU
    | edges([800, 1024], test=1024, longest=2048)  # images of 2048x1024 as they are
    | data("cityscapes_train", "cityscapes_val")
    | schedule(24_000, 18_000)
    | {"dataloader.test.dataset": "get_cityscapes_dicts"}
)
FINE = (
    R50_FPN
    | CITYSCAPES
    | {
        f"{HEADS}.num_classes": 8,
        f"{HEADS}.mask_head.num_conv": 4,
        RPN: "rpn/r50_fpn_cityscapes",
    }
)

# --- appendix B: enhanced results --------------------------------------------------------------

UPDATED = schedule(180_000, 120_000, 160_000) | {
    f"{HEADS}.box_predictor.test_nms_thresh": 0.5,
    RPN: "rpn/x101_fpn_180k",
}
E2E = X101_FPN | UPDATED | {RPN: None, "model.proposal_generator": "RPN"}
# no address: a user brings these weights
IMAGENET_5K = E2E | {INIT: re.compile("^(?!.*://).*X-101-64x4d-IN5k")}
TRAIN_AUG = IMAGENET_5K | schedule(260_000, 200_000, 240_000) | edges([640, 800])
DEEPER = TRAIN_AUG | resnet(152, 32, 8, "X-152-32x8d-IN5k$")
NON_LOCAL = DEEPER | {"resnet.non_local": ["res4"]}


def test_augmented(trained: str) -> Settings:
    """Weights of another row are evaluated on several views of an image, each mirrored, too."""
    return {
        "train.init_from": trained,
        "train.max_iter": 0,
        "drops": {},
        "train.tta.enabled": True,
        "train.tta.flip": True,
        "train.tta.max_size": 2000,  # these two: Detectron's config for X-152
        "train.tta.vote_iou": 0.9,
        "tta": [400, 500, 600, 700, 800, 900, 1000, 1100, 1200],
    }


LONGER = schedule(130_000, 100_000, 120_000)
KEYPOINT_X101 = KEYPOINT | LONGER | X101 | {RPN: "rpn/x101_fpn_person"}
DISTILLED = KEYPOINT_X101 | {
    "dataloader.train.dataset.teacher": "table9/resnext",
    "dataloader.train.dataset.generated_part": 0.4,
}

# --- RPN stages --------------------------------------------------------------------------------

STAGE = TRAINING | {
    "paper": None,
    "model": "ProposalNetwork",
    "model.proposal_generator.post_nms_topk": [2000, 1000],
    "model.proposal_generator.anchor_generator.aspect_ratios": [0.5, 1.0, 2.0],
    "anchors": [32, 64, 128, 256, 512],
    "dataloader.evaluator": "ProposalEvaluator",
    "dataloader.train.mapper.use_instance_mask": False,
    "dataloader.train.mapper.use_keypoint": None,
}
PERSON_STAGE = STAGE | PERSONS | {"dataloader.train.mapper.use_keypoint": False}

SETTINGS: dict[str, Settings] = {
    "table1/r101_c4": R101_C4 | TEST_DEV,
    "table1/r101_fpn": R101_FPN | TEST_DEV,
    "table1/x101_fpn": X101_FPN | TEST_DEV,
    "table2a/r50_c4": R50_C4,
    "table2a/r101_c4": R101_C4,
    "table2a/r50_fpn": R50_FPN,
    "table2a/r101_fpn": R101_FPN,
    "table2a/x101_fpn": X101_FPN,
    "table2b/softmax": R50_C4 | {MASK_LOSS: "MultinomialMaskLoss"},
    "table2b/sigmoid": R50_C4,
    "section4_2/class_agnostic": R50_C4 | {MASK_LOSS: "ClassAgnosticMaskLoss"},
    "section4_2/class_specific": R50_C4,
    "section4_2/fpn_roi_pool": R50_FPN | {"roi.type": "ROIPool"},
    "section4_2/fpn_roi_align": R50_FPN,
    "table2c/roi_pool_max": R50_C4 | {"roi.type": "ROIPool"},
    "table2c/roi_warp_max": R50_C4 | {"roi.type": "ROIWarpMax"},
    "table2c/roi_warp_ave": R50_C4 | {"roi.type": "ROIWarpAve"},
    "table2c/roi_align_max": R50_C4 | {"roi.type": "ROIAlignMax"},
    "table2c/roi_align_ave": R50_C4,
    "table2d/roi_pool": R50_C5 | {"roi.type": "ROIPool"},
    "table2d/roi_align": R50_C5,
    "table2e/mlp_2fc": R50_FPN | mlp(2),
    "table2e/mlp_3fc": R50_FPN | mlp(3),
    "table2e/fcn": R50_FPN,
    "table3/faster_rcnn_roi_align": R101_FPN | TEST_DEV | NO_MASKS | {MASK_LOSS: None},
    "table3/r101_fpn": R101_FPN | TEST_DEV,
    "table3/x101_fpn": X101_FPN | TEST_DEV,
    "section4_4/r101_fpn_shared": R101_FPN
    | {
        "model": "SharedFeatureRCNN",
        "model.proposal_generator": "RPN",  # images alone are enough at test
        INIT: "",
        "train.init_from": "table2a/r101_fpn",
        RPN: "rpn/r101_fpn_shared",
    },
    "section4_4/r101_c4": R101_C4,
    "table4/keypoint_only": KEYPOINT | PERSONS_DEV,
    "table4/keypoint_and_mask": BOTH | PERSONS_DEV,
    "table5/faster_rcnn": BOXES,
    "table5/mask_only": MASK,
    "table5/keypoint_only": KEYPOINT,
    "table5/keypoint_and_mask": BOTH,
    "table6/roi_pool": KEYPOINT | {"roi.type": "ROIPool"},
    "table6/roi_align": KEYPOINT,
    "table7/fine": FINE,
    "table7/fine_coco": FINE
    | schedule(4_000, 3_000)
    # by name: seven classes are COCO's, `rider` is not
    | {INIT: "", "train.init_from": "table2a/r50_fpn", "train.init_classes": {}},
    "table8/original": X101_FPN,
    "table8/updated_baseline": X101_FPN | UPDATED,
    "table8/e2e": E2E,
    "table8/imagenet5k": IMAGENET_5K,
    "table8/train_aug": TRAIN_AUG,
    "table8/deeper": DEEPER,
    "table8/non_local": NON_LOCAL,
    "table8/test_aug": NON_LOCAL | test_augmented("table8/non_local"),
    "table9/original": KEYPOINT,
    "table9/updated_baseline": KEYPOINT | LONGER | {RPN: "rpn/r50_fpn_person_130k"},
    "table9/deeper": KEYPOINT | LONGER | R101 | {RPN: "rpn/r101_fpn_person"},
    "table9/resnext": KEYPOINT_X101,
    "table9/data_distillation": DISTILLED,
    "table9/test_aug": DISTILLED | test_augmented("table9/data_distillation"),
    "rpn/r50_c4": STAGE | R50,
    "rpn/r101_c4": STAGE | R101,
    "rpn/r50_c5": STAGE | R50,
    "rpn/r50_fpn": STAGE | R50,
    "rpn/r50_fpn_180k": STAGE | R50 | schedule(180_000, 120_000, 160_000),
    "rpn/r101_fpn": STAGE | R101,
    "rpn/r101_fpn_shared": STAGE | R101 | {INIT: "", "train.init_from": "table2a/r101_fpn"},
    "rpn/x101_fpn": STAGE | X101,
    "rpn/x101_fpn_180k": STAGE | X101 | schedule(180_000, 120_000, 160_000),
    "rpn/r50_fpn_person": PERSON_STAGE | R50,
    "rpn/r50_fpn_person_130k": PERSON_STAGE | R50 | LONGER,
    "rpn/r101_fpn_person": PERSON_STAGE | R101 | LONGER,
    "rpn/x101_fpn_person": PERSON_STAGE | X101 | LONGER,
    "rpn/r50_fpn_cityscapes": STAGE | R50 | CITYSCAPES,
}
"""All rows of the paper, those of a table in the order in which they are printed, then the RPN
stages."""
