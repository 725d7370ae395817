"""The contact sheet: its layout and its colors."""

import json

import tellapart  # noqa: F401
from tellapart.data import read_dataset, register_coco_folder
from tellapart.data.coco_folder import coco_annotation
from tellapart.data.image_reading import ImageReader
from tellapart.visualization.contact_sheet import contact_sheet_from_results
from tellapart.visualization.drawing import CAPTION_HEIGHT, MARGIN

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

NAME = "tellapart_test_sheet"
PANEL = 360


@pytest.fixture
def folder(tmp_path):
    """Two gray images of 40 x 40 pixels with two objects of different categories each."""
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for i in range(2):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), np.full((40, 40, 3), 180, np.uint8))
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": 40, "width": 40})
        for category, rows in ((3, slice(2, 18)), (8, slice(22, 38))):
            mask = np.zeros((40, 40), bool)
            mask[rows, 2:38] = True
            annotations.append(coco_annotation(len(annotations) + 1, i + 1, category, mask))
    categories = [{"id": 3, "name": "a"}, {"id": 8, "name": "b"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "set.json").write_text(json.dumps(content))
    register_coco_folder(NAME, str(tmp_path / "set.json"), str(tmp_path / "images"))
    yield tmp_path
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def sheet(folder, predictions, num_images=2):
    (folder / "results.json").write_text(json.dumps(predictions))
    path = folder / "out" / "sheet.png"
    contact_sheet_from_results(path, read_dataset(NAME), folder / "results.json", num_images, 0.5, ImageReader())
    return cv2.imread(str(path))


def pixel(picture, row, column, y, x):
    """The color at (y, x) of a 40 x 40 image, in the panel of this row and column."""
    top, left = row * (CAPTION_HEIGHT + PANEL + MARGIN) + CAPTION_HEIGHT, MARGIN + column * (PANEL + 2 * MARGIN)
    return picture[top + int((y + 0.5) * 9), left + int((x + 0.5) * 9)].astype(int).tolist()


def prediction(folder, number, score, **changes):
    annotation = json.loads((folder / "set.json").read_text())["annotations"][number]
    keys = ("image_id", "category_id", "bbox", "segmentation")
    return {**{key: annotation[key] for key in keys}, "score": score, **changes}


def test_layout_and_colors(folder):
    predictions = [
        prediction(folder, 0, 0.9),
        prediction(folder, 1, 0.8, category_id=3),  # right mask, wrong category
        prediction(folder, 2, 0.4),  # below the threshold
        prediction(folder, 3, 0.6, bbox=[2, 22, 22, 16]),  # the left part of an object that is found twice
        prediction(folder, 3, 0.7),
    ]
    for p in predictions[3:]:
        del p["segmentation"]  # a detector without masks
    picture = sheet(folder, predictions)
    assert picture.shape == (2 * (CAPTION_HEIGHT + PANEL + MARGIN), 3 * (PANEL + 2 * MARGIN), 3)
    background = pixel(picture, 0, 1, 20, 20)
    first, second = pixel(picture, 0, 1, 5, 5), pixel(picture, 0, 1, 35, 5)
    assert pixel(picture, 0, 0, 5, 5) == [180] * 3 and background == [180 // 2 + 48] * 3
    assert first != second and np.ptp(first) > 60 and np.ptp(second) > 60
    assert pixel(picture, 0, 2, 5, 5) == first
    assert np.ptp(pixel(picture, 0, 2, 35, 5)) == 0 and pixel(picture, 0, 2, 35, 5) != background
    assert pixel(picture, 1, 2, 5, 5) == background
    # the better prediction has the color of the ground truth, the other is gray and drawn over it
    assert pixel(picture, 1, 2, 35, 30) == pixel(picture, 1, 1, 35, 30)
    assert 20 < np.ptp(pixel(picture, 1, 2, 35, 5)) < 0.7 * np.ptp(pixel(picture, 1, 1, 35, 5))
    assert (picture[:CAPTION_HEIGHT, :PANEL] < 128).any()  # a caption


def test_fewer_images_and_no_predictions(folder):
    picture = sheet(folder, [], num_images=1)
    assert picture.shape[0] == CAPTION_HEIGHT + PANEL + MARGIN
    assert pixel(picture, 0, 2, 5, 5) == [180 // 2 + 48] * 3


def test_unreadable_images_are_left_out(folder):
    path = folder / "images" / "0.png"
    path.write_bytes(path.read_bytes()[:50])
    assert sheet(folder, []).shape[0] == CAPTION_HEIGHT + PANEL + MARGIN


def test_dark_images_are_brightened(folder):
    dark = np.full((40, 40, 3), 10, np.uint8)
    dark[10:12] = 50
    cv2.imwrite(str(folder / "images" / "0.png"), dark)
    picture = sheet(folder, [])
    assert pixel(picture, 0, 0, 30, 20) == [46] * 3  # 10 * 230 / 50
    assert pixel(picture, 1, 0, 30, 20) == [180] * 3
