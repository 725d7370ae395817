"""Checks of the values in one section of a config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fvcore.common.registry import Registry

from .errors import InputError


def check_keys(section: str, options: Mapping[str, object], checks: Iterable[tuple[str, bool, str]]) -> None:
    """The one message for a config's value that makes no sense.

    Args:
        section: of the config, "MODEL.FCIS".
        options: its keys and values.
        checks: of each key, in order: whether its value fits, and what is wanted.

    Raises:
        InputError: names the first key that does not fit, what it is and what is wanted.
    """
    for key, fits, wanted in checks:
        if not fits:
            raise InputError(f"{section}.{key} is {options[key]!r}, wanted {wanted}")


def check_mask_on(model: Mapping[str, object], learner: str) -> None:
    """``learner`` needs masks, which loaders bring only with ``MASK_ON`` in the config's section ``MODEL``.

    Raises:
        InputError: it is off.
    """
    if not model["MASK_ON"]:
        raise InputError(f"MODEL.MASK_ON is False, but {learner} learns from masks: set it to True")


def registry_name_is_a(registry: Registry, name: str, *parts: type) -> bool:
    """Whether ``registry`` has one of ``parts`` by this name, or a class that somebody made from one of them."""
    return name in registry and isinstance(registry.get(name), type) and issubclass(registry.get(name), parts)
