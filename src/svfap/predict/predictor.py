"""A fine-tuned model applied to sliding windows of raw video: affect over time, per face (the model of Fig. 1b)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch

from svfap.console import say
from svfap.data.augment import normalize
from svfap.data.prepared import in_crops
from svfap.data.video import VideoError
from svfap.device import PRECISIONS, pick_device, pick_precision
from svfap.errors import UserError
from svfap.faces.config import CROP_FIELDS, DetectorName, FaceCropConfig, Faces, TrackConfig
from svfap.faces.detect import Detector, make_detector
from svfap.metric_table import prefixed
from svfap.model.base import Model
from svfap.model.config import ModelConfig
from svfap.model.perceiver import by_head
from svfap.predict.config import PredictConfig
from svfap.predict.reader import OnFaces, OnFrame, Reader, prefetched
from svfap.predict.source import is_live
from svfap.predict.table import BOX, FRAMES, LANDMARKS, NOT_VALUES, PROBABILITY, TIMES, label_columns
from svfap.predict.windows import Window
from svfap.settings import Fps, Hop
from svfap.shipped import shipped_folder
from svfap.weights.described import require_names
from svfap.weights.exported import ExportedModel, load_for_inference

# Of `PredictConfig`, as the arguments of a `Predictor`.
SETTINGS = (
    *("device", "precision", "batch_size", "faces", "face_model", "timeout_s"),
    *("hop_s", "fps", "frames_fps", "landmarks"),
)
Video = str | Path
Row = dict[str, Any]
Read = tuple[Video, Window | VideoError | None]  # None: the video has ended
Result = tuple[Video, Row | VideoError | None]


class Predictor:
    """Predicts affect in one video at a time, in memory; `svfap.predict_videos` does many and writes files.

    Args:
        model: a fine-tuned model, or what `svfap.load_model` takes, such as "movement"; or a file of `svfap export` (.onnx).
            It is moved to the device, except one from a file, and set to eval mode.
        device, precision, hop_s, batch_size, face_model, timeout_s, fps, frames_fps, landmarks: as in
            `PredictConfig`.
        faces: as in `PredictConfig`, or a `Detector`.
        crop: how faces are cut out, or some of margin, align and border, by name; default: as in the model's training.
            `size_px` is always the model's.
        tracking: how faces are tracked.

    Raises:
        UserError: a value cannot be used, or the model was not fine-tuned.

    Attributes:
        columns: of the table, in order. values: those that hold predictions.
    """

    def __init__(
        self,
        model: Model | ExportedModel | str | Path,
        device: str = "auto",
        precision: str = "auto",
        hop_s: Hop = "auto",
        batch_size: int = 8,
        faces: Faces | Detector | None = None,
        face_model: str | Path | None = None,
        crop: FaceCropConfig | Mapping[str, Any] | None = None,
        tracking: TrackConfig | None = None,
        timeout_s: float = 10.0,
        fps: Fps = None,
        frames_fps: float | None = None,
        landmarks: bool = False,
    ) -> None:
        self.model = load_for_inference(model) if isinstance(model, str | Path) else model
        self.config = self.model.config
        if self.config.task not in ("classification", "regression", "multitask"):
            task = self.config.task
            raise UserError(f"the model is for {task}, not for prediction; fine-tune it first (svfap finetune)")
        if isinstance(model, str | Path):
            require_names(model, self.config)
        times: dict[str, Any] = {"hop_s": hop_s, "timeout_s": timeout_s, "fps": fps, "frames_fps": frames_fps}
        PredictConfig(out=None, batch_size=batch_size, **times)  # checks the values
        detector = detector_of(self.config, faces, face_model)
        if landmarks and not getattr(detector, "gives_landmarks", False):
            which = "with faces=none no faces are detected" if detector is None else f"{detector.name} gives none"
            raise UserError(f"landmarks=True: {which}; use faces=yunet or centerface, which give them")
        self.device = pick_device(device)
        self.dtype = PRECISIONS[pick_precision(precision, self.device)]
        self.batch_size = batch_size
        self.model.to(self.device).eval()
        cropping = crop_of(self.config, crop if detector is not None else None)
        tracking = tracking or TrackConfig()
        self.reader = Reader(config=self.config, detector=detector, crop=cropping, tracking=tracking, **times)
        self._shapes = self.config.outputs
        self._by_frame = any(shape.frame_level for shape in self._shapes.values())
        self.values = [prefixed(head, name) for head, shape in self._shapes.items() for name in _columns(shape)]
        self._labels = label_columns(self.values)
        if clash := sorted({*NOT_VALUES, *self._labels} & set(self.values)):
            raise UserError(
                f"the model has an output named {clash[0]}, which is another column of the table; rename it"
            )
        self._points = LANDMARKS if landmarks else []
        values = [*self._labels, *self.values]
        shown = ["track", *TIMES, *FRAMES, *BOX, *self._points, *values, "confidence"]
        self.columns = [*TIMES, *FRAMES, *values] if detector is None else shown

    def __call__(self, video: Video) -> pd.DataFrame:
        """One row per window of every face (frame-level models: per sampled frame).

        Columns: `track` (the face's number), `start_s`, `end_s` (of the window, seconds), `first_frame`, `last_frame` (numbers of
        its pictures in the file, from 0), `box_x`, `box_y`, `box_w`, `box_h` (at the window's centre, pixels of the upright
        picture), with `landmarks` `right_eye_x` and so on, `label` (the most probable) and `prob_<label>` for each label, or
        the value of each dimension, and `confidence` (the detector's, mean over the window). Columns of several heads
        begin with their names: `<head>/prob_<label>`; if one is frame-level, there is a row per frame, in which the values of
        the others are those of its window. With faces="none" there are no track, box and confidence. Raises `VideoError` if
        the video cannot be read to its end.
        """
        return pd.DataFrame(self.stream(video), columns=self.columns)

    def stream(self, video: Video) -> Iterator[Row]:
        """The rows of the table as they are computed; memory does not grow with the video. Raises `VideoError`."""
        for _, item in self.run([video]):
            if isinstance(item, dict):
                yield item
            elif item is not None:
                raise item

    def run(
        self, videos: Sequence[Video], on_frame: OnFrame | None = None, on_faces: OnFaces | None = None
    ) -> Iterator[Result]:
        """(video, row) for the rows of each video, then (video, None), in order.

        Decoding, face detection and the model run in parallel threads. A batch holds windows of one video, so that the rows
        do not depend on other videos, to the last bit. If a video cannot be read to its end, its error comes instead of None,
        after the rows of what could be read. on_frame, on_faces: see `OnFrame` and `OnFaces`.
        """
        held: list[Read] = []
        with closing(prefetched(self._read(videos, on_frame, on_faces), self.batch_size)) as items:
            for video, item in items:
                held.append((video, item))
                # Full batches make results reproducible to the last bit; rows of live sources must not wait for that.
                if len(held) == self.batch_size or not isinstance(item, Window) or is_live(video):
                    yield from self._rows(held)
                    held = []

    def predict_clips(self, clips: np.ndarray) -> np.ndarray:
        """The values of face crops (B, T, H, W, 3) uint8, in the model's size: (B, K), or (B, T, K) if a head is frame-level."""
        return run_clips(self._values_of, clips, self.config, self.device, self.dtype).cpu().numpy()

    def _read(self, videos: Sequence[Video], on_frame: OnFrame | None, on_faces: OnFaces | None) -> Iterator[Read]:
        for video in videos:
            try:
                for window in self.reader.windows(video, on_frame, on_faces):
                    yield video, window
                yield video, None
            except VideoError as error:
                yield video, error

    def _rows(self, held: list[Read]) -> Iterator[Result]:
        outputs: Iterator[np.ndarray] = iter(())
        if clips := [item.frames for _, item in held if isinstance(item, Window)]:
            outputs = iter(self.predict_clips(np.stack(clips)))
        for video, item in held:
            results = self._rows_of(item, next(outputs)) if isinstance(item, Window) else [item]
            yield from ((video, result) for result in results)

    def _values_of(self, clips: torch.Tensor) -> torch.Tensor:
        """The values of all heads, (B, K), or (B, T, K) if one is frame-level: those of clips then stand in every frame."""
        values = []
        for head, outputs in by_head(self.model(clips)).items():
            shape, outputs = self._shapes[head], outputs.float()
            outputs = outputs.softmax(dim=-1) if shape.task == "classification" else outputs
            if self._by_frame and not shape.frame_level:
                outputs = outputs[:, None].expand(-1, self.config.num_frames, -1)
            values.append(outputs)
        return torch.cat(values, dim=-1)

    def _rows_of(self, window: Window, output: np.ndarray) -> Iterator[Row]:
        """A row of the window, or of each of its frames that no earlier window had; output (K,) or (T, K)."""
        box, points, confidence = window.box, window.landmarks, window.confidence
        shown = window.pictures[[0, -1]]
        parts = output if self._by_frame else output[None]
        for part, (first, start_s, end_s) in zip(parts, window.spans(len(parts)), strict=False):
            if self._by_frame:
                if not window.fresh[first]:
                    continue
                box, points, confidence = window.boxes[first], window.all_landmarks[first], window.confidences[first]
                shown = window.pictures[[first, first]]
            values = dict(zip(self.values, part.tolist(), strict=True))
            labels = [names[max(names, key=values.__getitem__)] for names in self._labels.values()]
            cells = (start_s, end_s, *shown.tolist(), *labels, *values.values())
            if self.reader.detector is not None:
                places = [] if not self._points else [np.nan] * 10 if points is None else points.ravel().tolist()
                cells = (window.track, *cells[:4], *box, *places, *cells[4:], confidence)
            yield dict(zip(self.columns, cells, strict=True))


def _columns(shape: ModelConfig) -> list[str]:
    """The columns of the values of a model with one head."""
    names = shape.label_names or [f"output_{i}" for i in range(shape.num_outputs)]
    return [PROBABILITY + name if shape.task == "classification" else name for name in names]


def predictor_of(config: PredictConfig) -> Predictor:
    """The predictor of these settings. Raises `UserError`."""
    return Predictor(
        config.model,
        **{name: getattr(config, name) for name in SETTINGS},
        crop={name: getattr(config, name) for name in CROP_FIELDS},
        tracking=config.tracking(),
    )


def crop_of(model: ModelConfig, given: FaceCropConfig | Mapping[str, Any] | None = None) -> FaceCropConfig:
    """How faces are cut out for a model: as `given`, in all fields or some, else as in its training, else by default.

    The size is the model's. Says which fields differ from those of the training.
    """
    chosen = asdict(given) if isinstance(given, FaceCropConfig) else given or {}
    chosen = {name: chosen[name] for name in CROP_FIELDS if chosen.get(name) is not None}
    trained = {name: model.face_crop[name] for name in CROP_FIELDS if name in model.face_crop}
    for name, value in chosen.items():
        if trained.get(name, value) != value:
            say(f"{name}={value}, while the model's training had {trained[name]}")
    return FaceCropConfig(size_px=model.img_size, **{**trained, **chosen})


def detector_of(model: ModelConfig, faces: Faces | Detector | None, face_model: str | Path | None) -> Detector | None:
    """The detector that a model's faces are found with: `faces` if given, else that of its training, else the best one.

    faces="none": no detector. face_model: YuNet's file. Says if it is not that of the training. Raises `UserError`.
    """
    if faces == "none":
        return None
    trained: Any = model.face_crop.get("detector")
    if isinstance(faces, str):
        detector = make_detector(faces, face_model)
    elif faces is not None:
        detector = faces
    elif trained in get_args(DetectorName) and face_model is None:
        try:
            detector = make_detector(trained, None)
        except UserError:
            detector = make_detector("auto", None)
    else:
        detector = make_detector("auto", face_model)
    if trained is not None and detector.name != trained:
        say(f"faces are found by {detector.name}, while the model's training had those of {trained}")
    return detector


def say_what_it_reads(name: str, model: ModelConfig) -> None:
    """Say which model is used if it comes with the package, and what it reads if that is not affect."""
    shipped = (
        f", which comes with SVFAP (`svfap models {name}` describes it)" if shipped_folder(name) is not None else ""
    )
    if model.reads != "affect":
        names = f" ({', '.join(model.label_names)})" if model.label_names else ""
        say(f"model {name}{shipped}: reads {model.reads}{names}, not emotion")


def warn_of_whole_pictures(model: ModelConfig, videos: Iterable[Path]) -> None:
    """Say that a model of face crops gets whole pictures with faces="none", unless `svfap crop` wrote all the videos."""
    if model.face_crop and not all(map(in_crops, {video.parent for video in videos})):
        fitted = {"squash": "distorted: squashed to squares", "centre": "cut to their centre square"}[model.frame_fit]
        say(
            "warning: faces=none: whole pictures go into a model that was trained on face crops; that fits only crops. "
            f"Pictures that are not square are {fitted}"
        )


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
