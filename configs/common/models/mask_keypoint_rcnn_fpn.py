"""Mask R-CNN for persons on a feature pyramid: box, mask and keypoint branch (section 5).

`mask_rcnn_fpn.py` with one class, NMS at 0.5 and a keypoint branch beside the mask branch: eight
3x3 convolutions of 512 channels on 14x14 RoI features, deconvolution to 28x28, bilinear upscaling
to 56x56. Keys that narrow the branch, beside those of `mask_rcnn_fpn.py`:

| below `model.` | full |
|---|---|
| roi_heads.keypoint_head.conv_dim | 512 |

`roi_heads.keypoint_head.num_keypoints` follows the training data where these bring other keypoints
than COCO's 17 (docs/keypoints.md).
"""

from .keypoint_branch import keypoint_branch
from .mask_rcnn_fpn import model

model.roi_heads.merge_with(keypoint_branch)
model.roi_heads.num_classes = 1  # person; the mask branch, too, is for this class only
model.roi_heads.box_predictor.test_nms_thresh = 0.5  # in the keypoint experiments
