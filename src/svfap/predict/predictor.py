"""A fine-tuned model applied to sliding windows of raw video: affect over time, per face (the model of Fig. 1b)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from svfap.data.augment import normalize
from svfap.data.video import VideoError
from svfap.device import PRECISIONS, pick_device, pick_precision
from svfap.errors import UserError
from svfap.faces.config import FaceCropConfig, TrackConfig
from svfap.faces.detect import Detector, make_detector
from svfap.model.base import Model
from svfap.model.config import ModelConfig
from svfap.predict.reader import OnFrame, Reader, prefetched
from svfap.predict.source import is_live
from svfap.predict.table import PROBABILITY, table_columns
from svfap.predict.windows import Window
from svfap.weights.folder import load_model

Row = dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """The end of a video's rows; error: why it could not be read to its last picture, else None."""

    error: VideoError | None = None


class Predictor:
    """Predicts affect in one video at a time, in memory; `svfap.predict_videos` does many and writes files.

    Args:
        model: a fine-tuned model, or what `svfap.load_model` takes. It is moved to the device and set to eval mode.
        device: "auto" (a GPU if there is one), "cpu", "cuda", ….
        precision: "auto" (bf16 where the hardware is fast at it), "fp32", "bf16" or "fp16".
        hop_s: seconds from the start of one window to the next; default: windows follow each other without overlap.
        batch_size: windows that the model processes at a time.
        faces: the face detector: "auto", "yunet", "haar" (see `svfap.faces.detect.make_detector`) or a `Detector`; "none":
            the video is a face crop, of which the centre square is used.
        face_model: YuNet's .onnx file.
        crop: how faces are cut out, which must match training; `size_px` is always the model's.
        tracking: how faces are followed.
        timeout_s: stop reading a stream after this many seconds without data.

    Raises:
        UserError: a value cannot be used, or the model was not fine-tuned.

    Attributes:
        columns: of the table, in order.
        values: those of the columns that hold predictions.
    """

    def __init__(
        self,
        model: Model | str | Path,
        device: str = "auto",
        precision: str = "auto",
        hop_s: float | None = None,
        batch_size: int = 8,
        faces: Literal["auto", "yunet", "haar", "none"] | Detector = "auto",
        face_model: str | Path | None = None,
        crop: FaceCropConfig | None = None,
        tracking: TrackConfig | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        self.model = model if isinstance(model, Model) else load_model(model)
        self.config = self.model.config
        if self.config.task not in ("classification", "regression"):
            raise UserError(
                f"the model is for {self.config.task}, not for prediction; fine-tune it first (svfap finetune)"
            )
        if hop_s is not None and not hop_s > 0:
            raise UserError(f"hop_s={hop_s}: must be more than 0")
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: must be at least 1")
        if not timeout_s > 0:
            raise UserError(f"timeout_s={timeout_s}: must be more than 0")
        detector = None if faces == "none" else make_detector(faces, face_model) if isinstance(faces, str) else faces
        self.device = pick_device(device)
        self.dtype = PRECISIONS[pick_precision(precision, self.device)]
        self.batch_size = batch_size
        self.model.to(self.device).eval()
        self.reader = Reader(
            self.config,
            hop_s,
            detector,
            replace(crop or FaceCropConfig(), size_px=self.config.img_size),
            tracking or TrackConfig(),
            timeout_s,
        )
        names = self.config.label_names or [f"output_{i}" for i in range(self.config.num_outputs)]
        self.values = [PROBABILITY + name if self.config.task == "classification" else name for name in names]
        self.columns = table_columns(self.values, faces=detector is not None)

    def __call__(self, video: str | Path) -> pd.DataFrame:
        """One row per window of every face (frame-level models: per sampled frame).

        Columns: `track` (the face's number), `start_s`, `end_s` (of the window, seconds), `box_x`, `box_y`, `box_w`,
        `box_h` (at the window's centre, pixels of the upright picture), `prob_<label>` for each label or the value of each
        dimension, and `confidence` (the detector's, mean over the window). With faces="none" there are no track, box and
        confidence. Without a face there are no rows. Raises `VideoError` if the video cannot be read to its end.
        """
        return pd.DataFrame(self.stream(video), columns=self.columns)

    def stream(self, video: str | Path) -> Iterator[Row]:
        """The rows of the table as they are computed; memory does not grow with the video. Raises `VideoError`."""
        for _, item in self.run([video]):
            if isinstance(item, dict):
                yield item
            elif item.error is not None:
                raise item.error

    def run(
        self, videos: Sequence[str | Path], on_frame: OnFrame | None = None
    ) -> Iterator[tuple[str | Path, Row | Ended]]:
        """(video, row) for the rows of each video, then (video, `Ended`), in order; windows of all share batches.

        Decoding, face detection and the model run in parallel threads. A video that cannot be read to its end has
        the rows of what could be read, then its error. on_frame: see `OnFrame`.
        """
        held: list[tuple[str | Path, Window | Ended]] = []
        with closing(prefetched(self._read(videos, on_frame), self.batch_size)) as items:
            for video, item in items:
                held.append((video, item))
                num_windows = sum(isinstance(item, Window) for _, item in held)
                # Full batches make results reproducible to the last bit; rows of live sources must not wait for that.
                if num_windows in (0, self.batch_size) or is_live(video):
                    yield from self._rows(held)
                    held = []
        yield from self._rows(held)

    def _read(
        self, videos: Sequence[str | Path], on_frame: OnFrame | None
    ) -> Iterator[tuple[str | Path, Window | Ended]]:
        for video in videos:
            error = None
            try:
                for window in self.reader.windows(video, on_frame):
                    yield video, window
            except VideoError as reason:
                error = reason
            yield video, Ended(error)

    def _rows(self, held: list[tuple[str | Path, Window | Ended]]) -> Iterator[tuple[str | Path, Row | Ended]]:
        clips = [item.frames for _, item in held if isinstance(item, Window)]
        outputs = iter(self._outputs(np.stack(clips)) if clips else ())
        for video, item in held:
            results = [item] if isinstance(item, Ended) else self._rows_of(item, next(outputs))
            yield from ((video, result) for result in results)

    def _rows_of(self, window: Window, output: np.ndarray) -> Iterator[Row]:
        """A row of the window, or of each of its frames that no earlier window had; output (K,) or (T, K)."""
        box, confidence = window.box, window.confidence
        parts = output if self.config.frame_level else output[None]
        for part, (first, start_s, end_s) in zip(parts, window.spans(len(parts)), strict=False):
            if self.config.frame_level:
                box, confidence = window.boxes[first], window.confidences[first]
                if not window.fresh[first]:
                    continue
            cells = (start_s, end_s, *part.tolist())
            if self.reader.detector is not None:
                cells = (window.track, start_s, end_s, *box, *part.tolist(), confidence)
            yield dict(zip(self.columns, cells, strict=True))

    def _outputs(self, clips: np.ndarray) -> np.ndarray:
        """(B, T, H, W, 3) uint8 -> (B, K) or (B, T, K): probabilities or values."""
        outputs = run_clips(self.model, clips, self.config, self.device, self.dtype)
        return (outputs.softmax(dim=-1) if self.config.task == "classification" else outputs).cpu().numpy()


@torch.inference_mode()
def run_clips(
    function: Callable[[torch.Tensor], torch.Tensor],
    clips: np.ndarray,
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Apply a model, or one of its methods, to clips (B, T, H, W, 3) uint8: float32 on the device, computed in `dtype`."""
    pixels = torch.from_numpy(clips).to(device)
    ready = normalize(pixels, config.pixel_mean, config.pixel_std)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        return function(ready).float()
