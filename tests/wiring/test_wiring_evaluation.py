"""Every setting of `svfap evaluate`, `pool`, `compare` and `calibrate` has its effect on scores, predictions or files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from observe import LABELS, Effect, check, messages, watching, write_material

from svfap.data.clip_dataset import ClipDataset
from svfap.data.prepared import Fold, PreparedDataset, write_dataset_file
from svfap.errors import UserError
from svfap.evaluation.calibrate import calibrate
from svfap.evaluation.compare import compare_runs
from svfap.evaluation.config import CalibrateConfig, CompareConfig, EvaluateConfig, PoolConfig
from svfap.evaluation.evaluate import evaluate
from svfap.evaluation.pool import pool
from svfap.model.build import create_model
from svfap.model.config import Head
from svfap.weights.folder import load_model

pytestmark = pytest.mark.usefixtures("blank_figures")

PER_FRAME = {"model": "frame_model", "manifest": "per_frame.csv"}
EFFECTS: dict[str, Effect] = {
    "model": Effect({}, {"model": "other"}, ("outputs",), ("paths", "first_clips")),
    "manifest": Effect({}, {"manifest": "few.csv"}, ("paths",)),
    "root": Effect({}, {"root": "elsewhere"}, ("first_clips", "outputs"), ("paths",)),
    "split": Effect({}, {"split": "train"}, ("paths",)),
    "batch_size": Effect({"batch_size": 1}, {"batch_size": 4}, ("first_batch_size",), ("paths", "rounded")),
    "precision": Effect({}, {"precision": "bf16"}, ("outputs",), ("paths", "first_clips")),
    "fps": Effect({}, {"fps": 12.5}, ("first_clips", "outputs"), ("paths",)),
    "frames_fps": Effect(
        {"manifest": "frames.csv", "fps": 25.0, "frames_fps": 25.0},
        {"manifest": "frames.csv", "fps": 25.0, "frames_fps": 50.0},
        ("first_clips", "outputs"),
        ("paths",),
    ),
    "invalid_marks": Effect(PER_FRAME, {**PER_FRAME, "invalid_marks": [0.3]}, ("paths",)),
    "label_range": Effect(PER_FRAME, {**PER_FRAME, "label_range": (-1.0, 0.31)}, ("paths",)),
    "by_group": Effect({"by_group": False}, {"by_group": True}, ("files", "scores"), ("outputs",)),
    "num_segments": Effect({"num_segments": 1}, {"num_segments": 3}, ("num_views", "outputs"), ("paths",)),
    "num_crops": Effect({"num_crops": 1}, {"num_crops": 3}, ("num_views", "outputs"), ("paths",)),
    "flip": Effect({}, {"flip": True}, ("num_views", "outputs"), ("paths",)),
    "label_map": Effect({}, {"label_map": "map.yaml"}, ("paths", "outputs"), ("files",)),
    "score_by": Effect({}, {"score_by": "subject"}, ("files",), ("outputs", "paths", "scores")),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wiring_evaluation")
    lines = write_material(folder).read_text().splitlines()
    (folder / "few.csv").write_text("\n".join([lines[0], *lines[-2:]]) + "\n")
    (folder / "map.yaml").write_text(f"labels: {{{LABELS[0]}: null}}\n")
    (folder / "elsewhere").mkdir()
    for n in range(18):
        (folder / "elsewhere" / f"v{n:02d}.mp4").symlink_to(folder / f"v{(n + 1) % 18:02d}.mp4")
    for seed, name in enumerate(("model", "other", "models/fold_a", "models/fold_b", "again/fold_a", "again/fold_b")):
        torch.manual_seed(seed)
        model = create_model("svfap_debug", "classification", label_names=LABELS, sampling_stride=1, frame_fit="centre")
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        (folder / name).mkdir(parents=True)
        model.save_pretrained(folder / name)
    (folder / "frame_model").mkdir()
    names = ("valence", "arousal")
    create_model(
        "svfap_debug", "regression", num_outputs=2, label_names=names, frame_level=True, sampling_stride=1
    ).save_pretrained(folder / "frame_model")
    for part, rows in (("a", lines[1:7]), ("b", lines[7:13])):
        (folder / f"{part}.csv").write_text("\n".join([lines[0], *rows]) + "\n")
    folds = tuple(Fold(name, Path("m.csv"), Path(f"{name}.csv")) for name in "ab")
    described = PreparedDataset("own", "Own", "classification", Path("."), LABELS, folds, metrics=("uar", "war"))
    write_dataset_file(folder, described)
    return folder


def observed(folder: Path, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    chosen = {"model": "model", "manifest": "m.csv", "split": "val", "precision": "fp32", **settings}
    if "few.csv" in chosen.values() or chosen.get("manifest") is None:
        chosen.pop("split")
    chosen["model"] = str(folder / chosen["model"])
    for name in ("manifest", "root", "dataset", "label_map"):
        if chosen.get(name):
            chosen[name] = folder / chosen[name] if name != "label_map" else str(folder / chosen[name])
    with watching() as watch, messages() as said:
        result = evaluate(EvaluateConfig(out=out, **chosen))
    predictions = pd.read_csv(out / "predictions.csv")
    columns = [name for name in predictions if predictions[name].dtype.kind == "f"]
    return {
        "paths": predictions["path"].tolist(),
        "outputs": predictions[columns].to_numpy().tolist(),
        "rounded": predictions[columns].round(4).to_numpy().tolist(),
        "scores": {name: value for name, value in result.metrics.items() if isinstance(value, int | float | list)},
        "first_clips": watch.inputs[0],
        "first_batch_size": len(watch.tensors[0]),
        "num_views": sum(len(tensor) for tensor in watch.tensors) if len(watch.tensors) < 50 else None,
        "files": sorted(path.name for path in out.iterdir()),
        "messages": said.getvalue(),
    }


@pytest.mark.parametrize("name", EFFECTS)
def test_a_setting_of_evaluation_has_its_effect(name, folder, tmp_path):
    effect = EFFECTS[name]
    check(effect, observed(folder, tmp_path / "a", effect.a), observed(folder, tmp_path / "b", effect.b))


def test_dataset_and_fold(folder, tmp_path):
    dataset = {"manifest": None, "dataset": "."}
    shown = {fold: observed(folder, tmp_path / fold, {**dataset, "fold": fold}) for fold in "ab"}
    assert [path[:3] for path in shown["a"]["paths"]] == [f"v{n:02d}" for n in range(6)]
    assert [path[:3] for path in shown["b"]["paths"]] == [f"v{n:02d}" for n in range(6, 12)]


def test_out(folder, tmp_path):
    assert (
        EvaluateConfig(model=str(folder / "model"), manifest=folder / "m.csv").out_folder
        == folder / "model" / "evaluation"
    )
    assert "predictions.csv" in observed(folder, tmp_path / "here", {})["files"]


def test_head(folder, tmp_path):
    heads = [Head("mood", "classification", LABELS), Head("values", "regression", ("valence", "arousal"))]
    create_model("svfap_debug", "multitask", num_outputs=len(LABELS) + 2, heads=heads).save_pretrained(folder / "two")
    for head, written in ((None, ["mood", "values"]), ("values", ["values"])):
        out = tmp_path / str(head)
        evaluate(EvaluateConfig(model=str(folder / "two"), manifest=folder / "m.csv", split="val", out=out, head=head))
        assert sorted(path.name for path in out.iterdir()) == written
        assert (out / "values" / "scatter.png").is_file()
    with pytest.raises(UserError, match="head=values: .*model has one output; leave `head` out"):
        evaluate(EvaluateConfig(model=str(folder / "model"), manifest=folder / "m.csv", split="val", head="values"))


def test_num_workers(folder, tmp_path, monkeypatch):
    assert processes_used(folder, tmp_path, monkeypatch, 0) == 0
    assert processes_used(folder, tmp_path, monkeypatch, 2) == 2


def processes_used(folder, tmp_path, monkeypatch, number: int) -> int:
    """How many other processes decode with that many workers."""
    import os

    real, notes = ClipDataset.__getitem__, tmp_path / f"notes_{number}"
    notes.mkdir()
    monkeypatch.setattr(
        ClipDataset, "__getitem__", lambda self, i: ((notes / str(os.getpid())).touch(), real(self, i))[1]
    )
    observed(folder, tmp_path / f"out_{number}", {"num_workers": number, "batch_size": 1})
    monkeypatch.undo()
    return len({path.name for path in notes.iterdir()} - {str(os.getpid())})


POOLED = ("out", "models", "dataset", "allow_incomplete", "batch_size", "num_workers", "precision")


def pooled(folder: Path, out: Path, **settings: Any) -> dict[str, Any]:
    models = settings.pop("models", "models")
    with watching() as watch:
        result = pool(PoolConfig(out=out, models=str(folder / models / "fold_{fold}"), dataset=folder, **settings))
    return {"numbers": result.numbers, "first_batch_size": len(watch.tensors[0]), "inputs": watch.inputs}


def test_settings_of_pool(folder, tmp_path, monkeypatch):
    first = pooled(folder, tmp_path / "a", precision="fp32", batch_size=1)
    assert json.loads((tmp_path / "a" / "results.json").read_text())["caption"]
    assert pooled(folder, tmp_path / "b", models="again", precision="fp32", batch_size=1)["numbers"] != first["numbers"]
    assert (
        pooled(folder, tmp_path / "c", precision="fp32", batch_size=3)["first_batch_size"]
        == 3 * first["first_batch_size"]
    )
    given = []
    monkeypatch.setattr("svfap.evaluation.pool.evaluate", lambda config: given.append(config) or evaluate(config))
    pooled(folder, tmp_path / "d", precision="bf16", num_workers=1)
    assert {(config.precision, config.num_workers) for config in given} == {("bf16", 1)}


def test_allow_incomplete(folder, tmp_path):
    pooled(folder, tmp_path / "a")
    (tmp_path / "a" / "fold_b" / "evaluation" / "predictions.csv").unlink()
    with pytest.raises(UserError, match="fold b|fold_b"):
        pool(PoolConfig(out=tmp_path / "a", dataset=folder))
    result = pool(PoolConfig(out=tmp_path / "a", dataset=folder, allow_incomplete=True))
    assert "fold" in result.caption


def test_settings_of_compare(folder, tmp_path):
    """Two models, scored by group, the second without its last video."""
    for name in ("model", "other"):
        observed(folder, tmp_path / name, {"model": name, "manifest": "m.csv"})
    rows = {"a": [tmp_path / "model"], "b": [tmp_path / "other"]}
    first, second = compare_runs(rows, CompareConfig(metrics=["macro_f1"], out=tmp_path / "table")).rows
    assert (tmp_path / "table" / "compare.md").is_file()
    assert set(second.differences) == {"macro_f1"} and first.differences == {}
    turned = compare_runs(rows, CompareConfig(metrics="war", reference="b")).rows
    assert turned[1].differences == {} and set(turned[0].differences) == {"war"}
    file = tmp_path / "other" / "predictions.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")
    metrics = json.loads((file.parent / "metrics.json").read_text())
    metrics["num_evaluated"] -= 1
    (file.parent / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(UserError, match="the runs are not of the same groups"):
        compare_runs(rows)
    assert "INCOMPLETE" in compare_runs(rows, CompareConfig(allow_incomplete=True)).caption


CALIBRATED: dict[str, Effect] = {
    "manifest": Effect({}, {"manifest": "other_labels.csv"}, ("temperature", "fitted_on"), ("clips",)),
    "root": Effect({}, {"root": "elsewhere"}, ("temperature", "clips"), ("fitted_on",)),
    "split": Effect({}, {"split": "train"}, ("temperature", "clips", "fitted_on")),
    "batch_size": Effect({"batch_size": 1}, {"batch_size": 4}, ("first_batch_size",), ("fitted_on",)),
    "precision": Effect({}, {"precision": "bf16"}, ("temperature",), ("clips", "fitted_on")),
    "fps": Effect({}, {"fps": 12.5}, ("temperature", "clips"), ("fitted_on",)),
    "frames_fps": Effect(
        {"manifest": "frames.csv", "fps": 25.0, "frames_fps": 25.0},
        {"manifest": "frames.csv", "fps": 25.0, "frames_fps": 50.0},
        ("temperature", "clips"),
        ("fitted_on",),
    ),
    "dataset": Effect({}, {"dataset": "validated", "fold": "a"}, ("temperature", "clips", "fitted_on")),
    "fold": Effect(
        {"dataset": "validated", "fold": "a"}, {"dataset": "validated", "fold": "b"}, ("clips", "fitted_on")
    ),
}


@pytest.fixture(scope="module")
def calibrations(folder, tmp_path_factory):
    """Calibrates with some settings, each once, and says what it showed."""
    lines = (folder / "m.csv").read_text().splitlines()
    (folder / "other_labels.csv").write_text(
        "\n".join([lines[0], *(line.replace("neutral", "happy") for line in lines[1:])])
    )
    (folder / "validated").mkdir()
    folds = tuple(Fold(name, Path("../m.csv"), None, Path(f"../{name}.csv")) for name in "ab")
    described = PreparedDataset("own", "Own", "classification", Path(".."), LABELS, folds)
    write_dataset_file(folder / "validated", described)
    done: dict[str, dict[str, Any]] = {}

    def observe(settings: dict[str, Any]) -> dict[str, Any]:
        if str(settings) not in done:
            given = {"precision": "fp32", "batch_size": 8, **settings}
            given |= {} if "dataset" in given else {"manifest": "m.csv", "split": "val"} | settings
            given |= {name: folder / given[name] for name in ("manifest", "root", "dataset") if name in given}
            out = tmp_path_factory.mktemp("calibrated") / "model"
            with watching() as watch, messages():
                result = calibrate(str(folder / "model"), CalibrateConfig(out=out, **given))
            done[str(settings)] = {
                "temperature": result.temperatures[""],
                "fitted_on": load_model(out).config.provenance["calibrated_on"],
                "first_batch_size": len(watch.tensors[0]),
                "clips": sorted(watch.clips()),
            }
        return done[str(settings)]

    return observe


@pytest.fixture
def quick(monkeypatch):
    """Without intervals and figures of the evaluations, which calibration does not read."""
    monkeypatch.setattr("svfap.evaluation.predictions.subject_scores", lambda *args: {})
    monkeypatch.setattr("svfap.evaluation.evaluate.save_figure", lambda *args: None)


@pytest.mark.parametrize("name", CALIBRATED)
def test_a_setting_of_calibration_has_its_effect(name, calibrations, quick):
    effect = CALIBRATED[name]
    check(effect, calibrations(effect.a), calibrations(effect.b))


def test_out_and_workers_of_calibration(folder, tmp_path, quick, monkeypatch):
    given = []
    monkeypatch.setattr("svfap.evaluation.calibrate.evaluate", lambda config: given.append(config) or evaluate(config))
    config = CalibrateConfig(manifest=folder / "m.csv", split="val", out=tmp_path / "here", num_workers=1)
    assert calibrate(str(folder / "model"), config).out == tmp_path / "here"
    assert (tmp_path / "here" / "model.safetensors").is_file() and given[0].num_workers == 1


TESTED = {
    CalibrateConfig: {*CALIBRATED, "out", "num_workers"},
    EvaluateConfig: {*EFFECTS, "dataset", "fold", "out", "num_workers", "head"},
    PoolConfig: {*POOLED},
    CompareConfig: {"reference", "metrics", "allow_incomplete", "out"},
}
