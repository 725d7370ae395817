"""Instance colouring without boxes: a colour, here a point, for every pixel of an instance (sections 3 and 4.1)."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ..autograd import zero_with_grad
from ..embeddings.losses import bit_masks, embedding_loss, masks_on_map
from ..embeddings.operator import SemiConv, enlarged
from ..embeddings.options import check_options
from ..embeddings.predictor import EmbeddingPredictor
from ..errors import InputError
from ..masks import tight_boxes
from ..validation import check_mask_on
from .clustering import CLUSTERINGS, nearest

_MOST_PIXELS = 4096  # of an image to find centres with; all pixels go to their nearest centre


@META_ARCH_REGISTRY.register()
class SemiConvColoring(nn.Module):
    """Backbone, then categories and an embedding of every pixel; instances are clusters of embeddings.

    Every pixel has one colour, so of instances that overlap only one has it.

    Args:
        backbone: gives ``in_feature``.
        in_feature, stride: one of its maps.
        predictor: features to Phi.
        categories: features to C + 1 logits of a pixel, background last.
        semiconv: the operator.
        clustering, bandwidth: a name of ``CLUSTERINGS``, and its radius in units of the embedding.
        min_pixels: of an instance, in the input image.
        max_instances: an image; those of the highest scores.
        embedding_loss_weight: factor on ``loss_embedding``.
        pixel_mean, pixel_std: one number a channel.
    """

    @configurable
    def __init__(
        self, *, backbone: nn.Module, in_feature: str, stride: int, predictor: EmbeddingPredictor,
        categories: nn.Module, semiconv: SemiConv, clustering: str, bandwidth: float, min_pixels: int,
        max_instances: int, embedding_loss_weight: float, pixel_mean: tuple[float, ...], pixel_std: tuple[float, ...],
    ) -> None:  # fmt: skip
        super().__init__()
        self.backbone, self.in_feature, self.stride = backbone, in_feature, stride
        self.predictor, self.categories, self.semiconv = predictor, categories, semiconv
        self.clustering, self.bandwidth, self.min_pixels = clustering, bandwidth, min_pixels
        self.max_instances = max_instances
        self.embedding_loss_weight = embedding_loss_weight
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Arguments out of ``cfg.MODEL.COLORING`` and ``SEMICONV``; C is ``MODEL.ROI_HEADS.NUM_CLASSES``.

        Raises:
            InputError: names the key, what it is and what is wanted.
        """
        check_mask_on(cfg.MODEL, cls.__name__)
        semiconv = check_options(cfg)
        options, backbone = cfg.MODEL.COLORING, build_backbone(cfg)
        shapes: dict[str, ShapeSpec] = backbone.output_shape()
        if options.IN_FEATURE not in shapes:
            raise InputError(
                f"MODEL.COLORING.IN_FEATURE is {options.IN_FEATURE!r}, but the backbone gives {list(shapes)}"
            )
        if options.CLUSTERING not in CLUSTERINGS:
            raise InputError(f"MODEL.COLORING.CLUSTERING is {options.CLUSTERING!r}, wanted one of {list(CLUSTERINGS)}")
        if not options.BANDWIDTH > 0:
            raise InputError(f"MODEL.COLORING.BANDWIDTH is {options.BANDWIDTH}, wanted a radius above 0")
        shape = shapes[options.IN_FEATURE]
        return {
            "backbone": backbone,
            "in_feature": options.IN_FEATURE,
            "stride": shape.stride,
            "predictor": EmbeddingPredictor.from_cfg(cfg, shape.channels),
            "categories": nn.Conv2d(shape.channels, cfg.MODEL.ROI_HEADS.NUM_CLASSES + 1, 3, padding=1),
            "semiconv": SemiConv(semiconv.PIXELS_PER_UNIT, semiconv.MIXING),
            "clustering": options.CLUSTERING,
            "bandwidth": options.BANDWIDTH,
            "min_pixels": options.MIN_PIXELS,
            "max_instances": cfg.TEST.DETECTIONS_PER_IMAGE,
            "embedding_loss_weight": semiconv.EMBEDDING_LOSS_WEIGHT,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Losses or instances.

        Args:
            batched_inputs: one dict an image: ``image`` (C, H, W); in training ``instances`` with ``gt_classes`` and
                ``gt_masks``; otherwise ``height`` and ``width`` of the output wanted and, for k-means,
                ``num_instances``.

        Returns:
            In training ``loss_category`` and ``loss_embedding``; otherwise ``{"instances": ...}`` for each image:
            ``pred_boxes``, ``scores``, ``pred_classes``, ``pred_masks`` bool (N, H, W), disjoint. The score is the mean
            over the pixels of the category's probability times exp(-distance to the cluster's centre / bandwidth): of
            an instance that fell apart the pieces are not as sure of their place as their pixels of their category.
        """
        images, logits, phi = self.maps(batched_inputs)
        if self.training:
            return self.losses(images, logits, phi, [x["instances"].to(logits.device) for x in batched_inputs])
        with torch.autocast(logits.device.type, enabled=False):  # distances and means over thousands of pixels
            return [
                {"instances": self.cluster_image(inputs, size, logits[i], phi[i])}
                for i, (inputs, size) in enumerate(zip(batched_inputs, images.image_sizes))
            ]

    def maps(self, batched_inputs: list[dict]) -> tuple[ImageList, Tensor, Tensor]:
        """The batch, the categories' logits (N, C + 1, h, w) and Phi (N, D, h, w), float32."""
        pixels = [(x["image"].to(self.pixel_mean.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        constraints = self.backbone.padding_constraints
        images = ImageList.from_tensors(pixels, self.backbone.size_divisibility, padding_constraints=constraints)
        features = self.backbone(images.tensor)
        chosen = features.pop(self.in_feature)
        logits, phi = self.categories(chosen).float(), self.predictor(chosen).float()
        if self.training:
            phi = phi + zero_with_grad(features.values())  # the other levels
        return images, logits, phi

    def losses(self, images: ImageList, logits: Tensor, phi: Tensor, targets: list[Instances]) -> dict[str, Tensor]:
        """Cross-entropy over the map's pixels whose centres lie in the images; equation 5 on the embeddings."""
        size, background = logits.shape[-2:], logits.shape[1] - 1
        masks, categories = [], logits.new_full((len(targets), *size), -1, dtype=torch.int64)
        for truth, (height, width), category in zip(targets, images.image_sizes, categories):
            rows, columns = (len(range(self.stride // 2, length, self.stride)) for length in (height, width))
            category[:rows, :columns] = background
            on_map = masks_on_map(bit_masks(truth), self.stride, size).to(phi.device)
            covered = on_map.any(0)
            if len(truth):  # where instances overlap, the first one's
                category[covered] = truth.gt_classes[on_map.int().argmax(0)[covered]]
            masks.append(on_map)
        count = (categories >= 0).sum().clamp(min=1)  # none where all images are smaller than half a stride
        return {
            "loss_category": F.cross_entropy(logits, categories, ignore_index=-1, reduction="sum") / count,
            "loss_embedding": embedding_loss([self.semiconv(phi, self.stride)], [masks]) * self.embedding_loss_weight,
        }

    def embed(self, phi: Tensor, size: tuple[int, int]) -> Tensor:
        """Psi of every pixel of an image of this size, (D, H, W): Phi (D, h, w) enlarged, then the exact places."""
        return self.semiconv(enlarged(phi[None], self.stride, size), 1)[0]

    @torch.no_grad()
    def cluster_image(self, inputs: dict, size: tuple[int, int], logits: Tensor, phi: Tensor) -> Instances:
        """The instances of one image of ``size`` (height, width), in the size that ``inputs`` asks for.

        Raises:
            InputError: k-means without ``num_instances``.
        """
        count = inputs.get("num_instances")
        if self.clustering == "kmeans" and count is None:
            raise InputError(
                f"image {inputs.get('file_name', '')}: MODEL.COLORING.CLUSTERING kmeans wants to know the number of "
                "instances ('num_instances' of the input); mean_shift and seeds do not"
            )
        probabilities = enlarged(logits[None], self.stride, size)[0].softmax(0)
        foreground = probabilities.argmax(0) != len(logits) - 1
        psi, scores = self.embed(phi, size), 1 - probabilities[-1]
        coarse = torch.zeros_like(foreground)
        coarse[self.stride // 2 :: self.stride, self.stride // 2 :: self.stride] = True
        sampled = foreground & coarse
        sampled = (sampled if sampled.any() else foreground).nonzero()
        y, x = sampled[:: -(-len(sampled) // _MOST_PIXELS) or 1].unbind(1)
        centres = CLUSTERINGS[self.clustering](psi[:, y, x].T, scores[y, x], count, self.bandwidth)
        labels = torch.full(size, -1, device=psi.device)
        if len(centres):
            labels[foreground] = nearest(psi[:, foreground].T, centres)
        # all clusters as numbers first; a mask of each of thousands, as bad weights give them, would not fit anywhere
        colored = labels >= 0
        areas = torch.bincount(labels[colored], minlength=len(centres))
        shares = psi.new_zeros(len(centres), len(probabilities) - 1)
        affinity = (-(psi[:, colored].T - centres[labels[colored]]).norm(dim=1) / self.bandwidth).exp()
        shares.index_add_(0, labels[colored], probabilities[:-1, colored].T * affinity[:, None])
        scores, classes = (shares / areas.clamp(min=1)[:, None]).max(1)
        chosen = (areas >= max(1, self.min_pixels)).nonzero()[:, 0]
        chosen = chosen[scores[chosen].argsort(descending=True)[: self.max_instances]]
        masks = labels == chosen[:, None, None]
        wanted = inputs.get("height", size[0]), inputs.get("width", size[1])
        if wanted != size:
            masks = F.interpolate(masks[:, None].float(), wanted, mode="nearest-exact")[:, 0] > 0.5
        found = Instances(wanted)
        found.pred_boxes, found.pred_masks = tight_boxes(masks), masks
        found.scores, found.pred_classes = scores[chosen], classes[chosen]
        return found[found.pred_boxes.nonempty()]
