"""One region of FCIS or one window of InstanceFCN in pictures: score maps, what is assembled of them, the mask."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.structures import Boxes

from ..errors import InputError
from ..fcis import FCIS
from ..instance_fcn import InstanceFCN
from ..instance_fcn.windows import windows_to_boxes
from .drawing import PAPER, captioned, fitted, frame, heat, picture_of, write_rows

_TILE = 96  # height and width of one score map, pixels
_PANEL = 320  # of the other pictures
_RED, _GREEN = (60, 60, 230), (80, 200, 60)


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

    Raises:
        InputError: nothing of the box is in the image, or without a box the model proposes none.
    """
    heads = model.roi_heads
    images = model.preprocess_image([inputs])
    height, width = images.image_sizes[0]
    features = model.backbone(images.tensor)
    maps = heads.position_sensitive_maps([features[name] for name in heads.in_features])
    if box is None:
        proposals, _ = model.proposal_generator(images, features, None)
        found = heads.candidates(maps, proposals)[0]
        if not len(found):
            raise InputError("the model proposes no region in this image: give a box")
        box = found.proposal_boxes.tensor[found.scores.max(1).values.argmax()].tolist()
    else:
        given, box = box, [min(max(v, 0.0), float(end)) for v, end in zip(box, (width, height) * 2)]
        if not (box[0] < box[2] and box[1] < box[3]):
            raise InputError(
                f"box {tuple(given)} has no area in the image, at the test size {width} x {height} pixels; wanted "
                "X0 < X1, Y0 < Y1 and some of it inside"
            )
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
    tiles = tiles[..., : max(1, round(height / stride)), : max(1, round(width / stride))]
    limit = max(float(np.abs(tiles).max()), 1e-6)
    picture = picture_of(inputs["image"], model.input_format)
    name = class_names[category] if class_names else f"category {category}"
    binary = probability >= heads.mask_thresh
    upper = [
        captioned(_grid(tiles[side], limit, box, (height, width)), caption)
        for side, caption in ((1, f"inside scores of {name}"), (0, "outside scores"))
    ]
    lower = [
        captioned(_boxed(picture, box), f"region: {name} {float(scores[category]):.2f}"),
        captioned(_panel(heat(assembled[1], limit)), "assembled: inside"),
        captioned(_panel(heat(assembled[0], limit)), "assembled: outside"),
        captioned(_panel(heat(2 * probability - 1, 1.0)), "softmax over the sides"),
        captioned(_masked(picture, box, binary), "mask"),
    ]
    write_rows(path, upper, lower)


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
    logits, shared = generator.predict_maps(model.backbone(images.tensor))
    windows = generator.place_windows(images.image_sizes, logits)[0]
    scores = [generator.objectness_of(logits, level_windows) for level_windows in windows]
    level = max(range(len(scores)), key=lambda i: scores[i].max().item())
    best = windows[level][scores[level].argmax()][None]
    box = windows_to_boxes(best, generator.strides, generator.window_size).tensor[0].tolist()
    assembled, inside = (x[0].cpu().numpy() for x in generator.mask_head.predict_masks(shared, best))
    probability = np.where(inside, 1 / (1 + np.exp(-assembled)), 0.0)
    height, width = images.image_sizes[0]
    shown = [max(1, -(-length // generator.strides[level])) for length in (height, width)]
    k = generator.mask_head.grid_size
    tiles = shared[level][0].float().unflatten(0, (k, k)).cpu().numpy()[..., : shown[0], : shown[1]]
    limit = max(float(np.abs(tiles).max()), 1e-6)
    objectness = logits[level][0].sigmoid().cpu().numpy()[: shown[0], : shown[1]]
    picture = picture_of(inputs["image"], model.input_format)
    upper = [
        captioned(_grid(tiles, limit, box, (height, width)), "instance-sensitive score maps"),
        captioned(_panel(heat(2 * objectness - 1, 1.0)), f"objectness, up to {objectness.max():.2f}"),
    ]
    lower = [
        captioned(_boxed(picture, box), "window"),
        captioned(_panel(heat(assembled, limit)), "assembled"),
        captioned(_panel(heat(2 * probability - 1, 1.0)), "probability"),
        captioned(_masked(picture, box, probability >= 0.5), "mask"),
    ]
    write_rows(path, upper, lower)


def _maps_of_category(maps, level: int, category: int, k: int) -> np.ndarray:
    """The score maps of the first image at one level: float (2, k, k, H, W), outside first."""
    sizes = [n * h * w * k * k for n, h, w in maps.shapes]
    n, height, width = maps.shapes[level]
    table = maps.scores[sum(sizes[:level]) : sum(sizes[: level + 1])].float()
    both = table.view(n, height, width, k, k, 2, -1)[0, ..., category]
    return both.permute(4, 2, 3, 0, 1).cpu().numpy()


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
            one = cv2.resize(heat(maps[i, j], limit), shape, interpolation=cv2.INTER_NEAREST)
            frame(one, (x0, y0, x1, y1), (255, 255, 255))
            cell = (x0 + (x1 - x0) * j / k, y0 + (y1 - y0) * i / k)
            frame(one, (*cell, cell[0] + (x1 - x0) / k, cell[1] + (y1 - y0) / k), _GREEN)
            row.append(np.pad(one, ((1, 1), (1, 1), (0, 0)), constant_values=PAPER))
        rows.append(np.hstack(row))
    return np.vstack(rows)


def _panel(picture: np.ndarray) -> np.ndarray:
    return fitted(picture, _PANEL)


def _boxed(picture: np.ndarray, box) -> np.ndarray:
    factor = _PANEL / max(picture.shape[:2])
    panel = _panel(picture)
    frame(panel, [v * factor for v in box], _RED, 2)
    return panel


def _masked(picture: np.ndarray, box, binary: np.ndarray) -> np.ndarray:
    """The image with the region's cells that are foreground in red."""
    factor = _PANEL / max(picture.shape[:2])
    panel = _panel(picture)
    x0, y0, x1, y1 = (v * factor for v in box)
    ys, xs = np.mgrid[: panel.shape[0], : panel.shape[1]] + 0.5
    m = len(binary)
    row = np.floor((ys - y0) / max(y1 - y0, 1e-6) * m).astype(int)
    column = np.floor((xs - x0) / max(x1 - x0, 1e-6) * m).astype(int)
    within = (row >= 0) & (row < m) & (column >= 0) & (column < m)
    on = within & binary[row.clip(0, m - 1), column.clip(0, m - 1)]
    panel[on] = (0.4 * panel[on] + 0.6 * np.array(_RED)).astype(np.uint8)
    frame(panel, (x0, y0, x1, y1), _RED, 2)
    return panel
