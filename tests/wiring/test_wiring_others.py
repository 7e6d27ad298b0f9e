"""Every setting of `svfap synth`, `reconstruct` and `report` has its effect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from observe import LABELS, Effect, check, digest, write_material

from svfap.data.prepared import PreparedDataset, write_dataset_file
from svfap.data.video import open_video
from svfap.demo.config import DemoConfig
from svfap.demo.demo import steps
from svfap.evaluation.config import EvaluateConfig
from svfap.evaluation.evaluate import evaluate
from svfap.model.build import create_model
from svfap.predict.config import ReconstructConfig
from svfap.predict.reconstruct import reconstruct
from svfap.reports.config import ReportConfig
from svfap.reports.report import report
from svfap.settings import JobSettings
from svfap.synth.config import SynthConfig
from svfap.synth.dataset import plan, synthesize

SYNTH: dict[str, Effect] = {
    "size_px": Effect({}, {"size_px": 48}, ("size", "first_picture"), ("counts", "labels")),
    "fps": Effect({}, {"fps": 50}, ("fps", "first_video"), ("counts", "labels")),
    "num_frames": Effect({}, {"num_frames": 14}, ("num_frames",), ("counts", "labels", "size")),
    "nuisance": Effect({}, {"nuisance": 0.0}, ("first_picture",), ("counts", "labels", "size")),
    "expression_gain": Effect({}, {"expression_gain": 0.0}, ("first_video",), ("counts", "labels", "size")),
    "placement": Effect({}, {"placement": 0.2}, ("first_picture",), ("counts", "labels", "size")),
    "num_pretrain": Effect({}, {"num_pretrain": 3}, ("counts",), ("size",)),
    "num_train": Effect({}, {"num_train": 3}, ("counts",), ("size",)),
    "num_val": Effect({}, {"num_val": 2}, ("counts",), ("size",)),
    "num_test": Effect({}, {"num_test": 2}, ("counts",), ("size",)),
    "clips_per_identity": Effect({}, {"clips_per_identity": 1}, ("subjects",), ("counts", "size")),
    "seed": Effect({}, {"seed": 1}, ("first_picture", "first_video"), ("counts", "size", "labels")),
}


def synthesized(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    chosen = dict(size_px=32, num_frames=12, num_pretrain=1, num_train=2, num_val=1, num_test=1, **{}) | settings
    synthesize(SynthConfig(out=out, **chosen))
    tables = {part: pd.read_csv(out / f"{part}.csv") for part in ("pretrain", "train", "val", "test")}
    with open_video(out / tables["train"]["path"][0]) as video:
        pictures = video.read(range(video.num_frames))
        shown = {"size": (video.width, video.height), "fps": video.fps, "num_frames": video.num_frames}
    return shown | {
        "counts": {part: len(table) for part, table in tables.items()},
        "labels": tables["train"]["label"].tolist()[:2],
        "subjects": tables["train"]["subject"].nunique(),
        "first_picture": digest(pictures[0]),
        "first_video": digest(pictures),
    }


@pytest.mark.parametrize("name", SYNTH)
def test_a_setting_of_synth_has_its_effect(name, tmp_path):
    effect = SYNTH[name]
    check(effect, synthesized(tmp_path / "a", effect.a), synthesized(tmp_path / "b", effect.b))


def test_faces_and_movements_have_the_seed(tmp_path):
    clips = [list(plan(SynthConfig(out=tmp_path, seed=seed))) for seed in range(2)]
    for name in ("identity_seed", "clip_seed"):
        assert not {getattr(clip, name) for clip in clips[0]} & {getattr(clip, name) for clip in clips[1]}, name


def test_workers_of_synth_do_its_work(tmp_path, monkeypatch):
    """That they change no byte is seen where synthetic faces are tested."""
    import svfap.synth.dataset as module

    given = []
    real = module.run_local
    monkeypatch.setattr(
        module,
        "run_local",
        lambda work, tasks, jobs: given.append(jobs.num_workers) or real(work, tasks, JobSettings()),
    )
    for number in (0, 2):
        synthesized(tmp_path / str(number), {"num_workers": number})
    assert given == [0, 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wiring_others")
    write_material(folder)
    for seed, name in enumerate(("mae", "other")):
        torch.manual_seed(seed)
        (folder / name).mkdir()
        create_model("svfap_debug", "pretraining", mask_ratio=0.75, sampling_stride=1).save_pretrained(folder / name)
    return folder


def test_settings_of_reconstruct(folder, tmp_path):
    video, model = folder / "v00.mp4", str(folder / "mae")
    first = reconstruct(video, ReconstructConfig(model=model, out=tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["reconstruction.mp4", "reconstruction.png"]
    assert reconstruct(video, ReconstructConfig(model=model, out=None)).written == ()
    other = reconstruct(video, ReconstructConfig(model=str(folder / "other"), out=None))
    assert not np.array_equal(other.reconstruction, first.reconstruction)
    assert np.array_equal(other.masked, first.masked)
    seeded = reconstruct(video, ReconstructConfig(model=model, out=None, seed=1))
    assert not np.array_equal(seeded.masked, first.masked)
    less = reconstruct(video, ReconstructConfig(model=model, out=None, mask_ratio=0.25))
    grey = [(np.abs(result.masked.astype(int) - result.original) > 0).mean() for result in (less, first)]
    assert grey[0] < 0.5 < grey[1]


def test_settings_of_report(folder, tmp_path, blank_figures):
    torch.manual_seed(0)
    run = tmp_path / "run"
    run.mkdir()
    create_model("svfap_debug", "classification", label_names=LABELS, sampling_stride=1).save_pretrained(run)
    evaluate(EvaluateConfig(model=str(run), manifest=folder / "m.csv", split="val"))
    pages = {}
    for name, settings in {
        "all": {},
        "no_maps": {"maps": False},
        "videos": {"maps": False, "videos": 1},
        "title": {"maps": False, "videos": 0, "title": "Mine"},
    }.items():
        out = tmp_path / f"{name}.html"
        report([run], ReportConfig(out=out, **settings))
        pages[name] = out.read_text()
    assert len(pages["no_maps"]) < len(pages["all"])
    assert pages["videos"].count("<img") < pages["no_maps"].count("<img")
    assert "<title>Mine</title>" in pages["title"] and "<title>Mine</title>" not in pages["all"]
    assert "with 95% intervals" in pages["all"]
    described = PreparedDataset("dfew", "DFEW", "classification", Path("."), LABELS, ())
    (tmp_path / "dfew").mkdir()
    write_dataset_file(tmp_path / "dfew", described)
    (run / "config.yaml").write_text(f"format_version: 1\ndataset: {tmp_path / 'dfew'}\n")
    for reported in (False, True):
        report([run], ReportConfig(out=tmp_path / "page.html", reported=reported, maps=False, videos=0))
        text = (tmp_path / "page.html").read_text()
        assert ("None was run with this package" in text) == ("CLAIP-Emo" in text) == reported
        assert ("Printed figures of other systems on DFEW, looked" in text) == reported
    for dataset, said in (
        ("ravdess", "No figures of other systems are known on RAVDESS, only on DFEW, FERV39k, MAFW."),
        (None, "The run does not name a prepared dataset. Figures of other systems are known on DFEW, FERV39k, MAFW."),
    ):
        (run / "config.yaml").write_text(f"format_version: 1\ndataset: {tmp_path / dataset if dataset else 'null'}\n")
        report(
            [run, tmp_path / "run" / ".." / "run"],
            ReportConfig(out=tmp_path / "page.html", reported=True, maps=False, videos=0),
        )
        assert (tmp_path / "page.html").read_text().count(said) == 1
    assert json.loads((run / "evaluation" / "metrics.json").read_text())["num_evaluated"] == 6


def test_settings_of_demo(tmp_path):
    """Its steps are commands, whose own settings have tests: these two reach them."""
    plans = {
        name: steps(DemoConfig(**{"out": tmp_path / "a"} | settings))
        for name, settings in {"first": {}, "out": {"out": tmp_path / "b"}, "seed": {"seed": 1}}.items()
    }
    first, out, seed = ([step.words for step in plans[name]] for name in ("first", "out", "seed"))
    moved = [tuple(word.replace(str(tmp_path / "a"), str(tmp_path / "b")) for word in words) for words in first]
    assert out == moved != first
    changed = [words for words, other in zip(first, seed, strict=True) if words != other]
    assert [words[0] for words in changed] == ["synth", "pretrain", "finetune", "finetune", "finetune"]
    assert [step.makes for step in plans["seed"]] == [step.makes for step in plans["first"]]


TESTED = {
    DemoConfig: {"out", "seed"},
    SynthConfig: {*SYNTH, "out", "num_workers"},
    ReconstructConfig: {"model", "out", "mask_ratio", "seed"},
    ReportConfig: {"out", "title", "videos", "maps", "reported"},
}
