"""Whether reading is linear in the length of a video: processor time and memory of a short and of a four times longer one.

Prints Markdown. The videos are small synthetic ones, H.264 with B-frames and a keyframe every 250 frames, at a constant and
at a variable frame rate.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from common import machine, table

from svfap.data.video import open_video

FPS, NUM_CLIPS, CLIP_LENGTH, SIZE = 25, 50, 16, (64, 48)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--minutes", type=float, default=30, help="length of the short video; the long one has four times that"
    )
    options = parser.parse_args()
    print("\n".join(machine(torch.device("cpu"))), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("constant", "variable"):
            measured = []
            for minutes in (options.minutes, 4 * options.minutes):
                path = Path(folder) / f"{kind}_{minutes:g}.mp4"
                write(path, round(60 * minutes * FPS), kind == "variable")
                # A process of its own, whose peak of memory is that of this video.
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                    measured.append(process.submit(measure, path).result())
                path.unlink()
                rows.append((kind, f"{minutes:g} min", *(f"{value:.3g}" for value in measured[-1])))
            ratios = [long / short for short, long in zip(*measured, strict=True)]
            rows.append((kind, "ratio", *(f"{ratio:.2f}" for ratio in ratios)))
    columns = ("opening in s", "all steady frames in s", f"{NUM_CLIPS} random clips in s", "peak memory in MB")
    print(table(("frame rate", "length", *columns), rows))


def write(path: Path, num_frames: int, variable: bool) -> None:
    """Grey pictures; with a variable rate every tenth is shown for three times as long as the others."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "bf": "2"})
        stream.width, stream.height = SIZE
        stream.pix_fmt, stream.gop_size = "yuv420p", 250
        stream.codec_context.time_base = Fraction(1, FPS)
        frame = av.VideoFrame(*SIZE, "yuv420p")
        planes = [np.frombuffer(plane, np.uint8) for plane in frame.planes]
        for number in range(num_frames):
            for plane in planes:
                plane[:] = number % 256
            frame.pts, frame.time_base = number + 2 * (number // 10) * variable, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def measure(path: Path) -> tuple[float, float, float, float]:
    """Processor seconds to open, to read all frames of the clock, and to read random clips; peak memory in MB."""
    rng = np.random.default_rng(0)
    begun = time.process_time()
    with open_video(path) as video:
        opened = time.process_time()
        num_frames = sum(1 for _ in video.steady_frames())
        assert num_frames == video.grid().num_frames
        streamed = time.process_time()
        for first in rng.integers(0, video.num_frames - CLIP_LENGTH, NUM_CLIPS):
            assert len(video.read(range(first, first + CLIP_LENGTH))) == CLIP_LENGTH
        read = time.process_time()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return opened - begun, streamed - opened, read - streamed, peak_mb


if __name__ == "__main__":
    main()
