"""Mask R-CNN on stage 4 of a ResNet (stride 16), stage 5 as the head of every RoI.

The paper's values (sections 3 and 3.1, figure 4 left); differences from Detectron2 are commented
where they stand and listed in docs/deviations.md. A row changes the network by
`model.backbone.depth` (50, 101, 152; 18 and 34 build too), `.num_groups`, `.width_per_group`.

All sizes that follow from others are interpolated, so these few keys narrow the model:

| below `model.` | full |
|---|---|
| backbone.width_multiplier | 1.0; all ResNet channels, RPN, the res5 head |
| roi_heads.mask_head.conv_dim | 256; the deconvolution |

and these fit it to small images and random weights:

| below `model.` | full |
|---|---|
| proposal_generator.anchor_generator.sizes | [[32, 64, 128, 256, 512]] |
| proposal_generator.batch_size_per_image | 256 |
| proposal_generator.{pre,post}_nms_topk | [12000, 6000], [2000, 300] |
| roi_heads.batch_size_per_image | 64 |
| backbone.{norm,freeze_at} | FrozenBN, 2; the res5 head has the same norm |
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
    FCNMaskHead,
    PaperRes5ROIHeads,
    PaperRPNHead,
    PerClassSigmoidMaskLoss,
    RoIPooler,
    build_res5,
    build_resnet,
    res5_shape,
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
        out_features=["res4"],
        freeze_at=2,
    ),
    proposal_generator=L(RPN)(
        in_features=["res4"],
        head=L(PaperRPNHead)(
            in_channels=L(resnet_channels)(
                stage=4,
                depth="${....backbone.depth}",
                res2_out_channels="${....backbone.res2_out_channels}",
                width_multiplier="${....backbone.width_multiplier}",
            ),
            anchor_sizes="${..anchor_generator.sizes}",
            aspect_ratios="${..anchor_generator.aspect_ratios}",
        ),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[32, 64, 128, 256, 512]],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[16],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(
            thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=[12000, 6000],
        post_nms_topk=[2000, 300],  # 300 at test (section 3.1); Detectron2 has 1000
        nms_thresh=0.7,
        smooth_l1_beta=1 / 9,  # Faster R-CNN's; Detectron2 has plain L1
    ),
    roi_heads=L(PaperRes5ROIHeads)(
        num_classes=80,
        batch_size_per_image=64,  # section 3.1; Detectron2 has 512
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(
            thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
        ),
        in_features=["res4"],
        pooler=L(RoIPooler)(
            output_size=7,  # figure 4; Detectron2 pools 14x14 and strides by 2 in res5
            scales=[1 / 16],
            sampling_ratio=2,  # four samples a bin (section 3); Detectron2's number adapts
            pooler_type="ROIAlign",  # unshifted; Detectron2's ROIAlignV2 moves by half a cell
        ),
        res5=L(build_res5)(
            depth="${...backbone.depth}",
            res2_out_channels="${...backbone.res2_out_channels}",
            num_groups="${...backbone.num_groups}",
            width_per_group="${...backbone.width_per_group}",
            width_multiplier="${...backbone.width_multiplier}",
            norm="${...backbone.norm}",
            stride_in_1x1="${...backbone.stride_in_1x1}",
            first_stride=1,  # section 3, caption of figure 4
        ),
        box_predictor=L(BoxPredictor)(
            input_shape=L(ShapeSpec)(
                channels=L(resnet_channels)(
                    stage=5,
                    depth="${.....backbone.depth}",
                    res2_out_channels="${.....backbone.res2_out_channels}",
                    width_multiplier="${.....backbone.width_multiplier}",
                )
            ),
            num_classes="${..num_classes}",
            box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
            smooth_l1_beta=1.0,  # Fast R-CNN's; Detectron2 has plain L1
            test_score_thresh=0.05,
            test_nms_thresh=0.3,  # the original default; Detectron2 has 0.5
            test_topk_per_image=100,
        ),
        mask_head=L(FCNMaskHead)(
            input_shape=L(res5_shape)(
                depth="${....backbone.depth}",
                resolution="${...pooler.output_size}",
                first_stride="${...res5.first_stride}",
                res2_out_channels="${....backbone.res2_out_channels}",
                width_multiplier="${....backbone.width_multiplier}",
            ),
            num_classes="${..num_classes}",
            loss=L(PerClassSigmoidMaskLoss)(),
            num_conv=0,
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
