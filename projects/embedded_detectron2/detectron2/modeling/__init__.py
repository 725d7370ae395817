"""Models: backbones, proposal generators, RoI heads, and meta-architectures that consist of them."""
# ruff: noqa: F401, I001 (re-exports, several per line)

from .anchor_generator import ANCHOR_GENERATOR_REGISTRY, build_anchor_generator
from .backbone import BACKBONE_REGISTRY, Backbone, FPN, ResNet, build_backbone
from .backbone import build_resnet_backbone
from .meta_arch import META_ARCH_REGISTRY, GeneralizedRCNN, build_model
from .postprocessing import detector_postprocess
from .proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN_HEAD_REGISTRY, build_proposal_generator, build_rpn_head
from .roi_heads import ROI_BOX_HEAD_REGISTRY, ROI_HEADS_REGISTRY, ROI_MASK_HEAD_REGISTRY
from .roi_heads import BaseMaskRCNNHead, FastRCNNOutputLayers, ROIHeads, StandardROIHeads
from .roi_heads import build_box_head, build_mask_head, build_roi_heads
