"""Features of video: a vector for each window, each time step of a window, or each video."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch

from svfap.data.manifest import BOX_COLUMNS, SPAN_COLUMNS, TEXT_COLUMNS, Manifest, Sample, read_whole_manifest
from svfap.data.video import VideoError, open_video
from svfap.device import PRECISIONS, pick_device, pick_precision
from svfap.errors import UserError
from svfap.features.tables import Chunk, check_table, write_table
from svfap.jobs.run import check_engine, result_of, run_bulk, write_failures
from svfap.model.base import Model
from svfap.model.build import create_model
from svfap.model.perceiver import Perceiver
from svfap.model.presets import list_presets
from svfap.predict.predictor import batched, run_clips
from svfap.predict.windows import Window, video_windows
from svfap.weights.folder import load_model

log = logging.getLogger("svfap")

MANIFEST_SUFFIXES = (".csv", ".txt")
SPAN = {"start_s": "sample_start_s", "end_s": "sample_end_s"}  # the manifest's, beside the windows' own
CHUNK_ROWS = 4096


class Features(NamedTuple):
    """Rows in order of time: start_s and end_s (R,) float64 in seconds of the video, feature (R, D) float32."""

    start_s: np.ndarray
    end_s: np.ndarray
    feature: np.ndarray


@dataclass(frozen=True)
class ExtractConfig:
    """What features depend on besides the video.

    model: run or model folder, Hub name, or, with random_weights, a preset. per: "window" or "video", the mean over its
    windows. pool: "mean" over all tokens, or "none": a row for each of the encoder's last time steps. hop_s: seconds from
    one window to the next; default: no overlap. batch_size: windows at a time. Raises `UserError`.
    """

    model: str
    per: Literal["window", "video"] = "window"
    pool: Literal["mean", "none"] = "mean"
    hop_s: float | None = None
    device: str = "auto"
    precision: str = "auto"
    batch_size: int = 8
    random_weights: bool = False

    def __post_init__(self) -> None:
        for word, known in (("per", ("window", "video")), ("pool", ("mean", "none"))):
            if getattr(self, word) not in known:
                raise UserError(f"{word}={getattr(self, word)!r} is none of {', '.join(known)}")
        if self.per == "video" and self.pool == "none":
            raise UserError("pool=none with per=video: a video's time steps are those of its windows; use per=window")
        if self.hop_s is not None and self.hop_s <= 0:
            raise UserError(f"hop_s={self.hop_s}: seconds from one window to the next must be more than 0")
        if self.batch_size < 1:
            raise UserError(f"batch_size={self.batch_size}: at least one window at a time")


class Extractor:
    """A sample's features. The picture is taken as a face crop: its centre square, inside the sample's box.

    A pre-trained model gives those of its encoder's last stage, a fine-tuned one what its head gets. model: what
    config.model names, if it is at hand. Raises `UserError`.
    """

    def __init__(self, config: ExtractConfig, model: Model | None = None) -> None:
        model = model or _load(config)
        if not isinstance(model, Perceiver):
            raise UserError(
                f"{config.model}: a model for {model.config.task} has no features; load it with task=features"
            )
        self.config, self.model = config, model
        self.device = pick_device(config.device)
        self.dtype = PRECISIONS[pick_precision(config.precision, self.device)]
        self.model.to(self.device).eval()
        self._run = model.features if config.pool == "mean" else model.step_features

    def __call__(self, sample: Sample) -> Features:
        """Rows of this sample. Raises `VideoError` where it cannot be read."""
        start_s: list[float] = []
        end_s: list[float] = []
        vectors: list[np.ndarray] = []
        with open_video(sample.path) as video:
            windows = video_windows(video, self.model.config, self.config.hop_s, sample)
            for batch in batched(windows, self.config.batch_size):
                clips = np.stack([window.frames for window in batch])
                outputs = run_clips(self._run, clips, self.model.config, self.device, self.dtype).cpu().numpy()
                for window, output in zip(batch, outputs, strict=True):
                    rows = [(window.start_s, window.end_s, output)]
                    if self.config.pool == "none":
                        rows = list(_steps(window, output))
                    starts, ends, features = zip(*rows, strict=True)
                    start_s += starts
                    end_s += ends
                    vectors += features
        if self.config.per == "video":
            start_s, end_s, vectors = start_s[:1], end_s[-1:], [np.mean(vectors, axis=0)]
        return Features(np.array(start_s), np.array(end_s), np.stack(vectors))


def _steps(window: Window, features: np.ndarray) -> Iterator[tuple[float, float, np.ndarray]]:
    """(start, end, feature) of a window's time steps, features (T', D); steps of nothing but padding are left out."""
    length = len(window.indices) // len(features)
    for number, feature in enumerate(features):
        first, after = number * length, (number + 1) * length
        if first and window.indices[first] == window.indices[first - 1]:  # the last frame of a short video again
            return
        shown_again = after < len(window.indices) and window.indices[after] == window.indices[after - 1]
        end = window.end_s if after == len(window.indices) or shown_again else float(window.times_s[after])
        yield float(window.times_s[first]), end, feature


def _load(config: ExtractConfig) -> Model:
    if config.model in list_presets() and not Path(config.model).exists():
        if not config.random_weights:
            raise UserError(
                f"model={config.model}: a preset has random weights, whose features say nothing of affect; name a run or "
                "model folder, or, for a baseline, give random_weights true"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same weights in every process
            return create_model(config.model, "features").eval()
    model = load_model(config.model)
    return model if isinstance(model, Perceiver) else load_model(config.model, task="features")


def extract_features(
    videos: str | Path | Sequence[str | Path],
    model: Model | str | Path,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    **words: Any,
) -> pd.DataFrame:
    """Features of videos, or of a manifest's samples with its columns beside them; held in memory.

    videos: files, folders of frames, images, or manifests (.csv, .txt). model: a run or model folder, Hub name, or a model.
    root, split: as in `read_manifest`. words: the fields of `ExtractConfig` (per, pool, hop_s, …). Columns: path, start_s,
    end_s, the manifest's, and feature, an array (D,) float32 in each row. `table.attrs["unreadable"]` says which of several
    videos could not be read, and why. Raises `UserError`, also where none can be read.
    """
    sources = [videos] if isinstance(videos, str | Path) else list(videos)
    samples, columns = read_sources(sources, root, split)
    name = type(model).__name__ if isinstance(model, Model) else str(model)
    extractor = Extractor(ExtractConfig(name, **words), model if isinstance(model, Model) else None)
    unreadable: dict[str, str] = {}

    def features() -> Iterator[tuple[int, Features]]:
        for index, sample in enumerate(samples):
            try:
                yield index, extractor(sample)
            except VideoError as error:
                unreadable[sample.key] = error.reason

    parts = [meta.assign(feature=list(feature)) for meta, feature in _chunks(features(), columns)]
    if not parts:
        path, reason = next(iter(unreadable.items()))
        raise UserError(f"none of {len(samples)} videos could be read; the first is {path}: {reason}")
    if unreadable:
        log.warning("%d of %d videos could not be read; see table.attrs['unreadable']", len(unreadable), len(samples))
    table = pd.concat(parts, ignore_index=True)
    table.attrs["unreadable"] = unreadable
    return table


def extract_to_file(
    sources: Sequence[str | Path],
    config: ExtractConfig,
    out: Path,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    engine: Literal["local", "ray"] = "local",
    num_workers: int = 0,
    num_gpus: float = 0.0,
) -> tuple[int, int, dict[str, str]]:
    """Write the features of videos or manifests to a .parquet, .npz or .h5 file, in their order.

    Each sample's features are first kept in a folder `out`.parts, where a run that was broken off goes on, and are then put
    together; memory holds the list of samples and a few of them. engine, num_workers, num_gpus: see `run_bulk`.
    Returns the numbers of rows and of samples, and key -> reason of those that could not be read; these are listed in
    `NAME.unreadable.csv` beside `out`, and `out`.parts then stays for another try. Raises `UserError`, also where none can.
    """
    check_table(out)
    check_engine(engine, num_workers, num_gpus)
    samples, columns = read_sources(sources, root, split)
    if Path(config.model).exists():
        config = ExtractConfig(**{**asdict(config), "model": str(Path(config.model).absolute())})
    parts = out.absolute().with_name(out.name + ".parts")
    settings = {word: getattr(config, word) for word in ("per", "pool", "hop_s", "precision")}
    settings["weights"] = _fingerprint(_extractor(config).model)
    items = ((sample.key, sample) for sample in samples)
    unreadable = run_bulk(
        partial(_write_part, config),
        items,
        parts,
        settings=settings,
        engine=engine,
        num_workers=num_workers,
        num_gpus=num_gpus,
        description="extracting",
        total=len(samples),
    )
    listed = out.with_name(f"{out.stem}.unreadable.csv")
    write_failures(listed, unreadable, ("path", "reason"))
    if len(unreadable) == len(samples):
        raise UserError(f"none of {len(samples)} videos could be read; the reasons are in {listed}")

    def features() -> Iterator[tuple[int, Features]]:
        for index, sample in enumerate(samples):
            if sample.key not in unreadable:
                with np.load(result_of(parts, sample.key)) as arrays:
                    yield index, Features(**arrays)

    num_rows = write_table(out, _chunks(features(), columns))
    if not unreadable:
        shutil.rmtree(parts, ignore_errors=True)
    return num_rows, len(samples), unreadable


def read_sources(
    sources: Sequence[str | Path], root: str | Path | None = None, split: str | None = None
) -> tuple[Manifest, pd.DataFrame]:
    """Videos and manifests as one manifest without labels, and the columns that its samples have, row for row.

    Columns are numbers where every entry is one (the names of subjects, splits and groups stay text), and empty where a
    source has none of that name; start_s and end_s become sample_start_s and sample_end_s. Raises `UserError`.
    """
    tables, columns = [], []
    manifests = {s for s in sources if Path(s).suffix.lower() in MANIFEST_SUFFIXES and not Path(s).is_dir()}
    if not manifests and (root is not None or split is not None):
        raise UserError("root and split are for manifests, and none is given")
    for source in sources:
        if source in manifests:
            manifest, texts = read_whole_manifest(source, root=root, split=split)
            tables.append(manifest.table.assign(path=[str((manifest.root / p).absolute()) for p in texts["path"]]))
            columns.append(texts)
        else:
            tables.append(pd.DataFrame({"path": [str(Path(source).absolute())]}))
            columns.append(pd.DataFrame({"path": [str(source)]}))
    table, texts = (pd.concat(parts, ignore_index=True) for parts in (tables, columns))
    again = table.duplicated([name for name in ("path", *SPAN_COLUMNS, *BOX_COLUMNS) if name in table])
    if again.any():
        raise UserError(f"{table['path'][again.to_numpy()].iloc[0]}: comes twice; give every video or sample once")
    taken = {"feature", *SPAN.values()} & set(texts.columns)
    if taken:
        raise UserError(f"{sources[0]}: column '{min(taken)}' has a name that is ours; give it another")
    for name in TEXT_COLUMNS:
        if name in table:
            table[name] = table[name].fillna("")
    placed = texts.fillna("").rename(columns=SPAN)
    return Manifest(Path(sources[0]), Path(), table), placed.apply(_as_numbers)


def _as_numbers(column: pd.Series) -> pd.Series:
    """The column as numbers, where every entry that is not empty is one."""
    if column.name in ("path", *TEXT_COLUMNS) or (column == "").all():
        return column
    numbers = pd.to_numeric(column.where(column != ""), errors="coerce")
    return numbers if (numbers.notna() | (column == "")).all() else column


def _chunks(features: Iterable[tuple[int, Features]], columns: pd.DataFrame) -> Iterator[Chunk]:
    """Rows of the samples whose numbers come with them, joined to `columns`, some thousands at a time."""
    held: list[tuple[int, Features]] = []
    num_rows = 0
    for index, rows in features:
        held.append((index, rows))
        num_rows += len(rows.start_s)
        if num_rows >= CHUNK_ROWS:
            yield _joined(held, columns)
            held, num_rows = [], 0
    if held:
        yield _joined(held, columns)


def _joined(held: list[tuple[int, Features]], columns: pd.DataFrame) -> Chunk:
    rows = Features(*(np.concatenate(arrays) for arrays in zip(*(rows for _, rows in held), strict=True)))
    places = np.repeat([index for index, _ in held], [len(rows.start_s) for _, rows in held])
    meta = columns.iloc[places].reset_index(drop=True)
    meta.insert(1, "start_s", rows.start_s)
    meta.insert(2, "end_s", rows.end_s)
    return meta, rows.feature


def _write_part(config: ExtractConfig, sample: Sample, target: Path) -> None:
    """The work on one sample, wherever it is done."""
    with target.open("wb") as file:
        np.savez(file, **_extractor(config)(sample)._asdict())


@lru_cache(maxsize=1)
def _extractor(config: ExtractConfig) -> Extractor:
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)  # the processors are shared by processes
    return Extractor(config)


def _fingerprint(model: Model) -> str:
    """A hash of a model's settings and weights."""
    digest = hashlib.sha256(json.dumps(asdict(model.config), sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(
            tensor.cpu().contiguous().view(torch.uint8).numpy().data if tensor.ndim else bytes(tensor.cpu().numpy())
        )
    return digest.hexdigest()[:16]
