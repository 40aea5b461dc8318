"""Quickstart: a small Mask R-CNN R18-FPN on the embedded data, from random weights, in minutes on
two CPU cores. Not a row of the paper; it shows that everything works, end to end.
"""

from detectron2.config import LazyCall as L

from mask_rcnn_repro.engine.train.schedule import CosineSchedule

from ..common.data.embedded import dataloader
from ..common.models.mask_rcnn_fpn import model
from ..common.optim_adamw import optimizer

# Half the network's width, a quarter of the heads', and sizes that fit objects of 10 to 100 px.
model.backbone.bottom_up.depth = 18
model.backbone.bottom_up.width_multiplier = 0.5
model.backbone.bottom_up.norm = "BN"  # from random weights there are no statistics to freeze
model.backbone.bottom_up.freeze_at = 0
model.backbone.out_channels = 64
model.proposal_generator.anchor_generator.sizes = [[8], [16], [32], [64], [128]]
model.proposal_generator.batch_size_per_image = 64
model.proposal_generator.pre_nms_topk = [250, 200]
model.proposal_generator.post_nms_topk = [150, 100]
model.roi_heads.num_classes = 7
model.roi_heads.batch_size_per_image = 64
model.roi_heads.box_head.fc_dim = 256
model.roi_heads.mask_head.conv_dim = 64
del model.roi_heads.mask_head["predictor_init"]  # Detectron2's first weights
model.pixel_std = [57.375, 57.12, 58.395]

dataloader.train.num_workers = 0  # on two cores a worker costs more than the 20 ms that it saves

optimizer.lr = 2e-3
lr_multiplier = L(CosineSchedule)(max_iter="${train.max_iter}", warmup_iters=50, warmup_factor=0.01)

train = dict(
    max_iter=800,
    reference_batch_size=8,
    amp=dict(enabled=True),  # bfloat16; on a CPU without such instructions rather false
    channels_last=True,
    checkpointer=dict(period=100),
    eval_period=0,
    log_period=20,
    draw=12,
)
