"""Instance masks as bitmaps and as polygons."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pycocotools.mask as mask_util
import torch

from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.layers.roi_align import ROIAlign

from .boxes import Boxes


def polygons_to_bitmask(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Rasterize the polygons of one instance.

    Args:
        polygons: flat arrays x0, y0, x1, y1, ... in pixels.
        height: of the mask, in pixels.
        width: of the mask, in pixels.

    Returns:
        Bool mask (height, width).
    """
    if len(polygons) == 0:
        return np.zeros((height, width), dtype=bool)
    rles = mask_util.frPyObjects([np.asarray(p, dtype=np.float64).tolist() for p in polygons], height, width)
    return mask_util.decode(mask_util.merge(rles)).astype(bool)


def rasterize_polygons_within_box(polygons: list[np.ndarray], box: np.ndarray, mask_size: int) -> torch.Tensor:
    """Rasterize the part of the polygons inside a box.

    Args:
        polygons: flat arrays x0, y0, x1, y1, ... in pixels of the image.
        box: (4,), XYXY in pixels of the image.
        mask_size: side of the result.

    Returns:
        Bool tensor (mask_size, mask_size).
    """
    width, height = box[2] - box[0], box[3] - box[1]
    # At least 0.1 pixels, so that a box without area does not divide by 0.
    scale = mask_size / np.maximum(np.array([width, height], dtype=np.float64), 0.1)
    shifted = [((np.asarray(p).reshape(-1, 2) - box[:2]) * scale).reshape(-1) for p in polygons]
    return torch.from_numpy(polygons_to_bitmask(shifted, mask_size, mask_size))


def _one_as_slice(item: int | slice | torch.Tensor) -> slice | torch.Tensor:
    return slice(item, item + 1 or None) if isinstance(item, int) else item


class _MaskTensor:
    """What ``BitMasks`` and ``ROIMasks`` share: one tensor, with a mask per instance."""

    tensor: torch.Tensor

    def to(self, *args, **kwargs):
        """Return the masks on another device."""
        return type(self)(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        """Device of the tensor."""
        return self.tensor.device

    def __getitem__(self, item: int | slice | torch.Tensor):
        return type(self)(self.tensor[_one_as_slice(item)])

    def __len__(self) -> int:
        return self.tensor.shape[0]


class BitMasks(_MaskTensor):
    """Masks of the size of the image, bool (N, H, W)."""

    def __init__(self, tensor: torch.Tensor | np.ndarray) -> None:
        tensor = torch.as_tensor(tensor).to(torch.bool)
        if tensor.dim() != 3:
            raise AssertionError(f"bit masks have the shape {tuple(tensor.shape)}, expected (N, H, W)")
        self.tensor = tensor
        self.image_size = tuple(tensor.shape[1:])

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from self.tensor

    def __repr__(self) -> str:
        return f"BitMasks(num_instances={len(self)})"

    def nonempty(self) -> torch.Tensor:
        """Return bool (N,): whether a mask has a pixel."""
        return self.tensor.flatten(1).any(dim=1)

    @staticmethod
    def from_polygon_masks(polygon_masks: PolygonMasks | list[list[np.ndarray]], height: int, width: int) -> BitMasks:
        """Rasterize the polygons of each instance to masks (height, width)."""
        polygons = polygon_masks.polygons if isinstance(polygon_masks, PolygonMasks) else polygon_masks
        masks = [polygons_to_bitmask(p, height, width) for p in polygons]
        return BitMasks(np.stack(masks) if masks else np.zeros((0, height, width), dtype=bool))

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Crop mask i to box i and resize it with ROIAlign.

        Args:
            boxes: (N, 4), XYXY in pixels.
            mask_size: side of the result.

        Returns:
            Bool (N, mask_size, mask_size): where the averaged mask is at least 0.5.
        """
        if len(boxes) != len(self):
            raise AssertionError(f"crop_and_resize got {len(boxes)} boxes for {len(self)} masks, expected one per mask")
        index = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)[:, None]
        rois = torch.cat([index, boxes], dim=1).to(torch.float32)
        align = ROIAlign((mask_size, mask_size), 1.0, 0, aligned=True)
        return align(self.tensor[:, None].to(device=boxes.device, dtype=torch.float32), rois).squeeze(1) >= 0.5

    def get_bounding_boxes(self) -> Boxes:
        """Return tight boxes around the masks: a single pixel has width 1, an empty mask the box 0, 0, 0, 0."""
        boxes = torch.zeros(len(self), 4, dtype=torch.float32)
        for axis, (low, high) in enumerate(((0, 2), (1, 3))):
            hit = self.tensor.any(dim=1 + axis).to(torch.uint8).cpu()
            if hit.shape[1] == 0:
                continue
            first, last = hit.argmax(dim=1), hit.shape[1] - hit.flip(1).argmax(dim=1)
            filled = hit.any(dim=1)
            boxes[:, low], boxes[:, high] = first * filled, last * filled
        return Boxes(boxes)

    @staticmethod
    def cat(bitmasks_list: list[BitMasks]) -> BitMasks:
        """Concatenate a list of ``BitMasks`` of the same size."""
        return BitMasks(torch.cat([b.tensor for b in bitmasks_list], dim=0))


class PolygonMasks:
    """Masks as polygons: per instance a list of flat float64 arrays x0, y0, x1, y1, ... in pixels."""

    def __init__(self, polygons: list[list[torch.Tensor | np.ndarray]]) -> None:
        if not isinstance(polygons, list):
            raise ValueError(f"polygons is a {type(polygons).__name__}, expected a list of lists of arrays")
        if not all(isinstance(instance, list) for instance in polygons):
            raise ValueError("an instance is not a list of polygons, expected a list of lists of arrays")
        self.polygons = [[self._checked(p, i) for p in instance] for i, instance in enumerate(polygons)]

    @staticmethod
    def _checked(polygon, instance: int) -> np.ndarray:
        if isinstance(polygon, torch.Tensor):
            polygon = polygon.cpu().numpy()
        polygon = np.asarray(polygon, dtype=np.float64).reshape(-1)
        if len(polygon) % 2 != 0 or len(polygon) < 6:
            raise ValueError(f"polygon of instance {instance} has {len(polygon)} numbers, expected an even number >= 6")
        return polygon

    def to(self, *args, **kwargs) -> PolygonMasks:
        """Return itself, because polygons stay on the CPU."""
        return self

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def get_bounding_boxes(self) -> Boxes:
        """Return tight boxes around the corners. The box of an instance without polygons is infinite."""
        boxes = torch.zeros(len(self), 4, dtype=torch.float32)
        for i, instance in enumerate(self.polygons):
            points = np.concatenate([p.reshape(-1, 2) for p in instance] or [np.zeros((0, 2))])
            low = points.min(axis=0, initial=np.inf)
            high = points.max(axis=0, initial=0.0)
            boxes[i] = torch.from_numpy(np.concatenate([low, high]))
        return Boxes(boxes)

    def nonempty(self) -> torch.Tensor:
        """Return bool (N,): whether an instance has a polygon."""
        return torch.tensor([len(p) > 0 for p in self.polygons], dtype=torch.bool)

    def __getitem__(self, item: int | slice | list[int] | torch.Tensor) -> PolygonMasks:
        if isinstance(item, int):
            picked = [self.polygons[item]]
        elif isinstance(item, slice):
            picked = self.polygons[item]
        else:
            if isinstance(item, torch.Tensor):
                if item.dtype == torch.bool:
                    if item.dim() != 1:
                        raise AssertionError(f"a bool index has the shape {tuple(item.shape)}, expected one dimension")
                    item = item.nonzero().squeeze(1)
                item = item.cpu().tolist()
            picked = [self.polygons[int(i)] for i in item]
        return PolygonMasks(picked)

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return iter(self.polygons)

    def __len__(self) -> int:
        return len(self.polygons)

    def __repr__(self) -> str:
        return f"PolygonMasks(num_instances={len(self)})"

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Rasterize the part of instance i inside box i.

        Args:
            boxes: (N, 4), XYXY in pixels.
            mask_size: side of the result.

        Returns:
            Bool (N, mask_size, mask_size).
        """
        if len(boxes) != len(self):
            raise AssertionError(f"crop_and_resize got {len(boxes)} boxes for {len(self)} masks, expected one per mask")
        masks = [
            rasterize_polygons_within_box(p, box, mask_size)
            for p, box in zip(self.polygons, boxes.detach().cpu().numpy())
        ]
        stacked = torch.stack(masks) if masks else torch.empty(0, mask_size, mask_size, dtype=torch.bool)
        return stacked.to(device=boxes.device)

    def area(self) -> torch.Tensor:
        """Return the areas in square pixels, (N,), by the shoelace formula. Polygons of an instance add up."""
        areas = [sum(_polygon_area(p) for p in instance) for instance in self.polygons]
        return torch.tensor(areas, dtype=torch.float64)

    @staticmethod
    def cat(polymasks_list: list[PolygonMasks]) -> PolygonMasks:
        """Concatenate a list of ``PolygonMasks``."""
        return PolygonMasks([copy.copy(p) for masks in polymasks_list for p in masks.polygons])


class ROIMasks(_MaskTensor):
    """Masks (N, S, S) relative to boxes; ``to_bitmasks`` pastes them. The pasting is a subclass's to change."""

    def __init__(self, tensor: torch.Tensor) -> None:
        if tensor.dim() != 3:
            raise ValueError(f"ROIMasks: shape {tuple(tensor.shape)}, expected (N, S, S)")
        self.tensor = tensor

    def to_bitmasks(self, boxes: Boxes, height: int, width: int, threshold: float = 0.5) -> BitMasks:
        """Paste the masks at ``boxes``, in pixels of an image of ``height`` x ``width``."""
        pasted = paste_masks_in_image(self.tensor, boxes.tensor, (height, width), threshold=threshold)
        return BitMasks(pasted.to(torch.bool))  # uint8 where there are none


def _polygon_area(polygon: np.ndarray) -> float:
    x, y = polygon[0::2], polygon[1::2]
    return 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))
