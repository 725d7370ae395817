"""RPN, box and mask heads: proposals, detections and losses against slow references."""

import math

import tellapart  # noqa: F401

import detectron2
import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BaseMaskRCNNHead, FastRCNNOutputLayers
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals, find_top_rpn_proposals
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    MaskRCNNConvUpsampleHead,
    ROIHeads,
    select_foreground_proposals,
)
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference, fast_rcnn_inference_single_image
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference, mask_rcnn_loss
from detectron2.structures import BitMasks, Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import EventStorage

UNIT = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))


def random_boxes(count, size, seed):
    values = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)) * size / 2
    values[:, 2:] += values[:, :2] + 1
    return values


def greedy_nms(boxes, scores, threshold):
    order, kept = sorted(range(len(boxes)), key=lambda i: -scores[i]), []
    for i in order:
        overlaps = [pairwise_iou(Boxes(boxes[i : i + 1]), Boxes(boxes[j : j + 1])).item() for j in kept]
        if all(overlap <= threshold for overlap in overlaps):
            kept.append(i)
    return kept


def test_proposals_match_a_slow_search():
    sizes, topk = [(60, 50), (64, 64)], 12
    boxes = [torch.stack([random_boxes(n, 100, 10 * n + i) for i in range(2)]) for n in (20, 8)]
    boxes[0][0, 3, 2:] = boxes[0][0, 3, :2] + 0.5  # too small
    scores = [torch.rand(2, n, generator=torch.Generator().manual_seed(n)) for n in (20, 8)]
    proposals = find_top_rpn_proposals(boxes, scores, sizes, 0.4, topk, 9, 1.0, True)
    for i, (height, width) in enumerate(sizes):
        kept = []
        for level_boxes, level_scores in zip(boxes, scores):
            best = level_scores[i].argsort(descending=True)[:topk]
            b, s = level_boxes[i][best].clone(), level_scores[i][best]
            b[:, 0::2] = b[:, 0::2].clamp(0, width)
            b[:, 1::2] = b[:, 1::2].clamp(0, height)
            large = ((b[:, 2:] - b[:, :2]) > 1.0).all(dim=1)
            b, s = b[large], s[large]
            kept += [(s[j].item(), b[j].tolist()) for j in greedy_nms(b, s.tolist(), 0.4)]
        kept = sorted(kept, reverse=True)[:9]
        assert proposals[i].image_size == (height, width)
        assert proposals[i].objectness_logits.tolist() == [s for s, _ in kept]
        assert proposals[i].proposal_boxes.tensor.tolist() == [b for _, b in kept]
        assert set(proposals[i].get_fields()) == {"proposal_boxes", "objectness_logits"}


def test_infinite_proposals_stop_training_and_are_removed_in_inference():
    boxes, scores = [random_boxes(4, 20, 0)[None]], [torch.tensor([[0.1, float("nan"), 0.3, 0.4]])]
    boxes[0][0, 2, 1] = float("inf")
    with pytest.raises(FloatingPointError):
        find_top_rpn_proposals(boxes, scores, [(30, 30)], 0.9, 4, 4, 0.0, True)
    proposals = find_top_rpn_proposals(boxes, scores, [(30, 30)], 0.99, 4, 4, 0.0, False)[0]
    assert proposals.objectness_logits.tolist() == pytest.approx([0.4, 0.1])


def test_ground_truth_is_added_to_the_proposals():
    proposals = Instances((9, 9), proposal_boxes=Boxes(random_boxes(2, 9, 0)), objectness_logits=torch.zeros(2))
    gt = Instances((9, 9), gt_boxes=Boxes(random_boxes(3, 9, 1)), gt_classes=torch.zeros(3))
    for ground_truth in (gt, gt.gt_boxes):
        all_proposals = add_ground_truth_to_proposals([ground_truth], [proposals])[0]
        assert torch.equal(all_proposals.proposal_boxes.tensor[2:], gt.gt_boxes.tensor)
        assert all_proposals.objectness_logits.tolist() == pytest.approx([0, 0] + [math.log(1e10)] * 3)
    proposals.extra = torch.zeros(2)
    with pytest.raises(AssertionError, match="extra"):
        add_ground_truth_to_proposals([gt], [proposals])


def make_rpn(**kwargs):
    options = {"batch_size_per_image": 10000, "positive_fraction": 1.0, "pre_nms_topk": (50, 40), **kwargs}
    return RPN(
        in_features=["a", "b"],
        head=StandardRPNHead(in_channels=4, num_anchors=2),
        anchor_generator=DefaultAnchorGenerator(sizes=[[8], [16]], aspect_ratios=[[0.5, 2.0]], strides=[4, 8]),
        anchor_matcher=Matcher([0.3, 0.5], [0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=UNIT,
        post_nms_topk=(20, 10),
        **options,
    )


def rpn_inputs():
    g = torch.Generator().manual_seed(0)
    features = {"a": torch.rand(2, 4, 6, 8, generator=g), "b": torch.rand(2, 4, 3, 4, generator=g)}
    images = ImageList(torch.zeros(2, 3, 24, 32), [(24, 30), (20, 32)])
    gt = [Instances(size, gt_boxes=Boxes(boxes)) for size, boxes in zip(images.image_sizes, GT_BOXES)]
    return images, features, gt


GT_BOXES = [torch.tensor([[2.0, 3.0, 14.0, 9.0], [10.0, 5.0, 24.0, 22.0]]), torch.zeros(0, 4)]


def test_rpn_losses_match_a_loop():
    torch.manual_seed(1)
    rpn = make_rpn(loss_weight={"loss_rpn_cls": 2.0, "loss_rpn_loc": 3.0})
    images, features, gt = rpn_inputs()
    with EventStorage() as storage:
        proposals, losses = rpn(images, features, gt)
    anchors = Boxes.cat(rpn.anchor_generator([features["a"], features["b"]])).tensor
    cls = loc = positives = negatives = 0.0
    for i in range(2):
        logits, deltas = [], []
        for name in ("a", "b"):
            (score,), (delta,) = rpn.rpn_head([features[name][i : i + 1]])
            for y in range(score.shape[2]):
                for x in range(score.shape[3]):
                    for a in range(2):
                        logits.append(score[0, a, y, x])
                        deltas.append(delta[0, 4 * a : 4 * a + 4, y, x])
        iou = pairwise_iou(gt[i].gt_boxes, Boxes(anchors))
        for r in range(len(anchors)):
            best = iou[:, r].max().item() if len(iou) else 0.0
            is_best = any(iou[m, r] == iou[m].max() for m in range(len(iou)))
            if best >= 0.5 or is_best:
                target = UNIT.get_deltas(anchors[r : r + 1], gt[i].gt_boxes.tensor[iou[:, r].argmax()][None])[0]
                loc += (deltas[r] - target).abs().sum().item()
                cls += torch.nn.functional.softplus(-logits[r]).item()
                positives += 1
            elif best < 0.3:
                cls += torch.nn.functional.softplus(logits[r]).item()
                negatives += 1
    assert positives > 2
    assert losses["loss_rpn_cls"].item() == pytest.approx(2 * cls / 20000, rel=1e-4)
    assert losses["loss_rpn_loc"].item() == pytest.approx(3 * loc / 20000, rel=1e-4)
    assert storage.latest()["rpn/num_pos_anchors"][0] == positives / 2
    assert storage.latest()["rpn/num_neg_anchors"][0] == negatives / 2
    assert [len(p) <= 20 and not p.proposal_boxes.tensor.requires_grad for p in proposals] == [True, True]


def test_rpn_samples_the_configured_number_of_anchors():
    torch.manual_seed(0)
    rpn = make_rpn(batch_size_per_image=8, positive_fraction=0.25)
    _, features, gt = rpn_inputs()
    labels, boxes = rpn.label_and_sample_anchors(rpn.anchor_generator([features["a"], features["b"]]), gt)
    assert [(x == 1).sum().item() for x in labels] == [2, 0] and [(x == 0).sum().item() for x in labels] == [6, 8]
    assert [tuple(x.shape) for x in boxes] == [(120, 4)] * 2


def test_rpn_ignores_anchors_outside_the_image():
    rpn = make_rpn(anchor_boundary_thresh=0)
    _, features, gt = rpn_inputs()
    anchors = rpn.anchor_generator([features["a"], features["b"]])
    labels, _ = rpn.label_and_sample_anchors(anchors, gt)
    inside = Boxes.cat(anchors).inside_box((20, 32), 0)
    assert torch.equal(labels[1] == 0, inside) and 0 < inside.sum() < len(inside)


def test_rpn_head_with_several_convolutions():
    head = StandardRPNHead(in_channels=4, num_anchors=3, conv_dims=[-1, 6])
    shapes = {name: tuple(p.shape) for name, p in head.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "conv.conv0.weight": (4, 4, 3, 3),
        "conv.conv1.weight": (6, 4, 3, 3),
        "objectness_logits.weight": (3, 6, 1, 1),
        "anchor_deltas.weight": (12, 6, 1, 1),
    }


def make_heads(**kwargs):
    options = {"num_classes": 3, "batch_size_per_image": 512, "positive_fraction": 1.0, **kwargs}
    return ROIHeads(proposal_matcher=Matcher([0.5], [0, 1]), **options)


def test_proposals_get_the_fields_of_their_match():
    gt_boxes = torch.tensor([[0.0, 0, 20, 20], [30, 30, 60, 60]])
    boxes = torch.tensor([[1.0, 0, 20, 20], [50, 0, 70, 20], [32, 30, 60, 60], [10, 10, 40, 40]])
    gt = Instances((80, 80), gt_boxes=Boxes(gt_boxes), gt_classes=torch.tensor([2, 0]), gt_tag=torch.tensor([7, 9]))
    gt.extra = torch.zeros(2)
    none = Instances((80, 80), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.int64))
    fields = {"proposal_boxes": Boxes(boxes), "objectness_logits": torch.arange(4.0)}
    proposals = [Instances((80, 80), **fields), Instances((80, 80), **fields)]
    with EventStorage() as storage:
        first, second = make_heads(proposal_append_gt=False).label_and_sample_proposals(proposals, [gt, none])
        appended, _ = make_heads().label_and_sample_proposals(proposals, [gt, none])
    rows = {int(row): (int(c), int(t)) for row, c, t in zip(first.objectness_logits, first.gt_classes, first.gt_tag)}
    assert rows[0] == (2, 7) and rows[2] == (0, 9) and rows[1][0] == rows[3][0] == 3
    assert not first.has("extra") and second.gt_classes.tolist() == [3, 3, 3, 3]
    assert sorted(appended.gt_classes.tolist()) == [0, 0, 2, 2, 3, 3]
    assert storage.latest()["roi_head/num_fg_samples"][0] == 2 and storage.latest()["roi_head/num_bg_samples"][0] == 3
    foreground, masks = select_foreground_proposals([first, second], 3)
    assert [len(x) for x in foreground] == [2, 0] and [int(m.sum()) for m in masks] == [2, 0]


def test_number_of_sampled_proposals_is_limited():
    proposals = [Instances((80, 80), proposal_boxes=Boxes(random_boxes(40, 60, 3)), objectness_logits=torch.zeros(40))]
    gt = [Instances((80, 80), gt_boxes=Boxes(random_boxes(40, 60, 3)), gt_classes=torch.zeros(40, dtype=torch.int64))]
    with EventStorage():
        sampled = make_heads(batch_size_per_image=16, positive_fraction=0.25).label_and_sample_proposals(proposals, gt)
    assert len(sampled[0]) == 4 and (sampled[0].gt_classes == 0).all()


def predictor(**kwargs):
    torch.manual_seed(0)
    return FastRCNNOutputLayers(ShapeSpec(channels=6), box2box_transform=UNIT, num_classes=3, **kwargs)


@pytest.mark.parametrize("agnostic", [False, True])
def test_box_losses_match_a_loop(agnostic):
    layers = predictor(cls_agnostic_bbox_reg=agnostic, loss_weight={"loss_box_reg": 2.0}, smooth_l1_beta=0.5)
    boxes, gt = random_boxes(5, 50, 0), random_boxes(5, 50, 1)
    classes = torch.tensor([0, 3, 2, 1, 3])
    proposals = [
        Instances((50, 50), proposal_boxes=Boxes(boxes[:4]), gt_boxes=Boxes(gt[:4]), gt_classes=classes[:4]),
        Instances((50, 50), proposal_boxes=Boxes(boxes[4:]), gt_classes=classes[4:]),  # an image without ground truth
    ]
    scores, deltas = layers(torch.rand(5, 6, 1, 1))
    assert scores.shape == (5, 4) and deltas.shape == (5, 4 if agnostic else 12)
    with EventStorage() as storage:
        losses = layers.losses((scores, deltas), proposals)
    cls = -scores.log_softmax(dim=1)[range(5), classes].mean().item()
    loc = 0.0
    for i, c in enumerate(classes.tolist()):
        if c < 3:
            class_deltas = deltas[i] if agnostic else deltas[i, 4 * c : 4 * c + 4]
            error = (class_deltas - UNIT.get_deltas(boxes[i : i + 1], gt[i : i + 1])[0]).abs()
            loc += torch.where(error < 0.5, error**2, error - 0.25).sum().item()
    assert losses["loss_cls"].item() == pytest.approx(cls, rel=1e-5)
    assert losses["loss_box_reg"].item() == pytest.approx(2 * loc / 5, rel=1e-4)
    correct = scores.argmax(dim=1) == classes
    assert storage.latest()["fast_rcnn/cls_accuracy"][0] == pytest.approx(correct.float().mean().item())
    assert storage.latest()["fast_rcnn/fg_cls_accuracy"][0] == pytest.approx(correct[classes < 3].float().mean().item())


def test_box_losses_without_proposals_are_zero_with_gradient():
    layers = predictor()
    empty = Instances((9, 9), proposal_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.int64))
    with EventStorage():
        losses = layers.losses(layers(torch.zeros(0, 6)), [empty])
    assert losses["loss_cls"].item() == losses["loss_box_reg"].item() == 0.0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in layers.parameters())


@pytest.mark.parametrize("agnostic", [False, True])
def test_box_losses_without_images_are_zero_with_gradient(agnostic):
    if not agnostic and "embedded_detectron2" not in detectron2.__file__:
        pytest.skip("the real Detectron2 raises an IndexError")
    layers = predictor(cls_agnostic_bbox_reg=agnostic)
    with EventStorage() as storage:
        losses = layers.losses(layers(torch.zeros(0, 6)), [])
    assert losses["loss_cls"].item() == losses["loss_box_reg"].item() == 0.0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in layers.parameters())
    assert not storage.latest()


def test_detections_match_a_slow_search():
    g = torch.Generator().manual_seed(2)
    boxes = torch.cat([random_boxes(15, 80, i) for i in (1, 2)], dim=1)  # two classes
    scores = torch.rand(15, 3, generator=g).softmax(dim=1)
    detections, rows = fast_rcnn_inference_single_image(boxes, scores, (60, 50), 0.3, 0.3, 6)
    kept = []
    for c in range(2):
        index = [i for i in range(15) if scores[i, c] > 0.3]
        b = boxes[index, 4 * c : 4 * c + 4].clone()
        b[:, 0::2] = b[:, 0::2].clamp(0, 50)
        b[:, 1::2] = b[:, 1::2].clamp(0, 60)
        s = scores[index, c].tolist()
        kept += [(s[j], c, index[j], b[j].tolist()) for j in greedy_nms(b, s, 0.3)]
    kept = sorted(kept, reverse=True)[:6]
    assert detections.scores.tolist() == [k[0] for k in kept]
    assert detections.pred_classes.tolist() == [k[1] for k in kept]
    assert rows.tolist() == [k[2] for k in kept] and detections.pred_boxes.tensor.tolist() == [k[3] for k in kept]
    unlimited = fast_rcnn_inference([boxes], [scores], [(60, 50)], 0.3, 0.3, -1)[0][0]
    assert len(unlimited) > 6


def test_infinite_boxes_and_scores_are_removed():
    boxes, scores = random_boxes(3, 50, 0), torch.tensor([[0.5, 0.5], [float("inf"), 0.0], [0.6, 0.4]])
    boxes[0, 3] = float("nan")
    detections, _ = fast_rcnn_inference_single_image(boxes, scores, (60, 50), 0.3, 0.3, 6)
    assert detections.scores.tolist() == pytest.approx([0.6])


def test_no_boxes_give_no_detections():
    for width in (4, 8):
        (detections,), (rows,) = fast_rcnn_inference(
            [torch.zeros(0, width)], [torch.zeros(0, 3)], [(5, 5)], 0.1, 0.5, 10
        )
        assert len(detections) == len(rows) == 0 and detections.pred_boxes.tensor.shape == (0, 4)


def test_box_head_shapes_and_names():
    shape = ShapeSpec(channels=4, height=7, width=7)
    head = FastRCNNConvFCHead(shape, conv_dims=[6], fc_dims=[5, 3], conv_norm="BN")
    assert head.output_shape.channels == 3 and head(torch.zeros(2, 4, 7, 7)).shape == (2, 3)
    weights = {name for name, _ in head.named_parameters() if name.endswith("weight")}
    assert weights == {"conv1.weight", "conv1.norm.weight", "fc1.weight", "fc2.weight"} and head.conv1.bias is None
    conv = FastRCNNConvFCHead(shape, conv_dims=[6], fc_dims=[])
    assert (conv.output_shape.channels, conv.output_shape.height) == (6, 7)
    with pytest.raises(AssertionError):
        FastRCNNConvFCHead(shape, conv_dims=[], fc_dims=[])


def instances_with_masks(count, classes, seed):
    g = torch.Generator().manual_seed(seed)
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0]]).repeat(count, 1)  # mask pixels are image pixels
    masks = torch.rand(count, 8, 8, generator=g) > 0.5
    fields = {"proposal_boxes": Boxes(boxes), "gt_classes": torch.tensor(classes, dtype=torch.int64)}
    return Instances((8, 8), gt_masks=BitMasks(masks), **fields), masks


@pytest.mark.parametrize("agnostic", [False, True])
def test_mask_loss_is_the_mean_over_the_ground_truth_classes(agnostic):
    first, masks1 = instances_with_masks(2, [1, 0], 0)
    second, masks2 = instances_with_masks(1, [2], 1)
    none, _ = instances_with_masks(0, [], 2)
    logits = torch.randn(3, 1 if agnostic else 3, 8, 8, generator=torch.Generator().manual_seed(3), requires_grad=True)
    with EventStorage() as storage:
        loss = mask_rcnn_loss(logits, [first, none, second])
    truth = torch.cat([masks1, masks2]).numpy().astype(float)
    class_logits = logits.detach()[[0, 1, 2], [0, 0, 0] if agnostic else [1, 0, 2]].double().numpy()
    expected = np.mean(np.log1p(np.exp(-np.abs(class_logits))) + np.maximum(class_logits, 0) - class_logits * truth)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    accuracy = ((class_logits > 0) == (truth > 0.5)).mean()
    assert storage.latest()["mask_rcnn/accuracy"][0] == pytest.approx(accuracy)
    missed = ((class_logits <= 0) & (truth > 0.5)).sum() / truth.sum()
    assert storage.latest()["mask_rcnn/false_negative"][0] == pytest.approx(missed)


def test_mask_loss_without_instances_is_zero_with_gradient():
    logits = torch.zeros(0, 3, 8, 8, requires_grad=True)
    loss = mask_rcnn_loss(logits, [instances_with_masks(0, [], 0)[0]])
    assert loss.item() == 0.0 and loss.requires_grad
    with pytest.raises(AssertionError):
        mask_rcnn_loss(torch.zeros(0, 3, 8, 9), [])


def test_masks_of_the_predicted_classes():
    logits = torch.randn(3, 2, 4, 4)
    images = [Instances((8, 8), pred_classes=torch.tensor(c, dtype=torch.int64)) for c in ([1, 0], [], [1])]
    mask_rcnn_inference(logits, images)
    assert [tuple(x.pred_masks.shape) for x in images] == [(2, 1, 4, 4), (0, 1, 4, 4), (1, 1, 4, 4)]
    torch.testing.assert_close(torch.cat([x.pred_masks for x in images])[:, 0], logits[[0, 1, 2], [1, 0, 1]].sigmoid())


def test_mask_head_layers_and_its_base():
    shape = ShapeSpec(channels=4, height=7, width=7)
    head = MaskRCNNConvUpsampleHead(shape, num_classes=3, conv_dims=[6, 5], conv_norm="BN", loss_weight=0.5)
    assert head.layers(torch.zeros(2, 4, 7, 7)).shape == (2, 3, 14, 14)
    names = [name for name, _ in head.named_children()]
    assert names == ["mask_fcn1", "deconv", "deconv_relu", "predictor"] and head.loss_weight == 0.5
    with pytest.raises(AssertionError):
        MaskRCNNConvUpsampleHead(shape, num_classes=3, conv_dims=[])
    with pytest.raises(NotImplementedError):
        BaseMaskRCNNHead().layers(torch.zeros(1))


class IdentityMaskHead(BaseMaskRCNNHead):
    """A custom mask head whose logits are the features."""

    def layers(self, x):
        """Return the input."""
        return x


def test_custom_mask_head_needs_only_layers():
    head = IdentityMaskHead(loss_weight=3.0)
    instances, _ = instances_with_masks(2, [0, 0], 0)
    with EventStorage():
        losses = head(torch.zeros(2, 1, 8, 8), [instances])
    assert losses["loss_mask"].item() == pytest.approx(3 * math.log(2))
    detections = Instances((8, 8), pred_classes=torch.tensor([0, 0]))
    assert head.eval()(torch.zeros(2, 1, 8, 8), [detections])[0].pred_masks.unique().tolist() == [0.5]
