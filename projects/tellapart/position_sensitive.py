"""Position-sensitive RoI (PSRoI) pooling: assembles a grid of values per region from position-sensitive maps.

FCIS and InstanceFCN share this file. A position-sensitive layer has k x k maps for each of D quantities, one map per
relative position ("the upper left part of an object", ...). A region is divided into m x m cells. Cell (i, j) reads the
map of its bin, (floor(i k / m), floor(j k / m)), at the cell's own location in the image (InstanceFCN, section 3.1;
FCIS, section 2.1).

All functions are pure. Pooling has two steps:

1. A *sampling* (:func:`aligned_samples` or :func:`pooled_samples`) computes which rows of a table each cell reads, and
   their weights. The table (:func:`to_table`) holds the maps of all levels and images; a row is the D values of one bin
   at one feature pixel.
2. :func:`assemble_cells` or :func:`assemble_means` computes the weighted sums of these rows.

The samples of a set of regions can be used with several tables of the same k. There is no loop over regions, bins or
images, and each sample reads one contiguous row, which makes pooling fast. :func:`assemble` does both steps at once.

Shapes and coordinates:

- Maps are ``(N, k * k * D, H, W)`` with channel ``(row * k + column) * D + d``. Maps that are contiguous in the
  channels-last memory format, as :func:`position_sensitive_conv` returns them, become a table without a copy.
- Regions are ``(R, 5)``: index of the image in the batch, then the box XYXY in absolute image pixels (pixel p covers
  the interval from p to p + 1). They receive no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .devices import to_device


class Samples(NamedTuple):
    """Which table rows each of the R * m * m cells reads, and with which weights.

    Cell c is the sum of the rows ``indices[offsets[c] : offsets[c + 1]]`` times their ``weights``.

    Attributes:
        indices: int64 (T,), rows of the table.
        weights: float (T,).
        offsets: int64 (R * m * m,), start of each cell in ``indices``; cells are ordered by region, row, column.
        resolution: m.
    """

    indices: Tensor
    weights: Tensor
    offsets: Tensor
    resolution: int


def position_sensitive_conv(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a 1x1 convolution whose output :func:`to_table` can use without a copy.

    Args:
        features: (N, C, H, W).
        weight: that of an ``nn.Conv2d(C, k * k * D, 1)``, (k * k * D, C, 1, 1).
        bias: (k * k * D,) or None.

    Returns:
        (N, k * k * D, H, W), contiguous in the channels-last memory format.
    """
    return F.linear(features.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


def to_table(maps: Sequence[Tensor], grid_size: int) -> Tensor:
    """Arrange all maps as one table with rows ordered by level, image, y, x, bin.

    Args:
        maps: one tensor (N, k * k * D, H, W) per level.
        grid_size: k.

    Returns:
        (rows, D), in the dtype of the maps. It is a view of the maps if there is one level and it is channels-last.

    Raises:
        ValueError: the number of channels is not a multiple of k * k, or differs between levels.
    """
    bins = grid_size * grid_size
    channels = {m.shape[1] for m in maps}
    if len(channels) != 1 or maps[0].shape[1] % bins:
        raise ValueError(
            f"maps have {sorted(channels)} channels, expected the same multiple of k * k = {bins} on all levels"
        )
    tables = [m.permute(0, 2, 3, 1).reshape(-1, maps[0].shape[1] // bins) for m in maps]
    return tables[0] if len(tables) == 1 else torch.cat(tables)


def level_maps(table: Tensor, map_shapes: Sequence[tuple[int, int, int]], grid_size: int, level: int) -> Tensor:
    """Return the maps of one level as a view of the table, the inverse of :func:`to_table`.

    Args:
        table: (rows, D).
        map_shapes: (N, H, W) of the maps of each level.
        grid_size: k.
        level: index into ``map_shapes``.

    Returns:
        (N, k, k, D, H, W): the second dimension is the row of the bin, the third its column.
    """
    rows = _rows_per_level(map_shapes, grid_size)
    images, height, width = map_shapes[level]
    maps = table[sum(rows[:level]) : sum(rows[: level + 1])]
    return maps.view(images, height, width, grid_size, grid_size, table.shape[1]).permute(0, 3, 4, 5, 1, 2)


def assemble_cells(table: Tensor, samples: Samples, method: str = "bag") -> Tensor:
    """Return the value of each cell of each region, the weighted sum of the rows that it reads.

    Args:
        table: (rows, D), see :func:`to_table`. Half precision is converted to float32 before the sum.
        samples: of R regions with m x m cells.
        method: ``bag`` uses ``embedding_bag``, which is fast. ``gather`` uses indexing and a sum, for exporters such as
            ONNX; it is only for the samples of :func:`aligned_samples`.

    Returns:
        (R, D, m, m), channels-last in memory; float64 if the table is float64, otherwise float32.

    Raises:
        ValueError: an unknown method, or ``gather`` with samples of :func:`pooled_samples`.
    """
    m = samples.resolution
    if method == "gather":
        if len(samples.indices) != 4 * len(samples.offsets):
            raise ValueError("method 'gather' needs four samples per cell, as aligned_samples returns them")
        table = table.to(_sum_dtype(table))
        rows = table[samples.indices] * samples.weights.to(table.dtype)[:, None]
        cells = rows.view(-1, 4, table.shape[1]).sum(1)
    elif method == "bag":
        cells = _weighted_sums(table, samples.indices, samples.weights, samples.offsets)
    else:
        raise ValueError(f"method is {method!r}, expected 'bag' or 'gather'")
    return cells.view(-1, m, m, table.shape[1]).permute(0, 3, 1, 2)


def assemble_means(table: Tensor, samples: Samples) -> Tensor:
    """Return the mean over the cells of each region, (R, D).

    It equals ``assemble_cells(table, samples).mean((2, 3))`` without the memory for the cells.
    """
    cells = samples.resolution**2
    return _weighted_sums(table, samples.indices, samples.weights / cells, samples.offsets[::cells])


def _sum_dtype(table: Tensor) -> torch.dtype:
    """The dtype in which rows are summed: at least float32."""
    return torch.promote_types(table.dtype, torch.float32)


def _weighted_sums(table: Tensor, indices: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """Sum the rows ``indices[offsets[b] : offsets[b + 1]]`` times their weights for each b, (B, D)."""
    table = table.to(_sum_dtype(table))
    if not len(offsets):
        return table[:0] * 1.0  # embedding_bag fails without offsets; this empty result stays in the autograd graph
    return F.embedding_bag(indices, table, offsets, mode="sum", per_sample_weights=weights.to(table.dtype))


def _rows_per_level(map_shapes: Sequence[tuple[int, int, int]], k: int) -> list[int]:
    return [images * height * width * k * k for images, height, width in map_shapes]


def _locate_regions(
    rois: Tensor, map_shapes: Sequence[tuple[int, int, int]], spatial_scales: Sequence[float], levels: Tensor | None,
    k: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Look up the map of each region.

    Returns:
        Four tensors (R,): the table row of the first pixel of the region's map, the height and the width of that map,
        and its spatial scale.
    """
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(f"rois have shape {tuple(rois.shape)}, expected (R, 5): image index, XYXY")
    if len(map_shapes) != len(spatial_scales) or (levels is None and len(map_shapes) != 1):
        raise ValueError(
            f"got {len(map_shapes)} map shapes and {len(spatial_scales)} spatial scales, expected one of each per "
            "level and, with several levels, `levels` with the level of each region"
        )
    if levels is None:
        levels = torch.zeros(len(rois), dtype=torch.int64, device=rois.device)
    rows = _rows_per_level(map_shapes, k)
    starts = to_device([sum(rows[:i]) for i in range(len(rows))], rois.device)[levels]
    height, width = to_device([s[1:] for s in map_shapes], rois.device)[levels].unbind(1)
    first_row = starts + rois[:, 0].to(torch.int64) * height * width * (k * k)
    return first_row, height, width, to_device(spatial_scales, rois.device, rois.dtype)[levels]


def _bin_of_cell(m: int, k: int, device: torch.device) -> Tensor:
    """Bin floor(i k / m) of each cell i along one axis, int64 (m,)."""
    return torch.arange(m, device=device) * k // m


def aligned_samples(
    rois: Tensor, map_shapes: Sequence[tuple[int, int, int]], spatial_scales: Sequence[float], grid_size: int,
    resolution: int, levels: Tensor | None = None,
) -> Samples:  # fmt: skip
    """Sample bilinearly at the center of each cell, without rounding, as ROIAlign with one sample per cell.

    As in ROIAlign, samples more than one feature pixel outside the map are zero, the others are clamped to the border.

    Args:
        rois: float (R, 5): image index, box XYXY in image pixels.
        map_shapes: (N, H, W) of the maps of each level.
        spatial_scales: 1 / stride of each level, in feature pixels per image pixel.
        grid_size: k.
        resolution: m, at least 1.
        levels: int64 (R,), index into ``map_shapes`` of the level of each region. None if there is one level.

    Returns:
        Four samples per cell, with weights in the dtype of ``rois``.

    Raises:
        ValueError: shapes that do not match.
    """
    k, m = grid_size, resolution
    first_row, height, width, scale = _locate_regions(rois, map_shapes, spatial_scales, levels, k)
    centers = (torch.arange(m, device=rois.device, dtype=rois.dtype) + 0.5) / m

    def sample_axis(low: Tensor, high: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Along one axis, the indices and weights (R, m, 2) of the two pixels next to the center of each cell."""
        low, high = low * scale - 0.5, high * scale - 0.5  # the center of feature pixel 0 is at 0
        position = low[:, None] + (high - low)[:, None] * centers
        last = (length - 1)[:, None].to(position.dtype)
        in_map = (position >= -1) & (position <= last + 1)
        position = torch.minimum(position.clamp(min=0), last)
        first = torch.minimum(position.floor(), (last - 1).clamp(min=0))
        fraction = position - first
        first = first.to(torch.int64)
        second = torch.minimum(first + 1, (length - 1)[:, None])
        weights = torch.stack((1 - fraction, fraction), -1) * in_map[..., None]
        return torch.stack((first, second), -1), weights

    ys, y_weights = sample_axis(rois[:, 2], rois[:, 4], height)
    xs, x_weights = sample_axis(rois[:, 1], rois[:, 3], width)
    bins = _bin_of_cell(m, k, rois.device)
    row_part = first_row[:, None, None] + ys * (width * (k * k))[:, None, None] + (bins * k)[:, None]
    column_part = xs * (k * k) + bins[:, None]
    # (R, m, 1, 2, 1) and (R, 1, m, 1, 2): rows and columns of the cells, then of the four pixels of each
    indices = row_part[:, :, None, :, None] + column_part[:, None, :, None, :]
    weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]
    offsets = torch.arange(len(rois) * m * m, device=rois.device) * 4
    return Samples(indices.flatten(), weights.flatten(), offsets, m)


def pooled_samples(
    rois: Tensor, map_shapes: Sequence[tuple[int, int, int]], spatial_scales: Sequence[float], grid_size: int,
    resolution: int, levels: Tensor | None = None,
) -> Samples:  # fmt: skip
    """Average whole feature pixels, as the PSRoI pooling of the authors' FCIS code.

    The corners of a region are rounded to image pixels (halves away from zero). After scaling, its height and width are
    at least 0.1 feature pixels. A cell is the average of the feature pixels from floor(start) to ceil(end), clipped to
    the map; a cell without pixels is zero. Arguments and errors are those of :func:`aligned_samples`. In the authors'
    code a region's x1, y1 is its last pixel, and 1 is added to it; here it is where the region ends.

    Returns:
        A varying number of samples per cell, with weights in the dtype of ``rois``.
    """
    k, m = grid_size, resolution
    first_row, height, width, scale = _locate_regions(rois, map_shapes, spatial_scales, levels, k)
    corners = rois[:, 1:].sign() * (rois[:, 1:].abs() + 0.5).floor()
    edge_numbers = torch.arange(m + 1, device=rois.device, dtype=rois.dtype)

    def pixels_on_axis(low: Tensor, high: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Along one axis, the first pixel and the number of pixels of each cell, (R, m)."""
        start = (low * scale)[:, None]
        side = (high * scale)[:, None] - start
        edges = edge_numbers * (side.clamp(min=0.1) / m)
        first = (edges[:, :-1] + start).floor().to(torch.int64)
        end = (edges[:, 1:] + start).ceil().to(torch.int64)
        length = length[:, None]
        first, end = (torch.minimum(x.clamp(min=0), length) for x in (first, end))
        return first, (end - first).clamp(min=0)

    first_y, num_rows = pixels_on_axis(corners[:, 1], corners[:, 3], height)
    first_x, num_columns = pixels_on_axis(corners[:, 0], corners[:, 2], width)
    num_pixels = (num_rows[:, :, None] * num_columns[:, None, :]).flatten()  # of each cell
    ends = num_pixels.cumsum(0)
    offsets = ends - num_pixels
    cell = torch.repeat_interleave(torch.arange(len(num_pixels), device=rois.device), num_pixels)
    index_in_cell = torch.arange(len(cell), device=rois.device) - offsets[cell]
    region, i, j = cell // (m * m), cell // m % m, cell % m
    columns_of_cell = num_columns[region, j]
    y = first_y[region, i] + index_in_cell // columns_of_cell
    x = first_x[region, j] + index_in_cell % columns_of_cell
    bins = _bin_of_cell(m, k, rois.device)
    pixel = y * width[region] + x
    indices = first_row[region] + pixel * (k * k) + bins[i] * k + bins[j]
    return Samples(indices, 1.0 / num_pixels[cell].to(rois.dtype), offsets, m)


def window_cell_indices(
    windows: Tensor, map_shapes: Sequence[tuple[int, int, int]], grid_size: int, resolution: int
) -> tuple[Tensor, Tensor]:
    """Compute the table row of each cell of InstanceFCN's windows: cell (i, j) is feature pixel (i, j) of the window.

    Args:
        windows: int64 (W, 6): level; index of the image in the batch; row and column of the window's upper left feature
            pixel, which may be outside the map; height and width of the part of the map that shows the image. The rest
            of the map, below and to the right, is the padding of the batch.
        map_shapes: (N, H, W) of the maps of each level.
        grid_size: k.
        resolution: m, the height and width of a window in feature pixels.

    Returns:
        Row of the table of each cell, int64 (W, m, m), and whether the cell lies in the image, bool (W, m, m). The row
        of a cell outside the image is that of another pixel of the same image.
    """
    k, m = grid_size, resolution
    sizes = to_device([[n * h * w * k * k, h, w] for n, h, w in map_shapes], windows.device)
    starts = sizes[:, 0].cumsum(0) - sizes[:, 0]
    level, image, top, left = windows[:, :4].unbind(1)
    height, width = windows[:, 4:].split(1, 1)
    map_height, map_width = sizes[level, 1:].split(1, 1)
    cells = torch.arange(m, device=windows.device)
    rows, columns = top[:, None] + cells, left[:, None] + cells
    in_image = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    rows, columns = torch.minimum(rows.clamp(min=0), height - 1), torch.minimum(columns.clamp(min=0), width - 1)
    bins = _bin_of_cell(m, k, windows.device)
    first_row = starts[level, None] + image[:, None] * map_height * map_width * (k * k)
    row_part = first_row + rows * map_width * (k * k) + bins * k
    return row_part[:, :, None] + (columns * (k * k) + bins)[:, None, :], in_image


SAMPLINGS = {"aligned": aligned_samples, "pool": pooled_samples}  # by the value of MODEL.FCIS.SAMPLING


def assemble(
    score_maps: Tensor | Sequence[Tensor], rois: Tensor, spatial_scales: float | Sequence[float], grid_size: int,
    resolution: int, sampling: str = "aligned", levels: Tensor | None = None, method: str = "bag",
) -> Tensor:  # fmt: skip
    """Pool regions from position-sensitive maps in one call.

    Args:
        score_maps: (N, k * k * D, H, W), or one such tensor per level.
        rois: (R, 5): image index, box XYXY in image pixels; R may be 0.
        spatial_scales: 1 / stride, or one such number per level, in feature pixels per image pixel.
        grid_size: k.
        resolution: m.
        sampling: ``aligned`` (:func:`aligned_samples`) or ``pool`` (:func:`pooled_samples`).
        levels: int64 (R,), level of each region. None if there is one level.
        method: see :func:`assemble_cells`.

    Returns:
        (R, D, m, m), float64 if the maps are float64, otherwise float32.

    Raises:
        ValueError: an unknown sampling or method, or shapes that do not match.
    """
    maps = [score_maps] if isinstance(score_maps, Tensor) else list(score_maps)
    scales = [spatial_scales] if isinstance(spatial_scales, (int, float)) else list(spatial_scales)
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling is {sampling!r}, expected one of {list(SAMPLINGS)}")
    table = to_table(maps, grid_size)
    rois = rois.to(_sum_dtype(table))
    map_shapes = [(m.shape[0], m.shape[2], m.shape[3]) for m in maps]
    return assemble_cells(table, SAMPLINGS[sampling](rois, map_shapes, scales, grid_size, resolution, levels), method)
