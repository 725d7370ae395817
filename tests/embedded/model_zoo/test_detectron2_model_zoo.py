"""The configs and addresses of the model zoo, and building from them."""

import tellapart  # noqa: F401

import detectron2
import pytest
import torch
from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg

ZOO = "https://dl.fbaipublicfiles.com/detectron2/COCO-InstanceSegmentation/"
R_50_1X = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"


@pytest.mark.parametrize(
    ("name", "weights", "depth", "steps"),
    [
        ("mask_rcnn_R_50_FPN_1x", "137260431/model_final_a54504.pkl", 50, (60000, 80000, 90000)),
        ("mask_rcnn_R_50_FPN_3x", "137849600/model_final_f10217.pkl", 50, (210000, 250000, 270000)),
        ("mask_rcnn_R_101_FPN_3x", "138205316/model_final_a3ec72.pkl", 101, (210000, 250000, 270000)),
    ],
)
def test_entries(name, weights, depth, steps):
    path = f"COCO-InstanceSegmentation/{name}.yaml"
    cfg = model_zoo.get_config(path)
    assert model_zoo.get_checkpoint_url(path) == f"{ZOO}{name}/{weights}"
    assert f"detectron2://ImageNetPretrained/MSRA/R-{depth}.pkl" == cfg.MODEL.WEIGHTS
    assert f"{ZOO}{name}/{weights}" == model_zoo.get_config(path, trained=True).MODEL.WEIGHTS
    assert depth == cfg.MODEL.RESNETS.DEPTH and (*cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER) == steps
    merged = get_cfg()
    merged.merge_from_file(model_zoo.get_config_file(path))
    assert merged == cfg


def test_whole_config():
    """Every key that differs from the default config, as recorded under the real Detectron2."""
    cfg, default = model_zoo.get_config(R_50_1X), get_cfg()

    def changed(node, other, prefix=""):
        out = {}
        for key, value in node.items():
            if isinstance(value, dict):
                out.update(changed(value, other[key], f"{prefix}{key}."))
            elif value != other[key]:
                out[prefix + key] = value
        return out

    levels = ["p2", "p3", "p4", "p5", "p6"]
    stages = ["res2", "res3", "res4", "res5"]
    assert changed(cfg, default) == {
        "MODEL.MASK_ON": True,
        "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.RESNETS.OUT_FEATURES": stages,
        "MODEL.FPN.IN_FEATURES": stages,
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
        "MODEL.RPN.IN_FEATURES": levels,
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
        "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES": levels[:4],
        "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
        "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
        "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
        "INPUT.MIN_SIZE_TRAIN": (640, 672, 704, 736, 768, 800),
        "DATASETS.TRAIN": ("coco_2017_train",),
        "DATASETS.TEST": ("coco_2017_val",),
        "SOLVER.BASE_LR": 0.02,
        "SOLVER.STEPS": (60000, 80000),
        "SOLVER.MAX_ITER": 90000,
    }


@pytest.mark.parametrize("function", ["get_config_file", "get_checkpoint_url", "get_config", "get"])
def test_unknown_name(function):
    with pytest.raises(RuntimeError, match="nothing.yaml") as error:
        getattr(model_zoo, function)("nothing.yaml")
    if "embedded" in detectron2.__version__:
        assert R_50_1X in str(error.value)


@pytest.mark.parametrize("trained", [False, True])
def test_model_is_built_and_its_weights_loaded(trained, monkeypatch):
    loaded = []
    monkeypatch.setattr(DetectionCheckpointer, "load", lambda self, path: loaded.append(path))
    model = model_zoo.get(R_50_1X, trained=trained, device="cpu")
    assert next(model.parameters()).device == torch.device("cpu")
    assert model.training
    assert loaded == [model_zoo.get_config(R_50_1X, trained=trained).MODEL.WEIGHTS]
