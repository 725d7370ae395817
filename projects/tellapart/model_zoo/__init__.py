"""The configs and trained models that come with the package.

A config's name is its path below ``configs/``, such as "FCIS/fcis_R_50_FPN.yaml"; a trained model's is that of its
folder, such as "nuclei_fcis".
"""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode, get_cfg

from ..config import add_config
from ..errors import InputError, did_you_mean
from .models import get_model_folder, list_models

__all__ = ["get_config", "get_config_file", "get_model_folder", "list_configs", "list_models"]

# In a checkout this is a symbolic link to the folder configs/ of the repository; a wheel contains its files.
_FOLDER = Path(__file__).resolve().parent / "configs"


def list_configs() -> list[str]:
    """Return the names of all configs that can be trained, sorted; base configs are left out."""
    return [name for name in _names() if not Path(name).name.startswith("Base-")]


def get_config_file(name: str) -> str:
    """Return the path of a config file that comes with the package.

    Args:
        name: such as "FCIS/fcis_R_50_FPN.yaml".

    Raises:
        InputError: there is no such config.
    """
    names = _names()
    if name not in names:
        hint = did_you_mean(name, names) or "; tellapart.model_zoo.list_configs() returns all names"
        raise InputError(f"the model zoo has no config {name}{hint}")
    return str(_FOLDER / name)


def get_config(name: str) -> CfgNode:
    """Return Detectron2's default config with Tellapart's keys and the values of the config ``name``.

    Raises:
        InputError: there is no such config.
    """
    cfg = get_cfg()
    add_config(cfg)
    cfg.merge_from_file(get_config_file(name))
    return cfg


def _names() -> list[str]:
    return sorted(path.relative_to(_FOLDER).as_posix() for path in _FOLDER.rglob("*.yaml"))
