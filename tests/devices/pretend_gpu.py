"""A device without hardware that behaves like a GPU: it computes real values, and refuses what a GPU refuses.

Its tensors say that they are on the device ``meta``, and hold a tensor on the CPU. Operations with tensors of both
devices raise the error of a GPU. What makes a CPU wait for a GPU is recorded with the line of code: reading a value
(``.item()``, ``bool(tensor)``, ``.cpu()``), results whose size depends on values (``nonzero``, indices that are masks),
and indices on the CPU.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
_SIZE_DEPENDS_ON_VALUES = ("nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive")
_SIZE_DEPENDS_ON_VALUES += ("nms", "equal", "bincount", "_local_scalar_dense")


class PretendTensor(torch.Tensor):
    """A tensor that says that it is on ``DEVICE``, with its values in ``values``, on the CPU."""

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> PretendTensor:
        return torch.Tensor._make_wrapper_subclass(
            cls, values.shape, values.stride(), values.storage_offset(), dtype=values.dtype, device=DEVICE,
            requires_grad=values.requires_grad,
        )  # fmt: skip

    def __init__(self, values: torch.Tensor) -> None:
        self.values_on_cpu = values.detach()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"PretendTensor({self.values_on_cpu})"

    def tolist(self) -> list:
        """Read the values, which PyTorch refuses for subclasses."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        raise RuntimeError("a PretendTensor is used outside of PretendGPU")


class _TensorsFromData(TorchFunctionMode):
    """``torch.tensor(list, device="meta")`` would drop the values before :class:`PretendGPU` sees them."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.new_tensor:
            kwargs = {"dtype": args[0].dtype, "device": args[0].device, **kwargs}
            func, args = torch.tensor, args[1:]
        if func not in (torch.tensor, torch.as_tensor) or isinstance(args[0], torch.Tensor):
            return func(*args, **kwargs)
        device = kwargs.pop("device", None)
        values = func(*args, **kwargs)
        return values if device is None else values.to(device)


class PretendGPU(TorchDispatchMode):
    """While active, ``device="meta"`` is the pretended GPU.

    Attributes:
        waits: ("file:function: operation") -> how often the CPU would have waited for the GPU there.
    """

    def __init__(self, package: str) -> None:
        super().__init__()
        self.package = package
        self.waits: Counter[str] = Counter()
        self._tensors_from_data = _TensorsFromData()

    def __enter__(self) -> PretendGPU:
        self._tensors_from_data.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._tensors_from_data.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
        on_gpu = any(isinstance(one, PretendTensor) for one in tensors)
        name = func.overloadpacket.__name__
        target = kwargs.get("device")
        target = None if target is None else torch.device(target)
        is_copy = name == "_to_copy" and target is not None and (target == DEVICE) != on_gpu
        if is_copy and not kwargs.get("non_blocking"):
            self._wait("copy to the CPU" if on_gpu else "copy to the GPU")
        if on_gpu:
            self._check(name, args, tensors)
        to_gpu = on_gpu if target is None else target == DEVICE
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        inputs = {id(one.values_on_cpu): one for one in tensors if isinstance(one, PretendTensor)}
        plain_args, plain_kwargs = tree_map(_values, (args, kwargs))
        results = func(*plain_args, **plain_kwargs)

        def wrap(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or not to_gpu:
                return value
            # An operation in place returns its input.
            return inputs[id(value)] if id(value) in inputs else PretendTensor(value)

        return tree_map(wrap, results)

    def _check(self, name: str, args: tuple, tensors: list[torch.Tensor]) -> None:
        others = [one for one in tensors if not isinstance(one, PretendTensor) and one.ndim > 0]
        if name in ("index", "index_put_", "index_put", "_unsafe_index", "_index_put_impl_"):
            indices = [one for one in args[1] if one is not None]
            is_fill = name != "index" and args[2].numel() == 1  # a GPU fills a mask without waiting
            if any(one.is_meta and not isinstance(one, PretendTensor) for one in indices):
                raise RuntimeError("a list as index: its tensor is made where PretendGPU cannot see it")
            if any(not isinstance(one, PretendTensor) for one in indices):
                self._wait("index on the CPU")
            elif any(one.dtype in (torch.bool, torch.uint8) for one in indices) and not is_fill:
                self._wait("mask as index")
            others = [one for one in others if not any(one is index for index in indices)]
        if others and name not in ("_to_copy", "copy_"):
            raise RuntimeError(
                f"{name}: Expected all tensors to be on the same device, but found {tuple(others[0].shape)} on the CPU"
            )
        if name in _SIZE_DEPENDS_ON_VALUES or (name == "repeat_interleave" and len(args) > 0):
            self._wait(name)

    def _wait(self, name: str) -> None:
        for frame in reversed(traceback.extract_stack()):
            if f"/{self.package}/" in frame.filename:
                file = frame.filename.partition(f"/{self.package}/")[2]
                self.waits[f"{file}:{frame.name}: {name}"] += 1
                return
            if "/detectron2/" in frame.filename:
                break
        self.waits[f"elsewhere: {name}"] += 1


def _values(value: Any) -> Any:
    return value.values_on_cpu if isinstance(value, PretendTensor) else value


def move(module: nn.Module) -> None:
    """Move the parameters and buffers of ``module`` to the pretended GPU, in place; call it within ``PretendGPU``."""
    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is not None:
                child._parameters[name] = nn.Parameter(PretendTensor(parameter.data), parameter.requires_grad)
        for name, buffer in child._buffers.items():
            if buffer is not None:
                child._buffers[name] = PretendTensor(buffer)
