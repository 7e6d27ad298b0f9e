"""Evaluations that are kept: only those of the same weights, labels and settings are pooled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import svfap
from svfap.data.prepared import Fold, PreparedDataset, write_dataset_file
from svfap.data.video import write_video
from svfap.errors import UserError
from svfap.evaluation.config import PoolConfig
from svfap.evaluation.pool import pool

pytestmark = pytest.mark.usefixtures("blank_figures")

CLASSES = ("happy", "sad")


@pytest.fixture
def dataset(tmp_path) -> Path:
    """One fold, whose test part has two videos."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in CLASSES:
        write_video(folder / f"{name}.mp4", rng.integers(0, 255, (16, 32, 32, 3), np.uint8), 25, preset="ultrafast")
    pd.DataFrame({"path": [f"{name}.mp4" for name in CLASSES], "label": CLASSES}).to_csv(
        folder / "test.csv", index=False
    )
    folds = (Fold("1", Path("test.csv"), Path("test.csv")),)
    write_dataset_file(
        folder, PreparedDataset("own", "Own", "classification", Path("."), CLASSES, folds, sampling_stride=1)
    )
    return folder


def train(folder: Path, seed: int) -> None:
    """A model of other weights in the folder of a run."""
    torch.manual_seed(seed)
    model = svfap.create_model("svfap_debug", "classification", label_names=CLASSES, sampling_stride=1)
    torch.nn.init.normal_(model.head.weight)
    model.save_pretrained(folder)


@pytest.fixture
def config(dataset, tmp_path) -> PoolConfig:
    train(tmp_path / "run" / "fold_1" / "best", 0)
    return PoolConfig(
        models=str(tmp_path / "run" / "fold_{fold}"), dataset=dataset, out=tmp_path / "out", precision="fp32"
    )


def evaluated(config: PoolConfig) -> dict[str, str]:
    """What the evaluation of the fold is of, and its first probability."""
    folder = config.out / "fold_1" / "evaluation"
    metrics = json.loads((folder / "metrics.json").read_text())
    return {
        **{name: metrics[name] for name in ("weights", "manifest_digest", "settings")},
        "output": pd.read_csv(folder / "predictions.csv")["prob_sad"][0],
    }


def test_a_retrained_model_at_the_same_path_is_evaluated_again(config, tmp_path, capsys):
    pool(config)
    before = evaluated(config)
    pool(config)
    assert evaluated(config) == before
    assert "holds the evaluation of" in capsys.readouterr().err
    train(tmp_path / "run" / "fold_1" / "best", 1)
    pool(config)
    assert "is of other weights; it is done again" in " ".join(capsys.readouterr().err.split())
    after = evaluated(config)
    assert after["weights"] != before["weights"] and after["output"] != before["output"]
    assert {name: after[name] for name in ("manifest_digest", "settings")} == {
        name: before[name] for name in ("manifest_digest", "settings")
    }


def test_a_copy_of_the_same_weights_is_not_evaluated_again(config, tmp_path, capsys):
    pool(config)
    train(tmp_path / "copy" / "1", 0)
    capsys.readouterr()
    pool(PoolConfig(models=str(tmp_path / "copy" / "{fold}"), dataset=config.dataset, out=config.out, precision="fp32"))
    assert "holds the evaluation of" in capsys.readouterr().err


def test_corrected_labels_are_scored(config, capsys):
    first = pool(config).numbers["pooled"]["war"]
    manifest = config.dataset / "test.csv"
    table = pd.read_csv(manifest)
    table["label"] = table["label"].iloc[::-1].to_numpy()
    table.to_csv(manifest, index=False)
    with pytest.raises(
        UserError, match=r"fold 1: .*test\.csv has changed since the evaluation in .*; evaluate it again"
    ):
        pool(PoolConfig(out=config.out))
    assert pool(config).numbers["pooled"]["war"] == pytest.approx(1 - first)
    assert "is of other labels (the manifest has changed); it is done again" in " ".join(
        capsys.readouterr().err.split()
    )


def test_corrected_values_per_frame_are_scored(config, tmp_path, capsys):
    for name in CLASSES:
        (config.dataset / f"{name}.csv").write_text("label\n" + f"{name}\n" * 16)
    manifest = config.dataset / "test.csv"
    pd.read_csv(manifest).assign(frame_values=[f"{name}.csv" for name in CLASSES]).to_csv(manifest, index=False)
    torch.manual_seed(0)
    kwargs = dict(label_names=CLASSES, sampling_stride=1, frame_level=True)
    svfap.create_model("svfap_debug", "classification", **kwargs).save_pretrained(tmp_path / "run" / "fold_1" / "best")
    pool(config)
    pool(config)
    assert "holds the evaluation of" in capsys.readouterr().err
    (config.dataset / "sad.csv").write_text("label\n" + "happy\n" * 16)
    with pytest.raises(UserError, match=r"a frame_values file of .*test\.csv has changed since the evaluation"):
        pool(PoolConfig(out=config.out))
    pool(config)
    assert "is of other values per frame (a frame_values file has changed); it is done again" in " ".join(
        capsys.readouterr().err.split()
    )


def test_other_settings_are_evaluated_again(config, capsys):
    pool(config)
    before = evaluated(config)["settings"]
    assert before["num_segments"] == before["num_crops"] == 2
    pool(PoolConfig(models=config.models, dataset=config.dataset, out=config.out, precision="bf16"))
    assert "is of other settings; it is done again" in " ".join(capsys.readouterr().err.split())
    assert evaluated(config)["settings"] == {**before, "precision": "bf16"}


def test_predictions_of_a_former_model_are_not_pooled(config, tmp_path):
    pool(config)
    pool(PoolConfig(out=config.out))
    train(tmp_path / "run" / "fold_1" / "best", 1)
    with pytest.raises(UserError, match=r"fold 1: .*fold_1 has changed since the evaluation in .*; evaluate it again"):
        pool(PoolConfig(out=config.out))


def test_evaluations_of_earlier_versions_are_done_again_with_a_note(config, capsys):
    pool(config)
    file = config.out / "fold_1" / "evaluation" / "metrics.json"
    metrics = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in metrics.items() if name not in evaluated(config)}))
    pool(PoolConfig(out=config.out))
    assert "does not tell of which weights it is" in " ".join(capsys.readouterr().err.split())
    pool(config)
    assert "of an earlier version, which does not tell its weights" in " ".join(capsys.readouterr().err.split())
    assert json.loads(file.read_text()) == metrics


def test_the_fingerprint_is_of_weights_and_of_settings_that_matter():
    from dataclasses import replace

    from svfap.weights.folder import fingerprint

    torch.manual_seed(0)
    model = svfap.create_model("svfap_debug", "classification", label_names=CLASSES)
    first = fingerprint(model)
    assert len(first) == 16 and fingerprint(model) == first
    model.config = replace(model.config, provenance={"seed": 3})
    assert fingerprint(model) == first
    model.config = replace(model.config, sampling_stride=3)
    assert fingerprint(model) != first
    model.config = replace(model.config, sampling_stride=4)
    with torch.no_grad():
        model.head.bias[0] += 1e-6
    assert fingerprint(model) != first


def test_the_models_of_all_folds_are_looked_for_before_the_first_evaluation(dataset, tmp_path, monkeypatch):
    part = Path("test.csv")
    folds = (Fold("1", part, part), Fold("2", part, part))
    described = PreparedDataset("own", "Own", "classification", Path("."), CLASSES, folds, sampling_stride=1)
    write_dataset_file(dataset, described)
    train(tmp_path / "run" / "fold_1", 0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^models=run/fold_2: no such folder or checkpoint"):
        pool(PoolConfig(models="run/fold_{fold}", dataset=dataset, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
