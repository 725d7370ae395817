"""The catalogs of datasets and of metadata, and the registered COCO datasets."""

import uuid

import tellapart  # noqa: F401

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import check_metadata_consistency


@pytest.fixture
def name():
    """A dataset name that is not registered."""
    return f"catalog_{uuid.uuid4().hex}"


def test_registered_function_is_called_each_time(name):
    calls = []
    DatasetCatalog.register(name, lambda: calls.append(1) or [{"n": len(calls)}])
    assert DatasetCatalog.get(name) == [{"n": 1}]
    assert DatasetCatalog.get(name) == [{"n": 2}]
    assert name in DatasetCatalog.list()
    DatasetCatalog.remove(name)
    assert name not in DatasetCatalog.list()


def test_error_for_unknown_dataset_lists_the_known_ones(name):
    with pytest.raises(KeyError, match=f"{name}' is not registered.*coco_2017_train"):
        DatasetCatalog.get(name)


def test_register_needs_a_new_name_and_a_function(name):
    DatasetCatalog.register(name, list)
    with pytest.raises(AssertionError, match="already registered"):
        DatasetCatalog.register(name, list)
    with pytest.raises(AssertionError, match="function"):
        DatasetCatalog.register(name + "x", [])


def test_attributes_of_metadata_are_set_once(name):
    meta = MetadataCatalog.get(name)
    assert meta is MetadataCatalog.get(name)
    meta.set(thing_classes=["a"], extra=3)
    meta.thing_classes = ["a"]
    with pytest.raises(AssertionError, match=f"'thing_classes' in the metadata of '{name}' cannot be set"):
        meta.thing_classes = ["b"]
    assert (meta.name, meta.thing_classes, meta.extra) == (name, ["a"], 3)
    assert meta.get("nothing", 7) == 7
    with pytest.raises(AttributeError, match=f"'nothing' does not exist in the metadata of dataset '{name}'.*extra"):
        meta.nothing  # noqa: B018
    assert not hasattr(meta, "nothing")


def test_metadata_consistency(name):
    for suffix, classes in (("1", ["a"]), ("2", ["a"]), ("3", ["b"])):
        MetadataCatalog.get(name + suffix).thing_classes = classes
    check_metadata_consistency("thing_classes", [name + "1", name + "2"])
    with pytest.raises(ValueError, match="different metadata 'thing_classes'"):
        check_metadata_consistency("thing_classes", [name + "1", name + "2", name + "3"])
    with pytest.raises(AttributeError, match="thing_classes"):
        check_metadata_consistency("thing_classes", [name])


def test_registered_coco_datasets():
    meta = MetadataCatalog.get("coco_2017_val_100")
    assert meta.json_file.endswith("coco/annotations/instances_val2017_100.json")
    assert meta.image_root.endswith("coco/val2017")
    assert len(meta.thing_classes) == len(meta.thing_colors) == len(meta.thing_dataset_id_to_contiguous_id) == 80
    assert (meta.thing_classes[0], meta.thing_classes[10], meta.thing_classes[79]) == (
        "person",
        "fire hydrant",
        "toothbrush",
    )
    assert meta.thing_dataset_id_to_contiguous_id[90] == 79
    assert meta.thing_colors[0] == [220, 20, 60]
    assert {"coco_2017_train", "coco_2017_val"} <= set(DatasetCatalog.list())
