"""`table8/updated_baseline` on R50-FPN: trained longer, NMS 0.5, against `table2a/r50_fpn`."""

from ..common.schedules import lr_multiplier_180k as lr_multiplier
from ..table2a.r50_fpn import dataloader, model, optimizer, train

train.max_iter = 180_000
train.proposals = "rpn/r50_fpn_180k"
model.roi_heads.box_predictor.test_nms_thresh = 0.5

paper = dict(counterpart="table8/updated_baseline", control="table2a/r50_fpn")
