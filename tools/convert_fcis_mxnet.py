#!/usr/bin/env python3
"""
Convert the weights of the authors' FCIS release (an MXNet `.params` file) to a checkpoint for this FCIS, without MXNet.

    python tools/convert_fcis_mxnet.py fcis_coco-0000.params fcis_coco.pth

Tensors are renamed, and these are also rearranged:
- conv1: the release reads RGB images, this FCIS reads BGR, so the input channels are flipped.
- Score maps: (class, side, row, column), background first -> (row, column, side, class), background last.
- Box maps: (group, coordinate, row, column) -> (row, column, coordinate) of the second group. The first group belongs
  to the background and is not used. The deltas stay normalized: BBOX_REG_WEIGHTS (5, 5, 2, 2) are the inverse of the
  release's standard deviations (0.2, 0.2, 0.5, 0.5).
- RPN: anchors are ordered by (ratio, scale) in the release and by (size, ratio) here. The objectness logit here is the
  foreground logit minus the background logit: its sigmoid equals the release's softmax.

Batch norm is copied unchanged, since epsilon is 1e-5 in both.

The config for the weights is written beside them, here fcis_coco.yaml: a config of configs/FCIS with this network. The
checkpoint holds the values that the weights need as well, and loading it into a model with others gives a warning. With
this config, the network computes what the authors' own computes: tools/compare_fcis_release.py shows it.
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

from tellapart.engine.checkpoint import NEEDED_CONFIG
from tellapart.engine.config_checks import load_config
from tellapart.errors import InputError, first_few, run_command
from tellapart.files import atomic_file

import numpy as np
import torch
import yaml

LIST_MAGIC = 0x112
V1_MAGIC, V2_MAGIC, V3_MAGIC = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
DTYPES = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8")  # the index is the type flag in the file
MAX_ELEMENTS = 2**40
NUM_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
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


CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "FCIS"


class Converted(NamedTuple):
    """
    A converted release.

    Attributes:
        model: float32 tensors by their names in this FCIS.
        summary: one line that describes the network.
        unused: why a tensor of the release is not used, by its name.
        config: the values that the weights need, by full config key.
        base_config: the file in configs/FCIS with the authors' settings.
    """

    model: dict[str, torch.Tensor]
    summary: str
    unused: dict[str, str]
    config: dict[str, object]
    base_config: str


class _Reader:
    """Reads bytes one part after the other. `part` is named in the message if they end too early."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position, self.part = data, 0, "the header"

    def read_bytes(self, size: int) -> bytes:
        if size > len(self.data) - self.position:
            raise InputError(f"ends after {len(self.data)} bytes, inside {self.part}: not a whole .params file")
        self.position += size
        return self.data[self.position - size : self.position]

    def read_numbers(self, code: str) -> tuple[int, ...]:
        """Read little-endian integers; `code` is that of the struct module."""
        return struct.unpack(f"<{code}", self.read_bytes(struct.calcsize(f"<{code}")))


def parse_params(data: bytes) -> dict[str, np.ndarray]:
    """
    Parse the bytes of an MXNet `.params` file.

    Returns:
        Arrays by name ("arg:conv1_weight"), with the shapes and dtypes of the file.

    Raises:
        InputError: the bytes are incomplete or not a `.params` file, or an array is sparse, without dimensions or
            without a name.
    """
    reader = _Reader(data)
    magic, _, count = reader.read_numbers("3Q")
    if magic != LIST_MAGIC:
        raise InputError(f"is not an MXNet .params file: begins with {magic:#x}, expected {LIST_MAGIC:#x}")
    arrays = []
    for i in range(count):
        reader.part = f"tensor {i + 1} of {count}"
        arrays.append(_parse_array(reader))
    reader.part = "the names"
    (num_names,) = reader.read_numbers("Q")
    names = [reader.read_bytes(*reader.read_numbers("Q")).decode("utf-8", "replace") for _ in range(num_names)]
    if not len(names) == len(set(names)) == count:
        raise InputError(f"holds {count} tensors but {len(names)} names, {len(set(names))} of them different")
    return dict(zip(names, arrays))


def _parse_array(reader: _Reader) -> np.ndarray:
    (ndim,), dim_code = reader.read_numbers("I"), "I"  # the oldest format starts with the number of dimensions
    if ndim in (V1_MAGIC, V2_MAGIC, V3_MAGIC):
        storage = 0 if ndim == V1_MAGIC else reader.read_numbers("i")[0]
        if storage != 0:
            raise InputError(f"{reader.part} has storage type {storage}, expected 0 (dense)")
        (ndim,), dim_code = reader.read_numbers("i"), "q"
    if not 1 <= ndim <= 32:
        raise InputError(f"{reader.part} has {ndim} dimensions, expected 1 to 32")
    shape = reader.read_numbers(f"{ndim}{dim_code}")
    _, _, flag = reader.read_numbers("3i")  # the first two are the device on which the array was saved
    # numpy refuses shapes with huge sides, even if the array is empty because another side is 0.
    is_huge = math.prod(max(side, 1) for side in shape) > MAX_ELEMENTS
    if min(shape) < 0 or is_huge or not 0 <= flag < len(DTYPES):
        raise InputError(f"{reader.part} has shape {shape} and type flag {flag}, expected 0 to {len(DTYPES) - 1}")
    dtype = np.dtype(DTYPES[flag])
    return np.frombuffer(reader.read_bytes(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)


def convert_score_maps(array: np.ndarray, grid_size: int) -> np.ndarray:
    """Reorder the channels of the score maps' weight or bias, (2 * k * k * (C + 1), ...)."""
    maps = array.reshape(-1, 2, grid_size, grid_size, *array.shape[1:])
    maps = np.roll(maps, -1, axis=0)
    return np.moveaxis(maps, (2, 3, 1, 0), (0, 1, 2, 3)).reshape(array.shape)


def convert_box_maps(array: np.ndarray, grid_size: int) -> np.ndarray:
    """Select and reorder the channels of the box maps' weight or bias, (2 * 4 * k * k, ...) -> (k * k * 4, ...)."""
    maps = array.reshape(2, 4, grid_size, grid_size, *array.shape[1:])[1]
    return np.moveaxis(maps, (1, 2, 0), (0, 1, 2)).reshape(-1, *array.shape[1:])


def reorder_anchors(array: np.ndarray, num_anchors: int, num_ratios: int) -> np.ndarray:
    """Reorder the weight or bias of an RPN output, (A * n, ...), from (ratio, scale) to (scale, ratio)."""
    parts = array.reshape(num_ratios, num_anchors // num_ratios, -1, *array.shape[1:])
    return parts.swapaxes(0, 1).reshape(array.shape)


def convert_objectness(array: np.ndarray, num_anchors: int, num_ratios: int) -> np.ndarray:
    """Convert two logits per anchor, (2 * A, ...), the background of all anchors first, to one, (A, ...)."""
    background, foreground = np.split(array, 2)
    return reorder_anchors(foreground - background, num_anchors, num_ratios)


def _backbone_names(depth: int) -> Iterator[tuple[str, str, str]]:
    """Yield the official names of each convolution and its norm, and the name of the convolution in this FCIS."""
    yield "conv1", "bn_conv1", "backbone.stem.conv1"
    for stage, blocks in enumerate(NUM_BLOCKS[depth], start=2):
        for block in range(blocks):
            is_numbered = block > 0 and stage in (3, 4) and depth > 50
            block_name = f"{stage}b{block}" if is_numbered else f"{stage}{'abcdef'[block]}"
            for branch, layer in BRANCHES.items():
                if block == 0 or branch != "branch1":
                    new_name = f"backbone.res{stage}.{block}.{layer}"
                    yield f"res{block_name}_{branch}", f"bn{block_name}_{branch}", new_name


def layer_names(depth: int) -> dict[str, dict[str, str]]:
    """Return the tensors of each official convolution as {official name: name in this FCIS}, the weight first."""
    layers = {}
    for conv, norm, new_name in _backbone_names(depth):
        norm_tensors = {official.format(norm): f"{new_name}.norm.{name}" for official, name in NORM.items()}
        layers[conv] = {f"arg:{conv}_weight": f"{new_name}.weight", **norm_tensors}
    for conv, new_name in HEADS.items():
        layers[conv] = {f"arg:{conv}_weight": f"{new_name}.weight", f"arg:{conv}_bias": f"{new_name}.bias"}
    return layers


def _check_shapes(params: dict[str, np.ndarray], layers: dict, grid_size: int, num_ratios: int) -> tuple[int, int]:
    """
    Infer the number of classes (without background) and the number of anchors from the shapes.

    Raises:
        InputError: a shape does not belong to an FCIS with this grid size and this number of ratios.
    """
    num_outputs = {}
    for conv, (weight, *vectors) in layers.items():
        if params[weight].ndim != 4:
            raise InputError(f"{weight} has shape {params[weight].shape}, expected 4 dimensions")
        num_outputs[conv] = len(params[weight])
        for name in vectors:
            if params[name].shape != (num_outputs[conv],):
                raise InputError(f"{name} has shape {params[name].shape}, expected {(num_outputs[conv],)} as {weight}")
    conv1_shape = params["arg:conv1_weight"].shape
    if conv1_shape[1] != 3:
        raise InputError(f"arg:conv1_weight has shape {conv1_shape}, expected 3 input channels (RGB)")
    area = grid_size**2
    if grid_size < 1 or num_outputs["fcis_bbox"] != 8 * area:
        expected = f"2 * 4 * {grid_size} * {grid_size} (class-agnostic boxes and --grid-size {grid_size})"
        raise InputError(f"arg:fcis_bbox_weight has {num_outputs['fcis_bbox']} outputs, expected {expected}")
    num_classes = num_outputs["fcis_cls_seg"] // (2 * area) - 1
    if num_classes < 1 or num_outputs["fcis_cls_seg"] % (2 * area):
        expected = f"2 * {grid_size} * {grid_size} * (classes + 1)"
        raise InputError(f"arg:fcis_cls_seg_weight has {num_outputs['fcis_cls_seg']} outputs, expected {expected}")
    num_anchors = num_outputs["rpn_bbox_pred"] // 4
    rpn_outputs = (num_outputs["rpn_cls_score"], num_outputs["rpn_bbox_pred"])
    fit = rpn_outputs == (2 * num_anchors, 4 * num_anchors)
    if min(num_anchors, num_ratios) < 1 or num_anchors % num_ratios or not fit:
        raise InputError(
            f"arg:rpn_cls_score_weight and arg:rpn_bbox_pred_weight have {rpn_outputs} outputs, expected 2 and 4 per "
            f"anchor, and a multiple of {num_ratios} anchors (--num-ratios)"
        )
    return num_classes, num_anchors


def convert(params: dict[str, np.ndarray], grid_size: int = 7, num_ratios: int = 3) -> Converted:
    """
    Convert the release's arrays to the state dict of this FCIS.

    Args:
        params: arrays by official name, see `parse_params`.
        grid_size: k.
        num_ratios: number of aspect ratios of the anchors.

    Raises:
        InputError: tensors are missing, or shapes do not belong to an FCIS with this grid size and these ratios.
    """
    depth = 50 if "arg:res3b_branch2a_weight" in params else 152 if "arg:res4b35_branch2a_weight" in params else 101
    layers = layer_names(depth)
    missing = [name for tensors in layers.values() for name in tensors if name not in params]
    if missing:
        raise InputError(f"lacks {len(missing)} tensors of an FCIS with ResNet-{depth}: {first_few(missing, 5)}")
    num_classes, num_anchors = _check_shapes(params, layers, grid_size, num_ratios)
    anchor_counts = {"num_anchors": num_anchors, "num_ratios": num_ratios}
    rules: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "arg:conv1_weight": lambda array: array[:, ::-1],
        **dict.fromkeys(layers["fcis_cls_seg"], partial(convert_score_maps, grid_size=grid_size)),
        **dict.fromkeys(layers["fcis_bbox"], partial(convert_box_maps, grid_size=grid_size)),
        **dict.fromkeys(layers["rpn_cls_score"], partial(convert_objectness, **anchor_counts)),
        **dict.fromkeys(layers["rpn_bbox_pred"], partial(reorder_anchors, **anchor_counts)),
    }
    new_names = {official: name for tensors in layers.values() for official, name in tensors.items()}
    model = {}
    for official, name in new_names.items():
        array = rules.get(official, np.asarray)(params[official].astype(np.float32))
        model[name] = torch.from_numpy(np.ascontiguousarray(array))
    unused = {f"{name}, first half": "the background's deltas, which are never read" for name in layers["fcis_bbox"]}
    for name in params.keys() - new_names.keys():
        original = name.removesuffix("_test")
        is_test_copy = original != name and original in new_names
        copy = f"a copy of {original}, multiplied by the deltas' standard deviations"
        unused[name] = copy if is_test_copy else "no such tensor in this model"
    sizes = f"{num_anchors // num_ratios} sizes x {num_ratios} ratios"
    network = f"ResNet-{depth}, {num_classes} classes, grid {grid_size} x {grid_size}, anchors of {sizes}"
    num_sizes = num_anchors // num_ratios
    base = "fcis_R_101_voc_sds.yaml" if num_sizes == 3 else "fcis_R_101_ohem_coco.yaml"
    config = needed_config(depth, num_classes, grid_size)
    return Converted(model, f"{len(params)} tensors: {network}", dict(sorted(unused.items())), config, base)


def needed_config(depth: int, num_classes: int, grid_size: int) -> dict[str, object]:
    """Return the values that converted weights need, by full config key."""
    return {
        "INPUT.FORMAT": "BGR",
        "MODEL.META_ARCHITECTURE": "FCIS",
        "MODEL.PIXEL_MEAN": [103.06, 115.90, 123.15],
        "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
        "MODEL.BACKBONE.NAME": "build_fcis_release_resnet_backbone",
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
        "MODEL.RESNETS.RES5_DILATION": 2,
        "MODEL.ANCHOR_GENERATOR.NAME": "WholeSideAnchorGenerator",
        "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5,
        "MODEL.ROI_HEADS.NUM_CLASSES": num_classes,
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": [5.0, 5.0, 2.0, 2.0],
        "MODEL.FCIS.GRID_SIZE": grid_size,
        "MODEL.FCIS.SAMPLING": "pool",
    }


def config_text(converted: Converted, checkpoint: Path) -> str:
    """Return the config file for a converted checkpoint: its base, the weights, and the values that the base lacks."""
    base = load_config(str(CONFIGS / converted.base_config), [])
    content: dict = {"_BASE_": str(CONFIGS / converted.base_config), "MODEL": {"WEIGHTS": str(checkpoint.resolve())}}
    for full_key, value in converted.config.items():
        *sections, key = full_key.split(".")
        in_base, node = base, content
        for section in sections:
            in_base = in_base[section]
        if in_base[key] != (tuple(value) if isinstance(in_base[key], tuple) else value):
            for section in sections:
                node = node.setdefault(section, {})
            node[key] = value
    comment = f"# {checkpoint.name}: {converted.summary}. Written by tools/convert_fcis_mxnet.py.\n"
    return comment + yaml.safe_dump(content, sort_keys=False)


def convert_file(source: Path, output: Path, grid_size: int = 7, num_ratios: int = 3) -> Converted:
    """
    Convert the `.params` file `source`; write the checkpoint `output` and its config, `output` with the suffix .yaml.

    After an error there is no partial output.

    Raises:
        InputError: a file can't be read, converted or written; the message names it.
    """
    try:
        converted = convert(parse_params(source.read_bytes()), grid_size, num_ratios)
    except OSError as error:
        raise InputError(f"{source} can't be read: {error.strerror}") from error
    except InputError as error:
        raise InputError(f"{source} {error}") from error
    content = {
        "model": converted.model,
        "__author__": "FCIS (msracver), converted from MXNet",
        NEEDED_CONFIG: converted.config,
    }
    try:
        with atomic_file(output, "wb") as file:
            torch.save(content, file)
        with atomic_file(output.with_suffix(".yaml"), "w") as file:
            file.write(config_text(converted, output))
    except OSError as error:
        raise InputError(f"{output} can't be written: {error.strerror}") from error
    return converted


def report(converted: Converted) -> str:
    """Return lines that say what was found, what was converted, and what was not used and why."""
    counts = Counter(name.split(".")[0] for name in converted.model)
    lines = [f"found {converted.summary}", f"converted {len(converted.model)} tensors:"]
    lines += [f"  {part:<20}{count:>5}" for part, count in counts.items()]
    lines += [f"not used {len(converted.unused)}:"]
    return "\n".join(lines + [f"  {name}: {reason}" for name, reason in converted.unused.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the file of the release, fcis_coco-0000.params")
    parser.add_argument("output", type=Path, help="the checkpoint to write, *.pth")
    parser.add_argument("--grid-size", type=int, default=7, help="k, for k x k positions (default: 7)")
    parser.add_argument("--num-ratios", type=int, default=3, help="number of aspect ratios of the anchors (default: 3)")
    args = parser.parse_args()
    print(report(convert_file(args.source, args.output, args.grid_size, args.num_ratios)))
    print(f"wrote {args.output} and its config {args.output.with_suffix('.yaml')}")


if __name__ == "__main__":
    run_command(main)
