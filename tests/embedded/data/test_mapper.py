"""Reading images, and the default mapper compared with direct computation."""

import tellapart  # noqa: F401

import detectron2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from PIL import Image

H, W = 30, 50
RECTANGLE = (4.0, 6.0, 16.0, 6.0, 16.0, 14.0, 4.0, 14.0)


@pytest.fixture
def pixels():
    return np.random.RandomState(1).randint(0, 256, (H, W, 3), dtype=np.uint8)


@pytest.fixture
def mask():
    mask = np.zeros((H, W), np.uint8)
    mask[5:15, 10:30] = 1
    mask[8:10, 12:14] = 0
    return mask


@pytest.fixture
def record(tmp_path, pixels, mask):
    """A dataset dict of an image with a polygon, an RLE and a crowd."""
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    rle = mask_util.encode(np.asfortranarray(mask))
    annotations = [
        {"bbox": [4.0, 6.0, 12.0, 8.0], "category_id": 2, "segmentation": [list(RECTANGLE)]},
        {"bbox": [10.0, 5.0, 20.0, 10.0], "category_id": 0, "segmentation": rle},
        {"bbox": [0.0, 0.0, 50.0, 30.0], "category_id": 1, "iscrowd": 1, "segmentation": rle},
    ]
    for a in annotations:
        a["bbox_mode"] = BoxMode.XYWH_ABS
    return {"file_name": str(path), "height": H, "width": W, "image_id": 9, "annotations": annotations}


def mapper(augmentations, **kwargs):
    options = {"image_format": "BGR", "use_instance_mask": True, "instance_mask_format": "bitmask", **kwargs}
    return DatasetMapper(True, augmentations=augmentations, **options)


def test_without_augmentation(record, pixels, mask):
    before = str(record)
    sample = mapper([])(record)
    assert str(record) == before
    assert sample["image"].dtype == torch.uint8 and sample["image"].shape == (3, H, W)
    np.testing.assert_array_equal(sample["image"].numpy(), pixels[:, :, ::-1].transpose(2, 0, 1))
    assert "annotations" not in sample and sample["image_id"] == 9
    instances = sample["instances"]
    assert instances.image_size == (H, W)
    torch.testing.assert_close(instances.gt_boxes.tensor, torch.tensor([[4.0, 6, 16, 14], [10, 5, 30, 15]]))
    assert instances.gt_classes.tolist() == [2, 0]  # without the crowd
    assert isinstance(instances.gt_masks, BitMasks)
    np.testing.assert_array_equal(instances.gt_masks.tensor[1].numpy(), mask.astype(bool))
    assert instances.gt_masks.tensor[0].nonzero().tolist() == [[y, x] for y in range(6, 14) for x in range(4, 16)]


def test_polygons_are_transformed(record):
    record["annotations"].pop(1)
    tfms = [T.HFlipTransform(W), T.ResizeTransform(H, W, 60, 50)]
    instances = mapper(tfms, instance_mask_format="polygon")(record)["instances"]
    assert isinstance(instances.gt_masks, PolygonMasks)
    np.testing.assert_allclose(instances.gt_masks.polygons[0][0], [46, 12, 34, 12, 34, 28, 46, 28])
    torch.testing.assert_close(instances.gt_boxes.tensor, torch.tensor([[34.0, 12, 46, 28]]))


def test_flip_and_crop_of_masks(record, pixels, mask):
    record["annotations"].pop(0)
    sample = mapper([T.HFlipTransform(W), T.CropTransform(22, 4, 20, 8)], recompute_boxes=True)(record)
    np.testing.assert_array_equal(sample["image"].numpy(), pixels[:, ::-1][4:12, 22:42, ::-1].transpose(2, 0, 1))
    second = mask[:, ::-1][4:12, 22:42].astype(bool)
    np.testing.assert_array_equal(sample["instances"].gt_masks.tensor[0].numpy(), second)
    rows, columns = second.any(1).nonzero()[0], second.any(0).nonzero()[0]
    tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert sample["instances"].gt_boxes.tensor[0].tolist() == tight


def test_crop_of_polygons(record):
    pytest.importorskip("shapely", reason="fvcore crops polygons with shapely")
    record["annotations"].pop(1)
    options = {"instance_mask_format": "polygon", "recompute_boxes": True}
    instances = mapper([T.CropTransform(10, 8, 20, 20, W, H)], **options)(record)["instances"]
    torch.testing.assert_close(instances.gt_boxes.tensor, torch.tensor([[0.0, 0, 6, 6]]))
    assert instances.gt_masks.area().tolist() == [36]


def test_boxes_are_clipped_and_empty_ones_removed(record):
    crop = T.CropTransform(16, 0, 20, 30)  # the first instance ends at x = 16
    instances = mapper([crop], use_instance_mask=False)(record)["instances"]
    assert instances.gt_classes.tolist() == [0] and not instances.has("gt_masks")
    torch.testing.assert_close(instances.gt_boxes.tensor, torch.tensor([[0.0, 5, 14, 15]]))


def test_resize_uses_pil_and_scales_boxes(record, pixels):
    sample = mapper([T.ResizeTransform(H, W, 15, 100)], image_format="RGB")(record)
    expected = np.asarray(Image.fromarray(pixels).resize((100, 15), Image.BILINEAR))
    np.testing.assert_array_equal(sample["image"].numpy().transpose(1, 2, 0), expected)
    torch.testing.assert_close(sample["instances"].gt_boxes.tensor[0], torch.tensor([8.0, 3, 32, 7]))
    assert sample["instances"].gt_masks.tensor.shape == (2, 15, 100)


def test_same_seed_gives_the_same_sample(record):
    record["annotations"].pop(0)
    cfg = get_cfg()
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT, cfg.INPUT.CROP.ENABLED = True, "bitmask", True
    cfg.INPUT.CROP.SIZE, cfg.INPUT.MIN_SIZE_TRAIN = [0.5, 0.5], (20, 40)
    built = DatasetMapper(cfg, True)
    assert built.recompute_boxes
    samples = []
    for seed in (5, 5, 6):
        np.random.seed(seed)
        samples.append([built(record) for _ in range(3)])
    for a, b in zip(samples[0], samples[1]):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["instances"].gt_masks.tensor, b["instances"].gt_masks.tensor)
    assert len({tuple(s["image"].shape) for s in samples[0] + samples[2]}) > 2


def test_mapper_for_inference_removes_annotations(record):
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.FORMAT = 15, "L"
    sample = DatasetMapper(cfg, False)(record)
    assert sample["image"].shape == (1, 15, 25)
    assert not {"annotations", "instances"} & set(sample)


def test_image_without_annotations(record):
    record["annotations"] = []
    instances = mapper([])(record)["instances"]
    assert len(instances) == 0 and instances.gt_boxes.tensor.shape == (0, 4)


def test_keypoints_are_transformed_or_refused(record):
    """Never returned in the coordinates of the image before the transform."""
    annotation = {**record["annotations"][0], "keypoints": [1.0, 2.0, 2.0]}
    transform = T.ResizeTransform(H, W, 2 * H, 2 * W)
    if "embedded" in detectron2.__version__:
        with pytest.raises(NotImplementedError, match='"keypoints".*not part of the embedded detectron2'):
            utils.transform_instance_annotations(annotation, [transform], (2 * H, 2 * W))
        with pytest.raises(NotImplementedError, match='"keypoints".*not part of the embedded detectron2'):
            utils.annotations_to_instances([annotation], (H, W))
    else:
        transformed = utils.transform_instance_annotations(annotation, [transform], (2 * H, 2 * W))
        np.testing.assert_allclose(transformed["keypoints"], [[2, 4, 2]])


def test_mapper_drops_keypoints_that_the_model_does_not_learn(record):
    record["annotations"][0]["keypoints"] = [1.0, 2.0, 2.0]
    assert sorted(mapper([])(record)["instances"].get_fields()) == ["gt_boxes", "gt_classes", "gt_masks"]


def test_rle_in_polygon_format_is_refused(record):
    with pytest.raises(ValueError, match="polygon"):
        mapper([], instance_mask_format="polygon")(record)


def test_error_for_other_size_names_the_file(record):
    record["width"] = 51
    with pytest.raises(utils.SizeMismatchError, match="picture.png.*50, 30.*51, 30"):
        mapper([])(record)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation, tmp_path):
    upright = np.zeros((16, 24), np.uint8)
    upright[:8, :8] = 255  # one bright corner, top left
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T}
    stored |= {6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1)}
    image = Image.fromarray(np.ascontiguousarray(stored[orientation]))
    exif = image.getexif()
    exif[0x112] = orientation
    image.save(tmp_path / "turned.jpg", exif=exif, quality=100)
    read = utils.read_image(str(tmp_path / "turned.jpg"), "L")[:, :, 0]
    assert np.abs(read.astype(int) - upright).max() < 60


def test_image_formats(record, pixels):
    name = record["file_name"]
    np.testing.assert_array_equal(utils.read_image(name), pixels)
    np.testing.assert_array_equal(utils.read_image(name, "BGR"), pixels[:, :, ::-1])
    gray = np.asarray(Image.fromarray(pixels).convert("L"))
    np.testing.assert_array_equal(utils.read_image(name, "L"), gray[:, :, None])
    np.testing.assert_array_equal(utils.convert_image_to_rgb(pixels[:, :, ::-1], "BGR"), pixels)
    tensor = torch.from_numpy(gray[:, :, None].copy())
    np.testing.assert_array_equal(utils.convert_image_to_rgb(tensor, "L"), np.stack([gray] * 3, axis=2))


def test_truncated_and_missing_images(record, tmp_path):
    cut = tmp_path / "cut.png"
    with open(record["file_name"], "rb") as f:
        cut.write_bytes(f.read()[:900])
    with pytest.raises(OSError):
        utils.read_image(str(cut), "BGR")
    with pytest.raises(FileNotFoundError, match="missing.png"):
        utils.read_image(str(tmp_path / "missing.png"), "BGR")


def test_filter_empty_instances(record):
    instances = mapper([])(record)["instances"]
    instances.gt_boxes.tensor[0, 2] = instances.gt_boxes.tensor[0, 0]
    kept, which = utils.filter_empty_instances(instances, return_mask=True)
    assert which.tolist() == [False, True] and len(kept) == 1
    instances.gt_masks.tensor[1] = False
    assert len(utils.filter_empty_instances(instances)) == 0
    assert len(utils.filter_empty_instances(instances, by_box=False)) == 1
