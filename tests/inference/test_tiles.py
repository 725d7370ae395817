"""Tiles: every object of an image is counted once, whole, whatever the tiles and their order."""

from __future__ import annotations

import math

import tellapart
from tellapart.data.image_source import ArraySource
from tellapart.inference.image_model import ImageModel, Tiling, choose_tiling, predict_tiles, to_detections
from tellapart.inference.mask_crops import MaskCrops
from tellapart.inference.merging import Detections, TileMerger
from tellapart.inference.tiles import TileGrid

import numpy as np
import pytest
from detectron2.config import get_cfg
from discs import ComponentModel, disc_grid
from scipy import ndimage


def image_model(min_size: int = 100) -> ImageModel:
    cfg = get_cfg()
    tellapart.add_config(cfg)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = min_size, 10_000
    return ImageModel(ComponentModel(), cfg)


def source_of(gray: np.ndarray) -> ArraySource:
    pixels = np.repeat(gray[..., None], 3, 2)
    return ArraySource(pixels, pixels)


def predict(gray: np.ndarray, tiling: Tiling) -> Detections:
    return Detections.cat(list(predict_tiles(image_model(), source_of(gray), tiling))).by_score()


def pixels_of(found: Detections) -> set[tuple]:
    boxes = found.masks.boxes.tolist()
    return {(*box, crop.tobytes()) for box, crop in zip(boxes, found.masks.crops)}


def regions(gray: np.ndarray) -> set[tuple]:
    """Return the connected regions of an image in the form of ``pixels_of``."""
    labels, _ = ndimage.label(gray > 127)
    windows = enumerate(ndimage.find_objects(labels), 1)
    return {(x.start, y.start, x.stop, y.stop, (labels[y, x] == i).tobytes()) for i, (y, x) in windows}


@pytest.mark.parametrize("length, tile, overlap", [(100, 30, 10), (101, 30, 29), (31, 30, 10), (30, 30, 5), (7, 30, 5)])
def test_a_grid_covers_the_image_with_the_overlap(length, tile, overlap):
    grid = TileGrid.cover(length, 50, tile, overlap)
    starts = np.array(grid.tops)
    assert starts[0] == 0 and starts[-1] + grid.tile_height == length
    assert (np.diff(starts) <= grid.tile_height - overlap).all()


def test_five_thousand_discs_are_counted_once():
    gray = disc_grid(50, 100)
    found = predict(gray, Tiling(256, 40, 1.0))
    assert len(found) == 5000
    assert pixels_of(found) == regions(gray)


@pytest.mark.parametrize("tile, overlap", [(64, 32), (101, 30), (150, 75)])
def test_instances_are_those_of_the_whole_image(tile, overlap):
    gray = disc_grid(12, 17, seed=1)
    assert pixels_of(predict(gray, Tiling(tile, overlap, 1.0))) == regions(gray)


def test_objects_longer_than_the_overlap_are_joined():
    gray = np.zeros((200, 400), np.uint8)
    gray[20:35, 10:390] = gray[60:180, 100:112] = gray[100:190, 200:330] = 255
    found = predict(gray, Tiling(100, 24, 1.0))
    assert pixels_of(found) == regions(gray)


def test_the_order_of_the_tiles_does_not_matter():
    gray = disc_grid(10, 10, seed=2)
    gray[93:107, 5:195] = 255
    model, grid = image_model(), TileGrid.cover(200, 200, 80, 30)
    parts = []
    for row in range(len(grid.tops)):
        for column in range(len(grid.lefts)):
            x0, y0, x1, y1 = grid.tile(row, column)
            one = to_detections(model(source_of(gray).window(x0, y0, x1, y1), (80, 80)))
            one.masks, one.boxes = one.masks.moved(x0, y0, (200, 200)), one.boxes + np.float32([x0, y0, x0, y0])
            parts.append((row, column, one))
    results = []
    for seed in range(4):
        merger = TileMerger(grid, 2.0)
        for i in np.random.default_rng(seed).permutation(len(parts)) if seed else range(len(parts)):
            merger.add(*parts[i])
        found = merger.settled()
        results.append((found.scores.tolist(), found.masks.boxes.tolist(), found.masks.to_rles()))
    assert all(result == results[0] for result in results)
    streamed = predict(gray, Tiling(80, 30, 1.0))
    assert streamed.masks.to_rles() == results[0][2]


def test_instances_are_returned_as_soon_as_they_cannot_change():
    parts = list(predict_tiles(image_model(), source_of(disc_grid(40, 5)), Tiling(100, 40, 1.0)))
    assert len(parts) > 5 and all(len(part) for part in parts) and sum(map(len, parts)) == 200


def test_of_two_whole_instances_the_one_of_higher_score_stays():
    grid = TileGrid.cover(100, 160, 100, 40)
    crops = [np.ones((10, 10), bool), np.ones((10, 11), bool)]
    merger = TileMerger(grid, 2.0)
    for column, (crop, score) in enumerate(zip(crops, (0.6, 0.9))):
        box = np.array([[75, 40, 75 + crop.shape[1], 50]])
        masks = MaskCrops([crop], box, (100, 160))
        merger.add(0, column, Detections(np.float32([score]), np.array([0]), box.astype(np.float32), masks))
    found = merger.settled()
    assert found.scores.tolist() == pytest.approx([0.9]) and found.masks.areas().tolist() == [110]


def test_an_image_without_instances():
    parts = list(predict_tiles(image_model(), source_of(np.zeros((300, 300), np.uint8)), Tiling(100, 40, 1.0)))
    assert sum(map(len, parts)) == 0 and parts[0].masks.image_size == (300, 300)


def test_auto_tiles_only_images_that_would_be_shrunk():
    info = tellapart.engine.model_info.ModelInfo(["cell"], scale=0.5, scale_low=0.4, object_size=20.0)
    model = image_model(100)
    assert choose_tiling(model, info, "auto", 200, 250) is None  # resized by 0.5
    assert choose_tiling(model, info, "off", 2000, 2000) is None
    assert choose_tiling(model, None, "auto", 2000, 2000) is None
    tiling = choose_tiling(model, info, "auto", 2000, 2000)
    assert (tiling.tile, tiling.scale) == (200, 0.5) and tiling.overlap == math.ceil(40 + 8)
    assert choose_tiling(model, info, 500, 2000, 2000).scale == 0.5
    assert choose_tiling(model, info, 2000, 2000, 2000) is None  # one tile


def test_a_resized_tile_finds_the_same_objects():
    gray = np.kron(disc_grid(10, 12, seed=3), np.ones((2, 2), np.uint8))
    found = predict(gray, Tiling(200, 80, 0.5))
    assert len(found) == 120


def test_instances_that_may_be_cut_are_known_with_their_scores():
    grid = TileGrid.cover(100, 160, 100, 40)
    merger = TileMerger(grid, 2.0)
    box = np.array([[20, 40, 100, 50]])  # cut at the right edge of its tile, and longer than the overlap
    masks = MaskCrops([np.ones((10, 80), bool)], box, (100, 160))
    merger.add(0, 0, Detections(np.float32([0.4]), np.array([0]), box.astype(np.float32), masks))
    assert len(merger.settled()) == 1 and merger.cut_scores == pytest.approx([0.4])
