"""The built-in shapes: the same every time, told apart by shape only, and annotated as drawn."""

import json
import math
import multiprocessing
from collections import Counter
from pathlib import Path

import tellapart  # noqa: F401
from tellapart.data import shapes
from tellapart.errors import InputError

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json
from PIL import Image
from pycocotools import mask as coco_mask


@pytest.fixture(scope="module")
def drawn():
    return [shapes.draw_shapes(7, i) for i in range(40)]


def test_image_depends_on_seed_and_index_only(drawn):
    for i in (12, 3):  # out of order
        image, objects = shapes.draw_shapes(7, i)
        np.testing.assert_array_equal(image, drawn[i][0])
        assert [category for category, _ in objects] == [category for category, _ in drawn[i][1]]
        for (_, one), (_, other) in zip(objects, drawn[i][1]):
            np.testing.assert_array_equal(one, other)
    assert not np.array_equal(drawn[0][0], drawn[1][0])
    assert not np.array_equal(drawn[0][0], shapes.draw_shapes(8, 0)[0])


def test_every_image_has_touching_objects_of_one_class(drawn):
    for _, objects in drawn:
        assert 4 <= len(objects) <= 9
        touching = 0
        for i, (category, mask) in enumerate(objects):
            grown = mask.copy()
            grown[1:] |= mask[:-1]
            grown[:-1] |= mask[1:]
            grown[:, 1:] |= mask[:, :-1]
            grown[:, :-1] |= mask[:, 1:]
            touching += sum(category == other and (grown & rest).any() for other, rest in objects[i + 1 :])
        assert touching


def test_masks_are_visible_parts(drawn):
    for _, objects in drawn:
        masks = np.stack([mask for _, mask in objects])
        assert masks.sum(axis=0).max() == 1
        assert masks.sum(axis=(1, 2)).min() >= 40


def test_what_is_hardly_seen_is_not_drawn():
    color = np.zeros(3)
    for offset, kept in ((0, 1), (19, 1), (20, 2)):  # 0%, 17% and 22% of the small disc are seen
        behind = shapes._Shape(0, 64.0 + offset, 64.0, 10.0, 0.0, color)
        before = shapes._Shape(0, 64.0, 64.0, 25.0, 0.0, color)
        left, distances, owner = shapes._drop_hidden([behind, before])
        assert len(left) == len(distances) == kept and left[-1] is before
        assert set(np.unique(owner)) == {-1, *range(kept)}


def test_area_and_color_say_nothing_about_the_class(drawn):
    area, color = {0: [], 1: [], 2: []}, {0: [], 1: [], 2: []}
    for image, objects in drawn:
        for category, mask in objects:
            area[category].append(mask.sum())
            color[category].append(image[mask].mean(axis=0))
    for values in (area, color):
        means = np.array([np.mean(values[c], axis=0) for c in values])
        errors = np.array([np.std(values[c], axis=0) / math.sqrt(len(values[c])) for c in values])
        assert (np.abs(means - means.mean(axis=0)) < 4 * errors).all()


def test_outlines_are_discs_squares_and_triangles():
    """Full area equals the disc's, and so does not depend on the class; extent is that of the shape's formula."""
    color = np.zeros(3)
    extents = {0: 40.0, 1: math.sqrt(math.pi) * 20, 2: math.sqrt(math.pi * 400 / (3 * math.sqrt(3))) * 3}
    for category, extent in extents.items():
        turned = shapes._Shape(category, 64.0, 64.0, 20.0, 0.3, color).distance() < 0
        assert turned.sum() == pytest.approx(math.pi * 400, rel=0.01)
        mask = shapes._Shape(category, 64.0, 64.0, 20.0, 0.0, color).distance() < 0
        assert np.ptp(np.flatnonzero(mask.any(axis=0))) + 1 == pytest.approx(extent, abs=1.5)


def _ensure(root, results):
    shapes.NUM_IMAGES["val"] = 6
    results.put(shapes.ensure_shapes("val", Path(root)))


def test_written_set_equals_what_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setitem(shapes.NUM_IMAGES, "val", 6)
    json_file, image_root = shapes.ensure_shapes("val", tmp_path)
    dicts = load_coco_json(json_file, image_root)
    assert len(dicts) == 6
    for i, one in enumerate(dicts):
        image, objects = shapes.draw_shapes(shapes.SEED + 1, i)
        np.testing.assert_array_equal(np.asarray(Image.open(one["file_name"])), image)
        assert len(one["annotations"]) == len(objects)
        for annotation, (category, mask) in zip(one["annotations"], objects):
            assert annotation["category_id"] == category + 1  # no name given: the ids of the file
            np.testing.assert_array_equal(coco_mask.decode(annotation["segmentation"]).astype(bool), mask)
            rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            assert annotation["bbox"] == [cols[0], rows[0], cols[-1] + 1 - cols[0], rows[-1] + 1 - rows[0]]
    content = json.loads(Path(json_file).read_text())
    assert [annotation["area"] for annotation in content["annotations"][:3]] == [
        mask.sum() for _, mask in shapes.draw_shapes(shapes.SEED + 1, 0)[1][:3]
    ]
    assert Counter(annotation["id"] for annotation in content["annotations"])[0] == 0


def test_processes_that_race_agree_and_leave_nothing_behind(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_ensure, args=(str(tmp_path), results)) for _ in range(3)]
    for process in processes:
        process.start()
    assert len({results.get(timeout=60) for _ in processes}) == 1
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"shapes_val_v{shapes.VERSION}"]
    assert len(list(tmp_path.glob("*/images/*.png"))) == 6


def test_interrupted_drawing_leaves_no_half_set(tmp_path, monkeypatch):
    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "draw_shapes", fail)
    with pytest.raises(KeyboardInterrupt):
        shapes.ensure_shapes("val", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_cache_that_can_not_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="TELLAPART_CACHE"):
        shapes.ensure_shapes("val", tmp_path / "file")


def test_metadata_is_there_before_the_images_are():
    metadata = MetadataCatalog.get("shapes_val")
    assert metadata.thing_classes == ["disc", "square", "triangle"]
    assert len(metadata.thing_colors) == 3 and metadata.evaluator_type == "coco"
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 3: 2}
