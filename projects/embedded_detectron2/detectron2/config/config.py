"""Config nodes with ``_BASE_`` files, and constructors that take a config or explicit arguments."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Callable

from fvcore.common.config import CfgNode as _FvcoreCfgNode

from detectron2._missing import message
from detectron2.utils.file_io import PathManager


class CfgNode(_FvcoreCfgNode):
    """fvcore's config node with a check of the version. By default, YAML files cannot run code."""

    @classmethod
    def _open_cfg(cls, filename: str):
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """Merge a YAML file, and before it the file that its ``_BASE_`` names, into this node.

        Raises:
            KeyError: the file has a key that this config does not have.
            ValueError: a value has another type than in this config, or the file is of VERSION 0 or 1.
            AssertionError: the file's VERSION is newer than this config's.
        """
        loaded = type(self)(self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe))
        own = self.get("VERSION")
        version = loaded.get("VERSION", own)
        if version != own:
            if version in (0, 1):
                raise ValueError(message(f"Upgrading a config of VERSION {version} ({cfg_filename})"))
            raise AssertionError(f"{cfg_filename} has VERSION {version}, expected {own}")
        self.merge_from_other_cfg(loaded)


def get_cfg() -> CfgNode:
    """Return a copy of the default config."""
    from .defaults import _C

    return _C.clone()


def _is_config(args: tuple, kwargs: dict) -> bool:
    candidate = args[0] if args else kwargs.get("cfg")
    return isinstance(candidate, _FvcoreCfgNode)


def _arguments_from_config(from_config: Callable, args: tuple, kwargs: dict) -> dict:
    """Call ``from_config``. Keyword arguments that it does not take override those that it returns."""
    parameters = inspect.signature(from_config).parameters.values()
    if any(p.kind == p.VAR_KEYWORD for p in parameters):
        return from_config(*args, **kwargs)
    taken = {p.name for p in parameters}
    overrides = {k: v for k, v in kwargs.items() if k not in taken}
    explicit = from_config(*args, **{k: v for k, v in kwargs.items() if k in taken})
    return {**explicit, **overrides}


def configurable(init_func: Callable | None = None, *, from_config: Callable | None = None) -> Callable:
    """Decorate a constructor or a function, so that it can also be called with a config.

    ``@configurable`` on ``__init__`` uses the classmethod ``from_config(cls, cfg, ...)`` of the class, which returns
    the constructor's arguments as a dict. ``@configurable(from_config=...)`` on a function uses the given function.

    Raises:
        AttributeError: the class has no ``from_config`` (raised when it is called).
        TypeError: ``from_config`` is not a classmethod or does not take ``cfg`` first, or the decorated object is
            neither ``__init__`` nor, with an argument, a function.
    """
    if init_func is not None:
        if not inspect.isfunction(init_func) or init_func.__name__ != "__init__" or from_config is not None:
            raise TypeError("bare @configurable decorates __init__ only; use @configurable(from_config=...)")

        @functools.wraps(init_func)
        def init(self, *args: Any, **kwargs: Any) -> None:
            mapping = getattr(type(self), "from_config", None)
            if not inspect.ismethod(mapping):
                kind = AttributeError if mapping is None else TypeError
                raise kind(f"{type(self).__name__} is @configurable: it needs a classmethod from_config(cls, cfg, ...)")
            if _is_config(args, kwargs):
                init_func(self, **_arguments_from_config(mapping, args, kwargs))
            else:
                init_func(self, *args, **kwargs)

        return init

    if from_config is None:
        return configurable
    if next(iter(inspect.signature(from_config).parameters), None) != "cfg":
        raise TypeError("from_config of @configurable must take 'cfg' as its first argument")

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any):
            if _is_config(args, kwargs):
                return function(**_arguments_from_config(from_config, args, kwargs))
            return function(*args, **kwargs)

        wrapped.from_config = from_config
        return wrapped

    return decorate
