"""A trained model applied to raw video: affect over time (Fig. 1b, run over sliding windows)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch

from svfap.data.augment import center_crop, normalize
from svfap.data.clips import window_indices
from svfap.data.video import open_video
from svfap.device import PRECISIONS, pick_device, pick_precision
from svfap.errors import UserError
from svfap.inference.windows import Window, iter_windows
from svfap.model.base import Model
from svfap.weights import load_model

T = TypeVar("T")


class Predictor:
    """Video in, table out.

    model: a perceiver, or what `svfap.load_model` takes. device: "auto" (a GPU where there is one), "cpu", "cuda", ….
    precision: "auto" (bf16 where the device is quick at it), "fp32", "bf16" or "fp16". hop_s: seconds from one window to
    the next; default: windows follow each other without overlap. The picture is taken as a face crop: its centre square.
    The model is moved to the device and set to eval mode.
    """

    def __init__(
        self,
        model: Model | str | Path,
        device: str = "auto",
        precision: str = "auto",
        hop_s: float | None = None,
        batch_size: int = 8,
    ) -> None:
        self.model = model if isinstance(model, Model) else load_model(model)
        self.config = self.model.config
        if self.config.task not in ("classification", "regression"):
            raise UserError(
                f"the model is for {self.config.task}, not for prediction; fine-tune it first (svfap finetune)"
            )
        if hop_s is not None and hop_s <= 0:
            raise UserError(f"hop_s={hop_s}: seconds from one window to the next must be more than 0")
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: at least one window at a time")
        self.device = pick_device(device)
        self.dtype = PRECISIONS[pick_precision(precision, self.device)]
        self.hop_s, self.batch_size = hop_s, batch_size
        self.model.to(self.device).eval()
        names = self.config.label_names or [f"output_{i}" for i in range(self.config.num_outputs)]
        self.columns = [f"prob_{n}" if self.config.task == "classification" else n for n in names]

    def __call__(self, video: str | Path) -> pd.DataFrame:
        """One row per window (frame-level models: per sampled frame): `start_s`, `end_s`, then `prob_<label>`
        for each label, or the value of each dimension. Raises `VideoError` if the video cannot be read."""
        return pd.DataFrame(self.stream(video), columns=["start_s", "end_s", *self.columns])

    def stream(self, video: str | Path) -> Iterator[dict[str, float]]:
        """The rows of the table as they come; memory does not grow with the video."""
        shown_until = -1
        for windows in _batched(self._windows(video), self.batch_size):
            outputs = self._run(np.stack([window.frames for window in windows]))
            for window, output in zip(windows, outputs, strict=True):
                if not self.config.frame_level:
                    yield self._row(window.start_s, window.end_s, output)
                    continue
                frames = np.unique(window.indices, return_index=True)[1]  # short videos repeat their last frame
                for frame, (start, end) in zip(frames, pairwise([*window.times_s[frames], window.end_s]), strict=True):
                    if window.indices[frame] > shown_until:  # windows may overlap
                        shown_until = int(window.indices[frame])
                        yield self._row(float(start), float(end), output[frame])

    def num_rows(self, num_frames: int, fps: float) -> int:
        """Rows that `stream` yields for a video of so many frames."""
        length, stride = self.config.num_frames, self.config.sampling_stride
        windows = window_indices(num_frames, length, stride, self._hop(fps))
        if not self.config.frame_level:
            return len(windows)
        shown_until = [-1, *windows[:-1, -1]]
        return sum(len(np.unique(row[row > shown])) for row, shown in zip(windows, shown_until, strict=True))

    def _hop(self, fps: float) -> int:
        """Frames from one window to the next."""
        if self.hop_s is None:
            return self.config.num_frames * self.config.sampling_stride
        return max(round(self.hop_s * fps), 1)

    def _windows(self, video: str | Path) -> Iterator[Window]:
        size, length, stride = self.config.img_size, self.config.num_frames, self.config.sampling_stride
        with open_video(video) as source:
            frames, hop = source.steady_frames(), self._hop(source.fps)
            yield from iter_windows(frames, length, stride, hop, lambda f: center_crop(f[None], size)[0])

    @torch.inference_mode()
    def _run(self, clips: np.ndarray) -> np.ndarray:
        """(B, T, H, W, 3) uint8 -> (B, K) or (B, T, K): probabilities or values."""
        pixels = torch.from_numpy(clips).to(self.device)
        ready = normalize(pixels, self.config.pixel_mean, self.config.pixel_std)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            outputs = self.model(ready).float()
        if self.config.task == "classification":
            outputs = outputs.softmax(dim=-1)
        return outputs.cpu().numpy()

    def _row(self, start_s: float, end_s: float, output: np.ndarray) -> dict[str, Any]:
        return {"start_s": start_s, "end_s": end_s, **dict(zip(self.columns, output.tolist(), strict=True))}


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
