"""The semi-convolutional operator Psi_u = f(Phi_u, u): a convolution's output Phi_u mixed with the pixel's position u.

Novotny et al., "Semi-convolutional operators for instance segmentation", ECCV 2018, section 3.2, equation 4.
"""

from __future__ import annotations

import torch
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

MIXING_REGISTRY = Registry("SEMICONV_MIXING")
MIXING_REGISTRY.__doc__ = """
Mixing functions f that ``MODEL.SEMICONV.MIXING`` can name. An entry maps Phi (N, D, H, W) and coordinates u
(N or 1, 2, H, W), x before y, to Psi (N, D, H, W).
"""


@MIXING_REGISTRY.register()
def additive(phi: Tensor, coordinates: Tensor) -> Tensor:
    """Return Psi_u = (u_x, u_y, 0, ..., 0) + Phi_u, the form that the paper uses.

    The first two dimensions are geometric, the others describe appearance.
    """
    return torch.cat((phi[:, :2] + coordinates, phi[:, 2:]), 1)


@MIXING_REGISTRY.register()
def convolutional(phi: Tensor, coordinates: Tensor) -> Tensor:
    """Return Psi_u = Phi_u, without the position.

    This is the baseline: section 3.1 shows that it cannot tell copies of an object apart.
    """
    return phi


def map_coordinates(
    size: tuple[int, int], stride: float, origin: tuple[float, float] = (0.0, 0.0), device: torch.device | None = None
) -> Tensor:
    """Compute where the centers of a feature map's pixels lie in the input image.

    Args:
        size: (H, W) of the feature map.
        stride: of the feature map, in input pixels. As in ``ROIAlign`` with ``aligned=True``, map pixel i covers
            [i, i + 1) * stride.
        origin: (x, y) of the feature map's upper left corner, in input pixels. Not (0, 0) for a map of a crop.
        device: of the result.

    Returns:
        float32 (2, H, W), x before y, in input pixels.
    """
    y, x = (
        (torch.arange(length, dtype=torch.float32, device=device) + 0.5) * stride + start
        for length, start in zip(size, origin[::-1])
    )
    return torch.stack((x.expand(len(y), -1), y[:, None].expand(-1, len(x))))


def box_coordinates(boxes: Tensor, size: int) -> Tensor:
    """Compute the centers of the cells of a ``size`` x ``size`` grid over each box.

    Args:
        boxes: float (R, 4), XYXY in input pixels.
        size: S, cells per side.

    Returns:
        float (R, 2, S, S), x before y, in input pixels.
    """
    fractions = (torch.arange(size, dtype=boxes.dtype, device=boxes.device) + 0.5) / size
    x, y = (boxes[:, :2, None] + (boxes[:, 2:] - boxes[:, :2])[..., None] * fractions).unbind(1)
    return torch.stack((x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)), 1)


def upsample_maps(maps: Tensor, stride: int, image_size: tuple[int, int]) -> Tensor:
    """Upsample feature maps bilinearly to the input image and cut off the padding.

    To get Psi of every image pixel, upsample Phi and then add the exact coordinates.

    Args:
        maps: float (N, C, h, w).
        stride: of the maps, in input pixels.
        image_size: (H, W) of the input image without padding.

    Returns:
        float (N, C, H, W).
    """
    full = F.interpolate(maps, scale_factor=float(stride), mode="bilinear", align_corners=False)
    return full[..., : image_size[0], : image_size[1]]


class SemiConv(nn.Module):
    """Make the output of any convolution semi-convolutional. The module has no parameters.

    A pixel of the image has the same coordinates at every level and stride, with any padding to the right and below.
    If Phi is float16 or bfloat16, Psi is float32: half precision cannot represent the coordinates of a large image.

    Args:
        pixels_per_unit: coordinates are input pixels divided by this, so that they have about the range of a layer's
            output.
        mixing: name of f in ``MIXING_REGISTRY``.
    """

    def __init__(self, pixels_per_unit: float = 32.0, mixing: str = "additive") -> None:
        super().__init__()
        if not pixels_per_unit > 0:
            raise ValueError(f"pixels_per_unit is {pixels_per_unit}, expected a number above 0")
        self.pixels_per_unit, self.mix = pixels_per_unit, MIXING_REGISTRY.get(mixing)

    def forward(self, phi: Tensor, stride: float, origin: tuple[float, float] = (0.0, 0.0)) -> Tensor:
        """Compute Psi of feature maps.

        Args:
            phi: Phi, float (N, D, H, W) with D >= 2.
            stride, origin: see :func:`map_coordinates`.

        Returns:
            Psi, float (N, D, H, W).

        Raises:
            ValueError: ``phi`` has another shape.
        """
        phi = self._checked(phi)
        coordinates = map_coordinates(phi.shape[-2:], stride, origin, phi.device)
        return self.add_coordinates(phi, coordinates[None])

    def on_boxes(self, phi: Tensor, boxes: Tensor) -> Tensor:
        """Compute Psi of pooled regions.

        Args:
            phi: Phi, float (R, D, S, S) with D >= 2.
            boxes: the regions, float (R, 4), XYXY in input pixels.

        Returns:
            Psi, float (R, D, S, S).

        Raises:
            ValueError: ``phi`` has another shape, or there is not one box per region.
        """
        phi = self._checked(phi)
        if phi.shape[-1] != phi.shape[-2] or len(boxes) != len(phi):
            raise ValueError(
                f"Phi has shape {tuple(phi.shape)} and boxes {tuple(boxes.shape)}, expected (R, D, S, S) and (R, 4)"
            )
        return self.add_coordinates(phi, box_coordinates(boxes, phi.shape[-1]))

    def add_coordinates(self, phi: Tensor, coordinates: Tensor) -> Tensor:
        """Compute Psi from Phi, float (N, D, ...), and its places (N, 2, ...), x before y, in input pixels."""
        return self.mix(phi, (coordinates / self.pixels_per_unit).to(phi.dtype))

    @staticmethod
    def _checked(phi: Tensor) -> Tensor:
        """Check the shape and return Phi in at least float32."""
        if phi.dim() != 4 or phi.shape[1] < 2:
            raise ValueError(f"Phi has shape {tuple(phi.shape)}, expected (N, D, H, W) with D >= 2")
        return phi.to(torch.promote_types(phi.dtype, torch.float32))

    def extra_repr(self) -> str:
        """Describe the module for ``print(model)``."""
        return f"{self.mix.__name__}, pixels_per_unit={self.pixels_per_unit:g}"
