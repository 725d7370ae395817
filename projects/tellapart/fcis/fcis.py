"""The meta-architecture: Detectron2's two-stage detector with FCIS's heads, and masks by voting."""

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
    """Fully convolutional instance segmentation (Li et al., 2017): backbone, RPN, inside/outside score maps, voting.

    The backbone and the RPN are whatever the config names. With ``RES5_DILATION`` 2, the RPN on ``res4`` and the heads
    on ``res5`` it is the paper's; with several ``MODEL.ROI_HEADS.IN_FEATURES`` of an FPN, FCIS on a pyramid.

    Args:
        voting: candidates of an image to its instances.
        other arguments: of ``GeneralizedRCNN``; ``roi_heads`` must give candidates as ``FCISROIHeads`` does.
    """

    @configurable
    def __init__(self, *, voting: MaskVoting, **kwargs) -> None:
        super().__init__(**kwargs)
        self.voting = voting

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Arguments out of the config.

        Raises:
            InputError: other ROI heads are named, or :func:`check_options` finds something.
        """
        options = check_options(cfg)
        if not registry_name_is_a(ROI_HEADS_REGISTRY, cfg.MODEL.ROI_HEADS.NAME, FCISROIHeads):
            raise InputError(f"MODEL.ROI_HEADS.NAME is {cfg.MODEL.ROI_HEADS.NAME}, wanted {FCISROIHeads.__name__}")
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
        """Detect and segment.

        Args:
            batched_inputs: one dict an image: ``image`` (C, H, W), ``height`` and ``width`` of the output wanted.
            detected_instances: not supported: FCIS finds masks and boxes together.
            do_postprocess: whether masks are voted on in the output's size, as the paper does, or in the input's.

        Returns:
            ``{"instances": ...}`` for each image, or the ``Instances``; fields as ``MaskVoting`` gives them.
        """
        if detected_instances is not None:
            raise NotImplementedError("FCIS finds masks and boxes together: it takes no detected_instances")
        candidates = super().inference(batched_inputs, do_postprocess=False)
        if not do_postprocess:
            return [self._vote(found, *found.image_size) for found in candidates]
        results = []
        for inputs, found in zip(batched_inputs, candidates):
            height, width = found.image_size
            voted = self._vote(found, inputs.get("height", height), inputs.get("width", width))
            results.append({"instances": voted})
        return results

    def _vote(self, candidates: Instances, height: int, width: int) -> Instances:
        """Mask voting in an image of the given size."""
        boxes = candidates.proposal_boxes.clone()
        boxes.scale(width / candidates.image_size[1], height / candidates.image_size[0])
        return self.voting(boxes.tensor, candidates.scores, candidates.masks, (height, width))
