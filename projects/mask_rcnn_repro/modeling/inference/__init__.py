"""Models at test: conversion to a faster model, and test-time augmentation.

| file | what it holds |
|---|---|
| optimize.py | `optimize_for_inference`: which modules are replaced by which |
| fused_layers.py | convolution and linear layer with norm, addition and ReLU fused |
| fused_blocks.py | stem, residual block, FPN and RPN head made of them |
| fused_mask_heads.py | mask heads that compute only the predicted class's mask |
| test_time_augmentation.py | several sizes and mirrored views of an image, merged (appendix B) |
| tta_views.py | the views: images and boxes to and from them |
| keypoint_decoding.py | keypoints from heatmaps, many persons at a time |
"""
