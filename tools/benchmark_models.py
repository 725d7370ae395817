#!/usr/bin/env python
"""Measure whole inference, and a training step, of every method beside Mask R-CNN, stage by stage.

    python tools/benchmark.py models                       # the papers' sizes: R-101 and R-50, 600 x 1000 px
    python tools/benchmark.py models --set quick           # R-18 on 256 x 256 px, 3 s per round
    python tools/benchmark.py models --train --device cuda --json out.json

The models have random weights. So that all parts have real work, the statistics of the frozen batch norms are those of
the image, and the score threshold is the score of the 100th of all detections. Each round runs every model once, one
after the other; times are medians over the rounds. The last lines are ratios, one per comparison.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tellapart import model_zoo

import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

NUM_DETECTIONS = 100
# Name -> config. A comparison is a method and the Mask R-CNN of the same backbone.
MODELS = {
    "full": {
        "FCIS R-101": "FCIS/fcis_R_101_ohem_coco.yaml",
        "Mask R-CNN R-101-FPN": "MaskRCNN/mask_rcnn_R_50_FPN_1x.yaml",
        "FCIS R-50-FPN": "FCIS/fcis_R_50_FPN.yaml",
        "SemiConv R-50-FPN": "SemiConv/semiconv_R_50_FPN_coco.yaml",
        "Mask R-CNN R-50-FPN": "MaskRCNN/mask_rcnn_R_50_FPN_1x.yaml",
    },
    "quick": {
        "FCIS R-18, half width": "quick/fcis/fcis_R_18_nuclei.yaml",
        "SemiConv R-18-FPN": "quick/semiconv/semiconv_R_18_FPN_nuclei.yaml",
        "SemiConv R-18-FPN, image masks": "quick/semiconv/semiconv_R_18_FPN_worms.yaml",
        "Mask R-CNN R-18-FPN": "quick/mask_rcnn/mask_rcnn_R_18_FPN_nuclei.yaml",
    },
}
COMPARISONS = {
    "full": [
        ("FCIS R-101", "Mask R-CNN R-101-FPN"), ("FCIS R-50-FPN", "Mask R-CNN R-50-FPN"),
        ("SemiConv R-50-FPN", "Mask R-CNN R-50-FPN"),
    ],
    "quick": [(name, "Mask R-CNN R-18-FPN") for name in list(MODELS["quick"])[:-1]],
}  # fmt: skip
SIZES = {"full": (600, 1000), "quick": (256, 256)}  # height, width
# Modules whose time is measured within a run; the rest is what the model does besides them.
STAGES = ("backbone", "proposal_generator", "roi_heads", "roi_heads.box_head", "roi_heads.mask_head")


def config_of(name: str, config: str, device: str) -> CfgNode:
    """Return the config of a model with random weights and images that are not resized."""
    cfg = model_zoo.get_config(config)
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.TEST.DETECTIONS_PER_IMAGE = "", device, NUM_DETECTIONS
    if "R-101" in name:
        cfg.MODEL.RESNETS.DEPTH = 101
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    return cfg


def calibrated(cfg: CfgNode, image: dict) -> nn.Module:
    """Return a model of random weights that finds about 100 objects in the image, in evaluation mode."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()

    def follow(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        values = inputs[0].transpose(0, 1).flatten(1)
        norm.running_mean.copy_(values.mean(1))
        norm.running_var.copy_(values.var(1) + 1e-3)

    hooks = [
        module.register_forward_pre_hook(follow)
        for module in model.modules()
        if isinstance(module, (FrozenBatchNorm2d, nn.BatchNorm2d))
    ]
    with torch.no_grad():
        model([image])
        for hook in hooks:
            hook.remove()
        many = cfg.clone()
        many.TEST.DETECTIONS_PER_IMAGE = 10 * NUM_DETECTIONS
        state, model = model.state_dict(), build_model(many).eval()
        model.load_state_dict(state)
        scores = model([image])[0]["instances"].scores.sort(descending=True).values
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = float(scores[min(NUM_DETECTIONS, len(scores) - 1)])
    model = build_model(cfg).eval()
    model.load_state_dict(state)
    return model


def truth(size: tuple[int, int], number: int = 20) -> Instances:
    """Return ``number`` boxes with masks, of the first category."""
    generator = torch.Generator().manual_seed(0)
    sides = torch.tensor(size[::-1]) * (0.05 + 0.25 * torch.rand(number, 2, generator=generator))
    corner = torch.rand(number, 2, generator=generator) * (torch.tensor(size[::-1]) - sides)
    boxes = Boxes(torch.cat((corner, corner + sides), 1))
    masks = torch.zeros(number, *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.tensor.long().tolist()):
        mask[y0:y1, x0:x1] = True
    return Instances(size, gt_boxes=boxes, gt_classes=torch.zeros(number, dtype=torch.int64), gt_masks=BitMasks(masks))


class StageTimes:
    """Adds up the seconds that modules take, by name, while it is used as a context."""

    def __init__(self, model: nn.Module, synchronize) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._starts: dict[str, float] = {}
        self._synchronize = synchronize
        modules = dict(model.named_modules())
        self._hooks = []
        for name in STAGES:
            if name in modules:
                self._hooks.append(modules[name].register_forward_pre_hook(self._begin(name)))
                self._hooks.append(modules[name].register_forward_hook(self._end(name)))

    def _begin(self, name: str):
        def begin(*_: object) -> None:
            self._synchronize()
            self._starts[name] = time.perf_counter()

        return begin

    def _end(self, name: str):
        def end(*_: object) -> None:
            self._synchronize()
            self.seconds[name] += time.perf_counter() - self._starts.pop(name)

        return end

    def __enter__(self) -> StageTimes:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


class Bench:
    """One model, its input, and what was measured.

    Attributes:
        times: seconds of whole inference, and of a training step, one per round.
        stages: seconds by the name of the stage, one per round.
        peak: of memory beyond that before, in MiB.
    """

    def __init__(self, name: str, config: str, size: tuple[int, int], device: str, train: bool) -> None:
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        self.name, self.device, self.train = name, device, train
        self.image = {"image": image, "height": size[0], "width": size[1]}
        self.sample = {**self.image, "instances": truth(size)}
        self.model = calibrated(config_of(name, config, device), self.image)
        self.times: dict[str, list[float]] = defaultdict(list)
        self.stages: dict[str, list[float]] = defaultdict(list)
        self.peak, self.num_detections = 0.0, 0

    def run(self) -> None:
        """Run the model once, and measure."""
        _reset_peak(self.device)
        before = _peak_mib(self.device)
        with torch.no_grad(), StageTimes(self.model.eval(), self._synchronize) as stages:
            self.num_detections = len(self.timed("inference", lambda: self.model([self.image]))[0]["instances"])
        self.peak = max(self.peak, _peak_mib(self.device) - before)
        for name, value in stages.seconds.items():
            self.stages[name].append(value)
        outer = sum(stages.seconds[name] for name in STAGES if "." not in name)
        self.stages["rest (voting, pasting)"].append(self.times["inference"][-1] - outer)
        if self.train:
            self.model.train()
            self.timed("training step", self._step)

    def _step(self) -> None:
        self.model.zero_grad()
        with EventStorage(0):
            sum(self.model([self.sample]).values()).backward()

    def timed(self, what: str, function):
        """Call a function, and store its seconds."""
        self._synchronize()
        start = time.perf_counter()
        result = function()
        self._synchronize()
        self.times[what].append(time.perf_counter() - start)
        return result

    def _synchronize(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()


def _reset_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mib(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def measure(kind: str, device: str, rounds: int, train: bool, size: tuple[int, int] | None = None) -> dict:
    """Return, by model, the medians of all times, the stages, the peak of memory, and the ratios."""
    size = size or SIZES[kind]
    benches = [Bench(name, config, size, device, train) for name, config in MODELS[kind].items()]
    for number in range(rounds + 1):
        for bench in benches:
            bench.run()
        if number == 0:  # the first round is slower
            for bench in benches:
                bench.times.clear()
                bench.stages.clear()
    results = {
        bench.name: {
            **{what: statistics.median(values) for what, values in bench.times.items()},
            "stages": {name: statistics.median(values) for name, values in bench.stages.items()},
            "peak MiB": bench.peak, "detections": bench.num_detections,
        }
        for bench in benches
    }  # fmt: skip
    whats = ["inference", "training step"] if train else ["inference"]
    ratios = {
        f"{first} / {second}, {what}": results[first][what] / results[second][what]
        for what in whats
        for first, second in COMPARISONS[kind]
    }
    return {"size": list(size), "device": device, "rounds": rounds, "models": results, "ratios": ratios}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=MODELS, default="full", dest="kind", help="full: R-101, R-50; quick: R-18")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds, after one that is not counted")
    parser.add_argument("--train", action="store_true", help="measure a training step of one image too")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="pixels of the image")
    parser.add_argument("--json", metavar="FILE", help="write all figures to a file")
    args = parser.parse_args(arguments)
    results = measure(args.kind, args.device, args.rounds, args.train, tuple(args.size) if args.size else None)
    height, width = results["size"]
    print(f"models: one image of {height} x {width} px, {args.device}, medians over {args.rounds} rounds")
    for name, values in results["models"].items():
        whole = ", ".join(f"{what} {values[what]:.3f} s" for what in ("inference", "training step") if what in values)
        print(f"  {name}: {whole}, peak memory {values['peak MiB']:.0f} MiB, {values['detections']} detections")
        shares = (
            f"{stage} {value:.3f} ({value / values['inference']:.0%})" for stage, value in values["stages"].items()
        )
        print(f"    {', '.join(shares)}")
    for name, ratio in results["ratios"].items():
        print(f"{name}: {ratio:.2f}")
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
