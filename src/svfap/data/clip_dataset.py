"""Clips from a manifest: how one of its rows becomes clips, and clips a batch.

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

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from svfap.data import clips as sampling
from svfap.data.clips import Indices
from svfap.data.crops import MULTI_SCALES, fit_frames, multi_scale_crop, side_crops
from svfap.data.manifest import Manifest, Sample
from svfap.data.sample import inside_box, span_of
from svfap.data.targets import Targets, picture_targets, target_of
from svfap.data.video import PICTURE_FPS, Pixels, VideoError, open_video
from svfap.errors import UserError

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
