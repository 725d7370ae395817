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
from scipy.sparse import coo_matrix
from scipy.spatial import cKDTree
from torch import Tensor

from ..errors import InputError

# Clustering by seeds: pairs of near pixels or cells that are stored, and the number of cells (memory below 1 GiB).
_MAX_PAIRS, _MAX_CELLS = 10_000_000, 200_000
_HASH_FACTOR = np.int64(-7046029254386353131)  # odd, and its bits look random


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
    remaining pixels until none is left. ``num_instances`` is not used.

    Memory is limited: where more than ten million pairs of pixels are near each other, pixels in one cell of a grid of
    at least ``bandwidth`` / 8 count as one, at their mean.
    """
    points, weights = embeddings.detach().cpu().numpy(), scores.detach().cpu().numpy()
    is_finite = np.isfinite(points).all(1)
    if is_finite.all():
        centers = _seed_centers(points, weights, bandwidth)
    else:  # pixels that are near no other, not even themselves
        centers = np.concatenate((_seed_centers(points[is_finite], weights[is_finite], bandwidth), points[~is_finite]))
    return torch.as_tensor(centers, dtype=embeddings.dtype, device=embeddings.device)


def _seed_centers(points: np.ndarray, weights: np.ndarray, bandwidth: float) -> np.ndarray:
    """Return the centers of the clusters, float64 (K, D), of points (P, D)."""
    counts = np.ones(len(points))
    cells, side = (points, weights, counts), bandwidth / 16
    while True:
        if len(cells[0]) <= _MAX_CELLS:
            tree = cKDTree(cells[0])
            if tree.count_neighbors(tree, bandwidth) <= 2 * _MAX_PAIRS:
                break
        side *= 2
        cells = _joined(points, weights, side)
    points, weights, counts = cells
    first, second = tree.query_pairs(bandwidth, output_type="ndarray").astype(np.int32).T
    ends = np.concatenate((first, second)), np.concatenate((second, first))
    is_near = coo_matrix((np.ones(len(ends[0]), np.float32), ends), shape=(len(points), len(points))).tocsr()
    support, remaining, centers = is_near @ weights + weights, np.ones(len(points), bool), []
    while remaining.any():
        seed = int(np.where(remaining, support, -np.inf).argmax())
        near = is_near.indices[is_near.indptr[seed] : is_near.indptr[seed + 1]]
        members = np.append(near[remaining[near]], seed)
        centers.append(np.average(points[members], 0, counts[members]))
        remaining[members] = False
        support -= is_near[members].T @ weights[members]
    return np.stack(centers) if centers else points[:0]


def _joined(points: np.ndarray, weights: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join the points in each cell of a grid: return their means, sums of weights, and numbers."""
    keys = np.zeros(len(points), np.int64)
    with np.errstate(over="ignore"):
        for column in points.T:  # a hash of the cell, because sorting the rows would take minutes
            keys = (keys ^ np.floor(column / side).astype(np.int64)) * _HASH_FACTOR
            keys ^= keys >> 29
    _, index, counts = np.unique(keys, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(index, column) for column in points.T], 1)
    return sums / counts[:, None], np.bincount(index, weights), counts.astype(np.float64)


CLUSTERINGS = {"kmeans": kmeans, "mean_shift": mean_shift, "seeds": seed_and_affinity}  # by MODEL.COLORING.CLUSTERING


def nearest_center_index(embeddings: Tensor, centers: Tensor) -> Tensor:
    """Return the index of the center that is nearest to each pixel.

    Args:
        embeddings: Psi of P pixels, float (P, D).
        centers: float (K, D), K >= 1.

    Returns:
        int64 (P,).
    """
    points, tree = (np.nan_to_num(one.detach().cpu().numpy()) for one in (embeddings, centers))
    _, index = cKDTree(tree).query(points)
    return torch.as_tensor(index, dtype=torch.int64, device=embeddings.device)
