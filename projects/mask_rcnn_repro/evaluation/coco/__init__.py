"""Box, mask and keypoint metrics of COCO."""
