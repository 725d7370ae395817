"""Running out of GPU memory without dying of it."""

from __future__ import annotations

import logging
from functools import wraps

import torch

__all__ = ["retry_if_cuda_oom"]


def _to_cpu(x):
    return x.to(device="cpu") if isinstance(x, torch.Tensor) and x.is_cuda else x


def retry_if_cuda_oom(func):
    """Wrap a stateless ``func``: on a CUDA out-of-memory error it is tried again with the allocator's cache emptied,
    and if that fails too with its tensor arguments moved to the CPU (the result is then on the CPU)."""

    @wraps(func)
    def wrapped(*args, **kwargs):
        try:
            return func(*args, **kwargs)
        except torch.cuda.OutOfMemoryError:
            pass  # retried below, outside the handler: its traceback would keep the failed call's tensors alive
        torch.cuda.empty_cache()
        try:
            return func(*args, **kwargs)
        except torch.cuda.OutOfMemoryError:
            pass
        logging.getLogger(__name__).info(f"Out of GPU memory: {getattr(func, '__name__', func)} now runs on the CPU")
        return func(*map(_to_cpu, args), **{k: _to_cpu(v) for k, v in kwargs.items()})

    return wrapped
