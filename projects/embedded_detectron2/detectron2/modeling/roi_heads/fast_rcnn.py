"""Class and box of each RoI (Girshick, 2015): prediction, losses, inference."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from detectron2._missing import not_included
from detectron2.config import configurable
from detectron2.layers import Linear, ShapeSpec, batched_nms, cat, cross_entropy
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage

from ..box_regression import Box2BoxTransform

__all__ = ["FastRCNNOutputLayers", "fast_rcnn_inference"]


def fast_rcnn_inference(
    boxes: list[torch.Tensor], scores: list[torch.Tensor], image_shapes: list[tuple[int, int]],
    score_thresh: float, nms_thresh: float, topk_per_image: int,
) -> tuple[list[Instances], list[torch.Tensor]]:  # fmt: skip
    """Call ``fast_rcnn_inference_single_image`` for each image of a batch, and return two lists."""
    thresholds = (score_thresh, nms_thresh, topk_per_image)
    results = [fast_rcnn_inference_single_image(*image, *thresholds) for image in zip(boxes, scores, image_shapes)]
    return [instances for instances, _ in results], [kept for _, kept in results]


def fast_rcnn_inference_single_image(
    boxes: torch.Tensor, scores: torch.Tensor, image_shape: tuple[int, int], score_thresh: float, nms_thresh: float,
    topk_per_image: int,
) -> tuple[Instances, torch.Tensor]:  # fmt: skip
    """Select the detections of one image by score threshold and NMS per class.

    Args:
        boxes: (R, K * 4), or (R, 4) if class-agnostic, XYXY in pixels. Rows with infinite or NaN values are removed.
        scores: class probabilities (R, K + 1), the background last. Rows with infinite or NaN values are removed.
        image_shape: (height, width). Boxes are clipped to it.
        score_thresh: detections have a score above this. An RoI may have detections of several classes.
        nms_thresh: NMS threshold.
        topk_per_image: maximum number of detections. Negative means no maximum.

    Returns:
        ``Instances`` with ``pred_boxes``, ``scores`` and ``pred_classes``, sorted by decreasing score, and for each
        detection its row in ``boxes``.
    """
    rows = (boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)).nonzero().flatten()
    scores, clipped = scores[rows, :-1], Boxes(boxes[rows].reshape(-1, 4))
    clipped.clip(image_shape)
    boxes = clipped.tensor.view(len(rows), boxes.shape[1] // 4, 4)
    region, category = (scores > score_thresh).nonzero(as_tuple=True)
    scores, boxes = scores[region, category], boxes[region, category if boxes.shape[1] > 1 else 0]
    keep = batched_nms(boxes, scores, category, nms_thresh)
    if topk_per_image >= 0:
        keep = keep[:topk_per_image]
    result = Instances(image_shape, pred_boxes=Boxes(boxes[keep]), scores=scores[keep], pred_classes=category[keep])
    return result, rows[region[keep]]


def _log_classification_stats(pred_logits: torch.Tensor, gt_classes: torch.Tensor, prefix: str = "fast_rcnn") -> None:
    """Store classification accuracies in the event storage.

    Args:
        pred_logits: (R, K + 1), the background last.
        gt_classes: (R,).
        prefix: first part of the names in the event storage.
    """
    if gt_classes.numel() == 0:
        return
    predicted, background = pred_logits.argmax(dim=1), pred_logits.shape[1] - 1
    foreground = (gt_classes >= 0) & (gt_classes < background)
    correct, missed = predicted == gt_classes, predicted == background
    storage = get_event_storage()
    storage.put_scalar(f"{prefix}/cls_accuracy", correct.float().mean().item())
    if foreground.any():
        storage.put_scalar(f"{prefix}/fg_cls_accuracy", correct[foreground].float().mean().item())
        storage.put_scalar(f"{prefix}/false_negative", missed[foreground].float().mean().item())


def _of_class(values: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Select the numbers of ``classes`` (R,) from (R, K * 4). (R, 4) is returned unchanged."""
    if values.shape[1] == 4:
        return values
    return values.unflatten(1, (values.shape[1] // 4, 4))[torch.arange(len(classes), device=classes.device), classes]


class FastRCNNOutputLayers(nn.Module):
    """Two linear layers: logits of K classes and background, and box deltas.

    Args:
        input_shape: shape of the features per RoI. They are flattened.
        box2box_transform: defines the deltas.
        num_classes: number of classes without background, K.
        test_score_thresh, test_nms_thresh, test_topk_per_image: see ``fast_rcnn_inference_single_image``.
        cls_agnostic_bbox_reg: whether there is one box per RoI instead of one per RoI and class.
        box_reg_loss_type, smooth_l1_beta: see ``Box2BoxTransform.loss``.
        loss_weight: factor on both losses, or a dict of factors on ``loss_cls`` and ``loss_box_reg``.
    """

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, box2box_transform: Box2BoxTransform, num_classes: int,
        test_score_thresh: float = 0.0, test_nms_thresh: float = 0.5, test_topk_per_image: int = 100,
        cls_agnostic_bbox_reg: bool = False, smooth_l1_beta: float = 0.0, box_reg_loss_type: str = "smooth_l1",
        loss_weight: float | dict[str, float] = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_classes = num_classes
        features = input_shape.channels * (input_shape.width or 1) * (input_shape.height or 1)
        self.cls_score = Linear(features, num_classes + 1)
        self.bbox_pred = Linear(features, 4 if cls_agnostic_bbox_reg else 4 * num_classes)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        self.box2box_transform = box2box_transform
        self.smooth_l1_beta = smooth_l1_beta
        self.test_score_thresh = test_score_thresh
        self.test_nms_thresh = test_nms_thresh
        self.test_topk_per_image = test_topk_per_image
        self.box_reg_loss_type = box_reg_loss_type
        if not isinstance(loss_weight, dict):
            loss_weight = dict.fromkeys(("loss_cls", "loss_box_reg"), loss_weight)
        self.loss_weight = loss_weight

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        """Read the arguments from the config.

        Raises:
            NotImplementedError: the config asks for the federated or the sigmoid loss, which are not included.
        """
        options, heads = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_HEADS
        if options.USE_FED_LOSS or options.USE_SIGMOID_CE:
            raise not_included("MODEL.ROI_BOX_HEAD.USE_FED_LOSS or USE_SIGMOID_CE True")
        return {
            "input_shape": input_shape,
            "box2box_transform": Box2BoxTransform(weights=options.BBOX_REG_WEIGHTS),
            "num_classes": heads.NUM_CLASSES,
            "cls_agnostic_bbox_reg": options.CLS_AGNOSTIC_BBOX_REG,
            "smooth_l1_beta": options.SMOOTH_L1_BETA,
            "test_score_thresh": heads.SCORE_THRESH_TEST,
            "test_nms_thresh": heads.NMS_THRESH_TEST,
            "test_topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "box_reg_loss_type": options.BBOX_REG_LOSS_TYPE,
            "loss_weight": {"loss_box_reg": options.BBOX_REG_LOSS_WEIGHT},
        }

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute logits and deltas from features (R, ...).

        Returns:
            Logits (R, K + 1), the background last, and deltas (R, K * 4), or (R, 4) if class-agnostic.
        """
        x = x.flatten(start_dim=1)
        return self.cls_score(x), self.bbox_pred(x)

    def losses(self, predictions, proposals: list[Instances]) -> dict[str, torch.Tensor]:
        """Compute ``loss_cls``, the mean cross entropy, and ``loss_box_reg``, see ``box_reg_loss``.

        Args:
            predictions: logits and deltas, as ``forward`` returns them.
            proposals: one per image, R proposals in total, with ``proposal_boxes``, ``gt_classes`` (K is background)
                and, if the image has ground truth, ``gt_boxes``. Without images both losses are 0.
        """
        logits, deltas = predictions
        if not proposals:
            return {"loss_cls": logits.sum() * 0.0, "loss_box_reg": deltas.sum() * 0.0}
        gt_classes = cat([p.gt_classes for p in proposals])
        _log_classification_stats(logits, gt_classes)
        boxes = cat([p.proposal_boxes.tensor for p in proposals])
        # Without ground truth all RoIs are background, and gt_boxes are not used.
        gt_boxes = cat([(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals])
        losses = {
            "loss_cls": cross_entropy(logits, gt_classes, reduction="mean"),
            "loss_box_reg": self.box_reg_loss(boxes, gt_boxes, deltas, gt_classes),
        }
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def box_reg_loss(
        self, proposal_boxes: torch.Tensor, gt_boxes: torch.Tensor, pred_deltas: torch.Tensor, gt_classes: torch.Tensor
    ) -> torch.Tensor:
        """Compute the summed box loss of the foreground RoIs, divided by the number of all RoIs.

        Args:
            proposal_boxes, gt_boxes: (R, 4).
            pred_deltas: (R, K * 4) or (R, 4).
            gt_classes: int64 (R,).
        """
        foreground = ((gt_classes >= 0) & (gt_classes < self.num_classes)).nonzero().flatten()
        deltas = _of_class(pred_deltas[foreground], gt_classes[foreground])
        boxes = (proposal_boxes[foreground], gt_boxes[foreground])
        options = (self.box_reg_loss_type, self.smooth_l1_beta)
        return self.box2box_transform.loss(*options, *boxes, deltas) / max(gt_classes.numel(), 1.0)

    def inference(self, predictions, proposals: list[Instances]) -> tuple[list[Instances], list[torch.Tensor]]:
        """Return detections of proposals with ``proposal_boxes``, see ``fast_rcnn_inference``."""
        boxes, scores = self.predict_boxes(predictions, proposals), self.predict_probs(predictions, proposals)
        thresholds = (self.test_score_thresh, self.test_nms_thresh, self.test_topk_per_image)
        return fast_rcnn_inference(boxes, scores, [p.image_size for p in proposals], *thresholds)

    def predict_boxes(self, predictions, proposals: list[Instances]) -> list[torch.Tensor]:
        """Return boxes (Ri, K * 4) or (Ri, 4) of each image, not clipped."""
        if not proposals:
            return []
        boxes = self.box2box_transform.apply_deltas(predictions[1], cat([p.proposal_boxes.tensor for p in proposals]))
        return list(boxes.split([len(p) for p in proposals]))

    def predict_probs(self, predictions, proposals: list[Instances]) -> list[torch.Tensor]:
        """Return class probabilities (Ri, K + 1) of each image, the background last."""
        return list(F.softmax(predictions[0], dim=-1).split([len(p) for p in proposals]))
