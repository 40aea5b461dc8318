"""RoI heads: what happens to each region after it has been proposed."""

from mask_rcnn_repro.modeling.roi_heads.res5 import PaperRes5ROIHeads
from mask_rcnn_repro.modeling.roi_heads.standard import PaperStandardROIHeads

__all__ = ["PaperRes5ROIHeads", "PaperStandardROIHeads"]
