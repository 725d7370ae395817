"""Cases on structures and operations: anchors, box deltas, matching, pooling, pasting."""

from __future__ import annotations

import numpy as np
import torch

from .common import case, crc, random_boxes, random_values, rcnn_cfg, sample_everything

SQUARE, OUTSIDE = [10.0, 10.0, 50.0, 50.0], [-20.0, -30.0, 25.0, 18.5]


def _polygons() -> list[list[np.ndarray]]:
    """Return five instances on a 60 x 80 image. The fourth is partly outside."""
    parts = [
        [[10, 10, 50, 10, 50, 50, 10, 50]],
        [[5, 40, 30, 5, 55, 40]],
        [[2, 2, 20, 2, 20, 20, 2, 20], [40, 30, 70, 30, 55, 58]],
        [[60, 40, 95, 40, 95, 75, 60, 75]],
        [[10.3, 10.7, 33.6, 12.2, 30.1, 44.9, 12.8, 40.4]],
    ]
    return [[np.array(p, dtype=np.float64) for p in polygons] for polygons in parts]


@case
def case_boxes() -> dict:
    from detectron2.structures import Boxes, BoxMode, pairwise_iou

    a = Boxes(torch.cat([random_boxes("boxes/a", 7, 60, 80), torch.tensor([SQUARE, OUTSIDE, [5.0, 5.0, 5.0, 9.0]])]))
    b = Boxes(torch.cat([random_boxes("boxes/b", 4, 60, 80), torch.tensor([SQUARE])]))
    clipped = a.clone()
    clipped.clip((30, 40))
    scaled = a.clone()
    scaled.scale(0.5, 2.0)
    modes = {m.name: int(m) for m in BoxMode}
    xywh = BoxMode.convert(a.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    return {
        "area": a.area(),
        "centers": a.get_centers(),
        "clipped": clipped.tensor,
        "scaled": scaled.tensor,
        "nonempty": a.nonempty(threshold=3.0),
        "inside": a.inside_box((40, 50), boundary_threshold=2),
        "picked": a[torch.tensor([2, 0])].tensor,
        "one": a[1].tensor,
        "cat": Boxes.cat([a, b]).tensor,
        "none": Boxes.cat([]).tensor,
        "iou": pairwise_iou(a, b),
        "xywh": xywh,
        "back": BoxMode.convert(xywh, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS),
        "as_list": BoxMode.convert([1.0, 2.0, 3.0, 4.0], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS),
        "as_tuple_type": type(BoxMode.convert((1.0, 2.0, 3.0, 4.0), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)).__name__,
        "modes": modes,
    }


@case
def case_instances() -> dict:
    from detectron2.structures import Boxes, ImageList, Instances

    a = Instances((30, 40), scores=torch.arange(3.0), gt_boxes=Boxes(random_boxes("inst", 3, 30, 40)))
    a.names = ["x", "y", "z"]
    nameless = a[:2]
    nameless.remove("names")
    masked = nameless[torch.tensor([True, False])]
    both = Instances.cat([a[1:], a[0]])
    images = [torch.full((3, h, w), float(i + 1)) for i, (h, w) in enumerate([(5, 9), (7, 4)])]
    lists = {}
    for divisor, square in ((0, 0), (4, 0), (32, 0), (0, 16)):
        batch = ImageList.from_tensors(
            images, divisor, pad_value=0.5, padding_constraints={"square_size": square} if square else None
        )
        lists[f"{divisor}_{square}"] = [batch.tensor, [tuple(s) for s in batch.image_sizes], batch[1].sum()]
    return {
        "boxes": both.gt_boxes.tensor,
        "scores": both.scores,
        "names": both.names,
        "masked": [sorted(masked.get_fields()), masked.scores],
        "fields": sorted(both.get_fields()),
        "has": [both.has("scores"), both.has("gt_masks"), len(both)],
        "size": both.image_size,
        "image_lists": lists,
    }


@case
def case_masks() -> dict:
    from detectron2.layers import paste_masks_in_image
    from detectron2.structures import BitMasks, PolygonMasks, polygons_to_bitmask

    polygons = PolygonMasks(_polygons())
    bits = BitMasks.from_polygon_masks(_polygons(), 60, 80)
    boxes = torch.cat([random_boxes("masks", 3, 60, 80, 8), torch.tensor([SQUARE, [50.0, 30.0, 90.0, 70.0]])])
    pasted = paste_masks_in_image(random_values("masks/roi", 5, 28, 28, low=0, high=1), boxes, (60, 80), threshold=0.5)
    return {
        "polygon_boxes": polygons.get_bounding_boxes().tensor,
        "polygon_area": polygons.area(),
        "polygon_nonempty": polygons.nonempty(),
        "polygon_crops": polygons.crop_and_resize(boxes, 28),
        "polygon_part": polygons[[True, False, True, False, False]].area(),
        "polygon_cat": len(PolygonMasks.cat([polygons, polygons[1]])),
        "bits": bits.tensor,
        "bits_each": [crc(polygons_to_bitmask(p, 60, 80)) for p in _polygons()],
        "bit_boxes": bits.get_bounding_boxes().tensor,
        "bit_nonempty": bits.nonempty(),
        "bit_crops": bits.crop_and_resize(boxes, 14),
        "bit_cat": list(BitMasks.cat([bits, bits[2]]).tensor.shape),
        "roi_masks": pasted,
    }


@case
def case_anchors() -> dict:
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.anchor_generator import build_anchor_generator

    def generate(kind: str, sizes: list, offset: float = 0.0, ratios: list | None = None) -> dict:
        cfg = rcnn_cfg(kind)
        cfg.MODEL.ANCHOR_GENERATOR.OFFSET = offset
        if ratios:
            cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = ratios
        strides = [4, 8, 16, 32, 64] if kind == "FPN" else [16]
        if sizes:
            cfg.MODEL.ANCHOR_GENERATOR.SIZES = sizes
        generator = build_anchor_generator(cfg, [ShapeSpec(channels=8, stride=s) for s in strides])
        features = [torch.zeros(2, 8, -(-100 // s), -(-140 // s)) for s in strides]
        return {
            "anchors": [b.tensor for b in generator(features)],
            "cells": list(generator.cell_anchors),
            "per_cell": list(generator.num_anchors),
            "box_dim": generator.box_dim,
            "state": list(generator.state_dict()),
        }

    return {
        "FPN": generate("FPN", []),
        "FPN_half": generate("FPN", [[8], [16], [32], [64], [128]], offset=0.5),
        "FPN_shared": generate("FPN", [[16, 24]]),
        "C4": generate("C4", []),
        "DC5": generate("DC5", [[16, 64]], ratios=[[0.3, 1.0, 3.0]]),
    }


@case
def case_box_coding() -> dict:
    from detectron2.modeling.box_regression import Box2BoxTransform

    source, target = random_boxes("code/source", 40, 300, 400), random_boxes("code/target", 40, 300, 400)
    out = {}
    for weights in ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)):
        transform = Box2BoxTransform(weights=weights)
        deltas = transform.get_deltas(source, target)
        out[str(weights)] = {
            "deltas": deltas,
            "back": transform.apply_deltas(deltas, source),
            "many": transform.apply_deltas(random_values("code/deltas", 40, 12, low=-8, high=8), source),
            "clamped": Box2BoxTransform(weights, scale_clamp=0.5).apply_deltas(
                random_values("code/more", 40, 4) * 9, source
            ),
        }
    return out


@case
def case_matcher() -> dict:
    from detectron2.modeling.matcher import Matcher

    quality = random_values("matcher", 6, 50, low=0, high=1)
    quality[3] *= 0.2  # only a low-quality match
    quality[4] = 0.0  # no match at all
    quality[5, 7] = quality[5, 9] = quality[5].max() + 0.1  # two equally good matches
    out = {}
    settings = {
        "rpn": ([0.3, 0.7], [0, -1, 1], True),
        "roi": ([0.5], [0, 1], False),
        "roi_low": ([0.5], [0, 1], True),
        "three": ([0.2, 0.4, 0.9], [0, -1, 0, 1], True),
    }
    for name, (thresholds, labels, low) in settings.items():
        matches, match_labels = Matcher(thresholds, labels, allow_low_quality_matches=low)(quality)
        out[name] = {"matches": matches, "labels": match_labels}
    matches, labels = Matcher([0.3, 0.7], [0, -1, 1])(torch.zeros(0, 5))
    out["no_truth"] = {"matches": matches, "labels": labels}
    return out


@case
def case_subsample() -> dict:
    """Sampled indices if all are sampled, otherwise only their number, because the sample is random."""
    from detectron2.modeling.sampling import subsample_labels

    labels = torch.tensor([-1, 3, 1, 3, 0, 2, -1, 3, 3, 1, 0, 3, 2, 3, 3, 3], dtype=torch.int64)
    out = {}
    for number, fraction in ((1000, 1.0), (1000, 0.5), (10, 0.5), (8, 0.25), (4, 1.0), (0, 0.5)):
        positive, negative = subsample_labels(labels, number, fraction, 3)
        exhaustive = len(positive) == 6 and len(negative) == 8
        out[f"{number}_{fraction}"] = {
            "counts": [len(positive), len(negative)],
            "taken": [positive.sort().values, negative.sort().values] if exhaustive else None,
            "valid": bool(
                (labels[positive] != 3).all() & (labels[positive] >= 0).all() & (labels[negative] == 3).all()
            ),
        }
    return out


@case
def case_poolers() -> dict:
    from detectron2.layers import ROIAlign
    from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
    from detectron2.structures import Boxes

    features = [random_values(f"pool/{i}", 2, 3, 64 >> i, 96 >> i).requires_grad_() for i in range(4)]
    boxes = [Boxes(random_boxes("pool/a", 9, 256, 384)), Boxes(random_boxes("pool/b", 5, 256, 384))]
    scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    out = {}
    for kind in ("ROIAlign", "ROIAlignV2"):
        for sampling in (0, 2):
            pooler = ROIPooler(7, scales=scales, sampling_ratio=sampling, pooler_type=kind)
            pooled = pooler(features, boxes)
            grads = torch.autograd.grad(pooled.square().sum(), features)
            out[f"{kind}_{sampling}"] = {"pooled": pooled, "gradients": grads}
    single = ROIPooler((5, 3), scales=(1 / 16,), sampling_ratio=0, pooler_type="ROIAlignV2")
    empty = ROIPooler(7, scales=scales, sampling_ratio=0, pooler_type="ROIAlignV2")(
        features, [Boxes(torch.zeros(0, 4))] * 2
    )
    edges = torch.tensor([[0.0, 0.0, s, s] for s in (1, 55.9, 56, 111, 112, 113, 224, 225, 447, 448, 2000)])
    rois = torch.cat([torch.zeros(3, 1), random_boxes("pool/c", 3, 64, 96)], 1)
    return {
        **out,
        "one_level": single([features[2]], boxes),
        "empty": empty,
        "levels": assign_boxes_to_levels([Boxes(edges)], 2, 5, 224, 4),
        "levels_small": assign_boxes_to_levels([Boxes(edges)], 3, 4, 100, 3),
        "layer": ROIAlign((4, 6), 1.0, 2, aligned=False)(features[0], rois),
    }


@case
def case_paste_masks() -> dict:
    from detectron2.layers import paste_masks_in_image

    masks = random_values("paste", 6, 28, 28, low=0, high=1)
    boxes = torch.cat(
        [
            random_boxes("paste/boxes", 4, 70, 90, 4),
            torch.tensor([[-15.0, -10.0, 30.5, 40.25], [60.0, 50.0, 120.0, 100.0]]),
        ]
    )
    soft = paste_masks_in_image(masks, boxes, (70, 90), threshold=-1)
    return {
        "half": paste_masks_in_image(masks, boxes, (70, 90), threshold=0.5),
        "low": paste_masks_in_image(masks, boxes, (70, 90), threshold=0.3),
        "soft_dtype": str(soft.dtype),
        "soft": soft.float(),
        "none": paste_masks_in_image(masks[:0], boxes[:0], (70, 90), threshold=0.5),
    }


@case
def case_nms() -> dict:
    from detectron2.layers import batched_nms, cat

    boxes, scores = random_boxes("nms", 80, 100, 100, 30), random_values("nms/scores", 80, low=0, high=1)
    classes = (random_values("nms/classes", 80, low=0, high=4)).long()
    return {
        "kept": batched_nms(boxes, scores, classes, 0.5),
        "kept_none": batched_nms(boxes[:0], scores[:0], classes[:0], 0.5),
        "cat": cat([boxes[:2], boxes[5:6]], dim=0),
    }


@case
def case_layers() -> dict:
    """Norms, convolutions with norm and activation, cross entropy of no samples."""
    from detectron2.layers import Conv2d, FrozenBatchNorm2d, ShapeSpec, cross_entropy, get_norm

    from .common import fill

    x = random_values("layers", 2, 32, 6, 5)
    out = {}
    for norm in ("", "BN", "FrozenBN", "GN", "SyncBN", "nnSyncBN"):
        layer = get_norm(norm, 32)
        out[f"norm_{norm}"] = type(layer).__name__
        if norm in ("BN", "FrozenBN", "GN"):
            layer = fill(layer).eval()
            out[f"values_{norm}"] = layer(x)
    conv = fill(Conv2d(32, 4, 3, padding=1, bias=False, activation=torch.relu))
    normed = fill(Conv2d(32, 4, 1, bias=False, norm=FrozenBatchNorm2d(4)))
    converted = FrozenBatchNorm2d.convert_frozen_batchnorm(fill(torch.nn.Sequential(torch.nn.BatchNorm2d(32))))
    counted = {**converted.state_dict(), "0.num_batches_tracked": torch.tensor(5)}
    return {
        **out,
        "conv": conv(x),
        "conv_none": conv(x[:0]),
        "normed": normed(x),
        "normed_state": list(normed.state_dict()),
        "converted": converted(x),
        "converted_state": list(converted.state_dict()),
        "converted_loads": [str(converted.load_state_dict(counted)), converted[0].num_batches_tracked],
        "loss": cross_entropy(random_values("layers/logits", 5, 3), torch.tensor([0, 1, 2, 1, 0])),
        "loss_none": cross_entropy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)),
        "shape_spec": str(ShapeSpec(channels=3, stride=4)),
    }


@case
def case_add_ground_truth() -> dict:
    """Labels of proposals with exhaustive sampling, sorted by box, because their order is random."""
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_roi_heads
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage

    cfg = rcnn_cfg("FPN", 18, narrow=True)
    sample_everything(cfg)
    shapes = {f"p{i}": ShapeSpec(channels=64, stride=2**i) for i in range(2, 7)}
    heads = build_roi_heads(cfg, shapes)
    proposals, targets = [], []
    for i, n in enumerate((6, 0)):
        proposals.append(
            Instances(
                (100, 120),
                proposal_boxes=Boxes(random_boxes(f"label/{i}", 30, 100, 120)),
                objectness_logits=random_values(f"label/logits/{i}", 30),
            )
        )
        truth = Instances((100, 120))
        truth.gt_boxes = Boxes(proposals[-1].proposal_boxes.tensor[:n] + 1.5)
        truth.gt_classes = torch.arange(n) * 7
        targets.append(truth)
    with EventStorage(0):
        labeled = heads.label_and_sample_proposals(proposals, targets)
    out = []
    for one in labeled:
        order = np.lexsort(one.proposal_boxes.tensor.T.numpy())
        one = one[torch.from_numpy(order)]
        out.append(
            {
                "fields": sorted(one.get_fields()),
                "boxes": one.proposal_boxes.tensor,
                "logits": one.objectness_logits,
                "classes": one.gt_classes,
                "gt_boxes": one.gt_boxes.tensor[one.gt_classes < 80] if one.has("gt_boxes") else None,
            }
        )
    return {"images": out}
