"""Pictures of embeddings: colors, arrows, the panels of a region, images without instances; and their tool."""

from __future__ import annotations

from pathlib import Path

from tellapart import InputError
from tellapart.engine.config_checks import load_config
from tellapart.visualization import embedding_pictures
from tellapart.visualization.drawing import CAPTION_HEIGHT, MARGIN, palette
from tellapart.visualization.embedding_pictures import draw_embeddings, embedding_colors, sparse_pixels

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
PANEL, REGION = 420, 248
SIZE = (96, 128)  # height and width of all images in these tests
FACTOR = PANEL / 128  # panel pixels per image pixel, in the upper row
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
    """A function that writes the config of a small model, "mask_rcnn" or "coloring", and returns the file."""

    def write(kind: str, heads: str = "SemiConvROIHeads") -> Path:
        base = {"mask_rcnn": "mask_rcnn/mask_rcnn_R_18_FPN_shapes", "coloring": "coloring/coloring_dots"}[kind]
        path = tmp_path / f"{kind}.yaml"
        path.write_text(TINY.format(base=ROOT / "configs" / "quick" / f"{base}.yaml", heads=heads))
        return path

    return write


def model(config: Path, *options: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(load_config(str(config), list(options))).eval()


def image() -> dict:
    return {"image": torch.full((3, *SIZE), 200, dtype=torch.uint8)}


class FixedPhi(nn.Module):
    """Replaces the predictor: all pixels left of column 64 have one embedding Psi, all others another.

    ``points``, (x, y) in image pixels, are the points of the two embeddings.
    """

    def __init__(self, points: list[tuple[float, float]]) -> None:
        super().__init__()
        self.points = points

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        height, width = features.shape[-2:]
        stride = 128 / width  # the model pads images to a width of 128
        y, x = ((torch.arange(length) + 0.5) * stride for length in (height, width))
        phi = torch.zeros(1, 8, height, width)
        for half, (to_x, to_y) in zip((x < 64, x >= 64), self.points):
            phi[0, 0, :, half] = ((to_x - x) / 32)[half]
            phi[0, 1, :, half] = ((to_y - y) / 32)[:, None].expand(-1, int(half.sum()))
        return phi


class FixedCategories(nn.Module):
    """Replaces the predictor: two squares of category 0, on rows 16 to 48, columns 16 to 48 and 80 to 112.

    The rest is background. With ``empty``, everything is.
    """

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
    """The three panels of the upper row without their captions, then everything below them."""
    picture, high = cv2.imread(str(path)), round(SIZE[0] * FACTOR)
    lefts = [MARGIN + i * (PANEL + 2 * MARGIN) for i in range(3)]
    return [picture[CAPTION_HEIGHT : CAPTION_HEIGHT + high, left : left + PANEL] for left in lefts] + [
        picture[CAPTION_HEIGHT + high + MARGIN :]
    ]


def color_at(panel: np.ndarray, point: tuple[float, float]) -> tuple[int, ...]:
    """The color at a point (x, y) of the image, on a panel of the upper row."""
    return tuple(panel[int(point[1] * FACTOR), int(point[0] * FACTOR)].tolist())


def has_color(panel: np.ndarray, color: tuple[int, ...]) -> np.ndarray:
    return (panel == color).all(-1)


# ------------------------------------------------------------------------------------------ colors and pixels


@pytest.mark.parametrize("dimensions", [2, 3, 8])
def test_colors_differ_between_clusters_and_not_within(dimensions):
    labels = np.zeros((10, 12), int)
    labels[1:4, 1:5], labels[1:4, 7:11], labels[6:9, 1:5] = 1, 2, 3
    centers = np.random.default_rng(dimensions).normal(scale=3, size=(4, dimensions))
    noise = 1e-6 * np.random.default_rng(0).normal(size=(dimensions, 10, 12))
    picture = embedding_colors(np.moveaxis(centers[labels], -1, 0) + noise, labels > 0)
    colors = [picture[labels == i].astype(int) for i in range(4)]
    assert not colors[0].any() and max(np.ptp(c, axis=0).max() for c in colors) <= 1  # rounding
    for a, b in ((1, 2), (1, 3), (2, 3)):
        assert np.abs(colors[a][0] - colors[b][0]).max() > 60


def test_one_embedding_is_one_color():
    noise = 1e-5 * np.random.default_rng(0).normal(size=(8, 5, 6))
    picture = embedding_colors(3 + noise, np.ones((5, 6), bool))
    assert np.ptp(picture.reshape(-1, 3), axis=0).max() <= 1 and picture.any()
    assert not embedding_colors(noise, np.zeros((5, 6), bool)).any()
    assert embedding_colors(noise, np.eye(5, 6, dtype=bool) & (np.arange(6) == 2)).any(-1).sum() == 1


def test_sparse_pixels_are_one_per_square():
    mask = np.zeros((20, 23), bool)
    mask[2:14, 4:20] = mask[:, 11] = True  # the column is between the centers of the squares
    y, x = sparse_pixels(mask, 5)
    touched = {(i // 5, j // 5) for i, j in zip(*mask.nonzero())}
    assert mask[y, x].all() and len(y) == len(touched) and set(zip(y // 5, x // 5)) == touched
    filled = (y // 5 == 1) & np.isin(x // 5, (1, 2, 3))  # squares that the mask fills
    assert filled.sum() == 3 and (y[filled] == 7).all() and (x[filled] % 5 == 2).all()
    assert not len(sparse_pixels(mask & False, 5)[0])


# ----------------------------------------------------------------------------------------------- the picture


def test_coloring(tiny, tmp_path):
    """Two squares with two embeddings: two instances, two colors, and arrows to two points."""
    net, path, points = model(tiny("coloring")), tmp_path / "deeper" / "a.png", [(30.0, 80.0), (60.0, 20.0)]
    net.predictor, net.categories = FixedPhi(points), FixedCategories()
    draw_embeddings(path, net, image())
    instances, colored, arrows, below = panels(path)
    assert not len(below) and cv2.imread(str(path)).shape[1] == 3 * (PANEL + 2 * MARGIN)
    left, right = color_at(colored, (32, 32)), color_at(colored, (96, 32))
    assert np.abs(np.subtract(left, right)).max() > 60
    for x, color in ((32, left), (96, right)):
        square = colored[int(18 * FACTOR) : int(46 * FACTOR), int((x - 14) * FACTOR) : int((x + 14) * FACTOR)]
        assert has_color(square, color).all()
    dim = (50, 50, 50)
    assert color_at(colored, (64, 32)) == color_at(colored, (32, 80)) == dim
    # each instance's arrows have its color and end at its point, not near the other's
    ends = [color_at(arrows, point) for point in points]
    assert set(ends) == set(palette(2)) and color_at(arrows, (100, 80)) == dim
    xs = [np.flatnonzero(has_color(arrows, color).any(0)) / FACTOR for color in ends]
    assert xs[0].max() < 50 and xs[1].min() > 58  # from 16 to 48, and from 112 to 60
    # the instances have the same colors
    tint = [np.subtract(color_at(instances, point), color_at(instances, (64, 60))) for point in ((32, 32), (96, 32))]
    assert all(np.argmax(t) == np.argmax(color) for t, color in zip(tint, ends))


def test_mask_rcnn_with_equal_and_different_embeddings(tiny, tmp_path, monkeypatch):
    """With one embedding for all pixels, the kernel is 1, the mask is Mask R-CNN's own, and arrows end at one point.

    With Phi = 0, none of this is true.
    """
    path, maps, heatmap = tmp_path / "a.png", [], embedding_pictures.heatmap

    def recorded_heatmap(values: np.ndarray, limit: float) -> np.ndarray:
        maps.append((values + 1) / 2)
        return heatmap(values, limit)

    monkeypatch.setattr(embedding_pictures, "heatmap", recorded_heatmap)
    for equal in (True, False):
        net = model(tiny("mask_rcnn"))
        net.roi_heads.mask_head.predictor.bias.data.fill_(1.0)  # masks fill their boxes
        if equal:
            net.roi_heads.embedding_predictor = FixedPhi([(70.0, 50.0)] * 2)
        else:
            net.roi_heads.embedding_predictor.phi.weight.data.zero_()
        maps.clear()
        draw_embeddings(path, net, image(), region=2, score_threshold=0.0)
        own_mask, seed_probs, kernel, mask = maps[:4]
        assert own_mask.min() > 0.6 and own_mask.max() < 1 and seed_probs.max() == 1
        assert (kernel.min() > 0.99) == equal and np.allclose(own_mask, mask, atol=0.002) == equal
        _, colored, arrows, below = panels(path)
        assert below.shape[1] >= 5 * (REGION + 2 * MARGIN) and 60 < len(below) <= REGION + CAPTION_HEIGHT + MARGIN
        foreground = (colored != 50).any(-1)
        assert foreground.sum() > 1000
        assert (np.ptp(colored[foreground].astype(int), axis=0).max() <= 1) == equal
        assert (color_at(arrows, (70, 50)) in palette(4)) == equal


def test_position_of_the_seed_cross(tiny, tmp_path, monkeypatch):
    """The cross is where all arrows end: at the lower right corner of the image, which is that of the panel too."""
    crosses = []
    monkeypatch.setattr(cv2, "drawMarker", lambda picture, pixel, *_: crosses.append((picture.shape, pixel)))
    net = model(tiny("mask_rcnn"))
    net.roi_heads.embedding_predictor = FixedPhi([(128.0, 96.0)] * 2)
    draw_embeddings(tmp_path / "a.png", net, image(), score_threshold=0.0)
    (height, width, _), (x, y) = crosses[0]
    assert max(height, width) == REGION and abs(x - width) <= 4 and abs(y - height) <= 4


def test_without_instances(tiny, tmp_path):
    """Only the dark image is drawn; a region that does not exist is refused."""
    path = tmp_path / "a.png"
    coloring = model(tiny("coloring"))
    coloring.categories = FixedCategories(empty=True)
    draw_embeddings(path, coloring, image())
    assert (panels(path)[1] == 50).all() and (panels(path)[2] == 50).all()
    net = model(tiny("mask_rcnn"), "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.1")
    draw_embeddings(path, net, image())
    assert (panels(path)[1] == 50).all() and not len(panels(path)[3])
    with pytest.raises(InputError, match="no region 0: the model predicts 0"):
        draw_embeddings(path, net, image(), region=0)


def test_instances_below_the_threshold_are_not_drawn(tiny, tmp_path):
    net = model(tiny("mask_rcnn"))
    net.roi_heads.mask_head.predictor.bias.data.fill_(1.0)
    for threshold in (0.0, 1.1):
        draw_embeddings(tmp_path / "a.png", net, image(), score_threshold=threshold)
        _, colored, arrows, below = panels(tmp_path / "a.png")
        assert (colored == 50).all() == (arrows == 50).all() == (threshold > 1) and len(below) > 60


# -------------------------------------------------------------------------------------------------- the tool


@pytest.fixture
def draw(tiny, tmp_path, run_tool):
    """A function that runs the tool with a config and random weights, and returns what the tool prints."""

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
    printed = run_tool("draw_embeddings.py", "--config-file", fcis, "--image", "a.png")
    assert printed == (
        f"exit: {fcis}: MODEL.META_ARCHITECTURE is FCIS with ROI heads FCISROIHeads, "
        "expected SemiConvColoring or GeneralizedRCNN with SemiConvROIHeads"
    )
    assert "GeneralizedRCNN with ROI heads StandardROIHeads, expected" in draw(tiny("mask_rcnn", "StandardROIHeads"))
    assert (
        draw(tiny("mask_rcnn"), "--region", "9") == "exit: there is no region 9: the model predicts 4, counted from 0"
    )
    assert draw(tiny("mask_rcnn"), "--num-instances", "9").startswith("exit: --num-instances has no effect on a")
    assert draw(tiny("coloring"), "--region", "0").startswith("exit: --region has no effect on a SemiConvColoring")
    config = tiny("coloring")
    config.write_text(config.read_text().replace("seeds", "kmeans"))
    printed = draw(config)
    assert printed.startswith(f"exit: image {tmp_path / 'image.png'}: ") and "num_instances" in printed
    assert not (tmp_path / "out.png").exists()
