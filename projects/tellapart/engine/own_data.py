"""Train on data without a config file: open the data, choose the settings, and write the config to the run folder."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from ..data.coco_folder import register_coco_folder, registered_files
from ..data.content import DatasetContent
from ..data.data_argument import register_argument
from ..data.image_reading import ImageReader
from ..data.reader import read_dataset
from ..data.split import split_dataset
from ..data.statistics import Objects, evenly_spread, measure_gray_spans, measure_masks
from ..errors import InputError
from ..files import atomic_file, write_json
from ..inference.run_folder import find_model
from ..model_zoo import get_config_file
from . import train
from .cluster import is_launched, join_slurm_tasks
from .config_checks import load_config, register_from_flags
from .own_settings import Settings, Start, choose_method, choose_settings

_VAL_FRACTION = 0.2
_SPLIT_SEED = 0
_NUM_SAMPLED = 8  # images opened for their number of channels
_CONFIG_FILE = "train.yaml"


@dataclass(frozen=True)
class _Data:
    """The data sets of a training.

    Attributes:
        train, val: registered names.
        registered: values of ``--register`` for them.
        held_out: the folder of their files, if the validation set was held out from the training set.
    """

    train: str
    val: str
    registered: list[str]
    held_out: Path | None = None


def run(args: argparse.Namespace) -> None:
    """Train on the data sets that the flags of ``tellapart train`` name.

    Args:
        args: the flags ``train``, ``val``, ``method``, ``init``, ``output`` and those of Detectron2.

    Raises:
        InputError: flags contradict each other, the data cannot be read, or the output folder has a run already.
    """
    _check_flags(args)
    join_slurm_tasks(args.num_gpus, args.num_machines)
    register_from_flags(args.register)
    train_name = register_argument(args.train)
    start = _start(args.init, args.method) if args.init else None
    method, reason = _method(read_dataset(train_name), args.method, start)
    output = Path(_output_in(args.opts) or args.output or Path("output") / f"{train_name}_{method}")
    _check_output(output, args.resume)
    data = _open_data(train_name, args.val, output, args.resume)
    contents = {name: read_dataset(name) for name in (data.train, data.val)}
    settings = _settings(contents[data.train], method, start, args)
    config = _write_config(settings, data, output)
    if os.environ.get("RANK", "0") == "0":
        print(_describe(settings, reason, data, contents, output, args.opts), flush=True)
    # Processes that this one starts have to register the data sets again.
    registered = [*args.register, *data.registered]
    final = {"config_file": str(config), "register": registered, "opts": list(args.opts), "eval_only": False}
    train.run(argparse.Namespace(**{**vars(args), **final}))


def _check_flags(args: argparse.Namespace) -> None:
    if args.config_file:
        raise InputError("--train chooses the config: leave out --config-file, or register the data with --register")
    if args.eval_only:
        raise InputError("--train with --eval-only: use tellapart eval --model RUN --data DATA")


def _output_in(opts: Sequence[str]) -> str:
    return dict(zip(opts[::2], opts[1::2])).get("OUTPUT_DIR", "")


def _check_output(output: Path, resume: bool) -> None:
    """Check that a training would not overwrite an earlier one."""
    if (output / "config.yaml").is_file() and not resume:
        raise InputError(f"{output} has a run already: --resume goes on with it, --output names another folder")


def _open_data(name: str, val: str | None, output: Path, resume: bool) -> _Data:
    """Return the training and the validation set; without one, a part of the training images is held out."""
    if val is not None:
        val_name = register_argument(val)
        if val_name == name:
            raise InputError(f"--train and --val are the same data set, {name}: leave out --val for a split")
        return _Data(name, val_name, [*_register_flag(name), *_register_flag(val_name)])
    content = read_dataset(name)
    if not content.json_file:
        raise InputError(f"{content.where} is not from a COCO file and cannot be split: name a --val data set")
    _, image_root = registered_files(name)
    files = {part: output / "data" / f"{name}_{part}.json" for part in ("train", "val")}
    if not (resume and all(path.is_file() for path in files.values())):
        parts = split_dataset(content, (1 - _VAL_FRACTION, _VAL_FRACTION), _SPLIT_SEED)
        for path, part in zip(files.values(), parts):
            write_json(path, part)
    for path in files.values():
        register_coco_folder(path.stem, str(path), image_root)
    names = [path.stem for path in files.values()]
    return _Data(*names, [*_register_flag(names[0]), *_register_flag(names[1])], output / "data")


def _register_flag(name: str) -> list[str]:
    """Return the value of ``--register`` for a data set in COCO format; nothing for others, which are built in."""
    files = registered_files(name)
    return [f"{name}={files[0]}:{files[1]}"] if files else []


def _method(content: DatasetContent, method: str | None, start: Start | None) -> tuple[str, str]:
    """Return the method and why it is chosen, "" if the user named it."""
    content.check_trainable(needs_masks=content.has_masks)
    if not content.has_masks and method in ("fcis", "semiconv"):
        raise InputError(f"{content.where} has no masks, which --method {method} needs: use --method maskrcnn")
    if method is not None:
        return method, ""
    if start is not None:
        return start.method, "it is that of the given model"
    return choose_method(measure_masks(content.records) if content.has_masks else None)


def _settings(content: DatasetContent, method: str, start: Start | None, args: argparse.Namespace) -> Settings:
    objects = Objects.from_records(content.records)
    world = int(os.environ.get("WORLD_SIZE", 1)) if is_launched() else args.num_gpus * args.num_machines
    spans = () if start else measure_gray_spans(content.records)  # a trained model keeps its scaling of pixels
    return choose_settings(
        content.classes, objects, content.has_masks, method, _num_channels(content), world, start, spans
    )


def _start(init: str, method: str | None) -> Start:
    cfg, info = find_model(init)
    kind = _method_of(cfg)
    if method not in (None, kind) and (method, kind) != ("semiconv", "maskrcnn"):
        raise InputError(f"--init {init} is a model of the method {kind or cfg.MODEL.META_ARCHITECTURE}, not {method}")
    if kind is None:
        raise InputError(f"--init {init} is a {cfg.MODEL.META_ARCHITECTURE}, expected FCIS or Mask R-CNN")
    is_file = str(init).endswith((".yaml", ".yml"))
    folder = Path(cfg.MODEL.WEIGHTS).parent
    config = init if is_file else str((folder / "config.yaml").resolve())
    return Start(config, os.path.abspath(cfg.MODEL.WEIGHTS), kind, info)


def _method_of(cfg: CfgNode) -> str | None:
    if cfg.MODEL.META_ARCHITECTURE == "FCIS":
        return "fcis"
    if cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN":
        return None
    return "semiconv" if cfg.MODEL.ROI_HEADS.NAME == "SemiConvROIHeads" else "maskrcnn"


def _num_channels(content: DatasetContent) -> int:
    """Return the number of channels of the images if it is not that of gray or color images, else 3."""
    reader, numbers = ImageReader(), Counter()
    for i in evenly_spread(len(content.records), _NUM_SAMPLED):
        path = content.records[i]["file_name"]
        try:
            info = reader.describe(path)
        except OSError:
            continue  # training names it
        numbers[3 if info.mode == "LA" else info.num_channels] += 1
    if len(numbers) > 1 and not set(numbers) <= {1, 3, 4}:
        raise InputError(f"{content.where}: images have {' and '.join(map(str, sorted(numbers)))} channels")
    number = next(iter(numbers), 3)
    return 3 if number in (1, 4) else number


def _write_config(settings: Settings, data: _Data, output: Path) -> Path:
    """Write the config of the training into the output folder; return its path."""
    options = {
        **settings.options, "DATASETS.TRAIN": [data.train], "DATASETS.TEST": [data.val], "OUTPUT_DIR": str(output),
    }  # fmt: skip
    base = settings.base if os.path.isfile(settings.base) else get_config_file(settings.base)
    text = yaml.safe_dump({"_BASE_": base, **_nested(options)}, sort_keys=False, default_flow_style=None)
    path = output / _CONFIG_FILE
    try:
        output.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(f"# Written by tellapart train for {data.train}.\n{text}")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error
    load_config(str(path), [])
    return path


def _nested(options: dict[str, Any]) -> dict[str, Any]:
    """Return full keys as nested sections."""
    content: dict[str, Any] = {}
    for key, value in options.items():
        *sections, name = key.split(".")
        node = content
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return content


def _describe(
    settings: Settings, reason: str, data: _Data, contents: dict[str, DatasetContent], output: Path,
    opts: Sequence[str],
) -> str:  # fmt: skip
    """Return what the training will do, line by line."""
    lines = []
    for what, name in (("training", data.train), ("validation", data.val)):
        objects = Objects.from_records(contents[name].records)
        classes = contents[name].classes
        categories = f"{len(classes)} categories" if len(classes) > 1 else f"category {classes[0]}"
        lines.append(f"{what}: {name}, {len(contents[name].records)} images, {len(objects)} objects, {categories}")
    if data.held_out:
        lines.append(
            f"no --val: {_VAL_FRACTION:.0%} of the images are held out for validation (seed {_SPLIT_SEED}), see "
            f"{data.held_out}"
        )
    lines.append(f"method: {settings.method}" + (f", because {reason}" if reason else ""))
    lines += settings.notes
    lines.append(f"{output / _CONFIG_FILE}, from {settings.base}:")
    given = dict(zip(opts[::2], opts[1::2]))
    options = {**settings.options, **{key: f"{value} (given)" for key, value in given.items()}}
    lines += [f"  {key}: {value}" for key, value in options.items()]
    lines.append(f"  {_duration({**settings.options, **given})}")
    lines.append("The expected time is in the log after 20 iterations.")
    return "\n".join(lines)


def _duration(options: dict[str, Any]) -> str:
    return (
        f"{options['SOLVER.MAX_ITER']} iterations of {options['SOLVER.IMS_PER_BATCH']} images, validation every "
        f"{options['TEST.EVAL_PERIOD']}"
    )
