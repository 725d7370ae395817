"""RoI heads: predictions per region."""
# ruff: noqa: F401, I001 (re-exports, several per line)

from .box_head import ROI_BOX_HEAD_REGISTRY, FastRCNNConvFCHead, build_box_head
from .fast_rcnn import FastRCNNOutputLayers
from .mask_head import ROI_MASK_HEAD_REGISTRY, BaseMaskRCNNHead, MaskRCNNConvUpsampleHead, build_mask_head
from .roi_heads import ROI_HEADS_REGISTRY, ROIHeads, StandardROIHeads
from .roi_heads import build_roi_heads, select_foreground_proposals
