"""This project's keys for Detectron2's yacs configs, which build models by name."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_mask_rcnn_repro_config(cfg: CfgNode) -> None:
    """Adds this project's keys. Detectron2's keys and values do not change.

    Call :func:`mask_rcnn_repro.register` too, then choose by name: ``MODEL.BACKBONE.NAME``
    (``build_mask_rcnn_repro_resnet_backbone``, ``build_mask_rcnn_repro_resnet_fpn_backbone``),
    ``MODEL.RPN.HEAD_NAME`` (``PaperRPNHead``), ``MODEL.ROI_HEADS.NAME`` (``PaperRes5ROIHeads``,
    ``PaperStandardROIHeads``), ``MODEL.ROI_BOX_HEAD.NAME`` (``FCBoxHead``),
    ``MODEL.ROI_MASK_HEAD.NAME`` (``FCNMaskHead``, ``MLPMaskHead``),
    ``MODEL.ROI_KEYPOINT_HEAD.NAME`` (``KeypointHead``). The paper's values differ from Detectron2's
    defaults in many places (docs/deviations.md). They are in the LazyConfig files; set them by hand
    here.

    Args:
        cfg: Changed in place.
    """
    # Scales every channel count of the backbone; in ResNeXt the number of groups, not their width.
    cfg.MODEL.RESNETS.WIDTH_MULTIPLIER = 1.0
    # Stages with a non-local block before their last residual block, such as ["res4"].
    cfg.MODEL.RESNETS.NON_LOCAL = []
    # PaperRes5ROIHeads: side of the pooled RoI, and stride of stage 5's first block on it. The
    # paper's 7 and 1; Detectron2's are 14 and 2. ROI_BOX_HEAD.POOLER_RESOLUTION is not read there.
    cfg.MODEL.ROI_BOX_HEAD.RES5_RESOLUTION = 7
    cfg.MODEL.ROI_BOX_HEAD.RES5_STRIDE = 1
    # FCNMaskHead, MLPMaskHead: a name of mask_rcnn_repro.modeling.MASK_LOSS_REGISTRY. It decides
    # over class-agnostic masks too; CLS_AGNOSTIC_MASK=True beside another loss is an error.
    cfg.MODEL.ROI_MASK_HEAD.LOSS = "PerClassSigmoidMaskLoss"
    # MLPMaskHead: hidden layers, units of each, side of the masks. The paper's values.
    cfg.MODEL.ROI_MASK_HEAD.NUM_FC = 2
    cfg.MODEL.ROI_MASK_HEAD.FC_DIM = 1024
    cfg.MODEL.ROI_MASK_HEAD.OUTPUT_SIZE = 28
