"""Compressed RLEs are checked as pycocotools would decode them, without handing it a broken one."""

import tellapart  # noqa: F401
from tellapart.data.rle import check_compressed_rles

import numpy as np
import pytest
from pycocotools import mask as coco_mask


def random_masks(seed, count=60):
    rng = np.random.default_rng(seed)
    for i in range(count):
        height, width = rng.integers(1, 60, 2)
        mask = rng.random((height, width)) < rng.random()
        if i % 3 == 0:
            mask[:] = False
            mask[height // 4 : height // 2 + 1, width // 3 : width // 2 + 1] = True
        yield mask


def encode(mask):
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]


def test_valid_ones_and_their_areas():
    masks = [*random_masks(0), np.zeros((5, 7), bool), np.ones((5, 7), bool), np.ones((2000, 3000), bool)]
    valid, areas = check_compressed_rles([encode(mask) for mask in masks], [mask.size for mask in masks])
    assert valid.all() and areas.tolist() == [mask.sum() for mask in masks]


def test_str_and_bytes_are_equal():
    mask = next(random_masks(1))
    for counts in (encode(mask), encode(mask).decode()):
        assert check_compressed_rles([counts], [mask.size])[0].tolist() == [True]


@pytest.mark.parametrize("off", [-1, 1])
def test_another_number_of_pixels(off):
    masks = list(random_masks(2))
    valid, areas = check_compressed_rles([encode(mask) for mask in masks], [mask.size + off for mask in masks])
    assert not valid.any() and not areas.any()


def test_cut_ones_do_not_disturb_their_neighbors():
    masks = list(random_masks(3))
    strings = [encode(mask) if i % 2 else encode(mask)[: len(encode(mask)) // 2] for i, mask in enumerate(masks)]
    valid, _ = check_compressed_rles(strings, [mask.size for mask in masks])
    assert valid.tolist() == [i % 2 == 1 for i in range(len(masks))]


@pytest.mark.parametrize("text", ["", "é", "\x00", "~", "!", "PPPPPPPPPPPPPPPPP", "o" * 30 + "0", "4" * 5, "11O"])
def test_broken_ones(text):
    assert check_compressed_rles([text], [4])[0].tolist() == [False]


def test_none():
    valid, areas = check_compressed_rles([], [])
    assert valid.shape == areas.shape == (0,)
