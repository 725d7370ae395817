"""Scale results from the size of the network's input to the output size."""

from __future__ import annotations

import torch

from detectron2.layers import paste_masks_in_image
from detectron2.structures import Instances


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Scale the boxes to the output size, remove empty ones, and paste the masks.

    Args:
        results: has ``pred_boxes`` or ``proposal_boxes`` in pixels of ``results.image_size``, which are changed in
            place, and optionally ``pred_masks``, mask probabilities (N, 1, S, S) relative to the boxes.
        output_height, output_width: the output size in pixels.
        mask_threshold: pixels with at least this probability belong to the mask.

    Returns:
        ``Instances`` of the output size. ``pred_masks`` is bool (N, output_height, output_width).
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
