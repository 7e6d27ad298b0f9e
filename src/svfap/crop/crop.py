"""From raw videos to a folder of face-crop clips and its manifest: the road to a pre-training set."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import pandas as pd

from svfap.crop.clips import Clip, ClipConfig, write_clips
from svfap.data.manifest import (
    BOX_COLUMNS,
    CLIP_COLUMNS,
    SPAN_COLUMNS,
    Manifest,
    Sample,
    read_whole_manifest,
)
from svfap.data.sources import MANIFEST_SUFFIXES, VIDEO_SUFFIXES
from svfap.errors import UserError
from svfap.faces.detect import MODEL_VARIABLE, make_detector
from svfap.files import make_folder, writing_atomically
from svfap.jobs.run import FAILURES, check_engine, result_of, run_bulk, write_failures
from svfap.jobs.task import remove

CLIPS, MANIFEST, NO_FACE, LIST = "clips", "manifest.csv", "no_face.csv", "clips.json"


class Cropped(NamedTuple):
    """How many sources, clips and tracks, and seconds of clips; sources without a face; source -> why it failed."""

    num_sources: int
    num_clips: int
    num_tracks: int
    duration_s: float
    no_face: list[str]
    failures: dict[str, str]


def crop_videos(
    sources: Sequence[str | Path],
    out: Path,
    config: ClipConfig = ClipConfig(),  # noqa: B008 - frozen
    *,
    root: str | Path | None = None,
    split: str | None = None,
    engine: Literal["local", "ray"] = "local",
    num_workers: int = 0,
) -> Cropped:
    """Write every face of many videos as H.264 clips without sound into `out`/clips, and `out`/manifest.csv of them.

    sources: videos, folders that are searched for videos, and manifests (.csv, .txt) whose columns come along. root,
    split: as in `read_manifest`. engine, num_workers: see `run_bulk`. A run that was broken off goes on when started
    again. The manifest has the clips of all sources that are finished, in the sources' order; no_face.csv lists those
    without a face, failures.csv those that could not be read, which the next run tries again. Raises `UserError`.
    """
    check_engine(engine, num_workers)
    out = Path(os.path.abspath(out))
    samples, carried = read_sources(sources, out, root, split)
    # Settled once, here: no process need find out for itself what `auto` means, and one detector serves all videos.
    model = config.face_model or os.environ.get(MODEL_VARIABLE)
    config = replace(config, face_model=Path(os.path.abspath(model)) if model else None)
    config = replace(config, faces=make_detector(config.faces, config.face_model).name)  # type: ignore[arg-type]
    make_folder(out)
    folders = [result_of(out / CLIPS, sample.key) for sample in samples]
    for folder in folders:
        if folder.exists() and clips_of(folder) is None:
            remove(folder)
    settings = asdict(config)
    settings = {**settings, **settings.pop("crop")}
    del settings["face_model"]
    failures = run_bulk(
        partial(crop_video, config, num_workers > 0 or engine == "ray"),
        ((sample.key, sample) for sample in samples),
        out / CLIPS,
        settings=settings,
        engine=engine,
        num_workers=num_workers,
        description="cropping",
        total=len(samples),
    )
    (out / CLIPS / FAILURES).unlink(missing_ok=True)  # there is one already, with the manifest
    write_failures(out / FAILURES, failures, ("source", "reason"))
    cropped = Cropped(len(samples), *_write_manifest(out, samples, folders, carried), failures)
    write_failures(out / NO_FACE, dict.fromkeys(cropped.no_face, "no face found"), ("source", "reason"))
    return cropped


def crop_video(config: ClipConfig, one_thread: bool, sample: Sample, folder: Path) -> None:
    """The work on one sample, wherever it is done: a folder of clips and the list of them."""
    if one_thread:
        cv2.setNumThreads(1)  # the processors are shared by processes
    folder.mkdir()
    clips = write_clips(sample, folder, config, make_detector(config.faces, config.face_model))
    (folder / LIST).write_text(json.dumps([asdict(clip) for clip in clips], indent=1) + "\n")


def clips_of(folder: Path) -> list[Clip] | None:
    """The clips in the folder of a finished source; None where something is missing of them, as after a power cut."""
    try:
        clips = [Clip(**words) for words in json.loads((folder / LIST).read_text())]
        whole = all((folder / clip.name).stat().st_size == clip.num_bytes for clip in clips)
    except (OSError, ValueError, TypeError):
        return None
    return clips if whole else None


def read_sources(
    sources: Sequence[str | Path], out: Path, root: str | Path | None = None, split: str | None = None
) -> tuple[Manifest, pd.DataFrame]:
    """All samples, their paths absolute, and row for row what their manifests' other columns say, as text.

    Folders are searched in all depths, except `out`, for files with VIDEO_SUFFIXES, in order of their names.
    Raises `UserError`.
    """
    tables, texts, num_manifests = [], [], 0
    for source in map(Path, sources):
        if source.is_dir():
            paths = [str(path) for path in _find_videos(source, out)]
            if not paths:
                raise UserError(
                    f"{source}: holds no videos ({', '.join(VIDEO_SUFFIXES)}); folders of frames go into a manifest"
                )
            tables.append(pd.DataFrame({"path": paths}))
            texts.append(pd.DataFrame(index=range(len(paths))))
        elif source.suffix.lower() in MANIFEST_SUFFIXES:
            manifest, text = read_whole_manifest(source, root=root, split=split)
            _check_columns(source, text)
            num_manifests += 1
            tables.append(manifest.table.assign(path=[str(manifest.root / path) for path in text["path"]]))
            texts.append(text.drop(columns=["path", "box", *SPAN_COLUMNS], errors="ignore"))
        elif source.exists():
            tables.append(pd.DataFrame({"path": [str(source)]}))
            texts.append(pd.DataFrame(index=range(1)))
        else:
            raise UserError(f"{source}: no such file or folder")
    if num_manifests == 0 and (root is not None or split is not None):
        raise UserError("root and split are for manifests, and none is given")
    table = pd.concat(tables, ignore_index=True)
    table["path"] = table["path"].map(os.path.abspath)
    table = table[[name for name in ("path", *SPAN_COLUMNS, *BOX_COLUMNS) if name in table]]
    again = table.duplicated().to_numpy()
    if again.any():
        raise UserError(f"{table['path'][again].iloc[0]}: comes twice; give every video or sample once")
    return Manifest(Path(sources[0]), Path(), table), pd.concat(texts, ignore_index=True).fillna("")


def _find_videos(folder: Path, out: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if Path(os.path.abspath(place), name) != out)
        for name in sorted(names):
            if Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith("."):
                yield Path(place, name)


def _check_columns(source: Path, text: pd.DataFrame) -> None:
    for name in CLIP_COLUMNS:
        if name in text:
            raise UserError(f"{source}: column '{name}' has a name that the clips' manifest needs; give it another")
    for name in text.columns.difference(["path", "box"]):
        numbers = text[name].str.fullmatch(r"[-+.\deE]+(\s+[-+.\deE]+)+")
        if numbers.any() or (name == "frame_values" and (text[name] != "").any()):
            raise UserError(
                f"{source}: column '{name}' has labels of single frames, which would no longer fit; remove the column"
            )


def _write_manifest(
    out: Path, samples: Manifest, folders: Sequence[Path], carried: pd.DataFrame
) -> tuple[int, int, float, list[str]]:
    """Write the manifest; returns the numbers of clips and tracks, their seconds, and the samples without any."""
    num_clips, num_tracks, duration_s = 0, 0, 0.0
    no_face = []
    with writing_atomically(out / MANIFEST) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", *CLIP_COLUMNS, *carried.columns])
        for sample, folder, cells in zip(samples, folders, carried.to_numpy().tolist(), strict=True):
            clips = clips_of(folder)
            if clips is None:
                continue
            if not clips:
                no_face.append(sample.key)
            source = str(sample.path).encode("utf-8", "backslashreplace").decode()  # names of files need not be text
            for clip in clips:
                path = (folder / clip.name).relative_to(out).as_posix()
                values = [clip.track, clip.source_start_s, clip.source_end_s, clip.face_px]
                writer.writerow([path, source, *values, *cells])
                duration_s += clip.source_end_s - clip.source_start_s
            num_clips += len(clips)
            num_tracks += len({clip.track for clip in clips})
    return num_clips, num_tracks, duration_s, no_face
