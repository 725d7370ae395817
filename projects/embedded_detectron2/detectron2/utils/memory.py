"""Retrying after an out-of-memory error of the GPU."""

from __future__ import annotations

import logging
from functools import wraps

import torch


def _to_cpu(x):
    return x.to(device="cpu") if isinstance(x, torch.Tensor) and x.is_cuda else x


def retry_if_cuda_oom(func):
    """Decorate a stateless function, so that it is called again after a CUDA out-of-memory error.

    The second call follows after emptying the cache of the allocator. If it fails too, the third one moves the tensor
    arguments to the CPU, and the result is then on the CPU.
    """

    @wraps(func)
    def wrapped(*args, **kwargs):
        try:
            return func(*args, **kwargs)
        except torch.cuda.OutOfMemoryError:
            pass  # Retry outside of this handler, where the traceback would keep the failed call's tensors in memory.
        torch.cuda.empty_cache()
        try:
            return func(*args, **kwargs)
        except torch.cuda.OutOfMemoryError:
            pass
        logging.getLogger(__name__).info(f"Out of GPU memory: {getattr(func, '__name__', func)} now runs on the CPU")
        return func(*map(_to_cpu, args), **{k: _to_cpu(v) for k, v in kwargs.items()})

    return wrapped
