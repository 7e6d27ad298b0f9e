"""Speed of decoding and of training: whether training waits for the data loader.

Prints Markdown. Without --manifest, synthetic face videos are written to a temporary folder, with a keyframe every 12
and every 250 frames.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from common import add_machine_arguments, machine, num_cores, seconds, table, time_alternating
from torch import Tensor

from svfap.data.clip_dataset import Batch, ClipDataset, Mode
from svfap.data.loader import Batches, make_loader
from svfap.data.manifest import Manifest, read_manifest
from svfap.data.video import write_video
from svfap.device import PRECISIONS, Upload, pick_device, pick_precision
from svfap.model.masking import TubeMask
from svfap.synth.camera import render_clip
from svfap.synth.config import CLASSES, RenderConfig
from svfap.train.config import FinetuneConfig, PretrainConfig
from svfap.train.finetune import FinetuneTask
from svfap.train.optim import build_optimizer
from svfap.train.pretrain import PretrainTask

GOPS = (12, 250)  # default of write_video, default of x264
NUM_FRAMES, STRIDE, FPS = 16, 4, 25
MODES: tuple[Mode, ...] = ("pretrain", "train")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add_machine_arguments(parser)
    parser.add_argument("--manifest", type=Path, help="videos to decode; default: synthetic ones")
    parser.add_argument("--root", type=Path, help="folder that the manifest's paths are relative to")
    parser.add_argument("--source-px", type=int, default=160, help="side of the synthetic videos in pixels")
    parser.add_argument("--videos", type=int, default=16, help="videos decoded in each round")
    parser.add_argument("--presets", nargs="+", default=["svfap_base", "svfap_tiny"])
    parser.add_argument("--precision", default="auto", choices=["auto", *PRECISIONS])
    parser.add_argument("--batch", type=int, help="clips per step; default: 4, on a GPU 32")
    parser.add_argument("--steps", type=int, default=6, help="timed training steps")
    parser.add_argument("--workers", type=int, default=max(num_cores() - 1, 1), help="decoding processes")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of decoding; the median is reported")
    options = parser.parse_args()
    if options.quick:
        options.presets, options.videos, options.batch, options.steps, options.repeats = ["svfap_tiny"], 4, 2, 2, 1
    device = pick_device(options.device)
    options.batch = options.batch or (32 if device.type == "cuda" else 4)
    options.precision = pick_precision(options.precision, device)
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    print("\n".join(machine(device)), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        synthetic = write_videos(Path(folder), options.videos, options.source_px)
        sources = dict(synthetic)
        if options.manifest:
            manifest = read_manifest(options.manifest, root=options.root, task="unlabelled")
            chosen = np.linspace(0, len(manifest) - 1, min(options.videos, len(manifest))).astype(np.int64)
            sources = {options.manifest.name: manifest.subset(chosen)}
        measure(sources, synthetic, options, device)


def measure(
    sources: dict[str, Manifest], synthetic: dict[str, Manifest], options: argparse.Namespace, device: torch.device
) -> None:
    """Time decoding of `sources`, and training on `synthetic`, since the time of a step does not depend on pixel values."""
    tasks = {(preset, mode): make_task(preset, mode, synthetic) for preset in options.presets for mode in MODES}
    sizes = sorted({task.model.config.img_size for task in tasks.values()})
    keys = [(name, mode, size) for name in sources for mode in MODES for size in sizes]
    decoded = decoding_rates(sources, keys, options.repeats)
    print(f"\n### Decoding and cropping, {NUM_FRAMES} frames, stride {STRIDE}\n")
    print(
        table(
            ("videos", "mode", "px", "clips/s on one core"),
            [(n, m, str(s), f"{decoded[n, m, s]:.1f}") for n, m, s in keys],
        )
    )

    rows = []
    for (preset, mode), task in tasks.items():
        rate, pixel_fraction, wait_fraction = training_rate(task, options, device)
        row = [preset, mode, f"{rate:.3g}", f"{pixel_fraction:.0%}"]
        for name in sources:
            core_rate = decoded[name, mode, task.model.config.img_size]
            row += [f"{rate / core_rate:.3f}", f"{options.workers * core_rate / rate:.3g}"]
        rows.append([*row, f"{wait_fraction:.1%}"])
        task.model.to("cpu")
        gc.collect()
    per_source = [f"{name}: {what}" for name in sources for what in ("cores needed", "loader ÷ model")]
    print(f"\n### Training steps, {options.precision}, batch {options.batch}, decoding processes: {options.workers}\n")
    print(
        table(
            ("preset", "mode", "clips/s", "pixel operations", *per_source, f"{next(iter(synthetic))}: waiting"),
            rows,
        )
    )


def write_videos(folder: Path, num_videos: int, size_px: int) -> dict[str, Manifest]:
    """Write the same synthetic clips with each keyframe interval in GOPS; returns a manifest for each interval."""
    config = RenderConfig(size_px=size_px, fps=FPS, num_frames=max(GOPS))  # one GOP of the longer kind per video
    lines = ["path,label"]
    for number in range(num_videos):
        label = CLASSES[number % len(CLASSES)]
        frames, _ = render_clip(config, number, number, label)
        for gop in GOPS:
            (folder / str(gop)).mkdir(exist_ok=True)
            write_video(folder / str(gop) / f"{number}.mp4", frames, FPS, gop=gop)
        lines.append(f"{number}.mp4,{label}")
    for gop in GOPS:
        (folder / str(gop) / "list.csv").write_text("\n".join(lines) + "\n")
    return {f"{size_px} px, GOP {gop}": read_manifest(folder / str(gop) / "list.csv") for gop in GOPS}


def make_task(preset: str, mode: Mode, synthetic: dict[str, Manifest]) -> PretrainTask | FinetuneTask:
    """The task of pre-training or fine-tuning: model, augmentation and loss."""
    manifest = next(iter(synthetic.values())).path
    if mode == "pretrain":
        return PretrainTask(PretrainConfig(manifest=manifest, out=Path(), preset=preset, sampling_stride=STRIDE))
    config = FinetuneConfig(manifest=manifest, out=Path(), preset=preset, sampling_stride=STRIDE, val_fraction=0)
    return FinetuneTask(config)


def decoding_rates(
    sources: dict[str, Manifest], keys: Sequence[tuple[str, Mode, int]], rounds: int
) -> dict[tuple[str, Mode, int], float]:
    """Clips per second of one process with one thread, files in the page cache; the keys are measured alternately."""
    runs: dict[str, Callable[[], object]] = {}
    for name, mode, size in keys:
        dataset = ClipDataset(sources[name], mode, NUM_FRAMES, STRIDE, size, seed=0)
        runs[f"{name} {mode} {size}"] = partial(decode_all, dataset)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    taken = time_alternating(runs, rounds, torch.device("cpu"))
    torch.set_num_threads(threads)
    return {key: len(sources[key[0]]) / float(np.median(taken[f"{key[0]} {key[1]} {key[2]}"])) for key in keys}


def decode_all(dataset: ClipDataset) -> None:
    """Decode one epoch; random draws differ between epochs. All videos must be readable."""
    dataset.epoch += 1
    for index in range(len(dataset)):
        batch = dataset.collate([dataset[index]])
        assert not batch["unreadable"], batch["unreadable"]


def training_rate(
    task: PretrainTask | FinetuneTask, options: argparse.Namespace, device: torch.device
) -> tuple[float, float, float]:
    """Train for some steps with the data loader running on the remaining cores.

    Returns the clips per second of the steps alone; the fraction of a step spent on pixel operations (augmentation,
    normalisation, targets); and the fraction of the total time spent waiting for the loader.
    """
    task.model.to(device).train()
    optimizer = build_optimizer(task.parameter_groups())
    autocast = torch.autocast(device.type, PRECISIONS[options.precision], enabled=options.precision != "fp32")
    generator, upload = torch.Generator().manual_seed(0), Upload(device)

    def step(batch: Batch) -> None:
        with autocast:
            loss = task.loss(task.model, upload(batch), generator)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def pixel_operations(batch: Batch) -> None:
        with autocast, torch.no_grad():
            task.loss(partial(no_model, task), upload(batch), generator).item()

    num_ahead = 2 * options.workers + 1  # batches prepared during warm-up, not timed
    waiting, stepping = [], []
    batches = iter(make_batches(task, options, num_ahead + options.steps, device))
    for _ in range(num_ahead):
        batch = next(batches)
        step(batch)
    for _ in range(options.steps):
        waiting.append(seconds(lambda: next(batches), device))
        stepping.append(seconds(partial(step, batch), device))
    step_s = float(np.median(stepping))
    pixels_s = float(np.median([seconds(partial(pixel_operations, batch), device) for _ in range(options.steps)]))
    return options.batch / step_s, pixels_s / step_s, sum(waiting) / (sum(waiting) + sum(stepping))


def no_model(task: PretrainTask | FinetuneTask, clips: Tensor, mask: TubeMask | None = None) -> Tensor:
    """A replacement of the model without computation: zeros in the shape of its output."""
    shape = task.model.config
    if mask is not None:
        return clips.new_zeros(len(clips), mask.hidden.shape[1], shape.tubelet_dim)
    return clips.new_zeros(len(clips), shape.num_outputs)


def make_batches(
    task: PretrainTask | FinetuneTask, options: argparse.Namespace, number: int, device: torch.device
) -> Batches:
    """A loader of `number` batches, for which the videos of the task are repeated."""
    manifest = task.manifest.subset(np.arange(options.batch * number) % len(task.manifest))
    dataset = ClipDataset(manifest, task.dataset.mode, NUM_FRAMES, STRIDE, task.model.config.img_size, seed=0)
    return make_loader(
        dataset,
        options.batch,
        shuffle=True,
        seed=0,
        num_workers=options.workers,
        pin_memory=device.type == "cuda",
    )


if __name__ == "__main__":
    main()
