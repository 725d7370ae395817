"""Test-time augmentation: views and their inverses, merging, and all kinds of models."""

from __future__ import annotations

import math

from tellapart.inference.image_model import to_detections
from tellapart.inference.mask_crops import MaskCrops
from tellapart.inference.merging import Detections
from tellapart.inference.test_augmentation import TestAugmentation, View, augmented, merge_views, views_of

import numpy as np
import pytest
import small_models
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.nn import functional as F

DIHEDRAL = [View(0, t, x, y) for t in (False, True) for x in (False, True) for y in (False, True)]


class SquareFinder(nn.Module):
    """Finds where the image has the value k > 0: an instance of class k with score k / 10, in the output's frame."""

    def forward(self, inputs):
        results = []
        for one in inputs:
            size = one["height"], one["width"]
            values = F.interpolate(one["image"][None, :1].float(), size)[0, 0].round().long()
            classes = values.unique()
            classes = classes[classes > 0]
            masks = values == classes[:, None, None]
            edges = MaskCrops.from_masks(masks).boxes
            boxes = Boxes(torch.as_tensor(edges, dtype=torch.float32))
            fields = {"pred_boxes": boxes, "scores": classes / 10, "pred_classes": classes, "pred_masks": masks}
            results.append({"instances": Instances(size, **fields)})
        return results


def squares_image(height: int = 31, width: int = 46) -> torch.Tensor:
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, 2:9, 3:30], image[:, 12:31, 40:46], image[:, 20:22, 0:5] = 3, 5, 7
    return image


def assert_same(first: Detections, second: Detections) -> None:
    first, second = first.by_score(), second.by_score()
    np.testing.assert_allclose(first.scores, second.scores, rtol=1e-6)
    np.testing.assert_array_equal(first.classes, second.classes)
    np.testing.assert_allclose(first.boxes, second.boxes, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(first.masks), np.asarray(second.masks))


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("view", DIHEDRAL, ids=str)
def test_a_view_is_restored(view, factor):
    model, image = SquareFinder(), squares_image()
    height, width = 31 * factor, 46 * factor
    plain = to_detections(model([{"image": image, "height": height, "width": width}])[0]["instances"])
    shape = (width, height) if view.transpose else (height, width)
    seen = model([{"image": view.apply(image, 1000), "height": shape[0], "width": shape[1]}])[0]["instances"]
    assert_same(view.restore(to_detections(seen)), plain)


def test_views_of_the_config():
    cfg = small_models.fcis()
    cfg.TEST.AUG.MIN_SIZES = ()
    assert views_of(cfg) == [View(), View(flip_x=True)]
    cfg.TEST.AUG.FLIP, cfg.TEST.AUG.MIN_SIZES = False, (200, 300)
    assert views_of(cfg) == [View(200), View(300)]
    cfg.TEST.AUG.DIHEDRAL, cfg.TEST.AUG.MIN_SIZES = True, ()
    assert len(set(views_of(cfg))) == 8
    assert View(62).apply(squares_image(), 1000).shape == (3, 62, 92)
    assert View(62, transpose=True).apply(squares_image(), 46).shape == (3, 46, 31)
    assert View(62).apply(squares_image(), 1000).dtype == torch.uint8


@pytest.mark.parametrize("dense", [False, True])
def test_a_model_without_errors_is_unchanged(dense):
    """All views of a model that depends on nothing but the pixels agree, so that merging returns its instances."""
    cfg, image = small_models.fcis(), squares_image()
    cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.DIHEDRAL, cfg.TEST.AUG.MIN_SIZES = True, True, ()
    inputs = [{"image": image, "height": 62, "width": 92}, {"image": torch.zeros(3, 8, 9), "height": 8, "width": 9}]
    results = augmented(SquareFinder(), cfg, dense)(inputs)
    expected = SquareFinder()(inputs)
    for found, plain in zip(results, expected):
        assert isinstance(found["instances"].pred_masks, torch.Tensor) == dense
        assert_same(to_detections(found["instances"]), to_detections(plain["instances"]))
    cfg.TEST.DETECTIONS_PER_IMAGE = 2
    assert augmented(SquareFinder(), cfg)(inputs)[0]["instances"].pred_classes.tolist() == [7, 5]
    cfg.TEST.AUG.ENABLED = False
    model = SquareFinder()
    assert augmented(model, cfg) is model


def detections(*objects: tuple[float, int, tuple[int, int, int, int]]) -> Detections:
    """Return rectangles: (score, class, XYXY)."""
    boxes = np.array([box for _, _, box in objects]).reshape(-1, 4)
    crops = [np.ones((y1 - y0, x1 - x0), bool) for x0, y0, x1, y1 in boxes]
    scores = np.array([score for score, _, _ in objects], np.float32)
    classes = np.array([label for _, label, _ in objects], np.int64)
    return Detections(scores, classes, boxes.astype(np.float32), MaskCrops(crops, boxes, (40, 60)))


def test_mean_of_two_views():
    """Score, box and mask are means; without weights that differ, the edge lies halfway."""
    merged = merge_views([detections((0.8, 1, (10, 10, 20, 30))), detections((0.8, 1, (12, 10, 22, 30)))])
    assert len(merged) == 1 and merged.scores[0] == pytest.approx(
        1 / (1 + math.exp(-(math.log(4) - 5 * 0.5 * (1 / 3))))
    )
    np.testing.assert_allclose(merged.boxes[0], [11, 10, 21, 30])
    row = np.flatnonzero(np.asarray(merged.masks)[0, 20])
    assert (row[0], row[-1] + 1) == (11, 21)


def test_what_one_view_misses_has_a_lower_score():
    views = [detections((0.8, 1, (10, 10, 20, 30)), (0.6, 2, (30, 5, 40, 15))), detections((0.4, 1, (10, 10, 20, 30)))]
    merged = merge_views(views)
    logits = [(math.log(4) + math.log(2 / 3)) / 2, (math.log(1.5) + math.log(1 / 19)) / 2]
    np.testing.assert_allclose(merged.scores, [1 / (1 + math.exp(-logit)) for logit in logits], rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(merged.masks)[1], np.asarray(views[0].masks)[1])
    # Another category, and another instance of the same view, are other objects.
    assert len(merge_views([detections((0.8, 1, (0, 0, 9, 9))), detections((0.8, 2, (0, 0, 9, 9)))])) == 2
    assert len(merge_views([detections((0.8, 1, (0, 0, 9, 9)), (0.7, 1, (0, 0, 9, 8))), detections()])) == 2


def test_each_view_contributes_its_best_instance():
    """Not the one that is most similar to the best of the other view."""
    views = [detections((0.9, 1, (0, 0, 20, 20))), detections((0.8, 1, (0, 0, 20, 18)), (0.3, 1, (0, 0, 20, 20)))]
    merged = merge_views(views)
    assert len(merged) == 2 and np.asarray(merged.masks)[0].sum() in range(20 * 18, 20 * 20)
    np.testing.assert_array_equal(np.asarray(merged.masks)[1], np.asarray(views[1].masks)[1])


def test_empty_views_and_masks():
    assert len(merge_views([detections(), detections()])) == 0
    empty = detections((0.5, 1, (0, 0, 0, 0)))
    merged = merge_views([empty, empty])
    assert np.asarray(merged.masks).sum() == 0 and (merged.scores <= 0.5).all()


@pytest.mark.parametrize("name", ["FCIS", "InstanceFCN", "InstanceFCN, classifier", "SemiConvROIHeads", "Mask R-CNN"])
@torch.no_grad()
def test_models(name):
    """One view is the model itself; several run on every kind of model."""
    cfg = small_models.CONFIGS[name]()
    cfg.MODEL.DEVICE, cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.FLIP, cfg.TEST.AUG.MIN_SIZES = "cpu", True, False, ()
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    inputs = [{"image": torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8), "height": 97, "width": 131}]
    plain, one = model(inputs)[0]["instances"], augmented(model, cfg)(inputs)[0]["instances"]
    assert len(plain) > 0
    assert_same(to_detections(one), to_detections(plain))
    cfg.TEST.AUG.FLIP, cfg.TEST.AUG.MIN_SIZES = True, (64, 96)
    several = augmented(model, cfg)
    assert isinstance(several, TestAugmentation) and len(several.views) == 4
    found = several(inputs)[0]["instances"]
    assert len(found) > 0 and found.pred_masks.image_size == (97, 131)


def test_boxes_without_masks():
    cfg = small_models.mask_rcnn()
    cfg.MODEL.MASK_ON, cfg.MODEL.DEVICE, cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.MIN_SIZES = False, "cpu", True, ()
    model = augmented(build_model(cfg).eval(), cfg)
    found = model([{"image": torch.zeros(3, 64, 64), "height": 64, "width": 64}])[0]["instances"]
    assert not found.has("pred_masks")
