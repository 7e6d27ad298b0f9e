"""Groups of videos, such as all clips of a subject's task, scored once by their mean."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score

import svfap
from svfap.cli.main import main
from svfap.data.manifest import read_manifest
from svfap.errors import UserError
from svfap.evaluation import evaluate as svfap_evaluate
from svfap.evaluation.config import EvaluateConfig
from svfap.evaluation.metrics import average_groups
from svfap.train.config import FinetuneConfig
from svfap.train.finetune import finetune

QUICK = dict(preset="svfap_debug", sampling_stride=1, warmup_epochs=0.5, precision="fp32", num_workers=0)


def evaluate(model, manifest: Path | None, out: Path, **settings) -> dict:
    """Metrics of an evaluation."""
    return svfap_evaluate.evaluate(EvaluateConfig(model=str(model), manifest=manifest, out=out, **settings)).metrics


def model(folder: Path, task: str, names: tuple[str, ...]) -> Path:
    torch.manual_seed(0)
    made = svfap.create_model(
        "svfap_debug", task, label_names=names, num_outputs=len(names), sampling_stride=1, img_size=32
    )
    for parameter in made.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    made.save_pretrained(folder)
    return folder


@pytest.fixture
def grouped(faces, tmp_path) -> Path:
    """Six groups of two, of one class each, one of three, and of one video without a group; 15 videos in all."""
    table = pd.concat([pd.read_csv(faces / "test.csv"), pd.read_csv(faces / "val.csv").iloc[:1]], ignore_index=True)
    table["path"] = [str(faces / path) for path in table["path"]]
    table["group"] = [f"task {label}" for label in table["label"]]
    table.loc[0, "group"] = ""
    table.to_csv(tmp_path / "groups.csv", index=False)
    return tmp_path / "groups.csv"


def test_averages_by_hand():
    names, outputs, labels = average_groups(list("baab"), [[1.0, 0], [0.2, 0.8], [0.4, 0.6], [0, 1]], [1, 0, 0, 1])
    assert names == ["b", "a"]
    np.testing.assert_allclose(outputs, [[0.5, 0.5], [0.3, 0.7]])
    assert labels.tolist() == [1, 0]
    _, _, values = average_groups(list("bab"), np.zeros((3, 1)), [[1.0], [2.0], [4.0]])
    assert values.tolist() == [[2.5], [2.0]]
    with pytest.raises(UserError, match="group 'b': its videos have several labels"):
        average_groups(list("bab"), np.zeros((3, 1)), [1, 0, 0])


def test_groups_are_scored_once(grouped, tmp_path):
    table = pd.read_csv(grouped, keep_default_na=False)
    folder = model(tmp_path / "model", "classification", tuple(sorted(set(table["label"]))))
    metrics = evaluate(folder, grouped, tmp_path / "out", precision="fp32")
    clips = pd.read_csv(tmp_path / "out" / "predictions.csv", keep_default_na=False)
    groups = pd.read_csv(tmp_path / "out" / "groups.csv")
    assert len(clips) == metrics["num_evaluated"] == metrics["num_expected"] == 15
    assert clips["group"].tolist() == table["group"].tolist()
    assert clips["subject"].tolist() == table["subject"].tolist()
    columns = [name for name in clips if name.startswith("prob_")]
    group_of = clips["group"].where(clips["group"] != "", clips["path"])
    expected = clips.assign(group=group_of).groupby("group", sort=False)[columns].mean()
    assert groups["group"].tolist() == expected.index.tolist()
    np.testing.assert_allclose(groups[columns], expected, atol=1e-9)
    assert metrics["num_groups"] == metrics["num_samples"] == len(groups) == 8
    assert groups["prediction"].tolist() == [name.removeprefix("prob_") for name in expected.idxmax(axis=1)]
    f1 = f1_score(groups["label"], groups["prediction"], average="weighted", zero_division=0)
    assert metrics["weighted_f1"] == pytest.approx(f1)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["num_groups"] == 8

    arguments = ["--model", str(folder), "--manifest", str(grouped), "--out", str(tmp_path / "out")]
    assert main(["evaluate", *arguments, "--precision", "fp32", "--by_group", "false"]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["num_samples"] == 15
    assert "num_groups" not in metrics
    assert not (tmp_path / "out" / "groups.csv").exists()  # files of the earlier evaluation are removed


def test_values_of_a_group_are_averaged_like_its_scores(grouped, tmp_path):
    folder = model(tmp_path / "model", "regression", ("valence",))
    metrics = evaluate(folder, grouped, tmp_path / "out", precision="fp32")
    clips = pd.read_csv(tmp_path / "out" / "predictions.csv").fillna({"group": "alone"})
    assert (tmp_path / "out" / "scatter.png").read_bytes().startswith(b"\x89PNG")
    means = clips.groupby("group")[["target_valence", "pred_valence"]].mean()
    assert metrics["mae"] == pytest.approx((means["target_valence"] - means["pred_valence"]).abs().mean())
    assert metrics["pcc"] == pytest.approx(means.corr().iloc[0, 1])


def test_a_group_has_one_label(grouped, tmp_path):
    table = pd.read_csv(grouped, keep_default_na=False)
    names = tuple(sorted(set(table["label"])))
    table["group"] = "all"
    table.to_csv(grouped, index=False)
    folder = model(tmp_path / "model", "classification", names)
    with pytest.raises(UserError, match="videos of group 'all' have several labels"):
        evaluate(folder, grouped, tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.json").exists()
    with pytest.raises(UserError, match="no column 'group'"):
        table.drop(columns="group").to_csv(grouped, index=False)
        evaluate(folder, grouped, tmp_path / "out", by_group=True)


def test_validation_scores_groups(grouped, faces, tmp_path):
    kwargs = dict(**QUICK, epochs=1, batch_size=7, manifest=faces / "train.csv", val_manifest=grouped)
    result = finetune(FinetuneConfig(**kwargs, out=tmp_path / "run"))
    validation = result.metrics["last_validation"]
    assert (validation["num_evaluated"], validation["num_groups"], validation["num_samples"]) == (15, 8, 8)


def test_groups_of_a_manifest(grouped, faces):
    groups = read_manifest(grouped).groups
    assert groups is not None
    assert groups[0] == ""
    assert groups[1].startswith("task ")
    assert read_manifest(faces / "test.csv").groups is None
