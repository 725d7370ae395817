"""Match predictions (anchors, proposals) with ground truth."""

from __future__ import annotations

import torch


class Matcher:
    """Find the best ground truth of each prediction, and label predictions by match quality.

    Args:
        thresholds: increasing qualities (e.g. IoUs) between the labels.
        labels: one more than thresholds: -1 ignore, 0 negative, 1 positive. Example: with thresholds [0.3, 0.7] and
            labels [0, -1, 1], a quality below 0.3 means negative, at least 0.7 positive, and between them ignore.
        allow_low_quality_matches: whether the best predictions of every ground truth (several, if they are equally
            good) are positive whatever their quality is.
    """

    def __init__(self, thresholds: list[float], labels: list[int], allow_low_quality_matches: bool = False) -> None:
        bounds = [-float("inf"), *thresholds, float("inf")]
        if bounds != sorted(bounds) or len(labels) != len(bounds) - 1 or not set(labels) <= {-1, 0, 1}:
            raise AssertionError(
                f"expected increasing thresholds and one more label, each -1, 0 or 1, got {thresholds} and {labels}"
            )
        self.thresholds = bounds
        self.labels = labels
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Match M ground truths and N predictions.

        Args:
            match_quality_matrix: (M, N), not negative.

        Returns:
            Per prediction the index of its ground truth, int64 (N,), and its label, int8 (N,). Without ground truth all
            indices are 0 and all labels are the first one.
        """
        if match_quality_matrix.dim() != 2 or not (match_quality_matrix >= 0).all():
            shape = tuple(match_quality_matrix.shape)
            raise AssertionError(f"expected qualities (M, N) that are not negative or NaN, got the shape {shape}")
        if len(match_quality_matrix) == 0:
            matches = match_quality_matrix.new_zeros(match_quality_matrix.shape[1], dtype=torch.int64)
            return matches, torch.full_like(matches, self.labels[0], dtype=torch.int8)
        quality, matches = match_quality_matrix.max(dim=0)
        labels = torch.ones_like(matches, dtype=torch.int8)
        for label, low, high in zip(self.labels, self.thresholds, self.thresholds[1:]):
            labels[(quality >= low) & (quality < high)] = label
        if self.allow_low_quality_matches:
            self.set_low_quality_matches_(labels, match_quality_matrix)
        return matches, labels

    def set_low_quality_matches_(self, match_labels: torch.Tensor, match_quality_matrix: torch.Tensor) -> None:
        """Set the labels of the best predictions of each ground truth to 1, in place.

        Their matches do not change.
        """
        best = match_quality_matrix.amax(dim=1, keepdim=True)
        match_labels[(match_quality_matrix == best).any(dim=0)] = 1
