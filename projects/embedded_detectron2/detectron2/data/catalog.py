"""The two global tables: what datasets there are, and what is known about each."""

from __future__ import annotations

import types
from collections import UserDict
from typing import Any, Callable


class _DatasetCatalog(UserDict):
    """Dataset name -> function that returns its list of dataset dicts."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Register ``func`` under ``name``; it must give the same data, in the same order, each time.

        Raises:
            AssertionError: ``func`` is not callable, or the name is taken.
        """
        assert callable(func), f"Dataset '{name}': register() wants a function, got {type(func).__name__}"
        assert name not in self, f"Dataset '{name}' is already registered!"
        self[name] = func

    def get(self, name: str) -> list[dict]:
        """Call the registered function and return what it gives.

        Raises:
            KeyError: the name is not registered; the message lists those that are.
        """
        if name not in self:
            raise KeyError(f"Dataset '{name}' is not registered! Available datasets are: {', '.join(self)}")
        return self[name]()

    def list(self) -> list[str]:
        """Names of all registered datasets."""
        return list(self.keys())

    def remove(self, name: str) -> None:
        """Forget a dataset; KeyError if it is not there."""
        del self[name]


class Metadata(types.SimpleNamespace):
    """What is constant about a dataset (``thing_classes``, ``thing_colors``, ``json_file``, ...), as attributes.

    An attribute can be set once; setting it again to the same value does nothing.
    """

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        known = f"Available keys are {list(self.__dict__)}." if len(self.__dict__) > 1 else "The metadata is empty."
        raise AttributeError(f"Attribute '{key}' does not exist in the metadata of dataset '{self.name}'. {known}")

    def __setattr__(self, key: str, val: Any) -> None:
        if key in self.__dict__ and self.__dict__[key] != val:
            raise AssertionError(
                f"Attribute '{key}' in the metadata of '{self.name}' cannot be set to a different value!\n"
                f"{self.__dict__[key]} != {val}"
            )
        super().__setattr__(key, val)

    def set(self, **kwargs: Any) -> Metadata:
        """Set several attributes; returns itself."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """The attribute, or ``default`` where there is none."""
        return self.__dict__.get(key, default)


class _MetadataCatalog(UserDict):
    """Dataset name -> its one ``Metadata``."""

    def get(self, name: str) -> Metadata:
        """The metadata of ``name``, made empty at the first call."""
        assert name, "a dataset has a non-empty name"
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]

    def list(self) -> list[str]:
        """Names that have metadata."""
        return list(self.keys())

    def remove(self, name: str) -> None:
        """Forget the metadata of ``name``; KeyError if there is none."""
        del self[name]


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
