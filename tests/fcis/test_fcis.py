"""The whole FCIS model: all configs, gradients, empty images, precomputed proposals, precision, seeds, errors."""

from __future__ import annotations

from pathlib import Path

from tellapart import InputError, add_config
from tellapart.engine.config_checks import load_config
from tellapart.fcis.losses import region_targets
from tellapart.fcis.roi_heads import INSIDE, OUTSIDE, FCISROIHeads

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from synthetic_images import annotated, batch, check_instances, losses_of

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
VARIANTS = {
    "paper": {},
    "pool": {"MODEL.FCIS.SAMPLING": "pool"},
    "ohem": {"MODEL.FCIS.OHEM": True},
    "k1": {"MODEL.FCIS.GRID_SIZE": 1},
    "odd": {"MODEL.FCIS.GRID_SIZE": 3, "MODEL.FCIS.RESOLUTION": 10, "MODEL.FCIS.NORM": "GN"},
    "FPN": {"MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4"]},
}


def config(variant: str = "paper", **more) -> object:
    """A narrow FCIS with three categories, on a dilated ResNet as in the paper or on a pyramid."""
    cfg = get_cfg()
    add_config(cfg)
    cfg.merge_from_file(str(CONFIGS / "FCIS" / ("fcis_R_50_FPN.yaml" if variant == "FPN" else "Base-FCIS.yaml")))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.MODEL.ROI_HEADS.NUM_CLASSES = "cpu", "", 3
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 32, 8
    cfg.MODEL.RESNETS.NORM, cfg.MODEL.BACKBONE.FREEZE_AT = "BN", 0
    cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.RPN.CONV_DIMS, cfg.MODEL.FCIS.CONV_DIMS = 32, [-1], [32]
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 30
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    for key, value in {**VARIANTS[variant], **more}.items():
        cfg.merge_from_list([key, value])
    return cfg


def model(variant: str = "paper", **more):
    torch.manual_seed(0)
    return build_model(config(variant, **more))


@pytest.mark.parametrize("path", sorted((CONFIGS / "FCIS").glob("fcis_*.yaml")), ids=lambda p: p.stem)
def test_configs_build(path):
    """The layers have the numbers of channels of the paper. The meta device allocates no memory."""
    cfg = load_config(str(path), ["MODEL.DEVICE", "meta"])
    heads = build_model(cfg).roi_heads
    bins = 1 if "k1" in path.stem else 49
    assert heads.score_maps.out_channels == bins * 2 * (cfg.MODEL.ROI_HEADS.NUM_CLASSES + 1)
    assert heads.box_maps.out_channels == bins * 4
    assert heads.spatial_scales == ([1 / 8, 1 / 16, 1 / 32] if "FPN" in path.stem else [1 / 16])
    assert heads.convs[0].out_channels == (256 if "FPN" in path.stem else 1024)
    # in the configs of the authors' runs (VOC, COCO) the new convolution has a larger learning rate
    factors = [["roi_heads.convs", 3.0]] if "R_101" in path.stem else []
    assert factors == cfg.SOLVER.LR_FACTORS


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_backward_and_detections(variant):
    fcis = model(variant)
    losses = losses_of(fcis, batch())
    assert set(losses) == {"loss_cls", "loss_mask", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}
    sum(losses.values()).backward()
    for name, parameter in fcis.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name
    with torch.no_grad():
        results = fcis.eval()(batch())
        raw = fcis.inference(batch(), do_postprocess=False)
    for inputs, result, unscaled in zip(batch(), results, raw):
        assert len(result["instances"]) > 0
        check_instances(result["instances"], (inputs["height"], inputs["width"]))
        check_instances(unscaled, tuple(inputs["image"].shape[1:]))


@pytest.mark.parametrize("variant", ["paper", "ohem"])
def test_a_batch_without_objects_trains_on_background(variant):
    fcis = model(variant)
    losses = losses_of(fcis, [annotated(64, 80, []), annotated(48, 64, [])])
    assert losses["loss_cls"] > 0 and losses["loss_mask"] == losses["loss_box_reg"] == 0
    sum(losses.values()).backward()
    # DDP needs a gradient of every parameter
    assert all(p.grad is not None for p in fcis.parameters())


def test_parameters_of_unused_levels_have_a_gradient():
    """With precomputed proposals nothing reads p2, but DDP needs a gradient of every parameter."""
    options = {"MODEL.ROI_HEADS.IN_FEATURES": ["p3", "p4"], "MODEL.PROPOSAL_GENERATOR.NAME": "PrecomputedProposals"}
    fcis = model("FPN", **options)
    inputs = annotated(64, 80, [[4, 4, 52, 40]])
    inputs["proposals"] = precomputed_proposals((64, 80), [[10, 8, 30, 40]])
    with torch.no_grad():
        fcis.backbone.fpn_output2.bias.fill_(torch.inf)  # unused infinite values must not change the losses
    losses = losses_of(fcis, [inputs])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    for name, parameter in fcis.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("boxes", [[], [[10, 10, 10, 10], [5, 5, 5, 40], [80, 64, 80, 64]]], ids=["none", "degenerate"])
@pytest.mark.parametrize("objects", [[], [[4, 4, 52, 40]]], ids=["no objects", "an object"])
def test_precomputed_proposals_that_are_none_or_degenerate(boxes, objects):
    fcis = model(**{"MODEL.PROPOSAL_GENERATOR.NAME": "PrecomputedProposals"})
    inputs = annotated(64, 80, objects)
    inputs["proposals"] = precomputed_proposals((64, 80), boxes)
    losses = losses_of(fcis, [inputs])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert (losses["loss_mask"] > 0) == bool(objects), "ground-truth boxes join the proposals"
    with torch.no_grad():
        instances = fcis.eval()([inputs])[0]["instances"]
    check_instances(instances, (128, 80))
    assert boxes or not len(instances)


def test_all_scores_below_the_threshold():
    fcis = model(**{"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 1.0})
    with torch.no_grad():
        results = fcis.eval()(batch())
    for inputs, result in zip(batch(), results):
        assert len(result["instances"]) == 0
        check_instances(result["instances"], (inputs["height"], inputs["width"]))


def test_predictor_returns_the_instances(tmp_path):
    """On an image whose size is not that of the network's input."""
    torch.save({"model": model().state_dict()}, tmp_path / "model.pth")
    cfg = config(**{"MODEL.WEIGHTS": str(tmp_path / "model.pth"), "INPUT.MIN_SIZE_TEST": 64})
    picture = np.random.default_rng(0).integers(0, 255, (100, 130, 3), dtype=np.uint8)
    instances = DefaultPredictor(cfg)(picture)["instances"]
    assert len(instances) > 0
    check_instances(instances, (100, 130))


def test_visualizer_draws_the_instances():
    visualizer = pytest.importorskip("detectron2.utils.visualizer", reason="only the real Detectron2 has a Visualizer")
    picture = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    image = torch.as_tensor(picture.transpose(2, 0, 1).copy())
    with torch.no_grad():
        instances = model().eval()([{"image": image, "height": 64, "width": 80}])[0]["instances"]
    assert len(instances) > 0
    drawn = visualizer.Visualizer(picture[..., ::-1]).draw_instance_predictions(instances[:3]).get_image()
    assert drawn.shape == picture.shape and (drawn != picture[..., ::-1]).any()


def test_bit_masks_and_polygons_have_similar_losses():
    a, b = (losses_of(model(), batch(kind)) for kind in ("bitmask", "polygon"))
    for name in a:
        assert a[name].item() == pytest.approx(b[name].item(), rel=0.05), name


def test_same_seed_same_losses():
    a, b = (losses_of(model(), batch()) for _ in range(2))
    assert {k: v.item() for k, v in a.items()} == {k: v.item() for k, v in b.items()}


def test_subclasses_of_the_heads_are_accepted(monkeypatch):
    class MyHeads(FCISROIHeads):
        pass

    monkeypatch.setitem(ROI_HEADS_REGISTRY._obj_map, "MyHeads", MyHeads)
    assert isinstance(model(**{"MODEL.ROI_HEADS.NAME": "MyHeads"}).roi_heads, MyHeads)


def compute_targets(heads, proposals):
    return region_targets(proposals, heads.num_classes, heads.resolution, heads.mask_thresh)


def test_ohem_trains_on_the_regions_of_highest_loss():
    """It keeps 16 regions of each image, those of the highest loss, which do not depend on the other image."""
    fcis = model("ohem").train()
    heads = fcis.roi_heads
    with EventStorage(0), torch.no_grad():
        images = fcis.preprocess_image(batch())
        features = fcis.backbone(images.tensor)
        gt_instances = [x["instances"] for x in batch()]
        proposals, _ = fcis.proposal_generator(images, features, gt_instances)
        proposals = heads.label_and_sample_proposals(proposals, gt_instances)
        maps = heads.position_sensitive_maps([features[f] for f in heads.in_features])
        selected, targets = heads.select_hard_proposals(maps, proposals, compute_targets(heads, proposals))
        assert len(targets.foreground_index)
        assert all(torch.equal(*pair) for pair in zip(targets, compute_targets(heads, selected)))
        assert [len(p) for p in selected] == [16, 16] and all(len(p) > 16 for p in proposals)
        for i in range(2):

            def total_loss(image_proposals, i=i):
                only_this_image = [p[:0] for p in proposals]
                only_this_image[i] = image_proposals
                losses, _ = heads._losses_per_region(maps, only_this_image, compute_targets(heads, only_this_image))
                weighted_mask_loss = heads.seg_loss_weight * losses.mask_loss
                return losses.class_loss + weighted_mask_loss + heads.box_loss_weight * losses.box_loss

            assert torch.equal(total_loss(selected[i]).sort().values, total_loss(proposals[i]).sort().values[-16:])


def test_score_maps_of_a_category():
    """The channel order is that of the class's docstring, on every level and in every image."""
    heads = model("FPN").eval().roi_heads
    features = [torch.randn(2, 32, size, size + 1) for size in (8, 4, 2)]
    k, num_classes = heads.grid_size, heads.num_classes
    with torch.no_grad():
        maps = heads.position_sensitive_maps(features)
        for level, image, category in ((0, 0, 0), (1, 1, 2), (2, 1, num_classes)):
            channels = heads.score_maps(heads.convs(features[level]))[image]
            got = maps.category_score_maps(level, category, image)
            for side, row, column in ((OUTSIDE, 0, k - 1), (INSIDE, k - 1, 1)):
                channel = ((row * k + column) * 2 + side) * (num_classes + 1) + category
                torch.testing.assert_close(got[side, row, column], channels[channel])


def test_result_does_not_depend_on_the_chunk_size():
    whole, chunked = (model(**{"MODEL.FCIS.CHUNK_SIZE": size}).eval() for size in (1000, 7))
    with torch.no_grad():
        for a, b in zip(whole(batch()), chunked(batch())):
            a, b = a["instances"], b["instances"]
            assert torch.allclose(a.scores, b.scores, atol=1e-6) and torch.equal(a.pred_classes, b.pred_classes)
            assert (a.pred_masks != b.pred_masks).float().mean() < 1e-3


def precomputed_proposals(size: tuple[int, int], boxes: list) -> Instances:
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Instances(size, proposal_boxes=Boxes(boxes), objectness_logits=torch.zeros(len(boxes)))


def test_second_round_scores_the_regressed_boxes():
    fcis = model(**{"MODEL.PROPOSAL_GENERATOR.NAME": "PrecomputedProposals"}).eval()
    inputs = annotated(64, 80, [])
    inputs["proposals"] = precomputed_proposals((64, 80), [[10, 8, 30, 40], [50, 8, 70, 40]])
    with torch.no_grad():
        fcis.roi_heads.box_maps.weight.zero_()
        fcis.roi_heads.box_maps.bias.view(-1, 4)[:, 0] = 5.0  # dx with weight 5: every box moves by its width
        images = fcis.preprocess_image([inputs])
        candidates, _ = fcis.roi_heads(images, fcis.backbone(images.tensor), [inputs["proposals"]])
    expected = [[10, 8, 30, 40], [50, 8, 70, 40], [30, 8, 50, 40], [70, 8, 80, 40]]
    assert torch.allclose(candidates[0].proposal_boxes.tensor, torch.tensor(expected).float(), atol=1e-4)
    assert candidates[0].class_probs.shape == (4, 3) and candidates[0].mask_probs.shape == (4, 21, 21)


def test_bfloat16_autocast_is_close_to_float32():
    inputs = batch()
    for image, boxes in zip(inputs, ([[2, 2, 36, 40], [44, 34, 88, 70], [5, 50, 30, 90]], [[3, 4, 60, 50]])):
        image["proposals"] = precomputed_proposals(image["instances"].image_size, boxes)
    options = {"MODEL.PROPOSAL_GENERATOR.NAME": "PrecomputedProposals"}
    full = losses_of(model(**options), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        half = losses_of(model(**options), inputs)
    for name in full:
        assert half[name].item() == pytest.approx(full[name].item(), rel=0.05, abs=0.005), name
    sum(half.values()).backward()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        check_instances(model(**options).eval()(inputs)[0]["instances"], (194, 111))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"MODEL.MASK_ON": False}, "MODEL.MASK_ON is False"),
        ({"MODEL.ROI_HEADS.NAME": "StandardROIHeads"}, "ROI_HEADS.NAME is StandardROIHeads, expected FCISROIHeads"),
        ({"MODEL.ROI_HEADS.IN_FEATURES": ["p2"]}, "IN_FEATURES is .'p2'., expected names of the backbone's"),
        ({"MODEL.ROI_HEADS.IN_FEATURES": ["res4", "res5"]}, "expected equal channels, and each stride twice"),
        ({"MODEL.FCIS.SAMPLING": "nearest"}, "MODEL.FCIS.SAMPLING is 'nearest', expected one of"),
        ({"MODEL.FCIS.GRID_SIZE": 0}, "MODEL.FCIS.GRID_SIZE is 0, expected 1 or more"),
        ({"MODEL.FCIS.CONV_KERNEL": 2}, "MODEL.FCIS.CONV_KERNEL is 2, expected an odd number"),
        ({"MODEL.FCIS.MASK_THRESH": 1.0}, "MODEL.FCIS.MASK_THRESH is 1.0, expected more than 0 and less than 1"),
        ({"MODEL.FCIS.VOTE_IOU": 0.0}, "MODEL.FCIS.VOTE_IOU is 0.0, expected more than 0 and at most 1"),
        ({"MODEL.FCIS.VOTE_IOU": float("nan")}, "MODEL.FCIS.VOTE_IOU is nan, expected more than 0 and at most 1"),
        ({"MODEL.FCIS.RESOLUTION": 6}, "RESOLUTION is 6, expected at least MODEL.FCIS.GRID_SIZE, 7"),
        ({"MODEL.FCIS.SEG_LOSS_WEIGHT": -1.0}, "MODEL.FCIS.SEG_LOSS_WEIGHT is -1.0, expected 0 or more"),
        ({"MODEL.FCIS.BOX_LOSS_WEIGHT": float("inf")}, "MODEL.FCIS.BOX_LOSS_WEIGHT is inf, expected 0 or more"),
        ({"MODEL.FCIS.CONV_DIMS": [32, 0]}, r"MODEL.FCIS.CONV_DIMS is \[32, 0\], expected whole numbers of 1 or more"),
        ({"MODEL.FCIS.CONV_DIMS": ["a"]}, r"MODEL.FCIS.CONV_DIMS is \['a'\], expected whole numbers of 1 or more"),
        ({"MODEL.FCIS.NORM": "XX"}, "MODEL.FCIS.NORM is 'XX', expected '' or a norm of Detectron2 for 32 channels"),
        ({"MODEL.FCIS.NORM": "GN", "MODEL.FCIS.CONV_DIMS": [20]}, "NORM is 'GN', expected .* for 20 channels"),
        ({"MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 0}, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE is 0, expected 1 or more"),
        ({"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "giou"}, "BBOX_REG_LOSS_TYPE is 'giou', expected 'smooth_l1'"),
        ({"MODEL.META_ARCHITECTURE": "GeneralizedRCNN"}, "META_ARCHITECTURE is GeneralizedRCNN, expected FCIS"),
    ],
)
def test_invalid_configs_are_explained(options, message):
    with pytest.raises(InputError, match=message):
        model(**options)


def test_boxes_without_masks_are_rejected():
    """A data set with boxes only has none, also with MODEL.MASK_ON. Images without instances need no gt_masks."""
    inputs = batch()
    inputs[1]["instances"].remove("gt_masks")
    losses_of(model(), inputs)
    inputs[0]["instances"].remove("gt_masks")
    with pytest.raises(InputError, match="instances of DATASETS.TRAIN have no 'segmentation'"):
        losses_of(model(), inputs)


def test_detected_instances_are_rejected():
    with pytest.raises(NotImplementedError, match="takes no detected_instances"):
        model().eval().inference(batch(), detected_instances=[Instances((4, 4))])
