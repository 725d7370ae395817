"""From the network's image size to the size asked for."""

from __future__ import annotations

import torch

from detectron2.layers import paste_masks_in_image
from detectron2.structures import Instances


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Scale boxes, drop empty ones, and paste masks into the output.

    Args:
        results: with ``pred_boxes`` or ``proposal_boxes`` in pixels of ``results.image_size`` (changed in place), and
            optionally ``pred_masks``, probabilities (N, 1, S, S) within the boxes.
        output_height, output_width: the size wanted, in pixels.
        mask_threshold: a pixel belongs to a mask if its probability is at least this.

    Returns:
        ``Instances`` of the output's size; ``pred_masks`` bool (N, output_height, output_width).
    """
    height, width = results.image_size
    results = Instances((int(output_height), int(output_width)), **results.get_fields())
    boxes = results.pred_boxes if results.has("pred_boxes") else results.proposal_boxes
    boxes.scale(output_width / width, output_height / height)
    boxes.clip(results.image_size)
    results = results[boxes.nonempty()]
    if results.has("pred_masks"):
        masks, boxes = results.pred_masks[:, 0], results.pred_boxes.tensor
        pasted = paste_masks_in_image(masks, boxes, results.image_size, threshold=mask_threshold)
        results.pred_masks = pasted.to(torch.bool)  # uint8 where there are none
    return results
