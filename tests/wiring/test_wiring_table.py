"""Every setting of `svfap table` has its effect; `svfap methods` has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from observe import Effect, check

from svfap.errors import UserError
from svfap.predict.config import MethodsConfig, TableConfig
from svfap.predict.finish import finish_table
from svfap.predict.table import read_predictions
from svfap.predict.writing import write_table

EFFECTS = {
    "persons": Effect({}, {"persons": "people.csv"}, ("columns", "faces"), ("values",)),
    "smooth_s": Effect({}, {"smooth_s": 1.0}, ("values", "means"), ("columns", "faces")),
    "baseline": Effect({}, {"baseline": "median"}, ("values", "means"), ("columns", "faces")),
    "decimals": Effect({}, {"decimals": 1}, ("values", "means"), ("columns", "faces")),
    "out": Effect({}, {"out": "other.parquet"}, ("files",), ("values", "means")),
    "summary": Effect({}, {"summary": "other.jsonl"}, ("files",), ("values", "means")),
}


def finished(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    folder.mkdir()
    starts = np.arange(8) / 2
    rows = pd.DataFrame({"video": "a.mp4", "track": [1] * 4 + [2] * 4, "start_s": starts, "end_s": starts + 0.5})
    write_table(rows.assign(valence=np.sqrt(starts), confidence=0.9), folder / "given.csv")
    (folder / "people.csv").write_text("video,track,person\na.mp4,1,Anna\na.mp4,2,Anna\n")
    chosen = {"out": "done.csv", "summary": "short.csv", **settings}
    chosen |= {name: folder / chosen[name] for name in ("out", "summary", "persons") if name in chosen}
    finish_table(folder / "given.csv", TableConfig(**chosen))
    table = read_predictions(chosen["out"])
    short = pd.read_json(chosen["summary"], lines=True) if "summary" in settings else pd.read_csv(chosen["summary"])
    return {
        "columns": list(table),
        "values": table["valence"].tolist(),
        "faces": short["face"].tolist(),
        "means": short["valence_mean"].round(9).tolist(),
        "files": sorted(path.name for path in folder.iterdir()),
    }


@pytest.mark.parametrize("name", EFFECTS)
def test_a_setting_of_table_has_its_effect(name, tmp_path):
    effect = EFFECTS[name]
    check(effect, finished(tmp_path / "a", effect.a), finished(tmp_path / "b", effect.b))


def test_overwrite(tmp_path):
    finished(tmp_path / "a", {})
    config = {"out": tmp_path / "a" / "done.csv"}
    with pytest.raises(UserError, match=r"done\.csv"):
        finish_table(tmp_path / "a" / "given.csv", TableConfig(**config))
    assert finish_table(tmp_path / "a" / "given.csv", TableConfig(**config, overwrite=True))[0] == config["out"]


TESTED = {TableConfig: {*EFFECTS, "overwrite"}, MethodsConfig: set()}
