"""Every setting of `svfap bench` has its effect on what is measured, for how long, or on what is written."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from observe import CachedRuns, Effect, check, digest, save_classifier, write_material

import svfap.bench.bench as module
from svfap.bench.bench import bench_machine
from svfap.bench.config import BenchConfig
from svfap.bench.measure import Rate
from svfap.bench.work import training_run
from svfap.datasets.folder import FolderConfig
from svfap.datasets.prepare import prepare
from svfap.errors import UserError

pytestmark = pytest.mark.slow  # what it measures is tested in tests/bench
MANIFEST = {"manifest": "m.csv", "split": "train"}
EFFECTS: dict[str, Effect] = {
    "preset": Effect({}, {"preset": "svfap_tiny"}, ("parameters", "commands"), ("works",)),
    "model": Effect({}, {"model": "model"}, ("parameters", "commands"), ("works",)),
    "manifest": Effect({}, MANIFEST, ("works", "videos", "commands")),
    "dataset": Effect({}, {"dataset": "prepared"}, ("works", "videos", "commands")),
    "root": Effect(MANIFEST, {**MANIFEST, "root": "elsewhere"}, ("read", "commands"), ("works", "videos")),
    "split": Effect(MANIFEST, {**MANIFEST, "split": "val"}, ("videos", "commands"), ("works",)),
    "seconds": Effect({}, {"seconds": 1000.0}, ("has_minutes",), ("works", "commands")),
    "out": Effect({}, {"out": "there"}, ("files",), ("works", "commands")),
}


class Runs(CachedRuns):
    def observed(self, settings: dict[str, Any], out: Path, *how: Any) -> dict[str, Any]:
        chosen: dict[str, Any] = {"preset": "svfap_debug", "device": "cpu", **settings}
        for name in {"manifest", "dataset", "model", "root"} & set(chosen):
            chosen[name] = str(self.folder / chosen[name])
        if "out" in chosen:
            chosen["out"] = out / chosen["out"]
        seen: dict[str, Any] = {"parameters": set(), "videos": [], "read": [], "left": []}

        def once(step: Any, clips: int, device: torch.device, seconds: float, end: float) -> tuple[Rate, float]:
            seen["left"].append(end - time.monotonic())
            step()
            return Rate((float(clips),)), 0.0

        def read(dataset: Any, workers: int, *limits: float) -> tuple[Rate, int]:
            seen["videos"].append(len(dataset))
            seen["read"].append(digest(*dataset[0].clips))
            return Rate((10.0,)), 0

        def noted(task: Any, *args: Any) -> Any:
            seen["parameters"].add(sum(p.numel() for p in task.model.parameters()))
            return training_run(task, *args)

        with pytest.MonkeyPatch.context() as patch:
            for name, function in {"training_run": noted, "rate_of": once, "reading_rate": read}.items():
                patch.setattr(module, name, function)
            patch.setattr(module, "joint_rate", lambda run, *limits: (Rate((5.0,)), 0.0))
            patch.setattr(module, "BATCHES", [1])
            done = bench_machine(BenchConfig(**chosen))
        return {
            "works": [(row.work, row.precision, row.batch) for row in done.rows],
            "parameters": seen["parameters"],
            "videos": seen["videos"],
            "read": seen["read"],
            "commands": done.advice.commands,
            "has_minutes": max(seen["left"]) > 200,
            "files": sorted(file.name for file in out.rglob("bench.*")),
        }


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    folder = tmp_path_factory.mktemp("wiring_bench")
    manifest = write_material(folder)
    (folder / "elsewhere").mkdir()
    for number in range(18):  # other pictures under the same names
        shutil.copy(folder / f"v{(number + 1) % 18:02d}.mp4", folder / "elsewhere" / f"v{number:02d}.mp4")
    save_classifier(folder / "model", 0, embed_dim=48)
    prepare("folder", FolderConfig(root=folder, out=folder / "prepared", table=manifest, label_column="label"))
    return Runs(folder)


@pytest.mark.parametrize("name", EFFECTS)
def test_a_setting_of_bench_has_its_effect(name, runs):
    check(EFFECTS[name], runs(EFFECTS[name].a), runs(EFFECTS[name].b))


def test_overwrite(runs, tmp_path):
    (tmp_path / "bench.json").write_text("{}")
    with pytest.raises(UserError, match=r"bench\.json: exists"):
        runs.observed({"out": "."}, tmp_path)
    assert runs.observed({"out": ".", "overwrite": True}, tmp_path)["files"] == ["bench.json", "bench.md"]


def test_device(monkeypatch):
    """Which GPU the training loop sees; on a machine without one there is nothing else to choose."""
    seen = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(
        module,
        "pick_device",
        lambda name: seen.append(module.os.environ["CUDA_VISIBLE_DEVICES"]) or torch.device("cuda"),
    )
    for name in ("auto", "cuda", "cuda:1"):
        with module._on(name):
            pass
    with pytest.raises(UserError, match="device=cpu: there is none that training can use"), module._on("cpu"):
        pass
    assert seen == ["0,1", "0,1", "1", ""]
    assert module.os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


TESTED = {BenchConfig: {*EFFECTS, "overwrite", "device"}}
