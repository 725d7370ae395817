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
    # m: a region is assembled on m x m cells, m at least k.
    cfg.MODEL.FCIS.RESOLUTION = 21
    # "aligned": bilinear, nothing rounded; "pool": the official rounding and averaging (for the official weights).
    cfg.MODEL.FCIS.SAMPLING = "aligned"
    # Convolutions with ReLU between the backbone and the maps: channels of each, kernel size in pixels, norm.
    cfg.MODEL.FCIS.CONV_DIMS = [1024]
    cfg.MODEL.FCIS.CONV_KERNEL = 1
    cfg.MODEL.FCIS.NORM = ""
    # Train on the ROI_HEADS.BATCH_SIZE_PER_IMAGE regions of highest loss (of all), instead of a sample of that size.
    cfg.MODEL.FCIS.OHEM = False
    # Factors on the losses of masks and boxes (instead of ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT); categories have 1.
    cfg.MODEL.FCIS.SEG_LOSS_WEIGHT = 10.0
    cfg.MODEL.FCIS.BOX_LOSS_WEIGHT = 1.0
    # A cell of a mask target is foreground from this share on; a predicted mask from this probability, and a voted one
    # from this share of votes.
    cfg.MODEL.FCIS.MASK_THRESH = 0.4
    # Inference: 2 scores the proposals and the boxes regressed from them.
    cfg.MODEL.FCIS.NUM_ROUNDS = 2
    # Inference: candidates of at least this box IoU with a detection vote on its mask; 1: it alone, and its equals.
    cfg.MODEL.FCIS.VOTE_IOU = 0.5
    # Inference: regions assembled at once; a matter of memory only.
    cfg.MODEL.FCIS.CHUNK_SIZE = 100

    # VGG-16 with holes: which of conv1 to conv5 to return; "" or the norm of VGG-16-BN.
    cfg.MODEL.VGG = CfgNode()
    cfg.MODEL.VGG.OUT_FEATURES = ["conv5"]
    cfg.MODEL.VGG.NORM = ""

    # InstanceFCN (Dai et al., 2016), defaults of the paper where it says.
    cfg.MODEL.INSTANCE_FCN = CfgNode()
    # One feature map, or several levels of a pyramid, fine to coarse: they share the branches.
    cfg.MODEL.INSTANCE_FCN.IN_FEATURES = ["conv5"]
    # What predicts a window's mask: InstanceSensitiveHead, or DeepMaskHead, the baseline the paper argues against.
    cfg.MODEL.INSTANCE_FCN.MASK_HEAD = "InstanceSensitiveHead"
    # k: score maps for k x k relative positions.
    cfg.MODEL.INSTANCE_FCN.GRID_SIZE = 5
    # m: a window's side, and from one window to the next, in feature pixels.
    cfg.MODEL.INSTANCE_FCN.WINDOW_SIZE = 21
    cfg.MODEL.INSTANCE_FCN.WINDOW_STRIDE = 1
    # Channels of the branches' first convolutions, and of DeepMaskHead's hidden layer; DeepMaskHead's outputs a side.
    cfg.MODEL.INSTANCE_FCN.CONV_DIM = 512
    cfg.MODEL.INSTANCE_FCN.DEEPMASK_RESOLUTION = 56
    # "iou": a window is positive from the second IoU with an instance's box on, negative below the first. Windows are
    # square: with a box of aspect ratio r (longer by shorter side) none has more than 1 / (2 sqrt(r) - 1). So at 0.5
    # boxes of r > 2.25 never have a positive window, and at 0.3 those of r > 4.7 have negative ones only; the rule
    # "deepmask" has no such limit.
    cfg.MODEL.INSTANCE_FCN.LABEL_RULE = "iou"
    cfg.MODEL.INSTANCE_FCN.IOU_THRESHOLDS = [0.3, 0.5]
    # "deepmask": positive if the instance's centre is so near in both axes, and its longer side within the band, as
    # shares of the window's side; ignored within twice that.
    cfg.MODEL.INSTANCE_FCN.CENTER_TOLERANCE = 0.125
    cfg.MODEL.INSTANCE_FCN.SIZE_BAND = [0.5, 1.0]
    # A cell of a mask target is foreground from this share on.
    cfg.MODEL.INSTANCE_FCN.MASK_THRESH = 0.5
    # Windows sampled for the losses, at most which share positive, and the factor on the masks' loss.
    cfg.MODEL.INSTANCE_FCN.BATCH_SIZE_PER_IMAGE = 256
    cfg.MODEL.INSTANCE_FCN.POSITIVE_FRACTION = 0.5
    cfg.MODEL.INSTANCE_FCN.MASK_LOSS_WEIGHT = 1.0
    # Inference: factors on the input image; the paper's are 1.5^-4 to 1.5^1.
    cfg.MODEL.INSTANCE_FCN.TEST_SCALES = [1.0]
    # Inference: windows assembled, of each level and scale; box IoU of the NMS; proposals kept.
    cfg.MODEL.INSTANCE_FCN.TOPK_PER_LEVEL = 1000
    cfg.MODEL.INSTANCE_FCN.NMS_THRESH = 0.8
    cfg.MODEL.INSTANCE_FCN.POST_NMS_TOPK = 1000
    # Inference: rank by "objectness" (the paper), or by its "product" with the mask's mean foreground probability.
    cfg.MODEL.INSTANCE_FCN.SCORE = "objectness"

    # Semi-convolutional operators (Novotny et al., 2018), defaults of the paper where it says.
    cfg.MODEL.SEMICONV = CfgNode()
    # D, the first two of which are geometric; channels between the predictor's convolutions.
    cfg.MODEL.SEMICONV.EMBEDDING_DIM = 8
    cfg.MODEL.SEMICONV.CONV_DIM = 256
    # "additive": Psi = (x, y, 0, ...) + Phi; "convolutional": Psi = Phi, without the pixel's place.
    cfg.MODEL.SEMICONV.MIXING = "additive"
    # x and y are pixels of the input image divided by this.
    cfg.MODEL.SEMICONV.PIXELS_PER_UNIT = 32.0
    # LaplacianKernel, GaussianKernel or SteeredBilateralKernel, and its (first) width in units of the embedding.
    cfg.MODEL.SEMICONV.KERNEL = "LaplacianKernel"
    cfg.MODEL.SEMICONV.SIGMA = 1.0
    # The seed of a region at inference: "soft", an expectation over its pixels as in training, or "hard", the best one.
    cfg.MODEL.SEMICONV.SEED = "soft"
    # Factor on the gradient from the embeddings into the features.
    cfg.MODEL.SEMICONV.GRADIENT_SCALE = 0.1
    # Factors on the losses: embeddings over the image (equation 5), and the kernel against each region's mask.
    cfg.MODEL.SEMICONV.EMBEDDING_LOSS_WEIGHT = 1.0
    cfg.MODEL.SEMICONV.KERNEL_LOSS_WEIGHT = 1.0

    # Instance colouring: clusters of embeddings instead of boxes; SEMICONV above says which embeddings.
    cfg.MODEL.COLORING = CfgNode()
    # The backbone's feature map that categories and embeddings are predicted from.
    cfg.MODEL.COLORING.IN_FEATURE = "p2"
    # "kmeans" (the number of instances is given with each image), "mean_shift" or "seeds"; the radius of the latter
    # two, in units of the embedding; instances of fewer pixels of the input image are dropped.
    cfg.MODEL.COLORING.CLUSTERING = "seeds"
    cfg.MODEL.COLORING.BANDWIDTH = 0.25
    cfg.MODEL.COLORING.MIN_PIXELS = 20

    # What to evaluate with: "coco" (AP of boxes and masks), "mask_proposals" (recall of class-agnostic masks),
    # "coloring" (adjusted Rand index of pixels).
    cfg.TEST.EVALUATORS = ["coco"]

    # A picture of validation images with true and predicted masks side by side, written after every evaluation.
    cfg.TEST.CONTACT_SHEET = CfgNode()
    # How many images of each test set are on it; 0: no picture.
    cfg.TEST.CONTACT_SHEET.NUM_IMAGES = 8
    # Predictions below this score are not drawn.
    cfg.TEST.CONTACT_SHEET.SCORE_THRESH = 0.5


# Full config keys of earlier versions -> their new names.
RENAMED_KEYS = {"MODEL.INSTANCE_FCN.CENTRE_TOLERANCE": "MODEL.INSTANCE_FCN.CENTER_TOLERANCE"}

# Names of model parts (values of MODEL.*.NAME) of earlier versions -> their new names.
RENAMED_VALUES = {
    "NoClassifier": "PassThroughROIHeads",
    "MaskedROIHeads": "MaskPooledROIHeads",
    "build_vgg16_hole_backbone": "build_dilated_vgg16_backbone",
}
