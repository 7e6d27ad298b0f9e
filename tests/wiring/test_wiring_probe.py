"""Every setting of `svfap probe` has its effect on the clips that are read, on readers, scores, intervals or files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from observe import CachedRuns, Effect, check, digest, messages, write_material

import svfap.probe.probe as module
from svfap.data.clip_dataset import ClipDataset
from svfap.data.prepared import Fold, PreparedDataset, write_dataset_file
from svfap.model.build import create_model
from svfap.probe import reading
from svfap.probe.config import ProbeConfig

pytestmark = pytest.mark.slow  # the numbers of probes are tested in tests/probe

VALUES = {"dimensions": ["valence", "arousal"]}
FRAMES = {**VALUES, "frame_level": True}
PER_FRAME = {**FRAMES, "manifest": "per_frame.csv"}
FOLDS = {"manifest": None, "split": None, "test_split": None, "dataset": ".", "fold": "a"}
ALONE = {"manifest": "alone.csv", "split": None, "test_split": None}
NINE = {**ALONE, **VALUES}  # people are scored
ATTENTIVE = {"kind": "attentive", "attentive_epochs": 1, "attentive_rates": [1e-3], "attentive_decays": [0.0]}
EFFECTS: dict[str, Effect] = {
    "dataset": Effect(FOLDS, {**FOLDS, "dataset": "prepared"}, ("fitted", "scores")),
    "fold": Effect(FOLDS, {**FOLDS, "fold": "b"}, ("fitted", "scored")),
    "manifest": Effect({}, {"manifest": "other.csv"}, ("fitted",)),
    "test_manifest": Effect(
        {"test_split": None, "test_manifest": "val.csv"},
        {"test_split": None, "test_manifest": "few.csv"}, ("scored", "scores"), ("fitted",)),
    "test_split": Effect({}, {"test_split": "rest"}, ("scored",), ("fitted",)),
    "split": Effect(VALUES, {**VALUES, "split": "rest"}, ("fitted",), ("scored",)),
    "root": Effect({}, {"root": "elsewhere"}, ("clips", "scores"), ("scored",)),
    "by_video": Effect(ALONE, {**ALONE, "manifest": "nobody.csv", "by_video": True}, ("fitted", "caption")),
    "num_folds": Effect({**ALONE, "num_folds": 2}, {**ALONE, "num_folds": 3}, ("fitted", "caption"), ("clips",)),
    "task": Effect({"task": "classification"}, {"task": "regression", **VALUES}, ("scores",), ("clips", "scored")),
    "dimensions": Effect(VALUES, {"dimensions": ["arousal"]}, ("scores",), ("clips",)),
    "frame_level": Effect(VALUES, FRAMES, ("scores", "caption"), ("clips",)),
    "invalid_marks": Effect(PER_FRAME, {**PER_FRAME, "invalid_marks": [0.25]}, ("fitted",), ("clips",)),
    "label_range": Effect(PER_FRAME, {**PER_FRAME, "label_range": (-1.0, 0.36)}, ("scored",), ("clips",)),
    "kind": Effect({"kind": "linear"}, {"kind": ["linear", "knn"]}, ("rows",), ("clips",)),
    "features": Effect({"features": "last"}, {"features": "last, stages"}, ("rows",), ("clips",)),
    "num_segments": Effect({"num_segments": 1}, {"num_segments": 3}, ("clips", "caption"), ("scored",)),
    "num_crops": Effect({"num_crops": 1}, {"num_crops": 3}, ("clips", "caption"), ("scored",)),
    "fps": Effect({}, {"fps": 12.5}, ("clips",), ("scored",)),
    "frames_fps": Effect(
        {"manifest": "frames.csv", "fps": 25.0, "frames_fps": 25.0},
        {"manifest": "frames.csv", "fps": 25.0, "frames_fps": 50.0}, ("clips",), ("scored",)),
    "precision": Effect({}, {"precision": "bf16"}, ("last",), ("clips",)),
    "batch_size": Effect({"batch_size": 1}, {"batch_size": 4}, ("batches",), ("clips",)),
    "neighbours": Effect({"neighbours": 1}, {"neighbours": 9}, ("outputs",), ("clips",)),
    "attentive_epochs": Effect(ATTENTIVE, {**ATTENTIVE, "attentive_epochs": 4}, ("outputs",), ("clips",)),
    "attentive_rates": Effect(ATTENTIVE, {**ATTENTIVE, "attentive_rates": [1e-2]}, ("outputs",), ("clips",)),
    "attentive_decays": Effect(
        {**ATTENTIVE, "attentive_rates": [1e-2]},
        {**ATTENTIVE, "attentive_rates": [1e-2], "attentive_decays": [10.0]}, ("outputs",), ("clips",)),
    "num_seeds": Effect(ATTENTIVE, {**ATTENTIVE, "num_seeds": 2}, ("outputs",), ("clips",)),
    "num_resamples": Effect(NINE, {**NINE, "num_resamples": 300}, ("intervals", "caption"), ("scores",)),
    "seed": Effect(NINE, {**NINE, "seed": 1}, ("intervals", "fitted"), ("clips",)),
}  # fmt: skip


class Runs(CachedRuns):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        lines = write_material(folder).read_text().splitlines()
        head, rows = lines[0], lines[1:]
        # Parts of people: train s0-s4, rest s5, val s6-s8.
        rows = [
            line.replace(",train,", ",rest,") if line.startswith(("v10", "v11", "v08", "v09")) else line
            for line in rows
        ]
        (folder / "m.csv").write_text("\n".join([head, *rows]) + "\n")
        (folder / "frames.csv").write_text("\n".join([head, *(f"f{row[1:3]}{row[7:]}" for row in rows)]) + "\n")
        (folder / "other.csv").write_text("\n".join([head, *rows[2:]]) + "\n")
        table = pd.read_csv(folder / "m.csv").drop(columns="split")
        table.to_csv(folder / "alone.csv", index=False)
        table.drop(columns="subject").drop(columns="group").to_csv(folder / "nobody.csv", index=False)
        table[12:].to_csv(folder / "val.csv", index=False)
        table[14:].to_csv(folder / "few.csv", index=False)
        table[:12].to_csv(folder / "twelve.csv", index=False)
        table[:8].to_csv(folder / "eight.csv", index=False)
        (folder / "elsewhere").mkdir()
        (folder / "elsewhere" / "frames").symlink_to(folder / "frames")
        for n in range(18):
            (folder / "elsewhere" / f"v{n:02d}.mp4").symlink_to(folder / f"v{(n + 1) % 18:02d}.mp4")
        for seed in range(2):
            torch.manual_seed(seed)
            (folder / f"model_{seed}").mkdir()
            model = create_model("svfap_debug", "pretraining", sampling_stride=1, frame_fit="centre")
            model.save_pretrained(folder / f"model_{seed}")
        folds = (Fold("a", Path("twelve.csv"), Path("few.csv")), Fold("b", Path("eight.csv"), Path("val.csv")))
        names = ("sad", "neutral", "happy")
        for place, train in ((folder, "twelve.csv"), (folder / "prepared", "../eight.csv")):
            place.mkdir(exist_ok=True)
            up = "" if place == folder else "../"
            first = Fold("a", Path(train), Path(f"{up}few.csv"))
            root = Path(".") if place == folder else Path("..")
            chosen = (first, folds[1]) if place == folder else (first,)
            write_dataset_file(place, PreparedDataset("own", "Own", "classification", root, names, chosen))

    def observed(self, settings: dict[str, Any], out: Path, *how: Any) -> dict[str, Any]:
        run = self.folder / settings.pop("run", "model_0")
        shared = {"manifest": "m.csv", "split": "train", "test_split": "val", "precision": "fp32", "num_resamples": 200}
        chosen = {**shared, "features": "last", **settings}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        for name in ("manifest", "test_manifest", "dataset", "root"):
            if name in chosen:
                chosen[name] = self.folder / chosen[name]
        with pytest.MonkeyPatch.context() as patch, messages() as said:
            seen = self._watch(patch)
            done = module.probe_model(run, ProbeConfig(out=out, **chosen))
        return {
            **seen,
            "scores": done.table[["score", "value"]].round(6).to_numpy().tolist(),
            "intervals": done.table[["low", "high"]].to_numpy().tolist(),
            "rows": done.table[["reader", "features", "encoder"]].drop_duplicates().to_numpy().tolist(),
            "caption": done.caption,
            "messages": said.getvalue(),
        }

    def _watch(self, patch: pytest.MonkeyPatch) -> dict[str, Any]:
        """The clips that are read, what readers are fitted on and give, and how many batches there are."""
        seen: dict[str, Any] = {"clips": [], "fitted": [], "scored": [], "outputs": [], "batches": [], "last": []}
        real_item, real_scores = ClipDataset.__getitem__, reading.subject_scores

        def item(self: ClipDataset, index: int) -> Any:
            found = real_item(self, index)
            seen["clips"] += [digest(clip) for clip in found.clips]
            return found

        def scores(targets: Any, outputs: Any, subjects: Any, names: Any) -> Any:
            seen["scored"].append(list(subjects))
            seen["outputs"].append(digest(outputs))
            return real_scores(targets, outputs, subjects, names)

        patch.setattr(ClipDataset, "__getitem__", item)
        patch.setattr(reading, "subject_scores", scores)
        for name in ("linear_probe", "knn_probe", "attentive_probe"):
            real = getattr(module, name)

            def fit(x: Any, y: Any, groups: Any, queries: Any, real: Any = real, **more: Any) -> Any:
                seen["fitted"].append((len(x), sorted(set(groups))))
                seen["last"].append(digest(x))
                return real(x, y, groups, queries, **more)

            patch.setattr(module, name, fit)
        real_encode = module.encode

        def encode(encoder: Any, clips: Any, sets: Any) -> Any:
            seen["batches"].append(len(clips))
            return real_encode(encoder, clips, sets=sets)

        patch.setattr(module, "encode", encode)
        return seen


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("wiring_probe"))


@pytest.mark.parametrize("name", EFFECTS)
def test_a_setting_of_probe_has_its_effect(name, runs):
    effect = EFFECTS[name]
    check(effect, runs(effect.a), runs(effect.b))


def test_the_run(runs):
    check(Effect({}, {"run": "model_1"}, ("last", "scores"), ("clips",)), runs({}), runs({"run": "model_1"}))


def test_out(runs, tmp_path):
    runs.observed({}, tmp_path / "here")
    assert (tmp_path / "here" / "probe.md").is_file()
    settings = {"manifest": runs.folder / "m.csv", "split": "train", "test_split": "val"}
    assert ProbeConfig(**settings).out_folder(runs.folder / "model_0") == runs.folder / "model_0" / "probe"


def test_device(runs, tmp_path, monkeypatch):
    asked = []
    real = module.pick_device
    monkeypatch.setattr(module, "pick_device", lambda name: asked.append(name) or real("cpu"))
    runs.observed({"device": "cuda:7", **ATTENTIVE}, tmp_path / "a")
    assert set(asked) == {"cuda:7"}


def test_num_workers(runs, tmp_path, monkeypatch):
    asked = []
    real = module.make_loader
    monkeypatch.setattr(
        module, "make_loader", lambda *a, **k: asked.append(k["num_workers"]) or real(*a, **{**k, "num_workers": 0})
    )
    runs.observed({"num_workers": 3}, tmp_path / "a")
    assert asked == [3]


TESTED = {ProbeConfig: {*EFFECTS, "out", "device", "num_workers"}}
