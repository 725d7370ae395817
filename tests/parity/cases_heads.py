"""Cases on RPN, box head and mask head, each alone, with synthetic features and weights."""

from __future__ import annotations

import torch

from .common import case, fill, random_boxes, random_values, rcnn_cfg, sample_everything

SIZES = [(96, 128), (90, 120)]


def _features(channels: int = 16) -> dict[str, torch.Tensor]:
    return {f"p{i}": random_values(f"features/p{i}", 2, channels, 96 >> i, 128 >> i) for i in range(2, 6)} | {
        "p6": random_values("features/p6", 2, channels, 2, 2)
    }


def _shapes(channels: int = 16) -> dict:
    from detectron2.layers import ShapeSpec

    return {f"p{i}": ShapeSpec(channels=channels, stride=2**i) for i in range(2, 7)}


def _truth(n: int = 5) -> list:
    """Return the ground truth of two images: boxes, 10 classes and octagons as masks."""
    from detectron2.structures import Boxes, Instances, PolygonMasks

    corners = torch.tensor([[0.3, 0], [0.7, 0], [1, 0.3], [1, 0.7], [0.7, 1], [0.3, 1], [0, 0.7], [0, 0.3]])
    out = []
    for i, size in enumerate(SIZES):
        boxes = random_boxes(f"truth/{i}", n, *size, smallest=16)
        one = Instances(size)
        one.gt_boxes = Boxes(boxes)
        one.gt_classes = random_values(f"truth/classes/{i}", n, low=0, high=10).long()
        octagons = boxes[:, None, :2] + corners * (boxes[:, None, 2:] - boxes[:, None, :2])
        one.gt_masks = PolygonMasks([[o.reshape(-1).double().numpy()] for o in octagons])
        out.append(one)
    return out


def _images():
    from detectron2.structures import ImageList

    return ImageList(torch.zeros(2, 3, 96, 128), SIZES)


def _rpn(**options):
    from detectron2.modeling import build_proposal_generator

    cfg = rcnn_cfg("FPN", narrow=True)
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [64], [128]]
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 60
    for key, value in options.items():
        setattr(cfg.MODEL.RPN, key, value)
    return fill(build_proposal_generator(cfg, _shapes())), cfg


def _losses(losses: dict) -> dict:
    return {name: float(value) for name, value in losses.items()}


@case
def case_rpn_proposals() -> dict:
    """Sorted proposals, also with fewer proposals, with another NMS threshold, and in training."""
    from detectron2.utils.events import EventStorage

    def describe(proposals: list) -> list:
        return [
            {"boxes": p.proposal_boxes.tensor, "logits": p.objectness_logits, "size": p.image_size, "n": len(p)}
            for p in proposals
        ]

    out = {}
    settings = {"usual": {}, "few": {"PRE_NMS_TOPK_TEST": 50, "POST_NMS_TOPK_TEST": 10}, "nms": {"NMS_THRESH": 0.3}}
    with torch.no_grad():
        for name, options in settings.items():
            rpn, _ = _rpn(**options)
            proposals, losses = rpn.eval()(_images(), _features())
            out[name] = {"images": describe(proposals), "losses": _losses(losses)}
            out[name]["fields"] = sorted(proposals[0].get_fields())
        rpn, _ = _rpn()
        with EventStorage(0):
            out["training"] = describe(rpn.train()(_images(), _features(), _truth())[0])
        logits, deltas = rpn.rpn_head(list(_features().values()))
    return {**out, "logits": logits, "deltas": deltas}


@case
def case_rpn_losses() -> dict:
    """Losses and gradients with exhaustive sampling, also without ground truth."""
    from detectron2.utils.events import EventStorage

    out = {}
    settings = {
        "smooth_l1": {},
        "smooth_l1_beta": {"SMOOTH_L1_BETA": 0.2},
        "weights": {"LOSS_WEIGHT": 2.0, "BBOX_REG_LOSS_WEIGHT": 0.5},
        "border": {"BOUNDARY_THRESH": 0},
        "low_iou": {"IOU_THRESHOLDS": [0.2, 0.4]},
    }
    for name, options in settings.items():
        rpn, cfg = _rpn(**options, BATCH_SIZE_PER_IMAGE=200000, POSITIVE_FRACTION=1.0)
        with EventStorage(0) as storage:
            losses = rpn.train()(_images(), _features(), _truth())[1]
            sum(losses.values()).backward()
            counts = {k: v[0] for k, v in storage.latest().items() if k.startswith("rpn/")}
        gradients = {k: p.grad for k, p in rpn.named_parameters()}
        out[name] = {"losses": _losses(losses), "counts": counts, "gradients": gradients}
        if name == "smooth_l1":
            with EventStorage(0):
                out["no_truth"] = _losses(rpn(_images(), _features(), [t[:0] for t in _truth()])[1])
    return out


def _roi_heads(**options):
    """Build standard RoI heads with masks for 10 classes."""
    from detectron2.modeling import build_roi_heads

    cfg = rcnn_cfg("FPN", narrow=True)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 10
    sample_everything(cfg)
    for key, value in options.items():
        node, key = key.split("__")
        setattr(getattr(cfg.MODEL, node), key, value)
    return fill(build_roi_heads(cfg, _shapes()))


def _proposals() -> list:
    from detectron2.structures import Boxes, Instances

    out = []
    for i, (size, truth) in enumerate(zip(SIZES, _truth())):
        near = truth.gt_boxes.tensor.repeat(3, 1) + random_values(f"near/{i}", 15, 4, low=-4, high=4)
        boxes = Boxes(torch.cat([near, random_boxes(f"far/{i}", 20, *size)]))
        boxes.clip(size)
        out.append(Instances(size, proposal_boxes=boxes, objectness_logits=random_values(f"objectness/{i}", 35)))
    return out


HEAD_SETTINGS = {
    "usual": {},
    "agnostic": {"ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True, "ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": True},
    "box_convs": {"ROI_BOX_HEAD__NUM_CONV": 2, "ROI_BOX_HEAD__CONV_DIM": 32, "ROI_BOX_HEAD__NORM": "GN"},
    "thresholds": {"ROI_HEADS__SCORE_THRESH_TEST": 0.2, "ROI_HEADS__NMS_THRESH_TEST": 0.3},
}


@case
def case_roi_heads_inference() -> dict:
    """Detections with masks of the standard RoI heads, and masks of given boxes."""
    out = {}
    with torch.no_grad():
        for name, options in HEAD_SETTINGS.items():
            heads = _roi_heads(**options).eval()
            detections, losses = heads(_images(), _features(), _proposals())
            out[name] = {
                "losses": losses,
                "images": [
                    {
                        "boxes": d.pred_boxes.tensor,
                        "scores": d.scores,
                        "classes": d.pred_classes,
                        "masks": d.pred_masks,
                        "fields": sorted(d.get_fields()),
                    }
                    for d in detections
                ],
            }
        given = [d[:3] for d in detections]
        for g in given:
            g.remove("pred_masks")
        out["given"] = [g.pred_masks for g in heads.forward_with_given_boxes(_features(), given)]
    return out


@case
def case_roi_heads_losses() -> dict:
    """Losses, logged numbers and gradients with exhaustive sampling."""
    from detectron2.utils.events import EventStorage

    settings = {
        **HEAD_SETTINGS,
        "smooth_l1_beta": {"ROI_BOX_HEAD__SMOOTH_L1_BETA": 0.5},
        "box_weight": {"ROI_BOX_HEAD__BBOX_REG_LOSS_WEIGHT": 3.0},
        "no_append": {"ROI_HEADS__PROPOSAL_APPEND_GT": False},
    }
    out = {}
    for name, options in settings.items():
        heads = _roi_heads(**options).train()
        with EventStorage(0) as storage:
            _, losses = heads(_images(), _features(), _proposals(), _truth())
            sum(losses.values()).backward()
            logged = {k: float(v[0]) for k, v in storage.latest().items()}
        gradients = {k: float(p.grad.norm()) for k, p in heads.named_parameters()}
        out[name] = {"losses": _losses(losses), "logged": logged, "gradients": gradients}
        if name == "usual":
            with EventStorage(0):
                out["no_truth"] = _losses(heads(_images(), _features(), _proposals(), [t[:0] for t in _truth()])[1])
    return out


@case
def case_box_predictor() -> dict:
    """FastRCNNOutputLayers: outputs, boxes, probabilities and detections."""
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.box_regression import Box2BoxTransform
    from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference

    layers = FastRCNNOutputLayers(
        ShapeSpec(channels=4, height=2, width=2),
        box2box_transform=Box2BoxTransform((10, 10, 5, 5)),
        num_classes=10,
        test_score_thresh=0.05,
        test_topk_per_image=20,
        loss_weight={"loss_cls": 0.5},
    )
    fill(layers).eval()
    proposals = _proposals()
    x = random_values("predictor", 70, 4, 2, 2, low=-3, high=3)
    with torch.no_grad():
        scores, deltas = predictions = layers(x)
        boxes, probabilities = (
            layers.predict_boxes(predictions, proposals),
            layers.predict_probs(predictions, proposals),
        )
        detections, kept = layers.inference(predictions, proposals)
        bad = [probabilities[0].clone(), probabilities[1]]
        bad[0][3] = float("nan")  # rows with NaN are removed
        lenient = fast_rcnn_inference(boxes, bad, SIZES, 0.01, 0.9, 1000)
    return {
        "scores": scores,
        "deltas": deltas,
        "boxes": list(boxes),
        "probabilities": list(probabilities),
        "found": [[d.pred_boxes.tensor, d.scores, d.pred_classes] for d in detections],
        "kept": list(kept),
        "lenient": [[d.pred_boxes.tensor, d.scores, d.pred_classes] for d in lenient[0]],
    }


@case
def case_mask_head() -> dict:
    """Logits, loss and masks of the mask head, and of the functions that it calls."""
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_mask_head
    from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference, mask_rcnn_loss
    from detectron2.structures import BitMasks, Instances
    from detectron2.utils.events import EventStorage

    cfg = rcnn_cfg("FPN", narrow=True)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 10
    head = fill(build_mask_head(cfg, ShapeSpec(channels=16, height=14, width=14)))
    truth = _truth()
    for one, noise in zip(truth, (0.0, 2.0)):
        one.proposal_boxes = type(one.gt_boxes)(one.gt_boxes.tensor + noise)
    as_bits = []
    for one in truth:
        bits = BitMasks.from_polygon_masks(one.gt_masks.polygons, *one.image_size)
        as_bits.append(Instances(one.image_size, **{**one.get_fields(), "gt_masks": bits}))
    x = random_values("mask_head", 10, 16, 14, 14)
    detections = [Instances(t.image_size, pred_classes=t.gt_classes, pred_boxes=t.gt_boxes) for t in truth]
    with torch.no_grad(), EventStorage(0) as storage:
        logits = head.layers(x)
        loss = head.train()(x, truth)
        logged = {k: float(v[0]) for k, v in storage.latest().items()}
        loss_bits = mask_rcnn_loss(logits, as_bits)
        loss_agnostic = mask_rcnn_loss(logits[:, :1], truth)
        loss_none = mask_rcnn_loss(logits[:0], [t[:0] for t in truth])
        inferred = head.eval()(x, detections)
        agnostic = [d[:] for d in detections]
        mask_rcnn_inference(logits[:, :1], agnostic)
    return {
        "logits": logits,
        "loss": {k: float(v) for k, v in loss.items()},
        "logged": logged,
        "loss_bits": float(loss_bits),
        "loss_agnostic": float(loss_agnostic),
        "loss_none": float(loss_none),
        "masks": [i.pred_masks for i in inferred],
        "agnostic": [a.pred_masks for a in agnostic],
    }


@case
def case_postprocess() -> dict:
    """detector_postprocess for several output sizes. One box is outside the image."""
    from detectron2.modeling.postprocessing import detector_postprocess
    from detectron2.structures import Boxes, Instances

    detections = Instances((96, 128))
    outside = torch.tensor([[200.0, 10.0, 250.0, 20.0]])
    detections.pred_boxes = Boxes(torch.cat([random_boxes("post", 5, 96, 128), outside]))
    detections.scores = random_values("post/scores", 6, low=0, high=1)
    detections.pred_classes = torch.arange(6)
    detections.pred_masks = random_values("post/masks", 6, 1, 28, 28, low=0, high=1)
    out = {}
    for size in ((96, 128), (48, 64), (150, 170)):
        result = detector_postprocess(detections, *size)
        out[str(size)] = [
            result.image_size,
            result.pred_boxes.tensor,
            result.scores,
            result.pred_classes,
            result.pred_masks,
        ]
    return out
