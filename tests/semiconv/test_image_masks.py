"""Masks at the resolution of the image: against formulas pixel by pixel, training, and Detectron2's own path."""

from __future__ import annotations

import copy
import math

from tellapart import InputError
from tellapart.embeddings.kernels import KERNEL_REGISTRY
from tellapart.embeddings.operator import SemiConv
from tellapart.semiconv import image_masks
from tellapart.semiconv.image_masks import EmbeddingMap, ImageMasks, masks_at, most_uncertain, random_pixels

import pytest
import small_models
import torch
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from parity.common import fill, model_input
from small_models import CONFIGS, SIZE

INPUT_SIZE, STRIDE = (37, 50), 4
BOXES = torch.tensor(
    [[3.2, 4.7, 30.1, 21.0], [-5.0, -3.0, 12.5, 60.0], [20.0, 20.0, 20.5, 20.3], [40.0, 30.0, 70.0, 50.0]]
)


def example(kernel="LaplacianKernel"):
    g = torch.Generator().manual_seed(0)
    phi = torch.randn(1, 4, 10, 13, generator=g)
    logits, seeds = 3 * torch.randn(len(BOXES), 6, 6, generator=g), torch.randn(len(BOXES), 4, generator=g)
    embeddings = EmbeddingMap(phi, STRIDE, SemiConv(16.0))
    return ImageMasks(logits, BOXES.clone(), seeds, embeddings, KERNEL_REGISTRY.get(kernel)(1.5), INPUT_SIZE)


def bilinear(grid, row, column):
    """The value of grid (..., h, w) at a place in pixels, constant outside of the centers of the outer pixels."""
    height, width = grid.shape[-2:]
    y, x = min(max(row - 0.5, 0), height - 1), min(max(column - 0.5, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    top = grid[..., y0, x0] * (1 - (x - x0)) + grid[..., y0, x1] * (x - x0)
    bottom = grid[..., y1, x0] * (1 - (x - x0)) + grid[..., y1, x1] * (x - x0)
    return top * (1 - (y - y0)) + bottom * (y - y0)


def slow_logit(masks, i, x, y):
    """s + log K of detection i at the place (x, y) in input pixels, from equations 8 to 10."""
    x0, y0, x1, y1 = masks.boxes[i].tolist()
    side = masks.tensor.shape[-1]
    s = bilinear(masks.tensor[i], (y - y0) / (y1 - y0) * side, (x - x0) / (x1 - x0) * side)
    psi = bilinear(masks.embeddings.phi[0], y / STRIDE, x / STRIDE).clone()
    psi[:2] += torch.tensor([x, y]) / 16.0
    return float(s - (psi - masks.seeds[i]).norm() / 1.5)


@pytest.mark.parametrize("output_size", [INPUT_SIZE, (74, 75), (20, 31)])
@pytest.mark.parametrize("chunk", [2**21, 40])
def test_masks_equal_the_formula_at_every_pixel(output_size, chunk, monkeypatch):
    monkeypatch.setattr(image_masks, "_MAX_PIXELS", chunk)
    masks, (height, width) = example(), output_size
    scale_y, scale_x = INPUT_SIZE[0] / height, INPUT_SIZE[1] / width
    boxes = Boxes(BOXES / torch.tensor([scale_x, scale_y, scale_x, scale_y]))
    boxes.clip(output_size)
    got = masks.to_bitmasks(boxes, height, width, 0.4).tensor
    expected, close = torch.zeros_like(got), torch.zeros_like(got)
    least = math.log(0.4 / 0.6)
    for i, (x0, y0, x1, y1) in enumerate(boxes.tensor.tolist()):
        for row in range(int(y0), max(math.ceil(y1), int(y0) + 1)):
            for column in range(int(x0), max(math.ceil(x1), int(x0) + 1)):
                if row < height and column < width:
                    logit = slow_logit(masks, i, (column + 0.5) * scale_x, (row + 0.5) * scale_y)
                    expected[i, row, column], close[i, row, column] = logit >= least, abs(logit - least) < 1e-4
    assert torch.equal(got[~close], expected[~close]) and expected.any() and close.float().mean() < 1e-3


def test_indices_and_no_detections():
    masks = example()
    keep = torch.tensor([True, False, False, True])
    whole = masks.to_bitmasks(Boxes(BOXES.clamp(min=0)), *INPUT_SIZE).tensor
    assert torch.equal(masks[keep].to_bitmasks(Boxes(BOXES[keep].clamp(min=0)), *INPUT_SIZE).tensor, whole[keep])
    assert torch.equal(masks[1].to_bitmasks(Boxes(BOXES[1:2].clamp(min=0)), *INPUT_SIZE).tensor, whole[1:2])
    assert torch.equal(masks.to(torch.device("cpu")).to_bitmasks(Boxes(BOXES.clamp(min=0)), *INPUT_SIZE).tensor, whole)
    assert torch.equal(masks[-1].to_bitmasks(Boxes(BOXES[-1:].clamp(min=0)), *INPUT_SIZE).tensor, whole[-1:])
    assert masks[keep & False].to_bitmasks(Boxes(BOXES[:0]), *INPUT_SIZE).tensor.shape == (0, *INPUT_SIZE)


def test_postprocessing_uses_them():
    """As of a detection: boxes are scaled, and those that are empty in the output are dropped with their masks."""
    results = Instances(INPUT_SIZE, pred_boxes=Boxes(BOXES.clone()), pred_masks=example())
    output = detector_postprocess(results, 74, 100)
    boxes = BOXES * 2
    assert len(output) == 4 and output.pred_masks.shape == (4, 74, 100) and output.pred_masks.dtype == torch.bool
    expected = Boxes(boxes)
    expected.clip((74, 100))
    assert torch.equal(output.pred_masks, example().to_bitmasks(expected, 74, 100).tensor)


def test_points():
    """Pixels are drawn within the boxes and the image; the uncertain ones are chosen; masks are read there."""
    torch.manual_seed(0)
    points = random_pixels(BOXES, 500, INPUT_SIZE)
    assert ((points - 0.5) == (points - 0.5).round()).all()
    assert (points > 0).all() and (points < torch.tensor(INPUT_SIZE[::-1])).all()
    x0, y0, x1, y1 = BOXES[0].floor().tolist()
    assert set(points[0, :, 0].tolist()) == {x + 0.5 for x in range(int(x0), int(x1) + 1)}
    logits = torch.randn(4, 500)
    chosen = most_uncertain(logits, torch.stack((logits, logits), 2), 100)[..., 0]
    assert chosen.shape == (4, 100) and chosen[:, :75].abs().max() <= logits.abs().sort(1).values[:, 75].max()
    assert torch.equal(chosen[:, 75:], logits[:, :25])
    masks = torch.rand(4, *INPUT_SIZE) < 0.5
    instances = [Instances(INPUT_SIZE, gt_masks=BitMasks(masks[:0])), Instances(INPUT_SIZE, gt_masks=BitMasks(masks))]
    values = masks_at(instances, [points[:0], points])
    x, y = points[2, 7].long().tolist()
    assert values.shape == (4, 500) and values[2, 7] == masks[2, y, x]
    square = PolygonMasks([[torch.tensor([5.0, 5.0, 15.0, 5.0, 15.0, 15.0, 5.0, 15.0]).numpy()]])
    inside = masks_at([Instances(INPUT_SIZE, gt_masks=square)], [torch.tensor([[[7.5, 7.5], [20.5, 7.5]]])])
    assert inside.tolist() == [[True, False]]


@pytest.mark.parametrize("num_objects", [3, 0])
def test_training_step(num_objects):
    """With objects each parameter has a gradient; without, that of the embeddings is 0."""
    model = build_model(small_models.image_masks()).train()
    fill(model)
    inputs = [model_input(0, *SIZE, num_objects), model_input(1, *SIZE, num_objects)]
    with EventStorage(0):
        torch.manual_seed(0)
        losses = model(copy.deepcopy(inputs))
        sum(losses.values()).backward()
        torch.manual_seed(0)
        assert model(copy.deepcopy(inputs))["loss_mask"] == losses["loss_mask"]
    assert {"loss_mask", "loss_kernel", "loss_embedding"} <= set(losses)
    gradients = [p.grad for p in model.roi_heads.embedding_predictor.parameters()]
    assert all(torch.isfinite(g).all() and (g != 0).any() == bool(num_objects) for g in gradients)


def test_it_learns_one_image():
    """Two bent bars of 4 px, in boxes of 80 px: finer than the grid's cells."""
    torch.manual_seed(0)
    model = build_model(small_models.image_masks()).train()
    height, width = SIZE
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    curves = [20 + (x - 20) ** 2 / 80, 70 - (x - 70) ** 2 / 80]
    masks = torch.stack([(abs(y - curve) < 2) & (x > 10) & (x < 90) for curve in curves])
    image = 200.0 * masks.any(0).expand(3, -1, -1) + 20
    boxes = BitMasks(masks).get_bounding_boxes()
    gt = Instances(SIZE, gt_boxes=boxes, gt_classes=torch.zeros(2, dtype=torch.int64), gt_masks=BitMasks(masks))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    with EventStorage(0):
        for _ in range(80):
            losses = model([{"image": image.to(torch.uint8), "instances": gt}])
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
    assert losses["loss_mask"] < 0.3


def test_it_needs_embeddings_of_the_image():
    cfg = CONFIGS["SemiConvMaskHead"]()
    cfg.MODEL.SEMICONV.MASK_RESOLUTION = "image"
    with pytest.raises(InputError, match="needs embeddings of the whole image: set MODEL.ROI_HEADS.NAME"):
        build_model(cfg)
    cfg.MODEL.SEMICONV.MASK_RESOLUTION = "fine"
    with pytest.raises(InputError, match="MASK_RESOLUTION is 'fine', expected one of"):
        build_model(cfg)
