"""Instance coloring: losses, gradients, categories and coordinates of pixels, instances in the size of the output."""

from __future__ import annotations

import math
from pathlib import Path

from tellapart import InputError, add_config
from tellapart.coloring import SemiConvColoring, coloring
from tellapart.engine.config_checks import load_config
from tellapart.semiconv import embedding_loss

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, ImageList, Instances
from synthetic_images import annotated, batch, check_instances, losses_of
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
PYRAMID = ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.OUT_FEATURES",
           "['res2', 'res3', 'res4', 'res5']", "MODEL.COLORING.IN_FEATURE", "p3")  # fmt: skip


def model(*options) -> SemiConvColoring:
    """The network of the dots, narrow and for three categories. Random weights, with large category logits."""
    cfg = get_cfg()
    add_config(cfg)
    cfg.merge_from_file(str(ROOT / "configs" / "quick" / "coloring" / "coloring_dots.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.SEMICONV.CONV_DIM = "cpu", 16, 16
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.COLORING.CLUSTERING = 3, "seeds"
    cfg.merge_from_list(list(options))
    torch.manual_seed(0)
    net = build_model(cfg)
    net.categories.weight.data.mul_(10)
    return net


@pytest.mark.parametrize("options", [(), PYRAMID], ids=["res2", "p3 of a pyramid"])
@pytest.mark.parametrize("masks", ["bitmask", "polygon"])
def test_losses_and_gradients(options, masks):
    net = model(*options)
    losses = losses_of(net, batch(masks))
    assert set(losses) == {"loss_category", "loss_embedding"}
    assert all(torch.isfinite(x) and x > 0 for x in losses.values())
    sum(losses.values()).backward()
    for name, parameter in net.named_parameters():
        # DDP needs a gradient for every parameter, those of unused levels too
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        if "predictor" in name or "categories" in name or "res2" in name or "output3" in name:
            assert parameter.grad.any(), name


def test_bit_masks_and_polygons_have_equal_losses():
    a, b = (losses_of(model(), batch(kind)) for kind in ("bitmask", "polygon"))
    assert all(a[name] == b[name] for name in a)


def test_images_without_objects_are_background():
    net = model(*PYRAMID)
    losses = losses_of(net, [annotated(64, 80, []), annotated(50, 61, [])])
    assert losses["loss_embedding"] == 0 and losses["loss_category"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def category_loss(logits: torch.Tensor, sizes: list[tuple[int, int]], masks: list[torch.Tensor], classes) -> float:
    """Return ``loss_category`` of logits (N, C + 1, h, w) at stride 4."""
    net = model()
    images = ImageList(torch.zeros(len(sizes), 3, *(4 * n for n in logits.shape[-2:])), sizes)
    targets = [
        Instances(size, gt_masks=BitMasks(m), gt_classes=torch.tensor(c)) for size, m, c in zip(sizes, masks, classes)
    ]
    return net.losses(images, logits, torch.zeros(len(logits), 8, *logits.shape[-2:]), targets)["loss_category"].item()


def test_category_loss_equals_a_loop_over_pixels():
    """Where instances overlap, the first one's category counts. Pixels whose center is in the padding are ignored."""
    sizes = [(22, 31), (13, 9)]
    masks = [torch.zeros(3, 22, 31, dtype=torch.bool), torch.zeros(1, 13, 9, dtype=torch.bool)]
    masks[0][0, :9, :9], masks[0][1, 5:20, 5:20], masks[0][2, :, 25:] = True, True, True
    masks[1][0, 10:] = True  # down to the lower edge
    classes = [[2, 0, 1], [1]]
    logits = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    pixel_losses = []
    for n, (height, width) in enumerate(sizes):
        for i in range(6):
            for j in range(8):
                y, x = 4 * i + 2, 4 * j + 2
                if y >= height or x >= width:
                    continue
                category = next((c for m, c in zip(masks[n], classes[n]) if m[y, x]), 3)
                pixel_losses.append(-logits[n, :, i, j].log_softmax(0)[category])
    assert len(pixel_losses) == 5 * 8 + 3 * 2
    before = category_loss(logits, sizes, masks, classes)
    assert before == pytest.approx(torch.stack(pixel_losses).mean().item(), rel=1e-5)
    # the last pixels in the images and the first ones in the padding
    for n, i, j, inside in ((0, 4, 7, True), (1, 2, 1, True), (0, 5, 7, False), (1, 3, 0, False), (1, 0, 2, False)):
        changed = logits.clone()
        changed[n, :, i, j] = torch.tensor([9.0, -9, 9, -9])
        assert (category_loss(changed, sizes, masks, classes) == before) != inside


def test_images_smaller_than_half_a_stride():
    net = model(*PYRAMID, "MODEL.RESNETS.NORM", "FrozenBN")
    losses = losses_of(net, [annotated(3, 3, [[0, 0, 3, 3]])])
    assert losses["loss_category"] == 0 and losses["loss_embedding"] == 0
    assert predict(net.eval(), annotated(3, 3, [])).image_size == (6, 3)


def test_embedding_loss_is_on_psi():
    net = model("MODEL.SEMICONV.EMBEDDING_LOSS_WEIGHT", "3.0")
    images = ImageList(torch.zeros(1, 3, 24, 32), [(24, 32)])
    mask = torch.zeros(1, 24, 32, dtype=torch.bool)
    mask[:, 4:20, 4:28] = True
    target = Instances((24, 32), gt_masks=BitMasks(mask), gt_classes=torch.tensor([1]))
    phi = torch.randn(1, 8, 6, 8, generator=torch.Generator().manual_seed(0))
    psi = phi.clone()
    psi[:, 0] += (torch.arange(8) * 4 + 2) / 32
    psi[:, 1] += (torch.arange(6)[:, None] * 4 + 2) / 32
    on_map = torch.zeros(1, 6, 8, dtype=torch.bool)
    on_map[:, 1:5, 1:7] = True
    losses = net.losses(images, torch.zeros(1, 4, 6, 8), phi, [target])
    torch.testing.assert_close(losses["loss_embedding"], 3 * embedding_loss([psi], [[on_map]]))


def test_psi_of_every_image_pixel():
    """With Phi = 0, Psi is the pixel's center. Phi is interpolated between the centers of the map's pixels."""
    net = model()
    for size in ((21, 30), (24, 32), (1, 1)):
        psi = net.embed(torch.zeros(8, 6, 8), size)
        x, y = (torch.arange(size[1]) + 0.5) / 32, (torch.arange(size[0]) + 0.5) / 32
        assert torch.equal(psi[0], x.expand(size)) and torch.equal(psi[1], y[:, None].expand(size))
        assert psi.shape == (8, *size) and not psi[2:].any()
    centers = torch.arange(8) * 4 + 1.5  # of the map's pixels, as indices of image pixels
    psi = net.embed(centers.expand(8, 6, 8).contiguous(), (24, 32))
    torch.testing.assert_close(psi[5, :, 2:30], torch.arange(2.0, 30).expand(24, -1))


def predict(net: SemiConvColoring, *inputs: dict) -> Instances:
    with torch.no_grad():
        return net(list(inputs))[0]["instances"]


@pytest.mark.parametrize("options", [(), PYRAMID, ("MODEL.COLORING.CLUSTERING", "mean_shift"),
                                     ("MODEL.COLORING.CLUSTERING", "kmeans")],
                         ids=["seeds", "pyramid", "mean_shift", "kmeans"])  # fmt: skip
def test_instances_are_disjoint_and_have_the_size_of_the_output(options):
    net = model(*options).eval()
    inputs = [{**one, "gt_num_instances": 5} for one in batch()]
    with torch.no_grad():
        results = net(inputs)
    for one, result in zip(inputs, results):
        instances = result["instances"]
        assert len(instances) > 1
        check_instances(instances, (one["height"], one["width"]))
        assert instances.pred_masks.sum(0).max() == 1 and set(instances.pred_classes.tolist()) <= {0, 1, 2}
        assert ((instances.scores > 0) & (instances.scores <= 1)).all()
        if "kmeans" in options:
            assert len(instances) <= 5
    without_size = predict(net, {k: v for k, v in inputs[0].items() if k not in ("height", "width")})
    masks = results[0]["instances"].pred_masks  # twice as high
    assert without_size.image_size == (97, 111) and torch.equal(without_size.pred_masks, masks[:, ::2])


def cluster(net: SemiConvColoring, logits: torch.Tensor, phi: torch.Tensor | None = None, **inputs) -> Instances:
    """Return the instances of an image of 24 x 32 from category logits (C + 1, 6, 8) and Phi (8, 6, 8)."""
    return net.cluster_image(inputs, (24, 32), logits, torch.zeros(8, 6, 8) if phi is None else phi)


def two_blocks() -> tuple[torch.Tensor, torch.Tensor]:
    """Columns 0 and 1 are category 0, columns 4 to 7 are category 1. All pixels of a block have one embedding."""
    logits = torch.zeros(4, 6, 8)
    logits[3] = 4.0
    logits[0, :, :2], logits[1, :, 4:] = 8.0, 9.0
    phi = torch.zeros(8, 6, 8)
    phi[0], phi[1] = -(torch.arange(8) * 4 + 2) / 32, -(torch.arange(6)[:, None] * 4 + 2) / 32
    phi[0, :, 3:] += 3.0
    return logits, phi


@pytest.mark.parametrize("clustering", ["seeds", "mean_shift", "kmeans"])
def test_two_blocks(clustering, monkeypatch):
    """Categories and scores, by decreasing score. Finding the centers from fewer pixels gives the same masks."""
    net, (logits, phi) = model("MODEL.COLORING.CLUSTERING", clustering), two_blocks()
    find_centers, centers = coloring.CLUSTERINGS[clustering], []
    monkeypatch.setitem(
        coloring.CLUSTERINGS, clustering, lambda *args: centers.append(find_centers(*args)) or centers[-1]
    )
    instances = cluster(net, logits, phi, gt_num_instances=2)
    assert instances.pred_classes.tolist() == [1, 0]
    full = F.interpolate(logits[None], scale_factor=4, mode="bilinear")[0].softmax(0)
    for mask, category, score in zip(instances.pred_masks, (1, 0), instances.scores):
        expected = full.argmax(0) == category
        assert torch.equal(mask, expected)
        total = 0.0
        for y, x in expected.nonzero().tolist():
            distance = (centers[0] - net.embed(phi, (24, 32))[:, y, x]).norm(dim=1).min()
            total += full[category, y, x].item() * math.exp(-distance / 0.25)
        assert score.item() == pytest.approx(total / expected.sum().item(), rel=1e-4)
    monkeypatch.setattr(coloring, "_MAX_CLUSTERED_PIXELS", 10)
    transposed_phi = phi[[1, 0, *range(2, 8)]].mT  # one block below the other
    transposed = net.cluster_image({"gt_num_instances": 2}, (32, 24), logits.mT, transposed_phi)
    assert torch.equal(transposed.pred_masks.mT, instances.pred_masks)


def test_small_instances_are_dropped():
    logits, phi = two_blocks()
    areas = cluster(model(), logits, phi).pred_masks.flatten(1).sum(1).tolist()
    assert areas[0] > areas[1]
    for limit, count in ((areas[1], 2), (areas[1] + 1, 1), (areas[0] + 1, 0)):
        net = model("MODEL.COLORING.MIN_PIXELS", str(limit))
        for height in (24, 11):
            instances = cluster(net, logits, phi, height=height)
            assert len(instances) == count and instances.pred_masks.shape == (count, height, 32)


def test_number_of_instances_is_limited(monkeypatch):
    """The instances with the highest scores are kept, even if there are many clusters."""
    logits, phi = two_blocks()
    both, one = (cluster(model("TEST.DETECTIONS_PER_IMAGE", count), logits, phi) for count in ("2", "1"))
    assert torch.equal(both.pred_masks[:1], one.pred_masks) and one.pred_classes.tolist() == [1]
    noise = torch.randn(8, 6, 8, generator=torch.Generator().manual_seed(0)) * 9
    clusters = []
    monkeypatch.setitem(coloring.CLUSTERINGS, "seeds", lambda p, s, n, b: clusters.append(p) or p)
    net = model("MODEL.COLORING.MIN_PIXELS", "1", "TEST.DETECTIONS_PER_IMAGE", "5")
    best = cluster(net, logits, noise)
    assert len(clusters[0]) > 30 and len(best) == 5
    net.max_instances = 10**6
    all_instances = cluster(net, logits, noise)
    assert len(all_instances) == len(clusters[0]) and torch.equal(all_instances.scores[:5], best.scores)
    assert (all_instances.pred_masks.sum(0) <= 1).all()


@pytest.mark.parametrize("clustering", ["seeds", "mean_shift", "kmeans"])
def test_no_foreground(clustering):
    net, (logits, phi) = model("MODEL.COLORING.CLUSTERING", clustering), two_blocks()
    only_background = torch.zeros(4, 6, 8)
    only_background[3] = 1.0
    for size in ({}, {"height": 48, "width": 30}):
        instances = cluster(net, only_background, gt_num_instances=3, **size)
        check_instances(instances, (size.get("height", 24), size.get("width", 32)))
        assert len(instances) == 0
    assert len(cluster(net, logits, phi, gt_num_instances=0)) == (0 if clustering == "kmeans" else 2)


def test_kmeans_needs_the_number_of_instances():
    net = model("MODEL.COLORING.CLUSTERING", "kmeans").eval()
    with pytest.raises(InputError, match=r"image a\.png: .* kmeans needs the number of instances"):
        predict(net, {**annotated(64, 80, []), "file_name": "a.png"})


def test_autocast():
    """The losses are float32. The instances are those of the same maps without autocast."""
    net = model(*PYRAMID)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(net, batch())
        instances = predict(net.eval(), batch()[0])
        images, logits, phi = net.maps(batch()[:1])
    assert all(torch.isfinite(x) and x.dtype == torch.float32 for x in losses.values())
    plain = net.cluster_image(batch()[0], (97, 111), logits[0], phi[0])
    assert torch.equal(plain.pred_masks, instances.pred_masks) and torch.equal(plain.scores, instances.scores)
    assert len(instances) and instances.scores.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("MODEL.COLORING.IN_FEATURE", "p9"), "COLORING.IN_FEATURE is 'p9', expected one of .* feature maps .'res2'."),
        (("MODEL.COLORING.CLUSTERING", "dbscan"), "CLUSTERING is 'dbscan', expected one of .'kmeans', 'mean_shift', "),
        (("MODEL.COLORING.BANDWIDTH", "0.0"), "COLORING.BANDWIDTH is 0.0, expected a radius above 0"),
        (("MODEL.SEMICONV.EMBEDDING_DIM", "1"), "EMBEDDING_DIM is 1, .* at least 2"),
        (("MODEL.MASK_ON", "False"), "MODEL.MASK_ON is False, .*SemiConvColoring"),
        (("MODEL.SEMICONV.MIXING", "add"), "SEMICONV.MIXING is 'add', .* one of .'additive'"),
        (("MODEL.SEMICONV.PIXELS_PER_UNIT", "0.0"), "PIXELS_PER_UNIT is 0.0, .* a number above 0"),
    ],
)
def test_bad_configs(options, message):
    with pytest.raises(InputError, match=message):
        model(*options)


CONFIGS = sorted((ROOT / "configs" / "quick" / "coloring").glob("coloring_*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_configs_build(path):
    """All predict at stride 4. The convolutional baseline of the dots has another mixing."""
    net = build_model(load_config(str(path), ["MODEL.DEVICE", "meta"]))
    assert isinstance(net, SemiConvColoring) and net.stride == 4
    assert net.semiconv.mix.__name__ == ("convolutional" if "convolutional" in path.stem else "additive")
