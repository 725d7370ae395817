"""The picture of embeddings: which colours, where arrows point, the region's maps, nothing found; its tool."""

from __future__ import annotations

from pathlib import Path

from tellapart import InputError
from tellapart.engine.config_checks import load_config
from tellapart.visualization import embeddings
from tellapart.visualization.drawing import BAR, GAP, palette
from tellapart.visualization.embeddings import draw_arrows, draw_embeddings, embedding_colors, sparse_pixels

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
PANEL, REGION = 420, 248
SIZE = (96, 128)  # of the images here: height, width
FACTOR = PANEL / 128  # pixels of a panel of the whole image to one of the image
TINY = """
_BASE_: {base}
MODEL:
  DEVICE: cpu
  FPN: {{OUT_CHANNELS: 16}}
  ROI_BOX_HEAD: {{FC_DIM: 16}}
  ROI_MASK_HEAD: {{NAME: SemiConvMaskHead, CONV_DIM: 16}}
  ROI_HEADS: {{NAME: {heads}, NUM_CLASSES: 1, SCORE_THRESH_TEST: 0.0}}
  SEMICONV: {{CONV_DIM: 16}}
  COLORING: {{CLUSTERING: seeds, MIN_PIXELS: 1}}
DATASETS: {{TRAIN: [], TEST: []}}
INPUT: {{MIN_SIZE_TEST: 96}}
TEST: {{DETECTIONS_PER_IMAGE: 4, CONTACT_SHEET: {{SCORE_THRESH: 0.0}}}}
"""


@pytest.fixture
def tiny(tmp_path):
    """A function: "mask_rcnn", or "coloring", and ROI heads to the file of a small model's config."""

    def write(kind: str, heads: str = "SemiConvROIHeads") -> Path:
        base = {"mask_rcnn": "mask_rcnn_R_18_FPN_shapes", "coloring": "coloring_dots"}[kind]
        path = tmp_path / f"{kind}.yaml"
        path.write_text(TINY.format(base=ROOT / "configs" / "quick" / f"{base}.yaml", heads=heads))
        return path

    return write


def model(config: Path, *options: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(load_config(str(config), list(options))).eval()


def image() -> dict:
    return {"image": torch.full((3, *SIZE), 200, dtype=torch.uint8)}


class MadePhi(nn.Module):
    """Instead of a network: Phi with which pixels left of column 64 point to one place and the others to another."""

    def __init__(self, places: list[tuple[float, float]]) -> None:
        super().__init__()
        self.places = places

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        height, width = features.shape[-2:]
        stride = 128 / width  # what the model pads the image to
        y, x = ((torch.arange(length) + 0.5) * stride for length in (height, width))
        phi = torch.zeros(1, 8, height, width)
        for half, (to_x, to_y) in zip((x < 64, x >= 64), self.places):
            phi[0, 0, :, half] = ((to_x - x) / 32)[half]
            phi[0, 1, :, half] = ((to_y - y) / 32)[:, None].expand(-1, int(half.sum()))
        return phi


class MadeCategories(nn.Module):
    """Instead of a network: rows 16 to 48 of columns 16 to 48 and 80 to 112 are of category 0, the rest is background;
    or all is."""

    def __init__(self, empty: bool = False) -> None:
        super().__init__()
        self.empty = empty

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(1, 2, *features.shape[-2:])
        if not self.empty:
            for columns in (slice(4, 12), slice(20, 28)):
                logits[0, 0, 4:12, columns] = 40.0
        logits[0, 1] = 20.0
        return logits


def panels(path: Path) -> list[np.ndarray]:
    """The three panels of the upper row, without caption; what is below them, last."""
    picture, high = cv2.imread(str(path)), round(SIZE[0] * FACTOR)
    lefts = [GAP + i * (PANEL + 2 * GAP) for i in range(3)]
    return [picture[BAR : BAR + high, left : left + PANEL] for left in lefts] + [picture[BAR + high + GAP :]]


def at(panel: np.ndarray, place: tuple[float, float]) -> tuple[int, ...]:
    """The colour at a place (x, y) of the image."""
    return tuple(panel[int(place[1] * FACTOR), int(place[0] * FACTOR)].tolist())


def has(panel: np.ndarray, color: tuple[int, ...]) -> np.ndarray:
    return (panel == color).all(-1)


# ------------------------------------------------------------------------------------------------- the parts


@pytest.mark.parametrize("dimensions", [2, 3, 8])
def test_colors_differ_between_clusters_and_not_within(dimensions):
    labels = np.zeros((10, 12), int)
    labels[1:4, 1:5], labels[1:4, 7:11], labels[6:9, 1:5] = 1, 2, 3
    centres = np.random.default_rng(dimensions).normal(scale=3, size=(4, dimensions))
    noise = 1e-6 * np.random.default_rng(0).normal(size=(dimensions, 10, 12))
    picture = embedding_colors(np.moveaxis(centres[labels], -1, 0) + noise, labels > 0)
    colors = [picture[labels == i].astype(int) for i in range(4)]
    assert not colors[0].any() and max(np.ptp(c, axis=0).max() for c in colors) <= 1  # a rounding
    for a, b in ((1, 2), (1, 3), (2, 3)):
        assert np.abs(colors[a][0] - colors[b][0]).max() > 60


def test_one_embedding_is_one_color():
    noise = 1e-5 * np.random.default_rng(0).normal(size=(8, 5, 6))
    picture = embedding_colors(3 + noise, np.ones((5, 6), bool))
    assert np.ptp(picture.reshape(-1, 3), axis=0).max() <= 1 and picture.any()
    assert not embedding_colors(noise, np.zeros((5, 6), bool)).any()
    assert embedding_colors(noise, np.eye(5, 6, dtype=bool) & (np.arange(6) == 2)).any(-1).sum() == 1


def test_arrows_start_once_in_every_square():
    mask = np.zeros((20, 23), bool)
    mask[2:14, 4:20] = mask[:, 11] = True  # the latter between the middles of the squares
    y, x = sparse_pixels(mask, 5)
    touched = {(i // 5, j // 5) for i, j in zip(*mask.nonzero())}
    assert mask[y, x].all() and len(y) == len(touched) and set(zip(y // 5, x // 5)) == touched
    whole = (y // 5 == 1) & np.isin(x // 5, (1, 2, 3))  # squares that the mask fills
    assert whole.sum() == 3 and (y[whole] == 7).all() and (x[whole] % 5 == 2).all()
    assert not len(sparse_pixels(mask & False, 5)[0])


def test_arrows_start_and_end_where_told():
    picture = np.zeros((60, 80, 3), np.uint8)
    draw_arrows(picture, np.array([[10.5, 50.5]]), np.array([[70.5, 20.5]]), (0, 0, 255))
    red = picture[..., 2]
    assert red[50, 10] and red[20, 70] == 255 and red[35, 40]
    ys, xs = red.nonzero()
    assert xs.min() >= 9 and xs.max() <= 73 and ys.min() >= 17 and ys.max() <= 51
    # the dot and the head are where it ends
    assert (red[:, 62:] > 0).sum() > 2 * (red[:, :19] > 0).sum()


@pytest.mark.parametrize("end, last", [((1000, 30), (79, 30)), ((-4e9, 30), (0, 30)), ((40, 900), (40, 59)),
                                       ((40, -70), (40, 0)), ((240, -170), (69, 0))])  # fmt: skip
def test_arrows_are_clipped_in_their_own_direction(end, last):
    picture = np.zeros((60, 80, 3), np.uint8)
    draw_arrows(picture, np.array([[40.0, 30.0]]), np.array([end], float), (0, 0, 255))
    ys, xs = picture[..., 2].nonzero()
    step = np.array(last) - (40, 30)
    along = ((xs - 40) * step[0] + (ys - 30) * step[1]) / (step @ step)
    across = np.abs((xs - 40) * step[1] - (ys - 30) * step[0]) / np.hypot(*step)
    assert -0.1 < along.min() < 0.05 and along.max() > 0.95 and across.max() <= 5
    ending = np.zeros_like(picture)
    draw_arrows(ending, np.array([[40.0, 30.0]]), np.array([last], float), (0, 0, 255))
    assert ending.astype(bool).sum() > picture.astype(bool).sum()  # the dot


# ----------------------------------------------------------------------------------------------- the picture


def test_coloring(tiny, tmp_path):
    """Two squares whose pixels point to two places: two instances, two colours, arrows that meet."""
    net, path, places = model(tiny("coloring")), tmp_path / "deeper" / "a.png", [(30.0, 80.0), (60.0, 20.0)]
    net.predictor, net.categories = MadePhi(places), MadeCategories()
    draw_embeddings(path, net, image())
    instances, colored, arrows, below = panels(path)
    assert not len(below) and cv2.imread(str(path)).shape[1] == 3 * (PANEL + 2 * GAP)
    left, right = at(colored, (32, 32)), at(colored, (96, 32))
    assert np.abs(np.subtract(left, right)).max() > 60
    for x, color in ((32, left), (96, right)):
        square = colored[int(18 * FACTOR) : int(46 * FACTOR), int((x - 14) * FACTOR) : int((x + 14) * FACTOR)]
        assert has(square, color).all()
    dim = (50, 50, 50)
    assert at(colored, (64, 32)) == at(colored, (32, 80)) == dim
    # each instance's own colour, at the place that its pixels point to and nowhere near the other's
    ends = [at(arrows, place) for place in places]
    assert set(ends) == set(palette(2)) and at(arrows, (100, 80)) == dim
    xs = [np.flatnonzero(has(arrows, color).any(0)) / FACTOR for color in ends]
    assert xs[0].max() < 50 and xs[1].min() > 58  # from 16 to 48, and from 112 to 60
    # the same colours on the instances themselves
    tint = [np.subtract(at(instances, place), at(instances, (64, 60))) for place in ((32, 32), (96, 32))]
    assert all(np.argmax(t) == np.argmax(color) for t, color in zip(tint, ends))


def test_arrows_of_mask_rcnn_meet_and_its_kernel_is_one(tiny, tmp_path, monkeypatch):
    """With one place for all pixels the kernel is 1 and the mask Mask R-CNN's own; with Phi = 0 it is not."""
    path, maps, to_heat = tmp_path / "a.png", [], embeddings.heat

    def heat(values: np.ndarray, limit: float) -> np.ndarray:
        maps.append((values + 1) / 2)
        return to_heat(values, limit)

    monkeypatch.setattr(embeddings, "heat", heat)
    for made in (True, False):
        net = model(tiny("mask_rcnn"))
        net.roi_heads.mask_head.predictor.bias.data.fill_(1.0)  # all of a box is its mask
        if made:
            net.roi_heads.embedding_predictor = MadePhi([(70.0, 50.0)] * 2)
        else:
            net.roi_heads.embedding_predictor.phi.weight.data.zero_()
        maps.clear()
        draw_embeddings(path, net, image(), region=2, score_threshold=0.0)
        own, shares, kernel, mask = maps[:4]
        assert own.min() > 0.6 and own.max() < 1 and shares.max() == 1
        assert (kernel.min() > 0.99) == made and np.allclose(own, mask, atol=0.002) == made
        _, colored, arrows, below = panels(path)
        assert below.shape[1] >= 5 * (REGION + 2 * GAP) and 60 < len(below) <= REGION + BAR + GAP
        foreground = (colored != 50).any(-1)
        assert foreground.sum() > 1000
        assert (np.ptp(colored[foreground].astype(int), axis=0).max() <= 1) == made
        assert (at(arrows, (70, 50)) in palette(4)) == made


def test_place_of_the_cross(tiny, tmp_path, monkeypatch):
    """The seed's arrow ends where all do."""
    places = []
    monkeypatch.setattr(embeddings.cv2, "drawMarker", lambda picture, place, *_: places.append((picture.shape, place)))
    net = model(tiny("mask_rcnn"))
    net.roi_heads.embedding_predictor = MadePhi([(128.0, 96.0)] * 2)
    draw_embeddings(tmp_path / "a.png", net, image(), score_threshold=0.0)
    (height, width, _), (x, y) = places[0]
    assert max(height, width) == REGION and abs(x - width) <= 4 and abs(y - height) <= 4


def test_nothing_found(tiny, tmp_path):
    """The image alone; a region that is not there is named."""
    path = tmp_path / "a.png"
    coloring = model(tiny("coloring"))
    coloring.categories = MadeCategories(empty=True)
    draw_embeddings(path, coloring, image())
    assert (panels(path)[1] == 50).all() and (panels(path)[2] == 50).all()
    net = model(tiny("mask_rcnn"), "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.1")
    draw_embeddings(path, net, image())
    assert (panels(path)[1] == 50).all() and not len(panels(path)[3])
    with pytest.raises(InputError, match="no region 0: the model finds 0"):
        draw_embeddings(path, net, image(), region=0)


def test_instances_below_the_threshold_are_not_shown(tiny, tmp_path):
    net = model(tiny("mask_rcnn"))
    net.roi_heads.mask_head.predictor.bias.data.fill_(1.0)
    for threshold in (0.0, 1.1):
        draw_embeddings(tmp_path / "a.png", net, image(), score_threshold=threshold)
        _, colored, arrows, below = panels(tmp_path / "a.png")
        assert (colored == 50).all() == (arrows == 50).all() == (threshold > 1) and len(below) > 60


# -------------------------------------------------------------------------------------------------- the tool


@pytest.fixture
def draw(tiny, tmp_path, run_tool):
    """A function that runs the tool with a config and random weights that fit it, and returns what it says."""

    def call(config: Path, *arguments: str) -> str:
        cv2.imwrite(str(tmp_path / "image.png"), np.full((*SIZE, 3), 200, np.uint8))
        torch.save({"model": model(config).state_dict()}, tmp_path / "model.pth")
        image, output, weights = (str(tmp_path / name) for name in ("image.png", "out.png", "model.pth"))
        flags = ("--config-file", str(config), "--image", image, "--output", output)
        return run_tool("draw_embeddings.py", *flags, *arguments, "MODEL.WEIGHTS", weights)

    return call


@pytest.mark.parametrize("kind, arguments", [("mask_rcnn", ("--region", "1")), ("coloring", ("--num-instances", "2"))])
def test_command(kind, arguments, tiny, draw, tmp_path):
    assert draw(tiny(kind), *arguments).endswith(f"wrote {tmp_path / 'out.png'}\n")
    assert len(panels(tmp_path / "out.png")[3]) > 60 or kind == "coloring"


def test_command_refuses(tiny, draw, tmp_path, run_tool):
    fcis = str(ROOT / "configs" / "quick" / "fcis" / "fcis_R_18_shapes.yaml")
    said = run_tool("draw_embeddings.py", "--config-file", fcis, "--image", "a.png")
    assert said == (
        f"exit: {fcis}: MODEL.META_ARCHITECTURE is FCIS with ROI heads FCISROIHeads, "
        "wanted SemiConvColoring or GeneralizedRCNN with SemiConvROIHeads"
    )
    assert "GeneralizedRCNN with ROI heads StandardROIHeads, wanted" in draw(tiny("mask_rcnn", "StandardROIHeads"))
    assert draw(tiny("mask_rcnn"), "--region", "9") == "exit: there is no region 9: the model finds 4"
    assert draw(tiny("mask_rcnn"), "--num-instances", "9").startswith("exit: --num-instances says nothing to a")
    assert draw(tiny("coloring"), "--region", "0").startswith("exit: --region says nothing to a SemiConvColoring")
    config = tiny("coloring")
    config.write_text(config.read_text().replace("seeds", "kmeans"))
    said = draw(config)
    assert said.startswith(f"exit: image {tmp_path / 'image.png'}: ") and "num_instances" in said
    assert not (tmp_path / "out.png").exists()
