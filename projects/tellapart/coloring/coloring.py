"""Instance coloring without boxes: all pixels of an instance get one color (sections 3 and 4.1).

The color of a pixel is its embedding Psi.
"""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ..autograd import zero_with_grad
from ..embeddings.losses import embedding_loss, gt_bit_masks, sample_gt_masks
from ..embeddings.operator import SemiConv, upsample_maps
from ..embeddings.options import check_options
from ..embeddings.predictor import EmbeddingPredictor
from ..errors import InputError
from ..loss_share import loss_share
from ..masks import tight_boxes
from ..validation import check_mask_on
from .clustering import CLUSTERINGS, nearest_center_index

_MAX_CLUSTERED_PIXELS = 4096  # per image, to find the centers; then all pixels are assigned to their nearest center
_IGNORED = -1  # label of a pixel without a category or cluster


@META_ARCH_REGISTRY.register()
class SemiConvColoring(nn.Module):
    """Predict a category and an embedding for every pixel and group the foreground pixels into instances.

    Instances are clusters of embeddings. They are disjoint: where objects overlap, a pixel belongs to one of them.

    Args:
        backbone: returns feature maps by name, among them ``in_feature``.
        in_feature: name of the feature map to predict from.
        stride: of that feature map, in input pixels.
        predictor: feature map to Phi.
        categories: feature map to C + 1 category logits per pixel, background last.
        semiconv: the operator.
        clustering: name of the clustering function in ``CLUSTERINGS``.
        bandwidth: its radius, in units of the embedding.
        min_pixels: smallest area of an instance, in pixels of the input image.
        max_instances: per image, those with the highest scores.
        embedding_loss_weight: factor on ``loss_embedding``.
        pixel_mean, pixel_std: per channel.
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
        """Return the constructor's arguments from ``cfg.MODEL.COLORING`` and ``cfg.MODEL.SEMICONV``.

        C is ``cfg.MODEL.ROI_HEADS.NUM_CLASSES``.

        Raises:
            InputError: names the first key with a wrong value, the value, and what is expected.
        """
        check_mask_on(cfg.MODEL, cls.__name__)
        semiconv_options = check_options(cfg)
        options, backbone = cfg.MODEL.COLORING, build_backbone(cfg)
        shapes: dict[str, ShapeSpec] = backbone.output_shape()
        if options.IN_FEATURE not in shapes:
            raise InputError(
                f"MODEL.COLORING.IN_FEATURE is {options.IN_FEATURE!r}, expected one of the backbone's feature maps "
                f"{list(shapes)}"
            )
        if options.CLUSTERING not in CLUSTERINGS:
            raise InputError(
                f"MODEL.COLORING.CLUSTERING is {options.CLUSTERING!r}, expected one of {list(CLUSTERINGS)}"
            )
        if not options.BANDWIDTH > 0:
            raise InputError(f"MODEL.COLORING.BANDWIDTH is {options.BANDWIDTH}, expected a radius above 0")
        shape = shapes[options.IN_FEATURE]
        return {
            "backbone": backbone,
            "in_feature": options.IN_FEATURE,
            "stride": shape.stride,
            "predictor": EmbeddingPredictor(cfg, shape.channels),
            "categories": nn.Conv2d(shape.channels, cfg.MODEL.ROI_HEADS.NUM_CLASSES + 1, 3, padding=1),
            "semiconv": SemiConv(semiconv_options.PIXELS_PER_UNIT, semiconv_options.MIXING),
            "clustering": options.CLUSTERING,
            "bandwidth": options.BANDWIDTH,
            "min_pixels": options.MIN_PIXELS,
            "max_instances": cfg.TEST.DETECTIONS_PER_IMAGE,
            "embedding_loss_weight": semiconv_options.EMBEDDING_LOSS_WEIGHT,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Compute the losses in training, otherwise predict instances.

        Args:
            batched_inputs: per image a dict with ``image`` (C, H, W). In training with ``instances`` that have
                ``gt_classes`` and ``gt_masks``. Otherwise with ``height`` and ``width`` of the output and, for k-means,
                ``gt_num_instances``.

        Returns:
            In training ``loss_category`` and ``loss_embedding``. Otherwise per image ``{"instances": ...}``, see
            :meth:`cluster_image`.
        """
        images, logits, phi = self.maps(batched_inputs)
        if self.training:
            return self.losses(images, logits, phi, [x["instances"].to(logits.device) for x in batched_inputs])
        with torch.autocast(logits.device.type, enabled=False):  # distances and means over many pixels need float32
            return [
                {"instances": self.cluster_image(inputs, image_size, logits[i], phi[i])}
                for i, (inputs, image_size) in enumerate(zip(batched_inputs, images.image_sizes))
            ]

    def maps(self, batched_inputs: list[dict]) -> tuple[ImageList, Tensor, Tensor]:
        """Predict the maps of a batch.

        Returns:
            The batched images, the category logits (N, C + 1, h, w) and Phi (N, D, h, w), both float32.
        """
        device = self.pixel_mean.device
        normalized = [
            (x["image"].to(device, non_blocking=True) - self.pixel_mean) / self.pixel_std for x in batched_inputs
        ]
        constraints = self.backbone.padding_constraints
        images = ImageList.from_tensors(normalized, self.backbone.size_divisibility, padding_constraints=constraints)
        features = self.backbone(images.tensor)
        in_feature = features.pop(self.in_feature)
        logits, phi = self.categories(in_feature).float(), self.predictor(in_feature).float()
        if self.training:
            phi = phi + zero_with_grad(features.values())  # DDP needs a gradient for the unused levels too
        return images, logits, phi

    def losses(self, images: ImageList, logits: Tensor, phi: Tensor, targets: list[Instances]) -> dict[str, Tensor]:
        """Compute the cross-entropy of the categories and the embedding loss (equation 5).

        The cross-entropy is averaged over the map pixels whose centers lie in an image, not in its padding; both
        losses are means over all processes.

        Args:
            images, logits, phi: as returned by :meth:`maps`.
            targets: per image, with ``gt_classes`` and ``gt_masks``.

        Returns:
            ``loss_category`` and ``loss_embedding``.
        """
        map_size, background = logits.shape[-2:], logits.shape[1] - 1
        gt_masks, gt_categories = [], logits.new_full((len(targets), *map_size), _IGNORED, dtype=torch.int64)
        for image_targets, (height, width), image_categories in zip(targets, images.image_sizes, gt_categories):
            num_rows, num_columns = (len(range(self.stride // 2, length, self.stride)) for length in (height, width))
            image_categories[:num_rows, :num_columns] = background
            image_masks = sample_gt_masks(gt_bit_masks(image_targets), self.stride, map_size).to(
                phi.device, non_blocking=True
            )
            if len(image_targets):  # where instances overlap, the category is that of the first one
                classes = image_targets.gt_classes[image_masks.int().argmax(0)]
                image_categories.copy_(torch.where(image_masks.any(0), classes, image_categories))
            gt_masks.append(image_masks)
        num_pixels = (gt_categories >= 0).sum().clamp(min=1)  # 0 if all images are smaller than half a stride
        category_loss_sum = F.cross_entropy(logits, gt_categories, ignore_index=_IGNORED, reduction="sum")
        category_loss = category_loss_sum / num_pixels
        psi = self.semiconv(phi, self.stride)
        return {
            "loss_category": category_loss * loss_share(num_pixels, category_loss),
            "loss_embedding": embedding_loss([psi], [gt_masks]) * self.embedding_loss_weight,
        }

    def embed(self, phi: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Compute Psi (D, H, W) of every pixel of an image from Phi (D, h, w) on its feature map.

        Phi is upsampled first. Then the exact coordinates of the image pixels are added.
        """
        return self.semiconv(upsample_maps(phi[None], self.stride, image_size), 1)[0]

    @torch.no_grad()
    def cluster_image(self, inputs: dict, image_size: tuple[int, int], logits: Tensor, phi: Tensor) -> Instances:
        """Group the foreground pixels of one image into instances.

        The score of an instance is the mean over its pixels of the category's probability times
        exp(-||Psi_u - center|| / bandwidth). Because of the second factor, fragments of a split instance score lower.

        Args:
            inputs: the image's dict of :meth:`forward`. ``height`` and ``width`` default to ``image_size``.
            image_size: (H, W) of the input image without padding.
            logits: category logits, float (C + 1, h, w).
            phi: Phi, float (D, h, w).

        Returns:
            By decreasing score, in the size of the output: ``pred_boxes``, ``scores``, ``pred_classes`` and
            ``pred_masks``, bool (N, H', W'), disjoint.

        Raises:
            InputError: the clustering is k-means and the input has no ``gt_num_instances``.
        """
        num_instances = inputs.get("gt_num_instances")
        if self.clustering == "kmeans" and num_instances is None:
            raise InputError(
                f"image {inputs.get('file_name', '')}: MODEL.COLORING.CLUSTERING kmeans needs the number of instances, "
                "but the input has no 'gt_num_instances'; add it or use mean_shift or seeds"
            )
        probabilities = upsample_maps(logits[None], self.stride, image_size)[0].softmax(0)
        foreground = probabilities.argmax(0) != len(logits) - 1
        psi = self.embed(phi, image_size)
        y, x = self._clustered_pixels(foreground)
        foreground_scores = 1 - probabilities[-1]
        cluster = CLUSTERINGS[self.clustering]
        centers = cluster(psi[:, y, x].T, foreground_scores[y, x], num_instances, self.bandwidth)
        labels = torch.full(image_size, _IGNORED, device=psi.device)
        if len(centers):
            labels[foreground] = nearest_center_index(psi[:, foreground].T, centers)
        scores, classes, areas = self._score_clusters(labels, centers, probabilities, psi)

        kept = (areas >= max(1, self.min_pixels)).nonzero()[:, 0]
        kept = kept[scores[kept].argsort(descending=True)[: self.max_instances]]
        # masks of the kept clusters only: bad weights can give thousands of clusters, too many for memory
        masks = labels == kept[:, None, None]
        output_size = inputs.get("height", image_size[0]), inputs.get("width", image_size[1])
        if output_size != image_size:
            masks = F.interpolate(masks[:, None].float(), output_size, mode="nearest-exact")[:, 0] > 0.5
        instances = Instances(output_size)
        instances.pred_boxes, instances.pred_masks = tight_boxes(masks), masks
        instances.scores, instances.pred_classes = scores[kept], classes[kept]
        return instances[instances.pred_boxes.nonempty()]

    def _clustered_pixels(self, foreground: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows and columns of the foreground pixels from which the centers are found.

        These are the pixels at the centers of the map's pixels, or all pixels if none of those is foreground. At most
        ``_MAX_CLUSTERED_PIXELS`` of them are used, evenly spaced in row-major order.
        """
        is_map_center = torch.zeros_like(foreground)
        is_map_center[self.stride // 2 :: self.stride, self.stride // 2 :: self.stride] = True
        sampled = foreground & is_map_center
        positions = (sampled if sampled.any() else foreground).nonzero()
        step = -(-len(positions) // _MAX_CLUSTERED_PIXELS) or 1
        y, x = positions[::step].unbind(1)
        return y, x

    def _score_clusters(
        self, labels: Tensor, centers: Tensor, probabilities: Tensor, psi: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute score, category and area of each cluster.

        Args:
            labels: index of each pixel's cluster, int64 (H, W), or ``_IGNORED``.
            centers: of K clusters, float (K, D).
            probabilities: of the categories, float (C + 1, H, W).
            psi: Psi, float (D, H, W).

        Returns:
            Scores, float (K,), see :meth:`cluster_image`; categories, int64 (K,); areas in pixels, int64 (K,).
        """
        is_labeled = labels >= 0
        areas = torch.bincount(labels[is_labeled], minlength=len(centers))
        category_sums = psi.new_zeros(len(centers), len(probabilities) - 1)
        distances = (psi[:, is_labeled].T - centers[labels[is_labeled]]).norm(dim=1)
        affinities = (-distances / self.bandwidth).exp()
        category_sums.index_add_(0, labels[is_labeled], probabilities[:-1, is_labeled].T * affinities[:, None])
        scores, classes = (category_sums / areas.clamp(min=1)[:, None]).max(1)
        return scores, classes, areas
