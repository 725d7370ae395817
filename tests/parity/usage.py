"""Find the names of ``detectron2`` that a Python file uses: its imports and their attributes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SKIPPED_FOLDERS = {".venv", ".git", "output", "build", "dist", "embedded_detectron2", "__pycache__"}


def python_files(root: Path) -> Iterator[Path]:
    """Yield every .py file of the repository, without the embedded Detectron2 and generated folders."""
    for path in sorted(root.rglob("*.py")):
        if not SKIPPED_FOLDERS & set(path.relative_to(root).parts):
            yield path


def used_names(source: str, file: str = "<string>") -> dict[str, int]:
    """Return the used names of detectron2: {dotted name: line of its first use}.

    A name is for example "detectron2.utils.comm.get_rank".
    Imports under any alias are followed, and attributes of what they import (``BoxMode.XYXY_ABS``). If the file also
    assigns to an imported name, only the import is returned.
    """
    tree = ast.parse(source, file)
    bound: dict[str, str] = {}
    used: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "detectron2":
                    used.setdefault(alias.name, node.lineno)
                    if alias.asname:
                        bound[alias.asname] = alias.name
                    else:
                        bound["detectron2"] = "detectron2"
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "detectron2":
            for alias in node.names:
                used.setdefault(f"{node.module}.{alias.name}", node.lineno)
                bound[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    rebound = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, (ast.Store, ast.Del))}
    rebound |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    for node in ast.walk(tree):
        chain, inner = [], node
        while isinstance(inner, ast.Attribute):
            chain.append(inner.attr)
            inner = inner.value
        if chain and isinstance(inner, ast.Name) and inner.id in bound and inner.id not in rebound:
            used.setdefault(".".join([bound[inner.id], *reversed(chain)]), node.lineno)
    return used
