"""Config files of other versions, and `configurable` on classes without a mapping."""

import tellapart  # noqa: F401

import detectron2
import pytest
from detectron2.config import configurable, get_cfg

EMBEDDED = "embedded" in detectron2.__version__


def merge(folder, text):
    (folder / "config.yaml").write_text(text)
    cfg = get_cfg()
    cfg.merge_from_file(str(folder / "config.yaml"))
    return cfg


@pytest.mark.parametrize("version", [0, 1])
def test_old_config_is_upgraded_or_refused(version, tmp_path):
    text = f"VERSION: {version}\nMODEL:\n  MASK_ON: True\n"
    if EMBEDDED:
        with pytest.raises(ValueError, match=rf"VERSION {version} .*config.yaml.*not part of the embedded detectron2"):
            merge(tmp_path, text)
    else:
        assert merge(tmp_path, text).MODEL.MASK_ON


def test_newer_config_is_refused(tmp_path):
    with pytest.raises(AssertionError, match="3"):
        merge(tmp_path, "VERSION: 3\n")


def test_config_without_a_version_is_taken_as_it_is(tmp_path):
    cfg = merge(tmp_path, "MODEL:\n  WEIGHTS: a.pth\n")
    assert (cfg.MODEL.WEIGHTS, cfg.VERSION) == ("a.pth", 2)


def test_configurable_needs_from_config():
    class Without:
        @configurable
        def __init__(self, x):
            pass

    class NoClassmethod:
        @configurable
        def __init__(self, x):
            pass

        def from_config(self, cfg):
            return {"x": 1}

    for argument in (1, get_cfg()):
        with pytest.raises(AttributeError, match="from_config"):
            Without(argument)
        with pytest.raises(TypeError, match="from_config"):
            NoClassmethod(argument)
