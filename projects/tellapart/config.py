"""Every config key that Tellapart adds to Detectron2's."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Add Tellapart's keys, with their defaults, to ``cfg`` in place."""
    # An image that cannot be read stops the run with a message that names it; True: warn, skip and count it.
    cfg.DATALOADER.SKIP_BAD_IMAGES = False

    # SGD is Detectron2's; ADAMW (decoupled weight decay) learns faster from random weights in a short run.
    cfg.SOLVER.OPTIMIZER = "SGD"

    # [prefix, factor] pairs: parameters whose name starts with the prefix learn with BASE_LR times the factor.
    cfg.SOLVER.LR_FACTORS = []

    # FCIS (Li et al., 2017), defaults of the paper. Its other constants are keys that Detectron2 has, set in
    # configs/FCIS/Base-FCIS.yaml: regions an image, their share of foreground, IoU thresholds, NMS, ...
    cfg.MODEL.FCIS = CfgNode()
    # k: score maps for k x k relative positions. 1: no position, the paper's translation-invariant ablation.
    cfg.MODEL.FCIS.GRID_SIZE = 7
    # m: a region is assembled on m x m cells.
    cfg.MODEL.FCIS.RESOLUTION = 21
    # "aligned": bilinear, nothing rounded; "pool": the official rounding and averaging (for the official weights).
    cfg.MODEL.FCIS.SAMPLING = "aligned"
    # Convolutions with ReLU between the backbone and the maps: channels of each, kernel size in pixels, norm.
    cfg.MODEL.FCIS.CONV_DIMS = [1024]
    cfg.MODEL.FCIS.CONV_KERNEL = 1
    cfg.MODEL.FCIS.NORM = ""
    # Train on the ROI_HEADS.BATCH_SIZE_PER_IMAGE regions of highest loss (of all), instead of a sample of that size.
    cfg.MODEL.FCIS.OHEM = False
    # Factors on the losses of masks and boxes; that of categories has 1.
    cfg.MODEL.FCIS.SEG_LOSS_WEIGHT = 10.0
    cfg.MODEL.FCIS.BOX_LOSS_WEIGHT = 1.0
    # A cell of a mask target is foreground from this share on; a predicted mask from this probability, and a voted one
    # from this share of votes.
    cfg.MODEL.FCIS.MASK_THRESH = 0.4
    # Inference: 2 scores the proposals and the boxes regressed from them.
    cfg.MODEL.FCIS.NUM_ROUNDS = 2
    # Inference: candidates of at least this box IoU with a detection vote on its mask.
    cfg.MODEL.FCIS.VOTE_IOU = 0.5
    # Inference: regions assembled at once; a matter of memory only.
    cfg.MODEL.FCIS.CHUNK_SIZE = 100

    # A picture of validation images with true and predicted masks side by side, written after every evaluation.
    cfg.TEST.CONTACT_SHEET = CfgNode()
    # How many images of each test set are on it; 0: no picture.
    cfg.TEST.CONTACT_SHEET.NUM_IMAGES = 8
    # Predictions below this score are not drawn.
    cfg.TEST.CONTACT_SHEET.SCORE_THRESH = 0.5
