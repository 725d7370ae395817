"""Axis-aligned boxes, XYXY in absolute pixels, and overlaps between them."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum, unique

import numpy as np
import torch
import torchvision

from detectron2._missing import not_included


@unique
class BoxMode(IntEnum):
    """How the numbers of a box are to be read."""

    XYXY_ABS = 0
    XYWH_ABS = 1
    XYXY_REL = 2
    XYWH_REL = 3
    XYWHA_ABS = 4

    @staticmethod
    def convert(box, from_mode: BoxMode, to_mode: BoxMode):
        """Convert between ``XYXY_ABS`` and ``XYWH_ABS``.

        Args:
            box: a tuple or list of 4 numbers, or an array or tensor (N, 4).

        Returns:
            The same kind of container as ``box``.

        Raises:
            ValueError: a sequence that is not 4 long.
            NotImplementedError: another pair of modes.
        """
        if from_mode == to_mode:
            return box
        if isinstance(box, (list, tuple)):
            if len(box) != 4:
                raise ValueError(f"a box has 4 numbers, got {len(box)}: {box}")
            # float32 as the real one makes of floats; of integers it would cut what resizing leaves behind the point
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
    """N boxes as a float tensor (N, 4), XYXY, absolute pixels."""

    def __init__(self, tensor: torch.Tensor) -> None:
        if not isinstance(tensor, torch.Tensor):
            tensor = torch.as_tensor(np.asarray(tensor), dtype=torch.float32)
        tensor = tensor.to(torch.float32)
        if tensor.numel() == 0:
            # an empty list of boxes still needs its second axis
            tensor = tensor.reshape(-1, 4)
        if tensor.dim() != 2 or tensor.shape[-1] != 4:
            raise AssertionError(f"boxes must have the shape (N, 4), got {tuple(tensor.shape)}")
        self.tensor = tensor

    def clone(self) -> Boxes:
        """A copy that shares no memory."""
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device) -> Boxes:
        """The boxes on another device."""
        return Boxes(self.tensor.to(device=device))

    def area(self) -> torch.Tensor:
        """Areas in square pixels, (N,)."""
        return (self.tensor[:, 2] - self.tensor[:, 0]) * (self.tensor[:, 3] - self.tensor[:, 1])

    def clip(self, box_size: tuple[int, int]) -> None:
        """Clip in place to an image of ``box_size`` = (height, width)."""
        if not torch.isfinite(self.tensor).all():
            raise AssertionError("boxes hold infinite or NaN coordinates")
        height, width = box_size
        x = self.tensor[:, 0::2].clamp(min=0, max=width)
        y = self.tensor[:, 1::2].clamp(min=0, max=height)
        self.tensor = torch.stack((x[:, 0], y[:, 0], x[:, 1], y[:, 1]), dim=-1)

    def nonempty(self, threshold: float = 0.0) -> torch.Tensor:
        """Bool (N,): both sides are longer than ``threshold`` pixels."""
        return ((self.tensor[:, 2:] - self.tensor[:, :2]) > threshold).all(dim=1)

    def __getitem__(self, item) -> Boxes:
        """The boxes that an int, slice, bool or index tensor picks; an int gives one box, still (1, 4)."""
        if isinstance(item, int):
            return Boxes(self.tensor[item].view(1, -1))
        picked = self.tensor[item]
        if picked.dim() != 2:
            raise AssertionError(f"indexing boxes with {item!r} must give a 2-d tensor, gave {tuple(picked.shape)}")
        return Boxes(picked)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> torch.Tensor:
        """Bool (N,): inside an image of (height, width), by at most ``boundary_threshold`` pixels outside."""
        height, width = box_size
        low = self.tensor[:, :2] >= -boundary_threshold
        high = self.tensor[:, 2:] < self.tensor.new_tensor([width, height]) + boundary_threshold
        return (low & high).all(dim=1)

    def get_centers(self) -> torch.Tensor:
        """Centres (N, 2) as x, y."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply the coordinates in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @classmethod
    def cat(cls, boxes_list: list[Boxes]) -> Boxes:
        """One ``Boxes`` out of several; none at all gives an empty one."""
        if not all(isinstance(boxes, Boxes) for boxes in boxes_list):
            raise AssertionError("Boxes.cat takes a list of Boxes")
        if len(boxes_list) == 0:
            return cls(torch.empty(0, 4))
        return cls(torch.cat([boxes.tensor for boxes in boxes_list], dim=0))

    @property
    def device(self) -> torch.device:
        """The tensor's device."""
        return self.tensor.device

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from self.tensor


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Intersection over union, (N, M); 0 where boxes do not touch (zero-area ones too)."""
    return torchvision.ops.box_iou(boxes1.tensor, boxes2.tensor).nan_to_num_(0.0)
