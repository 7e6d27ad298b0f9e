"""Writing a synthetic dataset: videos, values per frame, and one manifest per split."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from svfap.console import counted, track
from svfap.data.prepared import Fold, PreparedDataset, write_dataset_file
from svfap.data.video import write_video
from svfap.errors import UserError
from svfap.files import make_folder
from svfap.jobs.local import run_local
from svfap.jobs.run import has_settings
from svfap.jobs.task import Task, remove_unfinished
from svfap.settings import JobSettings
from svfap.synth.behaviour import make_behaviour
from svfap.synth.camera import render_clip
from svfap.synth.config import AFFECT, CLASSES, TRAITS, RenderConfig, SynthConfig
from svfap.synth.identity import make_identity

SPLITS = ("pretrain", "train", "val", "test")
COLUMNS = ["path", "label", *AFFECT, *TRAITS, "subject", "frame_values"]
RECORD, UNFINISHED_RECORD = "synth.json", "synth.part.json"


class ClipPlan(NamedTuple):
    """One video to render; `number` counts the videos of its split."""

    split: str
    number: int
    identity_seed: int
    clip_seed: int
    label: str

    @property
    def name(self) -> str:
        return f"{self.split}_{self.number:06d}"


class Synthesized(NamedTuple):
    """Numbers of videos: in the dataset, and rendered by this call."""

    num_videos: int
    num_rendered: int


def synthesize(config: SynthConfig) -> Synthesized:
    """Render a dataset into `config.out`, or finish one that was interrupted.

    Writes `videos/*.mp4`, `frames/*.csv` (valence, arousal, dominance of every frame), then the manifests
    `pretrain.csv` (paths and subjects, no labels), `train.csv`, `val.csv` and `test.csv`, whose identities are disjoint,
    `dataset.json` (see `svfap.data.prepared`), and last `synth.json`, the settings. Existing videos are kept, missing ones
    rendered. Raises `UserError` if the folder holds a dataset of other settings, or something else, and for videos that cannot
    be written.
    """
    out = config.out
    finished = _is_finished(out, config)
    clips = list(plan(config))
    tasks = [Task(clip.name, clip, out / "videos" / f"{clip.name}.mp4") for clip in clips]
    missing = [task for task in tasks if not task.target.exists()]
    if finished and not missing:
        return Synthesized(len(clips), 0)
    for folder in ("videos", "frames"):
        make_folder(out / folder)
    (out / UNFINISHED_RECORD).write_text(json.dumps(config.record(), indent=2))
    _render(config, missing)
    rows = [_write_frame_values(out, config, clip) for clip in clips]
    for split in SPLITS:
        of_split = [row for clip, row in zip(clips, rows, strict=True) if clip.split == split]
        table = pd.DataFrame(of_split, columns=["path", "subject"] if split == "pretrain" else COLUMNS)
        table.to_csv(out / f"{split}.csv", index=False, lineterminator="\n", float_format="%.6f")
    write_dataset_file(out, describe_dataset(config))
    (out / UNFINISHED_RECORD).replace(out / RECORD)
    return Synthesized(len(clips), len(missing))


def plan(config: SynthConfig) -> Iterator[ClipPlan]:
    """All videos of a dataset. Identities are numbered across the splits, so no two splits share one."""
    identity, clip_seed = 0, 0
    for split in SPLITS:
        for number in range(getattr(config, f"num_{split}")):
            identity += number % config.clips_per_identity == 0
            seeds = (config.seed * 10_000_019 + identity, config.seed * 10_000_019 + clip_seed)
            yield ClipPlan(split, number, *seeds, CLASSES[number % len(CLASSES)])
            clip_seed += 1


def describe_dataset(config: SynthConfig) -> PreparedDataset:
    """What `dataset.json` says of the dataset. Parts without videos are left out."""
    files = {split: Path(f"{split}.csv") if getattr(config, f"num_{split}") else None for split in SPLITS}
    folds = (Fold("1", train=Path("train.csv"), val=files["val"], test=files["test"]),)
    return PreparedDataset(
        name="synth",
        title="Synthetic faces",
        task="classification",
        root=Path("."),
        label_names=CLASSES,
        folds=folds if config.num_train else (),
        pretrain=files["pretrain"],
        metrics=("uar", "war"),
        counts={split: getattr(config, f"num_{split}") for split in SPLITS},
    )


def _is_finished(out: Path, config: SynthConfig) -> bool:
    """Whether this dataset was finished here; False for an empty folder and for an interrupted run."""
    for name in (RECORD, UNFINISHED_RECORD):
        if has_settings(out / name, config.record(), "delete it or choose another folder"):
            return name == RECORD
    make_folder(out)
    if any(out.iterdir()):
        raise UserError(f"{out}: is not empty and holds no synthetic dataset; choose another folder")
    return False


def _render(config: SynthConfig, tasks: Sequence[Task]) -> None:
    jobs = JobSettings(num_workers=config.num_workers)
    try:
        with closing(run_local(partial(_write_clip, config), iter(tasks), jobs)) as outcomes:
            done = track(outcomes, "rendering faces", len(tasks))
            failures = [f"{task.target}: {reason}" for task, reason in done if reason is not None]
    finally:
        remove_unfinished(config.out / "videos")
    if failures:
        raise UserError(
            f"{len(failures)} of {counted(len(tasks), 'video')} could not be rendered; the first is {failures[0]}"
        )


def _write_clip(config: RenderConfig, clip: ClipPlan, video: Path) -> None:
    cv2.setNumThreads(1)  # the pictures are too small for more
    frames, _ = render_clip(config, clip.identity_seed, clip.clip_seed, clip.label)
    # The fastest preset has no macroblock tree, as the output of that varies from run to run.
    write_video(video, frames, config.fps, preset="ultrafast")


def _write_frame_values(out: Path, config: RenderConfig, clip: ClipPlan) -> dict[str, object]:
    """Write the values of a video's frames; returns its row of the manifest."""
    behaviour = make_behaviour(config, make_identity(clip.identity_seed, config.nuisance), clip.clip_seed, clip.label)
    file = out / "frames" / f"{clip.name}.csv"
    np.savetxt(file, behaviour.frame_values, fmt="%.6f", delimiter=",", header=",".join(AFFECT), comments="")
    return {
        "path": f"videos/{clip.name}.mp4",
        "label": clip.label,
        **dict(zip(AFFECT, behaviour.values.tolist(), strict=True)),
        **dict(zip(TRAITS, behaviour.traits.tolist(), strict=True)),
        "subject": f"id{clip.identity_seed:05d}",
        "frame_values": f"frames/{file.name}",
    }
