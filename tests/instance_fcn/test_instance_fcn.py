"""The whole InstanceFCN: gradients, empty and small images, scales, pyramid, DeepMask-style head, bad configs."""

from __future__ import annotations

from pathlib import Path

from tellapart import InputError, add_config
from tellapart.instance_fcn.classifier import MaskedROIHeads, NoClassifier
from tellapart.instance_fcn.instance_fcn import in_image, rescaled
from tellapart.instance_fcn.proposals import tight_window_boxes
from tellapart.masks import extended
from tellapart.runtime.doors import load_config
from tellapart.visualization.score_maps import draw_instance_fcn

import cv2
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from made_images import annotated, batch, check_instances, losses_of
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
        "MODEL.ROI_HEADS.NAME": "MaskedROIHeads", "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3"],
        "MODEL.ROI_HEADS.NUM_CLASSES": 3, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0, "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
        "TEST_SCALES": [1.0, 1.5],
    },
}
# fmt: on


def model(variant: str = "single", **more):
    cfg = get_cfg()
    add_config(cfg)
    cfg.merge_from_file(str(ROOT / "configs" / "quick" / "instance_fcn_R_18_shapes.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.INSTANCE_FCN.CONV_DIM = "cpu", 16, 16
    cfg.MODEL.INSTANCE_FCN.TEST_SCALES, cfg.MODEL.INSTANCE_FCN.TOPK_PER_LEVEL = [1.0], 60
    for key, value in {**VARIANTS[variant], **more}.items():
        cfg.merge_from_list([key if "." in key else f"MODEL.INSTANCE_FCN.{key}", value])
    torch.manual_seed(0)
    return build_model(cfg)


def check_proposals(found: Instances, size: tuple[int, int]) -> None:
    check_instances(found, size)
    assert {"proposal_boxes", "objectness_logits", "pred_boxes"} <= set(found.get_fields())


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "InstanceFCN").glob("i*.yaml")), ids=lambda p: p.stem)
def test_configs_build(path):
    """Nothing is allocated; k * k score maps."""
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
        # in distributed training every parameter must take part
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    heads = net.proposal_generator
    assert all(p.grad.any() for p in heads.parameters())
    with torch.no_grad():
        results, raw = net.eval()(batch()), net.inference(batch(), do_postprocess=False)
    for inputs, result, unscaled in zip(batch(), results, raw):
        assert len(result["instances"]) > 0
        check_proposals(result["instances"], (inputs["height"], inputs["width"]))
        check_proposals(unscaled, tuple(inputs["image"].shape[1:]))
        assert (result["instances"].pred_classes > 0).any() == (variant == "classifier")


def test_boxes_for_standard_roi_heads():
    """In a GeneralizedRCNN it is a proposal generator as RPN is: a step trains everything, and inference detects."""
    net = model(
        "pyramid", **{"MODEL.META_ARCHITECTURE": "GeneralizedRCNN", "MODEL.ROI_HEADS.NAME": "StandardROIHeads"},
        **{"MODEL.ROI_HEADS.NUM_CLASSES": 3, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0},
    )  # fmt: skip
    seen = []
    net.roi_heads.register_forward_pre_hook(lambda _, given: seen.extend(given[2]))
    losses = losses_of(net, batch())
    parts = {"loss_objectness", "loss_window_mask", "loss_cls", "loss_box_reg", "loss_mask"}
    assert set(losses) == parts and all(torch.isfinite(loss) for loss in losses.values())
    assert all(set(found.get_fields()) == {"proposal_boxes", "objectness_logits"} and len(found) for found in seen)
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    with torch.no_grad():
        for inputs, result in zip(batch(), net.eval()(batch())):
            found = result["instances"]
            assert len(found) > 0 and found.pred_masks.shape[1:] == (inputs["height"], inputs["width"])


@pytest.mark.parametrize("architecture", ["InstanceFCN", "GeneralizedRCNN"])
def test_masks_are_needed(architecture):
    with pytest.raises(InputError, match="MODEL.MASK_ON is False, but InstanceFCNProposals learns from masks"):
        model(**{"MODEL.META_ARCHITECTURE": architecture, "MODEL.MASK_ON": False})


@pytest.mark.parametrize("variant", ["single", "classifier"])
def test_a_batch_without_objects_trains_on_background(variant):
    net = model(variant)
    losses = losses_of(net, [annotated(64, 80, []), annotated(48, 64, [])])
    assert losses["loss_objectness"] > 0 and losses["loss_window_mask"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("size", [(5, 5), (3, 200), (180, 9)])
def test_images_smaller_than_a_window_and_extreme_ones(size):
    """A window has 40 px."""
    net = model("scales", **{"MODEL.RESNETS.NORM": "FrozenBN"})
    inputs = [annotated(*size, [[0, 0, size[1], size[0]]])]
    assert all(torch.isfinite(loss) for loss in losses_of(net, inputs).values())
    with torch.no_grad():
        found = net.eval()(inputs)[0]["instances"]
    check_proposals(found, (2 * size[0], size[1]))


def test_bit_masks_and_polygons_train_alike():
    a, b = (losses_of(model(), batch(kind)) for kind in ("bitmask", "polygon"))
    assert a["loss_window_mask"].item() == pytest.approx(b["loss_window_mask"].item(), rel=0.05)
    assert a["loss_objectness"].item() == b["loss_objectness"].item()


def test_values_of_levels_that_nobody_reads_do_not_count():
    """Nor if they overflow; their layers get a gradient of 0."""
    net = model()
    truth = annotated(64, 64, [[20, 20, 50, 50]])["instances"]
    images = ImageList.from_tensors([torch.zeros(3, 64, 64)])
    features = {name: torch.randn(1, 16, size, size) for name, size in (("p2", 16), ("p3", 8))}
    features["p3"][:] = float("inf")
    features["p3"].requires_grad_()
    with EventStorage(0):
        _, losses = net.proposal_generator(images, features, [truth])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert torch.equal(features["p3"].grad, torch.zeros(1, 16, 8, 8))


@pytest.mark.parametrize("variant", ["single", "pyramid", "deepmask head"])
def test_what_pads_an_image_in_a_batch_does_not_show(variant):
    """Same losses and proposals as alone, no gradient in the padding, though it says: object, everywhere foreground."""
    generator = model(variant).proposal_generator
    size, truth = (61, 70), annotated(61, 70, [[30, 28, 70, 61], [2, 4, 40, 40]])["instances"]
    cells = [tuple(-(-length // stride) for length in size) for stride in generator.strides]
    channels = 16 if variant == "deepmask head" else generator.mask_head.grid_size**2
    g = torch.Generator().manual_seed(0)
    alone = [[torch.randn((1, c, *shape), generator=g) for shape in cells] for c in (1, channels)]
    padded = [[F.pad(x, (0, 9, 0, 5), value=30.0) for x in maps] for maps in alone]
    both = [[torch.cat((x, torch.full_like(x, 30.0))) for x in maps] for maps in padded]

    def run(maps: list[list[torch.Tensor]]) -> tuple[dict, Instances, list[list[torch.Tensor]]]:
        maps = [[x.clone().requires_grad_() for x in one] for one in maps]
        logits, shared = [x[:, 0] for x in maps[0]], maps[1]
        windows = generator.windows_of([size], logits)
        torch.manual_seed(1)  # samples the same windows
        with EventStorage(0):
            losses = generator.losses(logits, shared, windows, [truth])
        sum(losses.values()).backward()
        return losses, generator.choose(*generator.best_windows(logits, shared, windows[0]), size), maps

    losses, found, _ = run(alone)
    batched, same, maps = run(both)
    assert len(found) and losses["loss_window_mask"] > 0
    assert losses == batched
    for name, value in found.get_fields().items():
        other = same.get(name)
        assert torch.equal(*(getattr(x, "tensor", x) for x in (value, other))), name
    for one in maps:
        assert any(x.grad.any() for x in one)
        for x, (height, width) in zip(one, cells):
            assert not x.grad[1].any() and not x.grad[0, :, height:].any() and not x.grad[0, :, :, width:].any()


def test_it_learns_one_image():
    """A bright square on a dark ground: after some steps the best proposal is the square."""
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
        found = net.eval()([inputs])[0]["instances"]
    truth = inputs["instances"].gt_masks.tensor[0]
    overlap = (found.pred_masks[0] & truth).sum() / (found.pred_masks[0] | truth).sum()
    assert overlap > 0.7, float(overlap)


def test_proposals_of_a_scale_return_to_the_image():
    found = Instances((50, 100))
    found.proposal_boxes = found.windows = Boxes(torch.tensor([[10.0, 10, 30, 30]]))
    found.objectness_logits = found.scores = torch.tensor([0.5])
    found.window_masks = torch.zeros(1, 4, 4)
    found.window_masks[:, 1:3, :2] = 1.0
    moved = rescaled(found, (100, 400))
    assert moved.windows.tensor.tolist() == [[40, 20, 120, 60]]
    whole = in_image(found, (100, 400))
    assert abs(whole.pred_boxes.tensor - torch.tensor([[40.0, 30, 80, 50]])).max() <= 2
    assert tight_window_boxes(found.window_masks > 0.5, found.windows).tensor.tolist() == [[10, 15, 20, 25]]


def test_cells_off_the_image_repeat_the_nearest_in_it():
    generator = torch.Generator().manual_seed(0)
    values, inside = torch.rand(4, 5, 6, generator=generator), torch.zeros(4, 5, 6, dtype=torch.bool)
    shown = [(0, 5, 0, 6), (2, 5, 0, 4), (0, 1, 5, 6), (1, 3, 2, 3)]
    for on, (top, bottom, left, right) in zip(inside, shown):
        on[top:bottom, left:right] = True
    made = extended(values, inside)
    for one, value, (top, bottom, left, right) in zip(made, values, shown):
        for y in range(5):
            for x in range(6):
                assert one[y, x] == value[min(max(y, top), bottom - 1), min(max(x, left), right - 1)]
    assert extended(values[:0], inside[:0]).shape == (0, 5, 6)


@pytest.mark.parametrize("variant", ["single", "pyramid", "deepmask head"])
def test_masks_go_up_to_the_edge_of_the_image(variant):
    """All windows say: foreground everywhere, with 0.52. A window that crosses an edge has a mask up to the edge."""
    net = model(variant, POST_NMS_TOPK=200, NMS_THRESH=1.0, TOPK_PER_LEVEL=100).eval()
    head = net.proposal_generator.mask_head
    last = getattr(head, "score_maps", None) or head.outputs
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, 0.1)
    image = annotated(61, 75, [])
    with torch.no_grad():
        images = net.preprocess_image([image])
        found = net.proposal_generator(images, net.backbone(images.tensor), None)[0][0]
        masks = in_image(found, (61, 75)).pred_masks
    crossing = 0
    for mask, window in zip(masks, found.windows.tensor.long().tolist()):
        wanted = torch.zeros(61, 75, dtype=torch.bool)
        wanted[max(0, window[1]) : window[3], max(0, window[0]) : window[2]] = True
        assert mask.any() and (mask <= wanted).all()
        cell = (window[2] - window[0]) / 10
        for on, start, end in ((mask.any(1), *window[1::2]), (mask.any(0), *window[0::2])):
            before, beyond = start <= -cell, end >= len(on) + cell
            assert (not before or on[0]) and (not beyond or on[-1]), window
            crossing += before + beyond
    assert crossing > 10


@pytest.mark.parametrize("variant", ["single", "k1", "pyramid", "scales"])
def test_picture_of_a_window(variant, tmp_path):
    net = model(variant).eval()
    draw_instance_fcn(tmp_path / "deeper" / "window.png", net, annotated(97, 111, []))
    picture = cv2.imread(str(tmp_path / "deeper" / "window.png"))
    k = net.proposal_generator.mask_head.grid_size
    marked = (picture == (80, 200, 60)).all(-1)
    assert marked.any() and picture.shape[1] >= 4 * 320
    if k > 1:  # the cell moves from map to map
        assert marked[:, : picture.shape[1] // 3].any(0).sum() > 2 * k


def test_classifier_sees_the_inside_of_the_mask_only():
    """Features outside of a proposal's mask do not change its scores; those inside do."""
    net = model("classifier").eval()
    heads = net.roi_heads
    found = Instances((64, 64))
    found.windows = Boxes(torch.tensor([[8.0, 8, 48, 48]]))
    found.window_masks = torch.zeros(1, 10, 10)
    found.window_masks[:, 2:8, 2:5] = 1.0  # 16 to 28, 16 to 40 px; the box is wider
    found.window_masks[:, 2, 2:8] = 1.0
    found.proposal_boxes = tight_window_boxes(found.window_masks > 0.5, found.windows)
    assert found.proposal_boxes.tensor.tolist() == [[16, 16, 40, 40]]
    found.objectness_logits = found.scores = torch.zeros(1)
    features = {name: torch.zeros(1, 16, size, size) for name, size in (("p2", 16), ("p3", 8))}

    def scores(y: int, x: int) -> torch.Tensor:
        with torch.no_grad():
            changed = {name: feature.clone() for name, feature in features.items()}
            changed["p2"][0, :, y, x] = 50.0
            heads.score_thresh = 0.0
            return heads(None, changed, [found])[0][0].scores

    with torch.no_grad():
        plain = heads(None, features, [found])[0][0].scores
    assert torch.equal(scores(8, 9), plain), "in the box, right of the mask"
    assert not torch.equal(scores(7, 5), plain)


def test_score_by_product():
    """Objectness times the mean foreground probability inside of the mask: the order may turn."""
    net = model("deepmask rule").proposal_generator
    masks = torch.zeros(3, 4, 4)
    masks[0, :2], masks[1, 2:], masks[2] = 0.6, 1.0, 0.4
    boxes = Boxes(torch.tensor([[0.0, 0, 40, 40]]).expand(3, 4))
    found = net.choose(boxes, torch.tensor([2.0, 1.5, 9.0]), masks, (40, 40))
    assert torch.allclose(found.scores, torch.tensor([1.5, 2.0]).sigmoid() * torch.tensor([1.0, 0.6]))
    assert found.proposal_boxes.tensor.tolist() == [[0, 20, 40, 40], [0, 0, 40, 20]], "an empty mask is no proposal"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"MODEL.PROPOSAL_GENERATOR.NAME": "RPN"}, "PROPOSAL_GENERATOR.NAME is RPN, wanted InstanceFCNProposals"),
        ({"MODEL.ROI_HEADS.NAME": "StandardROIHeads"}, "ROI_HEADS.NAME is StandardROIHeads, wanted NoClassifier or"),
        ({"TEST_SCALES": [1.0, 0.0]}, "TEST_SCALES is .1.0, 0.0., wanted one or more factors above 0"),
        ({"IN_FEATURES": ["res4"]}, "IN_FEATURES is .'res4'., but the backbone gives"),
        ({"LABEL_RULE": "centre"}, "LABEL_RULE is 'centre', wanted one of .'iou', 'deepmask'."),
        ({"SCORE": "sum"}, "SCORE is 'sum', wanted one of"),
        ({"MASK_HEAD": "SharpMask"}, "MASK_HEAD is 'SharpMask', wanted one of .'InstanceSensitiveHead', 'DeepM"),
        ({"GRID_SIZE": 0}, "INSTANCE_FCN.GRID_SIZE is 0, wanted a number from 1 to the WINDOW_SIZE of 10"),
        ({"GRID_SIZE": 7, "WINDOW_SIZE": 5}, "GRID_SIZE is 7, wanted a number from 1 to the WINDOW_SIZE of 5"),
        *[
            ({key: 0}, f"INSTANCE_FCN.{key} is 0, wanted 1 or more")
            for key in (
                "WINDOW_SIZE", "WINDOW_STRIDE", "CONV_DIM", "DEEPMASK_RESOLUTION", "BATCH_SIZE_PER_IMAGE",
                "TOPK_PER_LEVEL", "POST_NMS_TOPK",
            )
        ],
        *[
            ({key: value}, f"INSTANCE_FCN.{key} is {value}, wanted a number from 0 to 1")
            for key, value in (("MASK_THRESH", -0.1), ("POSITIVE_FRACTION", 1.5), ("NMS_THRESH", 80.0))
        ],
        *[
            ({"IOU_THRESHOLDS": value}, "INSTANCE_FCN.IOU_THRESHOLDS is .*, wanted two rising numbers from 0 to 1")
            for value in ([0.5, 0.3], [0.5], [0.3, 0.5, 0.7], [-0.1, 0.5], [0.5, 50], ["low", "high"])
        ],
        *[
            ({"SIZE_BAND": value}, "INSTANCE_FCN.SIZE_BAND is .*, wanted two rising numbers above 0")
            for value in ([1.0, 0.5], [1.0], [0.0, 1.0])
        ],
        ({"CENTRE_TOLERANCE": 0.0}, "INSTANCE_FCN.CENTRE_TOLERANCE is 0.0, wanted a number above 0"),
    ],
)  # fmt: skip
def test_configs_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        model(**options)


@pytest.mark.parametrize("base", [NoClassifier, MaskedROIHeads])
def test_heads_made_from_ours_fit(base, monkeypatch):
    class Mine(base):
        pass

    monkeypatch.setitem(ROI_HEADS_REGISTRY._obj_map, "Mine", Mine)
    net = model("classifier", **{"MODEL.ROI_HEADS.NAME": "Mine"})
    assert isinstance(net.roi_heads, Mine)
    assert net.proposal_generator.masks_in_training == (base is MaskedROIHeads)
    assert net.proposal_generator.propose_in_training == (base is MaskedROIHeads)
    assert ("loss_cls" in losses_of(net, batch())) == (base is MaskedROIHeads)


def test_given_instances_are_refused():
    with pytest.raises(NotImplementedError, match="takes no detected_instances"):
        model().eval().inference(batch(), detected_instances=[Instances((4, 4))])
