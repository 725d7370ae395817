"""The converter of the authors' FCIS weights, on small random `.params` files that the tests write."""

import importlib.util
import runpy
import struct
import sys
from itertools import product
from pathlib import Path

import tellapart  # noqa: F401
from tellapart.engine.checkpoint import Checkpointer
from tellapart.engine.config_checks import load_config
from tellapart.errors import InputError

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_model, build_resnet_backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from torch.nn import functional as F

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "convert_fcis_mxnet.py"
spec = importlib.util.spec_from_file_location("convert_fcis_mxnet", SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)

FLAGS = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}
NARROW = {"stem": 2, "rpn": 3, "head": 5}
K, C, RATIOS, SCALES = 3, 4, 3, 2


def official_params(num_classes, grid_size, num_anchors, depth=101, stem=64, rpn=512, head=1024, seed=0):
    """
    Random float32 arrays of an official FCIS by their names in the file.

    Args:
        num_classes: without background.
        stem: output channels of conv1; the residual stages have 4, 8, 16 and 32 times as many.
        rpn: output channels of the RPN's 3 x 3 convolution.
        head: output channels of the convolution before the score maps.
    """
    rng = np.random.default_rng(seed)
    params = {}

    def conv(name, outputs, inputs, size, bias=False):
        scale = (inputs * size * size) ** -0.5
        params[f"arg:{name}_weight"] = rng.normal(0, scale, (outputs, inputs, size, size)).astype(np.float32)
        if bias:
            params[f"arg:{name}_bias"] = rng.normal(0, 1, outputs).astype(np.float32)

    def norm(name, channels):
        params[f"arg:{name}_gamma"] = rng.uniform(0.5, 1.5, channels).astype(np.float32)
        params[f"arg:{name}_beta"] = rng.normal(0, 1, channels).astype(np.float32)
        params[f"aux:{name}_moving_mean"] = rng.normal(0, 1, channels).astype(np.float32)
        # so small that a wrong epsilon changes the result
        params[f"aux:{name}_moving_var"] = rng.uniform(1e-5, 1e-4, channels).astype(np.float32)

    conv("conv1", stem, 3, 7)
    norm("bn_conv1", stem)
    inputs = stem
    for stage, blocks in zip((2, 3, 4, 5), {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[depth]):
        narrow, wide = stem * 2 ** (stage - 2), stem * 2**stage
        names = [chr(ord("a") + i) for i in range(blocks)]
        if depth > 50 and stage in (3, 4):
            names = ["a"] + [f"b{i}" for i in range(1, blocks)]
        for name in names:
            block = [("branch2a", narrow, inputs, 1), ("branch2b", narrow, narrow, 3), ("branch2c", wide, narrow, 1)]
            if name == "a":
                block.append(("branch1", wide, inputs, 1))
            for branch, *sizes in block:
                conv(f"res{stage}{name}_{branch}", *sizes)
                norm(f"bn{stage}{name}_{branch}", sizes[0])
            inputs = wide
    conv("rpn_conv_3x3", rpn, stem * 16, 3, bias=True)
    conv("rpn_cls_score", 2 * num_anchors, rpn, 1, bias=True)
    conv("rpn_bbox_pred", 4 * num_anchors, rpn, 1, bias=True)
    conv("conv_new_1", head, stem * 32, 1, bias=True)
    conv("fcis_cls_seg", 2 * grid_size**2 * (num_classes + 1), head, 1, bias=True)
    conv("fcis_bbox", 8 * grid_size**2, head, 1, bias=True)
    return params


def params_bytes(params, version=2, names=None, dims=None):
    """The bytes of a `.params` file; `version` 0 to 3 is the format of the arrays, `dims` replaces their shapes."""
    out = [struct.pack("<QQQ", 0x112, 0, len(params))]
    for array in params.values():
        shape = array.shape if dims is None else dims
        if version == 0:
            out.append(struct.pack(f"<I{len(shape)}I", len(shape), *shape))
        else:
            storage = b"" if version == 1 else struct.pack("<i", 0)
            out.append(struct.pack("<I", 0xF993FAC7 + version) + storage)
            out.append(struct.pack(f"<I{len(shape)}q", len(shape), *shape))
        out.append(struct.pack("<iii", 2, 0, FLAGS[str(array.dtype)]) + array.tobytes())
    names = list(params) if names is None else names
    out.append(struct.pack("<Q", len(names)))
    out += [struct.pack("<Q", len(name)) + name.encode() for name in names]
    return b"".join(out)


@pytest.fixture(scope="module")
def params():
    """An FCIS with a narrow ResNet-101, C classes, grid K and SCALES x RATIOS anchors. Tests must not change it."""
    return official_params(C, K, SCALES * RATIOS, **NARROW)


@pytest.fixture(scope="module")
def model(params):
    return script.convert(params, K).model


def official_conv(params, name, x):
    return F.conv2d(x, torch.tensor(params[f"arg:{name}_weight"]), torch.tensor(params[f"arg:{name}_bias"]))


def our_conv(model, name, x):
    return F.conv2d(x, model[f"{name}.weight"], model[f"{name}.bias"])


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_all_formats_are_parsed(version):
    rng = np.random.default_rng(version)
    expected = {f"arg:{d}": rng.integers(0, 99, (2, 3, 1, 4)[: i % 4 + 1]).astype(d) for i, d in enumerate(FLAGS)}
    expected["aux:none"] = np.zeros((2, 0), np.float32)
    parsed = script.parse_params(params_bytes(expected, version))
    assert list(parsed) == list(expected)
    for name, array in expected.items():
        assert parsed[name].dtype == array.dtype
        np.testing.assert_array_equal(parsed[name], array)


def test_incomplete_files_are_detected():
    data = params_bytes({"arg:a": np.ones((2, 3), np.float32), "aux:b": np.ones(2, np.float32)})
    for size in range(len(data)):
        with pytest.raises(InputError, match=f"ends after {size} bytes, inside (the|tensor . of 2)"):
            script.parse_params(data[:size])


def test_invalid_files_are_described():
    one, two = {"a": np.ones(2, np.float32)}, {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)}
    plain = bytearray(params_bytes(one))
    sparse, unknown_type = plain[:], plain[:]
    sparse[28], unknown_type[52] = 1, 9  # the storage type and the type flag
    for data, message in (
        (b"PK\x03\x04" + bytes(40), "not an MXNet .params file: begins with 0x4034b50, expected 0x112"),
        (sparse, "tensor 1 of 1 has storage type 1, expected 0"),
        (unknown_type, "tensor 1 of 1 has shape .2,. and type flag 9"),
        (params_bytes(one, dims=()), "tensor 1 of 1 has 0 dimensions"),
        (params_bytes(one, dims=(-1, -2)), "has shape .-1, -2. and"),
        (params_bytes(one, 0, dims=(1,) * 40), "has 40 dimensions"),
        (params_bytes(one, dims=(2**40,)), "inside tensor 1"),
        (params_bytes(two, names=["a", "a"]), "2 tensors but 2 names, 1 of them different"),
        (params_bytes(one, names=[]), "1 tensors but 0 names"),
    ):
        with pytest.raises(InputError, match=message):
            script.parse_params(bytes(data))


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_names_and_shapes_are_those_of_the_network(depth):
    cfg = get_cfg()
    cfg.MODEL.RESNETS.update(DEPTH=depth, OUT_FEATURES=["res4", "res5"], NORM="FrozenBN", RES5_DILATION=2)
    cfg.MODEL.RESNETS.update(STEM_OUT_CHANNELS=2, WIDTH_PER_GROUP=2, RES2_OUT_CHANNELS=8)
    expected = build_resnet_backbone(cfg, ShapeSpec(channels=3)).state_dict(prefix="backbone.")
    head = StandardRPNHead(in_channels=32, num_anchors=SCALES * RATIOS, conv_dims=[3])
    expected.update(head.state_dict(prefix="proposal_generator.rpn_head."))
    params = official_params(C, K, SCALES * RATIOS, depth=depth, **NARROW)
    converted = script.convert(params, K)
    shapes = {name: tensor.shape for name, tensor in converted.model.items() if not name.startswith("roi_heads")}
    assert shapes == {name: tensor.shape for name, tensor in expected.items()}
    assert converted.summary.startswith(f"{len(params)} tensors: ResNet-{depth}, 4 classes, grid 3 x 3, anchors of 2 s")
    assert all(tensor.dtype == torch.float32 for tensor in converted.model.values())


def test_backbone_blocks_keep_their_order(params, model):
    for official, ours in (
        ("res2a_branch1", "res2.0.shortcut"),
        ("res2c_branch2b", "res2.2.conv2"),
        ("res3b3_branch2a", "res3.3.conv1"),
        ("res4b22_branch2c", "res4.22.conv3"),
        ("res5b_branch2a", "res5.1.conv1"),
    ):
        np.testing.assert_array_equal(model[f"backbone.{ours}.weight"], params[f"arg:{official}_weight"])


def test_stem_and_batch_norm_return_the_same(params, model):
    image = torch.randn(2, 3, 9, 9)
    bgr = F.conv2d(image.flip(1), model["backbone.stem.conv1.weight"])
    rgb = F.conv2d(image, torch.tensor(params["arg:conv1_weight"]))
    torch.testing.assert_close(bgr, rgb)

    frozen = FrozenBatchNorm2d(2)
    prefix = "backbone.stem.conv1.norm."
    frozen.load_state_dict({name[len(prefix) :]: t for name, t in model.items() if name.startswith(prefix)})
    gamma, beta = params["arg:bn_conv1_gamma"], params["arg:bn_conv1_beta"]
    mean, var = params["aux:bn_conv1_moving_mean"], params["aux:bn_conv1_moving_var"]
    x = rgb.numpy().transpose(0, 2, 3, 1)
    expected = gamma * (x - mean) / np.sqrt(var + 1e-5) + beta
    np.testing.assert_allclose(frozen(rgb).numpy().transpose(0, 2, 3, 1), expected, rtol=1e-4, atol=1e-4)


def test_score_and_box_maps_return_the_same_at_every_pixel(params, model):
    """With one RoI over the whole map, 2 x 2 pixels per bin, every pixel reads the maps of its own bin."""
    x = torch.randn(1, NARROW["head"], 2 * K, 2 * K)
    scores = official_conv(params, "fcis_cls_seg", x)[0]
    boxes = official_conv(params, "fcis_bbox", x)[0]
    our_scores = our_conv(model, "roi_heads.score_maps", x)[0]
    our_boxes = our_conv(model, "roi_heads.box_maps", x)[0]
    assert our_boxes.shape[0] == K * K * 4
    for y, column in product(range(2 * K), repeat=2):
        row, col = y // 2, column // 2
        for side, category in product(range(2), range(C + 1)):
            ours = our_scores[(row * K + col) * 2 * (C + 1) + side * (C + 1) + category, y, column]
            theirs = 0 if category == C else category + 1
            official = scores[((theirs * 2 + side) * K + row) * K + col, y, column]
            torch.testing.assert_close(ours, official)
        for coordinate in range(4):
            ours = our_boxes[(row * K + col) * 4 + coordinate, y, column]
            official = boxes[((1 * 4 + coordinate) * K + row) * K + col, y, column]
            torch.testing.assert_close(ours, official)


def test_rpn_returns_the_same_for_every_anchor(params, model):
    x = torch.randn(1, NARROW["rpn"], 2, 2)
    two = official_conv(params, "rpn_cls_score", x)[0].reshape(2, SCALES * RATIOS, 2, 2).softmax(dim=0)
    deltas = official_conv(params, "rpn_bbox_pred", x)[0]
    ours = our_conv(model, "proposal_generator.rpn_head.objectness_logits", x)[0].sigmoid()
    our_deltas = our_conv(model, "proposal_generator.rpn_head.anchor_deltas", x)[0]
    sizes, ratios = [32, 64], [0.5, 1, 2]
    (cells,) = DefaultAnchorGenerator(sizes=[sizes], aspect_ratios=[ratios], strides=[16]).cell_anchors
    for (r, ratio), (s, size) in product(enumerate(ratios), enumerate(sizes)):
        theirs, mine = r * SCALES + s, s * RATIOS + r
        width, height = (cells[mine, 2:] - cells[mine, :2]).tolist()
        assert (width * height, height / width) == pytest.approx((size**2, ratio))
        torch.testing.assert_close(ours[mine], two[1, theirs])
        for coordinate in range(4):
            torch.testing.assert_close(our_deltas[mine * 4 + coordinate], deltas[theirs * 4 + coordinate])


def test_file_to_checkpoint(params, tmp_path, monkeypatch, capsys):
    more = {**params, "arg:fcis_bbox_weight_test": np.ones((72, 5, 1, 1), np.float32), "arg:odd": np.ones(1, np.int64)}
    source, output = tmp_path / "release-0000.params", tmp_path / "fcis.pth"
    source.write_bytes(params_bytes(more, version=1))
    monkeypatch.setattr(sys, "argv", ["convert", str(source), str(output), "--grid-size", "3"])
    script.main()
    checkpoint = torch.load(output, weights_only=True)
    assert set(checkpoint) == {"model", "__author__", "needed_config"}
    expected = script.convert(params, K).model
    assert checkpoint["model"].keys() == expected.keys()
    assert all(torch.equal(checkpoint["model"][name], tensor) for name, tensor in expected.items())
    assert sorted(path.name for path in tmp_path.glob("fcis*")) == ["fcis.pth", "fcis.yaml"]
    cfg = load_config(str(tmp_path / "fcis.yaml"), ["MODEL.DEVICE", "cpu"])
    assert str(output) == cfg.MODEL.WEIGHTS
    assert (cfg.MODEL.FCIS.GRID_SIZE, cfg.MODEL.ROI_HEADS.NUM_CLASSES) == (3, 4)
    assert (cfg.MODEL.FCIS.SAMPLING, cfg.MODEL.FCIS.OHEM) == ("pool", True)  # those of its base
    printed = capsys.readouterr().out
    for part in (
        "found 534 tensors: ResNet-101, 4 classes, grid 3 x 3, anchors of 2 sizes x 3 ratios",
        "converted 532 tensors:\n  backbone              520\n  proposal_generator      6\n"
        "  roi_heads               6\n",
        "arg:fcis_bbox_bias, first half: the background's deltas",
        "arg:fcis_bbox_weight_test: a copy of arg:fcis_bbox_weight, multiplied by the deltas' standard deviations",
        "arg:odd: no such tensor in this model",
    ):
        assert part in printed


@pytest.mark.parametrize(("num_sizes", "expected"), [(3, "fcis_R_101_voc_sds.yaml"), (4, "fcis_R_101_ohem_coco.yaml")])
def test_the_number_of_anchors_says_which_run_it_was(num_sizes, expected):
    assert script.convert(official_params(C, K, num_sizes * RATIOS, **NARROW), K).base_config == expected


def test_another_config_is_one_warning(params, tmp_path, caplog):
    source, output = tmp_path / "release.params", tmp_path / "fcis.pth"
    source.write_bytes(params_bytes(params))
    script.convert_file(source, output, K)
    narrow = ["MODEL.RESNETS.STEM_OUT_CHANNELS", "2", "MODEL.RESNETS.WIDTH_PER_GROUP", "2", "MODEL.DEVICE", "cpu"]
    narrow += ["MODEL.RESNETS.RES2_OUT_CHANNELS", "8", "MODEL.FCIS.CONV_DIMS", "[5]", "MODEL.RPN.CONV_DIMS", "[3]"]
    narrow += ["MODEL.ANCHOR_GENERATOR.SIZES", "[[64, 128]]"]

    def warnings_of(opts):
        cfg = load_config(str(tmp_path / "fcis.yaml"), [*narrow, *opts])
        caplog.clear()
        model = build_model(cfg)
        Checkpointer(model, cfg=cfg).resume_or_load(cfg.MODEL.WEIGHTS, resume=False, must_fit=True)
        return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    assert warnings_of([]) == []
    others = ["MODEL.FCIS.SAMPLING", "aligned", "MODEL.ANCHOR_GENERATOR.NAME", "DefaultAnchorGenerator"]
    (message,) = warnings_of([*others, "MODEL.BACKBONE.NAME", "build_resnet_backbone"])
    assert message.split("\n  ") == [
        f"{output}: these weights need a config with other values, results will be wrong:",
        "MODEL.BACKBONE.NAME is build_resnet_backbone, expected build_fcis_release_resnet_backbone",
        "MODEL.ANCHOR_GENERATOR.NAME is DefaultAnchorGenerator, expected WholeSideAnchorGenerator",
        "MODEL.FCIS.SAMPLING is aligned, expected pool",
    ]


def test_a_release_of_full_size_has_the_names_and_shapes_of_the_coco_config():
    """That is configs/FCIS/fcis_R_101_ohem_coco.yaml."""
    config = Path(__file__).resolve().parents[2] / "configs" / "FCIS" / "fcis_R_101_ohem_coco.yaml"
    model = build_model(load_config(str(config), ["MODEL.DEVICE", "meta"])).state_dict()
    official = official_params(num_classes=80, grid_size=7, num_anchors=12)
    converted = script.convert(official).model
    buffers = {name for name in model if "cell_anchors" in name}
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in model.items() if k not in buffers}


def test_bad_tensors_write_no_file(params, tmp_path):
    source, output = tmp_path / "release.params", tmp_path / "fcis.pth"
    ones, bias = np.ones((36, 5, 1, 1), np.float32), np.ones(36, np.float32)
    for change, message in (
        ({"aux:bn4b22_branch2c_moving_var": None}, "lacks 1 tensors .* ResNet-101: aux:bn4b22_branch2c_moving_var"),
        ({"arg:conv1_weight": ones[..., 0]}, r"arg:conv1_weight has shape \(36, 5, 1\), expected 4 dim"),
        ({"arg:bn_conv1_beta": bias[:3]}, r"arg:bn_conv1_beta has shape \(3,\), expected \(2,\)"),
        ({"arg:fcis_bbox_weight": ones, "arg:fcis_bbox_bias": bias}, "fcis_bbox_weight has 36 out.*size 3"),
        ({"arg:fcis_cls_seg_weight": ones[:20], "arg:fcis_cls_seg_bias": bias[:20]}, "seg_weight has 20 out"),
        ({"arg:rpn_bbox_pred_weight": ones, "arg:rpn_bbox_pred_bias": bias}, r"have \(12, 36\) outputs"),
    ):
        changed = {name: array for name, array in {**params, **change}.items() if array is not None}
        source.write_bytes(params_bytes(changed))
        with pytest.raises(InputError, match=f"release.params {message}" if "lacks" in message else message):
            script.convert_file(source, output, K)
    for grid_size, num_ratios in ((7, 3), (-3, 3), (0, 3), (K, 4), (K, 0)):
        with pytest.raises(InputError, match="(grid-size|num-ratios)"):
            script.convert(params, grid_size, num_ratios)
    assert [path.name for path in tmp_path.iterdir()] == ["release.params"]


def test_files_that_cannot_be_read_or_written(params, tmp_path, monkeypatch):
    source, output = tmp_path / "release.params", tmp_path / "fcis.pth"
    with pytest.raises(InputError, match="release.params can't be read: No such file"):
        script.convert_file(source, output)
    source.write_bytes(params_bytes(params))
    with pytest.raises(InputError, match="fcis.pth can't be written: No such file"):
        script.convert_file(source, tmp_path / "nowhere" / "fcis.pth", K)
    with pytest.raises(InputError, match="inside can't be written: Is a directory"):
        (tmp_path / "inside").mkdir()
        script.convert_file(source, tmp_path / "inside", K)
    output.write_text("an older one")

    def save(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(InputError, match="fcis.pth can't be written: No space"):
        script.convert_file(source, output, K)
    assert output.read_text() == "an older one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fcis.pth", "inside", "release.params"]


def test_the_command_fails_with_one_line(tmp_path, monkeypatch, capsys):
    source = tmp_path / "text.params"
    source.write_text("no weights")
    monkeypatch.setattr(sys, "argv", ["convert", str(source), str(tmp_path / "out.pth")])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    message = capsys.readouterr().err
    assert message.endswith("text.params ends after 10 bytes, inside the header: not a whole .params file\n")
