"""The structure of the package: allowed imports between folders, no circular imports, settings that load without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import svfap

PACKAGE = Path(svfap.__file__).parent
# Modules outside of folders.
LEAVES = {
    "catalogue", "console", "device", "errors", "files", "formats", "head_settings", "metric_table", "paper", "remote",
    "settings", "shipped", "signals", "weighted",
}  # fmt: skip
# Each folder and the folders that it may import, which are listed before it.
MAY_IMPORT = {
    "model": set(),
    "data": set(),
    "jobs": set(),
    "faces": set(),
    "view": set(),
    "datasets": {"data"},
    "synth": {"data", "jobs"},
    "weights": {"model", "data", "datasets"},
    "evaluation": {"model", "weights", "data", "view"},
    "probe": {"model", "weights", "data", "evaluation", "view"},
    "train": {"model", "weights", "data", "evaluation", "probe", "view"},
    "predict": {"model", "weights", "data", "faces", "jobs", "view"},
    "crop": {"data", "faces", "jobs", "predict"},
    "packing": {"data", "jobs"},
    "features": {"model", "weights", "data", "faces", "jobs", "predict"},
    "huggingface": {"model", "weights", "data", "faces", "predict"},
    "export": {"model", "weights", "data", "synth"},
    "bench": {"model", "weights", "data", "synth", "train", "predict", "view"},
    "reports": {"model", "weights", "data", "evaluation", "probe", "view"},
    "sweep": {"model", "weights", "data", "evaluation", "probe", "train", "reports", "view"},
    "experiments": {"model", "weights", "data", "synth", "evaluation", "probe", "train", "predict", "view"},
}
MAY_IMPORT["demo"] = {"evaluation", "probe", "view"}
MAY_IMPORT["serve"] = {"data", "faces", "predict", "view", "weights", "model"}
MAY_IMPORT["cli"] = set(MAY_IMPORT)
MODULES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts): file
    for file in sorted(PACKAGE.rglob("*.py"))
    if file.name != "__init__.py"
}


def imported_modules(file: Path) -> set[str]:
    """Names in `svfap` that a file imports anywhere, except under TYPE_CHECKING."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("svfap.")}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_folders_import_only_allowed_folders(folder):
    before = list(MAY_IMPORT)[: list(MAY_IMPORT).index(folder)]
    assert MAY_IMPORT[folder] <= set(before), f"{folder} may import a folder that is not listed before it"
    files = sorted((PACKAGE / folder).rglob("*.py"))
    assert files
    for file in files:
        parts = {name.split(".")[1] for name in imported_modules(file)}
        beyond = parts - LEAVES - {folder} - MAY_IMPORT[folder]
        assert not beyond, f"{file.relative_to(PACKAGE)} imports {sorted(beyond)}"


def test_every_folder_and_leaf_is_listed():
    folders = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    leaves = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert folders == set(MAY_IMPORT) and leaves == LEAVES
    assert all((PACKAGE / folder / "__init__.py").is_file() for folder in folders)


def test_leaves_import_only_leaves():
    for leaf in LEAVES:
        assert {name.split(".")[1] for name in imported_modules(PACKAGE / f"{leaf}.py")} <= LEAVES


def test_no_circular_imports():
    graph = {name: imported_modules(file) & MODULES.keys() for name, file in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("circular import: " + " <- ".join(error.args[1]))


def test_package_init_files_import_nothing_from_svfap():
    for file in PACKAGE.glob("*/**/__init__.py"):
        assert not imported_modules(file), f"{file.relative_to(PACKAGE)} imports"


def test_settings_of_all_verbs_load_without_heavy_libraries():
    configs = [name for name in MODULES if name.endswith(".config") or name in ("svfap.settings", "svfap.cli.verbs")]
    code = f"import sys, {', '.join(configs)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "cv2", "pandas", "scipy", "sklearn", "matplotlib"} & set(done.stdout.split())
