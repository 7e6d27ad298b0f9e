"""Does an exported model compute what the model computes, and how fast? Clips to compare them on, and the comparison."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from svfap.console import counted, say
from svfap.data.augment import normalize
from svfap.data.clip_dataset import ClipDataset
from svfap.data.crops import fit_frames
from svfap.data.rates import Clock
from svfap.data.sources import read_sources
from svfap.errors import UserError
from svfap.model.config import ModelConfig
from svfap.synth.camera import render_clip
from svfap.synth.config import CLASSES, RenderConfig

Run = Callable[[Tensor], Mapping[str, Tensor]]  # clips -> outputs by name
BATCH_SIZE = 8
ROUNDS = 5


@dataclass(frozen=True)
class Measured:
    """One way to run a model, compared with the model itself in float32.

    Attributes:
        name: such as "onnx int8".
        max_error, mean_error: absolute differences of the first output (logits, values, or features), over all clips.
        spread: standard deviation of that output of the model between clips, mean over its dimensions; errors are small or
            large beside it.
        relative_error: the largest difference of any output, as a fraction of that output's largest value.
        top1_kept: fraction of clips, or of their frames, with the same most probable class; None without classes.
        ms_per_clip: processor time for one clip, batch 1, median.
        speed: of the model itself in float32, times faster; the median of ratios of alternating runs.
        megabytes: size of the file; None for what is not a file.
    """

    name: str
    max_error: float
    mean_error: float
    spread: float
    relative_error: float
    top1_kept: float | None
    ms_per_clip: float
    speed: float
    megabytes: float | None


def synthetic_clips(config: ModelConfig, num_clips: int) -> Tensor:
    """Normalised clips of synthetic faces, (B, 3, T, H, W) float32, each of another face; the classes take turns."""
    size, rate = config.img_size, config.frame_rate or 25
    fps = max(round(rate / config.sampling_stride), 1)
    render = RenderConfig(size_px=max(size + size % 2, 32), fps=fps, num_frames=max(config.num_frames, 10))
    films = (render_clip(render, n, n, CLASSES[n % len(CLASSES)])[0] for n in range(num_clips))
    return _normalised([fit_frames(film[: config.num_frames], size) for film in films], config)


def clips_of(sources: str | Sequence[str], config: ModelConfig, num_clips: int) -> Tensor:
    """Normalised clips of videos, as `svfap evaluate` takes them: (B, 3, T, H, W) float32.

    They are spread evenly over the videos, and over the length of each. Names videos that cannot be read; raises `UserError`
    if none can.
    """
    samples = read_sources(sources).samples
    chosen = samples.subset(np.linspace(0, len(samples) - 1, min(num_clips, len(samples))).round().astype(int).tolist())
    clock = Clock.of(None, config.frame_rate, config.span)
    dataset = ClipDataset(
        chosen, "test", config.num_frames, config.sampling_stride, config.img_size, seed=0,
        num_segments=-(-num_clips // len(chosen)), num_crops=1, frame_fit=config.frame_fit, fps=clock.fps,
    )  # fmt: skip
    items = [dataset[index] for index in range(len(dataset))]
    unreadable = [f"{item.sample.key}: {item.reason}" for item in items if item.reason is not None]
    for problem in unreadable:
        say(f"warning: {problem}; it is left out of the check")
    clips = [clip for item in items for clip in item.clips][:num_clips]
    if not clips:
        raise UserError(f"check: none of {counted(len(items), 'video')} could be read; the first is {unreadable[0]}")
    return _normalised(clips, config)


def compare(
    clips: Tensor, reference: Run, others: Mapping[str, Run], config: ModelConfig, megabytes: Mapping[str, float]
) -> list[Measured]:
    """Compare ways to run a model with the first, the model in float32; clips (B, 3, T, H, W) float32 normalised.

    megabytes: sizes of the files of others, by name.
    """
    expected = _outputs(reference, clips)
    runs = {"torch fp32": reference, **others}
    times = _times(runs, clips)
    measured = []
    for name, run in runs.items():
        found = expected if run is reference else _outputs(run, clips)
        errors = {key: (found[key] - expected[key]).abs() for key in expected}
        relative = max(float(errors[key].max() / expected[key].abs().max().clamp(min=1e-30)) for key in expected)
        first = next(iter(expected))
        kept = None
        if config.task == "classification":
            kept = float((found[first].argmax(-1) == expected[first].argmax(-1)).double().mean())
        speed = float(np.median(times["torch fp32"] / times[name]))
        spread = float(expected[first].std(dim=0, correction=0).mean())
        error = (float(errors[first].max()), float(errors[first].mean()), spread, relative)
        took = 1e3 * float(np.median(times[name]))
        measured.append(Measured(name, *error, kept, took, speed, megabytes.get(name)))
    return measured


def _outputs(run: Run, clips: Tensor) -> dict[str, Tensor]:
    parts = [run(part) for part in clips.split(BATCH_SIZE)]
    return {name: torch.cat([part[name].float() for part in parts]) for name in parts[0]}


def _times(runs: Mapping[str, Run], clips: Tensor) -> dict[str, np.ndarray]:
    """Processor seconds of each run for one clip in `ROUNDS` rounds, alternating: A B C, C B A, …, after a warm-up."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(-1, ROUNDS):
        clip = clips[number % len(clips)][None]
        for name in list(runs)[:: 1 if number % 2 == 0 else -1]:
            start = time.process_time()
            runs[name](clip)
            taken[name].append(time.process_time() - start)
    return {name: np.maximum(np.array(times[1:]), 1e-6) for name, times in taken.items()}


def _normalised(clips: Sequence[np.ndarray], config: ModelConfig) -> Tensor:
    return normalize(torch.from_numpy(np.stack(clips)), config.pixel_mean, config.pixel_std)
