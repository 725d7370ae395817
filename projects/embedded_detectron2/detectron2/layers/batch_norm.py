"""Normalization layers by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchvision
from torch import nn
from torch.nn import functional as F


class FrozenBatchNorm2d(torchvision.ops.FrozenBatchNorm2d):
    """Batch norm with constant statistics and affine transform: they are buffers, not parameters."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps=eps)
        self.num_features = num_features
        self.running_var -= eps  # makes a new layer the identity

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize (N, C, H, W)."""
        if not x.requires_grad:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, eps=self.eps)
        # F.batch_norm would store more tensors for the backward pass.
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.to(x.dtype).reshape(1, -1, 1, 1) + shift.to(x.dtype).reshape(1, -1, 1, 1)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        if "num_batches_tracked" in self._buffers:  # kept by convert_frozen_batchnorm, but torchvision drops it
            nn.Module._load_from_state_dict(self, *args, **kwargs)
        else:
            super()._load_from_state_dict(*args, **kwargs)

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replace every BatchNorm2d and SyncBatchNorm in ``module`` by a frozen one with the same values."""
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            frozen = cls(module.num_features, module.eps)
            if module.affine:
                frozen.weight.copy_(module.weight.detach())
                frozen.bias.copy_(module.bias.detach())
            frozen.running_mean.copy_(module.running_mean)
            frozen.running_var.copy_(module.running_var)
            frozen.register_buffer("num_batches_tracked", module.num_batches_tracked)  # keeps the names of the state
            return frozen
        for name, child in module.named_children():
            setattr(module, name, cls.convert_frozen_batchnorm(child))
        return module


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "nnSyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": lambda channels: nn.GroupNorm(32, channels),
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """Build a norm layer.

    Args:
        norm: a name, or a function of the number of channels. "" and None mean no norm.
        out_channels: number of channels.

    Returns:
        The layer, or None for no norm.

    Raises:
        ValueError: the name is unknown.
    """
    if norm is None or norm == "":
        return None
    if isinstance(norm, str):
        if norm not in _NORMS:
            raise ValueError(f"NORM is {norm!r}, expected one of {', '.join(_NORMS)} or ''")
        norm = _NORMS[norm]
    return norm(out_channels)
