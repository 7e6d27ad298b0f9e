"""Every setting of `svfap predict`, every argument of `Predictor`, and every setting of a model that says how videos are read,
has its effect on the clips that enter the model, on rows, columns, files or messages."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from face_films import Eyes, write_films
from observe import CachedRuns, Effect, check, messages, names_of, save_classifier, watching

import svfap.predict.predictor as predictor_module
import svfap.predict.processes as processes_module
import svfap.predict.reader as reader_module
from svfap.errors import UserError
from svfap.faces.config import TrackConfig
from svfap.jobs.task import do
from svfap.predict.config import PredictConfig
from svfap.predict.predict import predict_videos
from svfap.predict.predictor import Predictor
from svfap.predict.table import value_columns
from svfap.settings import JobSettings
from svfap.weights.folder import load_model

pytestmark = pytest.mark.usefixtures("blank_figures")

PICTURES = {"video": "pictures", "faces": "none"}
RAY = {"engine": "ray"}
VALENCE = {"trained": {"task": "regression", "label_names": ("valence", "arousal")}}
# Effects that predictions and a `Predictor` have in common.
SHARED: dict[str, Effect] = {
    "model": Effect({}, {"model": "other"}, ("values",), ("spans", "clips")),
    "precision": Effect({}, {"precision": "bf16"}, ("values",), ("spans", "clips")),
    "batch_size": Effect({}, {"batch_size": 2}, ("batch_sizes",), ("spans", "clips")),
    "hop_s": Effect({}, {"hop_s": 0.2}, ("spans", "clips"), ("columns", "num_searched")),
    "faces": Effect({}, {"faces": "none"}, ("columns", "clips", "made")),
    "face_model": Effect({}, {"face_model": "model.onnx"}, ("made",), ("values",)),
    "fps": Effect({}, {"fps": 12.5}, ("spans", "clips"), ("columns",)),
    "frames_fps": Effect({**PICTURES, "frames_fps": 25.0}, {**PICTURES, "frames_fps": 10.0}, ("spans",), ("columns",)),
    "timeout_s": Effect({}, {"timeout_s": 3.0}, ("timeouts",), ("values",)),
    "landmarks": Effect({}, {"landmarks": True}, ("columns",), ("values", "clips", "boxes")),
}
EFFECTS: dict[str, Effect] = SHARED | {
    "detect_every": Effect({}, {"detect_every": 1}, ("num_searched", "boxes"), ("columns",)),
    "min_face_px": Effect({}, {"min_face_px": 40}, ("tracks", "messages"), ("columns",)),
    "margin": Effect({}, {"margin": 0.6}, ("clips", "values"), ("spans", "boxes")),
    "align": Effect({}, {"align": True}, ("clips", "values"), ("spans", "boxes")),
    "border": Effect({"border": "replicate"}, {"border": "reflect"}, ("clips", "values"), ("spans", "boxes")),
    "out": Effect({}, {"out": "other.jsonl"}, ("files",), ("values", "clips")),
    "overlay": Effect({}, {"overlay": "drawn.mp4"}, ("files",), ("values", "clips")),
    "report": Effect({}, {"report": "page.html"}, ("files",), ("values", "clips")),
    "summary": Effect({}, {"summary": "short.csv"}, ("files",), ("values", "clips")),
    "persons": Effect({}, {"persons": "people.csv"}, ("columns",), ("values", "clips")),
    "smooth_s": Effect({}, {"smooth_s": 1.0}, ("values",), ("columns", "spans", "clips")),
    "baseline": Effect(VALENCE, {**VALENCE, "baseline": "median"}, ("values",), ("columns", "spans", "clips")),
    "decimals": Effect({}, {"decimals": 2}, ("values", "boxes"), ("columns", "clips")),
    "engine": Effect({}, RAY, ("jobs",), ("values", "clips", "files")),
    "num_workers": Effect(RAY, {**RAY, "num_workers": 3}, ("jobs",), ("values", "clips")),
    "num_gpus": Effect(RAY, {**RAY, "num_gpus": 0.5}, ("jobs",), ("values", "clips")),
    "item_timeout_s": Effect({}, {"item_timeout_s": 9.0}, ("jobs",), ("values", "clips")),
}
ARGUMENTS: dict[str, Effect] = SHARED | {
    "crop": Effect({}, {"crop": {"margin": 0.6}}, ("clips", "values"), ("spans", "boxes")),
    "tracking": Effect({}, {"tracking": TrackConfig(min_face_px=40)}, ("tracks",), ("columns",)),
}


# A setting of a model of equal weights: what it changes in predictions, and what not.
OF_MODELS: dict[str, tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]] = {
    "label_names": ({"label_names": ("a", "b", "c")}, ("columns",), ("clips", "spans")),
    "sampling_stride": ({"sampling_stride": 2}, ("spans", "clips"), ("columns",)),
    "frame_rate": ({"frame_rate": 12.5}, ("spans", "clips"), ("columns",)),
    "margin": ({"face_crop": {"margin": 0.6}}, ("clips",), ("spans", "boxes")),
    "align": ({"face_crop": {"align": True}}, ("clips",), ("spans", "boxes")),
    "border": ({"face_crop": {"border": "reflect"}}, ("clips",), ("spans", "boxes")),
    "detector": ({"face_crop": {"detector": "yunet"}}, ("made",), ("clips", "spans", "boxes")),
    "frame_fit": ({"frame_fit": "centre"}, ("whole_clips",), ("clips", "spans")),
    "pixel_mean": ({"pixel_mean": (0.1, 0.2, 0.3)}, ("clips", "values"), ("spans", "boxes")),
    "pixel_std": ({"pixel_std": (0.3, 0.2, 0.1)}, ("clips", "values"), ("spans", "boxes")),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wiring_predict")
    write_films(folder)
    (folder / "people.csv").write_text(f"video,track,person\n{folder / 'a.mp4'},1,Anna\n")
    return folder


class Runs(CachedRuns):
    def model(self, name: str = "model", **settings: Any) -> str:
        """A folder with a model; those of one name have equal weights."""
        path = self.folder / "models" / f"{name} {sorted(settings.items())}".replace("/", "_")
        if not path.exists():
            save_classifier(path, sum(name.encode()), **settings)
        return str(path)

    def config(self, settings: dict[str, Any], out: Path) -> PredictConfig:
        chosen = {
            "device": "cpu",
            "precision": "fp32",
            "out": "affect.csv",
            "batch_size": 4,
            "faces": "haar",
            **settings,
        }
        chosen["model"] = self.model(chosen.pop("model", "model"), **chosen.pop("trained", {}))
        for name in ("face_model", "persons"):
            if chosen.get(name):
                chosen[name] = self.folder / chosen[name]
        for name in ("out", "overlay", "report", "summary"):
            if chosen.get(name):
                chosen[name] = out / chosen[name]
        return PredictConfig(**chosen)

    def observed(self, settings: dict[str, Any], out: Path, how: str = "command") -> dict[str, Any]:
        detector, timeouts, given = Eyes(), [], []
        video = self.folder / settings.pop("video", "a.mp4")
        real = reader_module.open_source

        def outcomes(work: Any, tasks: Any, jobs: JobSettings) -> Any:
            """In place of processes: do the tasks in this one."""
            given.append({name: getattr(jobs, name) for name in sorted(names_of(JobSettings))})
            return ((task, do(work, task)) for task in tasks)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(predictor_module, "make_detector", detector.make)
            patch.setattr(reader_module, "open_source", lambda v, t, f: (timeouts.append(t), real(v, t, f))[1])
            patch.setattr(processes_module, "outcomes", outcomes)
            with watching() as watch, messages() as said:
                if how == "command":
                    done = predict_videos(video, self.config(settings, out))
                    assert not done.failures
                    table = done.table.drop(columns="video")
                else:
                    crop = {name: settings.pop(name) for name in ("crop", "tracking") if name in settings}
                    config = self.config(settings, out)
                    names = SHARED.keys() - {"model"}
                    table = Predictor(config.model, "cpu", **{name: getattr(config, name) for name in names}, **crop)(
                        video
                    )
        values = table[value_columns(table)]
        boxes = table.filter(like="box_")
        return {
            "columns": list(table),
            "spans": table[["start_s", "end_s"]].round(4).to_numpy().tolist(),
            "tracks": sorted(set(table.get("track", ()))),
            "boxes": boxes.to_numpy().tolist(),
            "values": values.to_numpy().tolist(),
            "clips": watch.clips(),
            "batch_sizes": [len(clips) for clips in watch.tensors],
            "made": set(detector.made),
            "num_searched": detector.num_searched,
            "timeouts": timeouts,
            "jobs": given,
            "files": sorted(path.name for path in out.iterdir()),
            "messages": said.getvalue(),
        }


@pytest.fixture(scope="module")
def runs(folder) -> Runs:
    return Runs(folder)


@pytest.mark.parametrize("name", EFFECTS)
def test_a_setting_of_predict_has_its_effect(name, runs):
    effect = EFFECTS[name]
    check(effect, runs(effect.a), runs(effect.b))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_of_the_predictor_has_its_effect(name, runs):
    effect = ARGUMENTS[name]
    check(effect, runs(effect.a, "python"), runs(effect.b, "python"))


@pytest.mark.parametrize("how", ["command", "python"])
def test_both_ways_give_the_same(how, runs):
    assert runs({}, how)["values"] == runs({})["values"]


@pytest.mark.parametrize("name", OF_MODELS)
def test_a_setting_of_the_model_has_its_effect_on_predictions(name, runs):
    settings, differ, equal = OF_MODELS[name]
    faces = {"faces": None} if name == "detector" else {}  # as in the model's training
    given = [{**faces}, {**faces, "trained": settings}]
    found = [runs(one) | {"whole_clips": runs({**one, "faces": "none"})["clips"]} for one in given]
    check(Effect({}, settings, differ, equal), *found)


def test_device(runs, tmp_path):
    for how in (predict_videos, None):
        with pytest.raises(UserError, match="^device=abacus"):
            if how is None:
                Predictor(runs.model(), "abacus")
            else:
                how(runs.folder / "a.mp4", runs.config({"device": "abacus"}, tmp_path))


def test_overwrite_and_resume(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(predictor_module, "make_detector", Eyes().make)
    video, config = runs.folder / "a.mp4", runs.config({}, tmp_path)
    first = predict_videos(video, config)
    assert not first.was_complete
    with pytest.raises(UserError, match=r"affect\.csv"):
        predict_videos(video, config)
    with watching() as watch:
        again = predict_videos(video, replace(config, resume=True))
    assert again.was_complete and not watch.inputs
    with watching() as watch:
        assert not predict_videos(video, replace(config, overwrite=True)).was_complete
    assert watch.inputs
    pd.testing.assert_frame_equal(first.table, again.table, check_dtype=False)


def test_no_file(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(predictor_module, "make_detector", Eyes().make)
    done = predict_videos(runs.folder / "a.mp4", runs.config({"out": None}, tmp_path))
    assert len(done.table) and done.written == [] and list(tmp_path.iterdir()) == []


def test_a_loaded_model_is_a_model_too(runs):
    model = load_model(runs.model())
    table = Predictor(model, "cpu", "fp32", faces="none")(runs.folder / "a.mp4")
    np.testing.assert_allclose(table.filter(like="prob_"), runs({"faces": "none"}, "python")["values"], atol=1e-6)


def test_every_argument_of_the_predictor_has_a_test():
    assert {*inspect.signature(Predictor).parameters} == {*ARGUMENTS, "device"}


TESTED = {PredictConfig: {*EFFECTS, "device", "overwrite", "resume"}}
