"""The keypoint branch of section 5, for the `roi_heads` of an FPN model.

Pools as the box branch does, at 14x14. The loss is averaged over the visible keypoints of the
batch, as in Detectron; the paper does not say.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from mask_rcnn_repro.modeling import KeypointHead, RoIPooler

keypoint_branch = dict(
    keypoint_in_features="${.box_in_features}",
    keypoint_pooler=L(RoIPooler)(
        output_size=14,
        scales="${..box_pooler.scales}",
        sampling_ratio="${..box_pooler.sampling_ratio}",
        pooler_type="${..box_pooler.pooler_type}",
        canonical_box_size="${..box_pooler.canonical_box_size}",
    ),
    keypoint_head=L(KeypointHead)(
        input_shape=L(ShapeSpec)(
            channels="${....backbone.out_channels}",
            height="${...keypoint_pooler.output_size}",
            width="${...keypoint_pooler.output_size}",
        ),
        num_keypoints=17,
        num_conv=8,
        conv_dim=512,
        loss_normalizer="visible",
    ),
)
