"""Cases on the default config and on what a config builds: names, shapes, what is trained."""

from __future__ import annotations

from typing import Any

from .common import case, rcnn_cfg


def _leaves(node: Any, prefix: str = "") -> dict[str, list]:
    out: dict[str, list] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            out.update(_leaves(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = [type(value).__name__, repr(value)]
    return out


@case
def case_default_config() -> dict:
    """Every key, its type and its value; the text of the dump; a new config is a copy."""
    from detectron2.config import get_cfg

    cfg = get_cfg()
    get_cfg().MODEL.MASK_ON = True
    return {"leaves": _leaves(cfg), "dump": cfg.dump(), "mask_on": get_cfg().MODEL.MASK_ON, "frozen": cfg.is_frozen()}


def _parameters(model) -> dict[str, str]:
    """name -> "shape dtype", with "trained" or "fixed" for parameters (nothing for buffers)."""
    trained = {name: " trained" if p.requires_grad else " fixed" for name, p in model.named_parameters()}
    return {
        name: f"{'x'.join(map(str, v.shape))} {str(v.dtype)[6:]}{trained.get(name, '')}"
        for name, v in model.state_dict().items()
    }


def _describe(cfg) -> dict:
    from detectron2.modeling import build_model

    model = build_model(cfg)
    shapes = {k: [s.channels, s.stride] for k, s in model.backbone.output_shape().items()}
    return {
        "state": _parameters(model),
        "backbone_output": shapes,
        "size_divisibility": model.backbone.size_divisibility,
        "classes": [type(m).__name__ for m in (model, model.backbone, model.proposal_generator, model.roi_heads)],
    }


@case
def case_state_mask_rcnn_R_50_FPN() -> dict:
    return _describe(rcnn_cfg("FPN", 50))


@case
def case_state_mask_rcnn_R_18_FPN() -> dict:
    return _describe(rcnn_cfg("FPN", 18))


@case
def case_state_faster_rcnn_R_50_DC5() -> dict:
    return _describe(rcnn_cfg("DC5", 50, mask=False))


@case
def case_state_mask_rcnn_R_101_C4() -> dict:
    return _describe(rcnn_cfg("C4", 101))


@case
def case_state_variants() -> dict:
    """What the remaining switches of backbone and heads do to names and shapes (narrow models)."""

    def build(kind: str = "FPN", depth: int = 50, mask: bool = True, options: tuple = ()):
        cfg = rcnn_cfg(kind, depth, mask, narrow=True)
        cfg.merge_from_list(list(options))
        return _describe(cfg)

    resnets, box, mask = "MODEL.RESNETS.", "MODEL.ROI_BOX_HEAD.", "MODEL.ROI_MASK_HEAD."
    return {
        "R_34": build(depth=34),
        "R_152_C4": build("C4", 152, mask=False),
        "stride_in_3x3": build(options=(resnets + "STRIDE_IN_1X1", False)),
        "groups": build(options=(resnets + "NUM_GROUPS", 4, resnets + "WIDTH_PER_GROUP", 8)),
        "agnostic": build(options=(box + "CLS_AGNOSTIC_BBOX_REG", True, mask + "CLS_AGNOSTIC_MASK", True)),
        "box_convs": build(options=(box + "NUM_CONV", 2, box + "CONV_DIM", 24, box + "NUM_FC", 1)),
        "classes_7": build(options=("MODEL.ROI_HEADS.NUM_CLASSES", 7)),
        "rpn_convs": build(options=("MODEL.RPN.CONV_DIMS", [32, -1])),
        "anchors_2": build(options=("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.5, 2.0]])),
        "fpn_average": build(options=("MODEL.FPN.FUSE_TYPE", "avg")),
    }


@case
def case_norms() -> dict:
    """State names under each normalisation, in backbone, FPN, box head and mask head."""

    def build(norm: str) -> dict:
        cfg = rcnn_cfg("FPN", 18, narrow=True)
        cfg.MODEL.RESNETS.NORM = norm
        cfg.MODEL.FPN.NORM = cfg.MODEL.ROI_BOX_HEAD.NORM = cfg.MODEL.ROI_MASK_HEAD.NORM = norm
        cfg.MODEL.ROI_BOX_HEAD.NUM_CONV = 1
        return _describe(cfg)["state"]

    return {norm: build(norm) for norm in ("BN", "GN", "FrozenBN", "SyncBN", "")}


@case
def case_freeze_at() -> dict:
    """Which parameters each FREEZE_AT leaves trained, and which layers become FrozenBatchNorm2d."""
    from detectron2.modeling import build_backbone

    out = {}
    for norm in ("FrozenBN", "BN"):
        for freeze_at in range(6):
            cfg = rcnn_cfg("FPN", 18, narrow=True)
            cfg.MODEL.RESNETS.NORM = norm
            cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
            model = build_backbone(cfg)
            out[f"{norm}_{freeze_at}"] = {
                "fixed": [n for n, p in model.named_parameters() if not p.requires_grad],
                "frozen_norms": [n for n, m in model.named_modules() if type(m).__name__ == "FrozenBatchNorm2d"],
                "parameters": sum(1 for _ in model.parameters()),
            }
    return out
