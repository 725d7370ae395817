"""Augmentations: policies that look at an input, draw at random, and give the transform to apply to it."""

from __future__ import annotations

import inspect

import numpy as np
from fvcore.transforms.transform import Transform, TransformList


class Augmentation:
    """Base class: a subclass defines ``get_transform(self, image, ...)``, whose arguments name attributes of the input.

    Randomness comes from numpy's global generator.
    """

    def _init(self, params: dict | None = None) -> None:
        """Make attributes of a constructor's ``locals()``."""
        for key, value in (params or {}).items():
            if key != "self" and not key.startswith("_"):
                setattr(self, key, value)

    def _rand_range(self, low: float = 1.0, high: float | None = None, size: int | None = None):
        """Uniform in [low, high), or in [0, low) where ``high`` is None."""
        low, high = (0, low) if high is None else (low, high)
        return np.random.uniform(low, high, [] if size is None else size)

    def get_transform(self, *args) -> Transform:
        """Decide which transform the input gets."""
        raise NotImplementedError(f"{type(self).__name__} must define get_transform()")

    def __call__(self, aug_input: AugInput) -> Transform:
        """Apply the policy to ``aug_input`` in place; returns the transform, to be applied to what belongs to it.

        Raises:
            AttributeError: ``get_transform`` names an argument that the input does not have.
        """
        args = []
        for name, parameter in inspect.signature(self.get_transform).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise TypeError(f"{type(self).__name__}.get_transform must name its arguments, it has '*{name}'")
            if not hasattr(aug_input, name):
                raise AttributeError(
                    f"{type(self)}.get_transform needs input attribute '{name}', "
                    f"but it is not an attribute of {type(aug_input)}!"
                )
            args.append(getattr(aug_input, name))
        tfm = self.get_transform(*args)
        assert isinstance(tfm, Transform), f"{type(self).__name__}.get_transform gave {type(tfm)}, wanted a Transform"
        aug_input.transform(tfm)
        return tfm

    def __repr__(self) -> str:
        """``MyAugmentation(field=value)`` with the constructor's arguments that differ from their defaults."""
        shown = []
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            if name != "self" and hasattr(self, name) and getattr(self, name) is not parameter.default:
                shown.append(f"{name}={getattr(self, name)!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class _TransformToAug(Augmentation):
    """A fixed transform in the place of an augmentation."""

    def __init__(self, tfm: Transform) -> None:
        self.tfm = tfm

    def get_transform(self) -> Transform:
        return self.tfm

    def __repr__(self) -> str:
        return repr(self.tfm)


class AugmentationList(Augmentation):
    """Augmentations (or fixed transforms) one after the other, each seeing what the last one left."""

    def __init__(self, augs: list[Augmentation | Transform]) -> None:
        self.augs = [a if isinstance(a, Augmentation) else _TransformToAug(a) for a in augs]

    def __call__(self, aug_input: AugInput) -> TransformList:
        """See `Augmentation.__call__`."""
        return TransformList([aug(aug_input) for aug in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(map(repr, self.augs))}]"


class AugInput:
    """An image, and optionally its boxes and label image, transformed together.

    Args:
        image: (H, W) or (H, W, C), uint8 in 0..255 or float in 0..1 or 0..255.
        boxes: float32 (N, 4) XYXY in absolute pixels.
        sem_seg: (H, W) integer labels.
    """

    def __init__(
        self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None
    ) -> None:
        assert isinstance(image, np.ndarray), f"AugInput needs a numpy array, got {type(image)}"
        assert image.ndim in (2, 3), f"AugInput needs an image (H, W) or (H, W, C), got the shape {image.shape}"
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Transform everything in place."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)
