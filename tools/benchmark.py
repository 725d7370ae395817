#!/usr/bin/env python
"""Measure time and memory of parts of the methods beside an alternative, in the same run, as a ratio.

    python tools/benchmark.py               # all but models
    python tools/benchmark.py assemble      # PSRoI assembling: embedding_bag, gather, torchvision's ps_roi_align
    python tools/benchmark.py memory        # peak memory of scoring 600 regions of 81 categories: in chunks, at once
    python tools/benchmark.py voting        # mask voting: all detections at once, one by one
    python tools/benchmark.py windows       # masks of 100 windows: InstanceFCN's score maps, the DeepMask-style head
    python tools/benchmark.py semiconv      # a training step of Mask R-CNN, without and with the operators
    python tools/benchmark.py clusters      # clustering by seeds: all pairs of pixels, ours, ours on 2048 x 2048 px
    python tools/benchmark.py models        # whole models beside Mask R-CNN, with options of its own: models --help
    python tools/benchmark.py images        # reading PNG and JPEG: Detectron2's function, ours

Times are medians over several runs. Absolute times depend on the machine, ratios much less.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tellapart import add_config
from tellapart.coloring.clustering import nearest_center_index, seed_and_affinity
from tellapart.data.image_reading import ImageReader
from tellapart.engine.config_checks import load_config
from tellapart.fcis import MaskVoting
from tellapart.fcis.mask_voting import vote
from tellapart.fcis.roi_heads import FCISROIHeads
from tellapart.instance_fcn.heads import DeepMaskHead, InstanceSensitiveHead
from tellapart.instance_fcn.windows import centered_windows
from tellapart.position_sensitive import assemble

import benchmark_models
import cv2
import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.data import detection_utils
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.utils.benchmark import Timer
from torchvision.ops import ps_roi_align

GRID, RESOLUTION, CLASSES, STRIDE = 7, 21, 80, 16  # the paper's
MAP_SIZE = (38, 63)  # height and width of the maps of a 600 x 1000 image


def random_boxes(count: int) -> torch.Tensor:
    """Return boxes with sides of 32 to 400 px in a 600 x 1000 image, (count, 4) XYXY; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    sides = 32 + 368 * torch.rand((count, 2), generator=generator)
    corner = torch.rand((count, 2), generator=generator) * (torch.tensor([1000.0, 600.0]) - sides)
    return torch.cat((corner, corner + sides), 1)


def seconds(function: Callable[[], object]) -> float:
    """Return the median time of a call in seconds."""
    timer = Timer("f()", globals={"f": function}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=2.0).median


def report(rows: list[tuple[str, float]], unit: str = "s") -> None:
    """Print each row with its ratio to the first."""
    for name, value in rows:
        print(f"  {name:58s} {value:9.4f} {unit}   {value / rows[0][1]:6.2f} x")


def benchmark_assemble() -> None:
    """Assemble 300 regions of 81 categories; ``ps_roi_align`` needs one call for each of the 3 x 3 cells of a bin."""
    columns = 2 * (CLASSES + 1)
    maps = torch.randn((1, GRID * GRID * columns, *MAP_SIZE)).contiguous(memory_format=torch.channels_last)
    rois = torch.cat((torch.zeros(300, 1), random_boxes(300)), 1)

    def shifted() -> torch.Tensor:
        cell = (rois[:, 3:] - rois[:, 1:3]) / RESOLUTION
        grids = []
        for row in (-1, 0, 1):  # upper, middle and lower cells of all bins
            for column in (-1, 0, 1):
                shift = torch.stack((column * cell[:, 0], row * cell[:, 1]), 1)
                moved = torch.cat((rois[:, :1], rois[:, 1:] + shift.repeat(1, 2)), 1)
                grids.append(ps_roi_align(theirs, moved, GRID, 1 / STRIDE, sampling_ratio=1))
        grids = torch.stack(grids, 2).unflatten(2, (3, 3))  # (R, D, 3, 3, k, k)
        return grids.permute(0, 1, 4, 2, 5, 3).reshape(len(rois), columns, RESOLUTION, RESOLUTION)

    # torchvision's channel order is (output channel, row, column)
    theirs = maps.unflatten(1, (GRID * GRID, columns)).transpose(1, 2).flatten(1, 2).contiguous()
    arguments = (maps, rois, 1 / STRIDE, GRID, RESOLUTION)
    difference = (shifted() - assemble(*arguments)).abs().max().item()
    print(f"assemble: 300 regions, k 7, 21 x 21 cells, 81 categories, maps {MAP_SIZE}; ours - theirs {difference:.1e}")
    learned = maps.clone(memory_format=torch.channels_last).requires_grad_()
    report(
        [
            ("aligned, embedding_bag", seconds(lambda: assemble(*arguments))),
            ("aligned, gather", seconds(lambda: assemble(*arguments, method="gather"))),
            ("official pooling, embedding_bag", seconds(lambda: assemble(*arguments, sampling="pool"))),
            ("aligned, nine shifted calls of torchvision's ps_roi_align", seconds(shifted)),
            ("aligned, forward and backward", seconds(lambda: assemble(learned, *arguments[1:]).sum().backward())),
        ]
    )


def _peak_mib() -> float:
    """Return the peak memory of this process in MiB (Linux only)."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def _peak_of_scoring(chunk_size: int, pipe) -> None:
    cfg = get_cfg()
    add_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.MASK_ON = "FCIS", True
    cfg.MODEL.ROI_HEADS.IN_FEATURES, cfg.MODEL.FCIS.CHUNK_SIZE = ["res5"], chunk_size
    heads = FCISROIHeads(cfg, {"res5": ShapeSpec(channels=64, stride=STRIDE)}).eval()
    with torch.no_grad():
        maps = heads.position_sensitive_maps([torch.randn(1, 64, *MAP_SIZE)])
        heads.score_regions(maps, [Boxes(random_boxes(10))])  # libraries allocate memory at the first call
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _peak_mib()
        heads.score_regions(maps, [Boxes(random_boxes(600))])
    pipe.send(_peak_mib() - before)


def benchmark_memory() -> None:
    """Compare the growth of the peak memory; each variant runs in its own process."""
    print("memory: growth of the peak while 600 regions of 81 categories are scored (without the maps)")
    rows = []
    for name, chunk_size in (("in chunks of 100 (MODEL.FCIS.CHUNK_SIZE)", 100), ("all grids at once", 600)):
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=_peak_of_scoring, args=(chunk_size, theirs))
        process.start()
        rows.append((name, ours.recv()))
        process.join()
    report(rows, "MiB")


def benchmark_voting() -> None:
    """Vote on the masks of 100 detections with 600 candidates in a 600 x 1000 image."""
    generator = torch.Generator().manual_seed(1)
    boxes = random_boxes(60).repeat(10, 1) + 6 * torch.randn((600, 4), generator=generator)
    boxes = Boxes(boxes)
    boxes.clip((600, 1000))
    masks = torch.rand((600, RESOLUTION, RESOLUTION), generator=generator)
    scores = torch.rand((600, CLASSES), generator=generator) ** 8
    detections = MaskVoting()(boxes.tensor, scores, masks, (600, 1000))
    kept = boxes.tensor[: len(detections)]
    weights = (torch.rand((len(kept), 600), generator=generator) < 10 / 600).float()

    def one_by_one() -> list[torch.Tensor]:
        return [vote(masks, boxes.tensor, row[None], (600, 1000), 0.4) for row in weights]

    print(f"voting: {len(kept)} detections, about 10 voters each of 600 candidates, 600 x 1000 px")
    report(
        [
            ("all at once", seconds(lambda: vote(masks, boxes.tensor, weights, (600, 1000), 0.4))),
            ("detection by detection", seconds(one_by_one)),
        ]
    )


def benchmark_windows() -> None:
    """Compare both heads in the paper's sizes: 512 channels, stride 8, windows of 21 x 21, k = 5; DeepMask 56 x 56."""
    height, width = 75, 125  # of a 600 x 1000 image
    features = [torch.randn(1, 512, height, width)]
    all_windows = centered_windows(0, 0, (height, width), 21)
    windows_100 = all_windows[torch.randperm(len(all_windows), generator=torch.Generator().manual_seed(0))[:100]]
    ours = InstanceSensitiveHead(in_channels=512, conv_dim=512, grid_size=5, window_size=21)
    theirs = DeepMaskHead(in_channels=512, hidden_dim=512, window_size=21, mask_resolution=56)
    counts = [sum(p.numel() for p in head.parameters()) for head in (ours, theirs)]
    print(f"windows: 600 x 1000 px, {len(all_windows)} windows; {counts[0]:,} and {counts[1]:,} parameters")

    def run(head: torch.nn.Module, windows: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return head.predict_masks(head(features), windows)[0]

    report(
        [
            ("score maps, 100 windows assembled", seconds(lambda: run(ours, windows_100))),
            ("score maps, all windows assembled", seconds(lambda: run(ours, all_windows))),
            ("DeepMask-style, 100 windows", seconds(lambda: run(theirs, windows_100))),
        ]
    )


def benchmark_semiconv() -> None:
    """Compare training steps of the quick BBBC010 configs on two random crops with 20 box-shaped instances each."""
    inputs = []
    for seed in (0, 1):
        boxes = Boxes(random_boxes(20) * 0.3 + seed)
        boxes.clip((256, 256))
        truth = Instances((256, 256), gt_boxes=boxes, gt_classes=torch.zeros(20, dtype=torch.int64))
        masks = torch.zeros(20, 256, 256, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.tensor.long().tolist()):
            mask[y0:y1, x0:x1] = True
        truth.gt_masks = BitMasks(masks)
        inputs.append({"image": torch.randint(0, 255, (3, 256, 256), dtype=torch.uint8), "instances": truth})
    rows = []
    for name, config in (("Mask R-CNN", "mask_rcnn"), ("with semi-convolutional operators", "semiconv")):
        path = Path(__file__).resolve().parents[1] / "configs" / "quick" / config / f"{config}_R_18_FPN_bbbc010.yaml"
        model = build_model(load_config(str(path), ["MODEL.DEVICE", "cpu"])).train()

        def step(model: torch.nn.Module = model) -> None:
            model.zero_grad()
            with EventStorage(0):
                sum(model(inputs).values()).backward()

        rows.append((name, seconds(step)))
    print("semiconv: forward and backward, R-18-FPN, two images of 256 x 256 px, 20 instances each")
    report(rows)


def benchmark_images() -> None:
    """Read PNG and JPEG files of 640 x 480 px by Detectron2's function and by ours."""
    picture = cv2.resize(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8), (640, 480))
    reader = ImageReader()
    with tempfile.TemporaryDirectory() as folder:
        for ending in ("png", "jpg"):
            path = f"{folder}/image.{ending}"
            cv2.imwrite(path, picture)
            assert np.array_equal(reader(path, "BGR"), detection_utils.read_image(path, "BGR"))
            print(f"images: reading a {ending} of 640 x 480 px")
            functions = {"Detectron2's read_image": detection_utils.read_image, "ImageReader": reader}
            report([(name, seconds(partial(function, path, "BGR"))) for name, function in functions.items()])


def _all_pairs(embeddings: torch.Tensor, scores: torch.Tensor, bandwidth: float) -> torch.Tensor:
    """Cluster by seeds with a dense matrix of all pairs of pixels."""
    is_near = (torch.cdist(embeddings, embeddings) <= bandwidth).float()
    centers, remaining = [], torch.ones(len(embeddings), dtype=torch.bool)
    while remaining.any():
        seed = torch.where(remaining, is_near @ (scores * remaining), -1.0).argmax()
        members = (is_near[seed] > 0) & remaining
        centers.append(embeddings[members].mean(0))
        remaining &= ~members
    return torch.stack(centers)


def _clustering(side: int, ours: bool, pipe) -> None:
    generator = torch.Generator().manual_seed(0)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    size = side // 32 if side > 1000 else 8  # objects per side
    index = (row * size // side * size + column * size // side).flatten()
    embeddings = (torch.rand(size**2, 8, generator=generator) * 5)[index]
    embeddings += 0.03 * torch.randn(embeddings.shape, generator=generator)
    scores = torch.rand(len(embeddings), generator=generator)
    Path("/proc/self/clear_refs").write_text("5")
    before, start = _peak_mib(), time.perf_counter()
    if ours:
        centers = seed_and_affinity(embeddings, scores, None, 0.25)
        nearest_center_index(embeddings, centers)
    else:
        centers = _all_pairs(embeddings, scores, 0.25)
        torch.cdist(embeddings, centers).argmin(1)
    pipe.send((time.perf_counter() - start, _peak_mib() - before, len(centers)))


def benchmark_clusters() -> None:
    """Cluster the pixels of images that are all foreground, embeddings of 8 dimensions; each in its own process."""
    print("clusters: by seeds, all pixels are foreground, and each pixel's nearest center")
    times, peaks = [], []
    for name, side, ours in (
        ("all pairs, 128 x 128 px", 128, False),
        ("ours", 128, True),
        ("ours, 2048 px", 2048, True),
    ):
        receiver, sender = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=_clustering, args=(side, ours, sender))
        process.start()
        elapsed, peak, number = receiver.recv()
        process.join()
        times.append((f"{name}: {number} clusters", elapsed))
        peaks.append((name, peak))
    report(times)
    report(peaks, "MiB")


PARTS = {
    "assemble": benchmark_assemble, "memory": benchmark_memory, "voting": benchmark_voting,
    "windows": benchmark_windows, "semiconv": benchmark_semiconv, "images": benchmark_images,
    "clusters": benchmark_clusters,
}  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["models"]:
        benchmark_models.main(sys.argv[2:])
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    names = parser.parse_args().parts or list(PARTS)
    if set(names) - set(PARTS):
        parser.error(f"no part {sorted(set(names) - set(PARTS))}, expected some of {list(PARTS)}")
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}")
    for part in names:
        PARTS[part]()
