#!/usr/bin/env python
"""Convert torchvision's VGG-16 weights (plain or with batch norm) to a checkpoint for build_dilated_vgg16_backbone.

python -c "import torch, torchvision as tv; torch.save(tv.models.vgg16(weights='DEFAULT').state_dict(), 'tv.pth')"
python tools/convert_torchvision_vgg.py tv.pth vgg16.pth
"""

from __future__ import annotations

import argparse
import pickle

from tellapart.backbones.vgg import from_torchvision
from tellapart.errors import InputError, run_command
from tellapart.files import atomic_file

import torch


def main() -> None:
    """Convert the file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a state dict written by torch.save")
    parser.add_argument("output", help="the checkpoint to write, *.pth")
    args = parser.parse_args()
    try:
        state = torch.load(args.source, map_location="cpu", weights_only=True)
        converted = from_torchvision(state)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, TypeError) as error:
        raise InputError(f"{args.source} can't be read: {error}") from error
    except InputError as error:
        raise InputError(f"{args.source}: {error}") from error
    with atomic_file(args.output, "wb") as file:
        torch.save({"model": converted, "__author__": "torchvision"}, file)
    print(f"wrote {args.output}: {len(converted)} tensors")


if __name__ == "__main__":
    run_command(main)
