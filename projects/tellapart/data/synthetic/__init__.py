"""Synthetic data sets: touching shapes, identical dots, crossing worms."""

from .dataset import SyntheticDataset
from .dots import DOTS, DOTS_JITTERED
from .shapes import SHAPES
from .worms import WORMS

__all__ = ["DOTS", "DOTS_JITTERED", "SHAPES", "WORMS", "SyntheticDataset"]
