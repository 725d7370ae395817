"""A batch of images of different sizes as one padded tensor."""

from __future__ import annotations

import torch
from torch.nn import functional as F


class ImageList:
    """Padded images.

    Attributes:
        tensor: (N, ..., H, W).
        image_sizes: (height, width) of each image before padding.
    """

    def __init__(self, tensor: torch.Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> torch.Tensor:
        """Return image ``idx`` without its padding."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args, **kwargs) -> ImageList:
        """Return the batch on another device or with another dtype."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        """Device of the tensor."""
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: list[torch.Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> ImageList:
        """Pad images at the right and bottom to a common size.

        Args:
            tensors: images (C, H_i, W_i).
            size_divisibility: the common height and width become multiples of it. 0 pads to the largest image only.
            padding_constraints: a backbone's ``{"size_divisibility": n, "square_size": s}``, which replaces
                ``size_divisibility``. With s > 0 the common size is (s, s).
        """
        constraints = padding_constraints or {}
        divisor = constraints.get("size_divisibility", size_divisibility)
        sizes = [(int(t.shape[-2]), int(t.shape[-1])) for t in tensors]
        height, width = max(s[0] for s in sizes), max(s[1] for s in sizes)
        if constraints.get("square_size", 0) > 0:
            height = width = constraints["square_size"]
        if divisor > 1:
            height, width = (-(-side // divisor) * divisor for side in (height, width))
        padded = [F.pad(t, (0, width - w, 0, height - h), value=pad_value) for t, (h, w) in zip(tensors, sizes)]
        return ImageList(torch.stack(padded).contiguous(), sizes)
