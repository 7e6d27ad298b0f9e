"""Evaluate a model on a manifest by multi-view testing (Sec. IV-B), and write its scores and predictions."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import pandas as pd

from svfap.console import say
from svfap.data.loader import ClipDataset
from svfap.data.manifest import Manifest, read_manifest
from svfap.data.prepared import read_dataset, say_crops
from svfap.data.rates import FRAMES_NOTE, Clock, look_at_rates
from svfap.data.targets import all_targets, frame_values_digest, require_values, with_frame_values
from svfap.device import make_accelerator
from svfap.errors import UserError
from svfap.evaluation import predictions as tables
from svfap.evaluation.config import EvaluateConfig
from svfap.evaluation.metrics import write_metrics
from svfap.evaluation.views import predict_views, scored_by_group
from svfap.files import file_digest, make_folder, only_writer
from svfap.formats import read_settings_file
from svfap.metric_table import SupervisedTask
from svfap.model.base import Model
from svfap.model.config import ModelConfig
from svfap.model.perceiver import Perceiver
from svfap.view.figures.base import save_figure
from svfap.view.figures.scores import confusion_matrix, regression_scatter
from svfap.weights.exported import ExportedModel, fingerprint_of, load_for_inference


class Evaluation(NamedTuple):
    """Where an evaluation was written, its metrics as in `metrics.json`, and why videos could not be read, by path."""

    out: Path
    metrics: dict[str, Any]
    unreadable: dict[str, str]


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Evaluate with the outputs averaged over `num_segments` temporal × `num_crops` spatial views of every video.

    Views that coincide are computed once, and count as often as they occur. Under torchrun every video is
    evaluated by exactly one process. Writes into `config.out_folder`:
      metrics.json     scores with their 95% confidence intervals (`intervals`, see
                       `svfap.evaluation.predictions.score_intervals`), `num_expected` and `num_evaluated` videos, `num_groups`
                       where groups are scored, and `num_unannotated`: videos without an annotated frame among those shown,
                       which are not expected
      predictions.csv  one row per video; groups.csv: one per group; frames.csv: one per frame shown to a frame-level model
                       (see `svfap.evaluation.predictions`)
      features.npz     for each video the head's input, averaged over views
      unreadable.csv   videos that could not be read, with the reason
      confusion.png or scatter.png: the confusion matrix, or predictions over targets

    Raises:
        UserError: a model, manifest or dataset that cannot be used, labels that the model does not know, a folder that
            cannot be written or is being written by another evaluation; no video that can be read.
    """
    config = _with_test_part(config)
    manifest, root, label_range = _test_set(config)
    accelerator = make_accelerator(config.precision)
    perceiver = load_for_inference(config.model).to(accelerator.device).eval()
    shape = perceiver.config
    if shape.task not in ("classification", "regression"):
        raise UserError(f"{config.model}: is a {shape.task} model; only classification and regression can be evaluated")
    assert isinstance(perceiver, Perceiver | ExportedModel)
    if not shape.label_names:
        raise UserError(
            f"{config.model}: its config.json has no label_names; the manifest's labels cannot be matched to outputs"
        )
    names: dict[str, Any] = {"label_names" if shape.task == "classification" else "dimensions": shape.label_names}
    names |= {"invalid_marks": config.invalid_marks, "label_range": label_range}
    task = cast(SupervisedTask, shape.task)
    videos = read_manifest(manifest, root=root, task=task, split=config.split, frame_level=shape.frame_level, **names)
    videos.require_files()
    origin = provenance(config, perceiver, manifest, videos.root)
    if shape.task == "regression":
        videos = with_frame_values(videos) if shape.frame_level else videos
        require_values(videos, all_targets(videos, shape.frame_level))
    by_group = scored_by_group(videos, shape, config.by_group)
    clock = Clock.of(config.fps, shape.frame_rate, shape.span)
    clips = ClipDataset(
        videos, "test", shape.num_frames, shape.sampling_stride, shape.img_size, seed=0,
        num_segments=config.num_segments, num_crops=config.num_crops, frame_fit=shape.frame_fit,
        frame_level=shape.frame_level, fps=clock.fps, frames_fps=config.frames_fps,
    )  # fmt: skip
    _say_contract(clock, config, videos, shape)
    out = config.out_folder
    make_folder(out)
    with only_writer(out / tables.METRICS_FILE) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            # This file is written last: without it an evaluation is not complete.
            (out / tables.UNREADABLE_FILE).unlink(missing_ok=True)
        model, workers = perceiver.outputs_and_features, config.num_workers
        predictions = predict_views(model, shape, clips, accelerator, config.batch_size, workers, "evaluating")
        if accelerator.is_main_process and predictions.videos.empty:
            write_metrics(out / tables.METRICS_FILE, {"num_expected": len(videos), "num_evaluated": 0})
            _write_unreadable(out, predictions.unreadable)
        metrics = tables.score_predictions(predictions, by_group, intervals=accelerator.is_main_process)
        if accelerator.is_main_process:
            sources = {"model": config.model, "manifest": manifest, "root": videos.root, "split": config.split}
            sources |= {"fold": config.fold, "fps": clock.fps, "frames_fps": config.frames_fps}
            known = {key: str(value) for key, value in sources.items() if value is not None}
            write_metrics(out / tables.METRICS_FILE, {**known, **origin, **metrics})
            _write_predictions(out, predictions, metrics, by_group)
            _write_unreadable(out, predictions.unreadable)
        accelerator.wait_for_everyone()
    return Evaluation(out, metrics, dict(predictions.unreadable))


def _with_test_part(config: EvaluateConfig) -> EvaluateConfig:
    """The settings with the run's own test part, if neither `manifest` nor `dataset` is given; prints which it is.

    It is the test part of the fold that the run was trained on; or the rows of its manifest with `split` test, if the run was
    trained on another split. Raises `UserError` if there is none.
    """
    if config.manifest is not None or config.dataset is not None:
        return config
    assert config.run_config is not None
    run = read_settings_file(config.run_config)
    root = config.root or (Path(run["root"]) if run.get("root") else None)
    trained_on, dataset, manifest = (run.get(name) for name in ("split", "dataset", "manifest"))
    if dataset is not None:
        fold = config.fold or run.get("fold")
        say(f"evaluating on the run's own test part: {dataset}{f', fold {fold}' if fold else ''}")
        return replace(config, dataset=Path(dataset), fold=fold, root=root)
    if trained_on is None or manifest is None or config.fold is not None:
        raise UserError(
            f"{config.run_config}: the run knows no test part, as it was trained on "
            f"{'all rows of ' if trained_on is None else ''}{manifest}; give `manifest` or `dataset`"
        )
    split = config.split or "test"
    say(f"evaluating on the run's own test part: {manifest}, split {split}")
    return replace(config, manifest=Path(manifest), split=split, root=root)


def _test_set(config: EvaluateConfig) -> tuple[Path, Path | None, tuple[float, float] | None]:
    """The manifest, the folder that its paths are relative to, and the range of its labels."""
    if config.dataset is None:
        assert config.manifest is not None
        return config.manifest, config.root, config.label_range
    prepared = read_dataset(config.dataset)
    fold = prepared.fold(config.fold)
    if fold.test is None:
        raise UserError(f"{config.dataset}: fold {fold.name} has no test part; give `manifest` instead")
    return fold.test, config.root or prepared.root, config.label_range or prepared.label_range


def _say_contract(clock: Clock, config: EvaluateConfig, videos: Manifest, model: ModelConfig) -> None:
    """Print in what the test videos differ from those of the model's training."""
    rates, num_unknown = look_at_rates(videos, config.frames_fps)
    clock.say_notes(rates)
    if num_unknown and clock.fps is not None:
        say(FRAMES_NOTE)
    say_crops(model.face_crop, videos.folders, videos.path)


def provenance(config: EvaluateConfig, model: Model | ExportedModel, manifest: Path, root: Path) -> dict[str, Any]:
    """What an evaluation's results depend on, as in `metrics.json`: digests of weights and labels, and settings.

    root: folder that the manifest's paths are relative to; the files of values per frame count if the model needs them.
    """
    names = ("num_segments", "num_crops", "precision", "fps", "frames_fps", "invalid_marks", "label_range")
    values = {name: getattr(config, name) for name in names}
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    origin = {"weights": fingerprint_of(model), "manifest_digest": file_digest(manifest), "settings": settings}
    if model.config.frame_level and (digest := frame_values_digest(manifest, root)):
        origin["frame_values_digest"] = digest
    return origin


def _write_predictions(
    out: Path, predictions: tables.EvaluationPredictions, metrics: dict[str, Any], by_group: bool
) -> None:
    """Write the tables, the features and the figure; tables and figures of an earlier evaluation are removed."""
    scored = predictions.videos
    for stale in (tables.GROUPS_FILE, tables.FRAMES_FILE, "confusion.png", "scatter.png"):
        (out / stale).unlink(missing_ok=True)
    tables.write_csv(out / tables.PREDICTIONS_FILE, predictions.videos)
    if predictions.frames is not None:
        tables.write_csv(out / tables.FRAMES_FILE, predictions.frames)
    if by_group:
        scored = tables.group_table(predictions)
        tables.write_csv(out / tables.GROUPS_FILE, scored)
    assert predictions.features is not None
    tables.write_features(out / tables.FEATURES_FILE, predictions.videos["path"].tolist(), predictions.features)
    if predictions.task == "classification":
        save_figure(confusion_matrix(metrics["confusion"], predictions.names), out / "confusion.png")
    else:
        targets, outputs = predictions.arrays(scored)
        save_figure(regression_scatter(targets, outputs, metrics["per_dimension"]), out / "scatter.png")


def _write_unreadable(out: Path, unreadable: Mapping[str, str]) -> None:
    tables.write_csv(out / tables.UNREADABLE_FILE, pd.DataFrame(sorted(unreadable.items()), columns=["path", "reason"]))
