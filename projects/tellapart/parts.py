"""Which part of a model a config names."""

from __future__ import annotations

from fvcore.common.registry import Registry


def names_one_of(registry: Registry, name: str, *parts: type) -> bool:
    """Whether ``registry`` has one of ``parts`` by this name, or a class that somebody made from one of them."""
    return name in registry and isinstance(registry.get(name), type) and issubclass(registry.get(name), parts)
