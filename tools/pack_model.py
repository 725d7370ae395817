"""Add a trained model to the model zoo of the package: float16 weights, config and facts.

Usage:
  python tools/pack_model.py RUN NAME --license "CC0" --data "2018 Data Science Bowl, nuclei_train" \
      --config quick/fcis/fcis_R_18_nuclei.yaml

Writes projects/tellapart/model_zoo/weights/NAME (model.pth, config.yaml, model_info.json) and an entry in index.json
with the SHA-256 of these files. The model is then tellapart://NAME.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tellapart import InputError
from tellapart.engine.model_info import FILE_NAME
from tellapart.files import atomic_file, atomic_folder, write_json
from tellapart.inference.run_folder import find_model
from tellapart.model_zoo.models import PREFIX, sha256

import torch

MODELS = Path(__file__).resolve().parents[1] / "projects" / "tellapart" / "model_zoo" / "weights"
WEIGHTS = "model.pth"


def pack(run: str, name: str, facts: dict[str, str], models: Path = MODELS, opts: Sequence[str] = ()) -> Path:
    """Write the folder of a model, and its entry in the index.

    Args:
        run: the output folder of the training.
        name: of the model.
        facts: further entries of the index: license, data, config.
        models: folder of all models.
        opts: config options of prediction that were chosen after the training, [key, value, ...].

    Returns:
        The model's folder.

    Raises:
        InputError: the run has no config or weights.
    """
    cfg, info = find_model(run, opts=opts)
    state = torch.load(cfg.MODEL.WEIGHTS, map_location="cpu", weights_only=True)["model"]
    state = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    bad = [key for key, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise InputError(f"{cfg.MODEL.WEIGHTS}: {bad[0]} does not fit into float16")
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR, cfg.MODEL.DEVICE = f"{PREFIX}{name}", "./output", "cuda"
    # Paths of this machine are left out.
    info = dataclasses.replace(info, weights=WEIGHTS, datasets={}, base_config=facts.get("config", ""))
    with atomic_folder(models / name, replace=True) as folder:
        torch.save({"model": state}, Path(folder) / WEIGHTS)
        (Path(folder) / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
        write_json(Path(folder) / FILE_NAME, dataclasses.asdict(info))
    index_file = models / "index.json"
    index = json.loads(index_file.read_text()) if index_file.is_file() else {}
    files = {path.name: sha256(path) for path in sorted((models / name).iterdir())}
    index[name] = {**facts, "sha256": files}
    with atomic_file(index_file) as file:
        file.write(json.dumps(dict(sorted(index.items())), indent=2) + "\n")
    return models / name


def main() -> None:
    """Parse the command line and pack the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="output folder of a training")
    parser.add_argument("name", metavar="NAME")
    for flag, text in (("license", "of the weights"), ("data", "it was trained on"), ("config", "it was trained with")):
        parser.add_argument(f"--{flag}", required=True, help=text)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config options chosen after the training")
    args = parser.parse_intermixed_args()
    try:
        facts = {"license": args.license, "data": args.data, "config": args.config}
        folder = pack(args.run, args.name, facts, opts=args.opts)
    except InputError as error:
        sys.exit(f"error: {error}")
    size = (folder / WEIGHTS).stat().st_size / 2**20
    print(f"{folder}: {size:.1f} MiB, {PREFIX}{args.name}")


if __name__ == "__main__":
    main()
