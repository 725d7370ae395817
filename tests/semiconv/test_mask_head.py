"""Mask R-CNN with semi-convolutional operators, by ``SemiConvROIHeads`` and by the mask head alone."""

from __future__ import annotations

from pathlib import Path

from tellapart import InputError, add_config
from tellapart.embeddings.losses import gt_bit_masks, instance_embedding_losses, sample_gt_masks
from tellapart.engine.config_checks import load_config
from tellapart.semiconv import LaplacianKernel, SemiConvMaskHead, SemiConvROIHeads
from tellapart.semiconv.mask_head import kernel_loss

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import ROI_HEADS_REGISTRY, build_model
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY
from detectron2.structures import BitMasks, Boxes, Instances
from synthetic_images import annotated, batch, losses_of

ROOT = Path(__file__).resolve().parents[2]
IMAGE_LEVEL = ("MODEL.ROI_HEADS.NAME", "SemiConvROIHeads", "MODEL.ROI_MASK_HEAD.NAME", "SemiConvMaskHead")
ALONE = IMAGE_LEVEL[2:]


def model(*options, wide_kernel: bool = False):
    """A narrow Mask R-CNN with these config options. All start from the same random weights."""
    cfg = get_cfg()
    add_config(cfg)
    cfg.merge_from_file(str(ROOT / "configs" / "quick" / "mask_rcnn" / "mask_rcnn_R_18_FPN_shapes.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = "cpu", 16, 16
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = cfg.MODEL.SEMICONV.CONV_DIM = 16
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE = 0.0, 10
    cfg.merge_from_list(list(options))
    torch.manual_seed(0)
    net = build_model(cfg)
    names = {name: torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) for name, p in
             net.named_parameters() if "mask_head" in name or "embedding" in name}  # fmt: skip
    net.load_state_dict({n: 0.1 * v for n, v in names.items() if "log_sigma" not in n}, strict=False)
    if wide_kernel:
        net.roi_heads.mask_head.semiconv["kernel"].log_sigma.data.fill_(30.0)
    return net


def detections(net) -> list[Instances]:
    with torch.no_grad():
        return [result["instances"] for result in net.eval()(batch())]


@pytest.mark.parametrize("options", [IMAGE_LEVEL, ALONE], ids=["image level", "alone"])
@pytest.mark.parametrize("masks", ["bitmask", "polygon"])
def test_losses_and_gradients(options, masks):
    net = model(*options)
    losses = losses_of(net, batch(masks))
    image_level = {"loss_embedding"} if options is IMAGE_LEVEL else set()
    mask_rcnn = {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}
    assert set(losses) == mask_rcnn | image_level | {"loss_kernel"}
    assert all(torch.isfinite(x) for x in losses.values()) and losses["loss_kernel"] > 0
    sum(losses.values()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        if "semiconv" in name or "embedding" in name:
            assert parameter.grad.any(), name


@pytest.mark.parametrize("options", [IMAGE_LEVEL, ALONE], ids=["image level", "alone"])
def test_without_objects_every_parameter_has_a_gradient(options):
    net = model(*options)
    losses = losses_of(net, [annotated(64, 80, []), annotated(50, 60, [])])
    assert losses["loss_mask"] == losses["loss_kernel"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize("options", [IMAGE_LEVEL, ALONE], ids=["image level", "alone"])
def test_masks_are_mask_rcnns_if_the_kernel_is_1(options):
    plain, narrow = detections(model()), detections(model(*options))
    wide = detections(model(*options, wide_kernel=True))
    for a, b, c in zip(plain, wide, narrow):
        assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor) and torch.equal(a.pred_masks, b.pred_masks)
        assert a.pred_masks.any() and not torch.equal(a.pred_masks, c.pred_masks)


@pytest.mark.parametrize("options", [IMAGE_LEVEL, ALONE], ids=["image level", "alone"])
def test_mask_rcnn_checkpoint_can_be_loaded(options):
    """All of its names exist, with the same shapes. It lacks the parameters of the semi-convolutional parts only."""
    plain, net = model().state_dict(), model(*options)
    result = net.load_state_dict(plain, strict=False)
    assert not result.unexpected_keys
    prefixes = ("roi_heads.mask_head.semiconv.", "roi_heads.embedding_predictor.")
    assert result.missing_keys and all(name.startswith(prefixes) for name in result.missing_keys)


def test_gradient_into_the_features_is_scaled():
    gradients = []
    for scale in ("0.1", "1.0"):
        net = model(*IMAGE_LEVEL, "MODEL.SEMICONV.GRADIENT_SCALE", scale)
        losses_of(net, batch())["loss_embedding"].backward()
        heads = net.roi_heads.embedding_predictor
        gradients.append((net.backbone.fpn_output2.weight.grad.clone(), heads.conv.weight.grad.clone()))
    torch.testing.assert_close(gradients[0][0], 0.1 * gradients[1][0])
    torch.testing.assert_close(gradients[0][1], gradients[1][1])


def test_levels_of_the_image_level_loss():
    """The large object counts on every level, the small one not on the coarsest, where it has less than two pixels."""
    inputs = [annotated(256, 256, [[4, 4, 40, 40], [60, 20, 250, 250]])]
    net = model(*IMAGE_LEVEL)
    loss = losses_of(net, inputs)["loss_embedding"].item()
    heads, targets, instance_losses = net.roi_heads, inputs[0]["instances"], []
    with torch.no_grad():
        images = net.preprocess_image(inputs)
        features = net.train().backbone(images.tensor)
        for stride, phi in zip(heads.embedding_strides, heads.embed(features)):
            psi = heads.mask_head.semiconv["operator"](phi, stride)
            for i in range(2):
                mask = sample_gt_masks(gt_bit_masks(targets[i : i + 1]), stride, phi.shape[-2:])
                instance_losses.append((i, stride, instance_embedding_losses(psi, [mask]).tolist()))
    large, small = ([stride for i, stride, values in instance_losses if values and i == index] for index in (1, 0))
    assert large == heads.embedding_strides and small == large[:-1]
    values = [value for _, _, values in instance_losses for value in values]
    assert abs(loss - sum(values) / len(values)) < 1e-4 * loss


def head(seed: str = "soft", **more) -> SemiConvMaskHead:
    net = model(*IMAGE_LEVEL, "MODEL.SEMICONV.SEED", seed, *(x for pair in more.items() for x in pair))
    return net.roi_heads.mask_head


def test_mask_logits_equal_a_loop_over_regions_and_pixels():
    """Equations 8 to 10 written as loops: p, Psi_s and log K."""
    torch.manual_seed(1)
    x, boxes = torch.randn(3, 16, 14, 14), torch.tensor([[5.0, 6.0, 40.0, 30.0], [0, 0, 9, 70], [20, 20, 21, 21]])
    classes, phi = torch.tensor([2, 0, 1]), torch.randn(3, 8, 28, 28)
    for training, seed in ((True, "soft"), (False, "soft"), (False, "hard"), (True, "hard")):
        net = head(seed).train(training)
        with torch.no_grad():
            logits, log_kernel = net.logits_and_log_kernel(x, boxes, classes, phi)
            expected = net.layers(x)
        sigma = net.semiconv["kernel"].log_sigma.exp().item()
        for r, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
            s = expected[r, classes[r]]
            torch.testing.assert_close(logits[r], s)
            psi = phi[r].clone()
            for i in range(28):
                psi[0, :, i] += (x0 + (i + 0.5) / 28 * (x1 - x0)) / 32
                psi[1, i, :] += (y0 + (i + 0.5) / 28 * (y1 - y0)) / 32
            p = s.exp() / s.exp().sum()
            if seed == "hard" and not training:
                p = torch.zeros_like(p).flatten().index_fill(0, s.argmax(), 1.0).view_as(p)
            seed_embedding = torch.stack([(p * channel).sum() for channel in psi])
            for i, j in ((0, 0), (13, 5), (27, 27)):
                distance = (psi[:, i, j] - seed_embedding).norm().item()
                assert abs(log_kernel[r, i, j].item() + distance / sigma) < 1e-4 * (1 + distance)


def test_hard_seed_changes_the_masks():
    nets = [detections(model(*IMAGE_LEVEL, "MODEL.SEMICONV.SEED", seed))[0].pred_masks for seed in ("soft", "hard")]
    assert not torch.equal(*nets)


def test_kernel_loss_equals_a_loop():
    instances = Instances((8, 8), proposal_boxes=Boxes(torch.tensor([[0.0, 0, 4, 4], [2, 2, 6, 6]])))
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :2, :2], masks[1, 3:5, 2:6] = True, True
    instances.gt_masks = BitMasks(masks)
    log_kernel = -torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    log_kernel[0, 0, 3] = 0.0  # K = 1 outside of the mask: the loss is finite
    expected = 0.0
    for r, (y0, x0) in enumerate(((0, 0), (2, 2))):
        for i in range(4):
            for j in range(4):
                k = log_kernel[r, i, j].exp().item()
                inside = bool(masks[r, y0 + i, x0 + j])
                expected -= log_kernel[r, i, j].item() if inside else torch.tensor(1 - 0.99 * k).log().item()
    assert abs(kernel_loss(log_kernel, [instances]).item() - expected / 32) < 1e-6
    empty = torch.zeros(0, 4, 4, requires_grad=True)
    assert kernel_loss(empty, [instances[:0]]).item() == 0


def test_inference_with_given_boxes():
    """Test-time augmentation calls the heads like this, with the features of the backbone only."""
    net = model(*IMAGE_LEVEL).eval()
    image_size = detections(net)[0].image_size
    given = Instances((97, 111), pred_boxes=Boxes(torch.tensor([[4.0, 4, 42, 44]])), pred_classes=torch.tensor([1]))
    with torch.no_grad():
        instances = net.inference(batch()[:1], [given])[0]["instances"]
    assert instances.pred_masks.shape == (1, *image_size)
    empty = Instances((97, 111), pred_boxes=Boxes(torch.zeros(0, 4)), pred_classes=torch.zeros(0, dtype=torch.int64))
    with torch.no_grad():
        assert len(net.inference(batch()[:1], [empty])[0]["instances"]) == 0


@pytest.mark.parametrize("kernel", ["GaussianKernel", "SteeredBilateralKernel"])
def test_other_kernels_by_name(kernel):
    losses = losses_of(model(*IMAGE_LEVEL, "MODEL.SEMICONV.KERNEL", kernel), batch())
    assert torch.isfinite(sum(losses.values()))


def test_autocast():
    net = model(*IMAGE_LEVEL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(net, batch())
    assert all(torch.isfinite(x) for x in losses.values()) and losses["loss_embedding"].dtype == torch.float32


def test_coordinates_are_float32_under_autocast():
    """In bfloat16 a seed at x = 1201 pixels would be off by five pixels."""
    head, boxes = model(*IMAGE_LEVEL).roi_heads.mask_head, torch.tensor([[1201.0, 700.0, 1241.0, 741.0]])
    with torch.no_grad():
        inputs = torch.randn(1, 16, 14, 14), boxes, torch.tensor([1]), torch.zeros(1, 8, 28, 28)
        _, expected = head.logits_and_log_kernel(*inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, log_kernel = head.logits_and_log_kernel(*inputs)
        assert expected.dtype == log_kernel.dtype == torch.float32
        # only the rounding of the logits changes the seed's embedding
        torch.testing.assert_close(log_kernel, expected, atol=0.01, rtol=0)


def test_subclasses_of_the_heads(monkeypatch):
    """A subclass of the RoI heads also passes embeddings, so that a subclass of the mask head does not predict them."""

    class MyROIHeads(SemiConvROIHeads):
        pass

    class MyMaskHead(SemiConvMaskHead):
        pass

    for registry, part in ((ROI_HEADS_REGISTRY, MyROIHeads), (ROI_MASK_HEAD_REGISTRY, MyMaskHead)):
        monkeypatch.setitem(registry._obj_map, part.__name__, part)
    net = model("MODEL.ROI_HEADS.NAME", "MyROIHeads", "MODEL.ROI_MASK_HEAD.NAME", "MyMaskHead")
    sum(losses_of(net, batch()).values()).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_only_the_head_alone_has_a_predictor():
    assert "predictor" in model(*ALONE).roi_heads.mask_head.semiconv
    assert "predictor" not in model(*IMAGE_LEVEL).roi_heads.mask_head.semiconv


@pytest.mark.parametrize("training", [True, False])
def test_embeddings_are_predicted_once_per_level(training):
    """In training the mask branch and the image-level loss share them."""
    net, calls = model(*IMAGE_LEVEL), []
    net.roi_heads.embedding_predictor.register_forward_hook(lambda *args: calls.append(args))
    losses_of(net, batch()) if training else detections(net)
    assert len(calls) == len(net.roi_heads.mask_in_features)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("MODEL.ROI_HEADS.NAME", "SemiConvROIHeads"), "needs True, 'SemiConvMaskHead' and a pooler"),
        ((*IMAGE_LEVEL, "MODEL.MASK_ON", "False"), "MODEL.MASK_ON is False"),
        ((*IMAGE_LEVEL, "MODEL.ROI_MASK_HEAD.POOLER_TYPE", ""), "POOLER_TYPE ''"),
        ((*IMAGE_LEVEL, "MODEL.SEMICONV.SEED", "warm"), "SEMICONV.SEED is 'warm', .* one of .'soft', 'hard'."),
        ((*IMAGE_LEVEL, "MODEL.SEMICONV.EMBEDDING_DIM", "1"), "EMBEDDING_DIM is 1, .* at least 2"),
        ((*IMAGE_LEVEL, "MODEL.SEMICONV.CONV_DIM", "0"), "CONV_DIM is 0, .* 1 or more"),
        ((*ALONE, "MODEL.SEMICONV.KERNEL", "Laplace"), "KERNEL is 'Laplace', .* one of .'LaplacianKernel', "),
        ((*ALONE, "MODEL.SEMICONV.MIXING", "add"), "MIXING is 'add', .* one of .'additive', 'convolutional'"),
        ((*ALONE, "MODEL.SEMICONV.SIGMA", "0.0"), "SIGMA is 0.0, .* a number above 0"),
        ((*ALONE, "MODEL.SEMICONV.PIXELS_PER_UNIT", "-32.0"), "PIXELS_PER_UNIT is -32.0, .* a number above 0"),
        ((*ALONE, "MODEL.SEMICONV.GRADIENT_SCALE", "-0.1"), "GRADIENT_SCALE is -0.1, .* 0 or more"),
    ],
)
def test_bad_configs(options, message):
    with pytest.raises(InputError, match=message):
        model(*options)


def test_classes_are_public():
    assert isinstance(head(), SemiConvMaskHead) and isinstance(head().semiconv["kernel"], LaplacianKernel)
    assert isinstance(model(*IMAGE_LEVEL).roi_heads, SemiConvROIHeads)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "SemiConv").glob("semiconv*.yaml")), ids=lambda p: p.stem)
def test_configs_build(path):
    """A second stage starts from the weights that the first stage's config writes, or from the model zoo.

    The models are built on the device "meta", which allocates no memory.
    """
    cfg = load_config(str(path), ["MODEL.DEVICE", "meta"])
    assert isinstance(build_model(cfg).roi_heads, SemiConvROIHeads)
    assert list(cfg.MODEL.PIXEL_STD) == [1.0, 1.0, 1.0], "as for Detectron2's Mask R-CNN and MSRA's weights"
    first_stage = ROOT / "configs" / "MaskRCNN" / path.name.replace("semiconv", "mask_rcnn")
    if first_stage.is_file():
        output_dir = load_config(str(first_stage), []).OUTPUT_DIR
        assert f"{output_dir}/model_final.pth" == cfg.MODEL.WEIGHTS
    else:
        assert cfg.MODEL.WEIGHTS.startswith("detectron2://COCO-InstanceSegmentation/mask_rcnn_R_")
