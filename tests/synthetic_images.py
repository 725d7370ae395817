"""Shared by the tests of whole models: noise images whose objects are boxes, and checks of predicted instances."""

from __future__ import annotations

import copy

import cv2
import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage


def annotated(height: int, width: int, boxes: list, masks: str = "bitmask") -> dict:
    """An input dict: a noise image with one instance per box, which fills the box.

    Args:
        height, width: of the image. The output's height is twice that of the image.
        boxes: XYXY in pixels, may be empty.
        masks: "bitmask" or "polygon".
    """
    image = torch.randint(0, 255, (3, height, width), generator=torch.Generator().manual_seed(height))
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    polygons = [[np.array([a, b, c, b, c, d, a, d])] for a, b, c, d in boxes.double().tolist()]
    gt_masks = PolygonMasks(polygons) if masks == "polygon" else BitMasks.from_polygon_masks(polygons, height, width)
    gt_classes = torch.arange(len(boxes)) % 3
    gt = Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=gt_classes, gt_masks=gt_masks)
    return {"image": image.to(torch.uint8), "height": 2 * height, "width": width, "instances": gt}


def batch(masks: str = "bitmask") -> list[dict]:
    """Two images of different odd sizes, the second without objects."""
    return [annotated(97, 111, [[4, 4, 42, 44], [50, 30, 92, 66]], masks), annotated(63, 80, [], masks)]


def losses_of(net, inputs: list[dict]) -> dict[str, torch.Tensor]:
    """The losses of a model in training; the inputs stay as they are."""
    with EventStorage(0):
        return net.train()(copy.deepcopy(inputs))


def check_instances(instances: Instances, size: tuple[int, int]) -> None:
    """Check for what evaluators and visualizers need: full-size masks, tight boxes, sorted scores."""
    assert instances.image_size == size and instances.pred_masks.shape == (len(instances), *size)
    assert instances.pred_masks.dtype == torch.bool and instances.pred_classes.dtype == torch.int64
    assert (instances.scores[:-1] >= instances.scores[1:]).all()
    for mask, box in zip(instances.pred_masks, instances.pred_boxes.tensor):
        rows, columns = mask.nonzero().unbind(1)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def nuclei(seed: int, size: int = 256, number: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Draw bright ellipses on a dark background, some of which touch, like fluorescent nuclei.

    ``nuclei(0)`` is docs/images/demo.png.

    Returns:
        The image, uint8 (size, size, 3), and the masks, bool (N, size, size), without overlap.
    """
    rng = np.random.default_rng(seed)
    image, taken, masks = np.zeros((size, size), np.float32), np.zeros((size, size), bool), []
    while len(masks) < number:
        mask = np.zeros((size, size), np.uint8)
        center, axes = rng.integers(12, size - 12, 2), np.sort(rng.integers(7, 15, 2))[::-1]
        cv2.ellipse(mask, center.tolist(), axes.tolist(), float(rng.uniform(0, 180)), 0, 360, 1, cv2.FILLED)
        covered = np.count_nonzero((mask > 0) & taken) / mask.sum()
        if covered > 0.12:
            continue
        body = (mask > 0) & ~taken
        image[body] = rng.uniform(70, 190)
        edge = cv2.distanceTransform(body.astype(np.uint8), cv2.DIST_L2, 5)
        image[body] *= 0.75 + 0.25 * np.minimum(edge[body] / 4, 1)
        taken |= body
        masks.append(body)
    image = cv2.GaussianBlur(image, (0, 0), 1.0) + 12 + rng.normal(0, 3, image.shape)
    return np.repeat(image.clip(0, 255).astype(np.uint8)[..., None], 3, 2), np.stack(masks)
