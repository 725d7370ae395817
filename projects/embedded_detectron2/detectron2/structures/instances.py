"""The instances of one image, as named fields of the same length."""

from __future__ import annotations

import itertools
from typing import Any

import torch


class Instances:
    """Fields such as ``gt_boxes``, ``pred_masks`` and ``scores``, each with one entry per instance.

    ``image_size`` is the (height, width) in pixels of the image that the coordinates refer to.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any) -> None:
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._image_size

    def __setattr__(self, name: str, val: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, val)
        else:
            self.set(name, val)

    def __getattr__(self, name: str) -> Any:
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"Instances has no field '{name}'")
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Set a field, which must be as long as the others."""
        if self._fields and len(value) != len(self):
            raise AssertionError(f"field '{name}' has {len(value)} entries, the others have {len(self)}")
        self._fields[name] = value

    def has(self, name: str) -> bool:
        """Return whether there is a field of this name."""
        return name in self._fields

    def remove(self, name: str) -> None:
        """Remove a field."""
        del self._fields[name]

    def get(self, name: str) -> Any:
        """Return a field; KeyError if it does not exist."""
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """Return the dict of all fields. Writing to it skips the length check."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> Instances:
        """Return the instances with ``to()`` called on every field that has it."""
        moved = Instances(self._image_size)
        for name, value in self._fields.items():
            moved.set(name, value.to(*args, **kwargs) if hasattr(value, "to") else value)
        return moved

    def __getitem__(self, item: int | slice | torch.Tensor) -> Instances:
        """Select instances by an int (one instance), a slice, or a tensor of bools or indices."""
        if isinstance(item, int):
            if not -len(self) <= item < len(self):
                raise IndexError(f"instance {item} does not exist, there are {len(self)}")
            item = slice(item, None if item == -1 else item + 1)
        picked = Instances(self._image_size)
        for name, value in self._fields.items():
            picked.set(name, value[item])
        return picked

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without any field have no length")

    def __iter__(self):
        raise NotImplementedError("Instances cannot be iterated over: iterate over one of their fields")

    @staticmethod
    def cat(instance_lists: list[Instances]) -> Instances:
        """Concatenate a non-empty list of ``Instances`` with the same image size and fields."""
        if not instance_lists or not all(isinstance(i, Instances) for i in instance_lists):
            raise AssertionError("Instances.cat expects a non-empty list of Instances")
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        if any(i.image_size != first.image_size for i in instance_lists):
            raise AssertionError(f"Instances.cat expects one image size, got {[i.image_size for i in instance_lists]}")
        joined = Instances(first.image_size)
        for name, value in first._fields.items():
            values = [i.get(name) for i in instance_lists]
            if isinstance(value, torch.Tensor):
                joined.set(name, torch.cat(values, dim=0))
            elif isinstance(value, list):
                joined.set(name, list(itertools.chain(*values)))
            elif hasattr(type(value), "cat"):
                joined.set(name, type(value).cat(values))
            else:
                raise ValueError(f"field '{name}' of type {type(value).__name__} cannot be concatenated")
        return joined

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        height, width = self._image_size
        count = len(self) if self._fields else 0
        return f"Instances(num_instances={count}, image_height={height}, image_width={width}, fields=[{fields}])"
