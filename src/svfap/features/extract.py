"""`svfap extract`: features of videos, a vector for each window, each time step of a window, or each video."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from svfap.console import counted, say
from svfap.data.manifest import Manifest
from svfap.data.manifest_rows import TEXT_COLUMNS
from svfap.data.prepared import in_crops, say_crops
from svfap.data.sources import read_sources
from svfap.errors import UserError
from svfap.faces.config import CROP_FIELDS
from svfap.features.config import ExtractConfig
from svfap.features.tables import Chunk, check_table, write_table
from svfap.files import check_new, printable
from svfap.jobs.run import result_of, run_jobs, write_failures
from svfap.model.presets import list_presets
from svfap.predict.table import BOX
from svfap.settings import require_model
from svfap.shipped import find_model, shipped_folder

if TYPE_CHECKING:
    from svfap.features.extractor import Features
    from svfap.model.base import Model
    from svfap.weights.exported import ExportedModel

# Names in the table for columns of manifests; there, start_s and end_s are those of a window.
SPAN = {"start_s": "sample_start_s", "end_s": "sample_end_s"}
CHUNK_ROWS = 4096
PART_FORMAT = 2  # of the file of one sample: with track, box and confidence
FACE_COLUMNS = ("track", *BOX, "confidence")
# To continue an interrupted run.
SAME_SETTINGS = ("per", "pool", "hop_s", "precision", "fps", "frames_fps", "faces", "detect_every", *CROP_FIELDS)


class Extracted(NamedTuple):
    """The features of several videos.

    table: the rows, if no file was asked for, else None. Columns: path, start_s and end_s (seconds of the video), those of
    the manifests, and feature, an array (D,) float32 in each row; where faces were searched for also track, box_x, box_y,
    box_w, box_h and confidence, as `svfap.Predictor` gives them. num_rows: in the table or file. num_videos: samples given.
    unreadable: absolute path -> reason of the samples that could not be read or show no face, which have no rows.
    """

    table: pd.DataFrame | None
    num_rows: int
    num_videos: int
    unreadable: dict[str, str]


def extract_features(
    sources: str | Path | Sequence[str | Path], config: ExtractConfig, model: Model | ExportedModel | None = None
) -> Extracted:
    """Compute the features of videos, as a table in memory or, with `config.out`, in a file; in the order of the sources.

    sources: videos, folders of videos or frames, images, and manifests, whose columns are carried over; see
    `svfap.data.sources.read_sources`. model: a loaded model, used instead of the one that `config.model` names.

    With a file, finished samples are kept in the folder `out`.parts, from which an interrupted run continues; samples that
    could not be read are listed in `NAME.unreadable.csv` beside `out`, and `out`.parts is then kept for another try. Memory
    holds the list of samples and the features of a few of them. Raises `UserError`, also if no sample can be read, or if a
    complete table would be replaced without `overwrite`.
    """
    if config.engine == "ray" and config.out is None:
        raise UserError("engine=ray: needs `out`, a file on a file system that the machines share")
    if model is not None and (config.engine != "local" or config.num_workers > 0 or config.item_timeout_s is not None):
        needed = "engine=local, num_workers=0 and no item_timeout_s"
        raise UserError(f"model: a loaded model runs in this process; use {needed}, or name a folder")
    if model is None and config.model not in list_presets():
        require_model(config.model)
    if config.out is not None:
        check_table(config.out)
        if not _parts_of(config.out).exists():  # otherwise an interrupted run, or videos to be tried again
            check_new(config.out, config.overwrite)
    samples, columns, manifests = read_sources(sources, root=config.root, split=config.split)
    searched = _searched(samples, manifests, config)
    if reserved := {"feature", *SPAN.values(), *(FACE_COLUMNS if any(searched) else ())} & set(columns):
        raise UserError(f"column '{min(reserved)}' of a manifest: the table has a column of this name; rename it")
    columns = columns.assign(path=columns["path"].map(printable)).rename(columns=SPAN).apply(_as_numbers)
    # Other processes may run in another folder.
    if shipped_folder(config.model) is None and (found := find_model(config.model)) is not None:
        config = replace(config, model=found.absolute)
    from svfap.features.extractor import Extractor, extractor_of, write_part  # imports torch, which takes seconds
    from svfap.predict.predictor import warn_of_whole_pictures
    from svfap.weights.exported import fingerprint_of

    extractor = extractor_of(config) if model is None else Extractor(config, model)
    shape = extractor.model.config
    for manifest in dict.fromkeys(manifests):
        crops = samples.subset([n for n, of in enumerate(manifests) if of == manifest and not searched[n]])
        if manifest is None and config.faces == "none":
            warn_of_whole_pictures(shape, (sample.path for sample in crops))
        else:
            say_crops(shape.face_crop, crops.folders, manifest)
    settings = {name: getattr(config, name) for name in SAME_SETTINGS}
    settings |= {"weights": fingerprint_of(extractor.model), "part_format": PART_FORMAT}
    with (
        TemporaryDirectory(prefix="svfap-extract-") if config.out is None else nullcontext(_parts_of(config.out))
    ) as folder:
        parts = Path(folder)
        unreadable = run_jobs(
            partial(write_part, config if model is None else extractor),
            ((sample.key, (sample, faces)) for sample, faces in zip(samples, searched, strict=True)),
            parts,
            settings=settings,
            jobs=config,
            description="extracting",
            total=len(samples),
        )
        if config.out is not None:
            write_failures(unreadable_list(config.out), unreadable, ("path", "reason"))
        if len(unreadable) == len(samples):
            key, reason = next(iter(unreadable.items()))
            raise UserError(f"none of {counted(len(samples), 'video')} could be read; the first is {key}: {reason}")
        chunks = _chunks(parts, samples, unreadable, columns, any(searched))
        if config.out is not None:
            num_rows = write_table(config.out, chunks)
            if not unreadable:
                shutil.rmtree(parts, ignore_errors=True)
            return Extracted(None, num_rows, len(samples), unreadable)
        table = pd.concat([meta.assign(feature=list(feature)) for meta, feature in chunks], ignore_index=True)
    if unreadable:
        say(f"{len(unreadable)} of {counted(len(samples), 'video')} could not be read; see `unreadable` of the result")
    return Extracted(table, len(table), len(samples), unreadable)


def _parts_of(out: Path) -> Path:
    """The folder of the samples that are finished, until the table is complete."""
    return out.absolute().with_name(f"{out.name}.parts")


def unreadable_list(out: Path) -> Path:
    """The CSV that lists the samples missing from the table `out`."""
    return out.with_name(f"{out.stem}.unreadable.csv")


def _searched(samples: Manifest, manifests: list[Path | None], config: ExtractConfig) -> list[bool]:
    """For each sample, whether faces are searched for in it; else it is a face crop. Says how many there are of each."""
    if config.faces is not None:
        return [config.faces != "none"] * len(samples)
    cropped = cache(in_crops)
    listed = [manifest is not None for manifest in manifests]
    searched = [not (row or cropped(sample.path.parent)) for sample, row in zip(samples, listed, strict=True)]
    counts = (
        (sum(listed), "row", " of manifests: read as in training, as face crops"),
        (len(samples) - sum(listed) - sum(searched), "clip", " of `svfap crop`: face crops"),
        (sum(searched), "video", ": searched for faces"),
    )
    where = "; ".join(f"{counted(number, what)}{how}" for number, what, how in counts if number)
    say(f"faces: {where} (--faces chooses otherwise)")
    return searched


def _as_numbers(column: pd.Series) -> pd.Series:
    """The column as float64 if every entry that is not empty is a number; subjects, splits and groups stay text."""
    if column.name in ("path", *TEXT_COLUMNS) or (column == "").all():
        return column
    numbers = pd.to_numeric(column.where(column != ""), errors="coerce")
    return numbers if (numbers.notna() | (column == "")).all() else column


def _chunks(
    parts: Path, samples: Manifest, unreadable: dict[str, str], columns: pd.DataFrame, faces: bool
) -> Iterator[Chunk]:
    """The rows of all samples, about CHUNK_ROWS at a time; columns: a row for each sample. faces: with `FACE_COLUMNS`."""
    from svfap.features.extractor import Features

    held: list[Features] = []
    places: list[int] = []  # number of the sample of each row
    for place, sample in enumerate(samples):
        if sample.key not in unreadable:
            with np.load(result_of(parts, sample.key)) as arrays:
                held.append(Features(**arrays))
            places += [place] * len(held[-1].start_s)
        if held and (len(places) >= CHUNK_ROWS or place == len(samples) - 1):
            rows = Features(*map(np.concatenate, zip(*held, strict=True)))
            more = {"start_s": rows.start_s, "end_s": rows.end_s}
            if faces:
                more = {"track": rows.track, **more, **dict(zip(BOX, rows.box.T, strict=True))}
                more["confidence"] = rows.confidence
            meta = columns.iloc[places].reset_index(drop=True)
            for number, (name, values) in enumerate(more.items(), 1):
                meta.insert(number, name, values)
            yield meta, rows.feature
            held, places = [], []
