"""The shape of the package: who may import whom."""

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
    "device",
    "metric_table",
    "paper",
    "settings",
}  # modules of no folder: anybody may use them
MAY_IMPORT = {
    "model": set(),
    "weights": {"model", "data", "datasets"},
    "data": set(),
    "datasets": {"data"},
    "synth": {"data", "jobs"},
    "jobs": set(),
    "faces": set(),
    "view": set(),
    "evaluation": {"model", "weights", "data", "view"},
    "train": {"model", "weights", "data", "evaluation", "view"},
    "crop": {"data", "faces", "jobs", "predict"},
    "predict": {"model", "weights", "data", "faces", "view"},
    "features": {"model", "weights", "data", "jobs", "predict"},
    "reports": {"model", "weights", "data", "evaluation", "train", "view"},
    "experiments": {"model", "weights", "data", "synth", "evaluation", "train", "predict", "view"},
}
MAY_IMPORT["cli"] = set(MAY_IMPORT)


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
