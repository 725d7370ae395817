"""Weights: forms of checkpoints, and files that are no checkpoints."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import torch

from ..case import Case, Refused, edited, refused, trains
from ..coco_set import write_set

EVAL = {"flags": ("--eval-only",), "weights": True}
FILE = ("MODEL.WEIGHTS", "{folder}/w.pth")


def nothing() -> Callable[[Path], None]:
    return edited()


def text(content: bytes) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        write_set(folder)
        (folder / "w.pth").write_bytes(content)

    return build


def saved(value: object) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        write_set(folder)
        torch.save(value, folder / "w.pth")

    return build


def from_model(change: Callable[[dict], object], name: str = "w.pth") -> Callable[[Path], None]:
    """Write the checkpoint of the weights fixture after ``change``: ``folder/weights.pth`` is its path."""

    def build(folder: Path) -> None:
        write_set(folder)
        model = torch.load(folder / "weights.pth", weights_only=False)["model"]
        changed = change(dict(model))
        if name.endswith(".pkl"):
            (folder / name).write_bytes(pickle.dumps(changed))
        else:
            torch.save(changed, folder / name)

    return build


def prefixed(prefix: str) -> Callable[[dict], dict]:
    return lambda model: {f"{prefix}{name}": value for name, value in model.items()}


def one_nan(model: dict) -> dict:
    name = next(name for name in model if name.endswith("conv1.weight"))
    model[name] = model[name].clone()
    model[name].view(-1)[0] = float("nan")
    return {"model": model}


def arrays(model: dict) -> dict:
    return {"model": {name: value.numpy() for name, value in model.items()}, "__author__": "me"}


CASES = [
    Case("eval_only_without_weights", nothing(), refused(r"MODEL\.WEIGHTS"), flags=("--eval-only",)),
    Case("weights_missing", nothing(), refused("nowhere"), options=("MODEL.WEIGHTS", "{folder}/nowhere.pth")),
    Case("weights_missing_process", nothing(), refused("nowhere"), options=("MODEL.WEIGHTS", "{folder}/nowhere.pth"),
         flags=("--eval-only",), process=True),
    Case("weights_are_a_folder", nothing(), refused("images"), options=("MODEL.WEIGHTS", "{folder}/images")),
    Case("weights_valid", from_model(lambda m: {"model": m}), trains(12), options=FILE, **EVAL),
    Case("weights_state_dict", from_model(lambda m: {"state_dict": m}), trains(12), options=FILE, **EVAL),
    Case("weights_plain", from_model(lambda m: m), trains(12), options=FILE, **EVAL),
    Case("weights_module_prefix", from_model(lambda m: {"model": prefixed("module.")(m)}), trains(12), options=FILE,
         **EVAL),
    Case("weights_model_prefix", from_model(lambda m: {"state_dict": prefixed("model.")(m)}), trains(12), options=FILE,
         **EVAL),
    Case("weights_both_prefixes", from_model(prefixed("module.model.")), trains(12), options=FILE, **EVAL),
    Case("weights_pickled_arrays", from_model(arrays, "w.pkl"), trains(12),
         options=("MODEL.WEIGHTS", "{folder}/w.pkl"), **EVAL),
    Case("weights_unknown_names", from_model(prefixed("net.")), refused(r"w\.pth", "parameters"), options=FILE, **EVAL),
    Case("weights_one_nan", from_model(one_nan), refused(r"w\.pth", "finite|nan", r"conv1\.weight"), options=FILE,
         **EVAL),
    Case("weights_one_nan_training", from_model(one_nan), refused(r"w\.pth", r"conv1\.weight"), options=FILE,
         weights=True),
    Case("weights_html", text(b"<!DOCTYPE html><html>Sign in</html>"), refused(r"w\.pth"), options=FILE),
    Case("weights_html_pkl", nothing(), refused(r"x\.pkl"), options=("MODEL.WEIGHTS", "{folder}/x.pkl")),
    Case("weights_empty", text(b""), refused(r"w\.pth"), options=FILE),
    Case("weights_zip_cut", text(b"PK\x03\x04" + bytes(200)), refused(r"w\.pth"), options=FILE),
    Case("weights_random_bytes", text(bytes(range(256)) * 8), refused(r"w\.pth"), options=FILE),
    Case("weights_list", saved([1, 2, 3]), refused(r"w\.pth"), options=FILE),
    Case("weights_tensor", saved(torch.zeros(3)), refused(r"w\.pth"), options=FILE),
    Case("weights_model_is_none", saved({"model": None}), refused(r"w\.pth"), options=FILE),
    Case("weights_empty_model", saved({"model": {}}), refused(r"w\.pth"), options=FILE),
    Case("weights_integer_names", saved({"model": {1: torch.zeros(2)}}), refused(r"w\.pth"), options=FILE),
    Case("weights_url_without_network", nothing(), Refused((r"https://127\.0\.0\.1:9/w\.pth",)),
         options=("MODEL.WEIGHTS", "https://127.0.0.1:9/w.pth")),
]  # fmt: skip
