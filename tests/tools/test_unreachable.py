"""tools/unreachable.py on a small package, and tools/count_code.py."""

import runpy
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"

FILES = {
    "__init__.py": "",
    "config/__init__.py": "",
    "config/defaults.py": "_C = {'NAME': 'ByDefault'}\n",
    "utils.py": (
        "import functools\n\n"
        "def used(): return _helper()\n\n"
        "def _helper(): return LIMIT\n\n"
        "LIMIT = 3\n\n"
        "UNUSED_LIMIT = 4\n\n"
        "def unused(): return used()\n"
    ),
    "heads/__init__.py": "from .parts import Head, Other\n\n__all__ = ['Head', 'Other']\n",
    "heads/parts.py": (
        "import collections\nfrom ..utils import used as alias\n\n"
        "class Registry:\n    def register(self): return lambda c: c\n\n"
        "HEADS = Registry()\n\n"
        "class Base:\n    def run(self): pass\n\n    def stop(self): pass\n\n"
        "class Head(Base, collections.UserDict):\n"
        "    def __init__(self): self.x = alias()\n\n"
        "    def run(self): pass\n\n    def stop(self): pass\n\n    def keys(self): return []\n\n"
        "class Other(Base): pass\n\n"
        "@HEADS.register()\nclass InConfig: pass\n\n"
        "@HEADS.register()\nclass ByDefault: pass\n\n"
        "@HEADS.register()\nclass Nowhere: pass\n"
    ),
    "alone.py": "def f(): pass\n",
}


@pytest.fixture
def package(tmp_path):
    """The package of FILES, called detectron2."""
    for name, text in FILES.items():
        path = tmp_path / "detectron2" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "detectron2"


def test_unreached_names(package):
    tool = runpy.run_path(str(TOOLS / "unreachable.py"))
    source = "from detectron2 import heads\nimport detectron2.config\n\ndef go(h):\n    heads.Head().run()\n"
    result = tool["analyze"](package, [source], ["MODEL:\n  NAME: InConfig\n"])
    assert [f"{d.module}.{d.name}" for d in result.unreached()] == [
        "detectron2.alone.f",
        "detectron2.config.defaults._C",
        "detectron2.heads.parts.Base.stop",
        "detectron2.heads.parts.Head.stop",
        "detectron2.heads.parts.Other",
        "detectron2.heads.parts.Nowhere",
        "detectron2.utils.UNUSED_LIMIT",
        "detectron2.utils.unused",
    ]
    assert [d.name for d in result.only_by_default()] == ["ByDefault"]
    assert "detectron2.alone" not in result.imported


def test_readme_snippets_are_sources():
    tool = runpy.run_path(str(TOOLS / "unreachable.py"))
    assert tool["snippets"]("a\n```python\nimport x\n```\n```yaml\na: 1\n```\n") == ["import x\n"]
    assert len(list(tool["repository_sources"]())) > 20


def test_nothing_is_left_that_nothing_reaches(run_tool):
    """The embedded Detectron2 holds what this repository uses, and little else."""
    rows = [line for line in run_tool("unreachable.py").splitlines() if line.endswith(" lines")]
    assert len(rows) < 20, rows


def test_code_lines(tmp_path, run_tool):
    source = '''"""Doc
string."""

# comment
x = """text

more"""


def f():
    """Doc."""
    return 1  # why
'''
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "one.py").write_text(source)
    (tmp_path / "two.py").write_text("x = 1\n")
    assert runpy.run_path(str(TOOLS / "count_code.py"))["code_lines"](source) == 5
    rows = [line.split() for line in run_tool("count_code.py", str(tmp_path)).splitlines()]
    assert rows == [["1", str(tmp_path)], ["5", f"{tmp_path}/a"], ["6", "total"]]
