"""List what nothing in this repository reaches of the embedded Detectron2: candidates for removal.

python tools/unreachable.py [--stand-in projects/embedded_detectron2/detectron2]

Starts from the plug-in, train_net.py, tools/, datasets/, the Python snippets of the READMEs and docs/, and the names in
the config files, and follows names through the stand-in's source. It reads source with ``ast`` and runs none of it.

- A module-level name is reached when reached code refers to it, through any import or alias. Imports and ``__all__``
  alone do not count.
- A method is reached when its class is reached and any reached code uses an attribute of this name, of any object.
  Special methods, and methods that override one of a base class from another package, are reached with their class.
- A class or function that is registered under its name (``@REGISTRY.register()``) is reached when a config file, the
  default config or a string in the Python code has this name. Those that only the default config names are listed too.

Tests are not a starting point: code that only a test calls is unreachable.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "detectron2"
DEFAULTS = f"{PACKAGE}.config.defaults"
# Methods that other packages call on whatever object they are given: fvcore's Checkpointer restores state.
CALLED_FROM_OUTSIDE = {"load_state_dict"}


@dataclass
class Definition:
    """A function, class, method or module-level variable of the stand-in."""

    module: str
    name: str  # "function", "Class" or "Class.method"
    nodes: list[ast.AST]  # the code that may run when this is reached
    lines: int
    registered: bool = False
    methods: dict[str, Definition] = field(default_factory=dict)
    bases: list[ast.expr] = field(default_factory=list)


@dataclass
class Module:
    """A parsed source file: its definitions, its imports, and the statements that importing it runs."""

    name: str
    definitions: dict[str, Definition] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)  # local name -> dotted name
    imports: set[str] = field(default_factory=set)  # dotted names of the modules that it imports
    statements: list[ast.AST] = field(default_factory=list)


def _size(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1


def _is_registered(node: ast.AST) -> bool:
    decorators = (d.func if isinstance(d, ast.Call) else d for d in getattr(node, "decorator_list", ()))
    return any(isinstance(d, ast.Attribute) and d.attr == "register" for d in decorators)


def _class_definition(module: str, node: ast.ClassDef) -> Definition:
    functions = [n for n in node.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    own = [*node.decorator_list, *node.bases, *node.keywords, *(n for n in node.body if n not in functions)]
    definition = Definition(module, node.name, own, _size(node), _is_registered(node), bases=node.bases)
    for function in functions:  # a property's getter and setter share one name
        method = definition.methods.setdefault(function.name, Definition(module, f"{node.name}.{function.name}", [], 0))
        method.nodes.append(function)
        method.lines += _size(function)
    return definition


def parse(name: str, source: str, is_package: bool = False) -> Module:
    """Parse the source of the module ``name``."""
    tree, module = ast.parse(source), Module(name)
    package = name if is_package else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                module.imports.add(alias.name)
                top = alias.name.split(".")[0]
                module.aliases[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            source_name = ".".join(filter(None, (base, node.module)))
            module.imports.add(source_name)
            for alias in node.names:
                module.imports.add(f"{source_name}.{alias.name}")  # it may be a module
                module.aliases[alias.asname or alias.name] = f"{source_name}.{alias.name}"
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            module.definitions[node.name] = _class_definition(name, node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            definition = Definition(name, node.name, [node], _size(node), _is_registered(node))
            module.definitions[node.name] = definition
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
            for target in names:
                if target != "__all__":
                    module.definitions[target] = Definition(name, target, [node], _size(node))
            if not names:
                module.statements.append(node)
        elif not isinstance(node, (ast.Import, ast.ImportFrom)):
            module.statements.append(node)
    return module


def _dotted(node: ast.AST) -> list[str] | None:
    """Return ["a", "b", "c"] for the expression ``a.b.c``, and None for other expressions."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    return [node.id, *reversed(attributes)] if isinstance(node, ast.Name) else None


class Reachability:
    """Follows names from the starting points through the modules of the stand-in."""

    def __init__(self, modules: Iterable[Module], default_names: set[str]) -> None:
        self.modules = {m.name: m for m in modules}
        self.reached: set[tuple[str, str]] = set()
        self.imported: set[str] = set()
        self.attributes: set[str] = set()
        self.strings: set[str] = set()
        self.default_names = default_names
        self._waiting: list[tuple[Module, ast.AST]] = []

    def start(self, module: Module, nodes: Iterable[ast.AST]) -> None:
        """Mark all names that a file outside the stand-in uses."""
        self._import_all(module)
        self._waiting += [(module, node) for node in nodes]

    def follow(self) -> None:
        """Follow references until nothing new is reached."""
        while True:
            while self._waiting:
                module, node = self._waiting.pop()
                self._visit(module, node)
            self._reach_registered()
            self._reach_methods()
            if not self._waiting:
                return

    def _import_all(self, module: Module) -> None:
        for name in module.imports:
            parts = name.split(".")
            for i in range(1, len(parts) + 1):
                self._import(".".join(parts[:i]))

    def _import(self, name: str) -> None:
        module = self.modules.get(name)
        if module is None or name in self.imported:
            return
        self.imported.add(name)
        self._import_all(module)
        self._waiting += [(module, node) for node in module.statements]

    def _visit(self, module: Module, node: ast.AST) -> None:
        for child in ast.walk(node):
            if isinstance(child, ast.Name):
                self._resolve(module, [child.id])
            elif isinstance(child, ast.Attribute):
                chain = _dotted(child)
                if chain is None or not self._resolve(module, chain):
                    self.attributes.add(child.attr)
            elif isinstance(child, ast.Constant) and isinstance(child.value, str):
                if module.name != DEFAULTS:
                    self.strings.add(child.value)
            elif isinstance(child, ast.Call) and getattr(child.func, "id", None) in ("getattr", "hasattr", "setattr"):
                self.attributes.update(str(a.value) for a in child.args[1:2] if isinstance(a, ast.Constant))

    def _resolve(self, module: Module, chain: list[str]) -> bool:
        """Mark the definition of ``chain`` in ``module``, and return whether there is one."""
        head = chain[0]
        if head in module.definitions:
            self._mark(module.definitions[head])
            return len(chain) == 1
        if head not in module.aliases:
            return False
        return self._resolve_dotted([*module.aliases[head].split("."), *chain[1:]])

    def _resolve_dotted(self, parts: list[str]) -> bool:
        for i in range(len(parts) - 1, 0, -1):
            module = self.modules.get(".".join(parts[:i]))
            if module is None:
                continue
            self._import(module.name)
            if module.aliases.get(parts[i]) != ".".join(parts[: i + 1]):  # else it re-exports its own submodule
                return self._resolve(module, parts[i:])
        return False

    def _mark(self, definition: Definition) -> None:
        key = (definition.module, definition.name)
        if key not in self.reached:
            self.reached.add(key)
            self._import(definition.module)
            module = self.modules.get(definition.module)
            self._waiting += [(module, node) for node in definition.nodes if module]

    def _reach_registered(self) -> None:
        names = self.strings | self.default_names
        for name in self.imported:
            for definition in self.modules[name].definitions.values():
                if definition.registered and definition.name in names:
                    self._mark(definition)

    def _reach_methods(self) -> None:
        for definition in self.definitions():
            if (definition.module, definition.name) not in self.reached:
                continue
            for name, method in definition.methods.items():
                special = name.startswith("__") and name.endswith("__")
                if special or name in self.attributes | CALLED_FROM_OUTSIDE or self._overrides(definition, name):
                    self._mark(method)

    def _overrides(self, definition: Definition, method: str) -> bool:
        """Return whether a base class from another package has this method, or is unknown."""
        module = self.modules[definition.module]
        for base in definition.bases:
            chain = _dotted(base)
            if chain is None:
                return True
            if chain[0] in module.definitions:
                if self._overrides(module.definitions[chain[0]], method):
                    return True
                continue
            dotted = ".".join([module.aliases.get(chain[0], f"builtins.{chain[0]}"), *chain[1:]])
            if dotted.split(".")[0] == PACKAGE:
                owner, _, name = dotted.rpartition(".")
                owner_module = self.modules.get(owner)
                while owner_module and name not in owner_module.definitions and name in owner_module.aliases:
                    owner, _, name = owner_module.aliases[name].rpartition(".")  # a re-export
                    owner_module = self.modules.get(owner)
                if owner_module and name in owner_module.definitions:
                    if self._overrides(owner_module.definitions[name], method):
                        return True
                    continue
            if _external_has(dotted, method):
                return True
        return False

    def definitions(self) -> Iterator[Definition]:
        """Yield all module-level definitions of the stand-in."""
        for module in self.modules.values():
            yield from module.definitions.values()

    def unreached(self) -> list[Definition]:
        """Return the definitions that nothing reaches, without the methods of unreached classes."""
        missing = []
        for definition in self.definitions():
            if (definition.module, definition.name) not in self.reached:
                missing.append(definition)
            else:
                missing += [m for m in definition.methods.values() if (m.module, m.name) not in self.reached]
        return sorted(missing, key=lambda d: (d.module, d.nodes[0].lineno if d.nodes else 0))

    def only_by_default(self) -> list[Definition]:
        """Return the registered definitions that only the default config names."""
        return [d for d in self.definitions() if d.registered and d.name in self.default_names - self.strings]


def _external_has(dotted: str, method: str) -> bool:
    """Return whether a class of another package has this method, or True if it cannot be imported."""
    owner, _, name = dotted.rpartition(".")
    try:
        return hasattr(getattr(importlib.import_module(owner), name), method)
    except (ImportError, AttributeError, ValueError):
        return True


def read_package(folder: Path) -> list[Module]:
    """Parse all modules of the package in ``folder``."""
    modules = []
    for path in sorted(folder.rglob("*.py")):
        parts = [folder.name, *path.relative_to(folder).with_suffix("").parts]
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        modules.append(parse(name, path.read_text(encoding="utf-8"), is_package))
    return modules


def snippets(markdown: str) -> list[str]:
    """Return the Python code blocks of a Markdown text."""
    return re.findall(r"^```python\n(.*?)^```", markdown, re.DOTALL | re.MULTILINE)


def analyze(stand_in: Path, sources: Iterable[str], config_texts: Iterable[str]) -> Reachability:
    """Follow names through a package.

    Args:
        stand_in: folder of the package.
        sources: Python code that uses the package.
        config_texts: YAML with names of registered classes and functions.

    Raises:
        SyntaxError: a source is not valid Python.
    """
    modules = read_package(stand_in)
    defaults = [d for m in modules if m.name == DEFAULTS for d in m.definitions.values()]
    constants = (n for d in defaults for node in d.nodes for n in ast.walk(node) if isinstance(n, ast.Constant))
    result = Reachability(modules, {c.value for c in constants if isinstance(c.value, str)})
    for text in config_texts:
        result.strings.update(re.findall(r"\w+", text))
    for i, source in enumerate(sources):
        result.start(parse(f"source_{i}", source), [ast.parse(source)])
    result.follow()
    return result


def repository_sources() -> Iterator[str]:
    """Yield the Python code of this repository that may use the stand-in, without the tests."""
    files = [ROOT / "train_net.py", ROOT / "demo.py"]
    for folder in ("projects/tellapart", "tools", "datasets"):
        files += sorted((ROOT / folder).rglob("*.py"))
    for path in files:
        if path.is_file():
            yield path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *(ROOT / "projects").rglob("README.md")]:
        yield from snippets(path.read_text(encoding="utf-8"))


def main() -> None:
    """Print the unreached definitions per module, with the number of source lines of each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = ROOT / "projects" / "embedded_detectron2" / PACKAGE
    parser.add_argument("--stand-in", type=Path, default=default, help="folder of the package (default: %(default)s)")
    folder = parser.parse_args().stand_in
    configs = (p.read_text(encoding="utf-8") for p in sorted((ROOT / "configs").rglob("*.yaml")))
    result = analyze(folder, repository_sources(), configs)
    missing, module = result.unreached(), None
    for definition in missing:
        if definition.module != module:
            module = definition.module
            print(module + ("" if module in result.imported else "  (nothing imports this module)"))
        print(f"    {definition.name:52} {definition.lines:4} lines")
    print(f"{len(missing)} definitions, {sum(d.lines for d in missing)} source lines")
    if by_default := result.only_by_default():
        print("Only the default config names: " + ", ".join(d.name for d in by_default))


if __name__ == "__main__":
    main()
