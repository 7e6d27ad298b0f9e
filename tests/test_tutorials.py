"""The tutorials are valid notebooks, their stored outputs are those of their code, and their cells run in order.

Running them is slow; the quick tests check that what their cells import, look up and call is there and takes these arguments.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from matplotlib import pyplot

import svfap

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "tutorials"
MAX_BYTES = 300_000
# Sizes that replace those of the cell tagged `parameters`: the cells are run, the numbers mean nothing. Cells tagged `slow` are
# run with the full sizes only.
QUICK: dict[str, dict[str, Any]] = {
    "1_own_data": {"people": 8, "epochs": 1},
    "2_features_to_scikit_learn": {"people": 5},
    "3_a_papers_fold": {"subjects": [1, 2, 10, 11, 19, 20, 28, 29, 37, 38], "epochs": 1},
    "4_frozen_encoder": {"people": 4, "tested": 3, "epochs": 1, "attentive_epochs": 1, "trainables": ("head", "lora")},
    "5_reading_a_report": {"people": 4, "tested": 4, "epochs": 1},
}

sys.path.insert(0, str(ROOT / "docs" / "make"))


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def test_all_tutorials_are_tested():
    assert sorted(QUICK) == sorted(file.stem for file in FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("name", QUICK)
def test_is_valid_and_its_outputs_are_those_of_its_code(name):
    from tutorials import source_digest

    notebook = read(name)
    nbformat.validate(notebook)
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    assert len(text) < MAX_BYTES
    assert str(ROOT) not in text and tempfile.gettempdir() not in text  # nothing of the machine that ran it
    assert notebook.metadata["svfap"]["outputs_of"] == source_digest(notebook), "run docs/make/tutorials.py"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1


def imported(tree: ast.Module) -> dict[str, Any]:
    """What each name that a tutorial imports stands for. Raises where there is no such module or no such name in it."""
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                module = importlib.import_module(alias.name)
                names[alias.asname or alias.name.split(".")[0]] = (
                    module if alias.asname else sys.modules[alias.name.split(".")[0]]
                )
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            names |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
    return names


def looked_up(node: ast.expr, names: dict[str, Any]) -> Any:
    """The object of an expression such as `svfap.faces.Face` that starts at an imported name; None for any other."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = looked_up(node.value, names)
        return getattr(owner, node.attr) if inspect.ismodule(owner) or inspect.isclass(owner) else None
    return None


@pytest.mark.parametrize("name", QUICK)
def test_cells_name_and_call_what_exists(name):
    code = [cell.source for cell in read(name).cells if cell.cell_type == "code"]
    tree = ast.parse("\n".join(code))
    names = imported(tree)
    ours = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            looked_up(node, names)
        function = looked_up(node.func, names) if isinstance(node, ast.Call) else None
        if not (getattr(function, "__module__", None) or "").startswith("svfap"):
            continue
        ours.add(function.__name__)
        if not any(isinstance(value, ast.Starred) for value in node.args) and all(word.arg for word in node.keywords):
            inspect.signature(function).bind(*node.args, **{word.arg: word.value for word in node.keywords})
    assert len(ours) >= 3, "the calls of the library were found"
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert set(QUICK[name]) <= stored, "the sizes that replace its own have their names"


def run(name: str, sizes: dict[str, Any] | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that a tutorial has at its end. sizes: replace those of its cell of parameters, by their names; None: full."""
    monkeypatch.chdir(FOLDER)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(pyplot, "show", lambda: pyplot.close("all"))
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(read(name).cells):
        tags = cell.metadata.get("tags", [])
        if cell.cell_type != "code" or (sizes is not None and "slow" in tags):
            continue
        exec(compile(cell.source, f"{name}.ipynb, cell {number}", "exec"), names)
        if "parameters" in tags and sizes is not None:
            assert set(sizes) <= set(names)
            names |= sizes
    return names


def check(name: str, names: dict[str, Any]) -> None:
    """What a tutorial shows at the end."""
    if name == "1_own_data":
        assert names["scored"].metrics["num_evaluated"] == len(names["parts"]["test"])
        probabilities = names["predicted"].table.filter(like="prob_")
        assert probabilities.shape[1] == 7
        assert probabilities.sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-3)
    elif name == "2_features_to_scikit_learn":
        assert list(names["rows"].index) == ["chance", "pixels", "untrained encoder", "pre-trained encoder"]
        assert names["rows"].loc["chance", "UAR"] < 30
        assert len(names["faces"]) >= 1 and "track" in names["faces"]
    elif name == "3_a_papers_fold":
        assert len(names["pretrained"].pooled.numbers["folds"]) == 5
        if "compared" in names:  # in a cell that is slow
            better = names["compared"].rows[1].differences["uar"]
            assert better.low > 0
    elif name == "4_frozen_encoder":
        trained = names["table"]["trained parameters"]
        assert list(trained.index) == list(names["trainables"])
        assert trained["head"] < trained["lora"] < sum(p.numel() for p in svfap.load_model("runs/lora").parameters())
    elif name == "5_reading_a_report":
        assert names["evaluated"].metrics["seen_in_training"]["run"]["trained"] == len(names["train"]) // 2
        assert "seen_in_training" not in names["mended"].metrics
        assert isinstance(names["table"]("Expected calibration error"), pd.DataFrame)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_cells_run(name, tmp_path, monkeypatch):
    check(name, run(name, QUICK[name], tmp_path, monkeypatch))


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_cells_run_with_the_sizes_that_stand_there(name, tmp_path, monkeypatch):
    check(name, run(name, None, tmp_path, monkeypatch))
