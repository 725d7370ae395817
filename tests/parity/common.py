"""Registry of parity cases, their inputs, and how their values are converted to JSON and compared.

A case is a function without arguments that returns a (nested) dict of plain values, arrays and tensors. The recorder
stores these values under the real Detectron2 (golden values). The tests run the same function under the Detectron2
that is installed and compare.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tellapart  # noqa: F401  (puts the embedded Detectron2 on the path if no other is installed)

import numpy as np
import torch

from .images import CATEGORIES, draw

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GOLDEN = HERE / "golden"

RTOL = 1e-4  # relative tolerance
KEEP = 64  # arrays of at most this many numbers are stored completely, of larger ones this many samples

CASES: dict[str, Callable[[], dict]] = {}


def case(function: Callable[[], dict]) -> Callable[[], dict]:
    """Register the function ``case_<name>`` as the case ``<name>``."""
    name = function.__name__.removeprefix("case_")
    assert name not in CASES, name
    CASES[name] = function
    return function


# ------------------------------------------------------------------------------------------------ pseudorandom inputs


def random_values(name: str, *shape: int, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
    """Return float32 numbers, uniform in [low, high), that depend on ``name`` and ``shape`` only.

    numpy's legacy generator promises the same numbers on every platform and version, torch's does not.
    """
    numbers = np.random.RandomState(zlib.crc32(name.encode())).random_sample(shape)
    return torch.from_numpy(np.asarray(low + (high - low) * numbers, dtype=np.float32))


def random_boxes(name: str, n: int, height: float, width: float, smallest: float = 2.0) -> torch.Tensor:
    """Return (n, 4) float32 XYXY boxes inside a height x width image; the logarithm of their sizes is uniform."""
    u = random_values(name, n, 4, low=0, high=1).double()
    h = smallest * (height / smallest) ** u[:, 0]
    w = smallest * (width / smallest) ** u[:, 1]
    y, x = u[:, 2] * (height - h), u[:, 3] * (width - w)
    return torch.stack([x, y, x + w, y + h], 1).float()


def fill(model: torch.nn.Module) -> torch.nn.Module:
    """Set every parameter and float buffer to values that depend on its name and shape only; returns the model.

    The scales are similar to He initialization, so that activations stay finite and the detector detects something.
    """
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            if name.endswith("running_var"):
                new = random_values(name, *value.shape, low=0.8, high=1.2)
            elif value.dim() <= 1:
                is_scale = name.endswith("weight")
                center, spread = (1.0, 0.1) if is_scale else (0.0, 0.1)
                if is_scale and name.endswith(("conv3.norm.weight", "conv2.norm.weight")):
                    center = 0.4  # last layer of a residual branch: keeps the sum over many blocks bounded
                new = random_values(name, *value.shape, low=center - spread, high=center + spread)
            else:
                bound = (6.0 / value[0].numel()) ** 0.5
                if any(part in name for part in ("bbox_pred", "anchor_deltas", "box_maps")):
                    bound *= 0.05
                elif "score_maps" in name:
                    bound *= 10  # averaging over a region's cells makes scores smaller
                elif "cls_score" in name:
                    bound *= 0.4  # probabilities spread over several classes
                elif name.endswith("stem.conv1.weight"):
                    bound *= 0.01  # pixel values are not divided by a standard deviation
                elif "objectness_logits" in name or "mask_head.predictor" in name:
                    bound *= 0.3
                new = random_values(name, *value.shape, low=-bound, high=bound)
            value.copy_(new)
    return model


# ------------------------------------------------------------------------------------------------ conversion to JSON


def crc(array: Any) -> int:
    """Return the CRC-32 checksum of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def _number(x: float) -> float:
    return float(f"{x:.7g}")


def freeze(value: Any) -> Any:
    """Convert a value to what JSON can hold; floats are rounded to seven digits.

    An array becomes a dict of its dtype, its shape and all ``values`` (nested as in the array). A large one becomes
    statistics and evenly spaced samples if it is of floats, else its sum and a checksum.
    """
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
                value = flat[np.linspace(0, flat.size - 1, KEEP).astype(np.int64)]
            out["values"] = freeze(value.tolist())
        elif flat.size > KEEP:
            out["sum"], out["crc"] = int(flat.astype(np.int64).sum()), crc(value)
        else:
            out["values"] = value.tolist()
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
    """Comparison of converted values with golden ones.

    Attributes:
        problems: one message per difference.
        worst: the largest relative error of any float, and ``worst_at``, the path of that float.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.worst = 0.0
        self.worst_at = ""

    def floats(self, got: list[float], expected: list[float], at: str, floor: float = 0.01) -> None:
        """Compare floats of one array or list.

        The error is relative to the golden number or, if this is larger, to ``floor`` times the largest of its array,
        because small numbers among large ones may be the result of cancellation.
        """
        g, e = np.asarray(got, dtype=np.float64), np.asarray(expected, dtype=np.float64)
        special = ~np.isfinite(e)
        if not np.array_equal(special, ~np.isfinite(g)) or not np.array_equal(g[special], e[special], equal_nan=True):
            self.problems.append(f"{at}: infinite or NaN values at other positions than in the golden array")
            return
        g, e = g[~special], e[~special]
        if not e.size:
            return
        scale = np.maximum(np.abs(e), floor * np.abs(e).max())
        error = np.abs(g - e) / np.maximum(scale, 1e-12)
        i = int(error.argmax())
        if error[i] > self.worst:
            self.worst, self.worst_at = float(error[i]), at
        if error[i] > RTOL:
            self.problems.append(f"{at}: {g[i]:.9g}, expected {e[i]:.9g} (relative error {error[i]:.1e})")

    def walk(self, got: Any, expected: Any, at: str = "") -> Comparison:
        """Compare two values that ``freeze`` returned; ``at`` is their path, for messages."""
        if isinstance(expected, dict) and isinstance(got, dict):
            missing, extra = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
            if missing or extra:
                self.problems.append(f"{at or 'top'}: missing {missing[:8]}, unexpected {extra[:8]}")
            if expected.get("dtype", "").startswith("float") and "shape" in expected:
                if (got.get("dtype"), got.get("shape")) != (expected["dtype"], expected["shape"]):
                    self.problems.append(
                        f"{at}: {got.get('dtype')} {got.get('shape')}, expected {expected['dtype']} {expected['shape']}"
                    )
                    return self
                for key in ("mean", "rms", "min", "max"):
                    if key in expected:  # relative to the root mean square too: a mean may be small by cancellation
                        self.floats([got[key], got["rms"]], [expected[key], expected["rms"]], f"{at}.{key}", floor=0.1)
                self.floats(got["values"], expected["values"], at, floor=0.1)
                return self
            for key in expected:
                if key in got:
                    self.walk(got[key], expected[key], f"{at}.{key}" if at else key)
        elif isinstance(expected, list) and isinstance(got, list):
            # Areas of thresholded masks: a pixel at the threshold may be in or out. After mask voting, all pixels that
            # the same candidates cover have the same value, so that many of them change together.
            tolerance = {"_pixels": (3, RTOL), "_voted": (12, 0.02)}.get(at[at.rfind("_") :])
            if tolerance is not None:
                absolute, relative = tolerance
                near = (abs(g - e) <= absolute + relative * e for g, e in zip(got, expected))
                if len(got) == len(expected) and all(near):
                    return self
                self.problems.append(f"{at}: {got}, expected {expected}")
            elif len(got) != len(expected):
                self.problems.append(f"{at}: {len(got)} entries, expected {len(expected)}")
            elif expected and all(isinstance(x, float) for x in [*expected, *got]):
                self.floats(got, expected, at)
            else:
                for i, (g, e) in enumerate(zip(got, expected)):
                    self.walk(g, e, f"{at}[{i}]")
        elif isinstance(expected, float) and isinstance(got, float):
            self.floats([got], [expected], at)
        elif type(got) is not type(expected) or got != expected:
            self.problems.append(f"{at}: {str(got)[:300]!r}, expected {str(expected)[:300]!r}")
        return self


def golden_path(name: str) -> Path:
    """Return the file of a case's golden values."""
    return GOLDEN / f"{name}.json"


def run_case(name: str) -> Any:
    """Seed all random generators and run a case; returns its values as ``load_golden`` does."""
    import random

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return json.loads(json.dumps(freeze(CASES[name]())))


def load_golden(name: str) -> Any:
    """Return the golden values of a case."""
    return json.loads(golden_path(name).read_text())


# ------------------------------------------------------------------------------------------------ configs


def rcnn_cfg(kind: str, depth: int = 50, mask: bool = True, narrow: bool = False):
    """Return the config of a Mask R-CNN or (without ``mask``) Faster R-CNN baseline, on the CPU, without weights.

    Args:
        kind: "FPN", "C4" or "DC5".
        depth: of the ResNet.
        narrow: a quarter of the usual number of channels, so that a forward pass takes a fraction of a second.
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
    """Make RPN and ROI sampling take every candidate, so that losses depend on no random choice."""
    for node in (cfg.MODEL.RPN, cfg.MODEL.ROI_HEADS):
        node.BATCH_SIZE_PER_IMAGE = 200000
        node.POSITIVE_FRACTION = 1.0


# ------------------------------------------------------------------------------------------------ model inputs


def model_input(seed: int, height: int, width: int, num_objects: int) -> dict:
    """Return a drawn image and its ground truth in the format that models take.

    Drawn at this size, not resized: the result doesn't depend on an image library.
    """
    from detectron2.structures import Boxes, Instances, PolygonMasks

    image, annotations = draw(seed, height, width, num_objects)
    ids = sorted(category["id"] for category in CATEGORIES)
    boxes = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(boxes)
    instances.gt_classes = torch.tensor([ids.index(a["category_id"]) for a in annotations], dtype=torch.int64)
    instances.gt_masks = PolygonMasks([[np.array(p) for p in a["segmentation"]] for a in annotations])
    return {
        "image": torch.from_numpy(image.transpose(2, 0, 1).copy()),
        "instances": instances,
        "height": height * 2,  # detections are scaled to twice the size of the image, which tests post-processing
        "width": width * 2,
        "image_id": seed,
    }
