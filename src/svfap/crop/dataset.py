"""The face of every clip of a prepared dataset, as the same dataset: names, folds, labels, subjects and groups stay."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pandas as pd

from svfap.crop.clips import OneFace, write_one_face
from svfap.crop.config import CropConfig
from svfap.crop.crop import (
    CLIPS,
    MANIFEST,
    NO_FACE,
    run_crops,
    settings_of,
    use_one_thread,
    with_detector,
    write_crop_file,
)
from svfap.data.manifest import Manifest, Sample, read_whole_manifest
from svfap.data.manifest_rows import SPAN_COLUMNS
from svfap.data.prepared import (
    DATASET_FILE,
    Fold,
    PreparedDataset,
    in_crops,
    read_crop,
    read_dataset,
    replacing_dataset,
    write_dataset_file,
)
from svfap.data.suffixes import VIDEO_SUFFIXES
from svfap.errors import UserError
from svfap.faces.detect import make_detector
from svfap.files import make_folder, only_writer, write_atomically, writing_atomically
from svfap.jobs.run import FAILURES, result_of, write_failures

RECORDS, TABLE = "records", "crops.csv"


class CroppedDataset(NamedTuple):
    """dataset: as written. num_clips: clips cut. no_face: keys of clips without a face. failures: key -> why unreadable."""

    dataset: PreparedDataset
    num_clips: int
    no_face: list[str]
    failures: dict[str, str]


class _Part(NamedTuple):
    """One manifest: its samples, its rows as text, and the key of each row's clip."""

    name: str
    samples: Manifest
    text: pd.DataFrame
    keys: list[str]


class _Clips(NamedTuple):
    """Every clip of a dataset once, however many folds list it.

    rows: key -> number of a part, and of a row in it. paths: key -> path of its face clip, relative to the folder of clips.
    """

    parts: list[_Part]
    rows: dict[str, tuple[int, int]]
    paths: dict[str, str]


def crop_dataset(config: CropConfig) -> CroppedDataset:
    """Cut the face of every clip of `config.dataset` and write the dataset with the face clips into `config.out`.

    A clip keeps its path, with the suffix .mp4, in `config.out`/clips; one that several folds list is cut once. It shows the
    largest face, within the time span and box of the manifest; see `write_one_face`. With labels per frame it has every
    picture of its video, and time spans stay in the manifest. Clips without a face (no_face.csv) and unreadable ones
    (failures.csv) are left out of the manifests. crops.csv has a row for each face clip, crop.json the settings. An
    interrupted run is continued.

    Raises `UserError` for a folder that is no dataset or one of face crops, a part without any face, and for results of other
    settings in `out`.
    """
    if config.dataset is None:
        raise UserError("dataset: give a folder of `svfap prepare`")
    source, out = read_dataset(config.dataset), Path(os.path.abspath(config.out))
    if Path(os.path.abspath(config.dataset)) == out:
        raise UserError(f"out={config.out}: is the dataset itself; choose another folder")
    if (out / MANIFEST).exists():
        raise UserError(f"out={config.out}: holds the clips of other videos; choose another folder")
    if source.frame_level and config.fps is not None:
        raise UserError(
            f"fps={config.fps:g}: {source.title} has a label for each frame, which would not fit other frames"
        )
    if source.pictures == "faces" or read_crop(config.dataset) is not None or in_crops(source.root):
        raise UserError(
            f"dataset={config.dataset}: the clips of {source.title} are face crops already; use it as it is, or crop the dataset "
            "of the whole frames"
        )
    config = replace(with_detector(config), out=out)
    clips = _read(source)
    make_folder(out)
    with only_writer(out / DATASET_FILE), replacing_dataset(out, source.name):
        return _crop(source, clips, config)


def _crop(source: PreparedDataset, clips: _Clips, config: CropConfig) -> CroppedDataset:
    out = config.out
    for part in (out / CLIPS).rglob(".*.[0-9]*.mp4"):  # left behind by a process that was killed
        part.unlink()
    for key, path in clips.paths.items():
        record = result_of(out / RECORDS, key)
        if record.exists() and not _is_complete(record, out / CLIPS, path):
            record.unlink()
    # Samples are made when they are needed, as there may be a million.
    items = ((key, (clips.parts[part].samples[row], clips.paths[key])) for key, (part, row) in clips.rows.items())
    settings = {**settings_of(config), "videos": str(source.root), "frame_level": source.frame_level}
    work = partial(_crop_clip, config, source.frame_level)
    failures = run_crops(work, items, RECORDS, config, settings, len(clips.rows))
    faces = {key: _read_record(result_of(out / RECORDS, key))[1] for key in clips.rows if key not in failures}
    no_face = [key for key, face in faces.items() if face is None]
    write_failures(out / NO_FACE, dict.fromkeys(no_face, "no face found"), ("source", "reason"))
    paths = {key: path for key, path in clips.paths.items() if faces.get(key) is not None}
    rows = ({"path": path, "source": key, **asdict(faces[key])} for key, path in paths.items())  # type: ignore[arg-type]
    with writing_atomically(out / TABLE) as stream:
        pd.DataFrame(rows).drop(columns="num_bytes", errors="ignore").to_csv(stream, index=False, lineterminator="\n")
    counts = {part.name: _write_part(part, out, paths, source) for part in clips.parts}
    write_crop_file(config)
    numbers = {"cropped_from": str(config.dataset), "no_face": len(no_face), "unreadable": len(failures)}
    dataset = replace(
        source,
        root=Path(CLIPS),
        folds=tuple(Fold(fold.name, *map(_name, (fold.train, fold.test, fold.val))) for fold in source.folds),  # type: ignore[arg-type]
        pretrain=_name(source.pretrain),
        pictures="faces",
        counts=counts,
        notes={**source.notes, **numbers},
    )
    write_dataset_file(out, dataset)
    return CroppedDataset(read_dataset(out), len(paths), no_face, failures)


def _name(manifest: Path | None) -> Path | None:
    return None if manifest is None else Path(manifest.name)


def _read(source: PreparedDataset) -> _Clips:
    """The clips and manifests of a dataset. Raises `UserError`."""
    parts: list[_Part] = []
    rows: dict[str, tuple[int, int]] = {}
    written: dict[str, str] = {}
    for name, path in source.manifests().items():
        samples, text = read_whole_manifest(path, root=source.root)
        keys = []
        for row, (sample, cell) in enumerate(zip(samples, text["path"], strict=True)):
            key = sample.key
            if source.frame_level:  # all spans of a video are in one clip
                key = cell + (key[key.rindex("#xywh=") :] if sample.box is not None else "")
            rows.setdefault(key, (len(parts), row))
            written.setdefault(key, cell)
            keys.append(key)
        parts.append(_Part(name, samples, text, keys))
    return _Clips(parts, rows, clip_names(written))


def clip_names(sources: dict[str, str]) -> dict[str, str]:
    """Key of a sample -> path of its clip: that of its video with the suffix .mp4, more where that is not unique.

    sources: key -> path as the manifest has it; a key is this path, with the time span and box that it may have after it.
    """

    def inside(key: str) -> PurePosixPath:
        path = PurePosixPath(sources[key])
        return PurePosixPath(*(part for part in path.parts if part not in (path.anchor, "..")))

    def short(key: str) -> str:
        path = inside(key)
        return str(path.with_suffix("") if path.suffix.lower() in VIDEO_SUFFIXES else path)

    def span(key: str) -> str:
        return re.sub(r"[^0-9.]+", "_", key.removeprefix(sources[key]))

    forms: list[Callable[[str], str]] = [
        short,
        lambda key: short(key) + span(key),
        lambda key: str(inside(key)) + span(key),
        lambda key: f"{short(key)}-{hashlib.sha256(key.encode()).hexdigest()[:12]}",
    ]
    names: dict[str, str] = {}
    taken: set[str] = set()
    waiting = list(sources)
    for form in forms:
        made = {key: f"{form(key)}.mp4" for key in waiting}
        times = Counter(name.casefold() for name in made.values())  # file systems need not tell a from A
        names |= {
            key: name for key, name in made.items() if times[name.casefold()] == 1 and name.casefold() not in taken
        }
        taken |= set(times)
        waiting = [key for key in waiting if key not in names]
    return names


def _crop_clip(config: CropConfig, frame_level: bool, clip: tuple[Sample, str], record: Path) -> None:
    """The job of one clip: write its face clip, then the record that it is done."""
    use_one_thread(config)
    sample, path = clip
    detector = make_detector(config.faces, config.face_model)
    face = write_one_face(sample, config.out / CLIPS / path, config, detector, frame_level)
    content: dict[str, Any] = {"clip": None} if face is None else {"clip": path, **asdict(face)}
    record.write_text(json.dumps(content) + "\n")


def _read_record(record: Path) -> tuple[str | None, OneFace | None]:
    """The path of the face clip of a record, and what it shows; None, None if the clip has no face."""
    content = json.loads(record.read_text())
    path = content.pop("clip")
    return path, None if path is None else OneFace(**content)


def _is_complete(record: Path, folder: Path, path: str) -> bool:
    """Whether a record can be read, and its face clip is there and whole."""
    try:
        written, face = _read_record(record)
        return face is None or (written == path and (folder / path).stat().st_size == face.num_bytes)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def _write_part(part: _Part, out: Path, paths: dict[str, str], source: PreparedDataset) -> int:
    """Write a manifest with the rows that have a face clip; returns their number. Raises `UserError` if there is none."""
    consumed = ["box"] if source.frame_level else ["box", *SPAN_COLUMNS]
    text = part.text.assign(path=[paths.get(key, "") for key in part.keys])
    text = text[text["path"] != ""].drop(columns=consumed, errors="ignore")
    if text.empty:
        raise UserError(
            f"{out}: none of the {len(part.keys)} clips of {part.name} has a face clip; see {NO_FACE} and {FAILURES}"
        )
    if "frame_values" in text:
        text = text.assign(
            frame_values=[_labels_beside(cell, source.root, out / CLIPS) for cell in text["frame_values"]]
        )
    write_atomically(out / f"{part.name}.csv", text.to_csv(index=False, lineterminator="\n"))
    return len(text)


def _labels_beside(cell: str, root: Path, folder: Path) -> str:
    """The path of a copy of a file of labels per frame, relative to `folder`; of the file itself if that lies outside root."""
    inside = PurePosixPath(cell)
    if not cell or inside.is_absolute() or ".." in inside.parts:
        return cell and os.path.abspath(root / cell)
    copy = folder / cell
    if (root / cell).is_file() and not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / cell, copy)
    return cell
