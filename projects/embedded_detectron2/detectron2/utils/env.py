"""Seeding of the random generators."""

from __future__ import annotations

import logging
import os
import random
from datetime import datetime

import numpy as np
import torch


def seed_all_rng(seed: int | None = None) -> None:
    """Seed torch, numpy and Python's ``random``.

    None generates a seed from the time, the process id and the operating system's generator, and logs it.
    """
    if seed is None:
        entropy = int.from_bytes(os.urandom(2), "big")
        seed = (os.getpid() + int(datetime.now().strftime("%S%f")) + entropy) % 2**31
        logging.getLogger(__name__).info(f"Using a generated random seed {seed}")
    np.random.seed(seed)
    torch.manual_seed(seed)
    random.seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)  # for processes started from this one
