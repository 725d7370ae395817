"""Clustering of an image's foreground pixels by their embeddings (section 4.1).

A clustering function is called with

- ``embeddings``: Psi of P foreground pixels, float32 (P, D),
- ``scores``: foreground probability of each pixel, float32 (P,),
- ``num_instances``: number of clusters, None if unknown,
- ``bandwidth``: radius of a cluster, in units of the embedding,

and returns the centers of the clusters, float32 (K, D). Each pixel then belongs to the cluster of the nearest center.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError


def _import_sklearn_cluster():
    try:
        from sklearn import cluster
    except ImportError as error:
        raise InputError("k-means and mean-shift need scikit-learn: pip install scikit-learn") from error
    return cluster


def kmeans(embeddings: Tensor, scores: Tensor, num_instances: int, bandwidth: float) -> Tensor:
    """Run Lloyd's algorithm with a known number of clusters, as in the paper's experiment with dots.

    The best of ten starts is used. The starts are drawn from a fixed seed.
    """
    num_clusters = min(num_instances, len(embeddings))
    if num_clusters == 0:
        return embeddings[:0]
    fitted = _import_sklearn_cluster().KMeans(num_clusters, n_init=10, random_state=0).fit(embeddings.cpu().numpy())
    return torch.as_tensor(fitted.cluster_centers_, dtype=embeddings.dtype, device=embeddings.device)


def mean_shift(embeddings: Tensor, scores: Tensor, num_instances: int | None, bandwidth: float) -> Tensor:
    """Find the modes of the pixels' density with a flat kernel of radius ``bandwidth``.

    ``num_instances`` is not used. The search starts from one pixel per occupied cell of a grid with cells of size
    ``bandwidth``. Scikit-learn's own starting points, the centers of the cells, may have no pixel within the radius if
    the embedding has 8 dimensions.
    """
    if not len(embeddings):
        return embeddings
    points = embeddings.cpu().numpy().astype(np.float64)
    start_index = np.unique(np.round(points / bandwidth), axis=0, return_index=True)[1]
    fitted = _import_sklearn_cluster().MeanShift(bandwidth=bandwidth, seeds=points[start_index]).fit(points)
    return torch.as_tensor(fitted.cluster_centers_, dtype=embeddings.dtype, device=embeddings.device)


def seed_and_affinity(embeddings: Tensor, scores: Tensor, num_instances: int | None, bandwidth: float) -> Tensor:
    """Choose seeds greedily: each seed and the pixels within ``bandwidth`` of it form a cluster.

    The seed is the pixel with the largest sum of scores of the pixels within ``bandwidth``. This is repeated among the
    remaining pixels until none is left. ``num_instances`` is not used. There is one iteration per cluster, vectorized
    over the pixels.
    """
    centers, remaining = [], torch.ones(len(embeddings), dtype=torch.bool, device=embeddings.device)
    # computed from a matrix product, distances of embeddings far from the origin would be wrong by hundredths
    distances = torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist")
    is_near = (distances <= bandwidth).to(embeddings.dtype)
    is_near.fill_diagonal_(1.0)  # even for a NaN, so that every iteration removes a pixel
    while remaining.any():
        support = is_near @ (scores * remaining)
        seed_index = torch.where(remaining, support, -1.0).argmax()
        members = (is_near[seed_index] > 0) & remaining
        centers.append(embeddings[members].mean(0))
        remaining &= ~members
    return torch.stack(centers) if centers else embeddings[:0]


CLUSTERINGS = {"kmeans": kmeans, "mean_shift": mean_shift, "seeds": seed_and_affinity}  # by MODEL.COLORING.CLUSTERING


def nearest_center_index(embeddings: Tensor, centers: Tensor, chunk_size: int = 1 << 16) -> Tensor:
    """Return the index of the center that is nearest to each pixel.

    Args:
        embeddings: Psi of P pixels, float (P, D).
        centers: float (K, D), K >= 1.
        chunk_size: number of pixels processed at once. It limits memory and does not change the result.

    Returns:
        int64 (P,).
    """
    return torch.cat([torch.cdist(chunk, centers).argmin(1) for chunk in embeddings.split(chunk_size)])
