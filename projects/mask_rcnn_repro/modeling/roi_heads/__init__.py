"""RoI heads: box, mask and keypoint branches on each proposal (figure 4)."""

from mask_rcnn_repro.modeling.roi_heads.res5 import PaperRes5ROIHeads
from mask_rcnn_repro.modeling.roi_heads.standard import PaperStandardROIHeads

__all__ = ["PaperRes5ROIHeads", "PaperStandardROIHeads"]
