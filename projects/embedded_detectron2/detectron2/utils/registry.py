"""Registries of classes and functions by name."""

from typing import Any

from fvcore.common.registry import Registry as _FvcoreRegistry

from detectron2._missing import message


class Registry(_FvcoreRegistry):
    """fvcore's registry of classes and functions by name."""

    def get(self, name: str) -> Any:
        """Return what is registered under ``name``; KeyError if nothing is."""
        if name not in self:
            known = ", ".join(key for key, _ in self)
            own = message("If it is Detectron2's own, it")
            raise KeyError(f"No object named '{name}' found in '{self._name}' registry, which has {known}. {own}")
        return super().get(name)
