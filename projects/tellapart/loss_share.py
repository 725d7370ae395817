"""Makes the gradient of several processes that of one process on all their images.

DistributedDataParallel (DDP) averages the gradients of the processes. A loss that is a mean over what a process has
(regions, windows, instances, pixels) would weigh each of them more in a process that has few. Multiplied by
:func:`loss_share`, the average over the processes is the mean over all of them, if every process has as many images.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor


def loss_share(count: int | Tensor, like: Tensor) -> Tensor | float:
    """Return by how much this process has more than the mean over the processes: count / mean count.

    All processes must call it together, and as often.

    Args:
        count: number of terms in this process's mean, an int or a scalar tensor.
        like: a tensor on the device that the processes communicate with, the loss for example.

    Returns:
        1.0 in a single process, so that nothing changes there; otherwise a float32 scalar without gradient.
    """
    world = comm.get_world_size()
    if world == 1:
        return 1.0
    count = torch.as_tensor(count, dtype=torch.float32).to(like.device, non_blocking=True)
    total = count.clone()
    dist.all_reduce(total)
    return count * (world / total.clamp(min=1))
