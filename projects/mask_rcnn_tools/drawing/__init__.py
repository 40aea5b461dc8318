"""Drawing of masks, boxes, keypoints and labels on images, and contact sheets."""
