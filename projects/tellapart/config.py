"""The config keys that Tellapart adds to Detectron2's, and the keys and values that have been renamed."""

from __future__ import annotations

from detectron2.config import CfgNode

# Old full key -> new full key. A config that still has the old one gets a message that names the new one.
RENAMED_KEYS: dict[str, str] = {
    "MODEL.INSTANCE_FCN.CENTRE_TOLERANCE": "MODEL.INSTANCE_FCN.CENTER_TOLERANCE",
}

# Old registered name -> new one, for keys such as MODEL.ROI_HEADS.NAME that hold the name of a registered class.
RENAMED_VALUES: dict[str, str] = {
    "MaskedROIHeads": "MaskPooledROIHeads",
    "NoClassifier": "PassThroughROIHeads",
    "build_vgg16_hole_backbone": "build_dilated_vgg16_backbone",
}


def add_config(cfg: CfgNode) -> None:
    """Add Tellapart's keys, with their defaults, to ``cfg`` in place.

    Each key's comment says what it is, its unit, and where the default comes from: a section of the paper, the authors'
    code, or our own choice. Lengths are in pixels of the network's input image unless the comment says otherwise.
    """
    # False: an image that cannot be read stops the run with a message that names it. True: such images are skipped with
    # a warning and counted. False by default, so that no data is lost unnoticed.
    cfg.DATALOADER.SKIP_BAD_IMAGES = False

    # What happens to annotations that cannot be used, such as polygons of two points, RLEs that are cut off, and boxes
    # that contradict their masks. "drop": they are repaired or left out, in training and in evaluation, and one summary
    # has their number and first ids. "stop": the run stops with that summary before it starts.
    cfg.DATALOADER.BAD_ANNOTATIONS = "drop"

    # How pixels are brought to 8 bits. None is "auto": 8-bit images as they are, all others as "percentile"; an 8-bit
    # image with only 0 and 1 becomes 0 and 255. "percentile": the 0.1 and 99.9 percentiles of each image become 0 and
    # 255, the habit of microscopy tools; colors share one range, other channels have their own. "full_range": the range
    # of the integer type (of floats: 0 to 1). [low, high]: these values. "none": pixels as they are, in float32.
    # The default is None because Detectron2's configs accept both text and a list only for such a key.
    cfg.INPUT.SCALING = None
    # Files with several pages (TIFF stacks, GIF): "first" reads the first page; "channels" reads each page as a
    # channel, and MODEL.PIXEL_MEAN and PIXEL_STD need one value per page; "max" is the maximum over all pages.
    cfg.INPUT.PAGES = "first"
    # "apply" turns images as their EXIF orientation says, as Detectron2 does. "ignore" leaves them as they are stored,
    # for annotations that were drawn on the stored pixels.
    cfg.INPUT.EXIF = "apply"
    # Images with more pixels stop the run. The default is the limit of Pillow, a protection against broken files.
    cfg.INPUT.MAX_PIXELS = 178_956_970

    # Augmentations in training, added to INPUT.RANDOM_FLIP (our choice). Objects that have no up and down: one of the
    # eight rotations by 90 degrees and reflections.
    cfg.INPUT.AUGMENTATION = CfgNode()
    cfg.INPUT.AUGMENTATION.DIHEDRAL = False
    # Largest relative change of brightness and of contrast, largest standard deviation of a blur in pixels, and of
    # noise as a fraction of the image's range of values. 0: none. Sizes vary by MIN_SIZE_TRAIN_SAMPLING "range".
    cfg.INPUT.AUGMENTATION.BRIGHTNESS = 0.0
    cfg.INPUT.AUGMENTATION.CONTRAST = 0.0
    cfg.INPUT.AUGMENTATION.BLUR = 0.0
    cfg.INPUT.AUGMENTATION.NOISE = 0.0
    # Probability that instances of another training image, or of the same one, are pasted into an image (Ghiasi et al.,
    # 2021). They cover what is below: not for data whose masks overlap.
    cfg.INPUT.AUGMENTATION.COPY_PASTE = 0.0

    # "SGD", as in Detectron2 and in all three papers, or "ADAMW" (Adam with decoupled weight decay), which learns
    # faster from random weights in short runs.
    cfg.SOLVER.OPTIMIZER = "SGD"

    # Exponential moving average of the weights, such as 0.998; 0: none. Checkpoints and evaluations then have the
    # average, and training goes on with the weights. The average spans about 1 / (1 - EMA_DECAY) iterations.
    cfg.SOLVER.EMA_DECAY = 0.0

    # List of [prefix, factor]: parameters whose name starts with the prefix have the learning rate BASE_LR * factor.
    # Empty by default: one learning rate for all.
    cfg.SOLVER.LR_FACTORS = []

    # ------------------------------------------------------------------------------------------------------- FCIS
    # Li et al., 2017; the defaults are the paper's or those of the authors' code. FCIS's other constants (regions per
    # image, fraction of foreground regions, IoU thresholds, NMS) are Detectron2's own keys; configs/FCIS/Base-FCIS.yaml
    # sets them.
    cfg.MODEL.FCIS = CfgNode()
    # k: there is one score map for each of k x k relative positions (section 2.1). 1 is the paper's ablation without
    # positions.
    cfg.MODEL.FCIS.GRID_SIZE = 7
    # m: PSRoI pooling turns each region into m x m cells. m must be at least k. The default is that of the authors'
    # code.
    cfg.MODEL.FCIS.RESOLUTION = 21
    # How a cell reads its score map. "aligned": bilinear interpolation without rounding, as ROIAlign (our default).
    # "pool": the authors' rounding and averaging, as ROIPool; needed with their weights.
    cfg.MODEL.FCIS.SAMPLING = "aligned"
    # Convolutions with ReLU between the backbone and the score maps: output channels of each, kernel size in feature
    # pixels, and norm ("": none). The defaults are the paper's: one 1x1 convolution to 1024 channels (section 2.3).
    cfg.MODEL.FCIS.CONV_DIMS = [1024]
    cfg.MODEL.FCIS.CONV_KERNEL = 1
    cfg.MODEL.FCIS.NORM = ""
    # Online hard example mining, as in the paper's COCO experiments (section 2.3): True trains on the
    # ROI_HEADS.BATCH_SIZE_PER_IMAGE regions of highest loss of each image, False on a random sample of that size.
    cfg.MODEL.FCIS.OHEM = False
    # Weights of the mask loss and of the box loss; the class loss has weight 1. The defaults are those of the authors'
    # code. ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT is not used.
    cfg.MODEL.FCIS.SEG_LOSS_WEIGHT = 10.0
    cfg.MODEL.FCIS.BOX_LOSS_WEIGHT = 1.0
    # One threshold, used three times as in the authors' code. Training: a cell of a mask target is foreground if at
    # least this fraction of it is. Inference: a candidate's cell is foreground from this probability, and a pixel of a
    # detection from this fraction of the votes.
    cfg.MODEL.FCIS.MASK_THRESH = 0.4
    # Inference: how often regions are scored. 1: the proposals only. 2: also the boxes regressed from them, which
    # doubles the number of candidates; the paper's (section 2.3).
    cfg.MODEL.FCIS.NUM_ROUNDS = 2
    # Inference, mask voting (section 2.3): candidates whose box IoU with a detection is at least this vote on its mask.
    # At 1 only the detection itself and candidates with the same box vote.
    cfg.MODEL.FCIS.VOTE_IOU = 0.5
    # Inference: number of regions that are pooled at once. It limits memory and does not change the result.
    cfg.MODEL.FCIS.CHUNK_SIZE = 100

    # --------------------------------------------------------------------------------------------- dilated VGG-16
    # The backbone of InstanceFCN (section 4). Stages to return, of "conv1" to "conv5"; and the norm: "" for VGG-16
    # (the paper's), "BN" or "FrozenBN" for VGG-16-BN.
    cfg.MODEL.VGG = CfgNode()
    cfg.MODEL.VGG.OUT_FEATURES = ["conv5"]
    cfg.MODEL.VGG.NORM = ""

    # ------------------------------------------------------------------------------------------------ InstanceFCN
    # Dai et al., 2016; the defaults are the paper's where it gives a value.
    cfg.MODEL.INSTANCE_FCN = CfgNode()
    # One feature map (the paper's), or several levels of a pyramid from fine to coarse. Levels share all layers.
    cfg.MODEL.INSTANCE_FCN.IN_FEATURES = ["conv5"]
    # The head that predicts the masks of windows: "InstanceSensitiveHead" (section 3.1), or "DeepMaskHead", the
    # fully-connected head that the paper compares with.
    cfg.MODEL.INSTANCE_FCN.MASK_HEAD = "InstanceSensitiveHead"
    # k: there is one score map for each of k x k relative positions (section 3.1).
    cfg.MODEL.INSTANCE_FCN.GRID_SIZE = 5
    # m, the height and width of a window, and the distance between neighboring windows, both in feature pixels. At
    # stride 8, 21 feature pixels are 168 image pixels (section 4).
    cfg.MODEL.INSTANCE_FCN.WINDOW_SIZE = 21
    cfg.MODEL.INSTANCE_FCN.WINDOW_STRIDE = 1
    # Channels of the first convolution of each branch (section 4) and of DeepMaskHead's hidden layer.
    cfg.MODEL.INSTANCE_FCN.CONV_DIM = 512
    # Height and width of DeepMaskHead's masks, in cells.
    cfg.MODEL.INSTANCE_FCN.DEEPMASK_RESOLUTION = 56
    # Which windows are positive. "iou" (our default): by the IoU of the window and an instance's box: at least the
    # second threshold is positive, less than the first is negative, between them is ignored. Windows are square, so
    # their IoU with a box of aspect ratio r (longer / shorter side) is at most 1 / (2 sqrt(r) - 1): with 0.5, boxes of
    # r > 2.25 never get a positive window; with 0.3, boxes of r > 4.7 only have negative ones. "deepmask" has no such
    # limit.
    cfg.MODEL.INSTANCE_FCN.LABEL_RULE = "iou"
    cfg.MODEL.INSTANCE_FCN.IOU_THRESHOLDS = [0.3, 0.5]
    # "deepmask" (Pinheiro et al., 2015): a window is positive if the offsets of the instance's center in x and in y are
    # at most CENTER_TOLERANCE, and the longer side of its box is within SIZE_BAND, both as fractions of the window's
    # side. Windows that pass with both tolerances doubled are ignored.
    cfg.MODEL.INSTANCE_FCN.CENTER_TOLERANCE = 0.125
    cfg.MODEL.INSTANCE_FCN.SIZE_BAND = [0.5, 1.0]
    # A cell of a mask target is foreground if at least this fraction of it is.
    cfg.MODEL.INSTANCE_FCN.MASK_THRESH = 0.5
    # Training: number of windows sampled per image, and the largest fraction of them that is positive (section 4).
    cfg.MODEL.INSTANCE_FCN.BATCH_SIZE_PER_IMAGE = 256
    cfg.MODEL.INSTANCE_FCN.POSITIVE_FRACTION = 0.5
    # Weight of the mask loss; the objectness loss has weight 1.
    cfg.MODEL.INSTANCE_FCN.MASK_LOSS_WEIGHT = 1.0
    # Inference: the input image is resized by each of these factors, and the proposals of all sizes are merged. The
    # paper has 1.5^-4 to 1.5^1 (section 4); one factor by default, for speed.
    cfg.MODEL.INSTANCE_FCN.TEST_SCALES = [1.0]
    # Inference: number of windows per level and image size whose masks are assembled (our choice).
    cfg.MODEL.INSTANCE_FCN.TOPK_PER_LEVEL = 1000
    # Inference: box IoU above which NMS removes the proposal of lower score (section 4), and the number of proposals
    # kept per image.
    cfg.MODEL.INSTANCE_FCN.NMS_THRESH = 0.8
    cfg.MODEL.INSTANCE_FCN.POST_NMS_TOPK = 1000
    # Inference: the score of a proposal. "objectness" (the paper's), or "product": objectness times the mean foreground
    # probability of the mask.
    cfg.MODEL.INSTANCE_FCN.SCORE = "objectness"

    # ------------------------------------------------------------------------------ semi-convolutional operators
    # Novotny et al., 2018; the defaults are the paper's where it gives a value.
    cfg.MODEL.SEMICONV = CfgNode()
    # D, the number of embedding dimensions: the first two are geometric (x, y), the others describe appearance.
    cfg.MODEL.SEMICONV.EMBEDDING_DIM = 8
    # Channels between the two convolutions that predict the embedding Phi.
    cfg.MODEL.SEMICONV.CONV_DIM = 256
    # "additive": Psi = (x, y, 0, ...) + Phi (section 3.2). "convolutional": Psi = Phi, the paper's counterexample
    # without coordinates.
    cfg.MODEL.SEMICONV.MIXING = "additive"
    # Pixels of the input image per unit of x and y, so that coordinates have about the range of a layer's output (our
    # choice).
    cfg.MODEL.SEMICONV.PIXELS_PER_UNIT = 32.0
    # "LaplacianKernel" (the one that the paper uses), "GaussianKernel" or "SteeredBilateralKernel" (section 3.3); and
    # its width in units of the embedding. For SteeredBilateralKernel this is the width of the geometric part; the
    # Gaussian's width is fixed, those of the other two are learned from this initial value.
    cfg.MODEL.SEMICONV.KERNEL = "LaplacianKernel"
    cfg.MODEL.SEMICONV.SIGMA = 1.0
    # Inference: the seed embedding of a region (section 3.4). "soft": the mean over its pixels, weighted by their
    # probabilities, as in training. "hard": the embedding of its most likely pixel.
    cfg.MODEL.SEMICONV.SEED = "soft"
    # "roi": masks on a grid over each box, of twice ROI_MASK_HEAD.POOLER_RESOLUTION, pasted into the image. "image": s
    # and log K at every pixel, with the embeddings of the finest level, for thin and winding objects (our choice).
    cfg.MODEL.SEMICONV.MASK_RESOLUTION = "roi"
    # Factor on the gradient that the embeddings send back into the features; the paper's, so that the RPN is not
    # disturbed.
    cfg.MODEL.SEMICONV.GRADIENT_SCALE = 0.1
    # Weights of the embedding loss over the whole image (equation 5), and of the cross-entropy between the kernel and
    # each region's mask.
    cfg.MODEL.SEMICONV.EMBEDDING_LOSS_WEIGHT = 1.0
    cfg.MODEL.SEMICONV.KERNEL_LOSS_WEIGHT = 1.0

    # ------------------------------------------------------------------------------------------ instance coloring
    # Novotny et al., 2018, section 4.1: instances are clusters of embeddings, without boxes. MODEL.SEMICONV sets the
    # embeddings.
    cfg.MODEL.COLORING = CfgNode()
    # The backbone's feature map from which categories and embeddings are predicted.
    cfg.MODEL.COLORING.IN_FEATURE = "p2"
    # "kmeans" (the paper's; needs the number of instances of each image), "mean_shift" or "seeds"; and the radius of a
    # cluster for the latter two, in units of the embedding (our choice).
    cfg.MODEL.COLORING.CLUSTERING = "seeds"
    cfg.MODEL.COLORING.BANDWIDTH = 0.25
    # Instances with fewer pixels of the input image are dropped (our choice).
    cfg.MODEL.COLORING.MIN_PIXELS = 20

    # ------------------------------------------------------------------------------------------------- evaluation
    # With TEST.AUG.ENABLED, for objects that have no up and down: the eight rotations by 90 degrees and reflections,
    # instead of TEST.AUG.FLIP's two views. TEST.AUG.MIN_SIZES (): the size of evaluation only.
    cfg.TEST.AUG.DIHEDRAL = False

    # Any of "coco" (AP of boxes and masks, Detectron2's), "instances" (F1, PQ, AJI and counts at the best score
    # threshold, which is kept for prediction; left out if MODEL.MASK_ON is False), "mask_proposals" (recall of
    # class-agnostic masks) and "coloring" (adjusted Rand index of the pixels).
    cfg.TEST.EVALUATORS = ["coco", "instances"]

    # The weights with the highest value of this measure on the first test set are kept as model_best.pth, and
    # prediction uses them: "segm/AP", "instances/F1" and so on, see metrics.json. "": only the final weights.
    # TEST.EVAL_PERIOD says how often they are evaluated.
    cfg.TEST.BEST_CHECKPOINT = ""

    # Evaluation in overlapping tiles, in the scale of the training images: "auto" for images that INPUT.MIN_SIZE_TEST
    # would shrink against those, or the side of the tiles in pixels of the image. None or "off": never, as Detectron2.
    # The default is None because Detectron2's configs accept both text and a number only for such a key.
    cfg.TEST.TILE = None

    # A picture of validation images with ground-truth and predicted masks side by side, written after every evaluation.
    cfg.TEST.CONTACT_SHEET = CfgNode()
    # Number of images of each test set on it. 0: no picture.
    cfg.TEST.CONTACT_SHEET.NUM_IMAGES = 8
    # Predictions with a lower score are not drawn.
    cfg.TEST.CONTACT_SHEET.SCORE_THRESH = 0.5
