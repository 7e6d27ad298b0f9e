"""What the fault benchmarks share: small inputs, the command in a process of its own, and its outcome."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

LABELS = ("happy", "sad", "neutral")
# One thread each, so that several processes do not disturb each other and sums are made in one order.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}


@dataclass(frozen=True)
class Outcome:
    """How a command ended. status: its exit status, -9 if it was killed, None if it ran past its time."""

    status: int | None
    output: str
    seconds: float
    peak_mb: float

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.output

    @property
    def last_line(self) -> str:
        lines = self.output.strip().splitlines()
        return lines[-1] if lines else ""


def svfap(*arguments: object, cwd: Path, timeout_s: float = 600, prefix: Sequence[str] = (), **env: str) -> Outcome:
    """Run the command to its end; `prefix` is put before it, for `unshare` and the like."""
    began, process = time.monotonic(), start(*arguments, cwd=cwd, prefix=prefix, **env)
    try:
        output, _ = process.communicate(timeout=timeout_s)
        status: int | None = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, status = process.communicate()[0], None
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return Outcome(status, output.decode(errors="replace"), time.monotonic() - began, peak)


def start(*arguments: object, cwd: Path, prefix: Sequence[str] = (), **env: str) -> subprocess.Popen[bytes]:
    """Start the command in a process group of its own, with both outputs in one pipe."""
    command = [*prefix, sys.executable, "-m", "svfap", *(os.fsencode(str(argument)) for argument in arguments)]
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**ENVIRONMENT, **env},
        start_new_session=True,
    )  # fmt: skip


def save_model(folder: Path, task: str = "classification", **settings: Any) -> Path:
    """A tiny model with random weights that reads 16 frames, four apart, and whose outputs differ between clips."""
    import torch

    from svfap.model.build import create_model

    torch.manual_seed(0)
    model = create_model("svfap_debug", task, **{"label_names": LABELS, "sampling_stride": 4, **settings})
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    return folder


def pictures(number: int, seed: int, size_px: int = 128) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 of a synthetic face, another one for each seed."""
    from svfap.synth.camera import render_clip
    from svfap.synth.config import RenderConfig

    config = RenderConfig(size_px=size_px, num_frames=number, nuisance=0.3)
    return render_clip(config, seed, seed, LABELS[seed % len(LABELS)])[0]


def film(path: Path, seed: int, codec: str = "libx264", number: int = 60, fps: int = 25) -> Path:
    """Write a small video with this encoder; the suffix selects the container."""
    with av.open(f"file:{path}", "w") as container:
        options = {"libx264": {"preset": "veryfast"}, "libvpx": {"deadline": "realtime", "cpu-used": "8"}}
        stream: Any = container.add_stream(codec, rate=fps, options=options.get(codec, {}))
        stream.gop_size, stream.pix_fmt = 12, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for n, picture in enumerate(pictures(number, seed)):
            if n == 0:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def training_set(folder: Path, number: int = 24) -> Path:
    """Small videos v00.mp4, … and m.csv, which lists them with labels and subjects."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["path,label,subject"]
    for n in range(number):
        film(folder / f"v{n:02d}.mp4", n)
        lines.append(f"v{n:02d}.mp4,{LABELS[n % 3]},p{n // 3}")
    manifest = folder / "m.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


@contextmanager
def mounted(folder: Path, kilobytes: int) -> Iterator[None]:
    """A small file system at a folder; needs the rights of root."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)
