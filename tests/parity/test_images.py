"""Tests of the images that the cases read: annotations match the pixels, and all kinds of annotations occur."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from .images import EMPTY, SPLITS, UNIT, coco_folder, coco_json, draw, rasterize


@pytest.mark.parametrize("split", SPLITS)
def test_annotations_are_consistent(split: str) -> None:
    """Areas and boxes agree with the masks of pycocotools, except for pixels on the outline and thin tips."""
    content = coco_json(split)
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for annotation in content["annotations"]:
        height, width = sizes[annotation["image_id"]]
        rle = coco_mask.frPyObjects(annotation["segmentation"], height, width)
        rows, columns = coco_mask.decode(rle if annotation["iscrowd"] else coco_mask.merge(rle)).nonzero()
        x, y, w, h = annotation["bbox"]
        outline = 0 if annotation["iscrowd"] else 2 * (w + h)
        assert abs(len(rows) - annotation["area"]) <= outline
        np.testing.assert_allclose([x, y], [columns.min(), rows.min()], atol=2)
        np.testing.assert_allclose([x + w, y + h], [columns.max() + 1, rows.max() + 1], atol=2)


def test_kinds_of_annotations() -> None:
    annotations = coco_json("train")["annotations"]
    assert {len(a["segmentation"]) for a in annotations if not a["iscrowd"]} == {1, 2}
    assert sum(a["iscrowd"] for a in annotations) == 2 and len({a["category_id"] for a in annotations}) == 12
    assert EMPTY not in {a["image_id"] for a in annotations}
    areas = np.array([a["area"] for split in SPLITS for a in coco_json(split)["annotations"]])
    assert np.histogram(areas, [0, 32**2, 96**2, np.inf])[0].min() >= 5  # COCO's small, medium and large


def test_file_has_the_drawn_pixels() -> None:
    drawing = SPLITS["val"][0]
    image, annotations = draw(*drawing)
    stored = np.asarray(Image.open(coco_folder() / "images" / "val" / f"{drawing.image_id:06}.png"))
    np.testing.assert_array_equal(stored, image[:, :, ::-1])
    assert image.shape == (drawing.height, drawing.width, 3) and len(annotations) == drawing.num_objects


def test_rasterize() -> None:
    triangle = np.array([[0, 0], [4, 0], [0, 4]]) * UNIT
    expected = [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    inside = rasterize(triangle, 4, 5)
    inside[[0, 1, 2, 3], [3, 2, 1, 0]] = False  # centers on the edge
    np.testing.assert_array_equal(inside, expected)
