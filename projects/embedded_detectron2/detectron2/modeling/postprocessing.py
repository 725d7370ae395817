"""From the network's image size to the size asked for."""

from __future__ import annotations

from detectron2.structures import Instances, ROIMasks


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
        masks = results.pred_masks
        if not isinstance(masks, ROIMasks):
            masks = ROIMasks(masks[:, 0])
        size = results.image_size
        results.pred_masks = masks.to_bitmasks(results.pred_boxes.tensor, *size, mask_threshold).tensor
    return results
