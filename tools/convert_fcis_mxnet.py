#!/usr/bin/env python3
"""
Turns the weights of the authors' FCIS release (MXNet's `.params`) into a checkpoint for this FCIS; MXNet is not needed.

    python tools/convert_fcis_mxnet.py fcis_coco-0000.params fcis_coco.pth

What is not plain renaming:
- conv1 sees BGR images here, RGB ones there: its input channels are flipped.
- Batch norm has epsilon 1e-5 on both sides, so that its four tensors carry over as they are.
- Score maps: (class, side, row, column), background first -> (row, column, side, class), background last.
- Box maps: (group, coordinate, row, column) -> (row, column, coordinate) of the second group, the only one in use.
  The deltas stay normalised: BBOX_REG_WEIGHTS (5, 5, 2, 2) undo the release's deviations (0.2, 0.2, 0.5, 0.5).
- RPN: anchors go by (ratio, scale) there, by (size, ratio) here. The logit here is foreground minus background: its
  sigmoid is the softmax of the two.

Of the config the weights want PIXEL_MEAN (103.06, 115.90, 123.15), PIXEL_STD 1, STRIDE_IN_1X1, RES5_DILATION 2,
RPN.CONV_DIMS [512] and ANCHOR_GENERATOR.OFFSET 0.5. What no weights can make up for: over there the stem's max
pooling has no padding (but rounds sizes up), a box contains its last pixel (so widths are 1 larger) and anchors have
whole pixels for sides.
"""

from __future__ import annotations

import argparse
import math
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tellapart.data.coco_folder import first_few
from tellapart.errors import InputError, run_command
from tellapart.files import atomic_file

import numpy as np
import torch

LIST_MAGIC = 0x112
V1_MAGIC, V2_MAGIC, V3_MAGIC = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
DTYPES = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8")  # by type flag
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BRANCHES = {"branch1": "shortcut", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}
NORM = {
    "arg:{}_gamma": "weight",
    "arg:{}_beta": "bias",
    "aux:{}_moving_mean": "running_mean",
    "aux:{}_moving_var": "running_var",
}
HEADS = {
    "rpn_conv_3x3": "proposal_generator.rpn_head.conv",
    "rpn_cls_score": "proposal_generator.rpn_head.objectness_logits",
    "rpn_bbox_pred": "proposal_generator.rpn_head.anchor_deltas",
    "conv_new_1": "roi_heads.convs.0",
    "fcis_cls_seg": "roi_heads.score_maps",
    "fcis_bbox": "roi_heads.box_maps",
}


class Converted(NamedTuple):
    """`model`: float32 tensors by their names here; `summary`: one line; `left`: why a tensor is not used, by name."""

    model: dict[str, torch.Tensor]
    summary: str
    left: dict[str, str]


class _Reader:
    """Walks through the bytes; `what` is named if they end too early."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.what = data, 0, "the header"

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise InputError(f"ends after {len(self.data)} bytes, inside {self.what}: not a whole .params file")
        self.at += size
        return self.data[self.at - size : self.at]

    def numbers(self, code: str) -> tuple[int, ...]:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))


def parse_params(data: bytes) -> dict[str, np.ndarray]:
    """
    The arrays of an MXNet `.params` file by name ("arg:conv1_weight"), with shapes and dtypes as stored.

    Raises: InputError: the bytes are cut off, not such a file, or hold what no network has (sparse, empty, nameless).
    """
    reader = _Reader(data)
    magic, _, count = reader.numbers("3Q")
    if magic != LIST_MAGIC:
        raise InputError(f"is not an MXNet .params file: begins with {magic:#x}, wanted {LIST_MAGIC:#x}")
    arrays = []
    for i in range(count):
        reader.what = f"tensor {i + 1} of {count}"
        arrays.append(_parse_array(reader))
    reader.what = "the names"
    names = [reader.take(*reader.numbers("Q")).decode("utf-8", "replace") for _ in range(*reader.numbers("Q"))]
    if not len(names) == len(set(names)) == count:
        raise InputError(f"holds {count} tensors but {len(names)} names, {len(set(names))} of them different")
    return dict(zip(names, arrays))


def _parse_array(reader: _Reader) -> np.ndarray:
    (ndim,), dim = reader.numbers("I"), "I"  # the oldest form begins with its number of dimensions
    if ndim in (V1_MAGIC, V2_MAGIC, V3_MAGIC):
        storage = 0 if ndim == V1_MAGIC else reader.numbers("i")[0]
        if storage != 0:
            raise InputError(f"{reader.what} has storage type {storage}, wanted 0 (dense)")
        (ndim,), dim = reader.numbers("i"), "q"
    if not 1 <= ndim <= 32:
        raise InputError(f"{reader.what} has {ndim} dimensions, wanted 1 to 32")
    shape = reader.numbers(f"{ndim}{dim}")
    _, _, flag = reader.numbers("3i")  # the device it was on comes first
    if min(shape) < 0 or not 0 <= flag < len(DTYPES):
        raise InputError(f"{reader.what} has shape {shape} and type flag {flag}, wanted 0 to {len(DTYPES) - 1}")
    dtype = np.dtype(DTYPES[flag])
    return np.frombuffer(reader.take(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)


def score_maps(array: np.ndarray, grid_size: int) -> np.ndarray:
    """Weight or bias of the score maps, (2 * k * k * (C + 1), ...), from the official order of channels to ours."""
    maps = array.reshape(-1, 2, grid_size, grid_size, *array.shape[1:])
    maps = np.roll(maps, -1, axis=0)
    return np.moveaxis(maps, (2, 3, 1, 0), (0, 1, 2, 3)).reshape(array.shape)


def box_maps(array: np.ndarray, grid_size: int) -> np.ndarray:
    """Weight or bias of the box maps, (2 * 4 * k * k, ...), to ours, (k * k * 4, ...)."""
    maps = array.reshape(2, 4, grid_size, grid_size, *array.shape[1:])[1]
    return np.moveaxis(maps, (1, 2, 0), (0, 1, 2)).reshape(-1, *array.shape[1:])


def anchors(array: np.ndarray, num_anchors: int, num_ratios: int) -> np.ndarray:
    """An RPN output's weight or bias, (A * n, ...), from anchors by (ratio, scale) to those by (scale, ratio)."""
    parts = array.reshape(num_ratios, num_anchors // num_ratios, -1, *array.shape[1:])
    return parts.swapaxes(0, 1).reshape(array.shape)


def objectness(array: np.ndarray, num_anchors: int, num_ratios: int) -> np.ndarray:
    """The RPN's two scores an anchor, (2 * A, ...), all backgrounds first, to one logit an anchor, (A, ...)."""
    background, foreground = np.split(array, 2)
    return anchors(foreground - background, num_anchors, num_ratios)


def _backbone(depth: int) -> Iterator[tuple[str, str, str]]:
    """Official names of each convolution and its norm, and the name of both here."""
    yield "conv1", "bn_conv1", "backbone.stem.conv1"
    for stage, blocks in enumerate(BLOCKS[depth], start=2):
        for block in range(blocks):
            numbered = block > 0 and stage in (3, 4) and depth > 50
            place = f"{stage}b{block}" if numbered else f"{stage}{'abcdef'[block]}"
            for branch, ours in BRANCHES.items():
                if block == 0 or branch != "branch1":
                    yield f"res{place}_{branch}", f"bn{place}_{branch}", f"backbone.res{stage}.{block}.{ours}"


def layer_names(depth: int) -> dict[str, dict[str, str]]:
    """For each official convolution its tensors: {official name: name here}, the weight first."""
    layers = {}
    for conv, norm, ours in _backbone(depth):
        tensors = {official.format(norm): f"{ours}.norm.{name}" for official, name in NORM.items()}
        layers[conv] = {f"arg:{conv}_weight": f"{ours}.weight", **tensors}
    for conv, ours in HEADS.items():
        layers[conv] = {f"arg:{conv}_weight": f"{ours}.weight", f"arg:{conv}_bias": f"{ours}.bias"}
    return layers


def _check_shapes(params: dict[str, np.ndarray], layers: dict, grid_size: int, num_ratios: int) -> tuple[int, int]:
    """The numbers of classes, without background, and of anchors; InputError if some shape fits no such network."""
    outputs = {}
    for conv, (weight, *vectors) in layers.items():
        if params[weight].ndim != 4:
            raise InputError(f"{weight} has shape {params[weight].shape}, wanted 4 dimensions")
        outputs[conv] = len(params[weight])
        for name in vectors:
            if params[name].shape != (outputs[conv],):
                raise InputError(f"{name} has shape {params[name].shape}, wanted {(outputs[conv],)} as {weight}")
    area = grid_size**2
    if grid_size < 1 or outputs["fcis_bbox"] != 8 * area:
        wanted = f"2 * 4 * {grid_size} * {grid_size} (class-agnostic boxes and --grid-size {grid_size})"
        raise InputError(f"arg:fcis_bbox_weight has {outputs['fcis_bbox']} outputs, wanted {wanted}")
    num_classes = outputs["fcis_cls_seg"] // (2 * area) - 1
    if num_classes < 1 or outputs["fcis_cls_seg"] % (2 * area):
        wanted = f"2 * {grid_size} * {grid_size} * (classes + 1)"
        raise InputError(f"arg:fcis_cls_seg_weight has {outputs['fcis_cls_seg']} outputs, wanted {wanted}")
    num_anchors = outputs["rpn_bbox_pred"] // 4
    found = (outputs["rpn_cls_score"], outputs["rpn_bbox_pred"])
    if min(num_anchors, num_ratios) < 1 or num_anchors % num_ratios or found != (2 * num_anchors, 4 * num_anchors):
        wanted = f"2 and 4 for each of a multiple of {num_ratios} anchors (--num-ratios)"
        raise InputError(f"arg:rpn_cls_score_weight and arg:rpn_bbox_pred_weight have {found} outputs, wanted {wanted}")
    return num_classes, num_anchors


def convert(params: dict[str, np.ndarray], grid_size: int = 7, num_ratios: int = 3) -> Converted:
    """
    Official arrays, as `parse_params` gives them, to the state of this FCIS.

    Raises: InputError: tensors are missing or their shapes are not those of an FCIS with this grid and these anchors.
    """
    depth = 50 if "arg:res3b_branch2a_weight" in params else 152 if "arg:res4b35_branch2a_weight" in params else 101
    layers = layer_names(depth)
    missing = [name for tensors in layers.values() for name in tensors if name not in params]
    if missing:
        raise InputError(f"lacks {len(missing)} tensors of an FCIS with ResNet-{depth}: {first_few(missing, 5)}")
    num_classes, num_anchors = _check_shapes(params, layers, grid_size, num_ratios)
    rules: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "arg:conv1_weight": lambda array: array[:, ::-1],
        **dict.fromkeys(layers["fcis_cls_seg"], partial(score_maps, grid_size=grid_size)),
        **dict.fromkeys(layers["fcis_bbox"], partial(box_maps, grid_size=grid_size)),
        **dict.fromkeys(layers["rpn_cls_score"], partial(objectness, num_anchors=num_anchors, num_ratios=num_ratios)),
        **dict.fromkeys(layers["rpn_bbox_pred"], partial(anchors, num_anchors=num_anchors, num_ratios=num_ratios)),
    }
    ours = {official: name for tensors in layers.values() for official, name in tensors.items()}
    model = {}
    for official, name in ours.items():
        array = rules.get(official, np.asarray)(params[official].astype(np.float32))
        model[name] = torch.from_numpy(np.ascontiguousarray(array))
    left = {f"{name}, first half": "the background's deltas, which nothing reads" for name in layers["fcis_bbox"]}
    for name in params.keys() - ours.keys():
        test = name.endswith("_test") and name[: -len("_test")] in ours
        left[name] = "the plain one times the deltas' deviations" if test else "no such tensor in this model"
    sizes = f"{num_anchors // num_ratios} sizes x {num_ratios} ratios"
    network = f"ResNet-{depth}, {num_classes} classes, grid {grid_size} x {grid_size}, anchors of {sizes}"
    return Converted(model, f"{len(params)} tensors: {network}", dict(sorted(left.items())))


def convert_file(source: Path, output: Path, grid_size: int = 7, num_ratios: int = 3) -> Converted:
    """
    Reads `source`, a `.params` file, and writes the checkpoint `output`, whole or not at all.

    Raises: InputError: naming the file that can't be read, converted or written.
    """
    try:
        converted = convert(parse_params(source.read_bytes()), grid_size, num_ratios)
    except OSError as error:
        raise InputError(f"{source} can't be read: {error.strerror}") from error
    except InputError as error:
        raise InputError(f"{source} {error}") from error
    try:
        with atomic_file(output, "wb") as file:
            torch.save({"model": converted.model, "__author__": "FCIS (msracver), converted from MXNet"}, file)
    except OSError as error:
        raise InputError(f"{output} can't be written: {error.strerror}") from error
    return converted


def report(converted: Converted) -> str:
    """What was met, mapped and left, as lines."""
    parts = Counter(name.split(".")[0] for name in converted.model)
    mapped = [f"  {part:<20}{count:>5}" for part, count in parts.items()]
    left = [f"  {name}: {reason}" for name, reason in converted.left.items()]
    head = f"mapped {len(converted.model)} tensors:"
    return "\n".join([f"met {converted.summary}", head, *mapped, f"left {len(left)}:", *left])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the release's file, fcis_coco-0000.params")
    parser.add_argument("output", type=Path, help="the checkpoint to write, *.pth")
    parser.add_argument("--grid-size", type=int, default=7, help="k, cells a side (default: 7)")
    parser.add_argument("--num-ratios", type=int, default=3, help="aspect ratios of the anchors (default: 3)")
    args = parser.parse_args()
    print(report(convert_file(args.source, args.output, args.grid_size, args.num_ratios)))
    print(f"wrote {args.output}")


if __name__ == "__main__":
    run_command(main)
