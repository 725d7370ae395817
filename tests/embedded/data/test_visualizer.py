"""Pictures: something is drawn where it should be, and nothing elsewhere."""

import tellapart  # noqa: F401

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from detectron2.utils.colormap import colormap, random_color
from detectron2.utils.visualizer import ColorMode, Visualizer

GREY = 128
MARGIN = 4  # outlines have a width


@pytest.fixture
def canvas():
    return np.full((100, 160, 3), GREY, np.uint8)


@pytest.fixture
def mask():
    mask = np.zeros((100, 160), bool)
    mask[50:80, 30:90] = True
    return mask


def changed(output):
    return (output.get_image() != GREY).any(axis=2)


def grown(mask, by):
    ys, xs = np.nonzero(mask)
    out = np.zeros_like(mask)
    out[max(ys.min() - by, 0) : ys.max() + 1 + by, max(xs.min() - by, 0) : xs.max() + 1 + by] = True
    return out


def inner(mask, by):
    ys, xs = np.nonzero(mask)
    out = np.zeros_like(mask)
    out[ys.min() + by : ys.max() + 1 - by, xs.min() + by : xs.max() + 1 - by] = True
    return out


def test_mask_is_tinted(canvas, mask):
    output = Visualizer(canvas).draw_binary_mask(mask.astype(np.uint8), color=(1.0, 0.0, 0.0), alpha=0.5)
    image = output.get_image()
    assert image.dtype == np.uint8 and image.shape == canvas.shape
    inside = image[inner(mask, MARGIN)].astype(int)
    assert np.abs(inside - [191, 64, 64]).max() <= 2
    assert not changed(output)[~grown(mask, MARGIN)].any()
    assert (canvas == GREY).all()


def test_hole_is_left_free(canvas, mask):
    mask[58:72, 50:70] = False
    hole = np.zeros_like(mask)
    hole[58:72, 50:70] = True
    output = Visualizer(canvas).draw_binary_mask(mask.astype(np.uint8), color="blue")
    assert not changed(output)[inner(hole, MARGIN)].any()
    assert changed(output)[65, 40]


@pytest.mark.parametrize("kind", ["bits", "polygons", "arrays", "polygon lists"])
def test_kinds_of_masks(kind, canvas, mask):
    corners = [[[30.0, 50.0, 90.0, 50.0, 90.0, 80.0, 30.0, 80.0]]]
    masks = {
        "bits": BitMasks(torch.from_numpy(mask[None])),
        "polygons": PolygonMasks([[np.array(corners[0][0])]]),
        "arrays": [mask],
        "polygon lists": corners,
    }[kind]
    output = Visualizer(canvas).overlay_instances(masks=masks, assigned_colors=[(0.0, 1.0, 0.0)])
    assert changed(output)[inner(mask, MARGIN)].all()
    assert not changed(output)[~grown(mask, MARGIN)].any()


def test_box_and_polygon_and_text(canvas, mask):
    box = changed(Visualizer(canvas).draw_box((30, 50, 90, 80), edge_color="r", alpha=1))
    assert box[50, 60] and box[65, 90] and not box[inner(mask, MARGIN)].any()
    corners = np.array([[30, 50], [90, 50], [90, 80], [30, 80]])
    polygon = changed(Visualizer(canvas).draw_polygon(corners, color="b"))
    assert polygon[inner(mask, MARGIN)].all() and not polygon[~grown(mask, MARGIN)].any()
    text = changed(Visualizer(canvas).draw_text("abc", (60, 50)))
    assert text.any() and not text[:45].any() and not text[80:].any()


@pytest.fixture
def predictions(mask):
    found = Instances((100, 160))
    found.pred_boxes = Boxes(torch.tensor([[30.0, 50.0, 90.0, 80.0]]))
    found.scores = torch.tensor([0.987])
    found.pred_classes = torch.tensor([1])
    found.pred_masks = torch.from_numpy(mask[None])
    return found


@pytest.fixture
def metadata():
    meta = MetadataCatalog.get("visualizer_test")
    return meta.set(thing_classes=["disc", "square"], thing_colors=[[255, 0, 0], [0, 255, 0]])


@pytest.mark.parametrize("mode", list(ColorMode))
def test_predictions(mode, canvas, mask, predictions, metadata):
    output = Visualizer(canvas, metadata, instance_mode=mode).draw_instance_predictions(predictions)
    assert changed(output)[inner(mask, MARGIN)].mean() > 0.8
    assert not changed(output)[:30].any()
    if mode == ColorMode.SEGMENTATION:  # by class: green
        pixel = output.get_image()[75, 60].astype(int)
        assert pixel[1] > pixel[0] + 40 and pixel[1] > pixel[2] + 40


def test_grey_outside_of_instances(canvas, mask, predictions):
    canvas[:] = (200, 100, 0)
    image = Visualizer(canvas, instance_mode=ColorMode.IMAGE_BW).draw_instance_predictions(predictions).get_image()
    assert (image[20, 20] == image[20, 20, 0]).all()
    assert len(set(image[75, 60].tolist())) > 1


def test_no_predictions(canvas, predictions):
    assert not changed(Visualizer(canvas).draw_instance_predictions(predictions[:0])).any()


def test_scale_and_dataset_dict(canvas, metadata, tmp_path):
    annotation = {"bbox": [30.0, 50.0, 60.0, 30.0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 1}
    annotation["segmentation"] = [[30.0, 50.0, 90.0, 50.0, 90.0, 80.0, 30.0, 80.0]]
    output = Visualizer(canvas, metadata, scale=2.0).draw_dataset_dict({"annotations": [annotation]})
    hit = changed(output)
    assert hit.shape == (200, 320)
    assert hit[130:155, 70:170].all() and not hit[:80].any() and not hit[:, 200:].any()
    output.save(str(tmp_path / "drawn.png"))
    assert (tmp_path / "drawn.png").stat().st_size > 0


def test_numbers_must_agree(canvas):
    with pytest.raises(AssertionError):
        Visualizer(canvas).overlay_instances(boxes=np.zeros((1, 4)), labels=["a", "b"])


def test_colormap():
    colors = colormap(rgb=True, maximum=1)
    assert colors.dtype == np.float32 and colors.min() >= 0 and colors.max() <= 1
    assert len(np.unique(colors.round(3), axis=0)) > 50
    np.testing.assert_allclose(colormap(rgb=False)[:, ::-1], colors * 255, rtol=1e-6)
    assert random_color(rgb=True, maximum=1).shape == (3,)
