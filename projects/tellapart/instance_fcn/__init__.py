"""InstanceFCN: instance-sensitive fully convolutional networks (Dai et al., ECCV 2016, arXiv 1603.08678)."""

from .classifier import MaskPooledROIHeads, PassThroughROIHeads
from .heads import WINDOW_MASK_HEAD_REGISTRY, DeepMaskHead, InstanceSensitiveHead
from .instance_fcn import InstanceFCN
from .proposals import InstanceFCNProposals

__all__ = [
    "WINDOW_MASK_HEAD_REGISTRY", "DeepMaskHead", "InstanceFCN", "InstanceFCNProposals", "InstanceSensitiveHead",
    "MaskPooledROIHeads", "PassThroughROIHeads",
]  # fmt: skip
