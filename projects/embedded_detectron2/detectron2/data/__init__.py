"""Datasets, from the catalogs to the data loaders."""
# ruff: noqa: F401, I001 (re-exports)

from . import datasets, transforms
from .build import build_batch_data_loader, build_detection_test_loader, build_detection_train_loader
from .build import get_detection_dataset_dicts, print_instances_class_histogram
from .catalog import DatasetCatalog, Metadata, MetadataCatalog
from .common import DatasetFromList, MapDataset, ToIterableDataset
from .dataset_mapper import DatasetMapper
