"""Speed of resizing and of the augmentation of fine-tuning, and what they do to the picture.

Prints Markdown. Resizing is compared with Pillow, which the published code uses, and with bilinear interpolation without
antialiasing. Without --video, a synthetic face is shown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from common import add_machine_arguments, machine, table, time_alternating
from numpy.typing import NDArray
from PIL import Image

from svfap.data import augment, crops, rand_augment
from svfap.data.video import open_video
from svfap.device import pick_device
from svfap.model.config import IMAGENET_MEAN, IMAGENET_STD
from svfap.synth.camera import render_clip
from svfap.synth.config import RenderConfig

Pixels = NDArray[np.uint8]
NUM_FRAMES, SIZE = 16, 160
SOURCES = (120, 192, 224, 256, 320)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add_machine_arguments(parser)
    parser.add_argument("--video", type=Path, help="face video to resize; default: a synthetic one")
    parser.add_argument("--batch", type=int, default=8, help="clips augmented at a time")
    parser.add_argument("--repeats", type=int, default=15, help="rounds; the median is reported")
    options = parser.parse_args()
    rounds = 2 if options.quick else options.repeats
    device = pick_device(options.device)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print("\n".join(machine(device)), flush=True)
    print(f"\n### Resizing {NUM_FRAMES} frames to {SIZE} px, one thread\n")
    print(resizing(options.video, rounds))
    torch.set_num_threads(options.threads)
    print(f"\n### Augmentation of fine-tuning, {NUM_FRAMES} frames of {SIZE} px, batch {options.batch}\n")
    print(augmentation(options.batch, rounds, device))
    print(f"\nFill in a training view: {filled_area(200 if options.quick else 4000):.3f} of its area.")


def shown(video: Path | None, size: int) -> Pixels:
    """Frames of `size` px: of the video by averaging over areas, or rendered."""
    if video is None:
        frames, _ = render_clip(RenderConfig(size_px=size, fps=25, num_frames=NUM_FRAMES), 0, 0, "happy")
        return np.stack(list(frames))
    with open_video(video) as source:
        frames = source.read(np.linspace(0, source.num_frames - 1, NUM_FRAMES).astype(np.int64))
    return np.stack([cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA) for frame in frames])


def with_pillow(frames: Pixels) -> Pixels:
    return np.stack([np.asarray(Image.fromarray(f).resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for f in frames])


def without_antialiasing(frames: Pixels) -> Pixels:
    return np.stack([cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) for frame in frames])


def laplacian_energy(frames: Pixels) -> float:
    return float(np.mean([cv2.Laplacian(frame, cv2.CV_64F).var() for frame in frames]))


def milliseconds(
    runs: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, NDArray[np.float64]]:
    """Of each run in each round, (rounds,): on a CPU its own time, which other programs disturb less; else of the clock."""
    if device.type != "cpu":
        return {name: 1e3 * taken for name, taken in time_alternating(runs, rounds, device).items()}
    taken = {name: np.empty(rounds) for name in runs}
    for number in range(-1, rounds):  # the first one warms up
        for name, run in runs.items():
            start = time.process_time()
            run()
            taken[name][number] = 1e3 * (time.process_time() - start)
    return taken


def resizing(video: Path | None, rounds: int) -> str:
    """Time of each way of resizing, and its result compared with Pillow's."""
    rows = []
    ways: dict[str, Callable[[Pixels], Pixels]] = {
        "svfap": partial(crops.fit_frames, size=SIZE),
        "Pillow": with_pillow,
        "no antialiasing": without_antialiasing,
    }
    for source in SOURCES:
        frames = shown(video, source)
        taken = milliseconds({name: partial(way, frames) for name, way in ways.items()}, rounds, torch.device("cpu"))
        published = with_pillow(frames).astype(int)
        row = [f"{source} px", *(f"{np.median(taken[name]):.1f}" for name in ways)]
        for name in ("svfap", "no antialiasing"):
            result = ways[name](frames)
            row += [
                str(np.abs(result - published).max()),
                f"{laplacian_energy(result) / laplacian_energy(published.astype(np.uint8)):.2f}",
            ]
        rows.append(row)
    differences = [
        f"{name}: {what}" for name in ("svfap", "no antialiasing") for what in ("levels off", "Laplacian ÷ Pillow's")
    ]
    return table(("source", *(f"{name}, ms" for name in ways), *differences), rows)


def augmentation(batch: int, rounds: int, device: torch.device) -> str:
    """Time per clip of each step on the device."""
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (batch, NUM_FRAMES, SIZE, SIZE, 3), dtype=np.uint8)).to(device)
    levels = augment.to_levels(pixels)
    clips = augment.normalize(pixels, IMAGENET_MEAN, IMAGENET_STD)
    targets = torch.eye(batch, device=device)
    generator = torch.Generator().manual_seed(0)
    ra = rand_augment.RandAugment()
    steps: dict[str, Callable[[], object]] = {
        "copy to float32": lambda: augment.to_levels(pixels),
        "RandAugment": lambda: ra(levels, generator),
        "normalisation": lambda: augment.standardize(clips.clone(), IMAGENET_MEAN, IMAGENET_STD),
        "random resized crop": lambda: augment.random_resized_crop(clips, (0.08, 1.0), generator),
        "mirror": lambda: augment.flip(clips, 0.5, generator),
        "erasing": lambda: augment.random_erase(clips, 0.25, generator),
        "mixup or CutMix": lambda: augment.mix(clips, [targets], 0.8, 1.0, 0.5, generator),
    }
    taken = milliseconds(steps, rounds, device)
    means = {name: float(taken[name].mean()) / batch for name in steps}
    rows = [(name, f"{mean:.2f}") for name, mean in means.items()]
    return table(("step", "ms per clip"), [*rows, ("all", f"{sum(means.values()):.2f}")])


def filled_area(number: int, size: int = 64) -> float:
    """Mean share of a training view that shows the fill of geometric operations."""
    rng, generator, ra = np.random.default_rng(0), torch.Generator().manual_seed(0), rand_augment.RandAugment()
    geometric = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
    shares = []
    for _ in range(number):
        inside = torch.full((1, 3, 1, size, size), rand_augment.FILL + 100)
        for name, argument in ra.draw(rng):
            if name in geometric:
                inside = rand_augment.transform(inside, name, argument)
        view = augment.random_resized_crop(inside.clone(), (0.08, 1.0), generator)
        shares.append(float((rand_augment.FILL + 100 - view).mean()) / 100)
    return float(np.mean(shares))


if __name__ == "__main__":
    main()
