"""Mask R-CNN on a feature pyramid: ResNet or ResNeXt, box branch of two fc layers, FCN mask branch.

The paper's values (sections 3 and 3.1, figure 4 right); differences from Detectron2 are commented
where they stand and listed in docs/deviations.md. A row changes the network by
`model.backbone.bottom_up.depth` (18, 34, 50, 101, 152), `.num_groups` and `.width_per_group`.

All sizes that follow from others are interpolated, so these few keys narrow the model:

| below `model.` | full |
|---|---|
| backbone.bottom_up.width_multiplier | 1.0; all ResNet channels (64, 256, 512, 1024, 2048) |
| backbone.out_channels | 256; pyramid, RPN, inputs of the branches |
| roi_heads.box_head.fc_dim | 1024 |
| roi_heads.mask_head.conv_dim | 256 |

and these fit it to small images and random weights:

| below `model.` | full |
|---|---|
| proposal_generator.anchor_generator.sizes | [[32], [64], [128], [256], [512]] |
| roi_heads.box_pooler.canonical_box_size | 224; the mask pooler follows |
| proposal_generator.batch_size_per_image | 256 |
| proposal_generator.{pre,post}_nms_topk | [2000, 1000] a level, [2000, 1000] an image |
| roi_heads.batch_size_per_image | 512 |
| backbone.bottom_up.{norm,freeze_at} | FrozenBN, 2 |
| backbone.norm, roi_heads.mask_head.conv_norm | "" |
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
    build_fpn,
    build_resnet,
)

model = L(GeneralizedRCNN)(
    backbone=L(build_fpn)(
        bottom_up=L(build_resnet)(
            depth=50,
            stem_out_channels=64,
            res2_out_channels=None,  # 256, or 64 for depth 18 and 34
            num_groups=1,
            width_per_group=64,
            width_multiplier=1.0,
            norm="FrozenBN",
            stride_in_1x1=True,  # as in the MSRA weights; the ResNeXt weights want False
            out_features=["res2", "res3", "res4", "res5"],
            freeze_at=2,
        ),
        in_features="${.bottom_up.out_features}",
        out_channels=256,
        norm="",
    ),
    proposal_generator=L(RPN)(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        head=L(PaperRPNHead)(
            in_channels="${...backbone.out_channels}",
            anchor_sizes="${..anchor_generator.sizes}",
            aspect_ratios="${..anchor_generator.aspect_ratios}",
            num_levels=5,
        ),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[32], [64], [128], [256], [512]],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(
            thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        # Before NMS for each level, after it for each image. 2000 in training as in the FPN paper
        # (Detectron2: 1000); 1000 at test (section 3.1).
        pre_nms_topk=[2000, 1000],
        post_nms_topk=[2000, 1000],
        nms_thresh=0.7,
        smooth_l1_beta=1 / 9,  # Faster R-CNN's; Detectron2 has plain L1
    ),
    roi_heads=L(PaperStandardROIHeads)(
        num_classes=80,
        batch_size_per_image=512,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(
            thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
        ),
        box_in_features=["p2", "p3", "p4", "p5"],
        box_pooler=L(RoIPooler)(
            output_size=7,
            scales=[1 / 4, 1 / 8, 1 / 16, 1 / 32],
            sampling_ratio=2,  # four samples a bin (section 3); Detectron2's number adapts
            pooler_type="ROIAlign",  # unshifted; Detectron2's ROIAlignV2 moves by half a cell
            canonical_box_size=224,
        ),
        box_head=L(FCBoxHead)(
            input_shape=L(ShapeSpec)(
                channels="${....backbone.out_channels}",
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
            test_nms_thresh=0.3,  # the original default; 0.5 from the updated baseline (table 8) on
            test_topk_per_image=100,
        ),
        mask_in_features="${.box_in_features}",
        mask_pooler=L(RoIPooler)(
            output_size=14,
            scales="${..box_pooler.scales}",
            sampling_ratio="${..box_pooler.sampling_ratio}",
            pooler_type="${..box_pooler.pooler_type}",
            canonical_box_size="${..box_pooler.canonical_box_size}",
        ),
        mask_head=L(FCNMaskHead)(
            input_shape=L(ShapeSpec)(
                channels="${....backbone.out_channels}",
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
