"""PSRoI pooling, compared with loops over regions, cells and quantities, with torchvision, and with ONNX Runtime."""

import math

from tellapart.position_sensitive import (
    SAMPLINGS,
    assemble,
    assemble_cells,
    assemble_means,
    level_maps,
    position_sensitive_conv,
    to_table,
)

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import ps_roi_align

# boxes for a 40 x 30 image: beyond each of its sides, without area, inverted, tiny, much larger than the image, and
# with corners at halves of both signs
UNUSUAL_BOXES = [
    [-9, -7, 12, 11], [31, 22, 55, 41], [-30, 5, -20, 15], [60, 5, 80, 15], [5, -30, 15, -20], [5, 50, 15, 70],
    [7, 8, 7, 8], [20, 3, 20, 25], [25, 20, 5, 4], [30, 2, 10, 21], [3.3, 4.7, 3.31, 4.71], [-100, -90, 200, 150],
    [0.5, 1.5, 10.5, 12.5], [-0.5, -1.5, 7.5, 9.5], [-2.5, -10.5, -0.5, 3.5], [0, 0, 40, 30], [38.7, 28.9, 41.3, 31.2],
]  # fmt: skip


def random_rois(count, images=1, seed=0, unusual=True):
    """(R, 5): ``count`` random boxes in and around a 40 x 30 image, and UNUSUAL_BOXES."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-0.3, 1.1, (count, 2)) * (40, 30)
    boxes = np.concatenate([corners, corners + rng.uniform(0, 1, (count, 2)) * (40, 30)], 1)
    boxes = np.concatenate([boxes, UNUSUAL_BOXES]) if unusual else boxes
    return torch.from_numpy(np.concatenate([np.arange(len(boxes))[:, None] % images, boxes], 1))


def random_maps(images, k, height, width, quantities=2, dtype=torch.float64, seed=0):
    shape = (images, k * k * quantities, height, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def bilinear(plane, y, x):
    """The value of the plane at (y, x); the center of its first pixel is (0, 0)."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    return sum(
        (1 - abs(y - v)) * (1 - abs(x - u)) * plane[v, u]
        for v in {math.floor(y), math.ceil(y)} for u in {math.floor(x), math.ceil(x)}
    )  # fmt: skip


def slow_aligned_cell(plane, box, scale, i, j, m):
    x0, y0, x1, y1 = (float(c) * scale for c in box)
    return bilinear(plane, y0 + (y1 - y0) * (i + 0.5) / m - 0.5, x0 + (x1 - x0) * (j + 0.5) / m - 0.5)


def slow_pooled_cell(plane, box, scale, i, j, m):
    """Computed in the dtype of the plane: near whole feature pixels rounding decides which pixels are read."""
    number = plane.dtype.type
    x0, y0, x1, y1 = (number(math.copysign(math.floor(abs(c) + 0.5), c)) for c in box.tolist())

    def pixels(low, high, cell, length):
        start = low * number(scale)
        step = max(high * number(scale) - start, number(0.1)) / number(m)
        first, end = math.floor(number(cell) * step + start), math.ceil(number(cell + 1) * step + start)
        return [p for p in range(first, end) if 0 <= p < length]

    rows, columns = pixels(y0, y1, i, plane.shape[0]), pixels(x0, x1, j, plane.shape[1])
    values = [plane[v, u] for v in rows for u in columns]
    return sum(values) / len(values) if values else 0.0


SLOW = {"aligned": slow_aligned_cell, "pool": slow_pooled_cell}


def slow_assemble(maps, rois, scales, k, m, sampling, levels=None):
    """PSRoI pooling by its definition, one cell after the other."""
    levels = [0] * len(rois) if levels is None else levels.tolist()
    quantities = maps[0].shape[1] // (k * k)
    out = np.zeros((len(rois), quantities, m, m), maps[0].numpy().dtype)
    for r, (roi, level) in enumerate(zip(rois.numpy(), levels)):
        image = maps[level].numpy()[int(roi[0])]
        for i in range(m):
            for j in range(m):
                row, column = math.floor(i * k / m), math.floor(j * k / m)
                for d in range(quantities):
                    plane = image[(row * k + column) * quantities + d]
                    out[r, d, i, j] = SLOW[sampling](plane, roi[1:], scales[level], i, j, m)
    return torch.from_numpy(out)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("k", "m", "size", "stride"),
    [(1, 1, (8, 10), 4), (1, 3, (7, 11), 4), (2, 1, (15, 20), 2), (2, 6, (4, 5), 8),
     (3, 3, (1, 1), 40), (3, 7, (15, 19), 2), (3, 4, (30, 40), 1), (5, 21, (4, 5), 8), (7, 7, (5, 3), 8),
     (7, 21, (2, 3), 16)],
)  # fmt: skip
def test_assemble_equals_the_loop(sampling, dtype, k, m, size, stride):
    images = 3
    maps = random_maps(images, k, *size, dtype=dtype)
    rois = random_rois(300 // (m * m) + 5, images, seed=m).to(dtype)
    got = assemble(maps, rois, 1 / stride, k, m, sampling)
    assert got.dtype == dtype
    expected = slow_assemble([maps], rois, [1 / stride], k, m, sampling)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)
    assert (expected == 0).any() and (expected != 0).any()


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_each_region_reads_its_own_level_and_image(sampling):
    k, m, scales = 2, 5, [1 / 2, 1 / 4, 1 / 8]
    maps = [random_maps(2, k, *size, seed=s) for s, size in enumerate([(15, 20), (8, 10), (4, 5)])]
    rois = random_rois(20, images=2)
    levels = torch.arange(len(rois)) // 2 % 3
    got = assemble(maps, rois, scales, k, m, sampling, levels)
    torch.testing.assert_close(got, slow_assemble(maps, rois, scales, k, m, sampling, levels), rtol=0, atol=1e-12)
    one = levels == 1
    torch.testing.assert_close(got[one], assemble(maps[1], rois[one], scales[1], k, m, sampling), rtol=0, atol=0)


def test_aligned_samples_are_clamped_to_the_border_up_to_one_pixel_outside():
    """One cell per box, whose center c is position c - 0.5 of a map with the 4 pixels 1 to 4."""
    maps = torch.arange(1.0, 5.0, dtype=torch.float64).expand(1, 1, 4, 4)
    centers = [-0.6, -0.5, 0.2, 0.5, 1.0, 2.75, 4.0, 4.5, 4.6]
    rois = torch.tensor([[0, c - 0.25, 1, c + 0.25, 3] for c in centers], dtype=torch.float64)
    expected = [0, 1, 1, 1, 1.5, 3.25, 4, 4, 0]
    assert assemble(maps, rois, 1.0, 1, 1).flatten().tolist() == pytest.approx(expected)
    transposed = assemble(maps.transpose(2, 3), rois[:, [0, 2, 1, 4, 3]], 1.0, 1, 1)
    assert transposed.flatten().tolist() == pytest.approx(expected)


def test_pool_rounds_halves_away_from_zero():
    maps = 2.0 ** torch.arange(8.0).expand(1, 1, 1, 8)
    boxes = {(0.5, 2.5): [1, 2], (1.5, 3.5): [2, 3], (2.49, 4.5): [2, 3, 4], (-0.5, 1.4): [0], (-2.5, 0.5): [0],
             (-2.5, 0.49): [], (6.5, 8.5): [7], (7.5, 10): [], (3, 4): [3], (3, 3): [3], (6, 4): [6]}  # fmt: skip
    rois = torch.tensor([[0, low, 0, high, 1] for low, high in boxes])
    expected = [sum(2.0**p for p in pixels) / max(1, len(pixels)) for pixels in boxes.values()]
    assert assemble(maps, rois, 1.0, 1, 1, "pool").flatten().tolist() == pytest.approx(expected)


def test_pooled_regions_have_a_minimal_side():
    """0.1 feature pixels: from 0.905 to 1.005 these are two pixels, from 0.895 to 0.995 one. Also of inverted boxes."""
    maps = torch.tensor([1.0, 2, 4]).expand(1, 1, 3, 3)
    rois = torch.tensor([[0.0, low, 0, high, 1] for low, high in ((905, 906), (895, 896), (905, 100), (895, 100))])
    assert assemble(maps, rois, 1 / 1000, 1, 1, "pool").flatten().tolist() == [1.5, 1, 1.5, 1]


def test_pooled_cells_share_the_pixel_between_them():
    """Three pixels in two cells, 0 to 1.5 and 1.5 to 3: each cell averages two pixels of the map of its bin."""
    maps = torch.tensor([[1.0, 2, 4, 99], [10, 20, 40, 99]]).repeat(2, 1).view(1, 4, 1, 4)
    got = assemble(maps, torch.tensor([[0.0, 0, 0, 3, 1]]), 1.0, 2, 2, "pool")
    assert got.tolist() == [[[[1.5, 30], [1.5, 30]]]]


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("finer", [1, 3])
def test_aligned_equals_ps_roi_align_of_shifted_regions(k, finer):
    """torchvision's layer has m = k only, so m = 3 k is compared with its results for regions moved by 1/3 cell.

    Its channels are (d k + row) k + column.
    """
    quantities, m = 3, k * finer
    maps = random_maps(2, k, 8, 10, quantities, torch.float32)
    theirs = maps.view(2, k, k, quantities, 8, 10).permute(0, 3, 1, 2, 4, 5).flatten(1, 3)
    rois = random_rois(30, images=2, seed=k).float()
    got = assemble(maps, rois, 1 / 4, k, m)
    for a in range(finer):
        for b in range(finer):
            shift = (torch.tensor([b, a, b, a]) - (finer - 1) / 2) / m
            shifted = rois.clone()
            shifted[:, 1:] += (rois[:, 3:] - rois[:, 1:3]).repeat(1, 2) * shift
            expected = ps_roi_align(theirs.contiguous(), shifted, k, 1 / 4, 1)
            torch.testing.assert_close(got[:, :, a::finer, b::finer], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gather_equals_bag(dtype):
    maps = [random_maps(2, 3, *size, dtype=dtype) for size in ((15, 20), (8, 10))]
    rois = random_rois(20, images=2)
    arguments = maps, rois, [1 / 2, 1 / 4], 3, 7, "aligned", torch.arange(len(rois)) % 2
    bag, gather = assemble(*arguments), assemble(*arguments, method="gather")
    assert bag.dtype == gather.dtype and bag.shape == gather.shape
    torch.testing.assert_close(gather, bag, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(sampling, dtype):
    maps = random_maps(2, 3, 8, 10, dtype=dtype)
    rois = random_rois(20, images=2).float()
    got = assemble(maps, rois.to(torch.float64), 1 / 4, 3, 7, sampling)
    assert got.dtype == torch.float32
    assert torch.equal(got, assemble(maps.float(), rois, 1 / 4, 3, 7, sampling))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_assemble_means_equals_the_mean_of_the_cells(sampling):
    maps, rois = random_maps(2, 3, 8, 10), random_rois(20, images=2)
    samples = SAMPLINGS[sampling](rois, [(2, 8, 10)], [1 / 4], 3, 7)
    table = to_table([maps], 3)
    expected = assemble_cells(table, samples).mean((2, 3))
    torch.testing.assert_close(assemble_means(table, samples), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_result_does_not_depend_on_the_memory_format(sampling):
    maps, rois = random_maps(2, 3, 16, 10, dtype=torch.float32)[:, :, ::2], random_rois(20, images=2)
    expected = assemble(maps.contiguous(), rois, 1 / 4, 3, 7, sampling)
    for same_maps in (maps, maps.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(assemble(same_maps, rois, 1 / 4, 3, 7, sampling), expected)


def test_table_is_a_view_of_channels_last_maps():
    maps = random_maps(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    table = to_table([maps], 3)
    assert table.data_ptr() == maps.data_ptr() and table.shape == (2 * 4 * 5 * 9, 2)
    n, y, x, row, column = 1, 2, 3, 2, 1
    assert torch.equal(table[((n * 4 + y) * 5 + x) * 9 + row * 3 + column], maps[n, 14:16, y, x])
    assert torch.equal(to_table([maps, maps[:, :, :2] + 1], 3)[len(table) :], to_table([maps[:, :, :2] + 1], 3))


def test_level_maps_is_the_inverse_of_to_table():
    maps = [random_maps(2, 3, 4, 5), random_maps(2, 3, 2, 3, seed=1)]
    table, shapes = to_table(maps, 3), [(2, 4, 5), (2, 2, 3)]
    for level, level_map in enumerate(maps):
        got = level_maps(table, shapes, 3, level)
        assert got.shape == (2, 3, 3, 2, *shapes[level][1:])
        assert torch.equal(got.flatten(1, 3), level_map)


@pytest.mark.parametrize("bias", [True, False])
def test_conv_equals_conv2d_and_needs_no_copy(bias):
    layer, features = nn.Conv2d(5, 18, 1, bias=bias), torch.randn(2, 5, 4, 3)
    maps = position_sensitive_conv(features, layer.weight, layer.bias)
    torch.testing.assert_close(maps, layer(features))
    assert to_table([maps], 3).data_ptr() == maps.data_ptr()


@pytest.mark.parametrize(("sampling", "method"), [("aligned", "bag"), ("aligned", "gather"), ("pool", "bag")])
def test_no_regions(sampling, method):
    maps = random_maps(1, 2, 4, 5, dtype=torch.float16).requires_grad_()
    grids = assemble(maps, torch.zeros(0, 5), 1.0, 2, 3, sampling, method=method)
    assert grids.shape == (0, 2, 3, 3) and grids.dtype == torch.float32
    samples = SAMPLINGS[sampling](torch.zeros(0, 5), [(1, 4, 5)], [1.0], 2, 3)
    mean = assemble_means(to_table([maps], 2), samples)
    assert mean.shape == (0, 2) and mean.dtype == torch.float32
    (grids.sum() + mean.sum()).backward()
    assert maps.grad.shape == maps.shape and not maps.grad.any()


@pytest.mark.parametrize(("sampling", "method"), [("aligned", "bag"), ("aligned", "gather"), ("pool", "bag")])
def test_gradient_of_the_maps(sampling, method):
    maps = random_maps(2, 2, 3, 2).requires_grad_()
    rois = random_rois(4, images=2)
    assert torch.autograd.gradcheck(lambda x: assemble(x, rois, 1 / 16, 2, 3, sampling, method=method), maps)
    samples = SAMPLINGS[sampling](rois, [(2, 3, 2)], [1 / 16], 2, 3)
    assert torch.autograd.gradcheck(lambda x: assemble_means(to_table([x], 2), samples), maps)


def test_errors_name_what_does_not_match():
    maps, rois = torch.zeros(1, 18, 4, 5), torch.zeros(2, 5)
    with pytest.raises(ValueError, match=r"\[18\] channels, expected the same multiple of k \* k = 4"):
        assemble(maps, rois, 1.0, 2, 3)
    with pytest.raises(ValueError, match=r"\[9, 18\] channels"):
        to_table([maps, maps[:, :9]], 3)
    with pytest.raises(ValueError, match=r"shape \(2, 4\), expected \(R, 5\)"):
        assemble(maps, rois[:, :4], 1.0, 3, 3)
    with pytest.raises(ValueError, match="2 map shapes and 2 spatial scales, .* with several levels, `levels`"):
        assemble([maps, maps], rois, [1.0, 0.5], 3, 3)
    for sample in SAMPLINGS.values():
        with pytest.raises(ValueError, match="1 map shapes and 2 spatial scales"):
            sample(rois, [(1, 4, 5)], [1.0, 0.5], 3, 3)
    with pytest.raises(ValueError, match=r"'max', expected one of \['aligned', 'pool'\]"):
        assemble(maps, rois, 1.0, 3, 3, "max")
    with pytest.raises(ValueError, match="'sum', expected 'bag' or 'gather'"):
        assemble(maps, rois, 1.0, 3, 3, method="sum")
    with pytest.raises(ValueError, match="four samples per cell"):
        assemble(maps, rois + 1, 1.0, 3, 3, "pool", method="gather")


class PSRoIPooling(nn.Module):
    """PSRoI pooling from two levels to 7 x 7 cells, as a module that can be exported."""

    def forward(self, fine, coarse, rois, levels):
        return assemble([fine, coarse], rois, [1 / 4, 1 / 8], 3, 7, levels=levels, method="gather")


@pytest.mark.filterwarnings("ignore")
def test_gather_runs_in_onnx_runtime(tmp_path):
    """The model is exported once and run with other numbers of regions and other sizes of maps and batches."""
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    onnxruntime = pytest.importorskip("onnxruntime")

    def inputs(count, images, height, width):
        maps = [random_maps(images, 3, height // s, width // s, dtype=torch.float32, seed=s) for s in (4, 8)]
        rois = random_rois(count, images, seed=count, unusual=count > 3).float()
        return (*maps, rois, torch.arange(len(rois)) % 2)

    any_size = torch.export.Dim.DYNAMIC
    dynamic_shapes = ({0: any_size, 2: any_size, 3: any_size},) * 2 + ({0: any_size},) * 2
    net = PSRoIPooling().eval()
    program = torch.onnx.export(net, inputs(5, 2, 32, 40), dynamo=True, dynamic_shapes=dynamic_shapes, verbose=False)
    program.save(tmp_path / "pooling.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "pooling.onnx", providers=["CPUExecutionProvider"])
    for sizes in ((5, 2, 32, 40), (3, 2, 32, 40), (1, 1, 24, 56), (0, 1, 32, 40), (40, 3, 8, 16)):
        arguments = inputs(*sizes)
        (got,) = session.run(None, {node.name: x.numpy() for node, x in zip(session.get_inputs(), arguments)})
        np.testing.assert_allclose(got, net(*arguments).numpy(), rtol=0, atol=1e-5)
