"""Embeddings of an image's foreground pixels to the embeddings of its instances (section 4.1).

Each function takes pixels (P, D) float32 and gives centres (K, D); each pixel then belongs to its nearest centre.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError


def _sklearn():
    try:
        from sklearn import cluster
    except ImportError as error:
        raise InputError("k-means and mean-shift need scikit-learn: pip install scikit-learn") from error
    return cluster


def kmeans(pixels: Tensor, scores: Tensor, num_instances: int, bandwidth: float) -> Tensor:
    """Lloyd's, where the number of instances is known: the paper's experiment on dots. Ten starts from a fixed seed."""
    count = min(num_instances, len(pixels))
    if count == 0:
        return pixels[:0]
    found = _sklearn().KMeans(count, n_init=10, random_state=0).fit(pixels.cpu().numpy())
    return torch.as_tensor(found.cluster_centers_, dtype=pixels.dtype, device=pixels.device)


def mean_shift(pixels: Tensor, scores: Tensor, num_instances: int | None, bandwidth: float) -> Tensor:
    """Modes of the pixels' density, with a flat kernel of radius ``bandwidth``; no number of instances is asked."""
    if not len(pixels):
        return pixels
    points = pixels.cpu().numpy().astype(np.float64)
    found = _sklearn().MeanShift(bandwidth=bandwidth, bin_seeding=True).fit(points)
    return torch.as_tensor(found.cluster_centers_, dtype=pixels.dtype, device=pixels.device)


def seeds(pixels: Tensor, scores: Tensor, num_instances: int | None, bandwidth: float) -> Tensor:
    """Seed and affinity: the pixel with most others within ``bandwidth`` (each counted by its score) takes them, then
    the same among those left, until none is left. No more steps than instances, each vectorised over pixels."""
    centres, left = [], torch.ones(len(pixels), dtype=torch.bool, device=pixels.device)
    near = (torch.cdist(pixels, pixels) <= bandwidth).to(pixels.dtype)
    while left.any():
        support = near @ (scores * left)
        seed = torch.where(left, support, -1.0).argmax()
        taken = (near[seed] > 0) & left
        centres.append(pixels[taken].mean(0))
        left &= ~taken
    return torch.stack(centres) if centres else pixels[:0]


CLUSTERINGS = {"kmeans": kmeans, "mean_shift": mean_shift, "seeds": seeds}


def nearest(pixels: Tensor, centres: Tensor, chunk: int = 1 << 16) -> Tensor:
    """Index of the centre nearest to each pixel, int64 (P,). ``chunk`` pixels at once: a matter of memory only."""
    parts = [torch.cdist(part, centres).argmin(1) for part in pixels.split(chunk)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64, device=pixels.device)
