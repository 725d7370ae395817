"""Every config key that Tellapart adds to Detectron2's."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Add Tellapart's keys, with their defaults, to ``cfg`` in place."""
    # An image that cannot be read stops the run with a message that names it; True: warn, skip and count it.
    cfg.DATALOADER.SKIP_BAD_IMAGES = False

    # SGD is Detectron2's; ADAMW (decoupled weight decay) learns faster from random weights in a short run.
    cfg.SOLVER.OPTIMIZER = "SGD"

    # A picture of validation images with true and predicted masks side by side, written after every evaluation.
    cfg.TEST.CONTACT_SHEET = CfgNode()
    # How many images of each test set are on it; 0: no picture.
    cfg.TEST.CONTACT_SHEET.NUM_IMAGES = 8
    # Predictions below this score are not drawn.
    cfg.TEST.CONTACT_SHEET.SCORE_THRESH = 0.5
