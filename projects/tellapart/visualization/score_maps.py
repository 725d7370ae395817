"""Pictures of how FCIS and InstanceFCN compute a mask: score maps, what is assembled from them, the mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.structures import Boxes, pairwise_iou

from ..errors import InputError
from ..fcis import FCIS
from ..fcis.roi_heads import INSIDE, OUTSIDE
from ..instance_fcn import InstanceFCN
from ..instance_fcn.windows import windows_to_boxes
from .drawing import (
    BACKGROUND,
    WHITE,
    add_caption,
    blend_mask,
    draw_box,
    heatmap,
    input_to_picture,
    resize_longest,
    write_rows,
)

_TILE_SIZE = 96  # longer side of one score map, pixels
_PANEL_SIZE = 320  # longer side of the other panels, pixels
_RED, _GREEN = (60, 60, 230), (80, 200, 60)


def draw_fcis_region(
    path: str | Path, model: FCIS, inputs: dict, box: tuple[float, float, float, float] | None = None,
    class_names: list[str] | None = None,
) -> None:  # fmt: skip
    """Write a PNG like figure 2 of the FCIS paper, for one region and its most probable category.

    Upper row: the k x k inside score maps and the k x k outside score maps. Each shows the region and, in green, the
    cell that is assembled from this map. Lower row: the image with the region, the assembled inside and outside scores,
    the foreground probability, and the mask before mask voting. All scores have the same color scale, from blue (low)
    to red (high).

    Args:
        path: of the PNG; its folder is created if it does not exist.
        model: in eval mode.
        inputs: one model input: ``image`` (3, H, W) in the model's ``input_format``.
        box: the region, XYXY in pixels of ``inputs["image"]``. None: the candidate with the highest score.
        class_names: names of the categories. None: their numbers.

    Raises:
        InputError: the box has no area in the image, or there is no box and the model proposes no region.
    """
    write_rows(path, *fcis_region_panels(model, inputs, box, class_names))


@torch.no_grad()
def fcis_region_panels(
    model: FCIS, inputs: dict, box: Sequence[float] | None = None, class_names: list[str] | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:  # fmt: skip
    """Return the panels of the two rows of :func:`draw_fcis_region`."""
    heads = model.roi_heads
    images = model.preprocess_image([inputs])
    height, width = images.image_sizes[0]
    features = model.backbone(images.tensor)
    maps = heads.position_sensitive_maps([features[name] for name in heads.in_features])
    if box is None:
        proposals, _ = model.proposal_generator(images, features, None)
        candidates = heads.score_candidates(maps, proposals)[0]
        if not len(candidates):
            raise InputError("the model proposes no region in this image: give a box")
        box = candidates.proposal_boxes.tensor[candidates.class_probs.max(1).values.argmax()].tolist()
    else:
        clipped = [min(max(v, 0.0), float(end)) for v, end in zip(box, (width, height) * 2)]
        if not (clipped[0] < clipped[2] and clipped[1] < clipped[3]):
            raise InputError(
                f"box {tuple(box)} has no area in the image, at the test size {width} x {height} pixels; expected "
                "X0 < X1 and Y0 < Y1, with a part in the image"
            )
        box = clipped
    boxes = Boxes(torch.tensor([box], dtype=torch.float32, device=model.device))
    rois, levels = heads.boxes_to_rois([boxes])
    grids, _ = heads.assemble(maps, rois, levels)
    class_probs = heads.class_logits(grids).softmax(1)[0, :-1]
    category = int(class_probs.argmax())
    assembled = grids[0, :, category].cpu().numpy()  # (2, m, m), first index OUTSIDE or INSIDE
    probability = heads.mask_logits(grids, class_probs.argmax()[None])[0].sigmoid().cpu().numpy()

    level = 0 if levels is None else int(levels[0])
    tiles = maps.category_score_maps(level, category).float().cpu().numpy()  # (2, k, k, H, W)
    stride = 1 / heads.spatial_scales[level]
    tiles = tiles[..., : max(1, round(height / stride)), : max(1, round(width / stride))]  # without the padding
    limit = max(float(np.abs(tiles).max()), 1e-6)
    picture = input_to_picture(inputs["image"], model.input_format)
    name = class_names[category] if class_names else f"category {category}"
    binary = probability >= heads.mask_thresh
    upper = [
        add_caption(_draw_grid(tiles[side], limit, box, (height, width)), caption)
        for side, caption in ((INSIDE, f"inside score maps of {name}"), (OUTSIDE, "outside score maps"))
    ]
    lower = [
        add_caption(_draw_region(picture, box), f"region: {name} {float(class_probs[category]):.2f}"),
        add_caption(_panel(heatmap(assembled[INSIDE], limit)), "assembled inside scores"),
        add_caption(_panel(heatmap(assembled[OUTSIDE], limit)), "assembled outside scores"),
        add_caption(_panel(heatmap(2 * probability - 1, 1.0)), "foreground probability"),
        add_caption(_draw_mask(picture, box, binary), "mask"),
    ]
    return upper, lower


def draw_instance_fcn(path: str | Path, model: InstanceFCN, inputs: dict) -> None:
    """Write a PNG of the window with the highest objectness, with the image at its own scale.

    Upper row: the k x k instance-sensitive score maps, each with the window and, in green, the cell that is copied from
    this map; the objectness score map. Lower row: the image with the window, the assembled scores, the foreground
    probability, the mask. The color scale is from blue (low) to red (high).

    Args:
        path: of the PNG; its folder is created if it does not exist.
        model: in eval mode, with an ``InstanceSensitiveHead``.
        inputs: one model input: ``image`` (3, H, W) in the model's ``input_format``.
    """
    write_rows(path, *instance_fcn_panels(model, inputs))


@torch.no_grad()
def instance_fcn_panels(
    model: InstanceFCN, inputs: dict, box: Sequence[float] | None = None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the panels of the two rows of :func:`draw_instance_fcn`.

    Args:
        model, inputs: see there.
        box: of an instance, XYXY in pixels of ``inputs["image"]``: the window with the largest product of objectness
            and IoU with it is drawn, instead of the one with the highest objectness.
    """
    generator = model.proposal_generator
    images = model.preprocess_image([inputs])
    height, width = images.image_sizes[0]
    objectness_maps, score_maps = generator.predict_maps(model.backbone(images.tensor))
    windows_per_level = generator.place_windows(images.image_sizes, objectness_maps)[0]
    logits_per_level = [
        generator.objectness_of(level_map[0], windows) for level_map, windows in zip(objectness_maps, windows_per_level)
    ]
    ranks = [logits.sigmoid() for logits in logits_per_level]
    if box is not None:
        target = Boxes(torch.tensor([box], dtype=torch.float32, device=model.device))
        for i, windows in enumerate(windows_per_level):
            window_boxes = windows_to_boxes(windows, generator.strides, generator.window_size)
            ranks[i] = ranks[i] * pairwise_iou(window_boxes, target)[:, 0]
    level = max(range(len(ranks)), key=lambda i: ranks[i].max().item())
    best_window = windows_per_level[level][ranks[level].argmax()][None]
    box = windows_to_boxes(best_window, generator.strides, generator.window_size).tensor[0].tolist()
    mask_logits, in_image = generator.mask_head.predict_masks(score_maps, best_window)
    assembled, in_image = mask_logits[0].cpu().numpy(), in_image[0].cpu().numpy()
    probability = np.where(in_image, 1 / (1 + np.exp(-assembled)), 0.0)
    rows, columns = [
        max(1, -(-length // generator.strides[level])) for length in (height, width)
    ]  # without the padding
    k = generator.mask_head.grid_size
    tiles = score_maps[level][0].float().unflatten(0, (k, k)).cpu().numpy()[..., :rows, :columns]
    limit = max(float(np.abs(tiles).max()), 1e-6)
    objectness = objectness_maps[level][0].sigmoid().cpu().numpy()[:rows, :columns]
    picture = input_to_picture(inputs["image"], model.input_format)
    upper = [
        add_caption(_draw_grid(tiles, limit, box, (height, width)), "instance-sensitive score maps"),
        add_caption(_panel(heatmap(2 * objectness - 1, 1.0)), f"objectness, at most {objectness.max():.2f}"),
    ]
    lower = [
        add_caption(_draw_region(picture, box), "window"),
        add_caption(_panel(heatmap(assembled, limit)), "assembled scores"),
        add_caption(_panel(heatmap(2 * probability - 1, 1.0)), "foreground probability"),
        add_caption(_draw_mask(picture, box, probability >= 0.5), "mask"),
    ]
    return upper, lower


def _draw_grid(maps: np.ndarray, limit: float, box: Sequence[float], image_size: tuple[int, int]) -> np.ndarray:
    """Draw k x k score maps in a grid, each with the region's box and, in green, the map's own cell of the box.

    Args:
        maps: float (k, k, H, W).
        limit: score of the reddest color.
        box: XYXY in image pixels.
        image_size: (height, width).
    """
    k = len(maps)
    tile_size = min(_TILE_SIZE, 7 * _TILE_SIZE // k)
    factor = tile_size / max(image_size)
    shape = (max(1, round(image_size[1] * factor)), max(1, round(image_size[0] * factor)))
    x0, y0, x1, y1 = (factor * v for v in box)
    rows = []
    for i in range(k):
        row = []
        for j in range(k):
            tile = cv2.resize(heatmap(maps[i, j], limit), shape, interpolation=cv2.INTER_NEAREST)
            draw_box(tile, (x0, y0, x1, y1), WHITE)
            corner = (x0 + (x1 - x0) * j / k, y0 + (y1 - y0) * i / k)
            draw_box(tile, (*corner, corner[0] + (x1 - x0) / k, corner[1] + (y1 - y0) / k), _GREEN)
            row.append(np.pad(tile, ((1, 1), (1, 1), (0, 0)), constant_values=BACKGROUND))
        rows.append(np.hstack(row))
    return np.vstack(rows)


def _panel(picture: np.ndarray) -> np.ndarray:
    return resize_longest(picture, _PANEL_SIZE)


def _draw_region(picture: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Return a panel with the picture and the box, XYXY in its pixels."""
    factor = _PANEL_SIZE / max(picture.shape[:2])
    panel = _panel(picture)
    draw_box(panel, [v * factor for v in box], _RED, 2)
    return panel


def _draw_mask(picture: np.ndarray, box: Sequence[float], binary: np.ndarray) -> np.ndarray:
    """Return a panel with the picture, the box and, in red, the foreground cells of its mask, bool (m, m)."""
    factor = _PANEL_SIZE / max(picture.shape[:2])
    panel = _panel(picture)
    x0, y0, x1, y1 = (v * factor for v in box)
    ys, xs = np.mgrid[: panel.shape[0], : panel.shape[1]] + 0.5
    m = len(binary)
    row = np.floor((ys - y0) / max(y1 - y0, 1e-6) * m).astype(int)
    column = np.floor((xs - x0) / max(x1 - x0, 1e-6) * m).astype(int)
    in_box = (row >= 0) & (row < m) & (column >= 0) & (column < m)
    blend_mask(panel, in_box & binary[row.clip(0, m - 1), column.clip(0, m - 1)], _RED, 0.6)
    draw_box(panel, (x0, y0, x1, y1), _RED, 2)
    return panel
