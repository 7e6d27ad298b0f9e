"""Batches of clips from a manifest.

Frames are sampled, decoded and cropped in worker processes, whose number does not change the result.

A batch is a dict. Each row is a clip; in mode "test" it is one view of a video, so a video may have several rows:
  clips       uint8 (B, T, H, W, 3), RGB
  index       int64 (B,), position of the sample in the manifest
  frames      int64 (B, T), frame numbers in the video
  label       int64 (B,), or (B, T) with `frame_level` (classification)
  values      float32 (B, K), or (B, T, K) with `frame_level` (regression)
  keys        list of B sample keys
  unreadable  list of (index, key, reason) of the samples of this batch that could not be read; they have no row
Without labels in the manifest there is neither `label` nor `values`. If no sample of a batch can be read, B = 0.
"""

from __future__ import annotations

import copy
import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from svfap.data.augment import MULTI_SCALES, center_crop, multi_scale_crop, random_resized_crop, side_crops
from svfap.data.clips import Indices, pretrain_indices, test_indices, train_indices, validation_indices
from svfap.data.manifest import Manifest, Sample
from svfap.data.sample import inside_box, span_of
from svfap.data.targets import Targets, clip_target, targets_of_frames
from svfap.data.video import Pixels, VideoError, open_video
from svfap.errors import UserError

Mode = Literal["pretrain", "train", "val", "test"]
Batch = dict[str, Any]


@dataclass
class Item:
    """One decoded sample, or the reason it could not be decoded."""

    index: int
    sample: Sample
    reason: str | None = None
    clips: tuple[Pixels, ...] = ()  # each (T, size, size, 3)
    frames: tuple[Indices, ...] = ()  # each (T,)
    targets: tuple[Targets, ...] = ()  # each a label () or values (K,); with frame_level (T,) or (T, K)


class ClipDataset(Dataset[Item]):
    """The samples of a manifest as clips of `clip_length` frames, `stride` frames apart, of `size` x `size` pixels.

    mode: "pretrain" (random clips by `pretrain_indices`, multi-scale crop), "train" (random clips by `train_indices`, random
    resized crop), "val" (middle clip, central crop), "test" (`num_segments` in time x `num_crops` along the longer side;
    coinciding views are returned once).
    crop_scale: range of the area of the random resized crop, as a fraction of the frame's area. crop_scales: sides of the
    multi-scale crop, as fractions of the frame's short side.
    repeats: number of clips per item in the two training modes, in "pretrain" one from each of as many equal parts of the
    video; the video is decoded once for all of them.
    frame_level: targets of the sampled frames (see `svfap.data.targets`) instead of the target of the clip.
    balanced: an epoch of the loader has as many samples as the manifest, but all classes equally often.
    Random draws depend on (seed, epoch, index) only. Index i + k * len(self) is sample i again, with different draws.
    Raises `UserError` if the manifest lacks the targets that frame_level or balanced need.
    """

    def __init__(
        self,
        manifest: Manifest,
        mode: Mode,
        clip_length: int,
        stride: int,
        size: int,
        seed: int,
        num_segments: int = 2,
        num_crops: int = 2,
        repeats: int = 1,
        crop_scale: tuple[float, float] = (0.08, 1.0),
        crop_scales: Sequence[float] = MULTI_SCALES,
        frame_level: bool = False,
        balanced: bool = False,
    ) -> None:
        if mode not in ("pretrain", "train", "val", "test"):
            raise ValueError(f"mode is '{mode}', known are pretrain, train, val and test")
        self.manifest, self.mode = manifest, mode
        self.clip_length, self.stride, self.size, self.seed = clip_length, stride, size, seed
        self.num_segments, self.num_crops, self.repeats = num_segments, num_crops, repeats
        self.crop_scale, self.crop_scales = crop_scale, crop_scales
        self.target = "values" if manifest.dimensions is not None else "label" if manifest.label_names else None
        self.frame_level, self.balanced = frame_level, balanced
        self.epoch = 0
        first = manifest.dimensions[0] if manifest.dimensions else None
        if first is not None and first not in manifest.table and not frame_level:
            raise UserError(f"{manifest.path}: has no column '{first}', only values per frame; set frame_level")
        if balanced and manifest.labels is None:
            raise UserError(f"{manifest.path}: balanced sampling needs a column 'label', a class for each video")

    def __len__(self) -> int:
        return len(self.manifest)

    def set_epoch(self, epoch: int) -> None:
        """Change the random draws: each epoch has its own."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> Item:
        sample = self.manifest[index % len(self)]
        seeds = np.random.SeedSequence([self.seed, self.epoch, index])
        rng = np.random.RandomState(np.random.MT19937(seeds))
        try:
            with open_video(sample.path) as video:
                first, stop = span_of(video, sample)
                rows = [first + row for row in self._sample(stop - first, rng)]
                wanted, places = np.unique(np.concatenate(rows), return_inverse=True)
                pictures = inside_box(video.read(wanted), sample)
            item = Item(index % len(self), sample)
            for row, where in zip(rows, places.reshape(len(rows), -1), strict=True):
                crops = self._crop(pictures[where], rng)
                item.clips += tuple(crops)
                item.frames += (row,) * len(crops)
                if self.target is not None:
                    item.targets += (self._target(sample, row),) * len(crops)
            return item
        except VideoError as error:
            return Item(index % len(self), sample, error.reason)
        except OSError as error:
            return Item(index % len(self), sample, error.strerror or str(error))

    def _sample(self, num_frames: int, rng: np.random.RandomState) -> list[Indices]:
        if self.mode == "test":
            return list(np.unique(test_indices(num_frames, self.clip_length, self.stride, self.num_segments), axis=0))
        if self.mode == "val":
            return [validation_indices(num_frames, self.clip_length, self.stride)]
        if self.mode == "pretrain":
            return list(pretrain_indices(num_frames, self.clip_length, self.stride, self.repeats, rng))
        return [train_indices(num_frames, self.clip_length, self.stride, rng) for _ in range(self.repeats)]

    def _crop(self, pictures: Pixels, rng: np.random.RandomState) -> list[Pixels]:
        if self.mode == "test":
            return side_crops(pictures, self.size, self.num_crops)
        if self.mode == "val":
            return [center_crop(pictures, self.size)]
        if self.mode == "pretrain":
            return [multi_scale_crop(pictures, self.size, rng, self.crop_scales)]
        return [random_resized_crop(pictures, self.size, rng, scale=self.crop_scale)]

    def _target(self, sample: Sample, frames: Indices) -> Targets:
        if self.frame_level:
            return targets_of_frames(self.manifest, sample, frames)
        return clip_target(self.manifest, sample)

    def collate(self, items: list[Item]) -> Batch:
        """Combine items into a batch, as described at the top of this module."""
        rows = [(item, number) for item in items for number in range(len(item.clips))]
        batch: Batch = {
            "clips": torch.empty((len(rows), self.clip_length, self.size, self.size, 3), dtype=torch.uint8),
            "index": torch.tensor([item.index for item, _ in rows], dtype=torch.int64),
            "frames": torch.empty((len(rows), self.clip_length), dtype=torch.int64),
            "keys": [item.sample.key for item, _ in rows],
            "unreadable": [(item.index, item.sample.key, item.reason) for item in items if item.reason is not None],
        }
        for place, (item, number) in enumerate(rows):
            batch["clips"][place] = torch.from_numpy(item.clips[number])
            batch["frames"][place] = torch.from_numpy(item.frames[number])
        if self.target is not None:
            shape = ((self.clip_length,) if self.frame_level else ()) + (
                (len(self.manifest.dimensions),) if self.manifest.dimensions is not None else ()
            )
            kind = np.int64 if self.target == "label" else np.float32
            targets = np.array([item.targets[number] for item, number in rows], kind).reshape(len(rows), *shape)
            batch[self.target] = torch.from_numpy(targets)
        return batch


class ShardedSampler(Sampler[list[int]]):
    """Batches of sample indices for process `rank` of `world_size`; one iteration is one epoch.

    shuffle: a permutation that depends on (seed, epoch) is cut into global batches of batch_size * world_size samples, of
    which each process gets its part. An incomplete last batch is dropped, so all processes have equally many batches.
    Without shuffle the samples come in order, each on exactly one process, and the last batch may be smaller.
    labels: (length,) int64 classes; a shuffled epoch then has all classes equally often. A sample drawn again in the same
    epoch gets index + length, then index + 2 * length, so its random draws differ.
    start_batch: skip the batches before this one, to resume within an epoch.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        epoch: int = 0,
        start_batch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        labels: NDArray[np.int64] | None = None,
    ) -> None:
        self.batch_size, self.start_batch = batch_size, start_batch
        if shuffle:
            num_batches = length // (batch_size * world_size)
            rng = np.random.default_rng([seed, epoch])
            order = rng.permutation(length) if labels is None else _balanced_order(labels, rng)
            order = order[: num_batches * batch_size * world_size]
            self._order = order.reshape(num_batches, world_size, batch_size)[:, rank].ravel()
        else:
            self._order = np.arange(rank, length, world_size)

    def __len__(self) -> int:
        return max(math.ceil(len(self._order) / self.batch_size) - self.start_batch, 0)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(self.start_batch * self.batch_size, len(self._order), self.batch_size):
            yield self._order[start : start + self.batch_size].tolist()


def _balanced_order(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """As many sample indices as labels, with equally many of each class (differing by one if that is not possible)."""
    length = len(labels)
    classes = rng.permutation(np.unique(labels))
    drawn = []
    for place, label in enumerate(classes):
        members = rng.permutation(np.flatnonzero(labels == label))
        draws = np.arange(len(range(place, length, len(classes))))  # of this class in the epoch
        drawn.append(members[draws % len(members)] + length * (draws // len(members)))
    return rng.permutation(np.concatenate(drawn))


def make_loader(
    dataset: ClipDataset,
    batch_size: int,
    *,
    shuffle: bool,
    seed: int,
    epoch: int = 0,
    start_batch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Item]:
    """The batches of one epoch for one process: `batch_size` samples each, in the order of `ShardedSampler`.

    Order and content do not depend on num_workers. Raises `UserError` if the samples to shuffle do not fill one global
    batch.
    """
    if shuffle and len(dataset) < batch_size * world_size:
        processes = f" on each of {world_size} processes" if world_size > 1 else ""
        raise UserError(
            f"{dataset.manifest.path}: {len(dataset)} samples do not fill one batch of {batch_size}{processes}; "
            "make the batch smaller"
        )
    dataset = copy.copy(dataset)  # so that each loader keeps its own epoch
    dataset.set_epoch(epoch)
    sampler = ShardedSampler(
        len(dataset),
        batch_size,
        shuffle=shuffle,
        seed=seed,
        epoch=epoch,
        start_batch=start_batch,
        rank=rank,
        world_size=world_size,
        labels=dataset.manifest.labels if dataset.balanced else None,
    )
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=dataset.collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=_init_worker,
        generator=torch.Generator(),  # the default would draw from the global generator and so change training
    )


def _init_worker(worker: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    # The main process handles these signals: it saves before it stops, and may need batches until then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
