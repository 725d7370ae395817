"""VGG-16 with holes (InstanceFCN, section 4): conv5 keeps the stride of 8 and sees as far as before."""

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
    """The 13 convolutions of VGG-16; ``pool4`` has stride 1, ``conv5_1`` to ``conv5_3`` are dilated by 2.

    Feature maps ``conv1`` to ``conv5`` (after the last ReLU of each stage), strides 1, 2, 4, 8, 8. Any image size.
    Parameters are ``conv{stage}_{i}.weight``, ``.bias`` and, with a norm, ``.norm.*``.

    Args:
        in_channels: of the image.
        out_features: names of the feature maps to return.
        norm: "" (VGG-16), or "BN", "FrozenBN", ... (VGG-16-BN), as Detectron2's ``get_norm``.
        freeze_at: stages whose parameters and batch-norm statistics stay as they are: 2 freezes conv1 and conv2.
        width: channels, relative to VGG's; for tests and small experiments.
    """

    def __init__(
        self, in_channels: int, out_features: list[str], norm: str = "", freeze_at: int = 0, width: float = 1.0
    ) -> None:
        super().__init__()
        unknown = [name for name in out_features if name not in _STRIDES]
        if unknown or not out_features:
            raise InputError(f"MODEL.VGG.OUT_FEATURES is {out_features}, wanted some of {list(_STRIDES)}")
        self._out_features = list(out_features)
        self._out_feature_strides = {name: _STRIDES[name] for name in out_features}
        self._out_feature_channels = {}
        self._last = max(int(name[-1]) for name in out_features)
        channels = in_channels
        for stage, widths in enumerate(_CHANNELS[: self._last], start=1):
            dilation = 2 if stage == 5 else 1
            for i, out_channels in enumerate(widths, start=1):
                out_channels = max(1, round(out_channels * width))
                made = get_norm(norm, out_channels)
                # a bias before a norm changes nothing, but torchvision's VGG-16-BN has it
                conv = Conv2d(channels, out_channels, 3, padding=dilation, dilation=dilation, norm=made)
                weight_init.c2_msra_fill(conv)
                if stage <= freeze_at:
                    conv = FrozenBatchNorm2d.convert_frozen_batchnorm(conv.requires_grad_(False))
                self.add_module(f"conv{stage}_{i}", conv)
                channels = out_channels
            if f"conv{stage}" in out_features:
                self._out_feature_channels[f"conv{stage}"] = channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images (N, C, H, W) to feature maps (N, Ci, ceil(H / stride), ceil(W / stride)) by name."""
        features = {}
        for stage, widths in enumerate(_CHANNELS[: self._last], start=1):
            if stage == 5:  # pool4: stride 1, size kept
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
    """The backbone that ``cfg.MODEL.VGG`` and ``cfg.MODEL.BACKBONE.FREEZE_AT`` describe."""
    options = cfg.MODEL.VGG
    return DilatedVGG16(input_shape.channels, options.OUT_FEATURES, options.NORM, cfg.MODEL.BACKBONE.FREEZE_AT)


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of torchvision's ``vgg16`` or ``vgg16_bn`` by the names that they have here.

    torchvision numbers the layers of its ``features``; its classifier is left out. It sees RGB images in [0, 1] with
    mean (0.485, 0.456, 0.406) and deviation (0.229, 0.224, 0.225): ``INPUT.FORMAT RGB``, ``PIXEL_MEAN`` and
    ``PIXEL_STD`` 255 times these.

    Args:
        state: ``torchvision.models.vgg16(...).state_dict()``, or that of ``vgg16_bn``.

    Returns:
        ``backbone.conv{stage}_{i}...`` and the same tensors.

    Raises:
        InputError: names the tensor that is missing.
    """
    has_norm = "features.1.running_mean" in state
    converted, layer = {}, 0
    parts = {"": ("weight", "bias")}
    if has_norm:
        parts["norm."] = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    for stage, widths in enumerate(_CHANNELS, start=1):
        for i in range(1, len(widths) + 1):
            for step, (prefix, names) in enumerate(parts.items()):
                for name in names:
                    source = f"features.{layer + step}.{name}"
                    if source not in state:
                        raise InputError(f"no tensor {source}: these are not torchvision's VGG-16 weights")
                    converted[f"backbone.conv{stage}_{i}.{prefix}{name}"] = torch.as_tensor(state[source])
            layer += len(parts) + 1  # the ReLU
        layer += 1  # the pooling
    return converted
