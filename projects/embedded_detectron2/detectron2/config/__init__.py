"""Configuration: `CfgNode`, the default config and `configurable`."""
# ruff: noqa: F401 (re-exports)

from .config import CfgNode, configurable, get_cfg
