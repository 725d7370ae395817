"""Record the public API of the real Detectron2: its names and their signatures."""

from __future__ import annotations

import enum
import importlib
import inspect
import pkgutil
from typing import Any, Callable

from .common import GOLDEN

SIGNATURES = GOLDEN / "signatures.json"
PACKAGES = (
    "checkpoint",
    "config",
    "data",
    "engine",
    "evaluation",
    "layers",
    "model_zoo",
    "modeling",
    "solver",
    "structures",
    "utils",
)
PLAIN = (bool, int, float, str, type(None))


def modules() -> list[str]:
    """Return the sorted names of the modules of the running detectron2 that can be imported."""
    names = ["detectron2"]
    for package in PACKAGES:
        top = f"detectron2.{package}"
        found = importlib.import_module(top)
        names += [top] + [m.name for m in pkgutil.walk_packages(found.__path__, top + ".")]
    out = []
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # some modules of the real one have optional dependencies
            print(f"not recorded: {name}: {type(error).__name__}: {error}")
            continue
        out.append(name)
    return sorted(out)


def signature_of(function: Callable) -> list[list]:
    """Return [name, kind, has a default, repr of a plain default] per parameter.

    ``self`` and ``cls`` are left out. For a ``@configurable`` constructor these are the explicit arguments.
    """
    function = inspect.unwrap(getattr(function, "__func__", function))
    out = []
    for i, p in enumerate(inspect.signature(function).parameters.values()):
        if i == 0 and p.name in ("self", "cls"):
            continue
        has = p.default is not inspect.Parameter.empty
        plain = isinstance(p.default, PLAIN) and not isinstance(p.default, enum.Enum)
        out.append([p.name, p.kind.name, has, repr(p.default) if has and plain else None])
    return out


def _ours(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).split(".")[0] == "detectron2"


def describe(thing: Any) -> dict:
    """Return the kind of an object, its signature and, for a class, its public members.

    "bases" are the base classes from other packages.
    """
    if isinstance(thing, type):
        owners = [c for c in thing.__mro__ if _ours(c)]
        members: dict[str, Any] = {}
        for owner in reversed(owners):
            members.update({k: v for k, v in vars(owner).items() if not k.startswith("_") or k == "__init__"})
        methods, attributes = {}, []
        for name, member in sorted(members.items()):
            if callable(getattr(thing, name)) and not isinstance(member, type):
                try:
                    methods[name] = signature_of(getattr(thing, name))
                except (TypeError, ValueError):
                    attributes.append(name)
            else:
                attributes.append(name)
        others = [c for c in thing.__mro__ if not _ours(c) and c.__module__ not in ("builtins", "typing", "abc")]
        bases = [f"{c.__module__}.{c.__qualname__}" for c in others]
        return {"kind": "class", "methods": methods, "attributes": attributes, "bases": bases}
    if inspect.ismodule(thing):
        return {"kind": "module"}
    if callable(thing) and _ours(thing) and hasattr(thing, "__name__"):
        return {"kind": "function", "signature": signature_of(thing)}
    return {"kind": "object", "type": type(thing).__name__}


def public_names(module: str) -> dict[str, Any]:
    """Return the public names of a module and their values, without modules of other packages."""
    found = importlib.import_module(module)
    out = {}
    for name, thing in sorted(vars(found).items()):
        if name.startswith("_"):
            continue
        if inspect.ismodule(thing):
            if thing.__name__.split(".")[0] == "detectron2":
                out[name] = thing
        else:
            out[name] = thing
    return out


def identity(thing: Any, module: str, name: str) -> str:
    """Return the dotted name where an object is defined, or where it was found if that is unknown."""
    if (isinstance(thing, type) or inspect.isfunction(thing)) and _ours(thing):
        return f"{thing.__module__}.{thing.__qualname__}"
    if inspect.ismodule(thing):
        return thing.__name__
    return f"{module}.{name}"


def record() -> dict:
    """Return the record of the running detectron2.

    It is {"exports": {module: {name: identity}}, "things": {identity: description}, "private": {module: [name]}}.
    """
    private: dict[str, list[str]] = {}
    exports: dict[str, dict[str, str]] = {}
    things: dict[str, dict] = {}
    for module in modules():
        exports[module] = {}
        hidden = {n: t for n, t in vars(importlib.import_module(module)).items() if n[0] == "_" and n[:2] != "__"}
        if own_hidden := sorted(n for n, t in hidden.items() if getattr(t, "__module__", None) == module):
            private[module] = own_hidden
        for name, thing in public_names(module).items():
            key = identity(thing, module, name)
            own = key.startswith("detectron2") and (
                inspect.ismodule(thing) or not isinstance(thing, type) or _ours(thing) or module == "detectron2"
            )
            exports[module][name] = key if own else ""
            if own and _ours(thing) and key not in things:
                things[key] = describe(thing)
    return {"exports": exports, "things": things, "private": private}
