"""Whole InstanceFCN models: gradients, empty and small images, scales, pyramid, DeepMask-style head, bad configs."""

from __future__ import annotations

from pathlib import Path

from tellapart import InputError, add_config
from tellapart.engine.config_checks import load_config
from tellapart.instance_fcn.classifier import MaskPooledROIHeads, PassThroughROIHeads
from tellapart.instance_fcn.instance_fcn import paste_window_masks, rescale_proposals
from tellapart.instance_fcn.proposals import tight_window_boxes
from tellapart.masks import replicate_outside

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from synthetic_images import annotated, batch, check_instances, losses_of
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
# fmt: off
VARIANTS = {
    "single": {},
    "k1": {"GRID_SIZE": 1},
    "k7": {"GRID_SIZE": 7, "WINDOW_STRIDE": 2},
    "deepmask rule": {"LABEL_RULE": "deepmask", "SCORE": "product"},
    "pyramid": {"IN_FEATURES": ["p2", "p3", "p4"]},
    "deepmask head": {"MASK_HEAD": "DeepMaskHead", "DEEPMASK_RESOLUTION": 13},
    "scales": {"TEST_SCALES": [0.5, 1.0, 1.7]},
    "classifier": {
        "MODEL.ROI_HEADS.NAME": "MaskPooledROIHeads", "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3"],
        "MODEL.ROI_HEADS.NUM_CLASSES": 3, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0, "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
        "TEST_SCALES": [1.0, 1.5],
    },
}
# fmt: on


def model(variant: str = "single", **more):
    """Build a small InstanceFCN. ``more``: config keys, those without a dot in ``MODEL.INSTANCE_FCN``."""
    cfg = get_cfg()
    add_config(cfg)
    cfg.merge_from_file(str(ROOT / "configs" / "quick" / "instance_fcn" / "instance_fcn_R_18_shapes.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.INSTANCE_FCN.CONV_DIM = "cpu", 16, 16
    cfg.MODEL.INSTANCE_FCN.TEST_SCALES, cfg.MODEL.INSTANCE_FCN.TOPK_PER_LEVEL = [1.0], 60
    for key, value in {**VARIANTS[variant], **more}.items():
        cfg.merge_from_list([key if "." in key else f"MODEL.INSTANCE_FCN.{key}", value])
    torch.manual_seed(0)
    return build_model(cfg)


def check_proposals(proposals: Instances, size: tuple[int, int]) -> None:
    """Check the fields that Detectron2's evaluators of boxes, masks and proposals read."""
    check_instances(proposals, size)
    assert {"proposal_boxes", "objectness_logits", "pred_boxes"} <= set(proposals.get_fields())


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "InstanceFCN").glob("i*.yaml")), ids=lambda p: p.stem)
def test_configs_build(path):
    """The models have k * k score maps and the expected strides. On the device "meta" no memory is allocated."""
    generator = build_model(load_config(str(path), ["MODEL.DEVICE", "meta"])).proposal_generator
    k = 3 if "_k3_" in path.stem else 7 if "_k7_" in path.stem else 5
    assert generator.mask_head.score_maps.out_channels == k * k
    assert generator.strides == ([4, 8, 16, 32, 64] if "FPN" in path.stem else [16] if "R_50" in path.stem else [8])


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_backward_and_proposals(variant):
    net = model(variant)
    losses = losses_of(net, batch())
    assert set(losses) - {"loss_cls"} == {"loss_objectness", "loss_window_mask"} and losses["loss_window_mask"] > 0
    assert ("loss_cls" in losses) == (variant == "classifier")
    sum(losses.values()).backward()
    for name, parameter in net.named_parameters():
        # DistributedDataParallel expects a gradient for every parameter
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    assert all(p.grad.any() for p in net.proposal_generator.parameters())
    with torch.no_grad():
        results, raw = net.eval()(batch()), net.inference(batch(), do_postprocess=False)
    for inputs, result, unscaled in zip(batch(), results, raw):
        assert len(result["instances"]) > 0
        check_proposals(result["instances"], (inputs["height"], inputs["width"]))
        check_proposals(unscaled, tuple(inputs["image"].shape[1:]))
        assert (result["instances"].pred_classes > 0).any() == (variant == "classifier")


def test_boxes_for_standard_roi_heads():
    """A GeneralizedRCNN can use it in place of RPN: all parameters get gradients, and inference returns masks."""
    net = model(
        "pyramid", **{"MODEL.META_ARCHITECTURE": "GeneralizedRCNN", "MODEL.ROI_HEADS.NAME": "StandardROIHeads"},
        **{"MODEL.ROI_HEADS.NUM_CLASSES": 3, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0},
    )  # fmt: skip
    proposals = []
    net.roi_heads.register_forward_pre_hook(lambda _, arguments: proposals.extend(arguments[2]))
    losses = losses_of(net, batch())
    names = {"loss_objectness", "loss_window_mask", "loss_cls", "loss_box_reg", "loss_mask"}
    assert set(losses) == names and all(torch.isfinite(loss) for loss in losses.values())
    assert all(set(p.get_fields()) == {"proposal_boxes", "objectness_logits"} and len(p) for p in proposals)
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    with torch.no_grad():
        for inputs, result in zip(batch(), net.eval()(batch())):
            detections = result["instances"]
            assert len(detections) > 0 and detections.pred_masks.shape[1:] == (inputs["height"], inputs["width"])


@pytest.mark.parametrize("architecture", ["InstanceFCN", "GeneralizedRCNN"])
def test_configs_without_masks_are_refused(architecture):
    with pytest.raises(InputError, match="MODEL.MASK_ON is False, but InstanceFCNProposals learns from masks"):
        model(**{"MODEL.META_ARCHITECTURE": architecture, "MODEL.MASK_ON": False})


@pytest.mark.parametrize("variant", ["single", "classifier"])
def test_batches_without_objects_have_losses(variant):
    net = model(variant)
    losses = losses_of(net, [annotated(64, 80, []), annotated(48, 64, [])])
    assert losses["loss_objectness"] > 0 and losses["loss_window_mask"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("size", [(5, 5), (3, 200), (180, 9)])
def test_images_smaller_than_a_window_and_of_extreme_shape(size):
    """A window is 40 px wide."""
    net = model("scales", **{"MODEL.RESNETS.NORM": "FrozenBN"})
    inputs = [annotated(*size, [[0, 0, size[1], size[0]]])]
    assert all(torch.isfinite(loss) for loss in losses_of(net, inputs).values())
    with torch.no_grad():
        detections = net.eval()(inputs)[0]["instances"]
    check_proposals(detections, (2 * size[0], size[1]))


def test_bit_masks_and_polygons_have_similar_losses():
    bitmask, polygon = (losses_of(model(), batch(mask_format)) for mask_format in ("bitmask", "polygon"))
    assert bitmask["loss_window_mask"].item() == pytest.approx(polygon["loss_window_mask"].item(), rel=0.05)
    assert bitmask["loss_objectness"].item() == polygon["loss_objectness"].item()


def test_levels_that_are_not_in_features_do_not_change_the_losses():
    """The losses are finite even if such a level is not, and its gradient is 0."""
    net = model()
    gt_instances = annotated(64, 64, [[20, 20, 50, 50]])["instances"]
    images = ImageList.from_tensors([torch.zeros(3, 64, 64)])
    features = {name: torch.randn(1, 16, size, size) for name, size in (("p2", 16), ("p3", 8))}
    features["p3"][:] = float("inf")
    features["p3"].requires_grad_()
    with EventStorage(0):
        _, losses = net.proposal_generator(images, features, [gt_instances])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert torch.equal(features["p3"].grad, torch.zeros(1, 16, 8, 8))


@pytest.mark.parametrize("variant", ["single", "pyramid", "deepmask head"])
def test_padding_of_a_batch_does_not_change_losses_and_proposals(variant):
    """Losses and proposals equal those of the unpadded image, and gradients in the padding are 0.

    In the padding and in the second image of the batch, all logits are high.
    """
    generator = model(variant).proposal_generator
    size, gt = (61, 70), annotated(61, 70, [[30, 28, 70, 61], [2, 4, 40, 40]])["instances"]
    map_sizes = [tuple(-(-length // stride) for length in size) for stride in generator.strides]
    channels = 16 if variant == "deepmask head" else generator.mask_head.grid_size**2
    g = torch.Generator().manual_seed(0)
    # objectness maps, then mask maps; each a list with one map per level
    unpadded = [[torch.randn((1, c, *map_size), generator=g) for map_size in map_sizes] for c in (1, channels)]
    padded = [[F.pad(x, (0, 9, 0, 5), value=30.0) for x in levels] for levels in unpadded]
    batched = [[torch.cat((x, torch.full_like(x, 30.0))) for x in levels] for levels in padded]

    def run(maps: list[list[torch.Tensor]]) -> tuple[dict, Instances, list[list[torch.Tensor]]]:
        """Return the losses, the proposals of the first image, and the maps with their gradients."""
        maps = [[x.clone().requires_grad_() for x in levels] for levels in maps]
        objectness_maps, mask_maps = [x[:, 0] for x in maps[0]], maps[1]
        windows = generator.place_windows([size], objectness_maps)
        torch.manual_seed(1)  # sample the same windows in both runs
        with EventStorage(0):
            losses = generator.losses(objectness_maps, mask_maps, windows, [gt])
        sum(losses.values()).backward()
        top_windows = generator.predict_top_windows([m[0] for m in objectness_maps], mask_maps, windows[0])
        return losses, generator.nms_proposals(*top_windows, size), maps

    losses, proposals, _ = run(unpadded)
    batched_losses, batched_proposals, maps = run(batched)
    assert len(proposals) and losses["loss_window_mask"] > 0
    assert losses == batched_losses
    for name, value in proposals.get_fields().items():
        other = batched_proposals.get(name)
        assert torch.equal(*(getattr(x, "tensor", x) for x in (value, other))), name
    for levels in maps:
        assert any(x.grad.any() for x in levels)
        for x, (height, width) in zip(levels, map_sizes):
            assert not x.grad[1].any() and not x.grad[0, :, height:].any() and not x.grad[0, :, :, width:].any()


def test_it_learns_one_image():
    """A bright square on a dark background: after 25 steps, the best proposal is the square."""
    inputs = annotated(96, 96, [[28, 24, 64, 60]])
    inputs["image"] = torch.full((3, 96, 96), 40, dtype=torch.uint8)
    inputs["image"][:, 24:60, 28:64] = 220
    inputs["height"], inputs["width"] = 96, 96
    net = model(**{"MODEL.RESNETS.NORM": "GN", "MODEL.FPN.OUT_CHANNELS": 32})
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        sum(losses_of(net, [inputs]).values()).backward()
        optimizer.step()
    with torch.no_grad():
        best_mask = net.eval()([inputs])[0]["instances"].pred_masks[0]
    gt_mask = inputs["instances"].gt_masks.tensor[0]
    iou = (best_mask & gt_mask).sum() / (best_mask | gt_mask).sum()
    assert iou > 0.7, float(iou)


def test_proposals_are_rescaled_to_the_image():
    proposals = Instances((50, 100))
    proposals.proposal_boxes = proposals.window_boxes = Boxes(torch.tensor([[10.0, 10, 30, 30]]))
    proposals.objectness_logits = proposals.proposal_scores = torch.tensor([0.5])
    proposals.window_masks = torch.zeros(1, 4, 4)
    proposals.window_masks[:, 1:3, :2] = 1.0
    rescaled = rescale_proposals(proposals, (100, 400))
    assert rescaled.window_boxes.tensor.tolist() == [[40, 20, 120, 60]]
    pasted = paste_window_masks(proposals, (100, 400))
    assert abs(pasted.pred_boxes.tensor - torch.tensor([[40.0, 30, 80, 50]])).max() <= 2
    assert tight_window_boxes(proposals.window_masks > 0.5, proposals.window_boxes).tensor.tolist() == [
        [10, 15, 20, 25]
    ]


def test_cells_outside_the_image_have_the_value_of_the_nearest_cell_inside():
    generator = torch.Generator().manual_seed(0)
    values, in_image = torch.rand(4, 5, 6, generator=generator), torch.zeros(4, 5, 6, dtype=torch.bool)
    valid_ranges = [(0, 5, 0, 6), (2, 5, 0, 4), (0, 1, 5, 6), (1, 3, 2, 3)]
    for valid, (top, bottom, left, right) in zip(in_image, valid_ranges):
        valid[top:bottom, left:right] = True
    replicated = replicate_outside(values, in_image)
    for grid, value, (top, bottom, left, right) in zip(replicated, values, valid_ranges):
        for y in range(5):
            for x in range(6):
                assert grid[y, x] == value[min(max(y, top), bottom - 1), min(max(x, left), right - 1)]
    assert replicate_outside(values[:0], in_image[:0]).shape == (0, 5, 6)


@pytest.mark.parametrize("variant", ["single", "pyramid", "deepmask head"])
def test_masks_reach_the_image_border(variant):
    """All cells are foreground with probability 0.52, so masks of windows that cross the border reach it."""
    net = model(variant, POST_NMS_TOPK=200, NMS_THRESH=1.0, TOPK_PER_LEVEL=100).eval()
    head = net.proposal_generator.mask_head
    last_layer = getattr(head, "score_maps", None) or head.outputs
    torch.nn.init.zeros_(last_layer.weight)
    torch.nn.init.constant_(last_layer.bias, 0.1)
    image = annotated(61, 75, [])
    with torch.no_grad():
        images = net.preprocess_image([image])
        proposals = net.proposal_generator(images, net.backbone(images.tensor), None)[0][0]
        masks = paste_window_masks(proposals, (61, 75)).pred_masks
    num_crossings = 0
    for mask, window in zip(masks, proposals.window_boxes.tensor.long().tolist()):
        in_window = torch.zeros(61, 75, dtype=torch.bool)
        in_window[max(0, window[1]) : window[3], max(0, window[0]) : window[2]] = True
        assert mask.any() and (mask <= in_window).all()
        cell = (window[2] - window[0]) / 10
        for profile, start, end in ((mask.any(1), *window[1::2]), (mask.any(0), *window[0::2])):
            crosses_start, crosses_end = start <= -cell, end >= len(profile) + cell
            assert (not crosses_start or profile[0]) and (not crosses_end or profile[-1]), window
            num_crossings += crosses_start + crosses_end
    assert num_crossings > 10


def test_classifier_reads_only_features_inside_the_mask():
    """Features outside a proposal's mask do not change its class probabilities; features inside do."""
    net = model("classifier").eval()
    heads = net.roi_heads
    proposals = Instances((64, 64))
    proposals.window_boxes = Boxes(torch.tensor([[8.0, 8, 48, 48]]))
    proposals.window_masks = torch.zeros(1, 10, 10)
    proposals.window_masks[:, 2:8, 2:5] = 1.0  # x 16 to 28, y 16 to 40 px; the next line makes the box wider
    proposals.window_masks[:, 2, 2:8] = 1.0
    proposals.proposal_boxes = tight_window_boxes(proposals.window_masks > 0.5, proposals.window_boxes)
    assert proposals.proposal_boxes.tensor.tolist() == [[16, 16, 40, 40]]
    proposals.objectness_logits = proposals.proposal_scores = torch.zeros(1)
    features = {name: torch.zeros(1, 16, size, size) for name, size in (("p2", 16), ("p3", 8))}

    def scores_with_change_at(y: int, x: int) -> torch.Tensor:
        with torch.no_grad():
            changed = {name: feature.clone() for name, feature in features.items()}
            changed["p2"][0, :, y, x] = 50.0
            heads.score_thresh = 0.0
            return heads(None, changed, [proposals])[0][0].scores

    with torch.no_grad():
        unchanged = heads(None, features, [proposals])[0][0].scores
    assert torch.equal(scores_with_change_at(8, 9), unchanged), "in the box, right of the mask"
    assert not torch.equal(scores_with_change_at(7, 5), unchanged)


def test_score_by_product():
    """Objectness times the mean foreground probability in the mask, which can change the order."""
    net = model("deepmask rule").proposal_generator
    masks = torch.zeros(3, 4, 4)
    masks[0, :2], masks[1, 2:], masks[2] = 0.6, 1.0, 0.4
    boxes = Boxes(torch.tensor([[0.0, 0, 40, 40]]).expand(3, 4))
    proposals = net.nms_proposals(boxes, torch.tensor([2.0, 1.5, 9.0]), masks, (40, 40))
    assert torch.allclose(proposals.proposal_scores, torch.tensor([1.5, 2.0]).sigmoid() * torch.tensor([1.0, 0.6]))
    assert proposals.proposal_boxes.tensor.tolist() == [[0, 20, 40, 40], [0, 0, 40, 20]], (
        "the window with an empty mask is removed"
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"MODEL.PROPOSAL_GENERATOR.NAME": "RPN"}, "PROPOSAL_GENERATOR.NAME is RPN, expected InstanceFCNProposals"),
        ({"MODEL.ROI_HEADS.NAME": "StandardROIHeads"}, "ROI_HEADS.NAME is StandardROIHeads, expected PassThroughROI"),
        ({"TEST_SCALES": [1.0, 0.0]}, "TEST_SCALES is .1.0, 0.0., expected one or more factors greater than 0"),
        ({"IN_FEATURES": ["res4"]}, "IN_FEATURES is .'res4'., expected one or more of the backbone's feature maps"),
        ({"LABEL_RULE": "center"}, "LABEL_RULE is 'center', expected one of .'iou', 'deepmask'."),
        ({"SCORE": "sum"}, "SCORE is 'sum', expected one of"),
        ({"MASK_HEAD": "SharpMask"}, "MASK_HEAD is 'SharpMask', expected one of .'InstanceSensitiveHead', 'DeepM"),
        ({"GRID_SIZE": 0}, "INSTANCE_FCN.GRID_SIZE is 0, expected a number from 1 to the WINDOW_SIZE of 10"),
        ({"GRID_SIZE": 7, "WINDOW_SIZE": 5}, "GRID_SIZE is 7, expected a number from 1 to the WINDOW_SIZE of 5"),
        *[
            ({key: 0}, f"INSTANCE_FCN.{key} is 0, expected 1 or more")
            for key in (
                "WINDOW_SIZE", "WINDOW_STRIDE", "CONV_DIM", "DEEPMASK_RESOLUTION", "BATCH_SIZE_PER_IMAGE",
                "TOPK_PER_LEVEL", "POST_NMS_TOPK",
            )
        ],
        *[
            ({key: value}, f"INSTANCE_FCN.{key} is {value}, expected a number from 0 to 1")
            for key, value in (("MASK_THRESH", -0.1), ("POSITIVE_FRACTION", 1.5), ("NMS_THRESH", 80.0))
        ],
        *[
            ({"IOU_THRESHOLDS": value}, "IOU_THRESHOLDS is .*, expected two increasing numbers from 0 to 1")
            for value in ([0.5, 0.3], [0.5], [0.3, 0.5, 0.7], [-0.1, 0.5], [0.5, 50], ["low", "high"])
        ],
        *[
            ({"SIZE_BAND": value}, "INSTANCE_FCN.SIZE_BAND is .*, expected two increasing numbers above 0")
            for value in ([1.0, 0.5], [1.0], [0.0, 1.0])
        ],
        ({"CENTER_TOLERANCE": 0.0}, "INSTANCE_FCN.CENTER_TOLERANCE is 0.0, expected a number above 0"),
    ],
)  # fmt: skip
def test_invalid_configs_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        model(**options)


@pytest.mark.parametrize("base", [PassThroughROIHeads, MaskPooledROIHeads])
def test_subclasses_of_our_roi_heads_are_accepted(base, monkeypatch):
    class Derived(base):
        pass

    monkeypatch.setitem(ROI_HEADS_REGISTRY._obj_map, "Derived", Derived)
    net = model("classifier", **{"MODEL.ROI_HEADS.NAME": "Derived"})
    assert isinstance(net.roi_heads, Derived)
    assert net.proposal_generator.masks_in_training == (base is MaskPooledROIHeads)
    assert net.proposal_generator.propose_in_training == (base is MaskPooledROIHeads)
    assert ("loss_cls" in losses_of(net, batch())) == (base is MaskPooledROIHeads)


def test_detected_instances_are_refused():
    with pytest.raises(NotImplementedError, match="takes no detected_instances"):
        model().eval().inference(batch(), detected_instances=[Instances((4, 4))])
