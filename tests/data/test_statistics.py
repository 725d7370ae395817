"""Statistics of data sets: equal to loops over pixels, and measured on an evenly spread sample."""

from __future__ import annotations

import tellapart  # noqa: F401
from tellapart.data.statistics import Objects, evenly_spread, measure_gray_spans, measure_masks, report

import cv2
import numpy as np
import pytest
from detectron2.structures import BoxMode
from pycocotools import mask as coco_mask


def record_of(masks: np.ndarray, iscrowd: int = 0) -> dict:
    annotations = []
    for mask in masks:
        rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        box = coco_mask.toBbox(rle).tolist()
        annotations.append({"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": iscrowd})
        annotations[-1]["segmentation"] = rle
    return {"file_name": "a.png", "height": masks.shape[1], "width": masks.shape[2], "annotations": annotations}


def test_masks_equal_a_loop_over_pixels():
    generator = np.random.default_rng(0)
    images = [generator.random((number, 13, 17)) > 0.75 for number in (6, 1, 4)]
    images[0][3] = False  # says nothing
    images.append(np.zeros((2, 9, 9), bool))
    measured = measure_masks([record_of(masks) for masks in images])
    crowding, fill, shared, union = [], [], 0, 0
    for masks in images:
        union += masks.any(0).sum()
        shared += masks.sum() - masks.any(0).sum()
        for mask in masks[masks.any((1, 2))]:
            ys, xs = np.nonzero(mask)
            box = np.s_[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
            crowding.append(1 - mask[box].sum() / masks.any(0)[box].sum())
            fill.append(mask[box].mean())
    assert measured.num_images == 4
    assert measured.areas.tolist() == [m.sum() for masks in images for m in masks if m.any()]
    assert measured.crowding == pytest.approx(crowding) and measured.fill == pytest.approx(fill)
    assert measured.overlap == pytest.approx(shared / union) and measured.overlap > 0.1


def test_polygons_and_boxes_are_measured():
    record = record_of(np.ones((1, 20, 20), bool))
    record["annotations"][0]["segmentation"] = [[2.0, 3.0, 12.0, 3.0, 12.0, 8.0, 2.0, 8.0]]
    assert measure_masks([record]).areas.tolist() == [50.0]
    del record["annotations"][0]["segmentation"]
    assert measure_masks([record]).areas.tolist() == [400.0]


def test_crowds_and_images_without_objects_are_not_measured():
    records = [record_of(np.ones((2, 5, 5), bool), iscrowd=1), {"file_name": "b", "height": 5, "width": 5}]
    measured = measure_masks(records)
    assert len(measured.areas) == 0 and measured.overlap == 0.0
    objects = Objects.from_records(records)
    assert len(objects) == 0 and objects.num_crowds == 2 and objects.per_image.tolist() == [0, 0]


def test_large_data_sets_are_sampled_evenly():
    records = [record_of(np.ones((2, 4, 4 + i), bool)) for i in range(11)]
    measured = measure_masks(records, max_images=3)
    assert measured.num_images == 3 and np.unique(measured.areas).tolist() == [16, 36, 56]
    assert measure_masks(records, max_objects=8).num_images == 4
    assert measure_masks(records, max_objects=1).num_images == 1
    assert measure_masks(records, max_images=5, max_objects=1000).num_images == 5


def test_evenly_spread():
    assert evenly_spread(0, 16) == [] and evenly_spread(3, 16) == [0, 1, 2]
    assert evenly_spread(100, 3) == [0, 50, 99] and evenly_spread(7, 1) == [0]


def test_objects_of_both_box_modes():
    annotation = {"bbox": [10, 20, 30, 60], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, "iscrowd": 0}
    corners = {**annotation, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    image = {"height": 90, "width": 80}
    records = [{**image, "annotations": [annotation]}, {**image, "annotations": []}]
    records.append({**image, "annotations": [corners, {**annotation, "iscrowd": 1}, annotation]})
    objects = Objects.from_records(records)
    assert objects.sides.tolist() == [[30, 60], [20, 40], [30, 60]]
    assert objects.image_index.tolist() == [0, 2, 2] and objects.per_image.tolist() == [1, 0, 2]
    assert objects.categories.tolist() == [1, 0, 1] and objects.num_crowds == 1
    assert objects.image_sizes.tolist() == [[90, 80]] * 3


def test_an_image_with_hundreds_of_objects():
    masks = np.zeros((300, 20, 400), bool)
    for i in range(300):
        masks[i, i % 20, i : i + 3] = True
    measured = measure_masks([record_of(masks)])  # pycocotools 2.0.11 measures at most 255 masks at once
    assert measured.areas.tolist() == [3.0] * 300


def test_report():
    masks = np.zeros((2, 10, 20), bool)
    masks[0, :4, :9] = masks[1, 2:6, :9] = True
    records = [record_of(masks), {"file_name": "b", "height": 30, "width": 20, "annotations": []}]
    lines = report(Objects.from_records(records), ["cell", "debris"], measure_masks(records))
    assert lines == [
        "images: 2, 1 of them without objects; 20 to 20 px wide, 10 to 30 px high, median 20 x 20",
        "objects: 2; per image 0 to 2, median 1",
        "categories: 2; cell 2, debris 0",
        "categories without objects: 1; debris",
        "shorter sides of boxes: median 4, 5th to 95th percentile 4 to 4 px",
        "longer sides of boxes: median 9, 5th to 95th percentile 9 to 9 px",
        "square roots of mask areas: median 6, 5th to 95th percentile 6 to 6 px (2 masks of 1 images)",
        "crowding: 0.0 % of the object pixels in an object's box are others', 90th percentile 0.0 % "
        "(2 masks of 1 images)",
        "overlap: masks share 33.3 % of the object pixels (2 masks of 1 images)",
    ]
    assert report(Objects.from_records(records), ["cell", "debris"], None)[-1] == "masks: none"
    empty = report(Objects.from_records(records[1:]), ["cell"], None)
    assert empty == ["images: 1, 1 of them without objects; all 20 x 30 px", "objects: 0"]


def test_gray_spans(tmp_path):
    """Ranges of 8-bit images; others, and files that cannot be read, are left out."""
    dark, bright = np.zeros((64, 64), np.uint8), np.full((64, 64, 3), 20, np.uint8)
    dark[:32], bright[:32, :, 1] = 40, 220
    for name, pixels in (("a.png", dark), ("b.png", bright), ("c.png", dark.astype(np.uint16) * 50)):
        cv2.imwrite(str(tmp_path / name), pixels)
    (tmp_path / "d.png").write_text("no image")
    records = [{"file_name": str(tmp_path / name)} for name in ("a.png", "b.png", "c.png", "d.png", "e.png")]
    assert measure_gray_spans(records).tolist() == [40.0, 200.0]
    assert measure_gray_spans([]).shape == (0,)
