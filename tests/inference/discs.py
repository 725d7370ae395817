"""Images of discs, and a model that sees exactly the discs of its input: for tests of tiles."""

from __future__ import annotations

from tellapart.masks import tight_boxes

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from scipy import ndimage
from torch import nn


def disc_grid(rows: int, columns: int, pitch: int = 20, radius: float = 7.3, seed: int = 0) -> np.ndarray:
    """Return an image, uint8 (H, W), of rows x columns white discs that do not touch, at random offsets."""
    rng = np.random.default_rng(seed)
    image = np.zeros((rows * pitch, columns * pitch), np.uint8)
    y, x = np.mgrid[:pitch, :pitch] + 0.5
    for i in range(rows):
        for j in range(columns):
            cy, cx = pitch / 2 + rng.uniform(-1.5, 1.5, 2)
            inside = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
            image[i * pitch : (i + 1) * pitch, j * pitch : (j + 1) * pitch][inside] = 255
    return image


class ComponentModel(nn.Module):
    """Returns every connected bright region of its input as an instance; larger regions have higher scores."""

    def forward(self, inputs: list[dict]) -> list[dict]:
        outputs = []
        for one in inputs:
            bright = one["image"][0].numpy() > 127
            labels, number = ndimage.label(bright)
            masks = torch.from_numpy(labels[None] == np.arange(1, number + 1)[:, None, None])
            size = one["height"], one["width"]
            if number and masks.shape[1:] != size:
                masks = nn.functional.interpolate(masks[:, None].float(), size, mode="nearest-exact")[:, 0] > 0.5
            instances = Instances(size)
            masks = masks.reshape(-1, *size)
            instances.pred_boxes = tight_boxes(masks) if number else Boxes(torch.zeros(0, 4))
            areas = masks.sum((1, 2)).float()
            instances.scores = areas / (areas + 10.0)
            instances.pred_classes = torch.zeros(number, dtype=torch.int64)
            instances.pred_masks = masks
            order = torch.argsort(instances.scores, descending=True, stable=True)
            outputs.append({"instances": instances[order]})
        return outputs
