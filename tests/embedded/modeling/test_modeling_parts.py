"""Anchors, box deltas, matching, sampling, pooling, ResNet and FPN against known values."""

import math

import tellapart  # noqa: F401

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN, Backbone, BottleneckBlock, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem
from detectron2.modeling.box_regression import Box2BoxTransform, _dense_box_regression_loss
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels, convert_boxes_to_pooler_format
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import BitMasks, Boxes, Instances, ROIMasks


def test_cell_anchors_have_the_given_area_and_ratio():
    generator = DefaultAnchorGenerator(sizes=[[32, 48]], aspect_ratios=[[0.5, 1.0, 2.0]], strides=[4])
    cells = next(iter(generator.cell_anchors))
    width, height = cells[:, 2] - cells[:, 0], cells[:, 3] - cells[:, 1]
    torch.testing.assert_close((width * height).sqrt(), torch.tensor([32.0] * 3 + [48.0] * 3))
    torch.testing.assert_close(height / width, torch.tensor([0.5, 1.0, 2.0] * 2))
    assert torch.equal(cells[:, :2], -cells[:, 2:])
    assert generator.num_anchors == generator.num_cell_anchors == [6]


def test_anchors_are_ordered_row_by_row_and_start_at_the_offset():
    generator = DefaultAnchorGenerator(sizes=[[8], [16]], aspect_ratios=[[1.0]], strides=[4, 8], offset=0.5)
    fine, coarse = generator([torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 1, 1)])
    centers = [[2, 2], [6, 2], [10, 2], [2, 6], [6, 6], [10, 6]]
    assert fine.get_centers().tolist() == centers
    assert coarse.tensor.tolist() == [[-4, -4, 12, 12]]
    assert generator.state_dict() == {}


def test_anchor_sizes_must_match_the_number_of_levels():
    with pytest.raises(AssertionError):
        DefaultAnchorGenerator(sizes=[[8], [16], [32]], aspect_ratios=[[1.0]], strides=[4, 8])


def random_boxes(count, size, seed):
    values = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)) * size / 2
    values[:, 2:] += values[:, :2] + 1
    return values


def test_deltas_match_the_formula_and_its_inverse():
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    source, target = random_boxes(20, 100, 0), random_boxes(20, 100, 1)
    deltas = transform.get_deltas(source, target)
    for s, t, d in zip(source.tolist(), target.tolist(), deltas.tolist()):
        w, h = s[2] - s[0], s[3] - s[1]
        dx = 10 * ((t[0] + t[2]) / 2 - (s[0] + s[2]) / 2) / w
        dh = 5 * math.log((t[3] - t[1]) / h)
        assert d[0] == pytest.approx(dx, abs=1e-4) and d[3] == pytest.approx(dh, abs=1e-4)
    torch.testing.assert_close(transform.apply_deltas(deltas, source), target, atol=1e-3, rtol=1e-4)
    with pytest.raises(AssertionError):
        transform.get_deltas(torch.zeros(1, 4), target[:1])


def test_deltas_are_multiplied_by_weights_before_the_division():
    """Another order changes the last bit, and then long runs differ from those of Detectron2."""
    (source, target), weight = (random_boxes(100, 100, seed) for seed in (2, 3)), np.float32(10)
    s, t = source.numpy(), target.numpy()
    width = s[:, 2] - s[:, 0]
    shift = (t[:, 0] + np.float32(0.5) * (t[:, 2] - t[:, 0])) - (s[:, 0] + np.float32(0.5) * width)
    deltas = Box2BoxTransform((10.0, 10.0, 5.0, 5.0)).get_deltas(source, target)
    assert (weight * shift / width != weight * (shift / width)).any()  # the two orders differ
    np.testing.assert_array_equal(deltas[:, 0].numpy(), weight * shift / width)


def test_large_deltas_are_clamped_and_several_sets_keep_their_order():
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    box = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    grown = transform.apply_deltas(torch.tensor([[0, 0, 100.0, 0, 1.0, 0, 0, 0]]), box)
    torch.testing.assert_close(grown, torch.tensor([[-492.0, 0, 508.0, 16, 16, 0, 32, 16]]))
    assert transform.apply_deltas(torch.zeros(1, 4, dtype=torch.bfloat16), box + 0.1).dtype == torch.float32
    assert transform.apply_deltas(torch.zeros(0, 8), torch.zeros(0, 4)).shape == (0, 8)


def test_dense_box_loss_uses_the_foreground_only():
    anchors = [Boxes(random_boxes(3, 50, 2)), Boxes(random_boxes(2, 50, 3))]
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    gt = [random_boxes(5, 50, 4), random_boxes(5, 50, 5)]
    deltas = [torch.full((2, 3, 4), 0.1, requires_grad=True), torch.full((2, 2, 4), -0.2, requires_grad=True)]
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[0, 1] = mask[1, 4] = True
    loss = _dense_box_regression_loss(anchors, transform, deltas, gt, mask, "smooth_l1", 0.0)
    picked = [(anchors[0].tensor[1], deltas[0][0, 1], gt[0][1]), (anchors[1].tensor[1], deltas[1][1, 1], gt[1][4])]
    expected = 0.0
    for anchor, delta, box in picked:
        expected += (delta - transform.get_deltas(anchor[None], box[None])[0]).abs().sum().item()
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert deltas[0].grad[0, 0].abs().sum() == 0 and deltas[0].grad[0, 1].abs().sum() > 0
    empty = _dense_box_regression_loss(anchors, transform, deltas, gt, torch.zeros_like(mask), "smooth_l1", 0.0)
    assert empty.item() == 0.0
    with pytest.raises(ValueError, match="l2"):
        _dense_box_regression_loss(anchors, transform, deltas, gt, mask, "l2")


def test_matcher_labels_by_threshold_and_low_quality():
    quality = torch.tensor([[0.1, 0.35, 0.8, 0.0], [0.2, 0.3, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    matches, labels = Matcher([0.3, 0.7], [0, -1, 1])(quality)
    assert matches.tolist() == [1, 0, 0, 0] and labels.tolist() == [0, -1, 1, 0] and labels.dtype == torch.int8
    # Prediction 1 is the best one of ground truth 1, but its match stays ground truth 0.
    matches, labels = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)(quality[:2])
    assert matches.tolist() == [1, 0, 0, 0] and labels.tolist() == [0, 1, 1, 0]
    # If the quality of a ground truth is 0 for all predictions, all of them are its best.
    assert Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)(quality)[1].tolist() == [1, 1, 1, 1]


def test_matcher_without_ground_truth_and_with_invalid_arguments():
    matches, labels = Matcher([0.5], [0, 1])(torch.zeros(0, 3))
    assert matches.tolist() == labels.tolist() == [0, 0, 0]
    for thresholds, labels in (([0.5], [0]), ([0.7, 0.3], [0, -1, 1]), ([0.5], [0, 2])):
        with pytest.raises(AssertionError):
            Matcher(thresholds, labels)
    with pytest.raises(AssertionError):
        Matcher([0.5], [0, 1])(torch.tensor([[-0.1]]))


def test_sampling_limits_positives_and_fills_up_with_negatives():
    labels = torch.tensor([3] * 10 + [0] * 30 + [-1] * 5 + [1] * 10)
    positive, negative = subsample_labels(labels, 16, 0.25, 0)
    assert len(positive) == 4 and len(negative) == 12
    assert (labels[positive] > 0).all() and (labels[negative] == 0).all()
    assert len(set(positive.tolist())) == 4 and len(set(negative.tolist())) == 12
    positive, negative = subsample_labels(labels, 1000, 0.5, 0)
    assert sorted(positive.tolist()) == [*range(10), *range(45, 55)] and sorted(negative.tolist()) == [*range(10, 40)]
    assert [len(x) for x in subsample_labels(torch.full((4,), -1), 8, 0.5, 0)] == [0, 0]


def test_boxes_are_assigned_to_levels_by_their_size():
    sides = [0.0, 1.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 5000.0]
    boxes = Boxes(torch.tensor([[10.0, 10.0, 10.0 + s, 10.0 + s] for s in sides]))
    assert assign_boxes_to_levels([boxes[:4], boxes[4:]], 2, 5, 224, 4).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_pooler_format_starts_with_the_image_index():
    lists = [Boxes(random_boxes(2, 9, 0)), Boxes(torch.zeros(0, 4)), Boxes(random_boxes(1, 9, 1))]
    rows = convert_boxes_to_pooler_format(lists)
    assert rows[:, 0].tolist() == [0, 0, 2]
    assert torch.equal(rows[:, 1:], torch.cat([b.tensor for b in lists]))


def test_pooler_pools_each_box_from_its_image_and_level():
    constant = [torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])]  # of images 0 and 1, per level
    maps = [c.view(2, 1, 1, 1).expand(2, 3, n, n).contiguous() for c, n in zip(constant, (64, 32))]
    pooler = ROIPooler((3, 3), [1 / 4, 1 / 8], 0, "ROIAlignV2", canonical_box_size=64, canonical_level=3)
    big, small = [20.0, 20, 120, 120], [20.0, 20, 40, 40]
    pooled = pooler(maps, [Boxes(torch.tensor([big, small])), Boxes(torch.tensor([small, big, big]))])
    assert pooled.shape == (5, 3, 3, 3)
    assert pooled[:, 0, 0, 0].tolist() == [10, 1, 2, 20, 20] and (pooled == pooled[:, :1, :1, :1]).all()
    assert pooler(maps, [Boxes(torch.zeros(0, 4))] * 2).shape == (0, 3, 3, 3)


@pytest.mark.parametrize("num_levels", [1, 2])
def test_pooler_without_images(num_levels):
    maps = [torch.zeros(0, 3, 8, 8), torch.zeros(0, 3, 4, 4)][:num_levels]
    pooler = ROIPooler((5, 4), [1 / 4, 1 / 8][:num_levels], 0, "ROIAlignV2")
    pooled = pooler(maps, [])
    assert pooled.shape == (0, 3, 5, 4) and pooled.dtype == torch.float32


@pytest.mark.parametrize(("kind", "shift"), [("ROIAlignV2", 0.5), ("ROIAlign", 0.0)])
def test_roi_align_of_a_ramp_is_the_bin_center(kind, shift):
    ramp = torch.arange(32.0).expand(1, 1, 32, 32).contiguous()
    pooled = ROIPooler(4, [1 / 2], 2, kind)([ramp], [Boxes(torch.tensor([[8.0, 8.0, 40.0, 40.0]]))])
    centers = np.array([4 + 4 * (i + 0.5) for i in range(4)]) - shift
    np.testing.assert_allclose(pooled[0, 0, 2].numpy(), centers, rtol=1e-5)


def test_pooler_refuses_invalid_arguments():
    maps = [torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 4, 4)]
    pooler = ROIPooler(2, [1 / 4, 1 / 8], 0, "ROIAlign")
    for feature_maps, boxes in ((maps[:1], [Boxes(torch.zeros(0, 4))] * 2), (maps, [Boxes(torch.zeros(0, 4))])):
        with pytest.raises(AssertionError):
            pooler(feature_maps, boxes)
    with pytest.raises(ValueError, match="Nearest"):
        ROIPooler(2, [1 / 4], 0, "Nearest")
    for scales in ([1 / 3], [1 / 4, 1 / 16], [1 / 8, 1 / 4]):
        with pytest.raises(AssertionError):
            ROIPooler(2, scales, 0, "ROIAlign")


def test_postprocess_scales_boxes_removes_empty_ones_and_pastes_masks():
    boxes = Boxes(torch.tensor([[0.0, 0.0, 10.0, 10.0], [30.0, 5.0, 40.0, 8.0], [15.0, 10.0, 40.0, 30.0]]))
    masks = torch.ones(3, 1, 28, 28)
    raw = Instances((20, 20), pred_boxes=boxes, scores=torch.tensor([0.9, 0.8, 0.7]), pred_masks=masks)
    result = detector_postprocess(raw, 40, 80)
    assert result.image_size == (40, 80)
    assert result.pred_boxes.tensor.tolist() == [[0, 0, 40, 20], [60, 20, 80, 40]]
    assert result.scores.tolist() == pytest.approx([0.9, 0.7])
    assert result.pred_masks.dtype == torch.bool and result.pred_masks.shape == (2, 40, 80)
    assert result.pred_masks[0, :19, :39].all() and not result.pred_masks[0, 21:].any()


def test_postprocess_lets_masks_paste_themselves():
    """``pred_masks`` can be ``ROIMasks``, of which a subclass decides how they are pasted."""

    class Ones(ROIMasks):
        def __getitem__(self, item):
            return Ones(self.tensor[item])

        def to_bitmasks(self, boxes, height, width, threshold=0.5):
            assert boxes.tensor.tolist() == [[0, 0, 40, 20], [60, 20, 80, 40]] and threshold == 0.5
            return BitMasks(torch.ones(len(self), height, width, dtype=torch.bool))

    g = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [30.0, 5.0, 40.0, 8.0], [15.0, 10.0, 40.0, 30.0]])
    masks = torch.rand(3, 1, 28, 28, generator=g)

    def postprocess(masks):
        return detector_postprocess(Instances((20, 20), pred_boxes=Boxes(boxes.clone()), pred_masks=masks), 40, 80)

    assert torch.equal(postprocess(ROIMasks(masks[:, 0])).pred_masks, postprocess(masks).pred_masks)
    assert postprocess(Ones(masks[:, 0])).pred_masks.all()
    assert len(ROIMasks(masks[:, 0])[torch.tensor([True, False, True])]) == 2
    assert ROIMasks(masks[:, 0]).to(torch.device("cpu")).device.type == "cpu"
    with pytest.raises(ValueError):
        ROIMasks(masks)


def make_stages(block_class, **kwargs):
    """Return four stages of one block each, with the widths of ResNet-18 or 50."""
    widths, stages, in_channels = (64, 128, 256, 512), [], 64
    for width in widths:
        sizes = {"stride": 1 if width == 64 else 2, "out_channels": width}
        if block_class is BottleneckBlock:
            sizes.update(out_channels=4 * width, bottleneck_channels=width)
        stages.append(ResNet.make_stage(block_class, 1, in_channels=in_channels, **sizes, **kwargs))
        in_channels = sizes["out_channels"]
    return stages


def test_resnet_shapes_and_strides_without_stages_that_are_not_needed():
    stages = make_stages(BottleneckBlock, norm="FrozenBN", stride_in_1x1=True)
    net = ResNet(BasicStem(norm="FrozenBN"), stages, out_features=["stem", "res3"], freeze_at=2)
    shapes = {name: (shape.channels, shape.stride) for name, shape in net.output_shape().items()}
    assert shapes == {"stem": (64, 4), "res3": (512, 8)}
    assert not any(name.startswith("res4") for name in net.state_dict())
    trainable = {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad}
    assert trainable == {"res3"}
    outputs = net(torch.zeros(1, 3, 33, 65))
    assert outputs["stem"].shape == (1, 64, 9, 17) and outputs["res3"].shape == (1, 512, 5, 9)
    with pytest.raises(AssertionError):
        net(torch.zeros(3, 32, 32))
    with pytest.raises(AssertionError):
        ResNet(BasicStem(), make_stages(BasicBlock), out_features=["res9"])


def test_freezing_makes_batch_norm_constant():
    net = ResNet(BasicStem(), make_stages(BasicBlock), freeze_at=1).train()
    before = net.stem.conv1.norm.running_mean.clone()
    changes = net.res2[0].conv1.norm.running_mean.clone()
    net(torch.rand(2, 3, 64, 64))
    assert torch.equal(before, net.stem.conv1.norm.running_mean)
    assert not torch.equal(changes, net.res2[0].conv1.norm.running_mean)


def test_make_stage_passes_values_per_block():
    arguments = {"in_channels": 16, "out_channels": 64, "bottleneck_channels": 8, "norm": ""}
    per_block = {"stride_per_block": [2, 1], "dilation_per_block": [1, 2]}
    first, second = ResNet.make_stage(BottleneckBlock, 2, **per_block, **arguments)
    assert (first.stride, second.stride) == (2, 1)
    assert (first.conv2.dilation, second.conv2.dilation) == ((1, 1), (2, 2))
    assert second(first(torch.zeros(1, 16, 8, 8))).shape == (1, 64, 4, 4)
    for wrong in ({"stride_per_block": [1]}, {"stride_per_block": [1, 1], "stride": 1}):
        with pytest.raises(AssertionError):
            ResNet.make_stage(BottleneckBlock, 2, **wrong, **arguments)


class ConstantBackbone(Backbone):
    """Returns given feature maps, whatever the input is."""

    def __init__(self, maps):
        super().__init__()
        self.maps = maps

    def forward(self, x):
        """Return the given feature maps."""
        return self.maps

    def output_shape(self):
        """Return the shapes for strides 4, 8 and 64."""
        sizes = {"a": (2, 4), "b": (3, 8), "c": (2, 64)}
        return {name: ShapeSpec(channels=channels, stride=stride) for name, (channels, stride) in sizes.items()}


@pytest.mark.parametrize("fuse", ["sum", "avg"])
def test_fpn_adds_the_coarser_level(fuse):
    maps = {"a": torch.rand(1, 2, 4, 4), "b": torch.rand(1, 3, 2, 2)}
    net = FPN(ConstantBackbone(maps), ["a", "b"], 5, fuse_type=fuse, top_block=None)
    assert net.size_divisibility == 8 and not net.padding_constraints.get("square_size")
    out = net(None)
    assert list(out) == ["p2", "p3"] and [s.stride for s in net.output_shape().values()] == [4, 8]
    above = net.fpn_lateral3(maps["b"])
    merged = net.fpn_lateral2(maps["a"]) + above.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(out["p3"], net.fpn_output3(above))
    torch.testing.assert_close(out["p2"], net.fpn_output2(merged / (2 if fuse == "avg" else 1)))
    with pytest.raises(AssertionError):
        FPN(ConstantBackbone(maps), ["a", "c"], 5)


def test_last_level_is_every_second_pixel():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert LastLevelMaxPool()(x)[0].tolist() == [[[[0, 2], [8, 10]]]]
