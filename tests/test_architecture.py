"""The shape of the package: who may import whom, and that the public names exist."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import svfap

PACKAGE = Path(svfap.__file__).parent
LEAVES = {
    "errors",
    "console",
    "files",
    "formats",
    "config",
    "device",
    "paper",
}  # modules without a layer: anybody may use them
MAY_IMPORT = {
    "model": set(),
    "weights": {"model"},
    "data": set(),
    "faces": set(),
    "bulk": set(),
    "evaluate": {"model", "weights", "data"},
    "train": {"model", "weights", "data", "evaluate"},
    "inference": {"model", "weights", "data", "faces", "bulk"},
    "report": {"model", "weights", "data", "faces", "evaluate", "train", "inference"},
    "experiments": {"model", "weights", "data", "evaluate", "train", "inference", "report"},
    "cli": {"model", "weights", "data", "faces", "bulk", "evaluate", "train", "inference", "report", "experiments"},
}


def imports(file: Path) -> set[str]:
    """Parts of svfap that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [node.module or ""]
        found |= {name.split(".")[1] for name in names if name.startswith("svfap.")}
    return found


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_point_one_way(part):
    files = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").exists() else sorted((PACKAGE / part).rglob("*.py"))
    assert files
    for file in files:
        beyond = imports(file) - LEAVES - {part} - MAY_IMPORT[part]
        assert not beyond, f"{file.relative_to(PACKAGE)} imports {sorted(beyond)}"


def test_leaves_import_nothing_but_leaves():
    for leaf in LEAVES:
        assert imports(PACKAGE / f"{leaf}.py") <= LEAVES


def test_public_names_exist():
    for name in svfap.__all__:
        assert getattr(svfap, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        svfap.nonsense  # noqa: B018
