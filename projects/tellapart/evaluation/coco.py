"""Detectron2's COCO evaluator for masks that are stored as crops."""

from __future__ import annotations

from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Instances


class CropCOCOEvaluator(COCOEvaluator):
    """``COCOEvaluator`` that encodes ``pred_masks`` with a method ``to_rles`` (``MaskCrops``) without decoding them.

    An image in tiles can have thousands of instances, whose masks in its full size do not fit into memory.
    """

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Add the predictions of a batch, see ``COCOEvaluator.process``."""
        for one_input, output in zip(inputs, outputs):
            instances = output["instances"]
            if not (instances.has("pred_masks") and hasattr(instances.pred_masks, "to_rles")):
                super().process([one_input], [output])
                continue
            fields = {name: value for name, value in instances.get_fields().items() if name != "pred_masks"}
            super().process([one_input], [{"instances": Instances(instances.image_size, **fields)}])
            for result, rle in zip(self._predictions[-1]["instances"], instances.pred_masks.to_rles()):
                result["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
