"""`svfap runs`: every kind and state of run, the settings that differ, broken folders, and the table's files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from made_runs import write_training

from svfap.cli.main import main
from svfap.errors import UserError
from svfap.files import only_writer
from svfap.reports.listing import list_runs, runs_in_words


@pytest.fixture
def runs(tmp_path) -> Path:
    folder = tmp_path / "runs"
    write_training(folder / "a", (0.25, 0.5, 0.375), test=0.4375)
    write_training(folder / "b2", (0.5,), base_lr=0.01, finished=False, epochs=4, model={"num_frames": 8})
    write_training(folder / "b10", (), finished=False)
    (folder / "b10" / "failed.txt").write_text("training has diverged: the loss is nan\n")
    write_training(
        folder / "deep" / "pretrain", (0.125, 0.25), kind="pretrain", dataset="prepared/faces", manifest=None
    )
    write_training(folder / "frames", (0.5,), key="frame_ccc")
    for name, content in (
        ("folds.json", {"dataset": "prepared/dfew"}),
        ("results.json", {"pooled": {"uar": 0.5}, "dataset": "dfew"}),
    ):
        (folder / "folds").mkdir(exist_ok=True)
        (folder / "folds" / name).write_text(json.dumps(content))
    probe = [
        {"encoder": encoder, "score": "uar", "value": value}
        for encoder, value in (("trained", 0.25), ("trained", 0.5), ("untrained", 0.75))
    ]
    (folder / "deep" / "pretrain" / "probe").mkdir()
    (folder / "deep" / "pretrain" / "probe" / "probe.json").write_text(json.dumps({"data": "CREMA-D", "scores": probe}))
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "metrics.json").write_text(json.dumps({"ccc": 0.75, "manifest": "/x/other.csv"}))
    (folder / "elsewhere" / "predictions.csv").write_text("path\n")
    return folder


def by_name(folder: Path) -> dict[str, dict]:
    return {row["run"]: row for row in list_runs(folder).to_dict("records")}


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"manifest": ["/x/faces/a.csv", "faces/b.csv"]}, "faces/a.csv, faces/b.csv"),
        ({"manifest": ["faces/a.csv:2", "faces/b.csv:1"]}, "faces/a.csv:2, faces/b.csv:1"),
        ({"dataset": ["prepared/dfew", "prepared/mafw"], "fold": "2"}, "dfew, mafw, fold 2"),
    ],
)
def test_each_of_several_manifests_or_datasets_is_named(settings, shown, tmp_path):
    write_training(tmp_path / "joined", (0.5,), **settings)
    assert by_name(tmp_path)["joined"]["data"] == shown


def test_every_kind_with_its_state_and_scores(runs):
    rows = by_name(runs)
    assert {name: (row["kind"], row["state"]) for name, row in rows.items()} == {
        "a": ("fine-tuning", "finished"), "b2": ("fine-tuning", "interrupted"), "b10": ("fine-tuning", "failed"),
        "deep/pretrain": ("pre-training", "finished"), "deep/pretrain/probe": ("probe", "finished"),
        "frames": ("fine-tuning", "finished"), "folds": ("folds", "finished"), "elsewhere": ("evaluation", "finished"),
    }  # fmt: skip
    a = rows["a"]
    assert (a["validation_metric"], a["validation"], a["best_epoch"], a["epochs_done"], a["epochs"]) == (
        "uar",
        0.5,
        2,
        3,
        3,
    )
    assert (a["test_metric"], a["test"], a["loss"], a["seconds"]) == ("uar", 0.4375, 0.5, 30.0)
    assert rows["b10"]["reason"] == "training has diverged: the loss is nan"
    assert (rows["deep/pretrain"]["validation_metric"], rows["deep/pretrain"]["validation"]) == ("probe_uar", 0.25)
    assert rows["deep/pretrain/probe"]["test"] == 0.5  # of the trained encoder
    assert rows["frames"]["validation_metric"] == "frame_ccc"
    assert (rows["folds"]["test"], rows["folds"]["data"]) == (0.5, "dfew")
    assert (rows["elsewhere"]["test_metric"], rows["elsewhere"]["data"]) == ("ccc", "other.csv")


def test_settings_that_differ_have_a_column(runs):
    table = list_runs(runs)
    assert {"base_lr", "model.num_frames"} <= set(table.columns) and "epochs" in table.columns
    shown = runs_in_words(table).set_index("run")
    assert shown.loc["b2", "settings that differ"] == "base_lr=0.01, model.num_frames=8"
    assert shown.loc["a", "settings that differ"] == "base_lr=0.001"
    assert shown.loc["deep/pretrain", "settings that differ"] == ""  # which fine-tunings do
    assert shown.loc["a", ["epochs", "validation", "test", "time"]].tolist() == [
        "3/3",
        "UAR 50.00",
        "UAR 43.75",
        "30 s",
    ]
    assert shown.loc["frames", "validation"] == "frames: CCC 0.5000"


def test_a_setting_that_is_newer_than_a_run_is_no_difference(runs):
    write_training(runs / "new", (0.5,), brand_new=8)
    assert "brand_new" not in list_runs(runs)
    write_training(runs / "newer", (0.5,), brand_new=9)
    assert "brand_new" in list_runs(runs)


def test_a_run_that_a_process_writes_is_running(runs):
    with only_writer(runs / "b2"):
        assert by_name(runs)["b2"]["state"] == "running"
    assert by_name(runs)["b2"]["state"] == "interrupted"


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config.yaml", "a: [", "config.yaml: cannot be read as YAML"),
        ("config.yaml", "seed: 1\n", "epochs"),
        ("config.yaml", None, "config.yaml: no such file"),
        ("metrics.json", "{", "metrics.json: cannot be read as JSON"),
        ("metrics.json", "[]", "metrics.json: holds a list"),
        ("log.jsonl", "no\n{}\n", "log.jsonl: line 1 is not JSON"),
        ("log.jsonl", "{}\n", "log.jsonl: line 1 is no record"),
        ("evaluation/metrics.json", "{", "cannot be read as JSON"),
    ],
)
def test_a_broken_folder_is_a_row_and_the_others_are_listed(runs, file, content, reason, capsys):
    (runs / "a" / file).unlink()
    if content is not None:
        (runs / "a" / file).write_text(content)
    rows = by_name(runs)
    assert rows["a"]["state"] == "broken" and reason in rows["a"]["reason"] and rows["frames"]["state"] == "finished"
    assert rows["a"]["reason"].endswith(". Put that file back from a copy, or delete the folder of the run")
    shown = runs_in_words(list_runs(runs)).set_index("run")
    assert shown.loc["a", "epochs"] in ("", "?/3", "3/3")
    assert (rows["a"]["epochs_done"] is None) == (shown.loc["a", "epochs"] in ("", "?/3"))
    assert main(["runs", str(runs)]) == 0
    assert "a cannot be read: " in capsys.readouterr().err


def test_an_incomplete_last_line_is_of_a_run_that_was_killed(runs):
    with (runs / "b2" / "log.jsonl").open("a") as file:
        file.write('{"kind": "tr')
    assert by_name(runs)["b2"]["state"] == "interrupted"


def test_folders_without_runs_and_none(tmp_path):
    with pytest.raises(UserError, match="holds no run; those of pretrain, finetune"):
        list_runs(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        list_runs(tmp_path / "none")


def test_the_command_fits_its_table_to_the_terminal(runs, capsys, monkeypatch):
    for name in ("a", "b2"):
        os.utime(runs / name / "log.jsonl", (0, 0))
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["runs", str(runs)]) == 0
    printed = capsys.readouterr()
    assert "differ" in printed.out and "updated" not in printed.out
    assert "no room for updated" in printed.err and max(map(len, printed.out.splitlines())) <= 100
    monkeypatch.setenv("COLUMNS", "250")
    assert main(["runs", str(runs)]) == 0
    printed = capsys.readouterr()
    assert "updated" in printed.out and "no room" not in printed.err


def test_the_files_have_numbers(runs, tmp_path):
    assert main(["runs", str(runs), "--out", str(tmp_path / "t.json"), "--sort", "validation"]) == 0
    rows = json.loads((tmp_path / "t.json").read_text())
    assert rows[0]["validation"] == 0.5 and rows[-1]["validation"] is None and rows[0]["epochs"] in (1, 3, 4)
    assert main(["runs", str(runs), "--out", str(tmp_path / "t.csv")]) == 0
    assert pd.read_csv(tmp_path / "t.csv")["run"].tolist()[:3] == ["a", "b2", "b10"]
