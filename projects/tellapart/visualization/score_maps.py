"""One region of FCIS or one window of InstanceFCN in pictures: score maps, what is assembled of them, the mask."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Boxes

from ..fcis import FCIS
from ..instance_fcn import InstanceFCN
from ..instance_fcn.windows import window_boxes

_TILE = 96  # height and width of one score map, pixels
_PANEL = 320  # of the other pictures
_GAP = 6
_BAR = 26  # of a caption
_PAPER, _INK = (250, 252, 252), (40, 35, 30)  # BGR
_RED, _GREEN = (60, 60, 230), (80, 200, 60)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@torch.no_grad()
def draw_fcis_region(
    path: str | Path, model: FCIS, inputs: dict, box: tuple[float, float, float, float] | None = None,
    class_names: list[str] | None = None,
) -> None:  # fmt: skip
    """Writes a PNG after the paper's figure 2.

    Upper row: the k x k inside maps and the k x k outside maps of the region's category, each with the region and, in
    green, the cell that the map speaks for. Lower row: the image with the region, the assembled inside and outside
    scores, the foreground probability, and the mask (before any vote) on the image. One scale for all scores: red is
    high, blue is low.

    Args:
        path: of the PNG; its folder is made.
        model: in eval mode.
        inputs: one image as the model takes it: ``image`` (3, H, W) in the model's ``input_format``.
        box: XYXY in pixels of ``inputs["image"]``; None: the candidate of the highest score.
        class_names: of the categories; None: their numbers.
    """
    heads = model.roi_heads
    images = model.preprocess_image([inputs])
    features = model.backbone(images.tensor)
    maps = heads.position_sensitive_maps([features[name] for name in heads.in_features])
    if box is None:
        proposals, _ = model.proposal_generator(images, features, None)
        found = heads.candidates(maps, proposals)[0]
        if not len(found):
            raise ValueError("the model proposes no region in this image: give a box")
        box = found.proposal_boxes.tensor[found.scores.max(1).values.argmax()].tolist()
    boxes = Boxes(torch.tensor([box], dtype=torch.float32, device=model.device))
    rois, levels = heads.regions([boxes])
    grids, _ = heads.assemble(maps, rois, levels)
    scores = heads.class_logits(grids).softmax(1)[0, :-1]
    category = int(scores.argmax())
    assembled = grids[0, :, category].cpu().numpy()  # (2, m, m): outside, inside
    probability = heads.side_logits(grids, scores.argmax()[None])[0].sigmoid().cpu().numpy()

    level = 0 if levels is None else int(levels[0])
    tiles = _maps_of_category(maps, level, category, heads.grid_size)  # (2, k, k, H, W)
    stride = 1 / heads.scales[level]
    height, width = images.image_sizes[0]
    tiles = tiles[..., : max(1, round(height / stride)), : max(1, round(width / stride))]
    limit = max(float(np.abs(tiles).max()), 1e-6)
    picture = convert_image_to_rgb(inputs["image"].permute(1, 2, 0).cpu(), model.input_format)[..., ::-1]
    name = class_names[category] if class_names else f"category {category}"
    binary = probability >= heads.mask_thresh
    upper = [
        _captioned(_grid(tiles[side], limit, box, (height, width)), caption)
        for side, caption in ((1, f"inside scores of {name}"), (0, "outside scores"))
    ]
    lower = [
        _captioned(_boxed(picture, box), f"region: {name} {float(scores[category]):.2f}"),
        _captioned(_panel(_heat(assembled[1], limit)), "assembled: inside"),
        _captioned(_panel(_heat(assembled[0], limit)), "assembled: outside"),
        _captioned(_panel(_heat(2 * probability - 1, 1.0)), "softmax over the sides"),
        _captioned(_masked(picture, box, binary), "mask"),
    ]
    _write(path, upper, lower)


@torch.no_grad()
def draw_instance_fcn(path: str | Path, model: InstanceFCN, inputs: dict) -> None:
    """Writes a PNG of the most likely window of an image, at the image's own scale.

    Upper row: the k x k instance-sensitive score maps, each with the window and, in green, the cell that copies from
    it; the objectness of the windows centred on each pixel. Lower row: the image with the window, the assembled
    scores, the foreground probability, the mask. Red is high, blue is low.

    Args:
        path: of the PNG; its folder is made.
        model: in eval mode, with an ``InstanceSensitiveHead``.
        inputs: one image as the model takes it: ``image`` (3, H, W) in the model's ``input_format``.
    """
    generator = model.proposal_generator
    images = model.preprocess_image([inputs])
    logits, shared = generator.predict(model.backbone(images.tensor))
    windows = generator.windows_of(images.image_sizes, logits)[0]
    scores = [generator.logits_of(logits, level_windows) for level_windows in windows]
    level = max(range(len(scores)), key=lambda i: scores[i].max().item())
    best = windows[level][scores[level].argmax()][None]
    box = window_boxes(best, generator.strides, generator.window_size).tensor[0].tolist()
    assembled, inside = (x[0].cpu().numpy() for x in generator.mask_head.masks(shared, best))
    probability = np.where(inside, 1 / (1 + np.exp(-assembled)), 0.0)
    height, width = images.image_sizes[0]
    shown = [max(1, -(-length // generator.strides[level])) for length in (height, width)]
    k = generator.mask_head.grid_size
    tiles = shared[level][0].float().unflatten(0, (k, k)).cpu().numpy()[..., : shown[0], : shown[1]]
    limit = max(float(np.abs(tiles).max()), 1e-6)
    objectness = logits[level][0].sigmoid().cpu().numpy()[: shown[0], : shown[1]]
    picture = convert_image_to_rgb(inputs["image"].permute(1, 2, 0).cpu(), model.input_format)[..., ::-1]
    upper = [
        _captioned(_grid(tiles, limit, box, (height, width)), "instance-sensitive score maps"),
        _captioned(_panel(_heat(2 * objectness - 1, 1.0)), f"objectness, up to {objectness.max():.2f}"),
    ]
    lower = [
        _captioned(_boxed(picture, box), "window"),
        _captioned(_panel(_heat(assembled, limit)), "assembled"),
        _captioned(_panel(_heat(2 * probability - 1, 1.0)), "probability"),
        _captioned(_masked(picture, box, probability >= 0.5), "mask"),
    ]
    _write(path, upper, lower)


def _write(path: str | Path, *rows: list[np.ndarray]) -> None:
    """The rows' pictures side by side, the rows one below the other."""
    stacked = []
    for row in rows:
        high = max(len(tile) for tile in row)
        level = [np.pad(t, ((0, high - len(t)), (0, 0), (0, 0)), constant_values=_PAPER[0]) for t in row]
        stacked.append(np.hstack(level))
    wide = max(row.shape[1] for row in stacked)
    stacked = [np.pad(r, ((0, 0), (0, wide - r.shape[1]), (0, 0)), constant_values=_PAPER[0]) for r in stacked]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), np.vstack(stacked)):
        raise OSError(f"could not write {path}")


def _maps_of_category(maps, level: int, category: int, k: int) -> np.ndarray:
    """The score maps of the first image at one level: float (2, k, k, H, W), outside first."""
    sizes = [n * h * w * k * k for n, h, w in maps.shapes]
    n, height, width = maps.shapes[level]
    table = maps.scores[sum(sizes[:level]) : sum(sizes[: level + 1])].float()
    both = table.view(n, height, width, k, k, 2, -1)[0, ..., category]
    return both.permute(4, 2, 3, 0, 1).cpu().numpy()


def _heat(scores: np.ndarray, limit: float) -> np.ndarray:
    """Scores (H, W) in -limit to limit as colours (H, W, 3) uint8 BGR."""
    level = np.clip((scores / limit + 1) * 127.5, 0, 255).astype(np.uint8)
    return cv2.applyColorMap(level, cv2.COLORMAP_JET)


def _grid(maps: np.ndarray, limit: float, box, size: tuple[int, int]) -> np.ndarray:
    """Maps (k, k, H, W) of an image of ``size`` as one picture, each with the region and its own cell."""
    k = len(maps)
    tile = min(_TILE, 7 * _TILE // k)
    factor = tile / max(size)
    shape = (max(1, round(size[1] * factor)), max(1, round(size[0] * factor)))
    x0, y0, x1, y1 = (factor * v for v in box)
    rows = []
    for i in range(k):
        row = []
        for j in range(k):
            one = cv2.resize(_heat(maps[i, j], limit), shape, interpolation=cv2.INTER_NEAREST)
            _rectangle(one, (x0, y0, x1, y1), (255, 255, 255))
            cell = (x0 + (x1 - x0) * j / k, y0 + (y1 - y0) * i / k)
            _rectangle(one, (*cell, cell[0] + (x1 - x0) / k, cell[1] + (y1 - y0) / k), _GREEN)
            row.append(np.pad(one, ((1, 1), (1, 1), (0, 0)), constant_values=_PAPER[0]))
        rows.append(np.hstack(row))
    return np.vstack(rows)


def _rectangle(picture: np.ndarray, box, color: tuple[int, int, int], thickness: int = 1) -> None:
    x0, y0, x1, y1 = (round(v) for v in box)
    cv2.rectangle(picture, (x0, y0), (max(x0, x1 - 1), max(y0, y1 - 1)), color, thickness)


def _panel(picture: np.ndarray) -> np.ndarray:
    """Enlarged or shrunk so that the longer side is a panel's."""
    factor = _PANEL / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST if factor > 1 else cv2.INTER_AREA)


def _boxed(picture: np.ndarray, box) -> np.ndarray:
    factor = _PANEL / max(picture.shape[:2])
    panel = _panel(np.ascontiguousarray(picture))
    _rectangle(panel, [v * factor for v in box], _RED, 2)
    return panel


def _masked(picture: np.ndarray, box, binary: np.ndarray) -> np.ndarray:
    """The image with the region's cells that are foreground in red."""
    factor = _PANEL / max(picture.shape[:2])
    panel = _panel(np.ascontiguousarray(picture))
    x0, y0, x1, y1 = (v * factor for v in box)
    ys, xs = np.mgrid[: panel.shape[0], : panel.shape[1]] + 0.5
    m = len(binary)
    row = np.floor((ys - y0) / max(y1 - y0, 1e-6) * m).astype(int)
    column = np.floor((xs - x0) / max(x1 - x0, 1e-6) * m).astype(int)
    within = (row >= 0) & (row < m) & (column >= 0) & (column < m)
    on = within & binary[row.clip(0, m - 1), column.clip(0, m - 1)]
    panel[on] = (0.4 * panel[on] + 0.6 * np.array(_RED)).astype(np.uint8)
    _rectangle(panel, (x0, y0, x1, y1), _RED, 2)
    return panel


def _captioned(picture: np.ndarray, caption: str) -> np.ndarray:
    picture = picture.astype(np.uint8)
    bar = np.full((_BAR, picture.shape[1], 3), _PAPER, np.uint8)
    cv2.putText(bar, caption, (2, _BAR - 9), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
    return np.pad(np.vstack([bar, picture]), ((0, _GAP), (_GAP, _GAP), (0, 0)), constant_values=_PAPER[0])
