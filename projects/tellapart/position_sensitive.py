"""Assembling: position-sensitive maps and regions to per-region grids; what FCIS and InstanceFCN share.

A position-sensitive layer has k x k maps for each quantity, one for each relative position ("the object's upper left
part", ...). A region is cut into m x m cells, and cell (i, j) reads the map of its bin (floor(i k / m), floor(j k / m))
at the place in the image where the cell stands (InstanceFCN, section 3; FCIS, section 2.1).

All functions here are pure, and work in two steps. First a *sampling* (:func:`aligned_samples`, :func:`pooled_samples`)
says which rows of a table each cell reads and with which weights; the table is all maps of all images and levels, a row
the D quantities at one bin of one pixel. Then :func:`read` or :func:`read_mean` adds the rows up. One sampling serves
several tables of the same k. Nothing loops over regions, bins or images, and each sample reads one contiguous row,
which is what makes it fast.

Maps are ``(N, k * k * D, H, W)`` with channel ``(row * k + column) * D + d``. A map that is contiguous as channels-last
(:func:`position_sensitive_conv` makes one) becomes part of the table without a copy.

Regions are ``(R, 5)``: index of the image in the batch, then the box XYXY in absolute image pixels (pixel p covers the
interval p to p + 1). They get no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Samples(NamedTuple):
    """What each of the R * m * m cells reads: rows ``indices[offsets[c] : offsets[c + 1]]`` times their ``weights``.

    ``indices`` int64 (T,), ``weights`` (T,), ``offsets`` int64 (R * m * m,), ``resolution`` m.
    """

    indices: Tensor
    weights: Tensor
    offsets: Tensor
    resolution: int


def position_sensitive_conv(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1x1 convolution whose output lies in memory as :func:`to_table` wants it.

    Args:
        features: (N, C, H, W).
        weight, bias: of an ``nn.Conv2d(C, k * k * D, 1)``: (k * k * D, C, 1, 1) and (k * k * D,).

    Returns:
        (N, k * k * D, H, W), channels-last in memory.
    """
    return F.linear(features.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


def to_table(maps: Sequence[Tensor], grid_size: int) -> Tensor:
    """All maps as one table, rows ordered by level, image, y, x, bin.

    Args:
        maps: one tensor (N, k * k * D, H, W) a level.
        grid_size: k.

    Returns:
        (rows, D), in the maps' dtype. A view where there is one level and it is channels-last.

    Raises:
        ValueError: the number of channels is no multiple of k * k, or differs between levels.
    """
    bins = grid_size * grid_size
    channels = {m.shape[1] for m in maps}
    if len(channels) != 1 or maps[0].shape[1] % bins:
        raise ValueError(f"maps have {sorted(channels)} channels, wanted one multiple of k * k = {bins} on all levels")
    tables = [m.permute(0, 2, 3, 1).reshape(-1, maps[0].shape[1] // bins) for m in maps]
    return tables[0] if len(tables) == 1 else torch.cat(tables)


def read(table: Tensor, samples: Samples, method: str = "bag") -> Tensor:
    """The assembled grids.

    Args:
        table: (rows, D) of :func:`to_table`; half precision is read and added up as float32.
        samples: R regions of m x m cells.
        method: ``bag`` (``embedding_bag``, fast) or ``gather`` (indexing and a sum, for exporters such as ONNX; only
            of aligned samplings).

    Returns:
        (R, D, m, m), channels-last in memory; float64 if the table is, otherwise float32.
    """
    m = samples.resolution
    if method == "gather":
        if len(samples.indices) != 4 * len(samples.offsets):
            raise ValueError("method 'gather' needs four samples a cell, as aligned_samples gives them")
        table = table.to(_float(table))
        rows = table[samples.indices] * samples.weights.to(table.dtype)[:, None]
        cells = rows.view(-1, 4, table.shape[1]).sum(1)
    elif method == "bag":
        cells = _bags(table, samples.indices, samples.weights, samples.offsets)
    else:
        raise ValueError(f"method is {method!r}, wanted 'bag' or 'gather'")
    return cells.view(-1, m, m, table.shape[1]).permute(0, 3, 1, 2)


def read_mean(table: Tensor, samples: Samples) -> Tensor:
    """The mean over each region's cells, (R, D), without assembling them: ``read(...).mean((2, 3))``."""
    cells = samples.resolution**2
    return _bags(table, samples.indices, samples.weights / cells, samples.offsets[::cells])


def _float(table: Tensor) -> torch.dtype:
    return torch.promote_types(table.dtype, torch.float32)


def _bags(table: Tensor, indices: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """Weighted sums (B, D) of the rows of each bag."""
    table = table.to(_float(table))
    if not len(offsets):
        return table[:0] * 1.0  # embedding_bag refuses no bags; still part of the graph
    return F.embedding_bag(indices, table, offsets, mode="sum", per_sample_weights=weights.to(table.dtype))


def _region_frames(
    rois: Tensor, shapes: Sequence[tuple[int, int, int]], scales: Sequence[float], levels: Tensor | None, k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each region: the table's row of its image's first pixel, its map's height and width, and its scale, (R,)."""
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(f"rois have shape {tuple(rois.shape)}, wanted (R, 5): image index, XYXY")
    if len(shapes) != len(scales) or (levels is None and len(shapes) != 1):
        raise ValueError(f"{len(shapes)} map shapes, {len(scales)} scales: several levels need `levels`, one a region")
    if levels is None:
        levels = torch.zeros(len(rois), dtype=torch.int64, device=rois.device)
    rows = [n * h * w * k * k for n, h, w in shapes]
    starts = torch.tensor([sum(rows[:i]) for i in range(len(rows))], device=rois.device)[levels]
    height, width = torch.tensor([s[1:] for s in shapes], device=rois.device)[levels].unbind(1)
    base = starts + rois[:, 0].to(torch.int64) * height * width * (k * k)
    return base, height, width, rois.new_tensor(scales)[levels]


def _bins(m: int, k: int, device: torch.device) -> Tensor:
    """Bin floor(i k / m) of each cell i of one axis, int64 (m,)."""
    return torch.arange(m, device=device) * k // m


def aligned_samples(
    rois: Tensor, shapes: Sequence[tuple[int, int, int]], scales: Sequence[float], grid_size: int, resolution: int,
    levels: Tensor | None = None,
) -> Samples:  # fmt: skip
    """Bilinear sampling at the cells' centres, nothing rounded: to FCIS's pooling what ROIAlign is to ROIPool.

    A place more than one feature pixel outside the map reads 0, one nearer the edge reads the edge (as ROIAlign does).

    Args:
        rois: float (R, 5), see the module.
        shapes: (N, H, W) of each level's maps.
        scales: feature pixels an image pixel (1 / stride) of each level.
        grid_size: k.
        resolution: m, any number of at least 1.
        levels: int64 (R,), index into ``shapes`` of each region's level; None where there is one level.

    Returns:
        Four samples a cell, weights in the dtype of ``rois``.

    Raises:
        ValueError: shapes that do not fit together.
    """
    k, m = grid_size, resolution
    base, height, width, scale = _region_frames(rois, shapes, scales, levels, k)
    cells = (torch.arange(m, device=rois.device, dtype=rois.dtype) + 0.5) / m

    def axis(low: Tensor, high: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Indices and weights (R, m, 2) of the two pixels beside each cell's centre."""
        low, high = low * scale - 0.5, high * scale - 0.5  # the centre of feature pixel 0 is at 0
        place = low[:, None] + (high - low)[:, None] * cells
        last = (length - 1)[:, None].to(place.dtype)
        inside = (place >= -1) & (place <= last + 1)
        place = torch.minimum(place.clamp(min=0), last)
        first = torch.minimum(place.floor(), (last - 1).clamp(min=0))
        part = place - first
        first = first.to(torch.int64)
        second = torch.minimum(first + 1, (length - 1)[:, None])
        return torch.stack((first, second), -1), torch.stack((1 - part, part), -1) * inside[..., None]

    ys, y_weights = axis(rois[:, 2], rois[:, 4], height)
    xs, x_weights = axis(rois[:, 1], rois[:, 3], width)
    bins = _bins(m, k, rois.device)
    # (R, m, 1, 2, 1) and (R, 1, m, 1, 2): rows and columns of the cells, then of their four pixels
    rows = base[:, None, None] + ys * (width * (k * k))[:, None, None] + (bins * k)[:, None]
    columns = xs * (k * k) + bins[:, None]
    indices = rows[:, :, None, :, None] + columns[:, None, :, None, :]
    weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]
    offsets = torch.arange(len(rois) * m * m, device=rois.device) * 4
    return Samples(indices.flatten(), weights.flatten(), offsets, m)


def pooled_samples(
    rois: Tensor, shapes: Sequence[tuple[int, int, int]], scales: Sequence[float], grid_size: int, resolution: int,
    levels: Tensor | None = None,
) -> Samples:  # fmt: skip
    """The official FCIS pooling: whole pixels, averaged.

    The region's corners are rounded to image pixels (halves away from zero) and the last pixel counts; scaled, its
    sides are at least 0.1. A cell averages the feature pixels from floor(start) to ceil(end), clipped to the map; one
    without pixels reads 0. Arguments and errors as in :func:`aligned_samples`.
    """
    k, m = grid_size, resolution
    base, height, width, scale = _region_frames(rois, shapes, scales, levels, k)
    corners = rois[:, 1:].sign() * (rois[:, 1:].abs() + 0.5).floor()
    cells = torch.arange(m + 1, device=rois.device, dtype=rois.dtype)

    def axis(low: Tensor, high: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """First pixel and number of pixels (R, m) of each cell."""
        start = (low * scale)[:, None]
        side = ((high + 1) * scale)[:, None] - start
        edges = cells * (side.clamp(min=0.1) / m)
        first = (edges[:, :-1] + start).floor().to(torch.int64)
        end = (edges[:, 1:] + start).ceil().to(torch.int64)
        length = length[:, None]
        first, end = (torch.minimum(x.clamp(min=0), length) for x in (first, end))
        return first, (end - first).clamp(min=0)

    y, rows = axis(corners[:, 1], corners[:, 3], height)
    x, columns = axis(corners[:, 0], corners[:, 2], width)
    counts = (rows[:, :, None] * columns[:, None, :]).flatten()  # pixels of each cell
    ends = counts.cumsum(0)
    offsets = ends - counts
    cell = torch.repeat_interleave(torch.arange(len(counts), device=rois.device), counts)
    within = torch.arange(len(cell), device=rois.device) - offsets[cell]
    region, i, j = cell // (m * m), cell // m % m, cell % m
    across = columns[region, j]
    row = y[region, i] + within // across
    column = x[region, j] + within % across
    bins = _bins(m, k, rois.device)
    pixel = row * width[region] + column
    indices = base[region] + pixel * (k * k) + bins[i] * k + bins[j]
    return Samples(indices, 1.0 / counts[cell].to(rois.dtype), offsets, m)


def window_cell_indices(
    windows: Tensor, shapes: Sequence[tuple[int, int, int]], grid_size: int, resolution: int
) -> tuple[Tensor, Tensor]:
    """InstanceFCN's copy-paste: cell (i, j) of a window is the feature pixel (i, j) of it, nothing interpolated.

    Args:
        windows: int64 (W, 6): level, index of the image in the batch, row and column of the window's upper left
            feature pixel, which may lie outside of the map, and height and width of the part of the map that shows the
            image: what is right of it and below is the batch's padding.
        shapes: (N, H, W) of each level's maps.
        grid_size: k.
        resolution: m, the window's height and width in feature pixels.

    Returns:
        Rows of the table that the cells read, int64 (W, m, m), and which cells lie in the image, bool (W, m, m). Those
        that do not read some row of their image.
    """
    k, m = grid_size, resolution
    sizes = torch.tensor([[n * h * w * k * k, h, w] for n, h, w in shapes], device=windows.device)
    starts = sizes[:, 0].cumsum(0) - sizes[:, 0]
    level, image, top, left = windows[:, :4].unbind(1)
    height, width = windows[:, 4:].split(1, 1)
    map_height, map_width = sizes[level, 1:].split(1, 1)
    cells = torch.arange(m, device=windows.device)
    rows, columns = top[:, None] + cells, left[:, None] + cells
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    rows, columns = torch.minimum(rows.clamp(min=0), height - 1), torch.minimum(columns.clamp(min=0), width - 1)
    bins = _bins(m, k, windows.device)
    base = starts[level, None] + image[:, None] * map_height * map_width * (k * k)
    row_part = base + rows * map_width * (k * k) + bins * k
    return row_part[:, :, None] + (columns * (k * k) + bins)[:, None, :], inside


SAMPLINGS = {"aligned": aligned_samples, "pool": pooled_samples}


def assemble(
    score_maps: Tensor | Sequence[Tensor], rois: Tensor, scales: float | Sequence[float], grid_size: int,
    resolution: int, sampling: str = "aligned", levels: Tensor | None = None, method: str = "bag",
) -> Tensor:  # fmt: skip
    """Maps and regions to grids, in one call.

    Args:
        score_maps: (N, k * k * D, H, W), or one such tensor a level.
        rois: float (R, 5), see the module; R may be 0.
        scales: feature pixels an image pixel (1 / stride), one a level.
        grid_size, resolution: k and m.
        sampling: ``aligned`` or ``pool``.
        levels: see :func:`aligned_samples`.
        method: see :func:`read`.

    Returns:
        (R, D, m, m), float32 (float64 if the maps are).

    Raises:
        ValueError: an unknown sampling or method; shapes that do not fit together.
    """
    maps = [score_maps] if isinstance(score_maps, Tensor) else list(score_maps)
    scales = [scales] if isinstance(scales, (int, float)) else list(scales)
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling is {sampling!r}, wanted one of {list(SAMPLINGS)}")
    table = to_table(maps, grid_size)
    rois = rois.to(_float(table))
    shapes = [(m.shape[0], m.shape[2], m.shape[3]) for m in maps]
    return read(table, SAMPLINGS[sampling](rois, shapes, scales, grid_size, resolution, levels), method)
