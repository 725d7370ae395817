"""ResNet (He et al., 2016) and ResNeXt, depth 18 to 152, with holes in the last stage where asked for (DC5)."""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch
from torch import nn
from torch.nn import functional as F

from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm

from .backbone import Backbone
from .build import BACKBONE_REGISTRY

ResNetBlockBase = CNNBlockBase  # the name it had first

_BLOCKS_PER_STAGE = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}


def _conv(in_channels: int, out_channels: int, kernel_size: int, norm, stride=1, dilation=1, groups=1) -> Conv2d:
    """A convolution that keeps the size at stride 1, without bias, followed by its norm."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        stride=stride,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        groups=groups,
        bias=False,
        norm=get_norm(norm, out_channels),
    )
    weight_init.c2_msra_fill(conv)
    return conv


class _ResidualBlock(CNNBlockBase):
    """Adds the input, projected to the output's shape where they differ."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = _conv(in_channels, out_channels, 1, norm, stride)

    def _add_input(self, out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return F.relu_(out + (x if self.shortcut is None else self.shortcut(x)))


class BasicBlock(_ResidualBlock):
    """Two 3x3 convolutions: the block of ResNet-18 and 34."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, norm="BN") -> None:
        super().__init__(in_channels, out_channels, stride, norm)
        self.conv1 = _conv(in_channels, out_channels, 3, norm, stride)
        self.conv2 = _conv(out_channels, out_channels, 3, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        return self._add_input(self.conv2(F.relu_(self.conv1(x))), x)


class BottleneckBlock(_ResidualBlock):
    """A 3x3 convolution between two 1x1 ones: the block of ResNet-50 and deeper.

    Args:
        bottleneck_channels: channels of the 3x3 convolution.
        num_groups: its groups (ResNeXt).
        norm: for every convolution, see ``get_norm``.
        stride_in_1x1: the stride is the first 1x1 convolution's, not the 3x3's.
        dilation: of the 3x3 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        num_groups: int = 1,
        norm="BN",
        stride_in_1x1: bool = False,
        dilation: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, stride, norm)
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = _conv(in_channels, bottleneck_channels, 1, norm, stride_1x1)
        self.conv2 = _conv(
            bottleneck_channels, bottleneck_channels, 3, norm, stride_3x3, dilation=dilation, groups=num_groups
        )
        self.conv3 = _conv(bottleneck_channels, out_channels, 1, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        return self._add_input(self.conv3(F.relu_(self.conv2(F.relu_(self.conv1(x))))), x)


class BasicStem(CNNBlockBase):
    """A 7x7 convolution and a max pooling, stride 4 together."""

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm="BN") -> None:
        super().__init__(in_channels, out_channels, 4)
        self.conv1 = _conv(in_channels, out_channels, 7, norm, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / 4, W / 4)."""
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, padding=1)


class ResNet(Backbone):
    """A stem and stages ``res2``, ``res3``, ...

    Args:
        stem: a block.
        stages: each a list of blocks. Those after the last one in ``out_features`` are not kept.
        num_classes: if given, an average pooling and a linear classifier follow, output name ``linear``.
        out_features: which of ``stem``, ``res2``, ..., ``linear`` to return; None: the last one.
        freeze_at: see ``freeze``.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: list[list[CNNBlockBase]],
        num_classes: int | None = None,
        out_features: list[str] | None = None,
        freeze_at: int = 0,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.num_classes = num_classes
        names = [f"res{i}" for i in range(2, len(stages) + 2)]
        if out_features is None:
            out_features = [names[-1] if num_classes is None else "linear"]
        if not out_features:
            raise AssertionError("out_features is empty")
        if num_classes is None:
            needed = max((names.index(f) + 1 for f in out_features if f in names), default=0)
            names, stages = names[:needed], stages[:needed]

        self.stage_names = tuple(names)
        self._out_feature_strides = {"stem": stem.stride}
        self._out_feature_channels = {"stem": stem.out_channels}
        stride, channels = stem.stride, stem.out_channels
        for name, blocks in zip(names, stages):
            if not blocks or not all(isinstance(block, CNNBlockBase) for block in blocks):
                raise AssertionError(f"stage {name} must be a non-empty list of CNNBlockBase, got {blocks}")
            self.add_module(name, nn.Sequential(*blocks))
            for block in blocks:
                stride *= block.stride
            channels = blocks[-1].out_channels
            self._out_feature_strides[name], self._out_feature_channels[name] = stride, channels
        if num_classes is not None:
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.linear = nn.Linear(channels, num_classes)
            # as Goyal et al., 2017, sec. 5.1
            nn.init.normal_(self.linear.weight, std=0.01)

        children = [name for name, _ in self.named_children()]
        if not set(out_features) <= set(children):
            raise AssertionError(f"out_features {list(out_features)} are not all among {children}")
        self._out_features = list(out_features)
        self.freeze(freeze_at)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images (N, C, H, W) to feature maps by name."""
        if x.dim() != 4:
            raise AssertionError(f"ResNet takes an input of the shape (N, C, H, W), got {tuple(x.shape)}")
        outputs = {"stem": self.stem(x)}
        x = outputs["stem"]
        for name in self.stage_names:
            x = outputs[name] = getattr(self, name)(x)
        if "linear" in self._out_features:
            outputs["linear"] = self.linear(self.avgpool(x).flatten(1))
        return {name: outputs[name] for name in self._out_features}

    def freeze(self, freeze_at: int = 0) -> ResNet:
        """Freeze the first ``freeze_at`` parts (1: the stem, 2: the stem and ``res2``, ...); returns itself."""
        if freeze_at >= 1:
            self.stem.freeze()
        for name in self.stage_names[: max(freeze_at - 1, 0)]:
            for block in getattr(self, name):
                block.freeze()
        return self

    @staticmethod
    def make_stage(
        block_class: type[CNNBlockBase], num_blocks: int, *, in_channels: int, out_channels: int, **kwargs
    ) -> list[CNNBlockBase]:
        """The blocks of one stage.

        ``kwargs`` go to every block, except those named ``<argument>_per_block``: lists with one value a block.
        """
        suffix = "_per_block"
        per_block = {name[: -len(suffix)]: values for name, values in kwargs.items() if name.endswith(suffix)}
        common = {name: value for name, value in kwargs.items() if not name.endswith(suffix)}
        for name, values in per_block.items():
            if len(values) != num_blocks:
                raise AssertionError(f"make_stage: {name}{suffix} has {len(values)} values for {num_blocks} blocks")
            if name in common:
                raise AssertionError(f"make_stage: both {name} and {name}{suffix} are given")
        blocks = []
        for i in range(num_blocks):
            arguments = {name: values[i] for name, values in per_block.items()}
            blocks.append(block_class(in_channels if i == 0 else out_channels, out_channels, **common, **arguments))
        return blocks

    @staticmethod
    def make_default_stages(
        depth: int, block_class: type[CNNBlockBase] | None = None, **kwargs
    ) -> list[list[CNNBlockBase]]:
        """The four stages of a ResNet of depth 18, 34, 50, 101 or 152; ``kwargs`` go to ``make_stage``."""
        basic = depth < 50
        if block_class is None:
            block_class = BasicBlock if basic else BottleneckBlock
        widths = [64, 128, 256, 512] if basic else [256, 512, 1024, 2048]
        stages, in_channels = [], 64
        for stage, (num_blocks, width) in enumerate(zip(_BLOCKS_PER_STAGE[depth], widths)):
            extra = {} if basic else {"bottleneck_channels": width // 4}
            strides = [1 if stage == 0 else 2] + [1] * (num_blocks - 1)
            stages.append(
                ResNet.make_stage(
                    block_class,
                    num_blocks,
                    stride_per_block=strides,
                    in_channels=in_channels,
                    out_channels=width,
                    **extra,
                    **kwargs,
                )
            )
            in_channels = width
        return stages


def make_stage(*args, **kwargs) -> list[CNNBlockBase]:
    """``ResNet.make_stage``."""
    return ResNet.make_stage(*args, **kwargs)


def make_stage_from_config(cfg, stage: int, norm) -> list[CNNBlockBase]:
    """Stage ``res{stage}``, 2 to 5, as ``cfg.MODEL.RESNETS`` describes it.

    Raises:
        NotImplementedError: deformable convolutions are asked for.
        AssertionError: settings that do not go together.
    """
    options = cfg.MODEL.RESNETS
    depth, dilation = options.DEPTH, options.RES5_DILATION
    if depth not in _BLOCKS_PER_STAGE:
        raise KeyError(f"MODEL.RESNETS.DEPTH is {depth}, wanted one of {list(_BLOCKS_PER_STAGE)}")
    if any(options.DEFORM_ON_PER_STAGE):
        raise NotImplementedError(
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE: only the real Detectron2 has deformable convolutions"
        )
    if dilation not in (1, 2):
        raise AssertionError(f"MODEL.RESNETS.RES5_DILATION must be 1 or 2, got {dilation}")
    holes = stage == 5 and dilation == 2
    num_blocks = _BLOCKS_PER_STAGE[depth][stage - 2]
    widening = 2 ** (stage - 2)
    out_channels = options.RES2_OUT_CHANNELS * widening
    arguments = {
        "stride_per_block": [1 if stage == 2 or holes else 2] + [1] * (num_blocks - 1),
        "in_channels": options.STEM_OUT_CHANNELS if stage == 2 else out_channels // 2,
        "out_channels": out_channels,
        "norm": norm,
    }
    if depth < 50:
        wanted = {"RES2_OUT_CHANNELS": 64, "RES5_DILATION": 1, "NUM_GROUPS": 1}
        for key, value in wanted.items():
            if options[key] != value:
                raise AssertionError(f"MODEL.RESNETS.{key} must be {value} for R18/R34, got {options[key]}")
        return ResNet.make_stage(BasicBlock, num_blocks, **arguments)
    return ResNet.make_stage(
        BottleneckBlock,
        num_blocks,
        bottleneck_channels=options.NUM_GROUPS * options.WIDTH_PER_GROUP * widening,
        num_groups=options.NUM_GROUPS,
        stride_in_1x1=options.STRIDE_IN_1X1,
        dilation=2 if holes else 1,
        **arguments,
    )


@BACKBONE_REGISTRY.register()
def build_resnet_backbone(cfg, input_shape: ShapeSpec) -> ResNet:
    """The ResNet that ``cfg.MODEL.RESNETS`` and ``BACKBONE.FREEZE_AT`` describe, no deeper than OUT_FEATURES needs."""
    options = cfg.MODEL.RESNETS
    last = max(("stem", "", "res2", "res3", "res4", "res5").index(name) for name in options.OUT_FEATURES)
    return ResNet(
        BasicStem(in_channels=input_shape.channels, out_channels=options.STEM_OUT_CHANNELS, norm=options.NORM),
        [make_stage_from_config(cfg, stage, options.NORM) for stage in range(2, last + 1)],
        out_features=options.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
