"""Cases on solver, engine and checkpoints."""

from __future__ import annotations

import argparse
import logging
import pickle
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .common import case, crc, fill, random_values, rcnn_cfg


@case
def case_lr_schedules() -> dict:
    """The learning rate of each iteration, for several schedulers, warm-ups and steps."""
    from detectron2.config import get_cfg
    from detectron2.solver import build_lr_scheduler

    settings = {
        "multistep": (),
        "multistep_no_warmup": ("WARMUP_ITERS", 0),
        "multistep_constant": ("WARMUP_METHOD", "constant"),
        "multistep_one": ("STEPS", (50,), "GAMMA", 0.5),
        "multistep_beyond": ("STEPS", (30, 90)),
        "cosine": ("LR_SCHEDULER_NAME", "WarmupCosineLR"),
        "cosine_end": ("LR_SCHEDULER_NAME", "WarmupCosineLR", "BASE_LR_END", 0.002),
        "step_fixed": ("LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR", "NUM_DECAYS", 3),
        "rescaled": ("LR_SCHEDULER_NAME", "WarmupCosineLR", "RESCALE_INTERVAL", True),
        "multistep_rescaled": ("RESCALE_INTERVAL", True),
    }
    out = {}
    for name, options in settings.items():
        cfg = get_cfg()
        cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.BASE_LR = 60, (30, 45), 10, 0.02
        cfg.SOLVER.merge_from_list(list(options))
        optimizer = torch.optim.SGD(
            [{"params": [torch.zeros(1)], "lr": 0.02}, {"params": [torch.zeros(1)], "lr": 0.04}], lr=0.02
        )
        scheduler = build_lr_scheduler(cfg, optimizer)
        rates = []
        for iteration in range(60):
            rates.append([g["lr"] for g in optimizer.param_groups])
            optimizer.step()
            if iteration < 59:  # some schedules are not defined after the last iteration
                scheduler.step()
        out[name] = {"rates": np.array(rates).T.copy().tolist(), "state": sorted(scheduler.state_dict())}
    return out


@case
def case_param_groups() -> dict:
    """Learning rate and weight decay per parameter, and a step with gradient clipping."""
    from detectron2.config import get_cfg
    from detectron2.solver import build_optimizer

    settings = {
        "usual": (),
        "norms": ("WEIGHT_DECAY_NORM", 0.01),
        "biases": ("BIAS_LR_FACTOR", 2.0, "WEIGHT_DECAY_BIAS", 0.0),
        "all": ("WEIGHT_DECAY_NORM", 0.0, "BIAS_LR_FACTOR", 3.0, "WEIGHT_DECAY_BIAS", 0.5, "NESTEROV", True),
        "value": ("CLIP_GRADIENTS.ENABLED", True, "CLIP_GRADIENTS.CLIP_VALUE", 0.01),
        "norm": ("CLIP_GRADIENTS.ENABLED", True, "CLIP_GRADIENTS.CLIP_TYPE", "norm", "CLIP_GRADIENTS.CLIP_VALUE", 0.5),
    }
    out = {}
    for name, options in settings.items():
        cfg = get_cfg()
        cfg.SOLVER.merge_from_list(["MOMENTUM", 0.8, "BASE_LR", 0.1, *options])
        model = fill(
            nn.Sequential(
                nn.Conv2d(3, 32, 3, bias=False),
                nn.BatchNorm2d(32),
                nn.Sequential(nn.Conv2d(32, 32, 1), nn.GroupNorm(4, 32), nn.ConvTranspose2d(32, 8, 2)),
                nn.Linear(8, 5),
                nn.LayerNorm(5),
                nn.Embedding(7, 3),
            )
        )
        model[3].weight.requires_grad = False
        optimizer = build_optimizer(cfg, model)
        names = {id(p): n for n, p in model.named_parameters()}
        groups = [
            [g["lr"], g["weight_decay"], sorted(names[id(p)] for p in g["params"])] for g in optimizer.param_groups
        ]
        for n, p in model.named_parameters():
            p.grad = random_values(f"gradient/{n}", *p.shape)
        optimizer.step()
        after = {n: float(p.detach().double().square().sum()) for n, p in model.named_parameters()}
        out[name] = {
            "groups": sorted(groups, key=lambda g: g[2][0]),
            "momentum": [optimizer.defaults["momentum"], optimizer.defaults["nesterov"]],
            "sgd": isinstance(optimizer, torch.optim.SGD),
            "after": after,
        }
    return out


@case
def case_param_overrides() -> dict:
    """get_default_optimizer_params with overrides and with a function of learning-rate factors."""
    from detectron2.solver import get_default_optimizer_params

    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 2))
    names = {id(p): n for n, p in model.named_parameters()}

    def describe(groups: list) -> list:
        return [
            {k: sorted(names[id(p)] for p in v) if k == "params" else v for k, v in sorted(g.items())} for g in groups
        ]

    return {
        "plain": describe(get_default_optimizer_params(model, base_lr=0.1, weight_decay=0.01)),
        "overrides": describe(
            get_default_optimizer_params(
                model, base_lr=0.1, weight_decay=0.01, weight_decay_norm=0.0, overrides={"bias": {"lr": 0.5}}
            )
        ),
        "factor": describe(
            get_default_optimizer_params(model, base_lr=0.1, lr_factor_func=lambda n: 0.1 if n.startswith("0") else 1.0)
        ),
    }


@case
def case_argument_parser() -> dict:
    """default_argument_parser: options, defaults and a parsed command line."""
    from detectron2.engine import default_argument_parser

    parser = default_argument_parser()
    options = []
    for a in parser._actions:
        if not isinstance(a, argparse._HelpAction):
            default = "tcp" if a.dest == "dist_url" else a.default
            options.append([list(a.option_strings), a.dest, default, a.nargs, getattr(a.type, "__name__", None)])
    line = ["--config-file", "x.yaml", "--resume", "--eval-only", "--num-gpus", "2", "--num-machines", "3"]
    parsed = vars(parser.parse_args([*line, "--machine-rank", "1", "--dist-url", "auto", "A.B", "1", "C", "x"]))
    return {"options": options, "dist_url": str(parser.get_default("dist_url"))[:17], "parsed": parsed}


def _caffe2_weights() -> dict[str, np.ndarray]:
    """Return the weights of a narrow R-50, with the names of Detectron's ImageNet models for Caffe2."""
    blobs: dict[str, tuple[int, ...]] = {"conv1_w": (16, 3, 7, 7), "res_conv1_bn_s": (16,), "res_conv1_bn_b": (16,)}
    inputs, width, out = 16, 16, 64
    for stage, blocks in zip((2, 3, 4, 5), (3, 4, 6, 3)):
        for block in range(blocks):
            name = f"res{stage}_{block}_branch"
            sizes = {"2a": (width, inputs, 1, 1), "2b": (width, width, 3, 3), "2c": (out, width, 1, 1)}
            if block == 0:
                sizes["1"] = (out, inputs, 1, 1)
            for part, size in sizes.items():
                blobs[f"{name}{part}_w"] = size
                blobs[f"{name}{part}_bn_s"] = blobs[f"{name}{part}_bn_b"] = size[:1]
            inputs = out
        width, out = width * 2, out * 2
    blobs.update(fc1000_w=(1000, 512), fc1000_b=(1000,), lr=(1,))
    blobs["conv1_w_momentum"] = (16, 3, 7, 7)
    return {name: random_values(f"caffe2/{name}", *size).numpy() for name, size in blobs.items()}


@case
def case_caffe2_checkpoint() -> dict:
    """A Caffe2 checkpoint loaded into a narrow R-50-DC5: the parameters that change, and the unused rest."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model

    cfg = rcnn_cfg("DC5", 50, mask=False, narrow=True)
    cfg.MODEL.RPN.CONV_DIMS = [-1]
    model = fill(build_model(cfg))
    before = {k: crc(v.numpy()) for k, v in model.state_dict().items()}
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "R-50.pkl"
            path.write_bytes(pickle.dumps({"blobs": _caffe2_weights()}))
            rest = DetectionCheckpointer(model).load(str(path))
            zoo = fill(build_model(cfg))
            weights = {k: v.numpy() * 2 for k, v in zoo.backbone.state_dict().items()}
            path.write_bytes(pickle.dumps({"model": weights, "__author__": "torchvision", "matching_heuristics": True}))
            DetectionCheckpointer(zoo).load(str(path))
    finally:
        root.removeHandler(handler)
    changed = [k for k, v in model.state_dict().items() if crc(v.numpy()) != before[k]]
    return {
        "changed": changed,
        "unchanged": [k for k in before if k not in changed],
        "values": {k: v for k, v in model.state_dict().items() if k in changed and k.endswith(("weight", "bias"))},
        "rest": sorted(rest),
        "heuristic": [float(v.double().sum()) for k, v in zoo.backbone.state_dict().items()],
    }


@case
def case_events() -> dict:
    """Event storage and writers with fixed numbers: histories, metrics.json, the printed line."""
    import json

    from detectron2.utils.events import CommonMetricPrinter, EventStorage, JSONWriter, get_event_storage

    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    printer = CommonMetricPrinter(max_iter=100)
    printer.logger.addHandler(handler)
    printer.logger.setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as folder, EventStorage(5) as storage:
        writer = JSONWriter(f"{folder}/metrics.json")
        for i in range(45):
            assert get_event_storage() is storage
            storage.put_scalars(total_loss=1.0 / (i + 1), loss_a=float(i % 7), time=0.25, data_time=0.01)
            storage.put_scalar("lr", 0.1 * 0.9**i, smoothing_hint=False)
            if i == 30:
                storage.put_scalar("bbox/AP", 12.5, smoothing_hint=False)
            if i % 20 == 19:
                printer.write()
                writer.write()
            storage.step()
        storage.put_scalar("x", 3)
        writer.write()
        writer.close()
        printer.logger.removeHandler(handler)
        metrics = [json.loads(line) for line in Path(f"{folder}/metrics.json").read_text().splitlines()]
        history = storage.history("loss_a")
        return {
            "metrics": metrics,
            "latest": {k: list(v) for k, v in storage.latest().items()},
            "smoothed": {k: list(v) for k, v in storage.latest_with_smoothing_hint(20).items()},
            "history": [history.latest(), history.median(20), history.avg(20), history.global_avg()],
            "hints": storage.smoothing_hints(),
            "iteration": storage.iter,
            "lines": [line.strip().split() for line in lines],
        }


@case
def case_trainer_checkpoint() -> dict:
    """What DefaultTrainer writes in two iterations: keys of the checkpoint, files, names of metrics."""
    import json

    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.engine import DefaultTrainer
    from detectron2.structures import BoxMode
    from PIL import Image

    cfg = rcnn_cfg("DC5", 50, mask=False, narrow=True)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 10
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("parity_two_images",), ()
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (64,), 80
    cfg.SOLVER.merge_from_list(["IMS_PER_BATCH", 2, "MAX_ITER", 2, "STEPS", (), "WARMUP_ITERS", 0, "BASE_LR", 1e-4])
    cfg.SEED = 1

    def described(value):
        if isinstance(value, dict):
            few = list(value.items())[:30]
            return {str(k): described(v) for k, v in few}
        if isinstance(value, list) and value:
            return [len(value), described(value[0])]
        return type(value).__name__

    with tempfile.TemporaryDirectory() as folder:
        records = []
        for i in range(2):
            path = f"{folder}/{i}.png"
            pixels = random_values(f"trainer/{i}", 64, 72, 3, low=0, high=255).numpy().astype(np.uint8)
            Image.fromarray(pixels).save(path)
            box = {"bbox": [5.0, 6.0, 40.0, 50.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": i, "iscrowd": 0}
            records.append({"file_name": path, "image_id": i, "height": 64, "width": 72, "annotations": [box]})
        cfg.OUTPUT_DIR = f"{folder}/out"
        Path(cfg.OUTPUT_DIR).mkdir()
        DatasetCatalog.register("parity_two_images", lambda: records)
        MetadataCatalog.get("parity_two_images").thing_classes = ["a", "b"]
        logging.disable(logging.WARNING)
        try:
            trainer = DefaultTrainer(cfg)
            trainer.resume_or_load(resume=False)
            trainer.train()
            hooks = [type(h).__name__ for h in trainer._hooks]
            files = sorted(p.name for p in Path(cfg.OUTPUT_DIR).iterdir() if not p.name.startswith("events."))
            last = (Path(cfg.OUTPUT_DIR) / "last_checkpoint").read_text()
            saved = torch.load(f"{cfg.OUTPUT_DIR}/model_final.pth", weights_only=False)
            metrics = [json.loads(x) for x in (Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()]
            events = len(list(Path(cfg.OUTPUT_DIR).glob("events.*")))
        finally:
            logging.disable(logging.NOTSET)
            DatasetCatalog.pop("parity_two_images")
            MetadataCatalog.pop("parity_two_images")
    return {
        "keys": sorted(saved),
        "model": list(saved.pop("model")),
        "iteration": saved["iteration"],
        "rest": described(saved),
        "hooks": hooks,
        "files": files,
        "last": last,
        "metrics": [sorted(m) for m in metrics],
        "iterations": [m["iteration"] for m in metrics],
        "events": events,
    }
