"""Features of one video or sample: the encoder applied to its windows."""

from __future__ import annotations

import multiprocessing
from contextlib import closing
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from svfap.data.manifest import Sample
from svfap.data.video import VideoError
from svfap.device import PRECISIONS, pick_device, pick_precision
from svfap.errors import UserError
from svfap.faces.config import CROP_FIELDS, FaceCropConfig
from svfap.features.config import ExtractConfig
from svfap.model.base import Model
from svfap.model.build import create_model
from svfap.model.perceiver import Perceiver
from svfap.model.presets import list_presets
from svfap.predict.predictor import crop_of, detector_of, run_clips
from svfap.predict.reader import Reader
from svfap.weights.exported import ExportedModel, load_for_inference
from svfap.weights.folder import load_model

TIMEOUT_S = 10.0  # of streams, which have no features


class Features(NamedTuple):
    """Rows in the order in which their windows end: start_s and end_s (R,) float64 in seconds of the video, feature (R, D)
    float32; track (R,) int64, box (R, 4) and confidence (R,) float64 as `svfap.Predictor` gives them, track 0 for the whole
    picture."""

    start_s: np.ndarray
    end_s: np.ndarray
    feature: np.ndarray
    track: np.ndarray
    box: np.ndarray
    confidence: np.ndarray


class Extractor:
    """Computes the features of one sample: of the faces found in it, or of the picture inside its box as a face crop.

    A pre-trained model gives the features of its encoder's last stage, a fine-tuned one the input of its head. model: used
    instead of the one that config.model names. Raises `UserError`.
    """

    def __init__(self, config: ExtractConfig, model: Model | ExportedModel | None = None) -> None:
        model = _load(config) if model is None else model
        if not isinstance(model, Perceiver | ExportedModel):
            task = model.config.task
            raise UserError(f"{config.model}: a model for {task} has no features; load it with task=features")
        self.config, self.model = config, model
        self.device = pick_device(config.device)
        self.dtype = PRECISIONS[pick_precision(config.precision, self.device)]
        self.model.to(self.device).eval()
        self._run = model.features if config.pool == "mean" else model.step_features

    @cached_property
    def _crops(self) -> Reader:
        """Reads face crops."""
        config, model = self.config, self.model.config
        crop, tracking = FaceCropConfig(size_px=model.img_size), config.tracking()
        return Reader(model, config.hop_s, None, crop, tracking, TIMEOUT_S, config.fps, config.frames_fps)

    @cached_property
    def _videos(self) -> Reader:
        """Reads videos and finds the faces in them."""
        config, model = self.config, self.model.config
        crop = crop_of(model, {name: getattr(config, name) for name in CROP_FIELDS})
        return replace(self._crops, detector=detector_of(model, config.faces, config.face_model), crop=crop)

    def __call__(self, sample: Sample, searched: bool = False) -> Features:
        """Rows of one sample; searched: find faces in it. Raises `VideoError` if it cannot be read or shows no face."""
        steps = self.config.pool == "none"
        rows: list[tuple[Any, ...]] = []
        with closing((self._videos if searched else self._crops).windows(sample)) as windows:
            while batch := list(islice(windows, self.config.batch_size)):
                clips = np.stack([window.frames for window in batch])
                outputs = run_clips(self._run, clips, self.model.config, self.device, self.dtype).cpu().numpy()
                for window, output in zip(batch, outputs if steps else outputs[:, None], strict=True):
                    for step, (first, start_s, end_s) in zip(output, window.spans(len(output)), strict=False):
                        box = window.boxes[first] if steps else window.box
                        rows.append((start_s, end_s, step, window.track, box, window.confidence))
        if not rows:
            raise VideoError(sample.path, "no face found; --faces none uses the whole picture as a face")
        features = Features(*map(np.array, zip(*rows, strict=True)))
        return _means(features) if self.config.per == "video" else features


def _means(rows: Features) -> Features:
    """A row for each face, by number: the mean of its rows, from the start of the first to the end of the last."""
    means = []
    for track in np.unique(rows.track):
        start_s, end_s, feature, _, box, confidence = (column[rows.track == track] for column in rows)
        means.append((start_s.min(), end_s.max(), feature.mean(axis=0), track, box.mean(axis=0), confidence.mean()))
    return Features(*map(np.array, zip(*means, strict=True)))


def _load(config: ExtractConfig) -> Model | ExportedModel:
    if config.model in list_presets() and not Path(config.model).exists():
        if not config.random_weights:
            raise UserError(
                f"model={config.model}: a preset has random weights, whose features say nothing of affect; name a run or "
                "model folder, or set `random_weights` for a baseline"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same weights in every process
            return create_model(config.model, "features").eval()
    model = load_for_inference(config.model)
    return model if isinstance(model, Perceiver | ExportedModel) else load_model(config.model, task="features")


@lru_cache(maxsize=1)
def extractor_of(config: ExtractConfig) -> Extractor:
    """The extractor of these settings, made once in each process."""
    if multiprocessing.parent_process() is not None and config.num_workers > 0:
        torch.set_num_threads(1)  # several processes share the cores
    return Extractor(config)


def write_part(extractor: Extractor | ExtractConfig, item: tuple[Sample, bool], target: Path) -> None:
    """The job of one sample: write its features to a file.

    extractor: or the settings, from which any process makes it. item: the sample, and whether faces are searched for in it.
    """
    if isinstance(extractor, ExtractConfig):
        extractor = extractor_of(extractor)
    with target.open("wb") as file:
        np.savez(file, **extractor(*item)._asdict())
