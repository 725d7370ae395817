"""The tables of renamed config keys and values, which old configs are checked with."""

from __future__ import annotations

from tellapart import add_config
from tellapart.config import RENAMED_KEYS, RENAMED_VALUES

from detectron2.config import get_cfg
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY


def test_renamed_keys_exist():
    """The new keys exist and the old ones don't."""
    cfg = get_cfg()
    add_config(cfg)
    for old_key, new_key in RENAMED_KEYS.items():
        section, _, name = new_key.rpartition(".")
        node = cfg
        for part in section.split("."):
            node = node[part]
        assert name in node
        assert old_key.rpartition(".")[0] != section or old_key.rpartition(".")[2] not in node


def test_renamed_values_are_registered():
    """The new names are registered and the old ones aren't."""
    for old_name, new_name in RENAMED_VALUES.items():
        assert any(new_name in registry for registry in (BACKBONE_REGISTRY, ROI_HEADS_REGISTRY)), new_name
        assert not any(old_name in registry for registry in (BACKBONE_REGISTRY, ROI_HEADS_REGISTRY)), old_name
