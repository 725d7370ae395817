"""tellapart.model_zoo: names, paths and configs; the files in a wheel and in an editable installation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tellapart import InputError, model_zoo

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").rglob("*.yaml"))


def test_names_are_those_of_the_repository():
    assert model_zoo.list_configs() == [name for name in CONFIGS if "Base-" not in name]
    for name in CONFIGS:
        assert Path(model_zoo.get_config_file(name)).read_text() == (ROOT / "configs" / name).read_text()


@pytest.mark.parametrize("name", model_zoo.list_configs())
def test_config(name):
    cfg = model_zoo.get_config(name)
    assert cfg.MODEL.FCIS.GRID_SIZE >= 1 and cfg.DATASETS.TRAIN


@pytest.mark.parametrize(
    "name, hint",
    [
        ("FCIS/fcis_R50_FPN.yaml", "did you mean FCIS/fcis_R_50_FPN.yaml?"),
        ("xyz", "list_configs() returns all names"),
        ("../README.md", ""),
        (str(ROOT / "configs" / CONFIGS[0]), ""),
    ],
)
def test_unknown_name(name, hint):
    with pytest.raises(InputError) as error:
        model_zoo.get_config_file(name)
    assert f"the model zoo has no config {name}; " in str(error.value) and hint in str(error.value)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the files that the package is built from, because building writes into their folder."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("configs", "projects"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    return folder


def run_pip(*arguments: str, **options) -> None:
    """Run pip so that it needs no network: setuptools comes from this environment."""
    command = [sys.executable, "-m", "pip", *arguments, "--no-deps", "--no-build-isolation", "--no-index"]
    result = subprocess.run(command, text=True, capture_output=True, **options)
    assert result.returncode == 0, result.stdout + result.stderr


def test_wheel_contains_configs_and_commands(source, tmp_path):
    run_pip("wheel", str(source), "--wheel-dir", str(tmp_path))
    (wheel,) = tmp_path.glob("tellapart-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for name in CONFIGS:
            content = archive.read(f"tellapart/model_zoo/configs/{name}").decode()
            assert content == (ROOT / "configs" / name).read_text()
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        assert "tellapart = tellapart_cli:main" in archive.read(entry_points).decode()
    assert {"tellapart/py.typed", "tellapart_cli/train.py", "embedded_detectron2/detectron2/__init__.py"} <= names
    for folder in ("tellapart", "tellapart_cli", "embedded_detectron2"):
        files = [
            path for end in ("*.py", "*.yaml", "*.pth", "*.json") for path in (ROOT / "projects" / folder).rglob(end)
        ]
        assert {path.relative_to(ROOT / "projects").as_posix() for path in files} <= names


def test_editable_installation_finds_the_configs(source, tmp_path):
    """The configs are read from the checkout, through the symbolic link."""
    run_pip("install", "--editable", str(source), "--target", str(tmp_path / "site"))
    script = (
        f"import site; site.addsitedir({str(tmp_path / 'site')!r})\n"
        "import tellapart, tellapart_cli\n"
        "print(tellapart.__file__)\n"
        "print(open(tellapart.model_zoo.get_config_file('FCIS/fcis_R_50_FPN.yaml')).read(), end='')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # -S: without the site-packages of this interpreter, which may have another tellapart.
    paths = [path for path in sys.path if "packages" in path]
    command = [sys.executable, "-S", "-c", f"import sys; sys.path += {paths!r}\n{script}"]
    result = subprocess.run(command, text=True, capture_output=True, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    file, content = result.stdout.split("\n", 1)
    assert Path(file) == source / "projects" / "tellapart" / "__init__.py"
    assert content == (ROOT / "configs" / "FCIS" / "fcis_R_50_FPN.yaml").read_text()
