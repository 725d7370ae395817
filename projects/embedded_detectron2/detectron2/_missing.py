"""What using a part of Detectron2 that is not here leads to: one message that says so and how to get the real one."""

from __future__ import annotations

import sys
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType


def message(what: str) -> str:
    """The sentence for ``what``, a dotted name or a config setting such as "MODEL.KEYPOINT_ON True"."""
    how = "build the real one with `make detectron2`"
    return f"{what} is not part of the embedded detectron2 (see its README.md): {how}"


def not_included(what: str) -> NotImplementedError:
    """The error to raise where a config or an argument asks for a part that is not here."""
    return NotImplementedError(message(what))


def _missing_attribute(module: str, name: str):
    """``__getattr__`` of every module of this package: AttributeError, so that ``hasattr`` still works."""
    raise AttributeError(message(f"{module}.{name}"))


class _Loader(SourceFileLoader):
    """Gives a module a ``__getattr__`` that explains what is missing."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        module.__dict__.setdefault("__getattr__", partial(_missing_attribute, module.__name__))
        # Python asks the finder about ``from module import Missing`` only where the module has a __path__.
        module.__dict__.setdefault("__path__", [])


class _Finder:
    """Finds the modules of this package; ModuleNotFoundError with `message` for those that are not here."""

    @staticmethod
    def find_spec(name: str, path=None, target=None) -> ModuleSpec | None:
        """See ``importlib.abc.MetaPathFinder``."""
        if not name.startswith("detectron2."):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None:
            raise ModuleNotFoundError(message(name))  # without name=, which ``from package import Missing`` would drop
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install(package: ModuleType) -> None:
    """Explain missing modules and names below ``package``, which is ``detectron2``."""
    sys.meta_path.insert(0, _Finder)
    package.__getattr__ = partial(_missing_attribute, package.__name__)
