"""Instance colouring: losses, gradients, what a pixel's category and place are, instances in the size wanted."""

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
    """The network of the dots, narrow, for three categories, from random weights; categories are clear-cut."""
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
        # in distributed training every parameter must take part, also those of levels that nobody reads
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        if "predictor" in name or "categories" in name or "res2" in name or "output3" in name:
            assert parameter.grad.any(), name


def test_bit_masks_and_polygons_train_alike():
    a, b = (losses_of(model(), batch(kind)) for kind in ("bitmask", "polygon"))
    assert all(a[name] == b[name] for name in a)


def test_images_without_objects_are_background():
    net = model(*PYRAMID)
    losses = losses_of(net, [annotated(64, 80, []), annotated(50, 61, [])])
    assert losses["loss_embedding"] == 0 and losses["loss_category"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def category_loss(logits: torch.Tensor, sizes: list[tuple[int, int]], masks: list[torch.Tensor], classes) -> float:
    """``loss_category`` of a stride of 4 on these logits (N, C + 1, h, w)."""
    net = model()
    images = ImageList(torch.zeros(len(sizes), 3, *(4 * n for n in logits.shape[-2:])), sizes)
    targets = [
        Instances(size, gt_masks=BitMasks(m), gt_classes=torch.tensor(c)) for size, m, c in zip(sizes, masks, classes)
    ]
    return net.losses(images, logits, torch.zeros(len(logits), 8, *logits.shape[-2:]), targets)["loss_category"].item()


def test_category_loss_equals_a_loop_over_pixels():
    """Of instances that overlap the first one's category; no pixel whose centre is in the padding."""
    sizes = [(22, 31), (13, 9)]
    masks = [torch.zeros(3, 22, 31, dtype=torch.bool), torch.zeros(1, 13, 9, dtype=torch.bool)]
    masks[0][0, :9, :9], masks[0][1, 5:20, 5:20], masks[0][2, :, 25:] = True, True, True
    masks[1][0, 10:] = True  # up to the lower edge
    classes = [[2, 0, 1], [1]]
    logits = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    wanted = []
    for n, (height, width) in enumerate(sizes):
        for i in range(6):
            for j in range(8):
                y, x = 4 * i + 2, 4 * j + 2
                if y >= height or x >= width:
                    continue
                category = next((c for m, c in zip(masks[n], classes[n]) if m[y, x]), 3)
                wanted.append(-logits[n, :, i, j].log_softmax(0)[category])
    assert len(wanted) == 5 * 8 + 3 * 2
    assert category_loss(logits, sizes, masks, classes) == pytest.approx(torch.stack(wanted).mean().item(), rel=1e-5)
    before = category_loss(logits, sizes, masks, classes)
    # the last pixels inside of the images, and the first in the padding
    for n, i, j, inside in ((0, 4, 7, True), (1, 2, 1, True), (0, 5, 7, False), (1, 3, 0, False), (1, 0, 2, False)):
        changed = logits.clone()
        changed[n, :, i, j] = torch.tensor([9.0, -9, 9, -9])
        assert (category_loss(changed, sizes, masks, classes) == before) != inside


def test_images_smaller_than_half_a_stride():
    net = model(*PYRAMID, "MODEL.RESNETS.NORM", "FrozenBN")
    losses = losses_of(net, [annotated(3, 3, [[0, 0, 3, 3]])])
    assert losses["loss_category"] == 0 and losses["loss_embedding"] == 0
    assert color(net.eval(), annotated(3, 3, [])).image_size == (6, 3)


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


def test_every_pixel_has_its_place():
    """Without Phi, Psi is the pixels' centres; Phi at a map pixel's centre is that pixel's, linear between."""
    net = model()
    for size in ((21, 30), (24, 32), (1, 1)):
        psi = net.embed(torch.zeros(8, 6, 8), size)
        x, y = (torch.arange(size[1]) + 0.5) / 32, (torch.arange(size[0]) + 0.5) / 32
        assert torch.equal(psi[0], x.expand(size)) and torch.equal(psi[1], y[:, None].expand(size))
        assert psi.shape == (8, *size) and not psi[2:].any()
    places = torch.arange(8) * 4 + 1.5  # of the map's pixels, counted in pixels of the image
    psi = net.embed(places.expand(8, 6, 8).contiguous(), (24, 32))
    torch.testing.assert_close(psi[5, :, 2:30], torch.arange(2.0, 30).expand(24, -1))


def color(net: SemiConvColoring, *inputs: dict) -> Instances:
    with torch.no_grad():
        return net(list(inputs))[0]["instances"]


@pytest.mark.parametrize("options", [(), PYRAMID, ("MODEL.COLORING.CLUSTERING", "mean_shift"),
                                     ("MODEL.COLORING.CLUSTERING", "kmeans")],
                         ids=["seeds", "pyramid", "mean_shift", "kmeans"])  # fmt: skip
def test_instances_are_disjoint_and_in_the_size_wanted(options):
    net = model(*options).eval()
    inputs = [{**one, "num_instances": 5} for one in batch()]
    with torch.no_grad():
        results = net(inputs)
    for one, result in zip(inputs, results):
        found = result["instances"]
        assert len(found) > 1
        check_instances(found, (one["height"], one["width"]))
        assert found.pred_masks.sum(0).max() == 1 and set(found.pred_classes.tolist()) <= {0, 1, 2}
        assert ((found.scores > 0) & (found.scores <= 1)).all()
        if "kmeans" in options:
            assert len(found) <= 5
    kept = color(net, {k: v for k, v in inputs[0].items() if k not in ("height", "width")})
    wanted = results[0]["instances"].pred_masks
    assert kept.image_size == (97, 111) and torch.equal(kept.pred_masks, wanted[:, ::2])  # twice as high


def made(net: SemiConvColoring, logits: torch.Tensor, phi: torch.Tensor | None = None, **inputs) -> Instances:
    """Instances of an image of 24 x 32 with these maps (C + 1, 6, 8) and (8, 6, 8)."""
    return net.cluster_image(inputs, (24, 32), logits, torch.zeros(8, 6, 8) if phi is None else phi)


def two_blocks() -> tuple[torch.Tensor, torch.Tensor]:
    """Columns 0 and 1 are category 0 and columns 4 to 7 are category 1, each with one embedding of all pixels."""
    logits = torch.zeros(4, 6, 8)
    logits[3] = 4.0
    logits[0, :, :2], logits[1, :, 4:] = 8.0, 9.0
    phi = torch.zeros(8, 6, 8)
    phi[0], phi[1] = -(torch.arange(8) * 4 + 2) / 32, -(torch.arange(6)[:, None] * 4 + 2) / 32
    phi[0, :, 3:] += 3.0
    return logits, phi


@pytest.mark.parametrize("clustering", ["seeds", "mean_shift", "kmeans"])
def test_two_blocks(clustering, monkeypatch):
    """Categories, scores by the pixels' probabilities and affinities, the best first; alike from a sample of the
    pixels."""
    net, (logits, phi) = model("MODEL.COLORING.CLUSTERING", clustering), two_blocks()
    cluster, centres = coloring.CLUSTERINGS[clustering], []
    monkeypatch.setitem(coloring.CLUSTERINGS, clustering, lambda *args: centres.append(cluster(*args)) or centres[-1])
    found = made(net, logits, phi, num_instances=2)
    assert found.pred_classes.tolist() == [1, 0]
    full = F.interpolate(logits[None], scale_factor=4, mode="bilinear")[0].softmax(0)
    for mask, category, score in zip(found.pred_masks, (1, 0), found.scores):
        expected = full.argmax(0) == category
        assert torch.equal(mask, expected)
        total = 0.0
        for y, x in expected.nonzero().tolist():
            distance = (centres[0] - net.embed(phi, (24, 32))[:, y, x]).norm(dim=1).min()
            total += full[category, y, x].item() * math.exp(-distance / 0.25)
        assert score.item() == pytest.approx(total / expected.sum().item(), rel=1e-4)
    monkeypatch.setattr(coloring, "_MOST_PIXELS", 10)
    turned = net.cluster_image({"num_instances": 2}, (32, 24), logits.mT, phi[[1, 0, *range(2, 8)]].mT)  # one below the other
    assert torch.equal(turned.pred_masks.mT, found.pred_masks)


def test_small_instances_are_dropped():
    logits, phi = two_blocks()
    areas = made(model(), logits, phi).pred_masks.flatten(1).sum(1).tolist()
    assert areas[0] > areas[1]
    for limit, count in ((areas[1], 2), (areas[1] + 1, 1), (areas[0] + 1, 0)):
        net = model("MODEL.COLORING.MIN_PIXELS", str(limit))
        for height in (24, 11):
            found = made(net, logits, phi, height=height)
            assert len(found) == count and found.pred_masks.shape == (count, height, 32)


def test_at_most_so_many_instances(monkeypatch):
    """The best ones; of thousands of clusters that bad weights give, masks are made of these only."""
    logits, phi = two_blocks()
    both, one = (made(model("TEST.DETECTIONS_PER_IMAGE", count), logits, phi) for count in ("2", "1"))
    assert torch.equal(both.pred_masks[:1], one.pred_masks) and one.pred_classes.tolist() == [1]
    noise = torch.randn(8, 6, 8, generator=torch.Generator().manual_seed(0)) * 9
    clusters = []
    monkeypatch.setitem(coloring.CLUSTERINGS, "seeds", lambda p, s, n, b: clusters.append(p) or p)
    net = model("MODEL.COLORING.MIN_PIXELS", "1", "TEST.DETECTIONS_PER_IMAGE", "5")
    found = made(net, logits, noise)
    assert len(clusters[0]) > 30 and len(found) == 5
    net.max_instances = 10**6
    every = made(net, logits, noise)
    assert len(every) == len(clusters[0]) and torch.equal(every.scores[:5], found.scores)
    assert (every.pred_masks.sum(0) <= 1).all()


@pytest.mark.parametrize("clustering", ["seeds", "mean_shift", "kmeans"])
def test_nothing_found(clustering):
    net, (logits, phi) = model("MODEL.COLORING.CLUSTERING", clustering), two_blocks()
    only_background = torch.zeros(4, 6, 8)
    only_background[3] = 1.0
    for size in ({}, {"height": 48, "width": 30}):
        found = made(net, only_background, num_instances=3, **size)
        check_instances(found, (size.get("height", 24), size.get("width", 32)))
        assert len(found) == 0
    assert len(made(net, logits, phi, num_instances=0)) == (0 if clustering == "kmeans" else 2)


def test_kmeans_wants_the_number():
    net = model("MODEL.COLORING.CLUSTERING", "kmeans").eval()
    with pytest.raises(InputError, match=r"image a\.png: .* kmeans wants to know the number of instances"):
        color(net, {**annotated(64, 80, []), "file_name": "a.png"})


def test_autocast():
    """Losses in float32; the clusters are those of the same maps without autocast."""
    net = model(*PYRAMID)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(net, batch())
        found = color(net.eval(), batch()[0])
        images, logits, phi = net.maps(batch()[:1])
    assert all(torch.isfinite(x) and x.dtype == torch.float32 for x in losses.values())
    plain = net.cluster_image(batch()[0], (97, 111), logits[0], phi[0])
    assert torch.equal(plain.pred_masks, found.pred_masks) and torch.equal(plain.scores, found.scores)
    assert len(found) and found.scores.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("MODEL.COLORING.IN_FEATURE", "p9"), "COLORING.IN_FEATURE is 'p9', but the backbone gives .'res2'."),
        (("MODEL.COLORING.CLUSTERING", "dbscan"), "CLUSTERING is 'dbscan', wanted one of .'kmeans', 'mean_shift', "),
        (("MODEL.COLORING.BANDWIDTH", "0.0"), "COLORING.BANDWIDTH is 0.0, wanted a radius above 0"),
        (("MODEL.SEMICONV.EMBEDDING_DIM", "1"), "EMBEDDING_DIM is 1, wanted at least 2"),
        (("MODEL.MASK_ON", "False"), "MODEL.MASK_ON is False, but SemiConvColoring learns from masks"),
        (("MODEL.SEMICONV.MIXING", "add"), "SEMICONV.MIXING is 'add', wanted one of .'additive'"),
        (("MODEL.SEMICONV.PIXELS_PER_UNIT", "0.0"), "PIXELS_PER_UNIT is 0.0, wanted a number above 0"),
    ],
)
def test_bad_configs(options, message):
    with pytest.raises(InputError, match=message):
        model(*options)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "quick" / "coloring").glob("coloring_*.yaml")), ids=lambda p: p.stem)
def test_configs_build(path):
    """The stride is that of the finest map; of the dots, the twin differs in the mixing alone."""
    net = build_model(load_config(str(path), ["MODEL.DEVICE", "meta"]))
    assert isinstance(net, SemiConvColoring) and net.stride == 4
    assert net.semiconv.mix.__name__ == ("convolutional" if "convolutional" in path.stem else "additive")
