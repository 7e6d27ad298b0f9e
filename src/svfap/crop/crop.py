"""Raw videos to a folder of face clips and a manifest of them, for pre-training."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import pandas as pd

from svfap.crop.clips import FaceClip, write_clips
from svfap.crop.config import CropConfig
from svfap.data.manifest import Manifest, Sample
from svfap.data.manifest_rows import CLIP_COLUMNS, SPAN_COLUMNS
from svfap.data.prepared import CROP_FILE, DATASET_FILE
from svfap.data.sources import read_sources
from svfap.errors import UserError
from svfap.faces.detect import MODEL_VARIABLE, make_detector
from svfap.files import make_folder, printable, write_atomically, writing_atomically
from svfap.jobs.run import FAILURES, result_of, run_jobs, write_failures
from svfap.jobs.task import Work, remove

CLIPS, MANIFEST, NO_FACE, LIST = "clips", "manifest.csv", "no_face.csv", "clips.json"
# Settings that may change when a run is resumed.
FREE = ("out", "dataset", "face_model", "root", "split", "engine", "num_workers", "num_gpus", "item_timeout_s")


class Cropped(NamedTuple):
    """The counts of the manifest.

    num_sources: samples given. num_clips, num_tracks, duration_s: clips, face tracks and seconds of clips. no_face: keys of
    samples without a face. failures: key -> reason of samples that could not be read.
    """

    num_sources: int
    num_clips: int
    num_tracks: int
    duration_s: float
    no_face: list[str]
    failures: dict[str, str]


def crop_videos(sources: str | Path | Sequence[str | Path], config: CropConfig) -> Cropped:
    """Write every face in the videos as H.264 clips without sound into `config.out`/clips, and a manifest of them.

    sources: videos, folders of videos or frames, images, and manifests, whose columns are carried over; see
    `svfap.data.sources.read_sources`. The clips are in `config.out`/manifest.csv, in the order of the sources; no_face.csv
    lists samples without a face, failures.csv samples that could not be read. An interrupted run continues when it is started
    again, and samples that failed are tried again. Raises `UserError`, also for clips of other settings in `config.out`.
    """
    out = Path(os.path.abspath(config.out))
    if config.dataset is not None:
        raise UserError("dataset: is in place of sources; give one or the other")
    samples, columns, _ = read_sources(sources, root=config.root, split=config.split, skip=out)
    carried = columns.drop(columns=["path", "box", *SPAN_COLUMNS], errors="ignore")
    _check_columns(carried)
    if (out / DATASET_FILE).exists():
        raise UserError(f"out={config.out}: holds a dataset already; choose another folder")
    config = replace(with_detector(config), out=out)
    make_folder(out)
    folders = [result_of(out / CLIPS, sample.key) for sample in samples]
    for folder in folders:
        if folder.exists() and clips_of(folder) is None:
            remove(folder)
    items = ((sample.key, sample) for sample in samples)
    failures = run_crops(partial(crop_video, config), items, CLIPS, config, settings_of(config), len(samples))
    cropped = _write_manifest(out, samples, folders, carried, failures)
    write_failures(out / NO_FACE, dict.fromkeys(cropped.no_face, "no face found"), ("source", "reason"))
    write_crop_file(config)
    return cropped


def with_detector(config: CropConfig) -> CropConfig:
    """The config with the detector chosen: worker processes need not resolve `auto`, and all videos get the same one."""
    model = config.face_model or os.environ.get(MODEL_VARIABLE)
    config = replace(config, face_model=Path(os.path.abspath(model)) if model else None)
    return replace(config, faces=make_detector(config.faces, config.face_model).name)  # type: ignore[arg-type]


def settings_of(config: CropConfig) -> dict[str, Any]:
    """The settings that clips depend on, as stored beside them."""
    return {name: value for name, value in asdict(config).items() if name not in FREE}


def run_crops(
    work: Work, items: Iterable[tuple[str, Any]], name: str, config: CropConfig, settings: dict[str, Any], total: int
) -> dict[str, str]:
    """Run the jobs, with their results in the folder `name` of `config.out`; list those that fail in failures.csv.

    Returns key -> reason. settings, total: as in `run_jobs`.
    """
    obsolete = ("crop",)  # version 0.1 stored some of these settings a second time
    shown: Any = {"jobs": config, "description": "cropping", "total": total}
    failures = run_jobs(work, items, config.out / name, settings=settings, obsolete=obsolete, **shown)
    (config.out / name / FAILURES).unlink(missing_ok=True)  # it is written beside the manifest instead
    write_failures(config.out / FAILURES, failures, ("source", "reason"))
    return failures


def write_crop_file(config: CropConfig) -> None:
    """Write `config.out`/crop.json, which says how the faces were cut; see `svfap.data.prepared.read_crop`."""
    crop = {name: getattr(config, name) for name in ("margin", "align", "border", "size_px", "fps")}
    write_atomically(config.out / CROP_FILE, json.dumps({**crop, "detector": config.faces}, indent=2) + "\n")


def use_one_thread(config: CropConfig) -> None:
    """In a worker process, as several share the cores."""
    if config.num_workers > 0 or config.engine == "ray":
        cv2.setNumThreads(1)


def crop_video(config: CropConfig, sample: Sample, folder: Path) -> None:
    """The job of one sample: write its clips and the list of them into a new folder."""
    use_one_thread(config)
    folder.mkdir()
    clips = write_clips(sample, folder, config, make_detector(config.faces, config.face_model))
    (folder / LIST).write_text(json.dumps([asdict(clip) for clip in clips], indent=1) + "\n")


def clips_of(folder: Path) -> list[FaceClip] | None:
    """The clips in the folder of a finished sample; None if a file is missing or incomplete, as after a power cut."""
    try:
        clips = [FaceClip(**fields) for fields in json.loads((folder / LIST).read_text())]
        complete = all((folder / clip.name).stat().st_size == clip.num_bytes for clip in clips)
    except (OSError, ValueError, TypeError):
        return None
    return clips if complete else None


def _check_columns(carried: pd.DataFrame) -> None:
    for name in carried.columns:
        if name in CLIP_COLUMNS:
            raise UserError(
                f"column '{name}' of the manifest: the clips' manifest has a column of this name; rename it"
            )
        per_frame = carried[name].str.fullmatch(r"[-+.\deE]+(\s+[-+.\deE]+)+")
        if per_frame.any() or (name == "frame_values" and (carried[name] != "").any()):
            raise UserError(
                f"column '{name}' of the manifest: has a label for each frame, which would not fit the clips; remove the column"
            )


def _write_manifest(
    out: Path, samples: Manifest, folders: Sequence[Path], carried: pd.DataFrame, failures: dict[str, str]
) -> Cropped:
    num_clips, num_tracks, duration_s, no_face = 0, 0, 0.0, []
    with writing_atomically(out / MANIFEST) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", *CLIP_COLUMNS, *carried.columns])
        for sample, folder, cells in zip(samples, folders, carried.to_numpy().tolist(), strict=True):
            clips = clips_of(folder)
            if clips == []:
                no_face.append(sample.key)
            source = printable(sample.path)
            for clip in clips or ():
                path = (folder / clip.name).relative_to(out).as_posix()
                values = [clip.track, clip.source_start_s, clip.source_end_s, clip.face_px]
                writer.writerow([path, source, *values, *cells])
                duration_s += clip.source_end_s - clip.source_start_s
            num_clips += len(clips or ())
            num_tracks += len({clip.track for clip in clips or ()})
    return Cropped(len(samples), num_clips, num_tracks, duration_s, no_face, failures)
