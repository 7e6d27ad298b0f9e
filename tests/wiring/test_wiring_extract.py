"""Every setting of `svfap extract` has its effect on the clips that enter the model, on rows, features, files or messages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from face_films import Eyes, write_films
from observe import CachedRuns, Effect, check, digest, messages, noting_jobs, save_classifier, watching

import svfap.features.extract as extract_module
import svfap.predict.predictor as predictor_module
from svfap.errors import UserError
from svfap.features.config import ExtractConfig
from svfap.features.extract import extract_features

FACES = {"faces": "haar"}
PICTURES = {"source": "pictures"}
LISTED = {"source": "m.csv"}
RAY = {"engine": "ray", "out": "t.parquet"}
EFFECTS: dict[str, Effect] = {
    "model": Effect({}, {"model": "other"}, ("features",), ("spans", "clips")),
    "out": Effect({}, {"out": "t.npz"}, ("files", "in_memory"), ("clips",)),
    "faces": Effect({}, FACES, ("columns", "clips", "made")),
    "face_model": Effect(FACES, {**FACES, "face_model": "model.onnx"}, ("made",), ("features",)),
    "detect_every": Effect(FACES, {**FACES, "detect_every": 1}, ("num_searched", "clips"), ("columns",)),
    "min_face_px": Effect(FACES, {**FACES, "min_face_px": 40}, ("tracks", "messages"), ("columns",)),
    "margin": Effect(FACES, {**FACES, "margin": 0.6}, ("clips", "features"), ("spans",)),
    "align": Effect(FACES, {**FACES, "align": True}, ("clips", "features"), ("spans",)),
    "border": Effect(
        {**FACES, "border": "replicate"}, {**FACES, "border": "reflect"}, ("clips", "features"), ("spans",)
    ),
    "fps": Effect({}, {"fps": 12.5}, ("spans", "clips"), ("columns",)),
    "frames_fps": Effect({**PICTURES, "frames_fps": 25.0}, {**PICTURES, "frames_fps": 10.0}, ("spans",), ("columns",)),
    "precision": Effect({}, {"precision": "bf16"}, ("features",), ("spans", "clips")),
    "batch_size": Effect({}, {"batch_size": 2}, ("batch_sizes",), ("spans", "clips")),
    "root": Effect(LISTED, {**LISTED, "root": "elsewhere"}, ("clips",), ("columns",)),
    "split": Effect(LISTED, {**LISTED, "split": "test"}, ("paths",), ("columns",)),
    "per": Effect({}, {"per": "video"}, ("spans",), ("clips", "columns")),
    "pool": Effect({}, {"pool": "none"}, ("spans",), ("clips", "columns")),
    "hop_s": Effect({}, {"hop_s": 0.2}, ("spans", "clips"), ("columns",)),
    "engine": Effect({"out": "t.parquet"}, RAY, ("jobs",), ("clips",)),
    "num_workers": Effect(RAY, {**RAY, "num_workers": 3}, ("jobs",), ("clips",)),
    "num_gpus": Effect(RAY, {**RAY, "num_gpus": 0.5}, ("jobs",), ("clips",)),
    "item_timeout_s": Effect(RAY, {**RAY, "item_timeout_s": 9.0}, ("jobs",), ("clips",)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wiring_extract")
    write_films(folder)
    for seed, name in enumerate(("model", "other")):
        save_classifier(folder / name, seed)
    return folder


class Runs(CachedRuns):
    def config(self, settings: dict[str, Any], out: Path) -> ExtractConfig:
        chosen = {"model": "model", "device": "cpu", "precision": "fp32", "faces": "none", **settings}
        if not chosen.get("random_weights"):
            chosen["model"] = str(self.folder / chosen["model"])
        for name in ("face_model", "root"):
            if name in chosen:
                chosen[name] = self.folder / chosen[name]
        if "out" in chosen:
            chosen["out"] = out / chosen["out"]
        return ExtractConfig(**chosen)

    def observed(self, settings: dict[str, Any], out: Path) -> dict[str, Any]:
        detector, jobs = Eyes(), []
        source = self.folder / settings.pop("source", "a.mp4")
        config = self.config(settings, out)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(predictor_module, "make_detector", detector.make)
            patch.setattr(extract_module, "run_jobs", noting_jobs(extract_module.run_jobs, jobs))
            with watching() as watch, messages() as said:
                done = extract_features(source, config)
        if done.table is not None:
            table = done.table
        elif config.out.suffix == ".parquet":
            table = pd.read_parquet(config.out)
        else:
            table = pd.DataFrame({"path": [], "start_s": [], "end_s": [], "feature": []})
        return {
            "columns": list(table),
            "paths": [Path(path).name for path in table["path"]],
            "spans": table[["start_s", "end_s"]].round(4).to_numpy().tolist(),
            "tracks": sorted(set(table.get("track", ()))),
            "features": digest(*(np.asarray(feature) for feature in table["feature"])),
            "clips": watch.clips(),
            "batch_sizes": [len(clips) for clips in watch.tensors],
            "made": set(detector.made),
            "num_searched": detector.num_searched,
            "jobs": jobs,
            "files": sorted(path.name for path in out.iterdir()),
            "in_memory": done.table is not None,
            "messages": said.getvalue(),
        }


@pytest.fixture(scope="module")
def runs(folder) -> Runs:
    return Runs(folder)


@pytest.mark.parametrize("name", EFFECTS)
def test_a_setting_of_extract_has_its_effect(name, runs):
    effect = EFFECTS[name]
    check(effect, runs(effect.a), runs(effect.b))


def test_faces_are_searched_for_in_videos_and_not_in_rows_of_manifests(runs):
    by_default = {source: runs({"faces": None, "source": source}) for source in ("a.mp4", "m.csv")}
    assert by_default["a.mp4"]["clips"] == runs({"faces": "auto"})["clips"]
    assert by_default["m.csv"]["clips"] == runs({"faces": "none", "source": "m.csv"})["clips"]


def test_device(runs, tmp_path):
    with pytest.raises(UserError, match="^device=abacus"):
        extract_features(runs.folder / "a.mp4", runs.config({"device": "abacus"}, tmp_path))


def test_overwrite(runs, tmp_path):
    config, video = runs.config({"out": "t.npz"}, tmp_path), runs.folder / "a.mp4"
    extract_features(video, config)
    with pytest.raises(UserError, match=r"t\.npz"):
        extract_features(video, config)
    with watching() as watch:
        extract_features(video, replace(config, overwrite=True))
    assert watch.inputs


def test_random_weights(runs, tmp_path):
    preset = {"model": "svfap_debug", "random_weights": True}
    assert len(runs({**preset})["spans"]) > 0
    with pytest.raises(UserError, match="^model=svfap_debug: a preset has random weights"):
        extract_features(runs.folder / "a.mp4", replace(runs.config(preset, tmp_path), random_weights=False))


TESTED = {ExtractConfig: {*EFFECTS, "device", "overwrite", "random_weights"}}
