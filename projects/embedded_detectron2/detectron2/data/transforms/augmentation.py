"""Augmentations: objects that choose a transform for an input, usually at random."""

from __future__ import annotations

import inspect

import numpy as np
from fvcore.transforms.transform import Transform, TransformList


class Augmentation:
    """Base class of augmentations.

    A subclass defines ``get_transform(self, image, ...)``. Its arguments are attributes of the `AugInput` by name.
    Random numbers come from numpy's global generator.
    """

    def _init(self, params: dict | None = None) -> None:
        """Set a constructor's ``locals()`` as attributes."""
        for key, value in (params or {}).items():
            if key != "self" and not key.startswith("_"):
                setattr(self, key, value)

    def _rand_range(self, low: float = 1.0, high: float | None = None, size: int | None = None):
        """Draw uniformly from [low, high), or from [0, low) if ``high`` is None."""
        low, high = (0, low) if high is None else (low, high)
        return np.random.uniform(low, high, [] if size is None else size)

    def get_transform(self, *args) -> Transform:
        """Return the transform for an input."""
        raise NotImplementedError(f"{type(self).__name__} must define get_transform()")

    def __call__(self, aug_input: AugInput) -> Transform:
        """Transform ``aug_input`` in place, and return the transform.

        Raises:
            AttributeError: ``get_transform`` has an argument that is not an attribute of the input.
            TypeError: ``get_transform`` has an argument like ``*args``.
        """
        args = []
        for name, parameter in inspect.signature(self.get_transform).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise TypeError(f"{type(self).__name__}.get_transform has '*{name}', expected named arguments only")
            if not hasattr(aug_input, name):
                raise AttributeError(
                    f"{type(self)}.get_transform needs input attribute '{name}', "
                    f"but it is not an attribute of {type(aug_input)}!"
                )
            args.append(getattr(aug_input, name))
        tfm = self.get_transform(*args)
        assert isinstance(tfm, Transform), f"{type(self).__name__}.get_transform returned a {type(tfm)}, no Transform"
        aug_input.transform(tfm)
        return tfm

    def __repr__(self) -> str:
        """Show the constructor's arguments that differ from their defaults."""
        shown = []
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            if name != "self" and hasattr(self, name) and getattr(self, name) is not parameter.default:
                shown.append(f"{name}={getattr(self, name)!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class _TransformToAug(Augmentation):
    """A fixed transform as an augmentation."""

    def __init__(self, tfm: Transform) -> None:
        self.tfm = tfm

    def get_transform(self) -> Transform:
        return self.tfm

    def __repr__(self) -> str:
        return repr(self.tfm)


class AugmentationList(Augmentation):
    """A sequence of augmentations or fixed transforms. Each is applied to the result of the one before."""

    def __init__(self, augs: list[Augmentation | Transform]) -> None:
        self.augs = [a if isinstance(a, Augmentation) else _TransformToAug(a) for a in augs]

    def __call__(self, aug_input: AugInput) -> TransformList:
        """Transform ``aug_input`` in place, and return the transforms."""
        return TransformList([aug(aug_input) for aug in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(map(repr, self.augs))}]"


class AugInput:
    """An image and optionally its boxes and label image, which are transformed together.

    Args:
        image: (H, W) or (H, W, C), uint8 in 0..255, or float in 0..1 or 0..255.
        boxes: float32 (N, 4) XYXY in absolute pixels.
        sem_seg: (H, W) integer labels.
    """

    def __init__(
        self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None
    ) -> None:
        assert isinstance(image, np.ndarray), f"the image of AugInput is a {type(image)}, expected a numpy array"
        assert image.ndim in (2, 3), f"image has the shape {image.shape}, expected (H, W) or (H, W, C)"
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Apply ``tfm`` to the image, the boxes and the label image."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)
