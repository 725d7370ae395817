"""Random samples with a bounded share of positives."""

from __future__ import annotations

import torch

__all__ = ["subsample_labels"]


def subsample_labels(
    labels: torch.Tensor, num_samples: int, positive_fraction: float, bg_label: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw ``num_samples`` (fewer if there are not enough) without replacement.

    Args:
        labels: (N,): -1 ignore, ``bg_label`` negative, anything else positive.
        positive_fraction: at most ``int(num_samples * positive_fraction)`` are positive; negatives fill the rest.

    Returns:
        Indices of the positives and of the negatives drawn.
    """
    positive = ((labels != -1) & (labels != bg_label)).nonzero().flatten()
    negative = (labels == bg_label).nonzero().flatten()
    num_positive = min(len(positive), int(num_samples * positive_fraction))
    positive = positive[torch.randperm(len(positive), device=labels.device)[:num_positive]]
    negative = negative[torch.randperm(len(negative), device=labels.device)[: num_samples - num_positive]]
    return positive, negative
