"""Files of results: what is read back by other libraries is the masks."""

from __future__ import annotations

import json

from tellapart.data.image_source import ArraySource
from tellapart.inference import writers
from tellapart.inference.mask_crops import MaskCrops
from tellapart.inference.measurements import columns, measure
from tellapart.inference.merging import Detections
from tellapart.inference.outlines import mask_to_polygon

import cv2
import numpy as np
import pytest
import roifile
import shapely
import tifffile
from skimage.draw import polygon2mask
from skimage.measure import regionprops

SIZE = (61, 83)


def detections(overlapping: bool = True, seed: int = 0, number: int = 15) -> Detections:
    """Return blobs, some with holes, in several parts, touching at corners, or of one pixel; the last have overlaps."""
    import torch

    rng = np.random.default_rng(seed)
    masks = np.zeros((number, *SIZE), bool)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for i, mask in enumerate(masks):
        cy, cx, radius = rng.uniform(0, SIZE[0]), rng.uniform(0, SIZE[1]), rng.uniform(2, 12)
        mask[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = True
        if i % 4 == 1:
            mask[(y - cy) ** 2 + (x - cx) ** 2 < (radius / 2) ** 2] = False
        if i % 4 == 2:
            mask &= rng.random(SIZE) < 0.7
    masks[0] = False
    masks[0, 5, 7] = masks[0, 6, 8] = True  # two pixels that touch at a corner
    if not overlapping:
        masks &= np.cumsum(masks, 0) == 1
    masks = masks[masks.any((1, 2))]
    crops = MaskCrops.from_masks(torch.from_numpy(masks))
    scores = rng.random(len(masks)).astype(np.float32)
    return Detections(scores, rng.integers(0, 2, len(masks)), crops.boxes.astype(np.float32), crops)


def centers() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    return x, y


def test_label_image_shows_the_highest_score_and_the_stack_everything(tmp_path):
    found = detections()
    masks = found.masks.numpy()
    writers.write_labels(tmp_path / "labels.tif", found)
    labels = tifffile.imread(tmp_path / "labels.tif")
    assert labels.dtype == np.uint32 and labels.shape == SIZE
    scores = np.where(masks, found.scores[:, None, None], -1.0)
    assert np.array_equal(labels, np.where(masks.any(0), scores.argmax(0) + 1, 0))
    assert writers.write_label_stack(tmp_path / "stack.tif", found)
    stack = tifffile.imread(tmp_path / "stack.tif")
    assert all(np.array_equal((stack == i + 1).any(0), mask) for i, mask in enumerate(masks))


def test_without_overlaps_there_is_no_stack(tmp_path):
    assert not writers.write_label_stack(tmp_path / "stack.tif", detections(overlapping=False))
    assert not list(tmp_path.iterdir())


def test_a_large_label_image_is_written_in_strips(tmp_path, monkeypatch):
    found = detections()
    writers.write_labels(tmp_path / "whole.tif", found)
    monkeypatch.setattr(writers, "_MAX_WHOLE_PIXELS", 0)
    monkeypatch.setattr(writers, "_STRIP", 16)
    writers.write_labels(tmp_path / "strips.tif", found)
    assert np.array_equal(tifffile.imread(tmp_path / "whole.tif"), tifffile.imread(tmp_path / "strips.tif"))
    writers.write_label_stack(tmp_path / "stack.tif", found)
    assert tifffile.imread(tmp_path / "stack.tif").shape[1:] == SIZE


def test_geojson_polygons_are_the_masks(tmp_path):
    found = detections()
    writers.write_geojson(tmp_path / "cells.geojson", found, ["cell", "debris"])
    content = json.loads((tmp_path / "cells.geojson").read_text())
    assert len(content["features"]) == len(found)
    for feature, mask, score in zip(content["features"], found.masks, found.scores):
        shape = shapely.geometry.shape(feature["geometry"])
        assert shape.is_valid and np.array_equal(shapely.contains_xy(shape, *centers()), mask)
        assert feature["properties"]["measurements"] == {"score": round(float(score), 6), "area_px": int(mask.sum())}
        assert feature["properties"]["classification"]["name"] in ("cell", "debris")


def test_rois_are_the_masks(tmp_path):
    found = detections()
    writers.write_rois(tmp_path / "rois.zip", found, ["cell", "debris"])
    rois = roifile.roiread(tmp_path / "rois.zip")
    assert [roi.name for roi in rois] == writers.instance_names(found, ["cell", "debris"])
    for roi, mask in zip(rois, found.masks):
        inside = np.zeros(SIZE, bool)
        for ring in roi.coordinates(multi=True) if roi.shape_roi_size else [roi.coordinates()]:
            # Even-odd rule, at pixel centers: skimage has pixel centers at whole numbers.
            inside ^= polygon2mask(SIZE, ring[:, ::-1] - 0.5)
        assert np.array_equal(inside, mask)


def test_no_instances(tmp_path):
    none = Detections.none(SIZE)
    writers.write_labels(tmp_path / "labels.tif", none)
    assert not tifffile.imread(tmp_path / "labels.tif").any()
    writers.write_rois(tmp_path / "rois.zip", none, [])
    writers.write_geojson(tmp_path / "a.geojson", none, [])
    assert json.loads((tmp_path / "a.geojson").read_text())["features"] == []
    assert not writers.write_label_stack(tmp_path / "stack.tif", none)


@pytest.mark.parametrize("seed", range(5))
def test_outlines_contain_exactly_the_pixels(seed):
    mask = np.random.default_rng(seed).random((9, 11)) < 0.5
    shape = mask_to_polygon(mask, 20, 30)
    x, y = np.mgrid[:11, :9] + 0.5
    assert shape.is_valid and np.array_equal(shapely.contains_xy(shape, x + 20, y + 30), mask.T)


def test_measurements_are_those_of_the_whole_image():
    found = detections()
    stored = np.random.default_rng(1).integers(0, 4096, (*SIZE, 2), np.uint16)
    rows = measure("a.tif", found, ArraySource(stored, stored), ["cell", "debris"])
    assert len(columns(2)) == len(rows[0])
    for row, mask in zip(rows, found.masks):
        region = regionprops(np.pad(mask, 1).astype(np.uint8))[0]
        values = dict(zip(columns(2), row))
        assert values["area_px"] == mask.sum()
        assert (values["centroid_y"], values["centroid_x"]) == pytest.approx(np.array(region.centroid) - 0.5, abs=1e-3)
        assert values["perimeter_px"] == pytest.approx(region.perimeter, abs=1e-3)
        assert values["mean_intensity_2"] == pytest.approx(stored[..., 1][mask].mean(), abs=1e-3)


def test_overlay_has_the_size_of_the_image_and_shows_the_instances(tmp_path):
    stored = np.full((*SIZE, 1), 7, np.uint16)
    source = ArraySource(stored, stored)
    writers.write_overlay(tmp_path / "with.png", source, detections())
    writers.write_overlay(tmp_path / "without.png", source, Detections.none(SIZE))
    pictures = [cv2.imread(str(tmp_path / name)) for name in ("with.png", "without.png")]
    assert pictures[0].shape == (*SIZE, 3) and (pictures[0] != pictures[1]).any()
