"""The files of the package that are not Python: they are valid and they are installed with it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import svfap

PACKAGE = Path(svfap.__file__).parent
PROJECT = PACKAGE.parents[1]
FILES = sorted(
    path
    for path in PACKAGE.rglob("*")
    if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts
)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: JavaScript is not checked")
@pytest.mark.parametrize("script", [path for path in FILES if path.suffix == ".js"], ids=lambda path: path.name)
def test_scripts_are_valid_javascript(script):
    done = subprocess.run(["node", "--check", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not (PROJECT / "pyproject.toml").is_file(), reason="not in a checkout")
@pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="setuptools builds the wheel")
def test_a_wheel_holds_every_file(tmp_path):
    names = {path.relative_to(PACKAGE.parent).as_posix() for path in FILES}
    assert {"svfap/py.typed", "svfap/view/base.html", "svfap/predict/page.js"} <= names
    checkout = tmp_path / "checkout"
    shutil.copytree(PACKAGE, checkout / "src/svfap", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, checkout)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", build, tmp_path], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert names <= set(zipfile.ZipFile(wheel).namelist())
