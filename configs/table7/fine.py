"""Table 7, row `Mask R-CNN fine`: Cityscapes from ImageNet's weights (R50-FPN, val).

Claim: COCO pre-training helps on Cityscapes: this is the model without. Appendix A: 8 images,
24k iterations, learning rate 0.01, divided by 10 at 18k.
"""

from ..common.data.cityscapes import dataloader
from ..common.models.mask_rcnn_fpn import model
from ..common.optim import optimizer
from ..common.schedules import lr_multiplier_24k as lr_multiplier
from ..common.train import train

model.roi_heads.num_classes = 8
optimizer.lr = 0.01
train.max_iter = 24_000
train.reference_batch_size = 8
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
train.proposals = "rpn/r50_fpn_cityscapes"

paper = dict(table="7", row="Mask R-CNN fine")
