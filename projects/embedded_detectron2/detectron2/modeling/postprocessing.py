"""Scale results from the size of the network's input to the output size."""

from __future__ import annotations

from detectron2.structures import Instances, ROIMasks


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Scale the boxes to the output size, remove empty ones, and paste the masks.

    Args:
        results: has ``pred_boxes`` or ``proposal_boxes`` in pixels of ``results.image_size``, which are changed in
            place, and optionally ``pred_masks``: ``ROIMasks``, or probabilities (N, 1, S, S) relative to the boxes.
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
        masks = results.pred_masks
        masks = masks if isinstance(masks, ROIMasks) else ROIMasks(masks[:, 0])
        results.pred_masks = masks.to_bitmasks(results.pred_boxes, *results.image_size, mask_threshold).tensor
    return results
