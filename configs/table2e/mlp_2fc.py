"""Table 2e, row `MLP 1024-1024`: two hidden fc layers predict the 28x28 masks (R50-FPN, minival).

Claim: FCN mask branch beats MLP. The input is not in the paper; ours is the FCN's RoI of 14x14.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from mask_rcnn_repro.modeling import MLPMaskHead, PerClassSigmoidMaskLoss

from ..table2a.r50_fpn import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.mask_head = L(MLPMaskHead)(
    input_shape=L(ShapeSpec)(
        channels="${....backbone.out_channels}",
        height="${...mask_pooler.output_size}",
        width="${...mask_pooler.output_size}",
    ),
    num_classes="${..num_classes}",
    loss=L(PerClassSigmoidMaskLoss)(),
    num_fc=2,
    fc_dim=1024,
    output_size=28,
)

paper = dict(table="2e", row="MLP 1024-1024", control="table2e/fcn")
