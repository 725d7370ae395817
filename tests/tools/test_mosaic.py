"""tools/mosaic.py: the mosaic and its annotations are those of the single images."""

from __future__ import annotations

import json

from tellapart.data.coco_folder import coco_annotation

import cv2
import numpy as np
import pytest
import tifffile
from pycocotools.coco import COCO


@pytest.fixture
def data(tmp_path):
    """(JSON:IMAGES, gray images, masks): five images, one of another size, with an object each."""
    rng = np.random.default_rng(0)
    images, annotations, grays, masks = [], [], [], []
    for i in range(1, 6):
        size = (20, 30) if i < 5 else (10, 10)
        gray, mask = rng.integers(0, 255, size, np.uint8), rng.random(size) < 0.3
        cv2.imwrite(str(tmp_path / f"{i}.png"), gray)
        images.append({"id": i, "file_name": f"{i}.png", "height": size[0], "width": size[1]})
        annotations.append(coco_annotation(i, i, 1, mask))
        grays.append(gray)
        masks.append(mask)
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    return f"{tmp_path / 'a.json'}:{tmp_path}", grays, masks


@pytest.mark.parametrize("bits", ["8", "12"])
def test_mosaic(run_tool, tmp_path, data, bits):
    text, grays, masks = data
    output = tmp_path / f"mosaic_{bits}"
    assert "60 x 40 px, 4 objects of 4 images" in run_tool("mosaic.py", text, "2", str(output), "--bits", bits)
    expected = np.vstack([np.hstack(grays[:2]), np.hstack(grays[2:4])])
    if bits == "8":
        assert np.array_equal(cv2.imread(str(output / "images" / "mosaic.png"), -1), expected)
    else:
        assert np.array_equal(tifffile.imread(output / "images" / "mosaic.tif"), expected.astype(np.uint16) * 16)
    joined, singles = COCO(str(output / "instances.json")), COCO(str(output / "singles.json"))
    assert np.array_equal(joined.annToMask(joined.anns[4])[20:, 30:].astype(bool), masks[3])
    assert [singles.annToMask(singles.anns[i]).tolist() for i in (1, 4)] == [masks[i].tolist() for i in (0, 3)]


def test_too_few_images_of_one_size(run_tool, tmp_path, data):
    assert "expected 9 images of one size, found 4 of 30 x 20 px" in run_tool("mosaic.py", data[0], "3", str(tmp_path))
