"""Features of videos: a vector for each window, each time step of a window, or each video."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import cache, cached_property, lru_cache, partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from svfap.console import say
from svfap.data.manifest import TEXT_COLUMNS, Manifest, Sample
from svfap.data.prepared import read_crop
from svfap.data.sources import read_sources
from svfap.data.video import VideoError
from svfap.device import PRECISIONS, pick_device, pick_precision
from svfap.errors import UserError
from svfap.faces.config import CROP_FIELDS, FaceCropConfig
from svfap.features.config import ExtractConfig
from svfap.features.tables import Chunk, check_table, write_table
from svfap.files import check_new, printable
from svfap.jobs.run import result_of, run_jobs, write_failures
from svfap.model.base import Model
from svfap.model.build import create_model
from svfap.model.perceiver import Perceiver
from svfap.model.presets import list_presets
from svfap.predict.predictor import crop_of, detector_of, run_clips
from svfap.predict.reader import Reader
from svfap.predict.table import BOX
from svfap.weights.folder import fingerprint, load_model

# Names in the table for columns of manifests; there, start_s and end_s are those of a window.
SPAN = {"start_s": "sample_start_s", "end_s": "sample_end_s"}
CHUNK_ROWS = 4096
PART_FORMAT = 2  # of the file of one sample: with track, box and confidence
FACE_COLUMNS = ("track", *BOX, "confidence")
TIMEOUT_S = 10.0  # of streams, which have no features
# To continue an interrupted run.
SAME_SETTINGS = (
    *("per", "pool", "hop_s", "precision", "fps", "frames_fps"),
    *("faces", "detect_every", *CROP_FIELDS),
)


class Features(NamedTuple):
    """Rows in the order in which their windows end: start_s and end_s (R,) float64 in seconds of the video, feature (R, D)
    float32; track (R,) int64, box (R, 4) and confidence (R,) float64 as `svfap.Predictor` gives them, track 0 for the whole
    picture."""

    start_s: np.ndarray
    end_s: np.ndarray
    feature: np.ndarray
    track: np.ndarray
    box: np.ndarray
    confidence: np.ndarray


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
    sources: str | Path | Sequence[str | Path], config: ExtractConfig, model: Model | None = None
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
        raise UserError("engine=ray: needs out, a file on a file system that the machines share")
    if model is not None and (config.engine != "local" or config.num_workers > 0 or config.item_timeout_s is not None):
        needed = "engine=local, num_workers=0 and no item_timeout_s"
        raise UserError(f"model: a loaded model runs in this process; use {needed}, or name a folder")
    if config.out is not None:
        check_table(config.out)
        if not _parts_of(config.out).exists():  # otherwise an interrupted run, or videos to be tried again
            check_new(config.out, config.overwrite)
    samples, columns, listed = read_sources(sources, root=config.root, split=config.split)
    searched = _searched(samples, listed, config)
    if reserved := {"feature", *SPAN.values(), *(FACE_COLUMNS if any(searched) else ())} & set(columns):
        raise UserError(f"column '{min(reserved)}' of a manifest: the table has a column of this name; rename it")
    columns = columns.assign(path=columns["path"].map(printable)).rename(columns=SPAN).apply(_as_numbers)
    if Path(config.model).exists():  # other processes may run in another folder
        config = replace(config, model=str(Path(config.model).absolute()))
    extractor = _extractor(config) if model is None else Extractor(config, model)
    settings = {name: getattr(config, name) for name in SAME_SETTINGS}
    settings |= {"weights": fingerprint(extractor.model), "part_format": PART_FORMAT}
    with (
        TemporaryDirectory(prefix="svfap-extract-") if config.out is None else nullcontext(_parts_of(config.out))
    ) as folder:
        parts = Path(folder)
        unreadable = run_jobs(
            partial(_write_part, config if model is None else extractor),
            ((sample.key, item) for sample, item in zip(samples, zip(samples, searched, strict=True), strict=True)),
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
            raise UserError(f"none of {len(samples)} videos could be read; the first is {key}: {reason}")
        chunks = _chunks(parts, samples, unreadable, columns, any(searched))
        if config.out is not None:
            num_rows = write_table(config.out, chunks)
            if not unreadable:
                shutil.rmtree(parts, ignore_errors=True)
            return Extracted(None, num_rows, len(samples), unreadable)
        table = pd.concat([meta.assign(feature=list(feature)) for meta, feature in chunks], ignore_index=True)
    if unreadable:
        say(f"{len(unreadable)} of {len(samples)} videos could not be read; see `unreadable` of the result")
    return Extracted(table, len(table), len(samples), unreadable)


def _parts_of(out: Path) -> Path:
    """The folder of the samples that are finished, until the table is complete."""
    return out.absolute().with_name(f"{out.name}.parts")


def unreadable_list(out: Path) -> Path:
    """The CSV that lists the samples missing from the table `out`."""
    return out.with_name(f"{out.stem}.unreadable.csv")


def _searched(samples: Manifest, listed: list[bool], config: ExtractConfig) -> list[bool]:
    """For each sample, whether faces are searched for in it, which is said; else it is a face crop."""
    if config.faces is not None:
        return [config.faces != "none"] * len(samples)
    cropped = cache(lambda folder: any(read_crop(parent) is not None for parent in (folder, *folder.parents)))
    searched = [not (row or cropped(sample.path.parent)) for sample, row in zip(samples, listed, strict=True)]
    where = {
        "rows of manifests are read as in training, as face crops": sum(listed),
        "clips of `svfap crop` are face crops": len(samples) - sum(listed) - sum(searched),
        "videos are searched for faces": sum(searched),
    }
    say(f"faces: {'; '.join(f'{count} {what}' for what, count in where.items() if count)} (--faces chooses otherwise)")
    return searched


class Extractor:
    """Computes the features of one sample: of the faces that are found in it, or taking it, inside the sample's box, as a face
    crop, of which the model's `frame_fit` says whether all of it is seen or its central square.

    A pre-trained model gives the features of its encoder's last stage, a fine-tuned one the input of its head. model: used
    instead of the one that config.model names. Raises `UserError`.
    """

    def __init__(self, config: ExtractConfig, model: Model | None = None) -> None:
        model = model or _load(config)
        if not isinstance(model, Perceiver):
            task = model.config.task
            raise UserError(f"{config.model}: a model for {task} has no features; load it with task=features")
        self.config, self.model = config, model
        self.device = pick_device(config.device)
        self.dtype = PRECISIONS[pick_precision(config.precision, self.device)]
        self.model.to(self.device).eval()
        self._run = model.features if config.pool == "mean" else model.step_features

    @cached_property
    def _crops(self) -> Reader:
        """Reads face crops."""
        config, model = self.config, self.model.config
        crop, tracking = FaceCropConfig(size_px=model.img_size), config.tracking()
        return Reader(model, config.hop_s, None, crop, tracking, TIMEOUT_S, config.fps, config.frames_fps)

    @cached_property
    def _videos(self) -> Reader:
        """Reads videos, in which faces are searched for."""
        config, model = self.config, self.model.config
        crop = crop_of(model, {name: getattr(config, name) for name in CROP_FIELDS})
        return replace(self._crops, detector=detector_of(model, config.faces, config.face_model), crop=crop)

    def __call__(self, sample: Sample, searched: bool = False) -> Features:
        """Rows of one sample; searched: find faces in it. Raises `VideoError` if it cannot be read or shows no face."""
        windows = (self._videos if searched else self._crops).windows(sample)
        rows: list[tuple[Any, ...]] = []
        with closing(windows):
            while batch := list(islice(windows, self.config.batch_size)):
                clips = np.stack([window.frames for window in batch])
                outputs = run_clips(self._run, clips, self.model.config, self.device, self.dtype).cpu().numpy()
                for window, output in zip(batch, outputs, strict=True):
                    steps = output if self.config.pool == "none" else output[None]
                    for step, (first, start_s, end_s) in zip(steps, window.spans(len(steps)), strict=False):
                        box = window.boxes[first] if self.config.pool == "none" else window.box
                        rows.append((start_s, end_s, step, window.track, box, window.confidence))
        if not rows:
            raise VideoError(sample.path, "no face found; --faces none takes the picture's centre square")
        features = Features(*(np.array(column) for column in zip(*rows, strict=True)))
        return _means(features) if self.config.per == "video" else features


def _means(rows: Features) -> Features:
    """A row for each face, in order of appearance: the mean of its rows, from the start of the first to the end of the last."""
    parts = [Features(*(column[rows.track == track] for column in rows)) for track in np.unique(rows.track)]
    return Features(
        np.array([part.start_s.min() for part in parts]),
        np.array([part.end_s.max() for part in parts]),
        np.array([part.feature.mean(axis=0) for part in parts]),
        np.unique(rows.track),
        np.array([part.box.mean(axis=0) for part in parts]),
        np.array([part.confidence.mean() for part in parts]),
    )


def _load(config: ExtractConfig) -> Model:
    if config.model in list_presets() and not Path(config.model).exists():
        if not config.random_weights:
            raise UserError(
                f"model={config.model}: a preset has random weights, whose features say nothing of affect; name a run or "
                "model folder, or set random_weights for a baseline"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same weights in every process
            return create_model(config.model, "features").eval()
    model = load_model(config.model)
    return model if isinstance(model, Perceiver) else load_model(config.model, task="features")


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
    held: list[Features] = []
    places: list[int] = []  # number of the sample of each row
    for place, sample in enumerate(samples):
        if sample.key not in unreadable:
            with np.load(result_of(parts, sample.key)) as arrays:
                held.append(Features(**arrays))
            places += [place] * len(held[-1].start_s)
        if held and (len(places) >= CHUNK_ROWS or place == len(samples) - 1):
            rows = Features(*(np.concatenate(arrays) for arrays in zip(*held, strict=True)))
            more: dict[str, np.ndarray] = {"start_s": rows.start_s, "end_s": rows.end_s}
            if faces:
                more = {"track": rows.track, **more, **dict(zip(BOX, rows.box.T, strict=True))}
                more["confidence"] = rows.confidence
            meta = columns.iloc[places].reset_index(drop=True)
            for number, (name, values) in enumerate(more.items(), 1):
                meta.insert(number, name, values)
            yield meta, rows.feature
            held, places = [], []


def _write_part(extractor: Extractor | ExtractConfig, item: tuple[Sample, bool], target: Path) -> None:
    """The job of one sample: write its features to a file. extractor: or the settings, from which any process loads it.
    item: the sample, and whether faces are searched for in it."""
    if isinstance(extractor, ExtractConfig):
        extractor = _extractor(extractor)
    with target.open("wb") as file:
        np.savez(file, **extractor(*item)._asdict())


@lru_cache(maxsize=1)
def _extractor(config: ExtractConfig) -> Extractor:
    if multiprocessing.parent_process() is not None and config.num_workers > 0:
        torch.set_num_threads(1)  # several processes share the cores
    return Extractor(config)
