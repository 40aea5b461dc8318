"""Pre-training of ResNet-50: stands for its ImageNet weights on embedded data.

A classifier of crops of single objects, from random weights. The statistics of batch norm are then
estimated on images of detection, where the rows freeze them. Written for the embedded data, as the
quickstart: `paper` and `mini` are the same.
"""

from detectron2.config import LazyCall as L

from mask_rcnn_repro.engine.train.schedule import CosineSchedule

from ..common.data.embedded_crops import dataloader
from ..common.models.classifier import model
from ..common.optim_adamw import optimizer

optimizer.lr = 2e-3
lr_multiplier = L(CosineSchedule)(max_iter="${train.max_iter}", warmup_iters=50, warmup_factor=0.01)

train = dict(
    max_iter=1200,
    reference_batch_size=64,
    statistics_from="rpn/r50_fpn",
    check_data=False,  # it is about boxes
    amp=dict(enabled=True),
    channels_last=True,
    checkpointer=dict(period=200),
    eval_period=0,
    log_period=20,
)
