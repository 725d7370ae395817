"""Seeded random tensors for the tests of this folder."""

from __future__ import annotations

import torch


def random_tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal values, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
