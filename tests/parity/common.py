"""What the recorder and the parity tests share: the cases, their inputs, and how values are frozen and compared.

A case is a function without arguments that returns a (nested) dict of plain values, arrays and tensors. The recorder
freezes what it returns under the real Detectron2; the test freezes what it returns under whichever runs, and compares.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tellapart  # noqa: F401  puts the embedded Detectron2 on the path where no other is installed

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GOLDEN = HERE / "golden"
SHARED_DATA = Path(os.environ.get("TELLAPART_SHARED_DATA", ROOT.parent / "shared" / "data"))
TINY_COCO = SHARED_DATA / "tiny_coco"

RTOL = 1e-4  # the contract's relative tolerance
KEEP = 64  # an array of at most so many numbers is kept whole, of a larger one so many samples

CASES: dict[str, Callable[[], dict]] = {}
NEEDS_DATA: set[str] = set()


def case(function: Callable[[], dict] | None = None, *, data: bool = False):
    """Register ``case_<name>`` under ``<name>``; ``data``: it reads the shared tiny_coco."""

    def register(f):
        name = f.__name__.removeprefix("case_")
        assert name not in CASES, name
        CASES[name] = f
        if data:
            NEEDS_DATA.add(name)
        return f

    return register(function) if function else register


# ------------------------------------------------------------------------------------------------ made numbers


def made(name: str, *shape: int, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
    """float32 numbers uniform in [low, high), a function of ``name`` and ``shape`` alone.

    numpy's legacy generator promises the same stream on every platform and version; torch's does not.
    """
    numbers = np.random.RandomState(zlib.crc32(name.encode())).random_sample(shape)
    return torch.from_numpy(np.asarray(low + (high - low) * numbers, dtype=np.float32))


def made_boxes(name: str, n: int, height: float, width: float, smallest: float = 2.0) -> torch.Tensor:
    """(n, 4) float32 XYXY boxes inside a height x width frame, sizes spread evenly in the logarithm."""
    u = made(name, n, 4, low=0, high=1).double()
    h = smallest * (height / smallest) ** u[:, 0]
    w = smallest * (width / smallest) ** u[:, 1]
    y, x = u[:, 2] * (height - h), u[:, 3] * (width - w)
    return torch.stack([x, y, x + w, y + h], 1).float()


def fill(model: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter and float buffer a value that depends on its name and shape only; returns the model.

    Scales are He-like, so that activations stay finite and a random detector does detect something.
    """
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            if name.endswith("running_var"):
                new = made(name, *value.shape, low=0.8, high=1.2)
            elif value.dim() <= 1:
                is_scale = name.endswith("weight")
                centre, spread = (1.0, 0.1) if is_scale else (0.0, 0.1)
                if is_scale and name.endswith(("conv3.norm.weight", "conv2.norm.weight")):
                    centre = 0.4  # the end of a residual branch: keeps the sum over many blocks in bounds
                new = made(name, *value.shape, low=centre - spread, high=centre + spread)
            else:
                bound = (6.0 / value[0].numel()) ** 0.5
                if any(part in name for part in ("bbox_pred", "anchor_deltas", "box_maps")):
                    bound *= 0.05
                elif "score_maps" in name:
                    bound *= 10  # the mean over a region's cells evens scores out
                elif "cls_score" in name:
                    bound *= 0.4  # several classes have a say, none is certain
                elif name.endswith("stem.conv1.weight"):
                    bound *= 0.01  # pixels are not divided by their spread
                elif "objectness_logits" in name or "mask_head.predictor" in name:
                    bound *= 0.3
                new = made(name, *value.shape, low=-bound, high=bound)
            value.copy_(new)
    return model


# ------------------------------------------------------------------------------------------------ freezing


def crc(array: Any) -> int:
    """Checksum of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def _number(x: float) -> float:
    return float(f"{x:.9g}")


def freeze(value: Any) -> Any:
    """JSON for ``value``: arrays become dtype, shape and all numbers or, where large, statistics and samples."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        out: dict[str, Any] = {"dtype": str(value.dtype), "shape": list(value.shape)}
        flat = value.reshape(-1)
        if value.dtype.kind == "f":
            if flat.size > KEEP:
                wide = flat.astype(np.float64)
                out["mean"], out["rms"] = _number(wide.mean()), _number(float(np.sqrt((wide**2).mean())))
                out["min"], out["max"] = _number(wide.min()), _number(wide.max())
                flat = flat[np.linspace(0, flat.size - 1, KEEP).astype(np.int64)]
            out["values"] = [_number(x) for x in flat.tolist()]
        elif flat.size > KEEP:
            out["sum"], out["crc"] = int(flat.astype(np.int64).sum()), crc(value)
        else:
            out["values"] = flat.tolist()
        return out
    if isinstance(value, dict):
        return {str(k): freeze(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [freeze(v) for v in value]
    if isinstance(value, float):
        return _number(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise TypeError(f"a case may not return {type(value).__name__}")


class Comparison:
    """Walks what came and what was wanted; collects differences and the worst relative error within tolerance."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.worst = 0.0
        self.worst_at = ""

    def floats(self, got: list[float], want: list[float], at: str, floor: float = 0.01) -> None:
        """Relative to each number, or to ``floor`` times the largest of its array where that is more (cancellation)."""
        g, w = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
        special = ~np.isfinite(w)
        if not np.array_equal(special, ~np.isfinite(g)) or not np.array_equal(g[special], w[special], equal_nan=True):
            self.problems.append(f"{at}: infinite or undefined elsewhere than in the golden one")
            return
        g, w = g[~special], w[~special]
        if not w.size:
            return
        scale = np.maximum(np.abs(w), floor * np.abs(w).max())
        error = np.abs(g - w) / np.maximum(scale, 1e-12)
        i = int(error.argmax())
        if error[i] > self.worst:
            self.worst, self.worst_at = float(error[i]), at
        if error[i] > RTOL:
            self.problems.append(f"{at}: {g[i]:.9g}, wanted {w[i]:.9g} (relative error {error[i]:.1e})")

    def walk(self, got: Any, want: Any, at: str = "") -> Comparison:
        """Compare two frozen values."""
        if isinstance(want, dict) and isinstance(got, dict):
            missing, extra = sorted(set(want) - set(got)), sorted(set(got) - set(want))
            if missing or extra:
                self.problems.append(f"{at or 'top'}: missing {missing[:8]}, unwanted {extra[:8]}")
            if want.get("dtype", "").startswith("float") and "shape" in want:
                if (got.get("dtype"), got.get("shape")) != (want["dtype"], want["shape"]):
                    self.problems.append(
                        f"{at}: {got.get('dtype')} {got.get('shape')}, wanted {want['dtype']} {want['shape']}"
                    )
                    return self
                for key in ("mean", "rms", "min", "max"):
                    if key in want:  # the mean may cancel: it counts relative to the root mean square
                        self.floats([got[key], got["rms"]], [want[key], want["rms"]], f"{at}.{key}", floor=0.1)
                self.floats(got["values"], want["values"], at, floor=0.1)
                return self
            for key in want:
                if key in got:
                    self.walk(got[key], want[key], f"{at}.{key}" if at else key)
        elif isinstance(want, list) and isinstance(got, list):
            # areas of thresholded masks: a pixel on the threshold may fall either way; where candidates vote, all the
            # pixels that the same ones cover do so together
            slack = {"_pixels": (3, RTOL), "_voted": (12, 0.02)}.get(at[at.rfind("_") :])
            if slack is not None:
                if len(got) == len(want) and all(abs(g - w) <= slack[0] + slack[1] * w for g, w in zip(got, want)):
                    return self
                self.problems.append(f"{at}: {got}, wanted {want}")
            elif len(got) != len(want):
                self.problems.append(f"{at}: {len(got)} entries, wanted {len(want)}")
            elif want and all(isinstance(x, float) for x in [*want, *got]):
                self.floats(got, want, at)
            else:
                for i, (g, w) in enumerate(zip(got, want)):
                    self.walk(g, w, f"{at}[{i}]")
        elif isinstance(want, float) and isinstance(got, float):
            self.floats([got], [want], at)
        elif type(got) is not type(want) or got != want:
            self.problems.append(f"{at}: {str(got)[:300]!r}, wanted {str(want)[:300]!r}")
        return self


def golden_path(name: str) -> Path:
    """Where the golden values of a case lie."""
    return GOLDEN / f"{name}.json"


def run_case(name: str) -> Any:
    """Run a case from a fixed state of all random generators; returns its frozen values."""
    import random

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return json.loads(json.dumps(freeze(CASES[name]())))


def load_golden(name: str) -> Any:
    """The recorded values of a case."""
    return json.loads(golden_path(name).read_text())


# ------------------------------------------------------------------------------------------------ configs


def rcnn_cfg(kind: str, depth: int = 50, mask: bool = True, narrow: bool = False):
    """Config of an R-CNN as the usual baselines set it: ``kind`` is "FPN", "C4" or "DC5"; on the CPU, without weights.

    ``narrow``: a quarter of the width, so that a forward pass takes a fraction of a second.
    """
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.MASK_ON = mask
    cfg.MODEL.RESNETS.DEPTH = depth
    if depth in (18, 34):
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    if narrow:
        if depth >= 50:  # have one width only
            cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 16
            cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
            cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 16
        cfg.MODEL.FPN.OUT_CHANNELS = 64
        cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 128
        cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 32
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 6000 if kind == "C4" else 1000
    if kind == "C4":
        cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
        return cfg
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = 2000 if kind == "FPN" else 12000
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 1000 if kind == "FPN" else 2000
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 2
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 4
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 14
    if kind == "FPN":
        cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
        cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
        cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[0.5, 1.0, 2.0]]
        cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
        cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    elif kind == "DC5":
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
        cfg.MODEL.RESNETS.RES5_DILATION = 2
        cfg.MODEL.RPN.IN_FEATURES = ["res5"]
        cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res5"]
    else:
        raise ValueError(kind)
    return cfg


def sample_everything(cfg) -> None:
    """Make RPN and ROI sampling take every candidate, so that losses hang on no random choice."""
    for node in (cfg.MODEL.RPN, cfg.MODEL.ROI_HEADS):
        node.BATCH_SIZE_PER_IMAGE = 200000
        node.POSITIVE_FRACTION = 1.0


# ------------------------------------------------------------------------------------------------ real images


def tiny_coco_json(split: str) -> dict:
    """The parsed annotations of tiny_coco's "train" or "val"."""
    return json.loads((TINY_COCO / "annotations" / f"instances_{split}2017.json").read_text())


def small_input(image_id: int, split: str = "train", short_side: int = 128) -> dict:
    """One tiny_coco image at ``short_side`` px with its annotated instances, in the format the models take.

    Reads and scales with PIL directly: a model's case must not hang on the mapper, which has its own.
    """
    from detectron2.structures import Boxes, Instances, PolygonMasks
    from PIL import Image

    coco = tiny_coco_json(split)
    record = next(r for r in coco["images"] if r["id"] == image_id)
    image = Image.open(TINY_COCO / "images" / f"{split}2017" / record["file_name"]).convert("RGB")
    factor = short_side / min(image.size)
    width, height = round(image.width * factor), round(image.height * factor)
    pixels = np.asarray(image.resize((width, height), Image.BILINEAR))[:, :, ::-1]
    annotations = [a for a in coco["annotations"] if a["image_id"] == image_id and not a["iscrowd"]]
    ids = sorted(c["id"] for c in coco["categories"])
    scale = np.array([width / record["width"], height / record["height"]])
    polygons = [[(np.array(p).reshape(-1, 2) * scale).reshape(-1) for p in a["segmentation"]] for a in annotations]
    boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes * np.tile(scale, 2), dtype=torch.float32))
    instances.gt_classes = torch.tensor([ids.index(a["category_id"]) for a in annotations], dtype=torch.int64)
    instances.gt_masks = PolygonMasks(polygons)
    return {
        "image": torch.from_numpy(pixels.transpose(2, 0, 1).copy()),
        "instances": instances,
        "height": height * 2,  # results are asked for at twice the size: post-processing has to scale
        "width": width * 2,
        "image_id": image_id,
    }
