"""ResNet-50 as a classifier of images, at an eighth of its width, which the rows have at `mini`.

Batch norm is trained. Its statistics become those of the rows' frozen norms.
"""

from detectron2.config import LazyCall as L

from mask_rcnn_repro.modeling import ImageClassifier, build_resnet

model = L(ImageClassifier)(
    backbone=L(build_resnet)(
        depth=50,
        out_features=["linear"],
        num_classes=30,
        width_multiplier=0.125,
        norm="BN",
        stride_in_1x1=True,  # as in the paper's ResNet-50 and 101
        freeze_at=0,
    ),
    pixel_mean=[103.530, 116.280, 123.675],
    pixel_std=[57.375, 57.12, 58.395],
)
