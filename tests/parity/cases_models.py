"""Cases on whole models: detections and losses on fixed weights and drawn images."""

from __future__ import annotations

import torch

from .common import case, crc, fill, model_input, rcnn_cfg, sample_everything

IMAGES = ((5, 128, 171, 16), (6, 110, 137, 7))  # per image: seed, height, width, number of objects


def _model(kind: str, depth: int, mask: bool, **options):
    from detectron2.modeling import build_model

    cfg = rcnn_cfg(kind, depth, mask, narrow=kind != "FPN")
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 60
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.02
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 256
    cfg.TEST.DETECTIONS_PER_IMAGE = 20
    sample_everything(cfg)
    for key, value in options.items():
        setattr(cfg.MODEL, key, value)
    return fill(build_model(cfg))


def _inputs() -> list[dict]:
    return [model_input(*image) for image in IMAGES]


def train_step(model, inputs: list[dict]) -> dict:
    """Run a forward and a backward pass. Returns losses and logged numbers, and keeps the gradients."""
    from detectron2.utils.events import EventStorage

    model.train()
    with EventStorage(0) as storage:
        losses = model(inputs)
        sum(losses.values()).backward()
        logged = {k: float(v[0]) for k, v in storage.latest().items()}
    return {"logged": logged, "losses": {k: float(v) for k, v in losses.items()}}


def _run(kind: str, depth: int, mask: bool, **options) -> dict:
    model = _model(kind, depth, mask, **options)
    inputs = _inputs()
    out: dict = {"pixels": [crc(x["image"].numpy()) for x in inputs]}
    with torch.no_grad():
        model.eval()
        features = model.backbone(model.preprocess_image(inputs).tensor)
        out["features"] = features
        out["detections"] = []
        for detections in (r["instances"] for r in model(inputs)):
            one = {
                "size": detections.image_size,
                "boxes": detections.pred_boxes.tensor,
                "scores": detections.scores,
                "classes": detections.pred_classes,
            }
            if mask:
                one["mask_pixels"] = detections.pred_masks.flatten(1).sum(1).tolist()
                one["mask_dtype"] = str(detections.pred_masks.dtype)
            out["detections"].append(one)
        raw = model.inference(inputs, do_postprocess=False)
        out["raw"] = [[sorted(r.get_fields()), r.image_size, r.pred_boxes.tensor] for r in raw]
    out.update(train_step(model, inputs))
    groups: dict[str, float] = {}
    for name, p in model.named_parameters():
        if p.grad is not None:
            group = ".".join(name.split(".")[:3])
            groups[group] = groups.get(group, 0.0) + float(p.grad.double().square().sum())
    out["gradients"] = {k: v**0.5 for k, v in groups.items()}
    return out


@case
def case_model_mask_rcnn_R_18_FPN() -> dict:
    return _run("FPN", 18, True)


@case
def case_model_faster_rcnn_R_50_DC5() -> dict:
    return _run("DC5", 50, False)


@case
def case_model_rgb_input() -> dict:
    """Another pixel mean and standard deviation, and a batch in which one image has no objects."""
    from detectron2.utils.events import EventStorage

    model = _model("DC5", 50, True, PIXEL_MEAN=[120.0, 110.0, 100.0], PIXEL_STD=[58.0, 57.0, 56.0])
    inputs = _inputs()
    inputs[0]["instances"] = inputs[0]["instances"][:0]
    batch = model.preprocess_image(inputs)
    with EventStorage(0):
        losses = model.train()(inputs)
    return {
        "batch": batch.tensor,
        "sizes": [tuple(s) for s in batch.image_sizes],
        "losses": {k: float(v) for k, v in losses.items()},
    }
