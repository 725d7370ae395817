"""Normalisation layers by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchvision
from torch import nn
from torch.nn import functional as F


class FrozenBatchNorm2d(torchvision.ops.FrozenBatchNorm2d):
    """Batch norm whose statistics and affine transform are constants (buffers, not parameters)."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps=eps)
        self.num_features = num_features
        self.running_var -= eps  # an untouched layer is the identity

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same shape and dtype."""
        if not x.requires_grad:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, eps=self.eps)
        # a product and a sum: batch_norm's backward would keep more for gradients of constants
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.to(x.dtype).reshape(1, -1, 1, 1) + shift.to(x.dtype).reshape(1, -1, 1, 1)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        if "num_batches_tracked" in self._buffers:  # converted from a BatchNorm: torchvision's would leave it out
            nn.Module._load_from_state_dict(self, *args, **kwargs)
        else:
            super()._load_from_state_dict(*args, **kwargs)

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replace every BatchNorm2d / SyncBatchNorm in ``module`` by a frozen one with the same numbers."""
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
    """The norm layer for ``out_channels`` channels: by name, by a callable, or None for an empty name.

    Raises:
        ValueError: a name that is not known.
    """
    if norm is None or norm == "":
        return None
    if isinstance(norm, str):
        if norm not in _NORMS:
            raise ValueError(f"NORM '{norm}' is not known; known are {', '.join(_NORMS)} and ''")
        norm = _NORMS[norm]
    return norm(out_channels)
