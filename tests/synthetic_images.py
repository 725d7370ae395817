"""What tests of whole models share: images of noise in which boxes are the objects, and what to expect of results."""

from __future__ import annotations

import copy

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage


def annotated(height: int, width: int, boxes: list, masks: str = "bitmask") -> dict:
    """An image of noise; each box is filled by its instance."""
    image = torch.randint(0, 255, (3, height, width), generator=torch.Generator().manual_seed(height))
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    polygons = [[np.array([a, b, c, b, c, d, a, d])] for a, b, c, d in boxes.double().tolist()]
    made = PolygonMasks(polygons) if masks == "polygon" else BitMasks.from_polygon_masks(polygons, height, width)
    truth = Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=torch.arange(len(boxes)) % 3, gt_masks=made)
    return {"image": image.to(torch.uint8), "height": 2 * height, "width": width, "instances": truth}


def batch(masks: str = "bitmask") -> list[dict]:
    """Images of unequal odd sizes, the second without any object."""
    return [annotated(97, 111, [[4, 4, 42, 44], [50, 30, 92, 66]], masks), annotated(63, 80, [], masks)]


def losses_of(net, inputs: list[dict]) -> dict[str, torch.Tensor]:
    with EventStorage(0):
        return net.train()(copy.deepcopy(inputs))


def check_instances(found: Instances, size: tuple[int, int]) -> None:
    """Full-size masks, tight boxes, falling scores: what evaluators, visualizers and trackers read."""
    assert found.image_size == size and found.pred_masks.shape == (len(found), *size)
    assert found.pred_masks.dtype == torch.bool and found.pred_classes.dtype == torch.int64
    assert (found.scores[:-1] >= found.scores[1:]).all()
    for mask, box in zip(found.pred_masks, found.pred_boxes.tensor):
        rows, columns = mask.nonzero().unbind(1)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
