"""ResNet (He et al., 2016) and ResNeXt, optionally with a dilated last stage (DC5)."""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch
from torch import nn
from torch.nn import functional as F

from detectron2._missing import not_included
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm

from .backbone import Backbone
from .build import BACKBONE_REGISTRY

_NUM_BLOCKS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}


def _conv(in_channels: int, out_channels: int, size: int, norm, stride=1, dilation=1, groups=1) -> Conv2d:
    """Return a convolution without bias and with a norm. At stride 1 it keeps height and width."""
    padding = dilation * (size // 2)
    norm = get_norm(norm, out_channels)
    return Conv2d(in_channels, out_channels, size, stride, padding, dilation, groups, bias=False, norm=norm)


class _ResidualBlock(CNNBlockBase):
    """Add the input, projected if the number of channels changes, to the output of convolutions."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm, convs) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = _conv(in_channels, out_channels, 1, norm, stride)
        for i, arguments in enumerate(convs, start=1):
            self.add_module(f"conv{i}", _conv(*arguments))
        self._num_convs = len(convs)
        for layer in [*self._convs(), self.shortcut]:
            if layer is not None:
                weight_init.c2_msra_fill(layer)

    def _convs(self) -> list[Conv2d]:
        return [getattr(self, f"conv{i}") for i in range(1, self._num_convs + 1)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute (N, out_channels, H / stride, W / stride) from (N, in_channels, H, W)."""
        *convs, last = self._convs()
        out = x
        for conv in convs:
            out = F.relu_(conv(out))
        return F.relu_(last(out) + (x if self.shortcut is None else self.shortcut(x)))


class BasicBlock(_ResidualBlock):
    """The block of ResNet-18 and 34: two 3x3 convolutions."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, norm="BN") -> None:
        convs = [(in_channels, out_channels, 3, norm, stride), (out_channels, out_channels, 3, norm)]
        super().__init__(in_channels, out_channels, stride, norm, convs)


class BottleneckBlock(_ResidualBlock):
    """The block of ResNet-50 and deeper: a 3x3 convolution between two 1x1 convolutions.

    Args:
        in_channels, out_channels: channels of input and output.
        bottleneck_channels: channels of the 3x3 convolution.
        stride: stride of the 3x3 convolution, or of the first 1x1 convolution if ``stride_in_1x1``.
        num_groups: groups of the 3x3 convolution. More than 1 for ResNeXt.
        norm: see ``get_norm``.
        stride_in_1x1: see ``stride``.
        dilation: dilation of the 3x3 convolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, bottleneck_channels: int, stride: int = 1, num_groups: int = 1,
        norm="BN", stride_in_1x1: bool = False, dilation: int = 1,
    ) -> None:  # fmt: skip
        width = bottleneck_channels
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        convs = [
            (in_channels, width, 1, norm, stride_1x1),
            (width, width, 3, norm, stride_3x3, dilation, num_groups),
            (width, out_channels, 1, norm),
        ]
        super().__init__(in_channels, out_channels, stride, norm, convs)


class BasicStem(CNNBlockBase):
    """The first layers: a 7x7 convolution and max pooling, with a total stride of 4."""

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm="BN") -> None:
        super().__init__(in_channels, out_channels, 4)
        self.conv1 = _conv(in_channels, out_channels, 7, norm, stride=2)
        weight_init.c2_msra_fill(self.conv1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute (N, out_channels, H / 4, W / 4) from images (N, in_channels, H, W)."""
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, padding=1)


class ResNet(Backbone):
    """A stem and stages ``res2``, ``res3``, ...

    Args:
        stem: a block.
        stages: each a list of blocks. Stages after the last one in ``out_features`` are not kept.
        num_classes: must be None, because the classifier is not included.
        out_features: which of ``stem``, ``res2``, ``res3``, ... to return. By default the last stage.
        freeze_at: see ``freeze``.
    """

    def __init__(
        self, stem: nn.Module, stages: list[list[CNNBlockBase]], num_classes: int | None = None,
        out_features: list[str] | None = None, freeze_at: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stem = stem
        if num_classes is not None:
            raise not_included(f"ResNet with a classifier (num_classes={num_classes})")
        names = [f"res{i}" for i in range(2, len(stages) + 2)]
        if out_features is None:
            out_features = names[-1:]
        names = names[: max((names.index(f) + 1 for f in out_features if f in names), default=0)]
        self.stage_names = tuple(names)
        stride, channels = stem.stride, stem.out_channels
        self._out_feature_strides, self._out_feature_channels = {"stem": stride}, {"stem": channels}
        for name, blocks in zip(names, stages):
            self.add_module(name, nn.Sequential(*blocks))
            for block in blocks:
                stride, channels = stride * block.stride, block.out_channels
            self._out_feature_strides[name], self._out_feature_channels[name] = stride, channels
        known = [name for name, _ in self.named_children()]
        if not out_features or not set(out_features) <= set(known):
            raise AssertionError(f"out_features is {list(out_features)}, expected some of {known}")
        self._out_features = list(out_features)
        self.freeze(freeze_at)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute a dict of feature maps by name from images (N, C, H, W)."""
        if x.dim() != 4:
            raise AssertionError(f"ResNet expects an input of shape (N, C, H, W), got {tuple(x.shape)}")
        outputs = {}
        for name in ("stem", *self.stage_names):
            x = outputs[name] = getattr(self, name)(x)
        return {name: outputs[name] for name in self._out_features}

    def freeze(self, freeze_at: int = 0) -> ResNet:
        """Freeze the first ``freeze_at`` parts and return self.

        1 freezes the stem, 2 the stem and ``res2``, and so on.
        """
        for name in ("stem", *self.stage_names)[: max(freeze_at, 0)]:
            part = getattr(self, name)
            for block in [part] if name == "stem" else part:
                block.freeze()
        return self

    @staticmethod
    def make_stage(
        block_class: type[CNNBlockBase], num_blocks: int, *, in_channels: int, out_channels: int, **kwargs
    ) -> list[CNNBlockBase]:
        """Build the blocks of one stage.

        Args:
            block_class: class of the blocks.
            num_blocks: number of blocks.
            in_channels: channels of the input of the first block.
            out_channels: channels of the output of every block.
            kwargs: arguments of every block. ``<argument>_per_block`` is a list with one value per block.
        """
        per_block = {k[: -len("_per_block")]: v for k, v in kwargs.items() if k.endswith("_per_block")}
        common = {k: v for k, v in kwargs.items() if not k.endswith("_per_block")}
        for name, values in per_block.items():
            if len(values) != num_blocks or name in common:
                raise AssertionError(
                    f"make_stage: {name}_per_block is {values}, expected {num_blocks} values and no argument {name}"
                )
        blocks = []
        for i in range(num_blocks):
            arguments = {name: values[i] for name, values in per_block.items()}
            blocks.append(block_class(in_channels, out_channels, **common, **arguments))
            in_channels = out_channels
        return blocks


def make_stage_from_config(cfg, stage: int) -> list[CNNBlockBase]:
    """Build stage ``res{stage}``, for stage 2 to 5, as ``cfg.MODEL.RESNETS`` describes.

    Raises:
        NotImplementedError: the config asks for deformable convolutions, which are not included.
        KeyError: there is no ResNet of this depth.
        AssertionError: other settings are invalid.
    """
    options = cfg.MODEL.RESNETS
    depth, dilation, groups = options.DEPTH, options.RES5_DILATION, options.NUM_GROUPS
    if depth not in _NUM_BLOCKS:
        raise KeyError(f"MODEL.RESNETS.DEPTH is {depth}, expected one of {list(_NUM_BLOCKS)}")
    if any(options.DEFORM_ON_PER_STAGE):
        raise not_included("MODEL.RESNETS.DEFORM_ON_PER_STAGE True")
    if dilation not in (1, 2):
        raise AssertionError(f"MODEL.RESNETS.RES5_DILATION is {dilation}, expected 1 or 2")
    if depth < 50 and (options.RES2_OUT_CHANNELS, dilation, groups) != (64, 1, 1):
        raise AssertionError("ResNet-18/34 need MODEL.RESNETS.RES2_OUT_CHANNELS 64, RES5_DILATION 1, NUM_GROUPS 1")
    dilated = stage == 5 and dilation == 2
    num_blocks, widening = _NUM_BLOCKS[depth][stage - 2], 2 ** (stage - 2)
    out_channels = options.RES2_OUT_CHANNELS * widening
    arguments = {
        "in_channels": options.STEM_OUT_CHANNELS if stage == 2 else out_channels // 2, "out_channels": out_channels,
        "stride_per_block": [1 if stage == 2 or dilated else 2] + [1] * (num_blocks - 1), "norm": options.NORM,
    }  # fmt: skip
    if depth < 50:
        return ResNet.make_stage(BasicBlock, num_blocks, **arguments)
    arguments.update(
        bottleneck_channels=groups * options.WIDTH_PER_GROUP * widening, num_groups=groups,
        stride_in_1x1=options.STRIDE_IN_1X1, dilation=2 if dilated else 1,
    )  # fmt: skip
    return ResNet.make_stage(BottleneckBlock, num_blocks, **arguments)


@BACKBONE_REGISTRY.register()
def build_resnet_backbone(cfg, input_shape: ShapeSpec) -> ResNet:
    """Build the ResNet of ``cfg.MODEL.RESNETS`` up to the last stage in OUT_FEATURES."""
    options, names = cfg.MODEL.RESNETS, ["stem", "res2", "res3", "res4", "res5"]
    unknown = set(options.OUT_FEATURES) - set(names)
    if unknown or not options.OUT_FEATURES:
        raise AssertionError(f"MODEL.RESNETS.OUT_FEATURES is {options.OUT_FEATURES}, expected some of {names}")
    stem = BasicStem(in_channels=input_shape.channels, out_channels=options.STEM_OUT_CHANNELS, norm=options.NORM)
    num_stages = max(names.index(name) for name in options.OUT_FEATURES)
    # Stages that are not kept are built too, so that later modules draw the same random weights as in Detectron2.
    stages = [make_stage_from_config(cfg, stage) for stage in range(2, 6)][:num_stages]
    return ResNet(stem, stages, out_features=options.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)
