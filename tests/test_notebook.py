"""docs/tour.ipynb is a valid notebook without outputs, and its cells run in order with the described results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "tour.ipynb"


@pytest.fixture(scope="module")
def notebook() -> dict[str, Any]:
    return json.loads(NOTEBOOK.read_text())


def test_notebook_is_valid_and_has_no_outputs(notebook):
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["language_info"]["name"] == "python"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
        assert cell["cell_type"] in ("markdown", "code")
        assert isinstance(cell["metadata"], dict)
        assert cell["source"] and all(isinstance(line, str) for line in cell["source"])
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        common = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            assert set(cell) == common | {"outputs", "execution_count"}
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
        else:
            assert set(cell) == common
            for target in re.findall(r"\]\(([^)#:]+)\)", "".join(cell["source"])):
                assert (NOTEBOOK.parent / target).exists()


def test_cells_run(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"tour.ipynb, cell {cell['id']}", "exec"), names)
    assert names["features"].shape == (2, 32)
    probabilities = ["prob_happy", "prob_sad", "prob_angry"]
    assert list(names["whole_picture"]) == ["start_s", "end_s", *probabilities]
    table = names["table"]
    assert len(table) > 2
    assert set(table["track"]) == {1}
    assert table[probabilities].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-3)
    assert len(names["crops"]) == 40
    assert {crop.shape for crop in names["crops"]} == {(112, 112, 3)}
    assert [len(feature) for feature in names["vectors"]["feature"]] == [32, 32]
    assert names["result"].loss > 0
    for picture in ("timeline.png", "reconstruction.png"):
        with Image.open(tmp_path / picture) as image:
            assert min(image.size) > 100
            assert len(image.convert("L").getcolors()) > 50
    clips = names["clips"]
    assert isinstance(clips, pd.DataFrame)
    assert len(clips) == 2
    assert all((tmp_path / "faces" / path).exists() for path in clips["path"])
