"""What is measured: the steps of the training loop, the forward passes of `svfap predict`, and the loader."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from svfap.bench.config import BenchConfig
from svfap.bench.measure import LEAST, MOST, Rate, finish
from svfap.console import silent
from svfap.data.clip_dataset import Batch, ClipDataset
from svfap.data.loader import BatchLoader
from svfap.data.prepared import read_dataset
from svfap.data.shared_memory import BATCHES_AHEAD
from svfap.data.video import write_video
from svfap.device import PRECISIONS
from svfap.errors import UserError
from svfap.model.base import Model
from svfap.model.config import ENCODER_SETTINGS
from svfap.model.presets import PRESETS, model_config
from svfap.predict.predictor import run_clips
from svfap.synth.camera import render_clip
from svfap.synth.config import CLASSES, RenderConfig
from svfap.train.config import FinetuneConfig, PretrainConfig
from svfap.train.finetune import FinetuneTask
from svfap.train.loop import TrainingRun
from svfap.train.pretrain import PretrainTask
from svfap.train.stop import StopRequest
from svfap.weights.folder import load_model

Task = PretrainTask | FinetuneTask
SIZES = (*ENCODER_SETTINGS, "img_size", "num_frames", "decoder_embed_dim", "decoder_num_heads", "decoder_depth")
NUM_TRIED = 16  # rows of a manifest, for one that can be read
MOST_STEPS = 1000  # of a run
READ_BATCH = 8


class Size(NamedTuple):
    """The size of a model: a preset, and the settings in which it differs."""

    preset: str
    model: dict[str, Any]


def size_of(config: BenchConfig) -> Size:
    """The size that is asked for. Raises `UserError`."""
    if config.model is None:
        return Size(config.preset, {})
    found = load_model(config.model).config
    preset = found.preset if found.preset in PRESETS else "svfap_base"
    usual = model_config(preset, "features")
    differing = {name: getattr(found, name) for name in SIZES if getattr(found, name) != getattr(usual, name)}
    return Size(preset, differing)


def synthetic_manifest(folder: Path, size: Size) -> Path:
    """Videos of a synthetic face, all alike, and a manifest of them."""
    shape = model_config(size.preset, "features", **size.model)
    side = max(shape.img_size + shape.img_size % 2, 32)
    render = RenderConfig(size_px=side, num_frames=max(shape.num_frames * shape.sampling_stride, 10))
    frames, _ = render_clip(render, 0, 0, CLASSES[0])
    lines = ["path,label"]
    for name in CLASSES:
        write_video(folder / f"{name}.mp4", frames, render.fps)
        lines.append(f"{name}.mp4,{name}")
    (folder / "faces.csv").write_text("\n".join(lines) + "\n")
    return folder / "faces.csv"


class Made(NamedTuple):
    """A task and its videos. given: the settings besides the model's size, as a command needs them. item: a decoded sample.

    item_s: seconds that decoding it took. is_own: on the user's videos, else on a synthetic face.
    """

    task: Task
    given: dict[str, Any]
    item: Any
    item_s: float
    is_own: bool


def make_tasks(config: BenchConfig, size: Size, synthetic: Path | None) -> dict[str, Made | UserError]:
    """Pre-training and fine-tuning on the user's videos, or on those of `synthetic`; or why there is none.

    Raises `UserError` if no video can be read.
    """
    manifest = synthetic or config.manifest
    videos: dict[str, Any] = {} if synthetic else dict(root=config.root, split=config.split)
    pretraining, finetuning = [{**videos, "manifest": manifest}], [{**videos, "manifest": manifest}]
    if config.dataset is not None and synthetic is None:
        dataset = read_dataset(config.dataset)
        pretraining = finetuning = [{**videos, "dataset": config.dataset}]
        if len(dataset.folds) > 1:
            finetuning = [{**finetuning[0], "fold": dataset.folds[0].name}]
        if dataset.pretrain is None and dataset.folds:
            root = config.root or dataset.root
            pretraining = [{**videos, "manifest": dataset.folds[0].train, "root": root}]
    else:
        finetuning = [{**finetuning[0], **task} for task in ({}, {"task": "regression"})]
        finetuning = [{**each, **part} for each in finetuning for part in ({}, {"val_fraction": 0.0})]
    if config.model is not None:
        finetuning = [{**each, **init} for init in ({"init": config.model}, {}) for each in finetuning]
    common: dict[str, Any] = dict(out=Path(), preset=size.preset, model=size.model, max_unreadable=1.0)
    common |= dict(base_lr=0.0, min_lr=0.0, warmup_epochs=0)  # the weights stay as they are
    return {
        "pretrain": _first(lambda given: PretrainTask(PretrainConfig(**common, **given)), pretraining, not synthetic),
        "finetune": _first(lambda given: FinetuneTask(FinetuneConfig(**common, **given)), finetuning, not synthetic),
    }


def _first(make: Callable[[dict[str, Any]], Task], choices: list[dict[str, Any]], is_own: bool) -> Made | UserError:
    """With the first settings that will do; else what is wrong with the first of all."""
    problem: UserError | None = None
    for given in choices:
        try:
            with silent():
                task = make(given)
        except UserError as error:
            problem = problem or error
        else:
            return Made(task, given, *_readable_item(task.dataset), is_own)
    assert problem is not None
    return problem


def _readable_item(dataset: ClipDataset) -> tuple[Any, float]:
    """A decoded sample, and the seconds that it took. Raises `UserError` if none of the first ones can be read."""
    tried, first = min(NUM_TRIED, len(dataset)), None
    for number in range(tried):
        began = time.monotonic()
        item = dataset[number]
        if item.reason is None:
            return item, time.monotonic() - began
        first = first or item
    assert first is not None
    count = "its video" if tried == 1 else f"none of its first {tried} videos"
    fails = "cannot be read" if tried == 1 else "can be read; the first"
    raise UserError(f"{dataset.manifest.path}: {count} {fails}: {first.sample.path}: {first.reason}")


@contextmanager
def training_run(task: Task, folder: Path, precision: str, batch: int = 1, workers: int = 0) -> Iterator[TrainingRun]:
    """A run of the training loop, with a model of its own, in a new folder."""
    epochs = 1 + MOST_STEPS * batch // len(task.dataset)
    settings: Any = dict(precision=precision, batch_size=batch, num_workers=workers, epochs=epochs)
    mine = copy.copy(task)
    mine.config = replace(task.config, out=folder, **settings)
    mine.model = copy.deepcopy(task.model)
    with silent():
        run = TrainingRun(mine, mine.config)
    try:
        run.model.train()
        yield run
    finally:
        run.close("interrupted")


def step_of(run: TrainingRun, item: Any, batch: int) -> Callable[[], object]:
    """One optimiser step of the loop on so many copies of a decoded sample."""
    clips = run.task.dataset.collate([item] * batch)
    if run.accelerator.device.type == "cuda":
        clips = {name: v.pin_memory() if isinstance(v, torch.Tensor) else v for name, v in clips.items()}
    stop = StopRequest()

    def step() -> None:
        run.state.step %= MOST_STEPS
        run._step([clips], 1, stop)

    return step


def forward_of(
    model: Model, dataset: ClipDataset, item: Any, device: torch.device, precision: str
) -> Callable[[int], Callable[[], object]]:
    """For a number of clips, the forward pass of `svfap predict` on as many copies of a decoded sample."""
    mine = copy.deepcopy(model).to(device).eval()

    def of(batch: int) -> Callable[[], object]:
        clips = dataset.collate([item] * batch)["clips"].numpy()

        @torch.inference_mode()
        def forward() -> torch.Tensor:
            return run_clips(mine, clips, mine.config, device, PRECISIONS[precision]).cpu()

        return forward

    return of


def reading_rate(dataset: ClipDataset, workers: int, seconds: float, end: float) -> tuple[Rate, int] | None:
    """Clips per second of the loader alone, and the number of videos that could not be read.

    What is ready when the clock starts is not counted. The time is cut into `LEAST` equal parts, as batches that lie ready
    come several at once. seconds: how long to measure, at least `LEAST` batches of each worker.
    None if less than `LEAST` batches came until `end`, or no video could be read.
    """
    batch = min(READ_BATCH, len(dataset))
    loader = BatchLoader(dataset, num_workers=workers)
    times, counts, unreadable = [], [0], 0
    with closing(loader):
        batches = _endless(lambda epoch: loader.batches(dataset, batch, shuffle=True, seed=0, epoch=epoch))
        for _ in range(workers * BATCHES_AHEAD + 1):
            if time.monotonic() > end:
                return None
            next(batches)
        times.append(time.monotonic())
        while len(times) <= LEAST * max(workers, 1) or time.monotonic() < times[0] + seconds:
            if time.monotonic() > end:
                break
            read = next(batches)
            times.append(time.monotonic())
            counts.append(counts[-1] + len(read["clips"]))
            unreadable += len(read["unreadable"])
    if len(times) <= LEAST or not counts[-1]:
        return None
    cuts = np.linspace(times[0], times[-1], LEAST + 1)
    read_by = np.interp(cuts, times, counts)  # a batch that is under way at a cut counts in part
    return Rate(tuple((np.diff(read_by) / np.diff(cuts)).tolist())), unreadable


def joint_rate(run: TrainingRun, seconds: float, end: float) -> tuple[Rate, float] | None:
    """Clips per second of training fed by its loader, and the fraction of the time spent waiting for it.

    What the loader has ready at the start is thrown away. seconds, end: as for `reading_rate`, for steps.
    """
    stop, device = StopRequest(), run.accelerator.device
    batches = _endless(lambda epoch: run._batches(epoch, 0))
    taken: list[float] = []
    waited = began = 0.0
    for number in range(-1 - (run.config.num_workers or 0) * BATCHES_AHEAD, MOST):
        start = time.monotonic()
        began = start if number == 0 else began
        if start > end or (len(taken) >= LEAST and start > began + seconds):
            break
        clips = next(batches)
        came = time.monotonic()
        if number < -1:
            continue
        run._step([clips], 1, stop)
        finish(device)
        if number >= 0:  # the first step warms up
            waited += came - start
            taken.append(time.monotonic() - start)
    if not taken:
        return None
    return Rate(tuple(run.config.batch_size / each for each in taken)), waited / sum(taken)


def _endless(epoch_of: Callable[[int], Any]) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from epoch_of(epoch)
