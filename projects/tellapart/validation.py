"""Checks of config values that several methods share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fvcore.common.registry import Registry

from .errors import InputError


def check_keys(section: str, options: Mapping[str, object], checks: Iterable[tuple[str, bool, str]]) -> None:
    """Check the values of one config section.

    Args:
        section: the section's full name, such as "MODEL.FCIS".
        options: the keys and values of the section.
        checks: per key: its name, whether its value is valid, and a description of valid values for the message.

    Raises:
        InputError: a value is invalid. The message names the first such key, its value and the valid values.
    """
    for key, is_valid, expected in checks:
        if not is_valid:
            raise InputError(f"{section}.{key} is {options[key]!r}, expected {expected}")


def check_mask_on(model: Mapping[str, object], learner: str) -> None:
    """Check that ``MODEL.MASK_ON`` is True, because data loaders drop the ground-truth masks otherwise.

    Args:
        model: the config section ``MODEL``.
        learner: the name of the model part that trains on masks, for the message.

    Raises:
        InputError: ``MASK_ON`` is False.
    """
    if not model["MASK_ON"]:
        raise InputError(f"MODEL.MASK_ON is False, but {learner} learns from masks: set it to True")


def registry_name_is_a(registry: Registry, name: str, *classes: type) -> bool:
    """Return whether ``name`` is registered in ``registry`` as one of ``classes`` or as a subclass of one."""
    return name in registry and isinstance(registry.get(name), type) and issubclass(registry.get(name), classes)
