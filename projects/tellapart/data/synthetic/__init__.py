"""Synthetic data sets: touching shapes, identical dots, crossing worms, objects of many forms and textures."""

from .dataset import SyntheticDataset
from .dots import DOTS, DOTS_JITTERED
from .objects import OBJECTS
from .shapes import SHAPES
from .worms import WORMS

__all__ = ["DOTS", "DOTS_JITTERED", "OBJECTS", "SHAPES", "WORMS", "SyntheticDataset"]
