"""FCIS's meta-architecture: Detectron2's two-stage detector with FCIS's heads, and masks by voting."""

from __future__ import annotations

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
from detectron2.structures import Instances

from ..errors import InputError
from ..validation import registry_name_is_a
from .mask_voting import MaskVoting
from .options import check_options
from .roi_heads import FCISROIHeads


@META_ARCH_REGISTRY.register()
class FCIS(GeneralizedRCNN):
    """Fully convolutional instance-aware semantic segmentation (Li et al., 2017).

    It has the backbone and the RPN of the config, heads that pool inside/outside score maps, and mask voting. With
    ``RES5_DILATION`` 2, the RPN on ``res4`` and the heads on ``res5`` it is the paper's network. With several
    ``MODEL.ROI_HEADS.IN_FEATURES`` of an FPN it is FCIS on a pyramid.

    Args:
        voting: turns the candidates of an image into its instances.
        **kwargs: see ``GeneralizedRCNN``. ``roi_heads`` must be an ``FCISROIHeads``.
    """

    @configurable
    def __init__(self, *, voting: MaskVoting, **kwargs) -> None:
        super().__init__(**kwargs)
        self.voting = voting

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Read the arguments from the config.

        Raises:
            InputError: the config has other ROI heads, or an option that :func:`check_options` refuses.
        """
        options = check_options(cfg)
        if not registry_name_is_a(ROI_HEADS_REGISTRY, cfg.MODEL.ROI_HEADS.NAME, FCISROIHeads):
            raise InputError(f"MODEL.ROI_HEADS.NAME is {cfg.MODEL.ROI_HEADS.NAME}, expected {FCISROIHeads.__name__}")
        voting = MaskVoting(
            score_thresh=cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            nms_thresh=cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
            vote_iou=options.VOTE_IOU,
            mask_thresh=options.MASK_THRESH,
        )
        return {**super().from_config(cfg), "voting": voting}

    def inference(
        self, batched_inputs: list[dict], detected_instances: None = None, do_postprocess: bool = True
    ) -> list[dict] | list[Instances]:
        """Detect and segment the instances of each image.

        Args:
            batched_inputs: one dict per image: ``image`` (C, H, W), and ``height`` and ``width`` of the output.
            detected_instances: not supported, since FCIS predicts masks and boxes together.
            do_postprocess: True: vote on masks in the output's size, as the paper does. False: in the input's size.

        Returns:
            One ``Instances`` per image with the fields that ``MaskVoting`` returns; with ``do_postprocess`` each in a
            dict, ``{"instances": Instances}``.
        """
        if detected_instances is not None:
            raise NotImplementedError("FCIS predicts masks and boxes together: it takes no detected_instances")
        candidates = super().inference(batched_inputs, do_postprocess=False)
        if not do_postprocess:
            return [self._vote(image_candidates, *image_candidates.image_size) for image_candidates in candidates]
        results = []
        for inputs, image_candidates in zip(batched_inputs, candidates):
            height, width = image_candidates.image_size
            detections = self._vote(image_candidates, inputs.get("height", height), inputs.get("width", width))
            results.append({"instances": detections})
        return results

    def _vote(self, candidates: Instances, height: int, width: int) -> Instances:
        """Scale the candidates' boxes to an image of the given size, and vote on masks of that size."""
        boxes = candidates.proposal_boxes.clone()
        boxes.scale(width / candidates.image_size[1], height / candidates.image_size[0])
        return self.voting(boxes.tensor, candidates.class_probs, candidates.mask_probs, (height, width))
