"""Mask R-CNN on stage 5 of a ResNet (stride 32), with the branches of the FPN model (table 2d).

The paper gives the stride and the head's kind; what it leaves open is marked "ours" and listed in
docs/deviations.md. Detectron2 has C5 only dilated, at stride 16. A row changes the network by
`model.backbone.depth` (18, 34, 50, 101, 152), `.num_groups`, `.width_per_group`.

All sizes that follow from others are interpolated, so these few keys narrow the model:

| below `model.` | full |
|---|---|
| backbone.width_multiplier | 1.0; all ResNet channels, RPN, inputs of the branches |
| roi_heads.box_head.fc_dim | 1024 |
| roi_heads.mask_head.conv_dim | 256 |

and these fit it to small images and random weights:

| below `model.` | full |
|---|---|
| proposal_generator.anchor_generator.sizes | [[32, 64, 128, 256, 512]] |
| proposal_generator.batch_size_per_image | 256 |
| proposal_generator.{pre,post}_nms_topk | [12000, 6000], [2000, 1000] |
| roi_heads.batch_size_per_image | 512 |
| backbone.{norm,freeze_at} | FrozenBN, 2 |
| roi_heads.mask_head.conv_norm | "" |
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.proposal_generator import RPN

from mask_rcnn_repro.modeling import (
    BoxPredictor,
    FCBoxHead,
    FCNMaskHead,
    PaperRPNHead,
    PaperStandardROIHeads,
    PerClassSigmoidMaskLoss,
    RoIPooler,
    build_resnet,
    resnet_channels,
)

model = L(GeneralizedRCNN)(
    backbone=L(build_resnet)(
        depth=50,
        stem_out_channels=64,
        res2_out_channels=None,  # 256, or 64 for depth 18 and 34
        num_groups=1,
        width_per_group=64,
        width_multiplier=1.0,
        norm="FrozenBN",
        stride_in_1x1=True,  # as in the MSRA weights
        out_features=["res5"],
        freeze_at=2,
    ),
    proposal_generator=L(RPN)(
        in_features=["res5"],
        head=L(PaperRPNHead)(
            in_channels=L(resnet_channels)(
                stage=5,
                depth="${....backbone.depth}",
                res2_out_channels="${....backbone.res2_out_channels}",
                width_multiplier="${....backbone.width_multiplier}",
            ),
            anchor_sizes="${..anchor_generator.sizes}",
            aspect_ratios="${..anchor_generator.aspect_ratios}",
        ),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[32, 64, 128, 256, 512]],  # ours for C5: as on C4
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[32],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(
            thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=[12000, 6000],
        post_nms_topk=[2000, 1000],  # ours for C5: the light head's 1000 at test, as with FPN
        nms_thresh=0.7,
        smooth_l1_beta=1 / 9,  # Faster R-CNN's; Detectron2 has plain L1
    ),
    roi_heads=L(PaperStandardROIHeads)(
        num_classes=80,
        batch_size_per_image=512,  # ours for C5: as with FPN, whose head it has
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(
            thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
        ),
        box_in_features=["res5"],
        box_pooler=L(RoIPooler)(
            output_size=7,
            scales=[1 / 32],
            sampling_ratio=2,  # four samples a bin (section 3); Detectron2's number adapts
            pooler_type="ROIAlign",  # unshifted; Detectron2's ROIAlignV2 moves by half a cell
        ),
        box_head=L(FCBoxHead)(
            input_shape=L(ShapeSpec)(
                # Ours for C5: all 2048 channels, not reduced before pooling.
                channels=L(resnet_channels)(
                    stage=5,
                    depth="${.....backbone.depth}",
                    res2_out_channels="${.....backbone.res2_out_channels}",
                    width_multiplier="${.....backbone.width_multiplier}",
                ),
                height="${...box_pooler.output_size}",
                width="${...box_pooler.output_size}",
            ),
            num_fc=2,
            fc_dim=1024,
        ),
        box_predictor=L(BoxPredictor)(
            input_shape=L(ShapeSpec)(channels="${...box_head.fc_dim}"),
            num_classes="${..num_classes}",
            box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
            smooth_l1_beta=1.0,  # Fast R-CNN's; Detectron2 has plain L1
            test_score_thresh=0.05,
            test_nms_thresh=0.3,  # the original default; Detectron2 has 0.5
            test_topk_per_image=100,
        ),
        mask_in_features="${.box_in_features}",
        mask_pooler=L(RoIPooler)(
            output_size=14,
            scales="${..box_pooler.scales}",
            sampling_ratio="${..box_pooler.sampling_ratio}",
            pooler_type="${..box_pooler.pooler_type}",
        ),
        mask_head=L(FCNMaskHead)(
            input_shape=L(ShapeSpec)(
                channels="${...box_head.input_shape.channels}",
                height="${...mask_pooler.output_size}",
                width="${...mask_pooler.output_size}",
            ),
            num_classes="${..num_classes}",
            loss=L(PerClassSigmoidMaskLoss)(),
            num_conv=4,
            conv_dim=256,
            conv_norm="",
            predictor_init="msra",  # Detectron's; Detectron2 draws with deviation 0.001
        ),
    ),
    # ImageNet's mean in BGR. The deviation is 1: the MSRA weights have it in their first layer.
    pixel_mean=[103.53, 116.28, 123.675],
    pixel_std=[1.0, 1.0, 1.0],
    input_format="BGR",
)
