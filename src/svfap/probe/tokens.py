"""Frozen features of clips: what an encoder makes of them, computed once, in memory or cached in files.

Sets of features, by name; V clips, T' time steps, S positions, D channels:
  last     the last stage, mean over the positions of each time step: what fine-tuning reads
  fused    the stages fused as in pre-training (Eq. 9, 10), mean over positions
  tokens   all tokens of the fused stages
  stage_1, stage_2, …  as `last`, of every stage; all of them are meant by `stages`
  pixels   no encoder: the grey frames of each time step, averaged over areas to 12 × 12 numbers

Norms are applied without their learned scale and shift, which the readers' standardisation would undo.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from svfap.console import track
from svfap.data.augment import normalize
from svfap.data.clip_dataset import ClipDataset
from svfap.data.loader import make_loader
from svfap.device import PRECISIONS, pick_device, pick_precision
from svfap.errors import UserError
from svfap.files import file_digest, make_folder, recover_folder, replacing_folder, write_atomically
from svfap.model.base import Model
from svfap.model.build import build_model
from svfap.model.config import ENCODER_SETTINGS, ModelConfig
from svfap.model.encoder import TPSBT
from svfap.model.layers import normed
from svfap.weights.folder import OF_ITS_HEAD, weights_digest

Array = NDArray[Any]
Sets = dict[str, Tensor]
Reader = Callable[[Tensor], Sets]  # uint8 clips (B, T, H, W, 3) -> sets of features

POOLED = ("last", "fused")
PIXEL_SIDE = 12
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
CACHE_VERSION = 1
META_FILE, VIEWS_FILE = "features.json", "views.npz"


@dataclass(frozen=True)
class Tokens:
    """Features of V clips, which may be several views of the same sample.

    sets: name -> (V, T', D), or of `tokens` (V, T', S, D); float32, `tokens` float16. rows: (V,) int64, the sample (row of the
    manifest) of each clip, ascending. weights: (V,) int64, the number of views that coincide in a clip. frames: (V, T) int64
    frame numbers. values: (V, T, K) float32 targets of the frames, NaN where not annotated, for frame-level data.
    unreadable: key -> reason of the samples that could not be read; they have no clips.
    """

    sets: Mapping[str, Array]
    rows: NDArray[np.int64]
    weights: NDArray[np.int64]
    frames: NDArray[np.int64]
    values: NDArray[np.float32] | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def of_clips(self, name: str, clips: Array | slice = slice(None), flat: bool = True) -> Array:
        """One vector for each of the chosen clips, (V, D'): the mean over time, or all time steps of `tokens` and `pixels`.

        With flat=False the tokens stay apart: (V, T'·S, D).
        """
        steps = self.sets[name][clips]
        if name in ("tokens", "pixels"):
            return steps.reshape(len(steps), -1) if flat else steps.reshape(len(steps), -1, steps.shape[-1])
        return steps.mean(axis=1) if name == "fused" else _normed(steps.mean(axis=1))

    def of_steps(self, name: str, clips: Array | slice = slice(None), flat: bool = True) -> Array:
        """One vector for each time step of the chosen clips, (V, T', D'); with flat=False its tokens: (V, T', S, D)."""
        steps = self.sets[name][clips]
        if name in ("tokens", "pixels", "fused"):
            return steps.reshape(*steps.shape[:2], -1) if flat else steps
        return _normed(steps)


def read_tokens(
    model: Model | TPSBT,
    clips: ClipDataset | Tensor | Array,
    *,
    sets: Sequence[str] = ("last", "fused", "tokens"),
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 8,
    num_workers: int = 0,
    description: str | None = None,
) -> Tokens:
    """The frozen features of clips by a model's encoder.

    clips: uint8 (N, T, H, W, 3) RGB of the model's size, or a `ClipDataset`, all of whose views are read. sets: see the top
    of this module. The model is moved to the device, and is in eval mode afterwards. Raises `UserError` for clips of another
    size.
    """
    chosen = pick_device(device)
    encoder = (model.encoder if isinstance(model, Model) else model).to(chosen).eval()
    size = (encoder.config.num_frames, encoder.config.img_size, encoder.config.img_size, 3)
    if not isinstance(clips, ClipDataset) and tuple(clips.shape[1:]) != size:
        raise UserError(
            f"clips: must be uint8 (N, {', '.join(map(str, size))}) for this model, not {tuple(clips.shape)}"
        )
    readers = {"model": partial(encode, encoder, sets=sets)}
    batches = _batches(clips, batch_size, num_workers)
    return read_features(readers, batches, chosen, precision, description=description)["model"]


@torch.inference_mode()
def encode(encoder: TPSBT, clips: Tensor, sets: Sequence[str] = POOLED) -> Sets:
    """Sets of features of uint8 clips (B, T, H, W, 3) on the encoder's device: each (B, T', D), `tokens` (B, T', S, D)."""
    config = encoder.config
    outputs = [x.float() for x in encoder.stage_outputs(normalize(clips, config.pixel_mean, config.pixel_std))]
    found = {"last": outputs[-1].mean(dim=2)} if "last" in sets else {}
    if "fused" in sets or "tokens" in sets:
        fused = normed(encoder.fused(outputs))
        found |= {"fused": fused.mean(dim=2)} if "fused" in sets else {}
        found |= {"tokens": fused.half()} if "tokens" in sets else {}
    if "stages" in sets:
        found |= {f"stage_{number}": x.mean(dim=2) for number, x in enumerate(outputs, 1)}
    return found


@torch.inference_mode()
def read_pixels(clips: Tensor, num_steps: int) -> Sets:
    """The set `pixels` of uint8 clips (B, T, H, W, 3): (B, num_steps, frames of a step × 144) float32 in [0, 1]."""
    grey = (clips.float() / 255 * clips.new_tensor(GREY, dtype=torch.float32)).sum(dim=-1)  # B, T, H, W
    small = F.adaptive_avg_pool2d(grey, PIXEL_SIDE)
    return {"pixels": small.reshape(len(clips), num_steps, -1)}


def untrained_encoder(config: ModelConfig, seed: int = 0) -> TPSBT:
    """An encoder of the same shape with the weights that pre-training starts from with this seed. Draws nothing else."""
    task = "pretraining" if config.stem == "linear" else "features"  # which a convolutional stem starts from
    shape = replace(config, **{**OF_ITS_HEAD, "task": task, "fuse_stages": True, "frame_level": False})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(shape).encoder.eval()


def read_features(
    readers: Mapping[str, Reader],
    batches: Iterable[Mapping[str, Any]],
    device: torch.device,
    precision: str = "auto",
    *,
    folders: Mapping[str, Path] | None = None,
    description: str | None = None,
) -> dict[str, Tokens]:
    """Apply several readers to the same clips, which are decoded once.

    batches: as of `svfap.data.clip_dataset`. folders: where the features of each reader are written and stay; without, in memory.
    """
    dtype = PRECISIONS[pick_precision(precision, device)]
    stores = {name: _Store(None if folders is None else folders[name]) for name in readers}
    views: dict[str, list[Array]] = {}
    unreadable: dict[str, str] = {}
    with ExitStack() as files:
        for store in stores.values():
            files.enter_context(store)
        for batch in track(batches, description) if description else batches:
            unreadable |= {key: reason for _, key, reason in batch["unreadable"]}
            if not len(batch["clips"]):
                continue
            for name in ("index", "views", "frames", "values"):
                if name in batch and (name != "values" or batch[name].ndim == 3):
                    views.setdefault(name, []).append(batch[name].numpy())
            clips = batch["clips"].to(device, non_blocking=True)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                for name, reader in readers.items():
                    stores[name].add(reader(clips))
    if not views:
        first = next(iter(unreadable.items()), ("", "there is none"))
        raise UserError(f"none of the videos can be read; the first: {': '.join(first)}")
    joined = {name: np.concatenate(parts) for name, parts in views.items()}
    about = (joined["index"], joined["views"], joined["frames"], joined.get("values"), unreadable)
    return {name: Tokens(store.finish(), *about) for name, store in stores.items()}


@dataclass(frozen=True)
class FeatureCache:
    """Features in files: one folder for each reader, of the clips of one data set, sampled in one way.

    folder: of all caches. data: digest of the videos and of the sampling (see `data_digest`). Sets lie in raw files that are
    read through memory maps; `features.json` has their shapes and digests. A cache that is not whole is made again.
    """

    folder: Path
    data: str

    def read(
        self,
        readers: Mapping[str, Callable[[Sequence[str]], Reader]],
        names: Mapping[str, str],
        sets: Mapping[str, Sequence[str]],
        batches: Callable[[], Iterable[Mapping[str, Any]]],
        device: torch.device,
        precision: str,
        description: str,
    ) -> dict[str, Tokens]:
        """The features of each reader, by its key; videos are decoded only if some are not there yet.

        readers: key -> makes the reader of some sets. names: key -> a digest of its weights. sets: key -> those needed.
        batches: makes the batches of the videos.
        """
        exact = pick_precision(precision, device)
        places = {key: self.folder / f"{self.data}-{names[key]}-{exact}" for key in readers}
        # An encoder that is not trained yet may be the untrained one.
        first = {place: key for key, place in reversed(places.items())}
        there = {place: _open(place) for place in first}
        asked = {key: there[place][0] for key, place in places.items()}
        needed = {key: [*dict.fromkeys([*sets[key], *asked[key]])] for key in readers}
        missing = [key for key in first.values() if set(needed[key]) - set(asked[key])]
        if missing:
            make_folder(self.folder)
            with ExitStack() as fresh:
                folders = {key: fresh.enter_context(replacing_folder(places[key])) for key in missing}
                made = {key: readers[key](needed[key]) for key in missing}
                found = read_features(made, batches(), device, precision, folders=folders, description=description)
                for key, tokens in found.items():
                    _write_meta(folders[key], tokens, needed[key])
            there |= {places[key]: _open(places[key]) for key in missing}
        whole = {place: tokens for place, (_, tokens) in there.items() if tokens is not None}
        if broken := set(there) - set(whole):
            raise UserError(f"{broken.pop()}: cannot be read back as it was written; is the disk damaged?")
        return {key: whole[place] for key, place in places.items()}


def data_digest(dataset: ClipDataset) -> str:
    """Digest of the videos of a dataset (path, size, time of change, span, box), of their frame values, and of the sampling."""
    names = ("mode", "clip_length", "stride", "size", "num_segments", "num_crops", "frame_fit", "frame_level")
    settings = {name: getattr(dataset, name) for name in (*names, "fps", "frames_fps")}
    digest = hashlib.sha256(json.dumps([CACHE_VERSION, settings]).encode())
    manifest = dataset.manifest
    if dataset.frame_level:
        rules = (manifest.dimensions, manifest.invalid_marks, manifest.label_range)
        digest.update(repr(rules).encode())
    for sample in manifest:
        digest.update(repr((sample.key, *_stamp(sample.path))).encode("utf-8", "surrogateescape"))
        if dataset.frame_level:
            numbers = sample.frame_numbers
            values = sample.values if numbers is None else hashlib.sha256(numbers.tobytes()).hexdigest()
            digest.update(repr((sample.frame_values and _stamp(sample.frame_values), values)).encode())
    return digest.hexdigest()[:16]


def encoder_digest(encoder: TPSBT) -> str:
    """Digest of an encoder's weights and settings: 16 hexadecimal digits. What is around the encoder does not count."""
    return weights_digest(encoder, {name: getattr(encoder.config, name) for name in ENCODER_SETTINGS})


class _Store:
    """Sets that grow batch by batch, in memory or in the raw files of a folder, which are opened as memory maps."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._parts: dict[str, list[Array]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._types: dict[str, np.dtype[Any]] = {}
        self._files = ExitStack()
        self._open: dict[str, Any] = {}

    def __enter__(self) -> _Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def add(self, sets: Sets) -> None:
        for name, tensor in sets.items():
            array = tensor.cpu().numpy()
            number = self._shapes[name][0] if name in self._shapes else 0
            self._shapes[name], self._types[name] = (number + len(array), *array.shape[1:]), array.dtype
            if self.folder is None:
                self._parts.setdefault(name, []).append(array)
                continue
            if name not in self._open:
                self._open[name] = self._files.enter_context((self.folder / f"{name}.bin").open("wb"))
            self._open[name].write(array.tobytes())

    def finish(self) -> dict[str, Array]:
        if self.folder is None:
            return {name: np.concatenate(parts) for name, parts in self._parts.items()}
        return {
            name: np.memmap(self.folder / f"{name}.bin", self._types[name], "r", shape=shape)
            for name, shape in self._shapes.items()
        }


def _batches(clips: ClipDataset | Tensor | Array, batch_size: int, num_workers: int) -> Iterable[Mapping[str, Any]]:
    if isinstance(clips, ClipDataset):
        return make_loader(clips, batch_size, num_workers=num_workers, shuffle=False, seed=0)
    return batches_of(torch.as_tensor(clips), batch_size)


def batches_of(clips: Tensor, batch_size: int) -> Iterator[dict[str, Any]]:
    """Clips in memory, uint8 (N, T, H, W, 3), as batches of the loader; each is a sample by itself."""
    if clips.ndim != 5 or clips.dtype != torch.uint8 or clips.shape[-1] != 3:
        raise UserError(f"clips: must be uint8 (N, T, H, W, 3), not {clips.dtype} {tuple(clips.shape)}")
    for start in range(0, len(clips), batch_size):
        part = clips[start : start + batch_size]
        index = torch.arange(start, start + len(part))
        frames = torch.arange(clips.shape[1]).expand(len(part), -1)
        yield {"clips": part, "index": index, "views": torch.ones_like(index), "frames": frames, "unreadable": []}


def _normed(x: Array) -> Array:
    return normed(torch.from_numpy(np.asarray(x, np.float32))).numpy()


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError:
        return str(path.absolute()), -1, -1
    return str(path.absolute()), status.st_size, status.st_mtime_ns


def _write_meta(folder: Path, tokens: Tokens, asked: Sequence[str]) -> None:
    shapes = {name: [str(array.dtype), *array.shape] for name, array in tokens.sets.items()}
    arrays: dict[str, Any] = {"rows": tokens.rows, "weights": tokens.weights, "frames": tokens.frames}
    arrays |= {} if tokens.values is None else {"values": tokens.values}
    np.savez(folder / VIEWS_FILE, **arrays)
    digests = {file.name: file_digest(file) for file in folder.iterdir()}
    meta = {"version": CACHE_VERSION, "asked": list(asked), "sets": shapes, "digests": digests}
    write_atomically(folder / META_FILE, json.dumps(meta | {"unreadable": dict(tokens.unreadable)}))


def _open(folder: Path) -> tuple[Sequence[str], Tokens | None]:
    """The sets that a cache was asked for, and what it holds; nothing if it is absent, of another version or damaged."""
    recover_folder(folder)
    try:
        meta = json.loads((folder / META_FILE).read_text())
        is_whole = all(file_digest(folder / name) == digest for name, digest in meta["digests"].items())
        if not is_whole or meta["version"] != CACHE_VERSION:
            return (), None
        sets = {
            name: np.memmap(folder / f"{name}.bin", kind, "r", shape=tuple(shape))
            for name, (kind, *shape) in meta["sets"].items()
        }
        with np.load(folder / VIEWS_FILE) as views:
            about = {name: views[name] for name in views.files}
        return meta["asked"], Tokens(sets, unreadable=meta["unreadable"], **about)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return (), None
