"""The message for parts of Detectron2 that are not included, which says how to get the real one."""

from __future__ import annotations

import sys
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType


def message(what: str) -> str:
    """Return the message for ``what``, a dotted name or a setting such as "MODEL.KEYPOINT_ON True"."""
    how = "build the real one with `make detectron2`"
    return f"{what} is not part of the embedded detectron2 (see its README.md): {how}"


class NotIncludedError(NotImplementedError):
    """A setting or an argument needs a part that the embedded detectron2 does not have."""


def not_included(what: str) -> NotIncludedError:
    """Return the error to raise if a setting or an argument needs a part that is not included."""
    return NotIncludedError(message(what))


def _missing_attribute(module: str, name: str):
    """Raise AttributeError with the message: the ``__getattr__`` of every module of this package."""
    raise AttributeError(message(f"{module}.{name}"))


class _Loader(SourceFileLoader):
    """Loads a module and adds a ``__getattr__`` that raises the message."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        module.__dict__.setdefault("__getattr__", partial(_missing_attribute, module.__name__))
        # For ``from module import Missing``, Python calls the finder only if the module has a __path__.
        module.__dict__.setdefault("__path__", [])


class _Finder:
    """Finds the modules of this package, and raises the message for those that do not exist."""

    @staticmethod
    def find_spec(name: str, path=None, target=None) -> ModuleSpec | None:
        """Implement ``importlib.abc.MetaPathFinder``."""
        if not name.startswith("detectron2."):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None:
            raise ModuleNotFoundError(message(name))  # with name=, Python would replace the message
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install(package: ModuleType) -> None:
    """Let missing modules and names below ``package`` (``detectron2``) raise the message."""
    sys.meta_path.insert(0, _Finder)
    package.__getattr__ = partial(_missing_attribute, package.__name__)
