"""Batches of clips from a manifest.

Frames are sampled, decoded and cropped in worker processes; their number does not change the result.

A batch is a dict. Each row is a clip; in mode "test" it is one view of a video, so a video may have several rows:
  clips       uint8 (B, T, H, W, 3), RGB
  index       int64 (B,), position of the sample in the manifest
  frames      int64 (B, T), frame numbers on the video's clock (`VideoSource.grid`)
  views       int64 (B,), the number of views that coincide in this row; 1 except in mode "test"
  label       int64 (B,), or (B, T) with `frame_level` (classification); -1 for a frame that is not annotated
  values      float32 (B, K), or (B, T, K) with `frame_level` (regression); NaN for a frame that is not annotated
  keys        list of B sample keys
  unreadable  list of (index, key, reason) of the samples of this batch that could not be read; they have no row
  head NAME   in place of these, with several heads: the labels or values of each, -1 or NaN also for a clip that has none
Without labels in the manifest there is neither `label` nor `values`. If no sample of a batch can be read, B = 0.
"""

from __future__ import annotations

import atexit
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from svfap.data import clips as sampling
from svfap.data.clips import Indices
from svfap.data.crops import MULTI_SCALES, fit_frames, multi_scale_crop, side_crops
from svfap.data.manifest import Manifest, Mixture, Sample
from svfap.data.sample import inside_box, span_of
from svfap.data.shared_memory import BATCHES_AHEAD, hand_over, require_room, worker_errors
from svfap.data.targets import Targets, picture_targets, target_of
from svfap.data.video import PICTURE_FPS, Pixels, VideoError, open_video
from svfap.errors import UserError
from svfap.signals import STOP_SIGNALS

Mode = Literal["pretrain", "train", "val", "test"]
Batch = dict[str, Any]


@dataclass
class Item:
    """One decoded sample, or the reason it could not be decoded.

    For each clip: pixels (T, size, size, 3), frame numbers (T,), the number of coinciding views, and by their keys in a batch
    its targets, () or (K,), with frame_level (T,) or (T, K).
    """

    index: int
    sample: Sample
    reason: str | None = None
    clips: list[Pixels] = field(default_factory=list)
    frames: list[Indices] = field(default_factory=list)
    views: list[int] = field(default_factory=list)
    targets: list[dict[str, Targets]] = field(default_factory=list)


class Opened(NamedTuple):
    """A video while its clips are read: by their keys in a batch the targets of all its pictures, where it has no single one for
    the whole video; the picture that each frame of the clock shows; the stretches of frames that clips may come from; and how
    pictures are read by number.
    """

    targets: dict[str, Targets]
    picture_of: Indices
    stretches: list[tuple[int, int]]
    read: Callable[[Indices], Pixels]


@dataclass(eq=False)
class ClipDataset(Dataset[Item]):
    """The samples of a manifest as clips of `clip_length` frames, `stride` frames apart, of `size` x `size` pixels.

    mode: "pretrain" (random clips by `pretrain_indices`, multi-scale crop), "train" (random clips by `train_indices`), "val"
    (middle clip), "test" (`num_segments` in time; with frame_fit "centre" x `num_crops` along the longer side; coinciding
    views are returned once).
    frame_fit: how frames that are not square become so, except in "pretrain" (see `fit_frames`). crop_scales: sides of the
    multi-scale crop, as fractions of the frame's short side.
    repeats: number of clips per item in the two training modes, in "pretrain" one from each of as many equal parts of the
    video; the video is decoded once for all of them.
    frame_level: targets of the sampled frames (see `svfap.data.targets`) instead of the target of the clip. frame_heads: of
    which of the manifest's heads.
    fps: sample all videos on a clock of this many frames per second; None: each on the clock of its own rate. frames_fps:
    pictures per second of folders of frames; None: 25.
    cache_bytes: memory for decoded videos, which are then not read again. Videos are taken in as they come, until one has no
    room; each process that loads batches has its own.
    balanced: an epoch of the loader has as many samples as the manifest, but all classes equally often. Of a joined manifest
    with weights an epoch has as many samples, too, of each of its manifests in proportion to its weight.
    A clip never spans a hole in the video's time stamps: random clips are drawn from its stretches in proportion to their
    length, the others come from the longest one.
    Random draws depend on (seed, epoch, index) only. Index i + k * len(self) is sample i again, with different draws.
    Raises `UserError` if the manifest lacks the targets that frame_level or balanced need.
    """

    manifest: Manifest
    mode: Mode
    clip_length: int
    stride: int
    size: int
    seed: int
    num_segments: int = 2
    num_crops: int = 2
    repeats: int = 1
    frame_fit: str = "squash"
    crop_scales: Sequence[float] = MULTI_SCALES
    frame_level: bool = False
    frame_heads: Collection[str] = ()
    balanced: bool = False
    fps: float | None = None
    frames_fps: float | None = None
    cache_bytes: int = 0
    epoch: int = 0
    _kept: dict[str, Opened] = field(default_factory=dict, init=False, repr=False)
    _room: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        manifest, self._room = self.manifest, self.cache_bytes
        if self.mode not in ("pretrain", "train", "val", "test"):
            raise ValueError(f"mode is '{self.mode}', known are pretrain, train, val and test")
        task = "regression" if manifest.dimensions is not None else "classification" if manifest.label_names else None
        # Key in a batch -> where its targets are from, and whether they are of frames.
        self.sources = {target_key(name): (head, name in self.frame_heads) for name, head in manifest.heads.items()}
        if task is not None:
            self.sources[target_key("", task)] = (manifest, self.frame_level)
        first = manifest.dimensions[0] if manifest.dimensions else None
        if first is not None and first not in manifest.table and not self.frame_level:
            raise UserError(f"{manifest.path}: has no column '{first}', only values per frame; set `frame_level`")
        if self.balanced and manifest.labels is None:
            raise UserError(f"{manifest.path}: balanced sampling needs a column 'label', a class for each video")
        if self.mode in ("pretrain", "train") and manifest.mixture is not None and manifest.mixture.weights is not None:
            for part in manifest.parts:
                if not len(part):
                    raise UserError(
                        f"{part.path}: has a weight, but none of its videos is left for training; leave it out"
                    )

    def __len__(self) -> int:
        return len(self.manifest)

    @property
    def item_bytes(self) -> int:
        """Size of the clips of one item, at most."""
        views = {"val": 1, "test": self.num_segments * self.num_crops}.get(self.mode, self.repeats)
        return views * self.clip_length * self.size**2 * 3

    def __getitem__(self, index: int) -> Item:
        sample = self.manifest[index % len(self)]
        seeds = np.random.SeedSequence([self.seed, self.epoch, index])
        rng = np.random.RandomState(np.random.MT19937(seeds))
        try:
            with self._opened(index % len(self), sample) as video:
                rows = self._sample(video.stretches, rng)
                counts = np.ones(len(rows), np.int64)
                if self.mode == "test":  # segments of a short video coincide
                    rows, counts = np.unique(rows, axis=0, return_counts=True)
                shown = video.picture_of[rows]
                wanted, places = np.unique(shown, return_inverse=True)
                pictures = video.read(wanted)
            item = Item(index % len(self), sample)
            for row, numbers, where, count in zip(
                rows, shown, places.reshape(rows.shape), counts.tolist(), strict=True
            ):
                is_all = np.array_equal(where, np.arange(len(pictures)))  # then there is nothing to copy
                crops = self._crop(pictures if is_all else pictures[where], rng)
                item.clips += [crop for crop, _ in crops]
                item.frames += [row] * len(crops)
                item.views += [count * coinciding for _, coinciding in crops]
                item.targets += [self._targets(index % len(self), sample, video.targets, numbers)] * len(crops)
            return item
        except (VideoError, OSError) as error:
            reason = error.reason if isinstance(error, VideoError) else error.strerror or str(error)
            return Item(index % len(self), sample, reason)

    @contextmanager
    def _opened(self, index: int, sample: Sample) -> Iterator[Opened]:
        """The video of the sample in this row, from memory if it is there."""
        if sample.key in self._kept:
            yield self._kept[sample.key]
            return
        with open_video(sample.path, self.frames_fps or PICTURE_FPS) as video:
            found = {
                key: picture_targets(labels, labels[index], video)
                for key, (labels, frame_level) in self.sources.items()
                if frame_level
            }
            targets = {key: each for key, each in found.items() if each is not None}
            grid = video.grid(self.fps)
            stretches = grid.parts(*span_of(video, sample, self.fps))
            opened = Opened(targets, grid.picture_of, stretches, lambda wanted: inside_box(video.read(wanted), sample))
            if self._room > 0:
                opened = self._keep(sample.key, opened, video.shape)
            yield opened

    def _keep(self, key: str, video: Opened, shape: tuple[int, int]) -> Opened:
        """The same video in memory, if it has room there; the first that has none ends the taking in."""
        numbers = np.unique(np.concatenate([video.picture_of[first:stop] for first, stop in video.stretches]))
        self._room -= len(numbers) * shape[0] * shape[1] * 3
        if self._room < 0:
            return video
        try:
            pictures = video.read(numbers)
        except VideoError:  # of a picture that the clips may not need
            return video
        self._kept[key] = video._replace(read=lambda wanted: pictures[np.searchsorted(numbers, wanted)])
        return self._kept[key]

    def _targets(
        self, index: int, sample: Sample, per_picture: Mapping[str, Targets], pictures: Indices
    ) -> dict[str, Targets]:
        """Of a clip that shows these pictures of the video in this row. per_picture: targets of all its pictures."""
        targets = {}
        for key, (labels, frame_level) in self.sources.items():
            if key in per_picture:
                targets[key] = np.asarray(per_picture[key][pictures])
                continue
            target = target_of(labels, sample if labels is self.manifest else labels[index])
            targets[key] = np.repeat(target[None], len(pictures), axis=0) if frame_level else target
        return targets

    def _sample(self, stretches: Sequence[tuple[int, int]], rng: np.random.RandomState) -> Indices:
        """Frame numbers of the clips, (clips, clip_length), each clip within one of the stretches (first, stop)."""
        steps = self.clip_length, self.stride
        if self.mode == "train":
            drawn = (_drawn(stretches, rng) for _ in range(self.repeats))
            return np.stack([first + sampling.train_indices(stop - first, *steps, rng) for first, stop in drawn])
        if self.mode == "pretrain":
            first, stop = _drawn(stretches, rng)
            return first + sampling.pretrain_indices(stop - first, *steps, self.repeats, rng)
        first, stop = max(stretches, key=lambda part: part[1] - part[0])
        if self.mode == "val":
            return first + sampling.validation_indices(stop - first, *steps)[None]
        return first + sampling.test_indices(stop - first, *steps, self.num_segments)

    def _crop(self, pictures: Pixels, rng: np.random.RandomState) -> list[tuple[Pixels, int]]:
        """The clips that show these frames, each with the number of coinciding crops."""
        if self.mode == "pretrain":
            return [(multi_scale_crop(pictures, self.size, rng, self.crop_scales), 1)]
        if self.mode == "test" and self.frame_fit == "centre":
            return side_crops(pictures, self.size, self.num_crops)
        return [(fit_frames(pictures, self.size, self.frame_fit), 1)]

    def collate(self, items: list[Item]) -> Batch:
        """Combine items into a batch, as described at the top of this module."""
        clips = [clip for item in items for clip in item.clips]
        frames = [row for item in items for row in item.frames]
        no_clips = np.empty((0, self.clip_length, self.size, self.size, 3), np.uint8)
        batch: Batch = {
            "clips": torch.from_numpy(np.stack(clips) if clips else no_clips),
            "index": torch.tensor([item.index for item in items for _ in item.clips], dtype=torch.int64),
            "frames": torch.from_numpy(np.array(frames, np.int64).reshape(len(clips), self.clip_length)),
            "views": torch.tensor([count for item in items for count in item.views], dtype=torch.int64),
            "keys": [item.sample.key for item in items for _ in item.clips],
            "unreadable": [(item.index, item.sample.key, item.reason) for item in items if item.reason is not None],
        }
        for key, (labels, frame_level) in self.sources.items():
            per_clip = [self.clip_length] if frame_level else []
            per_clip += [] if labels.dimensions is None else [len(labels.dimensions)]
            targets = [target[key] for item in items for target in item.targets]
            array = np.array(targets, np.int64 if labels.dimensions is None else np.float32)
            batch[key] = torch.from_numpy(array.reshape(len(clips), *per_clip))
        return batch


def target_key(head: str, task: str = "") -> str:
    """The key of targets in a batch: of the only head, by its task, or of one of several, by its name."""
    return f"head {head}" if head else {"regression": "values", "classification": "label"}[task]


def _drawn(stretches: Sequence[tuple[int, int]], rng: np.random.RandomState) -> tuple[int, int]:
    """A stretch, drawn in proportion to its length; nothing is drawn from `rng` if there is only one."""
    if len(stretches) == 1:
        return stretches[0]
    ends = np.cumsum([stop - first for first, stop in stretches])
    return stretches[int(np.searchsorted(ends, rng.randint(ends[-1]), side="right"))]


def sharded_batches(
    length: int,
    batch_size: int,
    shuffle: bool,
    seed: int,
    epoch: int = 0,
    start_batch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    labels: NDArray[np.int64] | None = None,
    mixture: Mixture | None = None,
) -> list[list[int]]:
    """The batches of sample indices of one epoch for process `rank` of `world_size`.

    shuffle: a permutation that depends on (seed, epoch) is cut into global batches of batch_size * world_size samples, of
    which each process gets its part. An incomplete last batch is dropped, so all processes have equally many batches.
    Without shuffle the samples come in order, each on exactly one process, and the last batch may be smaller.
    labels: (length,) int64 classes; a shuffled epoch then has all classes equally often. mixture: with weights, a shuffled
    epoch has samples of each manifest in proportion to its weight, and all of them equally often; with labels, all classes
    of a manifest. A sample drawn again in the same epoch gets index + length, then index + 2 * length, so its random draws
    differ.
    start_batch: skip the batches before this one, to resume within an epoch.
    """
    order = np.arange(rank, length, world_size)
    if shuffle:
        num_batches = length // (batch_size * world_size)
        rng = np.random.default_rng([seed, epoch])
        shares = None if mixture is None else mixture.shares
        if mixture is not None and shares is not None:
            order = _mixed_order(mixture.of, shares, labels, rng)
        else:
            order = rng.permutation(length) if labels is None else _balanced_order(labels, rng)
        num_used = num_batches * batch_size * world_size
        order = order[:num_used].reshape(num_batches, world_size, batch_size)[:, rank].ravel()
    starts = range(start_batch * batch_size, len(order), batch_size)
    return [order[start : start + batch_size].tolist() for start in starts]


def _balanced_order(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """As many sample indices as labels, with equally many of each class (differing by one if that is not possible)."""
    length = len(labels)
    return rng.permutation(_balanced_draws(np.arange(length), length, labels, rng))


def _mixed_order(
    of: NDArray[np.int64], shares: NDArray[np.float64], labels: NDArray[np.int64] | None, rng: np.random.Generator
) -> NDArray[np.int64]:
    """As many sample indices as there are samples, shares[k] of them with of == k: to the next whole number up or down, drawn
    so that the mean over epochs is exact."""
    length = len(of)
    ends = np.floor(np.cumsum(shares)[:-1] * length + rng.random()).astype(np.int64)
    counts = np.diff(ends, prepend=0, append=length).tolist()
    drawn = []
    for number, count in enumerate(counts):
        members = np.flatnonzero(of == number)
        drawn.append(
            _draws(members, count, length, rng) if labels is None else _balanced_draws(members, count, labels, rng)
        )
    return rng.permutation(np.concatenate(drawn))


def _balanced_draws(
    members: NDArray[np.int64], count: int, labels: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """`count` indices of these samples, with equally many of each of their classes. labels: of all samples."""
    classes = rng.permutation(np.unique(labels[members]))
    drawn = [
        _draws(members[labels[members] == label], len(range(place, count, len(classes))), len(labels), rng)
        for place, label in enumerate(classes)
    ]
    return np.concatenate(drawn)


def _draws(members: NDArray[np.int64], count: int, length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` indices of these samples, each equally often; the second time index + length, then index + 2 * length."""
    draws = np.arange(count)
    return rng.permutation(members)[draws % len(members)] + length * (draws // len(members))


@dataclass(frozen=True)
class Batches:
    """The batches of one epoch for one process, as `BatchLoader.batches` describes them; iterating loads them."""

    loader: BatchLoader
    requests: list[list[Request]]

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[Batch]:
        return self.loader.load(self.requests)


class BatchLoader:
    """Loads batches of several datasets, in worker processes that are started once and stay until `close`.

    datasets: those that `batches` may be asked for. num_workers: processes; 0: batches are loaded in this process. Only one
    sequence of batches can be loaded at a time. Order and content of batches do not depend on num_workers.
    """

    def __init__(self, *datasets: ClipDataset, num_workers: int = 0, pin_memory: bool = False) -> None:
        self._datasets, self._num_workers, self._pin_memory = datasets, num_workers, pin_memory
        self._requests: list[list[Request]] = []  # of the epoch being loaded; filled anew for each
        self._loader: DataLoader[Batch] | None = None

    def batches(
        self,
        dataset: ClipDataset,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        epoch: int = 0,
        start_batch: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> Batches:
        """The batches of one epoch for one process; for their order and the arguments see `sharded_batches`.

        Raises `UserError` if the samples to shuffle do not fill one global batch.
        """
        if shuffle and len(dataset) < batch_size * world_size:
            processes = f" on each of {world_size} processes" if world_size > 1 else ""
            raise UserError(
                f"{dataset.manifest.path}: {len(dataset)} samples do not fill one batch of {batch_size}{processes}; "
                "make the batch smaller"
            )
        labels = dataset.manifest.labels if dataset.balanced else None
        draws = labels, dataset.manifest.mixture
        order = sharded_batches(len(dataset), batch_size, shuffle, seed, epoch, start_batch, rank, world_size, *draws)
        part = next(number for number, each in enumerate(self._datasets) if each is dataset)
        return Batches(self, [[Request(part, epoch, sample) for sample in batch] for batch in order])

    def load(self, requests: list[list[Request]]) -> Iterator[Batch]:
        """Load batches. Raises `UserError` if a worker process dies or has no room in the shared memory."""
        self._requests[:] = requests
        with worker_errors():
            if self._loader is None:
                self._loader = self._make()
                batches = iter(self._loader)
                # After torch and multiprocessing, so that it is called before these, which would wait for the workers.
                self._end = partial(_end_workers, batches)
                atexit.register(self._end)
            else:
                batches = iter(self._loader)
            yield from batches

    def close(self) -> None:
        """End the worker processes."""
        if self._loader is not None:
            self._end()
            atexit.unregister(self._end)
            self._loader = None

    def __del__(self) -> None:
        self.close()

    def _make(self) -> DataLoader[Batch]:
        if self._num_workers > 0:
            # In a forked worker OpenCV would wait for threads that only the parent has, so they end before the fork.
            cv2.setNumThreads(1)
        return DataLoader(
            _Loading(self._datasets),
            batch_sampler=self._requests,
            collate_fn=hand_over,  # type: ignore[arg-type] # of the batch that `_Loading` has made
            num_workers=self._num_workers,
            persistent_workers=self._num_workers > 0,
            prefetch_factor=BATCHES_AHEAD if self._num_workers > 0 else None,
            pin_memory=self._pin_memory,
            worker_init_fn=_init_worker,
            generator=torch.Generator(),  # the default would draw from the global generator and so change training
        )


def make_loader(
    dataset: ClipDataset, batch_size: int, *, num_workers: int = 0, pin_memory: bool = False, **order: Any
) -> Batches:
    """The batches of one epoch of one dataset. Worker processes end with the object that this returns.

    order: see `BatchLoader.batches`. Raises `UserError` also if the workers' batches do not fit into the shared memory.
    """
    require_room(num_workers, batch_size * dataset.item_bytes)
    loader = BatchLoader(dataset, num_workers=num_workers, pin_memory=pin_memory)
    return loader.batches(dataset, batch_size, **order)


class Request(NamedTuple):
    """One sample that a worker is asked for: number of the dataset, epoch, position of the sample in the dataset."""

    part: int
    epoch: int
    sample: int


class _Loading(Dataset[Batch]):
    """Makes batches of requests, from copies of the datasets: their `epoch` is set for each batch."""

    def __init__(self, datasets: Sequence[ClipDataset]) -> None:
        self.datasets = [replace(dataset) for dataset in datasets]

    def __getitems__(self, requests: list[Request]) -> Batch:
        dataset = self.datasets[requests[0].part]
        dataset.epoch = requests[0].epoch
        return dataset.collate([dataset[request.sample] for request in requests])


def _say_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The `sys.excepthook` of a worker. A main process that stops while it receives a batch is no error."""
    if not isinstance(error, ConnectionError):
        sys.__excepthook__(kind, error, trace)


def _end_workers(batches: object) -> None:
    if isinstance(batches, _MultiProcessingDataLoaderIter):
        batches._shutdown_workers()  # waits some seconds for each
        for worker in batches._workers:
            worker.kill()  # one that is still loading; they ignore SIGTERM


def _init_worker(worker: int) -> None:
    torch.set_num_threads(1)
    sys.excepthook = _say_error
    # The main process handles these signals: it saves before it stops, and may need batches until then.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
