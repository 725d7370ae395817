"""Cases for configs and for the models that they build: parameter names, shapes, trained parameters."""

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
    """Every key with its type and value, the text of ``dump``, and that ``get_cfg`` returns a copy."""
    from detectron2.config import get_cfg

    cfg = get_cfg()
    get_cfg().MODEL.MASK_ON = True
    return {"leaves": _leaves(cfg), "dump": cfg.dump(), "mask_on": get_cfg().MODEL.MASK_ON, "frozen": cfg.is_frozen()}


@case
def case_config_merging() -> dict:
    """Base files, overrides, clones, and the errors for wrong keys and types."""
    import tempfile
    from pathlib import Path

    from detectron2.config import CfgNode, get_cfg

    def error(function, *arguments) -> str:
        try:
            function(*arguments)
        except Exception as e:
            return type(e).__name__
        return ""

    with tempfile.TemporaryDirectory() as folder:
        base, child = Path(folder) / "base.yaml", Path(folder) / "sub" / "child.yaml"
        child.parent.mkdir()
        base.write_text(
            "MODEL:\n  MASK_ON: true\n  WEIGHTS: a.pth\nSOLVER:\n  STEPS: (3, 4)\n  BASE_LR: 0.5\nVERSION: 2\n"
        )
        child.write_text("_BASE_: ../base.yaml\nMODEL:\n  WEIGHTS: b.pth\nDATASETS:\n  TRAIN: ['x', 'y']\n")
        cfg = get_cfg()
        cfg.merge_from_file(str(child))
        loaded = CfgNode.load_yaml_with_base(str(child))
        (Path(folder) / "bad.yaml").write_text("MODEL:\n  MASK_ONN: true\n")
        wrong_file = error(get_cfg().merge_from_file, str(Path(folder) / "bad.yaml"))
    clone = cfg.clone()
    clone.merge_from_list(["MODEL.MASK_ON", "False", "SOLVER.BASE_LR", "1e-3", "INPUT.MIN_SIZE_TRAIN", "(5, 6)"])
    frozen = cfg.clone()
    frozen.freeze()
    return {
        "merged": [
            cfg.MODEL.MASK_ON,
            cfg.MODEL.WEIGHTS,
            repr(cfg.SOLVER.STEPS),
            repr(cfg.SOLVER.BASE_LR),
            cfg.DATASETS.TRAIN,
        ],
        "clone": [clone.MODEL.MASK_ON, repr(clone.SOLVER.BASE_LR), repr(clone.INPUT.MIN_SIZE_TRAIN), cfg.MODEL.MASK_ON],
        "loaded": sorted(loaded),
        "errors": {
            "file": wrong_file,
            "key": error(cfg.merge_from_list, ["MODEL.NO", 1]),
            "type": error(cfg.merge_from_list, ["SOLVER.MAX_ITER", "many"]),
            "odd": error(cfg.merge_from_list, ["SOLVER.MAX_ITER"]),
            "frozen": error(setattr, frozen, "OUTPUT_DIR", "x"),
            "unknown_attribute": error(getattr, cfg.MODEL, "NO"),
        },
    }


@case
def case_configurable() -> dict:
    """@configurable on a class and a function, with and without a config and further arguments."""
    from detectron2.config import configurable, get_cfg

    class Thing:
        @configurable
        def __init__(self, a, b=2, *, c=3) -> None:
            self.values = [a, b, c]

        @classmethod
        def from_config(cls, cfg, scale=1) -> dict:
            return {"a": cfg.SOLVER.MAX_ITER * scale, "c": "from cfg"}

    @configurable(from_config=lambda cfg: {"x": cfg.SOLVER.GAMMA})
    def function(x, y=5) -> list:
        return [x, y]

    cfg = get_cfg()
    return {
        "explicit": Thing(1, c=4).values,
        "config": Thing(cfg).values,
        "keyword": Thing(cfg=cfg).values,
        "more": Thing(cfg, b=7).values,
        "scaled": Thing(cfg, scale=2).values,
        "override": Thing(cfg, c=9).values,
        "function": [function(1), function(cfg), function(cfg, y=6)],
    }


def _parameters(model) -> dict[str, str]:
    """Return "shape dtype" per name of the state dict, with "trained" or "fixed" for parameters."""
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
def case_state_mask_rcnn_R_101_FPN() -> dict:
    return _describe(rcnn_cfg("FPN", 101))


@case
def case_state_variants() -> dict:
    """Parameter names and shapes for other settings of backbone and heads (narrow models)."""

    def build(kind: str = "FPN", depth: int = 50, mask: bool = True, options: tuple = ()):
        cfg = rcnn_cfg(kind, depth, mask, narrow=True)
        cfg.merge_from_list(list(options))
        return _describe(cfg)

    resnets, box, mask = "MODEL.RESNETS.", "MODEL.ROI_BOX_HEAD.", "MODEL.ROI_MASK_HEAD."
    return {
        "R_34": build(depth=34),
        "R_152_DC5": build("DC5", 152, mask=False),
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
    """Parameter names with each normalization in backbone, FPN, box head and mask head."""

    def build(norm: str) -> dict:
        cfg = rcnn_cfg("FPN", 18, narrow=True)
        cfg.MODEL.RESNETS.NORM = norm
        cfg.MODEL.FPN.NORM = cfg.MODEL.ROI_BOX_HEAD.NORM = cfg.MODEL.ROI_MASK_HEAD.NORM = norm
        cfg.MODEL.ROI_BOX_HEAD.NUM_CONV = 1
        return _describe(cfg)["state"]

    return {norm: build(norm) for norm in ("BN", "GN", "FrozenBN", "SyncBN", "")}


@case
def case_freeze_at() -> dict:
    """Fixed parameters and FrozenBatchNorm2d layers for each FREEZE_AT."""
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
