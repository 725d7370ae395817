"""Axis-aligned boxes and their overlaps."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum, unique

import numpy as np
import torch
import torchvision

from detectron2._missing import not_included


@unique
class BoxMode(IntEnum):
    """What the numbers of a box mean."""

    XYXY_ABS = 0
    XYWH_ABS = 1
    XYXY_REL = 2
    XYWH_REL = 3
    XYWHA_ABS = 4

    @staticmethod
    def convert(box, from_mode: BoxMode, to_mode: BoxMode):
        """Convert boxes between ``XYXY_ABS`` and ``XYWH_ABS``.

        Args:
            box: tuple or list of 4 numbers, or array or tensor (N, 4).

        Returns:
            The converted boxes, in the same type of container as ``box``.

        Raises:
            ValueError: a tuple or list does not have 4 numbers.
            NotImplementedError: one of the modes is another one.
        """
        if from_mode == to_mode:
            return box
        if isinstance(box, (list, tuple)):
            if len(box) != 4:
                raise ValueError(f"box {box} has {len(box)} numbers, expected 4")
            # float32 also for integers, so that a later resize keeps fractions of pixels
            values = torch.tensor(box, dtype=torch.float32)[None]
        else:
            values = torch.as_tensor(box).clone()
        modes = (BoxMode(from_mode), BoxMode(to_mode))
        if modes == (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS):
            values[..., 2:] += values[..., :2]
        elif modes == (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
            values[..., 2:] -= values[..., :2]
        else:
            raise not_included(f"Converting boxes from {modes[0].name} to {modes[1].name}")
        if isinstance(box, (list, tuple)):
            return type(box)(values[0].tolist())
        return values.numpy() if isinstance(box, np.ndarray) else values


class Boxes:
    """Boxes as a float32 tensor (N, 4), XYXY in absolute pixels."""

    def __init__(self, tensor: torch.Tensor) -> None:
        if not isinstance(tensor, torch.Tensor):
            tensor = torch.as_tensor(np.asarray(tensor), dtype=torch.float32)
        tensor = tensor.to(torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 4)
        if tensor.dim() != 2 or tensor.shape[-1] != 4:
            raise AssertionError(f"boxes have the shape {tuple(tensor.shape)}, expected (N, 4)")
        self.tensor = tensor

    def clone(self) -> Boxes:
        """Return a copy that shares no memory."""
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device) -> Boxes:
        """Return the boxes on another device."""
        return Boxes(self.tensor.to(device=device))

    def area(self) -> torch.Tensor:
        """Return the areas in square pixels, (N,)."""
        return (self.tensor[:, 2] - self.tensor[:, 0]) * (self.tensor[:, 3] - self.tensor[:, 1])

    def clip(self, box_size: tuple[int, int]) -> None:
        """Clip the boxes in place to an image of size ``box_size`` (height, width)."""
        if not torch.isfinite(self.tensor).all():
            raise AssertionError("boxes have infinite or NaN coordinates, expected finite ones")
        height, width = box_size
        x = self.tensor[:, 0::2].clamp(min=0, max=width)
        y = self.tensor[:, 1::2].clamp(min=0, max=height)
        self.tensor = torch.stack((x[:, 0], y[:, 0], x[:, 1], y[:, 1]), dim=-1)

    def nonempty(self, threshold: float = 0.0) -> torch.Tensor:
        """Return bool (N,): whether both sides of a box are longer than ``threshold`` pixels."""
        return ((self.tensor[:, 2:] - self.tensor[:, :2]) > threshold).all(dim=1)

    def __getitem__(self, item) -> Boxes:
        """Select boxes by an int (result (1, 4)), a slice, or a tensor of bools or indices."""
        if isinstance(item, int):
            return Boxes(self.tensor[item].view(1, -1))
        picked = self.tensor[item]
        if picked.dim() != 2:
            raise AssertionError(f"indexing boxes with {item!r} returned {tuple(picked.shape)}, expected (N, 4)")
        return Boxes(picked)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> torch.Tensor:
        """Return bool (N,): whether a box is inside an image.

        Args:
            box_size: (height, width) of the image.
            boundary_threshold: pixels by which a box may extend beyond the image.
        """
        height, width = box_size
        low = self.tensor[:, :2] >= -boundary_threshold
        high = self.tensor[:, 2:] < self.tensor.new_tensor([width, height]) + boundary_threshold
        return (low & high).all(dim=1)

    def get_centers(self) -> torch.Tensor:
        """Return the centers (N, 2) as x, y."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply the x and y coordinates in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @classmethod
    def cat(cls, boxes_list: list[Boxes]) -> Boxes:
        """Concatenate a list of ``Boxes``, which may be empty."""
        if not all(isinstance(boxes, Boxes) for boxes in boxes_list):
            raise AssertionError("Boxes.cat takes a list of Boxes")
        if len(boxes_list) == 0:
            return cls(torch.empty(0, 4))
        return cls(torch.cat([boxes.tensor for boxes in boxes_list], dim=0))

    @property
    def device(self) -> torch.device:
        """Device of the tensor."""
        return self.tensor.device

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from self.tensor


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Return the intersection over union, (N, M). It is 0 between boxes without area."""
    return torchvision.ops.box_iou(boxes1.tensor, boxes2.tensor).nan_to_num_(0.0)
