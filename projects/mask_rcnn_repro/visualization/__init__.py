"""Drawing predictions beside ground truth."""

from mask_rcnn_repro.visualization.draw import draw_results

__all__ = ["draw_results"]
