"""Masks as crops: the same RLE and pixels as whole masks."""

from __future__ import annotations

from tellapart.inference.mask_crops import MaskCrops

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask


def random_masks(seed: int, number: int = 20, height: int = 37, width: int = 53) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    masks = np.zeros((number, height, width), bool)
    for mask in masks:
        y0, y1 = sorted(rng.integers(0, height + 1, 2))
        x0, x1 = sorted(rng.integers(0, width + 1, 2))
        mask[y0:y1, x0:x1] = rng.random((y1 - y0, x1 - x0)) < rng.choice([0.3, 1.0])
    return torch.from_numpy(masks)


@pytest.mark.parametrize("seed", range(5))
def test_rles_are_those_of_pycocotools(seed):
    masks = random_masks(seed)
    masks[0], masks[1] = False, True  # empty, and full from the first to the last pixel
    expected = coco_mask.encode(np.asfortranarray(masks.numpy().transpose(1, 2, 0).view(np.uint8)))
    assert MaskCrops.from_masks(masks).to_rles() == expected


def test_crops_decode_to_the_masks():
    masks = random_masks(7)
    crops = MaskCrops.from_masks(masks)
    assert torch.equal(crops.to_tensor(), masks)
    assert all(np.array_equal(one, mask) for one, mask in zip(crops, masks.numpy()))
    assert np.array_equal(crops.areas(), masks.sum((1, 2)).numpy())
    assert crops.common_pixels(2, 3) == int((masks[2] & masks[3]).sum())


def test_indexing_and_joining():
    masks = random_masks(8)
    crops = MaskCrops.from_masks(masks)
    chosen = torch.tensor([True, False] * 10)
    assert torch.equal(crops[chosen].to_tensor(), masks[chosen])
    assert torch.equal(MaskCrops.cat([crops[:3], crops[3:]]).to_tensor(), masks)
    moved = crops.moved(5, 9, (50, 60)).to_tensor()
    assert torch.equal(moved[:, 9:46, 5:58], masks) and moved.sum() == masks.sum()


def test_no_masks():
    crops = MaskCrops.from_masks(torch.zeros(0, 4, 5, dtype=torch.bool))
    assert len(crops) == 0 and crops.to_rles() == [] and crops.to_tensor().shape == (0, 4, 5)
