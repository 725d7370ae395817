"""Versions and devices, for logs and bug reports."""

from __future__ import annotations

import os
import platform
import sys
from importlib import import_module

import torch
from tabulate import tabulate

import detectron2


def collect_env_info() -> str:
    """Return a table of versions and devices."""
    where = os.path.dirname(detectron2.__file__)
    rows = [
        ("sys.platform", sys.platform),
        ("Python", platform.python_version()),
        ("detectron2", f"{getattr(detectron2, '__version__', '')} @{where}"),
        ("PyTorch", f"{torch.__version__} @{os.path.dirname(torch.__file__)}"),
    ]
    for name in ("torchvision", "numpy", "PIL", "cv2", "fvcore", "iopath", "pycocotools"):
        rows.append((name, getattr(import_module(name), "__version__", "installed")))
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        rows.append(("CUDA, GPUs", f"{torch.version.cuda}, {', '.join(devices)}"))
    else:
        rows.append(("GPU available", "No: torch.cuda.is_available() == False"))
    return tabulate(rows)
