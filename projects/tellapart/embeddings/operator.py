"""The semi-convolutional operator: Psi_u = f(Phi_u, u), a convolution's output mixed with the pixel's own place
(Novotny et al., "Semi-convolutional operators for instance segmentation", ECCV 2018, section 3.2, equation 4)."""

from __future__ import annotations

import torch
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

MIXING_REGISTRY = Registry("SEMICONV_MIXING")
MIXING_REGISTRY.__doc__ = """
Mixing functions f by ``MODEL.SEMICONV.MIXING``: ``(embeddings (N, D, H, W), coordinates (N or 1, 2, H, W)) -> (N, D, H,
W)``; coordinates are x and y.
"""


@MIXING_REGISTRY.register()
def additive(embeddings: Tensor, coordinates: Tensor) -> Tensor:
    """The paper's: Psi_u = (u_x, u_y, 0, ..., 0) + Phi_u. The first two dimensions are geometric, the others
    appearance."""
    return torch.cat((embeddings[:, :2] + coordinates, embeddings[:, 2:]), 1)


@MIXING_REGISTRY.register()
def convolutional(embeddings: Tensor, coordinates: Tensor) -> Tensor:
    """No mixing: Psi_u = Phi_u, what the paper shows to be unable to tell copies apart (section 3.1)."""
    return embeddings


def map_coordinates(
    size: tuple[int, int], stride: float, origin: tuple[float, float] = (0.0, 0.0), device: torch.device | None = None
) -> Tensor:
    """Where the centres of a map's pixels lie in the input image, in its pixels: (2, H, W), x then y, float32.

    Args:
        size: (H, W) of the map.
        stride: input pixels a map pixel; pixel i covers [i, i + 1) * stride, as ``ROIAlign`` (aligned) has it.
        origin: (x, y) of the map's corner in the image's pixels; not 0 for a map of a crop.
        device: where to put it.
    """
    y, x = (
        (torch.arange(length, dtype=torch.float32, device=device) + 0.5) * stride + start
        for length, start in zip(size, origin[::-1])
    )
    return torch.stack((x.expand(len(y), -1), y[:, None].expand(-1, len(x))))


def box_coordinates(boxes: Tensor, size: int) -> Tensor:
    """Where the centres of the cells of a size x size grid over each box (R, 4) XYXY lie: (R, 2, size, size), x then y,
    in the boxes' pixels."""
    steps = (torch.arange(size, dtype=boxes.dtype, device=boxes.device) + 0.5) / size
    places = boxes[:, :2, None] + (boxes[:, 2:] - boxes[:, :2])[..., None] * steps
    x, y = places.unbind(1)
    return torch.stack((x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)), 1)


def enlarged(maps: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Maps (N, C, h, w) of this stride, bilinear at the pixels of an image of ``size`` (height, width): (N, C, H, W).
    For Psi enlarge Phi, then add the exact places."""
    full = F.interpolate(maps, scale_factor=float(stride), mode="bilinear", align_corners=False)
    return full[..., : size[0], : size[1]]


class SemiConv(nn.Module):
    """Makes the output of any convolution semi-convolutional. It has no parameters.

    Args:
        pixels_per_unit: coordinates are the input image's pixels divided by this, so that an embedding has about the
            range of a layer's output.
        mixing: a name of ``MIXING_REGISTRY``.
    """

    def __init__(self, pixels_per_unit: float = 32.0, mixing: str = "additive") -> None:
        super().__init__()
        if not pixels_per_unit > 0:
            raise ValueError(f"pixels_per_unit is {pixels_per_unit}, wanted above 0")
        self.pixels_per_unit, self.mix = pixels_per_unit, MIXING_REGISTRY.get(mixing)

    def forward(self, embeddings: Tensor, stride: float, origin: tuple[float, float] = (0.0, 0.0)) -> Tensor:
        """Psi of maps: Phi (N, D, H, W), D >= 2, to Psi of the same shape. ``stride`` and ``origin``: see
        ``map_coordinates``. Whatever the level, stride and padding (right and below), an image's pixel has one place.
        Psi of Phi in half precision is float32, as half of it cannot hold the places of a large image.
        """
        embeddings = self._checked(embeddings)
        places = map_coordinates(embeddings.shape[-2:], stride, origin, embeddings.device)
        return self.mix(embeddings, (places[None] / self.pixels_per_unit).to(embeddings.dtype))

    def on_boxes(self, embeddings: Tensor, boxes: Tensor) -> Tensor:
        """Psi of regions: Phi (R, D, S, S) over boxes (R, 4), XYXY in the input image's pixels; see above."""
        embeddings = self._checked(embeddings)
        if embeddings.shape[-1] != embeddings.shape[-2] or len(boxes) != len(embeddings):
            raise ValueError(f"embeddings {tuple(embeddings.shape)} of boxes {tuple(boxes.shape)}, wanted (R, D, S, S)")
        places = box_coordinates(boxes, embeddings.shape[-1])
        return self.mix(embeddings, (places / self.pixels_per_unit).to(embeddings.dtype))

    @staticmethod
    def _checked(embeddings: Tensor) -> Tensor:
        if embeddings.dim() != 4 or embeddings.shape[1] < 2:
            raise ValueError(f"embeddings are {tuple(embeddings.shape)}, wanted (N, D, H, W) with D >= 2")
        return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        return f"{self.mix.__name__}, pixels_per_unit={self.pixels_per_unit:g}"
