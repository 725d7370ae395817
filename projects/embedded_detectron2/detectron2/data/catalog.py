"""The two global catalogs: functions that load datasets, and metadata of datasets."""

from __future__ import annotations

import types
from collections import UserDict
from typing import Any, Callable


class _DatasetCatalog(UserDict):
    """Functions that return lists of dataset dicts, by the dataset's name."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Register ``func`` under ``name``. It must return the same data in the same order every time.

        Raises:
            AssertionError: ``func`` is not callable, or the name is registered already.
        """
        assert callable(func), f"Dataset '{name}' is registered with a {type(func).__name__}, expected a function"
        assert name not in self, f"Dataset '{name}' is already registered!"
        self[name] = func

    def get(self, name: str) -> list[dict]:
        """Call the registered function and return its dataset dicts.

        Raises:
            KeyError: the name is not registered. The message lists the registered ones.
        """
        if name not in self:
            raise KeyError(f"Dataset '{name}' is not registered! Available datasets are: {', '.join(self)}")
        return self[name]()

    def list(self) -> list[str]:
        """Return the names of all registered datasets."""
        return list(self.keys())

    def remove(self, name: str) -> None:
        """Remove a dataset; KeyError if it is not registered."""
        del self[name]


class Metadata(types.SimpleNamespace):
    """Metadata of a dataset as attributes, such as ``thing_classes`` and ``json_file``.

    An attribute can be set once. Setting it again to the same value is allowed.
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
        """Set several attributes and return itself."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """Return an attribute, or ``default`` if it is not set."""
        return self.__dict__.get(key, default)


class _MetadataCatalog(UserDict):
    """The one `Metadata` of each dataset, by the dataset's name."""

    def get(self, name: str) -> Metadata:
        """Return the metadata of ``name``. The first call creates it, without attributes."""
        assert name, "the dataset's name is empty"
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]

    def list(self) -> list[str]:
        """Return the names of all datasets with metadata."""
        return list(self.keys())

    def remove(self, name: str) -> None:
        """Remove the metadata of ``name``; KeyError if there is none."""
        del self[name]


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
