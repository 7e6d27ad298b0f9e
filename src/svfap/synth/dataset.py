"""Writing a synthetic dataset: videos, values per frame, and one manifest per split."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import pandas as pd

from svfap.console import track
from svfap.data.prepared import Fold, PreparedDataset, write_dataset_file
from svfap.data.video import write_video
from svfap.errors import UserError
from svfap.files import make_folder
from svfap.synth.camera import render_clip
from svfap.synth.config import AFFECT, CLASSES, TRAITS, SynthConfig

SPLITS = ("pretrain", "train", "val", "test")
COLUMNS = ["path", "label", *AFFECT, *TRAITS, "subject", "frame_values"]


class Clip(NamedTuple):
    """One video to be rendered; `number` counts the clips of its split."""

    split: str
    number: int
    identity_seed: int
    clip_seed: int
    label: str

    @property
    def name(self) -> str:
        return f"{self.split}_{self.number:06d}"


def write_dataset(out: str | Path, config: SynthConfig, num_workers: int = 0) -> None:
    """Render a dataset into a folder, or finish one that was broken off.

    Writes `videos/*.mp4`, `frames/*.csv` (valence, arousal, dominance of every frame), then the manifests
    `pretrain.csv` (paths and subjects, no labels), `train.csv`, `val.csv` and `test.csv`, whose identities are disjoint,
    `dataset.json` (see `svfap.data.prepared`), and last `synth.json`, the config. Videos that are there are kept, those
    missing are rendered. num_workers: rendering processes; 0 renders in this one.
    Raises `UserError` if the folder holds a dataset made with another config, or something else.
    """
    out = Path(out)
    clips = list(plan(config))
    if _is_complete(out, config) and all((out / "videos" / f"{clip.name}.mp4").exists() for clip in clips):
        return
    for folder in ("videos", "frames"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    (out / "synth.part.json").write_text(json.dumps(asdict(config), indent=2))
    render = partial(_write_clip, out, config)
    if num_workers:
        # Fresh processes: a forked one would inherit locks of whatever threads the caller runs.
        with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
            rows = list(track(pool.imap(render, clips, chunksize=4), "rendering faces", len(clips)))
    else:
        rows = [render(clip) for clip in track(clips, "rendering faces")]
    for split in SPLITS:
        mine = [row for clip, row in zip(clips, rows, strict=True) if clip.split == split]
        table = pd.DataFrame(mine, columns=["path", "subject"] if split == "pretrain" else COLUMNS)
        table.to_csv(out / f"{split}.csv", index=False, lineterminator="\n", float_format="%.6f")
    write_dataset_file(out, _description(config))
    (out / "synth.part.json").rename(out / "synth.json")


def _description(config: SynthConfig) -> PreparedDataset:
    return PreparedDataset(
        name="synth",
        title="Synthetic faces",
        task="classification",
        root=Path("."),
        label_names=CLASSES,
        folds=(Fold("1", train=Path("train.csv"), val=Path("val.csv"), test=Path("test.csv")),),
        pretrain=Path("pretrain.csv"),
        metrics=("uar", "war"),
        counts={split: getattr(config, f"num_{split}") for split in SPLITS},
    )


def plan(config: SynthConfig) -> Iterator[Clip]:
    """All clips of a dataset. Identities are numbered through the splits, so no two splits share one."""
    identity, clip_seed = 0, 0
    for split in SPLITS:
        for number in range(getattr(config, f"num_{split}")):
            place = number % config.clips_per_identity
            identity += place == 0
            seeds = (config.seed * 10_000_019 + identity, config.seed * 10_000_019 + clip_seed)
            yield Clip(split, number, *seeds, CLASSES[number % len(CLASSES)])
            clip_seed += 1


def _is_complete(out: Path, config: SynthConfig) -> bool:
    """Whether the very dataset was finished here; False in an empty folder and in one that was broken off."""
    for name in ("synth.json", "synth.part.json"):
        file = out / name
        if file.exists():
            try:
                there = json.loads(file.read_text())
            except ValueError:
                raise UserError(f"{file}: cannot be read; delete {out} or choose another folder") from None
            if there != asdict(config):
                there = there if isinstance(there, dict) else {}
                changed = ", ".join(k for k, v in asdict(config).items() if there.get(k) != v)
                raise UserError(
                    f"{out}: holds a dataset with other settings ({changed}); delete it or choose another folder"
                )
            return name == "synth.json"
    make_folder(out)
    if any(out.iterdir()):
        raise UserError(f"{out}: is not empty and holds no synthetic dataset; choose another folder")
    return False


def _write_clip(out: Path, config: SynthConfig, clip: Clip) -> dict[str, object]:
    """Render one clip unless it is there, and return its manifest row."""
    cv2.setNumThreads(1)
    from svfap.synth.behaviour import make_behaviour
    from svfap.synth.identity import make_identity

    video, side = out / "videos" / f"{clip.name}.mp4", out / "frames" / f"{clip.name}.csv"
    if video.exists():
        identity = make_identity(clip.identity_seed, config.nuisance)
        behaviour = make_behaviour(config, identity, clip.clip_seed, clip.label)
    else:
        frames, behaviour = render_clip(config, clip.identity_seed, clip.clip_seed, clip.label)
        # The quickest preset does without x264's macroblock tree, whose output varies from one run to the next.
        write_video(video, frames, config.fps, preset="ultrafast")
    values = pd.DataFrame(behaviour.frame_values, columns=list(AFFECT))
    values.to_csv(side, index=False, lineterminator="\n", float_format="%.6f")
    return {
        "path": f"videos/{video.name}",
        "label": clip.label,
        **dict(zip(AFFECT, behaviour.values.tolist(), strict=True)),
        **dict(zip(TRAITS, behaviour.traits.tolist(), strict=True)),
        "subject": f"id{clip.identity_seed:05d}",
        "frame_values": f"frames/{side.name}",
    }
