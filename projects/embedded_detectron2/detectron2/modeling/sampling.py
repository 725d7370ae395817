"""Random sampling with a limited fraction of positives."""

from __future__ import annotations

import torch

__all__ = ["subsample_labels"]


def subsample_labels(
    labels: torch.Tensor, num_samples: int, positive_fraction: float, bg_label: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a random sample without replacement.

    Args:
        labels: (N,), -1 for ignore, ``bg_label`` for negative, any other value for positive.
        num_samples: the size of the sample, if there are enough positives and negatives.
        positive_fraction: at most ``int(num_samples * positive_fraction)`` are positive, the others are negative.
        bg_label: the label of negatives.

    Returns:
        Indices of the sampled positives and of the sampled negatives.
    """
    positive = ((labels != -1) & (labels != bg_label)).nonzero().flatten()
    negative = (labels == bg_label).nonzero().flatten()
    num_positive = min(len(positive), int(num_samples * positive_fraction))
    positive = positive[torch.randperm(len(positive), device=labels.device)[:num_positive]]
    negative = negative[torch.randperm(len(negative), device=labels.device)[: num_samples - num_positive]]
    return positive, negative
