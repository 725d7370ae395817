"""The documentation: Python snippets run as they stand, and the files and configs that it names exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPETS = [
    pytest.param(code, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, code in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S))
]


@pytest.mark.parametrize("code", SNIPPETS)
def test_python_snippet_runs(code, tmp_path):
    """In a folder outside the repository, without a GPU."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT / "projects")}
    command = [sys.executable, "-W", "ignore", "-c", code]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_named_files_exist(page):
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    paths = re.findall(r"\b((?:configs|tools|datasets|projects)/[\w/.-]+\.(?:yaml|py))", text)
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert not missing


def test_every_config_is_listed():
    """docs/configs.md names every config file, with {a,b} for alternatives and * for all files of a folder."""
    named: set[str] = set()
    for cell in re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "configs.md").read_text(), re.M):
        folder = ""
        for name in re.findall(r"`([^`]+)`", cell):
            folder = name.rpartition("/")[0] or folder
            options = re.search(r"\{(.*?)\}", name)
            for option in options[1].split(",") if options else [""]:
                pattern = re.sub(r"\{.*?\}", option, name.rpartition("/")[2])
                found = {path.stem for path in (ROOT / "configs" / folder).glob(f"{pattern}.yaml")}
                assert found, f"{folder}/{pattern} is listed but does not exist"
                named |= found
    configs = {path.stem for path in (ROOT / "configs").rglob("*.yaml") if not path.name.startswith("Base-")}
    assert configs - named == set()
