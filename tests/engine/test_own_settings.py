"""The settings that are chosen from data: close to the configs tuned by hand, and sensible at the extremes."""

from __future__ import annotations

from tellapart.data.reader import read_dataset
from tellapart.data.statistics import MaskMeasurements, Objects, measure_masks
from tellapart.engine.config_checks import load_config
from tellapart.engine.model_info import ModelInfo
from tellapart.engine.own_settings import METHODS, Start, choose_method, choose_settings

import numpy as np
import pytest


def data(image_size: tuple[int, int], side: float, num_images: int = 20, per_image: int = 10, spread=1.0) -> Objects:
    """Objects of one category, squares whose sides are up to ``spread`` times larger or smaller."""
    sizes = np.repeat([image_size], num_images, 0)
    index = np.repeat(np.arange(num_images), per_image)
    sides = side * spread ** np.linspace(-1, 1, len(index))
    return Objects(sizes, index, np.stack([sides, sides], 1), np.zeros(len(index), np.int64), 0)


def options(objects: Objects, method: str = "fcis", **more) -> dict:
    return choose_settings(["cell"], objects, True, method, **more).options


def config_of(objects: Objects, method: str) -> tuple:
    """Return the config of the training."""
    chosen = choose_settings(["cell"], objects, True, method)
    return load_config(chosen.base, ["MODEL.DEVICE", "cpu", *[str(w) for pair in chosen.options.items() for w in pair]])


@pytest.mark.parametrize("name, config, keys", [
    ("shapes_train", "quick/fcis/fcis_R_18_shapes.yaml", [
        "MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.ANCHOR_GENERATOR.SIZES", "INPUT.MIN_SIZE_TEST",
        "INPUT.CROP.ENABLED", "SOLVER.IMS_PER_BATCH", "TEST.DETECTIONS_PER_IMAGE", "MODEL.RPN.POST_NMS_TOPK_TEST",
        "MODEL.FCIS.GRID_SIZE", "MODEL.FCIS.RESOLUTION", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    ]),
    ("worms_train", "quick/semiconv/semiconv_R_18_FPN_bbbc010_image.yaml", [
        "MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.ANCHOR_GENERATOR.SIZES", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST",
        "INPUT.CROP.ENABLED", "INPUT.CROP.TYPE", "SOLVER.IMS_PER_BATCH", "TEST.DETECTIONS_PER_IMAGE",
        "MODEL.ROI_HEADS.POSITIVE_FRACTION", "SOLVER.BASE_LR", "MODEL.SEMICONV.MASK_RESOLUTION",
        "INPUT.AUGMENTATION.DIHEDRAL",
    ]),
])  # fmt: skip
def test_chosen_settings_are_those_tuned_by_hand(name, config, keys):
    content = read_dataset(name)
    objects = Objects.from_records(content.records)
    method, _ = choose_method(measure_masks(content.records))
    settings = choose_settings(content.classes, objects, True, method)
    words = [str(word) for pair in settings.options.items() for word in pair]
    chosen, by_hand = (
        load_config(one, ["MODEL.DEVICE", "cpu", *more]) for one, more in ((settings.base, words), (config, []))
    )

    def value(cfg, key):
        for part in key.split("."):
            cfg = cfg[part]
        return tuple(cfg) if isinstance(cfg, list) else cfg

    assert {key: value(chosen, key) for key in keys} == {key: value(by_hand, key) for key in keys}
    narrower = chosen.MODEL.RESNETS.RES2_OUT_CHANNELS < by_hand.MODEL.RESNETS.RES2_OUT_CHANNELS
    low, high = (1.5, 2.5) if narrower else (0.75, 1.25)  # half the width takes half of the time
    assert low < chosen.SOLVER.MAX_ITER / by_hand.SOLVER.MAX_ITER < high


def test_the_method_follows_the_shapes():
    def masks(fill: float, crowding: float) -> MaskMeasurements:
        return MaskMeasurements(5, np.full(9, 50.0), np.full(9, fill), np.full(9, crowding), 0.0)

    assert choose_method(masks(0.8, 0.1))[0] == "fcis"
    assert choose_method(masks(0.2, 0.1))[0] == choose_method(masks(0.8, 0.5))[0] == "semiconv"
    assert choose_method(None)[0] == "maskrcnn"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size, side", [((64, 64), 3), ((256, 256), 15), ((1024, 2048), 9), ((3000, 4000), 900),
                                        ((480, 640), 200), ((2000, 2000), 30), ((40, 1200), 20)])  # fmt: skip
def test_objects_fit_the_network(method, size, side):
    """After resizing and cropping: objects of at least 8 px, images of moderate size, a full config."""
    objects = data(size, side, spread=1.3)
    cfg = config_of(objects, method)
    crop = cfg.INPUT.CROP.SIZE[0] if cfg.INPUT.CROP.ENABLED else 1
    factor = np.sqrt(np.prod(cfg.INPUT.MIN_SIZE_TRAIN)) / (min(size) * crop)
    assert 8 <= side * factor <= 130
    assert cfg.INPUT.MIN_SIZE_TEST <= 1333
    trained = np.prod(np.array(size) * factor * crop)
    assert trained <= 170_000
    assert 200 <= cfg.SOLVER.MAX_ITER <= 1500
    assert cfg.TEST.BEST_CHECKPOINT == "segm/AP" and 0 < cfg.TEST.EVAL_PERIOD <= cfg.SOLVER.MAX_ITER


def test_many_objects_and_categories():
    objects = data((256, 256), 10, per_image=700)
    chosen = options(objects)
    assert chosen["TEST.DETECTIONS_PER_IMAGE"] == 1050 and chosen["MODEL.RPN.POST_NMS_TOPK_TEST"] == 2100
    assert chosen["MODEL.RPN.PRE_NMS_TOPK_TEST"] >= 2100
    many = choose_settings([str(i) for i in range(80)], objects, True, "fcis").options
    assert 0.4 < many["SOLVER.MAX_ITER"] / chosen["SOLVER.MAX_ITER"] < 0.6
    assert many["MODEL.FCIS.GRID_SIZE"] == 3 and many["MODEL.ROI_HEADS.NUM_CLASSES"] == 80


def test_images_of_different_sizes():
    objects = data((200, 200), 20)
    objects.image_sizes[10:] = 420
    chosen = choose_settings(["cell"], objects, True, "fcis")
    assert chosen.options["INPUT.MIN_SIZE_TRAIN"] == [0] and "resized to one" not in chosen.notes[0]
    large = data((200, 200), 200)
    large.image_sizes[10:] = 500
    assert "resized to one" in choose_settings(["cell"], large, True, "fcis").notes[0]


def test_channels_processes_and_boxes():
    objects = data((256, 256), 20)
    assert options(objects, num_channels=5)["MODEL.PIXEL_MEAN"] == [127.5] * 5
    assert options(objects, world_size=3)["SOLVER.IMS_PER_BATCH"] % 3 == 0
    boxes = choose_settings(["cell"], objects, False, "maskrcnn").options
    assert boxes["MODEL.MASK_ON"] is False and boxes["TEST.BEST_CHECKPOINT"] == "bbox/AP"


def test_fine_tuning_keeps_the_architecture_and_the_scale():
    """Objects twice as large as in the first training are reduced, so that the network sees them as it knows them."""
    info = ModelInfo(["cell"], scale=1.0, scale_low=1.0, object_size=20.0)
    start = Start("run/config.yaml", "/run/model_final.pth", "fcis", info)
    chosen = choose_settings(["cell"], data((256, 256), 40), True, "fcis", start=start)
    assert chosen.base == "run/config.yaml" and chosen.options["INPUT.MIN_SIZE_TRAIN"] == [102, 160]
    assert chosen.options["MODEL.WEIGHTS"] == "/run/model_final.pth" and chosen.options["SOLVER.BASE_LR"] < 0.001
    assert not any(key.startswith(("MODEL.ANCHOR", "MODEL.FCIS")) for key in chosen.options)


def test_operators_are_added_to_a_mask_rcnn():
    """Its own config is the base, so that anchors and backbone fit the weights."""
    start = Start("run/config.yaml", "w.pth", "maskrcnn", None)
    chosen = choose_settings(["cell"], data((256, 256), 20), True, "semiconv", start=start)
    assert chosen.base == "run/config.yaml" and chosen.options["MODEL.WEIGHTS"] == "w.pth"
    assert chosen.options["MODEL.ROI_HEADS.NAME"] == "SemiConvROIHeads"
    assert chosen.options["MODEL.ROI_MASK_HEAD.NAME"] == "SemiConvMaskHead"
    assert "MODEL.WEIGHTS" not in options(data((256, 256), 20), "semiconv")


def test_pixel_scaling_and_rotations():
    objects = data((256, 256), 20)
    chosen = choose_settings(["cell"], objects, True, "fcis", gray_spans=[40, 60, 200, 220])
    assert chosen.options["INPUT.SCALING"] == "percentile" and "gray levels span 46 to 214 of 255" in chosen.notes[-1]
    for spans in ((), (180, 200, 220), (255, 255)):
        assert options(objects, gray_spans=spans)["INPUT.SCALING"] == "auto"
    assert options(objects)["INPUT.AUGMENTATION.DIHEDRAL"] is True
    many = choose_settings([str(i) for i in range(20)], objects, True, "fcis").options
    assert many["INPUT.AUGMENTATION.DIHEDRAL"] is False
    thin = options(objects, "semiconv")
    assert thin["INPUT.AUGMENTATION.DIHEDRAL"] is False and len(set(thin["INPUT.MIN_SIZE_TRAIN"])) == 1
    start = Start("run/config.yaml", "w.pth", "fcis", None)
    kept = options(objects, start=start, gray_spans=[40, 60, 200, 220])
    assert "INPUT.SCALING" not in kept and "INPUT.AUGMENTATION.DIHEDRAL" not in kept
    assert kept["SOLVER.EMA_DECAY"] == 0.0
