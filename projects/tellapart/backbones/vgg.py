"""Dilated VGG-16 (InstanceFCN, section 4): conv5 has stride 8 instead of 16, with an unchanged receptive field."""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, FrozenBatchNorm2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError

_CHANNELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_STRIDES = {"conv1": 1, "conv2": 2, "conv3": 4, "conv4": 8, "conv5": 8}


class DilatedVGG16(Backbone):
    """The 13 convolutions of VGG-16, with stride 1 in ``pool4`` and dilation 2 in ``conv5_1`` to ``conv5_3``.

    The feature maps ``conv1`` to ``conv5`` are the outputs of the last ReLU of each stage, with strides 1, 2, 4, 8, 8.
    Images can have any size. The parameters are ``conv{stage}_{i}.weight``, ``.bias`` and, with a norm, ``.norm.*``.

    Args:
        in_channels: number of channels of the image.
        out_features: names of the feature maps to return.
        norm: "" for VGG-16; "BN", "FrozenBN", ... for VGG-16-BN, see Detectron2's ``get_norm``.
        freeze_at: number of stages whose parameters and batch-norm statistics are not trained. 2 freezes conv1 and
            conv2.
        width: factor on VGG's numbers of channels, for tests and small experiments.

    Raises:
        InputError: ``out_features`` is empty or has an unknown name.
    """

    def __init__(
        self, in_channels: int, out_features: list[str], norm: str = "", freeze_at: int = 0, width: float = 1.0
    ) -> None:
        super().__init__()
        unknown = [name for name in out_features if name not in _STRIDES]
        if unknown or not out_features:
            raise InputError(f"MODEL.VGG.OUT_FEATURES is {out_features}, expected one or more of {list(_STRIDES)}")
        self._out_features = list(out_features)
        self._out_feature_strides = {name: _STRIDES[name] for name in out_features}
        self._out_feature_channels = {}
        self._num_stages = max(int(name[-1]) for name in out_features)
        channels = in_channels
        for stage, widths in enumerate(_CHANNELS[: self._num_stages], start=1):
            dilation = 2 if stage == 5 else 1
            for i, out_channels in enumerate(widths, start=1):
                out_channels = max(1, round(out_channels * width))
                norm_layer = get_norm(norm, out_channels)
                # a bias before a norm has no effect, but torchvision's VGG-16-BN has it in its checkpoints
                conv = Conv2d(channels, out_channels, 3, padding=dilation, dilation=dilation, norm=norm_layer)
                weight_init.c2_msra_fill(conv)
                if stage <= freeze_at:
                    conv = FrozenBatchNorm2d.convert_frozen_batchnorm(conv.requires_grad_(False))
                self.add_module(f"conv{stage}_{i}", conv)
                channels = out_channels
            if f"conv{stage}" in out_features:
                self._out_feature_channels[f"conv{stage}"] = channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the feature maps by name, (N, Ci, ceil(H / stride), ceil(W / stride)), of images (N, C, H, W)."""
        features = {}
        for stage, widths in enumerate(_CHANNELS[: self._num_stages], start=1):
            if stage == 5:  # pool4 with stride 1; the padding keeps the size
                x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), kernel_size=2, stride=1)
            elif stage > 1:
                x = F.max_pool2d(x, kernel_size=2, stride=2, ceil_mode=True)
            for i in range(1, len(widths) + 1):
                x = F.relu(getattr(self, f"conv{stage}_{i}")(x))
            if f"conv{stage}" in self._out_features:
                features[f"conv{stage}"] = x
        return features


@BACKBONE_REGISTRY.register()
def build_dilated_vgg16_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DilatedVGG16:
    """Build the backbone from ``cfg.MODEL.VGG`` and ``cfg.MODEL.BACKBONE.FREEZE_AT``."""
    options = cfg.MODEL.VGG
    return DilatedVGG16(input_shape.channels, options.OUT_FEATURES, options.NORM, cfg.MODEL.BACKBONE.FREEZE_AT)


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of torchvision's ``vgg16`` or ``vgg16_bn`` to the names of :class:`DilatedVGG16`.

    The classifier is left out. The weights need RGB images, ``INPUT.FORMAT RGB``, and torchvision's normalization: mean
    (0.485, 0.456, 0.406) and standard deviation (0.229, 0.224, 0.225), times 255 in ``PIXEL_MEAN`` and ``PIXEL_STD``.

    Args:
        state: the state dict of torchvision's ``vgg16`` or ``vgg16_bn``.

    Returns:
        The same tensors by the names ``backbone.conv{stage}_{i}...``, as in a detector's checkpoint.

    Raises:
        InputError: a tensor is missing; the message names it.
    """
    has_norm = "features.1.running_mean" in state
    converted, layer = {}, 0
    names_by_layer = {"": ("weight", "bias")}
    if has_norm:
        names_by_layer["norm."] = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    for stage, widths in enumerate(_CHANNELS, start=1):
        for i in range(1, len(widths) + 1):
            for step, (prefix, names) in enumerate(names_by_layer.items()):
                for name in names:
                    source = f"features.{layer + step}.{name}"
                    if source not in state:
                        raise InputError(
                            f"no tensor {source}, expected the state dict of torchvision's vgg16 or vgg16_bn"
                        )
                    converted[f"backbone.conv{stage}_{i}.{prefix}{name}"] = torch.as_tensor(state[source])
            layer += len(names_by_layer) + 1  # the convolution, its norm and the ReLU
        layer += 1  # the pooling layer
    return converted
