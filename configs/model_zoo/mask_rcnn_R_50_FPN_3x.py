"""Detectron2's `COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x`, built from this project's parts.

For benchmarking Detectron2's published checkpoint with `--eval-only` (published: 41.0 box AP, 37.2
mask AP on val2017). Where the paper's values differ, Detectron2's are set.
"""

from ..common.data.coco import dataloader
from ..common.models.mask_rcnn_fpn import model
from ..common.optim import optimizer
from ..common.schedules import lr_multiplier_160k as lr_multiplier
from ..common.train import train

model.proposal_generator.post_nms_topk = [1000, 1000]
model.proposal_generator.smooth_l1_beta = 0.0
model.roi_heads.box_pooler.sampling_ratio = 0  # the mask pooler follows
model.roi_heads.box_pooler.pooler_type = "ROIAlignV2"
model.roi_heads.box_predictor.smooth_l1_beta = 0.0
model.roi_heads.box_predictor.test_nms_thresh = 0.5
del model.roi_heads.mask_head["predictor_init"]

dataloader.train.dataset.names = "coco_2017_train"
dataloader.test.dataset.names = "coco_2017_val"
dataloader.train.mapper.augmentations[0].short_edge_length = [640, 672, 704, 736, 768, 800]

optimizer.params.bias_lr_factor = 1.0
optimizer.params.weight_decay_bias = None  # as the weights

lr_multiplier.milestones = [210_000, 250_000]
lr_multiplier.warmup_iters = 1000
lr_multiplier.warmup_factor = 1 / 1000

train.max_iter = 270_000
train.init_checkpoint = (
    "detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl"
)
