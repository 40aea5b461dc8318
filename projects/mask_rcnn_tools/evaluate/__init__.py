"""COCO metrics of result files, with intervals over test images."""
