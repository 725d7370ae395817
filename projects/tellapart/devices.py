"""Values on their way between the CPU and a GPU, so that neither waits for the other more often than it must."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from detectron2.utils.events import get_event_storage
from torch import Tensor


def to_device(values: Sequence, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return numbers as a tensor on ``device``; the CPU does not wait, as it does in ``torch.tensor(values, device)``.

    Args:
        values: numbers, or rows of numbers.
        device: any.
        dtype: by default that of ``torch.tensor(values)``.
    """
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)


def put_shares(is_true: Mapping[str, Tensor]) -> None:
    """Log the share of True in bool tensors, by name, in Detectron2's event storage; empty tensors are left out.

    The CPU waits for the GPU once, and not for each of them.
    """
    shares = {name: one.float().mean() for name, one in is_true.items() if one.numel()}
    if shares:
        for name, share in zip(shares, torch.stack(list(shares.values())).tolist()):
            get_event_storage().put_scalar(name, share)
