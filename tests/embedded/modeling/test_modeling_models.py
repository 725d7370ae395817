"""Complete models: training and inference, images without objects, autocast, given boxes."""

import tellapart  # noqa: F401

import detectron2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    BaseMaskRCNNHead,
    build_backbone,
    build_model,
)
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

EMBEDDED = "embedded_detectron2" in detectron2.__file__
LOSSES = ["loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"]


def config(kind):
    """Return the config of a narrow Mask R-CNN, R-18-FPN or R-50-DC5."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.MODEL.MASK_ON, cfg.MODEL.ROI_HEADS.NUM_CLASSES = "cpu", True, 3
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE = 0.0, 10
    cfg.MODEL.RESNETS.NORM, cfg.MODEL.BACKBONE.FREEZE_AT = "BN", 0
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 30
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM, cfg.MODEL.ROI_BOX_HEAD.CONV_DIM, cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 32, 16, 16
    res = cfg.MODEL.RESNETS
    if kind == "R-18-FPN":
        cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
        res.DEPTH, res.RES2_OUT_CHANNELS = 18, 64
        res.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
        cfg.MODEL.FPN.OUT_CHANNELS = 16
        cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [64], [128]]
        cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    else:
        res.DEPTH, res.RES2_OUT_CHANNELS, res.WIDTH_PER_GROUP = 50, 32, 8
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16, 32]]
        res.RES5_DILATION = 2
        res.OUT_FEATURES = cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res5"]
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_BOX_HEAD.NAME = "StandardROIHeads", "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC, cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 1, 7
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    return cfg


def test_random_weights_after_the_backbone_do_not_depend_on_its_depth():
    cfg, drawn = config("R-50-DC5"), []
    for last in ("res2", "res5"):
        cfg.MODEL.RESNETS.OUT_FEATURES = [last]
        torch.manual_seed(0)
        assert build_backbone(cfg).output_shape().keys() == {last}
        drawn.append(torch.rand(1))
    assert drawn[0] == drawn[1]


def annotated(height, width, boxes, masks="polygon"):
    g = torch.Generator().manual_seed(height)
    image = torch.randint(0, 255, (3, height, width), generator=g, dtype=torch.uint8)
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    polygons = [[np.array([a, b, c, b, c, d, a, d])] for a, b, c, d in boxes.double().tolist()]
    masks = PolygonMasks(polygons) if masks == "polygon" else BitMasks.from_polygon_masks(polygons, height, width)
    classes = torch.arange(len(boxes)) % 3
    truth = Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=classes, gt_masks=masks)
    return {"image": image, "height": 2 * height, "width": width, "instances": truth}


def batch(masks="polygon"):
    """Return two images of different sizes, the second without objects."""
    return [annotated(64, 72, [[4, 4, 36, 30], [20, 30, 60, 60]], masks), annotated(48, 80, [], masks)]


def build(kind, **overrides):
    cfg = config(kind)
    cfg.merge_from_list([x for pair in overrides.items() for x in (pair[0].replace("__", "."), pair[1])])
    torch.manual_seed(0)
    return build_model(cfg)


def train_step(model, inputs):
    with EventStorage() as storage:
        losses = model(inputs)
    sum(losses.values()).backward()
    return {name: loss.item() for name, loss in losses.items()}, {k: v[0] for k, v in storage.latest().items()}


@pytest.mark.parametrize("kind", ["R-18-FPN", "R-50-DC5"])
def test_forward_backward_and_detections(kind):
    model = build(kind)
    losses, scalars = train_step(model, batch())
    assert sorted(losses) == sorted(LOSSES) and all(np.isfinite(v) and v > 0 for v in losses.values())
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    logged = {"rpn/num_pos_anchors", "roi_head/num_fg_samples", "fast_rcnn/cls_accuracy", "mask_rcnn/accuracy"}
    assert logged <= set(scalars)
    with torch.no_grad():
        first, second = model.eval()(batch())
    assert first["instances"].image_size == (128, 72) and second["instances"].image_size == (96, 80)
    detections = first["instances"]
    assert 0 < len(detections) <= 10 and detections.pred_masks.shape == (len(detections), 128, 72)
    assert detections.pred_masks.dtype == torch.bool and (detections.scores[:-1] >= detections.scores[1:]).all()


@pytest.mark.parametrize("kind", ["R-18-FPN", "R-50-DC5"])
def test_a_batch_without_objects_trains_on_background(kind):
    model = build(kind)
    losses, scalars = train_step(model, [annotated(48, 64, []), annotated(40, 48, [])])
    assert losses["loss_mask"] == losses["loss_box_reg"] == losses["loss_rpn_loc"] == 0.0
    assert losses["loss_cls"] > 0 and losses["loss_rpn_cls"] > 0
    assert scalars["rpn/num_pos_anchors"] == scalars["roi_head/num_fg_samples"] == 0
    # DistributedDataParallel needs a gradient for every parameter.
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_bit_masks_and_polygons_give_similar_losses():
    polygon = train_step(build("R-18-FPN"), batch())[0]
    bits = train_step(build("R-18-FPN"), batch("bits"))[0]
    assert bits["loss_mask"] == pytest.approx(polygon["loss_mask"], rel=0.05)
    assert bits["loss_cls"] == polygon["loss_cls"]


def test_same_seed_gives_same_losses():
    results = [train_step(build("R-18-FPN"), batch())[0] for _ in range(2)]
    assert results[0] == results[1]


def test_no_proposals_give_no_detections():
    model = build("R-18-FPN", MODEL__PROPOSAL_GENERATOR__MIN_SIZE=10000, MODEL__ROI_HEADS__PROPOSAL_APPEND_GT=False)
    losses, _ = train_step(model, batch())
    assert losses["loss_cls"] == losses["loss_mask"] == 0.0
    with torch.no_grad():
        outputs = model.eval()(batch())
    assert [len(x["instances"]) for x in outputs] == [0, 0]
    assert outputs[0]["instances"].pred_masks.shape == (0, 128, 72)


def test_bfloat16_autocast_stays_near_float32():
    exact, _ = train_step(build("R-18-FPN"), batch())
    model = build("R-18-FPN")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, _ = train_step(model, batch())
    for name in ("loss_cls", "loss_rpn_cls", "loss_rpn_loc", "loss_mask"):
        assert rough[name] == pytest.approx(exact[name], rel=0.1), name
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        detections = model.eval()(batch())[0]["instances"]
    assert detections.pred_boxes.tensor.dtype == torch.float32 and detections.pred_masks.dtype == torch.bool


@pytest.mark.parametrize("kind", ["R-18-FPN", "R-50-DC5"])
def test_masks_of_given_boxes(kind):
    model = build(kind).eval()
    with torch.no_grad():
        raw = model.inference(batch(), do_postprocess=False)
        given = [Instances(x.image_size, pred_boxes=x.pred_boxes, pred_classes=x.pred_classes) for x in raw]
        again = model.inference(batch(), given, do_postprocess=False)
    assert raw[0].image_size == (64, 72) and raw[0].pred_masks.shape[1:2] == (1,)
    torch.testing.assert_close(again[0].pred_masks, raw[0].pred_masks)


def test_padding_is_zero_after_normalization():
    model = build("R-18-FPN", MODEL__PIXEL_MEAN=[10.0, 20.0, 30.0], MODEL__PIXEL_STD=[2.0, 4.0, 5.0])
    images = model.preprocess_image(batch())
    assert images.tensor.shape == (2, 3, 64, 96) and images.image_sizes == [(64, 72), (48, 80)]
    assert images.tensor[1, :, 48:].abs().sum() == 0 and images.tensor[0, :, :, 72:].abs().sum() == 0
    raw = batch()[1]["image"].float()
    torch.testing.assert_close(images.tensor[1, 1, :48, :80], (raw[1] - 20) / 4)


def test_precomputed_proposals():
    model = build("R-18-FPN", MODEL__PROPOSAL_GENERATOR__NAME="PrecomputedProposals")
    assert model.proposal_generator is None
    inputs = batch()
    for x in inputs:
        boxes = Boxes(torch.tensor([[5.0, 5, 35, 30], [0, 0, 10, 10]]))
        x["proposals"] = Instances(x["image"].shape[1:], proposal_boxes=boxes, objectness_logits=torch.zeros(2))
    losses, scalars = train_step(model, inputs)
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_mask"} and scalars["roi_head/num_fg_samples"] > 0
    with torch.no_grad():
        assert len(model.eval()(inputs)[0]["instances"]) > 0


def test_variants_of_the_box_and_mask_heads():
    overrides = {
        "MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True,
        "MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": True,
        "MODEL__ROI_BOX_HEAD__NUM_CONV": 1,
        "MODEL__ROI_BOX_HEAD__POOLER_TYPE": "ROIAlign",
        "MODEL__FPN__NORM": "BN",
        "MODEL__FPN__FUSE_TYPE": "avg",
    }
    model = build("R-18-FPN", **overrides)
    assert model.roi_heads.box_predictor.bbox_pred.out_features == 4
    assert model.roi_heads.mask_head.predictor.out_channels == 1
    assert model.backbone.fpn_lateral2.bias is None
    losses, _ = train_step(model, batch())
    assert all(np.isfinite(v) and v > 0 for v in losses.values())


def test_dc5_is_dilated_and_has_stride_16():
    backbone = build("R-50-DC5").backbone
    assert [(b.conv2.dilation, b.stride) for b in backbone.res5] == [((2, 2), 1)] * 3
    assert backbone.output_shape()["res5"].stride == 16 and backbone.output_shape()["res5"].channels == 256
    assert backbone.size_divisibility == 0


class OnFeatures(BaseMaskRCNNHead):
    """A mask head without pooler: its input is the dict of feature maps."""

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.names = sorted(input_shape)

    def forward(self, x, instances):
        """Check the names of the feature maps and return a loss of 0."""
        assert sorted(x) == self.names
        return {"loss_mask": x["p2"].sum() * 0}


def test_mask_head_without_pooler_gets_the_feature_maps():
    if "OnFeatures" not in ROI_MASK_HEAD_REGISTRY:
        ROI_MASK_HEAD_REGISTRY.register(OnFeatures)
    model = build("R-18-FPN", MODEL__ROI_MASK_HEAD__NAME="OnFeatures", MODEL__ROI_MASK_HEAD__POOLER_TYPE="")
    assert model.roi_heads.mask_pooler is None
    assert train_step(model, batch())[0]["loss_mask"] == 0.0


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        ({"MODEL__META_ARCHITECTURE": "Nope"}, KeyError),
        ({"MODEL__RPN__IN_FEATURES": ["p2", "p9"]}, KeyError),
        ({"MODEL__ROI_HEADS__IN_FEATURES": ["p2", "p9"]}, KeyError),
        ({"MODEL__ANCHOR_GENERATOR__SIZES": [[8], [16]]}, AssertionError),
        ({"MODEL__ANCHOR_GENERATOR__ASPECT_RATIOS": [[1.0, 2.0], [1.0], [1.0], [1.0], [1.0]]}, AssertionError),
        ({"MODEL__PIXEL_STD": [1.0]}, AssertionError),
        ({"MODEL__RESNETS__DEPTH": 20}, KeyError),
        ({"MODEL__RESNETS__RES5_DILATION": 2}, AssertionError),
        ({"MODEL__RESNETS__RES2_OUT_CHANNELS": 256}, AssertionError),
    ],
)
def test_invalid_configs(overrides, error):
    with pytest.raises(error):
        build("R-18-FPN", **overrides)


@pytest.mark.skipif(not EMBEDDED, reason="the real Detectron2 has these parts")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VIS_PERIOD", 1),
        ("MODEL.KEYPOINT_ON", True),
        ("MODEL.ROI_HEADS.NAME", "Res5ROIHeads"),
        ("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True),
        ("MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True),
        ("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True),
        ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool"),
        ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "giou"),
        ("MODEL.RPN.BBOX_REG_LOSS_TYPE", "giou"),
        ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]),
    ],
)
def test_config_of_parts_that_are_not_included(name, value):
    key = name.rsplit(".")[-1]
    with pytest.raises(NotImplementedError, match=f"{key}.*build the real one with `make detectron2`"):
        train_step(build("R-18-FPN", **{name.replace(".", "__"): value}), batch())


def test_training_needs_ground_truth():
    model = build("R-18-FPN")
    inputs = [{"image": torch.zeros(3, 64, 64)}]
    with EventStorage(), pytest.raises(AssertionError):
        model(inputs)


def test_custom_model_is_built_by_name():
    class Tiny(torch.nn.Module):
        def __init__(self, cfg):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(cfg.MODEL.ROI_HEADS.NUM_CLASSES))

    if "Tiny" not in META_ARCH_REGISTRY:
        META_ARCH_REGISTRY.register(Tiny)
    assert build("R-18-FPN", MODEL__META_ARCHITECTURE="Tiny").weight.shape == (3,)
