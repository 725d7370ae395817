"""Matching predictions with ground truth."""

from __future__ import annotations

import torch


class Matcher:
    """Gives each prediction its best ground truth, and a label by how good the match is.

    Args:
        thresholds: increasing qualities that separate the levels.
        labels: one a level (one more than thresholds): -1 ignore, 0 negative, 1 positive. With thresholds [0.3, 0.7]
            and labels [0, -1, 1]: below 0.3 negative, 0.7 and above positive, ignored between.
        allow_low_quality_matches: also make positive what is some ground truth's best prediction (ties included).
    """

    def __init__(self, thresholds: list[float], labels: list[int], allow_low_quality_matches: bool = False) -> None:
        bounds = [-float("inf"), *thresholds, float("inf")]
        if bounds != sorted(bounds) or len(labels) != len(bounds) - 1 or not set(labels) <= {-1, 0, 1}:
            raise AssertionError(
                f"wanted increasing thresholds and one more label, each -1, 0 or 1; got {thresholds} and {labels}"
            )
        self.thresholds = bounds
        self.labels = labels
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Match by qualities (M, N), >= 0, of M ground truths and N predictions.

        Returns:
            For each prediction the index of its ground truth (int64; 0 if there is none) and its label (int8).
        """
        if match_quality_matrix.dim() != 2 or not (match_quality_matrix >= 0).all():
            shape = tuple(match_quality_matrix.shape)
            raise AssertionError(f"the quality matrix must be (M, N) and not negative or NaN, its shape is {shape}")
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
        """Label 1, in place, whatever has the highest quality for some ground truth; its match stays."""
        best = match_quality_matrix.amax(dim=1, keepdim=True)
        match_labels[(match_quality_matrix == best).any(dim=0)] = 1
