"""Features of videos: a vector for each window, each time step of a window, or each video."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from svfap.console import say
from svfap.data.augment import center_crop
from svfap.data.manifest import TEXT_COLUMNS, Manifest, Sample
from svfap.data.sample import frames_between, inside_box, span_of
from svfap.data.sources import read_sources
from svfap.data.video import open_video
from svfap.device import PRECISIONS, pick_device, pick_precision
from svfap.errors import UserError
from svfap.features.config import ExtractConfig
from svfap.features.tables import Chunk, check_table, write_table
from svfap.jobs.run import result_of, run_jobs, write_failures
from svfap.model.base import Model
from svfap.model.build import create_model
from svfap.model.perceiver import Perceiver
from svfap.model.presets import list_presets
from svfap.predict.predictor import run_clips
from svfap.predict.windows import hop_frames, iter_windows, whole_pictures
from svfap.weights.folder import fingerprint, load_model

# Names in the table for columns of manifests; there, start_s and end_s are those of a window.
SPAN = {"start_s": "sample_start_s", "end_s": "sample_end_s"}
CHUNK_ROWS = 4096


class Features(NamedTuple):
    """Rows in order of time: start_s and end_s (R,) float64 in seconds of the video, feature (R, D) float32."""

    start_s: np.ndarray
    end_s: np.ndarray
    feature: np.ndarray


class Extracted(NamedTuple):
    """The features of several videos.

    table: the rows, if no file was asked for, else None. Columns: path, start_s and end_s (seconds of the video), those of
    the manifests, and feature, an array (D,) float32 in each row. num_rows: in the table or file. num_videos: samples given.
    unreadable: absolute path -> reason of the samples that could not be read, which have no rows.
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
    holds the list of samples and the features of a few of them. Raises `UserError`, also if no sample can be read.
    """
    if config.engine == "ray" and config.out is None:
        raise UserError("engine=ray: needs out, a file on a file system that the machines share")
    if model is not None and (config.engine != "local" or config.num_workers > 0 or config.item_timeout_s is not None):
        needed = "engine=local, num_workers=0 and no item_timeout_s"
        raise UserError(f"model: a loaded model runs in this process; use {needed}, or name a folder")
    if config.out is not None:
        check_table(config.out)
    samples, columns = read_sources(sources, root=config.root, split=config.split)
    if reserved := {"feature", *SPAN.values()} & set(columns):
        raise UserError(f"column '{min(reserved)}' of a manifest: the table has a column of this name; rename it")
    columns = columns.rename(columns=SPAN).apply(_as_numbers)
    if Path(config.model).exists():  # other processes may run in another folder
        config = replace(config, model=str(Path(config.model).absolute()))
    extractor = _extractor(config) if model is None else Extractor(config, model)
    settings = {name: getattr(config, name) for name in ("per", "pool", "hop_s", "precision")}
    settings["weights"] = fingerprint(extractor.model)
    with (
        TemporaryDirectory(prefix="svfap-extract-")
        if config.out is None
        else nullcontext(config.out.absolute().with_name(f"{config.out.name}.parts"))
    ) as folder:
        parts = Path(folder)
        unreadable = run_jobs(
            partial(_write_part, config if model is None else extractor),
            ((sample.key, sample) for sample in samples),
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
        chunks = _chunks(parts, samples, unreadable, columns)
        if config.out is not None:
            num_rows = write_table(config.out, chunks)
            if not unreadable:
                shutil.rmtree(parts, ignore_errors=True)
            return Extracted(None, num_rows, len(samples), unreadable)
        table = pd.concat([meta.assign(feature=list(feature)) for meta, feature in chunks], ignore_index=True)
    if unreadable:
        say(f"{len(unreadable)} of {len(samples)} videos could not be read; see `unreadable` of the result")
    return Extracted(table, len(table), len(samples), unreadable)


def unreadable_list(out: Path) -> Path:
    """The CSV that lists the samples missing from the table `out`."""
    return out.with_name(f"{out.stem}.unreadable.csv")


class Extractor:
    """Computes the features of one sample. The frame is taken as a face crop: its centre square, inside the sample's box.

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

    def __call__(self, sample: Sample) -> Features:
        """Rows of one sample. Raises `VideoError` if it cannot be read."""
        config = self.model.config
        spans: list[tuple[float, float]] = []
        vectors: list[np.ndarray] = []
        with open_video(sample.path) as video:
            frames = whole_pictures(frames_between(video, *span_of(video, sample)))
            hop = hop_frames(config, self.config.hop_s, video.fps)
            windows = iter_windows(
                frames, config.num_frames, config.sampling_stride, hop,
                lambda frame, _: center_crop(inside_box(frame[None], sample), config.img_size)[0], video.parted,
            )  # fmt: skip
            while batch := list(islice(windows, self.config.batch_size)):
                clips = np.stack([window.frames for window in batch])
                outputs = run_clips(self._run, clips, config, self.device, self.dtype).cpu().numpy()
                for window, output in zip(batch, outputs, strict=True):
                    steps = output if self.config.pool == "none" else output[None]
                    parts = [(start_s, end_s) for _, start_s, end_s in window.spans(len(steps))]
                    spans += parts
                    vectors += list(steps[: len(parts)])
        if self.config.per == "video":
            spans, vectors = [(spans[0][0], spans[-1][1])], [np.mean(vectors, axis=0)]
        start_s, end_s = np.array(spans).T
        return Features(start_s, end_s, np.stack(vectors))


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


def _chunks(parts: Path, samples: Manifest, unreadable: dict[str, str], columns: pd.DataFrame) -> Iterator[Chunk]:
    """The rows of all samples, about CHUNK_ROWS at a time; columns: a row for each sample."""
    held: list[Features] = []
    places: list[int] = []  # number of the sample of each row
    for place, sample in enumerate(samples):
        if sample.key not in unreadable:
            with np.load(result_of(parts, sample.key)) as arrays:
                held.append(Features(**arrays))
            places += [place] * len(held[-1].start_s)
        if held and (len(places) >= CHUNK_ROWS or place == len(samples) - 1):
            start_s, end_s, feature = (np.concatenate(arrays) for arrays in zip(*held, strict=True))
            meta = columns.iloc[places].reset_index(drop=True)
            meta.insert(1, "start_s", start_s)
            meta.insert(2, "end_s", end_s)
            yield meta, feature
            held, places = [], []


def _write_part(extractor: Extractor | ExtractConfig, sample: Sample, target: Path) -> None:
    """The job of one sample: write its features to a file. extractor: or the settings, from which any process loads it."""
    if isinstance(extractor, ExtractConfig):
        extractor = _extractor(extractor)
    with target.open("wb") as file:
        np.savez(file, **extractor(sample)._asdict())


@lru_cache(maxsize=1)
def _extractor(config: ExtractConfig) -> Extractor:
    if multiprocessing.parent_process() is not None and config.num_workers > 0:
        torch.set_num_threads(1)  # several processes share the cores
    return Extractor(config)
