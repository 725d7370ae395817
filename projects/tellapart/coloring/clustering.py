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
    """Modes of the pixels' density, with a flat kernel of radius ``bandwidth``; no number of instances is asked. The
    search starts from one pixel of every occupied cell of a grid of that width: from the cells' centres, as
    scikit-learn would have it, no pixel may be within the radius in 8 dimensions."""
    if not len(pixels):
        return pixels
    points = pixels.cpu().numpy().astype(np.float64)
    starts = np.unique(np.round(points / bandwidth), axis=0, return_index=True)[1]
    found = _sklearn().MeanShift(bandwidth=bandwidth, seeds=points[starts]).fit(points)
    return torch.as_tensor(found.cluster_centers_, dtype=pixels.dtype, device=pixels.device)


def seeds(pixels: Tensor, scores: Tensor, num_instances: int | None, bandwidth: float) -> Tensor:
    """Seed and affinity: the pixel with most others within ``bandwidth`` (each counted by its score) takes them, then
    the same among those left, until none is left. No more steps than instances, each vectorised over pixels."""
    centres, left = [], torch.ones(len(pixels), dtype=torch.bool, device=pixels.device)
    # by way of products, a distance far from the origin would be off by hundredths, even a pixel's to itself
    near = (torch.cdist(pixels, pixels, compute_mode="donot_use_mm_for_euclid_dist") <= bandwidth).to(pixels.dtype)
    near.fill_diagonal_(1.0)  # also of a NaN, so that every step takes a pixel
    while left.any():
        support = near @ (scores * left)
        seed = torch.where(left, support, -1.0).argmax()
        taken = (near[seed] > 0) & left
        centres.append(pixels[taken].mean(0))
        left &= ~taken
    return torch.stack(centres) if centres else pixels[:0]


CLUSTERINGS = {"kmeans": kmeans, "mean_shift": mean_shift, "seeds": seeds}


def nearest(pixels: Tensor, centres: Tensor, chunk: int = 1 << 16) -> Tensor:
    """Index of the nearest of K >= 1 centres to each pixel, int64 (P,). ``chunk`` pixels at once: a matter of memory
    only."""
    return torch.cat([torch.cdist(part, centres).argmin(1) for part in pixels.split(chunk)])
