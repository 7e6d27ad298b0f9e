"""Every setting of `svfap pack` has its effect on the shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from observe import CachedRuns, Effect, check, digest, noting_jobs, write_material

import svfap.packing.pack as module
from svfap.data.manifest import read_manifest
from svfap.data.video import open_video
from svfap.packing.config import PackConfig

RAY = {"engine": "ray"}
PACKED = ("pictures", "size", "num_bytes")
EFFECTS: dict[str, Effect] = {
    "out": Effect({}, {"out": "there"}, ("out",), PACKED),
    "root": Effect({}, {"root": "elsewhere"}, ("pictures",), ("rows", "size")),
    "quality": Effect({}, {"quality": 40}, ("pictures", "num_bytes"), ("rows", "size", "shards")),
    "size_px": Effect({}, {"size_px": 16}, ("size", "pictures", "num_bytes"), ("rows", "shards", "numbers")),
    "videos_per_shard": Effect({}, {"videos_per_shard": 2}, ("shards",), ("rows", "pictures", "numbers")),
    "engine": Effect({}, RAY, ("jobs",), PACKED),
    "num_workers": Effect(RAY, {**RAY, "num_workers": 3}, ("jobs",), PACKED),
    "num_gpus": Effect(RAY, {**RAY, "num_gpus": 0.5}, ("jobs",), PACKED),
    "item_timeout_s": Effect(RAY, {**RAY, "item_timeout_s": 9.0}, ("jobs",), PACKED),
}


class Runs(CachedRuns):
    def observed(self, settings: dict[str, Any], out: Path, *how: Any) -> dict[str, Any]:
        chosen: dict[str, Any] = {"out": "out", **settings}
        if "root" in chosen:
            chosen["root"] = self.folder / chosen["root"]
        jobs: list[dict[str, Any]] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "run_jobs", noting_jobs(module.run_jobs, jobs))
            packed = module.pack(self.folder / "few.csv", PackConfig(**{**chosen, "out": out / chosen["out"]}))
        folder = packed.source.parent
        videos = [open_video(sample.path) for sample in read_manifest(packed.source)]
        return {
            "out": folder.name,
            "rows": packed.source.read_text(),
            "shards": sorted(file.name for file in (folder / "shards").iterdir()),
            "numbers": [video.num_frames for video in videos],
            "size": [video.shape for video in videos],
            "pictures": digest(*(video.read([0, 5]) for video in videos)),
            "num_bytes": json.loads((folder / "pack.json").read_text())["num_bytes"],
            "jobs": jobs,
        }


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    folder = tmp_path_factory.mktemp("wiring_pack")
    manifest = write_material(folder, number=6, num_frames=8)
    lines = manifest.read_text().splitlines()
    (folder / "few.csv").write_text("\n".join(",".join(line.split(",")[:2]) for line in lines[:4]) + "\n")
    (folder / "elsewhere").mkdir()
    for n in range(3):
        (folder / "elsewhere" / f"v{n:02d}.mp4").symlink_to(folder / f"v{n + 3:02d}.mp4")
    return Runs(folder)


@pytest.mark.parametrize("name", EFFECTS)
def test_a_setting_of_pack_has_its_effect(name, runs):
    check(EFFECTS[name], runs(EFFECTS[name].a), runs(EFFECTS[name].b))


TESTED = {PackConfig: {*EFFECTS}}
