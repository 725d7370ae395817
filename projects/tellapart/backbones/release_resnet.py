"""The ResNet of the authors' FCIS code: Detectron2's, but with another max pooling in the stem."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_resnet_backbone
from detectron2.modeling.backbone import ResNet
from torch import Tensor
from torch.nn import functional as F


class UnpaddedPoolStem(CNNBlockBase):
    """A 7x7 convolution and a max pooling of kernel 3 and stride 2 without padding, in ceil mode; stride 4 in total.

    This is the stem of the first ResNets (Caffe), of MSRA's weights and of the FCIS release. Detectron2's stem pads the
    pooling by one pixel instead, which moves all features by two image pixels.

    Args:
        conv1: the convolution of the stem that it replaces, with its norm.
    """

    def __init__(self, conv1: Conv2d) -> None:
        super().__init__(conv1.in_channels, conv1.out_channels, 4)
        self.conv1 = conv1

    def forward(self, x: Tensor) -> Tensor:
        """Compute (N, out_channels, h, w) from images (N, in_channels, H, W): h = floor(ceil(H / 2) / 2)."""
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, ceil_mode=True)


@BACKBONE_REGISTRY.register()
def build_fcis_release_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build Detectron2's ResNet of ``cfg.MODEL.RESNETS`` with an :class:`UnpaddedPoolStem`; all names stay the same."""
    backbone = build_resnet_backbone(cfg, input_shape)
    backbone.stem = UnpaddedPoolStem(backbone.stem.conv1)
    return backbone
