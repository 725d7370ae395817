"""All parity cases: importing this registers them in ``common.CASES``."""

from __future__ import annotations

from . import (  # noqa: F401
    cases_config,
    cases_data,
    cases_engine,
    cases_fcis,
    cases_heads,
    cases_instance_fcn,
    cases_models,
    cases_ops,
    cases_semiconv,
)


def is_embedded() -> bool:
    """Whether the running ``detectron2`` is this repository's own."""
    import detectron2

    return "embedded_detectron2" in str(detectron2.__file__)
