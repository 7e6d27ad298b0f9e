"""Every setting of `svfap runs` and `svfap sweep` has its effect."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml
from made_runs import write_training

from svfap.reports.config import RunsConfig
from svfap.reports.listing import list_runs
from svfap.sweep import sweep as module
from svfap.sweep.config import SweepConfig
from svfap.sweep.sweep import run_sweep

TESTED = {RunsConfig: {"sort", "out"}, SweepConfig: {"out", "parallel"}}


def test_sort_and_out_of_runs(tmp_path):
    write_training(tmp_path / "runs" / "a", (0.25, 0.5))
    write_training(tmp_path / "runs" / "b", (0.75,))
    assert list_runs(tmp_path / "runs")["run"].tolist() == ["a", "b"]
    for by, first in (("validation", "b"), ("time", "a"), ("loss", "a")):
        table = list_runs(tmp_path / "runs", RunsConfig(sort=by, out=tmp_path / f"{by}.csv"))
        assert table["run"][0] == first == pd.read_csv(tmp_path / f"{by}.csv")["run"][0]


def test_out_and_parallel_of_sweep(faces, tmp_path, monkeypatch):
    file, asked = Path(tmp_path / "sweep.yaml"), []
    settings = {"dataset": str(faces), "preset": "svfap_debug", "sampling_stride": 1}
    file.write_text(yaml.safe_dump({"settings": settings, "choices": {"smoothing": [0.0, 0.1]}}))

    def noting(run, configs, parallel):
        asked.append((parallel, [config.out.parent for config in configs]))
        for config in configs:
            write_training(config.out, (0.5,))
        return 0

    monkeypatch.setattr(module, "run_all", noting)
    for number in (1, 2):
        run_sweep(file, SweepConfig(out=tmp_path / str(number), parallel=number))
        assert (tmp_path / str(number) / "best.yaml").is_file()
    assert asked == [(1, [tmp_path / "1"] * 2), (2, [tmp_path / "2"] * 2)]
