"""Evaluate a model on a manifest by multi-view testing (Sec. IV-B), and write its scores and predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import pandas as pd

from svfap.console import say
from svfap.data.loader import ClipDataset
from svfap.data.manifest import Manifest, read_manifest
from svfap.data.prepared import find_crop, read_dataset
from svfap.data.rates import FRAMES_NOTE, Clock, look_at_rates
from svfap.data.targets import all_targets, frame_values_digest, require_values
from svfap.device import make_accelerator
from svfap.errors import UserError
from svfap.evaluation import predictions as tables
from svfap.evaluation.config import EvaluateConfig
from svfap.evaluation.metrics import write_metrics
from svfap.evaluation.views import predict_views, scored_by_group
from svfap.files import file_digest, make_folder
from svfap.formats import read_settings_file
from svfap.metric_table import SupervisedTask
from svfap.model.base import Model
from svfap.model.config import ModelConfig
from svfap.model.perceiver import Perceiver
from svfap.view.figures.base import save_figure
from svfap.view.figures.scores import confusion_matrix, regression_scatter
from svfap.weights.folder import fingerprint, load_model


class Evaluation(NamedTuple):
    """Where an evaluation was written, its metrics as in `metrics.json`, and why videos could not be read, by path."""

    out: Path
    metrics: dict[str, Any]
    unreadable: dict[str, str]


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Evaluate with the outputs averaged over `num_segments` temporal × `num_crops` spatial views of every video.

    Views that coincide are computed once, and count as often as they occur. Under torchrun every video is
    evaluated by exactly one process. Writes into `config.out_folder`:
      metrics.json     scores, `num_expected` and `num_evaluated` videos, `num_groups` where groups are scored, and
                       `num_unannotated`: videos without an annotated frame among those shown, which are not expected
      predictions.csv  one row per video; groups.csv: one per group; frames.csv: one per frame shown to a frame-level model
                       (see `svfap.evaluation.predictions`)
      features.npz     for each video the head's input, averaged over views
      unreadable.csv   videos that could not be read, with the reason
      confusion.png or scatter.png: the confusion matrix, or predictions over targets

    Raises:
        UserError: a model, manifest or dataset that cannot be used, labels that the model does not know, a folder that
            cannot be written; no video that can be read.
    """
    config = with_test_part(config)
    manifest, root, label_range = config.manifest, config.root, config.label_range
    if config.dataset is not None:
        manifest, root, label_range = _test_part(config)
    assert manifest is not None
    accelerator = make_accelerator(config.precision)
    perceiver = load_model(config.model).to(accelerator.device).eval()
    shape = perceiver.config
    if shape.task not in ("classification", "regression"):
        raise UserError(f"{config.model}: is a {shape.task} model; only classification and regression can be evaluated")
    assert isinstance(perceiver, Perceiver)
    if not shape.label_names:
        raise UserError(
            f"{config.model}: its config.json has no label_names; the manifest's labels cannot be matched to outputs"
        )
    names: dict[str, Any] = {"label_names" if shape.task == "classification" else "dimensions": shape.label_names}
    task = cast(SupervisedTask, shape.task)
    names |= {"invalid_marks": config.invalid_marks, "label_range": label_range}
    videos = read_manifest(manifest, root=root, task=task, split=config.split, frame_level=shape.frame_level, **names)
    videos.require_files()
    origin = provenance(config, perceiver, manifest, videos.root)
    if shape.task == "regression":
        require_values(videos, all_targets(videos, shape.frame_level))
    by_group = scored_by_group(videos, shape, config.by_group)
    sampling = (shape.num_frames, shape.sampling_stride, shape.img_size)
    views: dict[str, Any] = {"num_segments": config.num_segments, "num_crops": config.num_crops}
    clock = Clock.of(config.fps, shape.frame_rate, shape.span)
    views |= {"fps": clock.fps, "frames_fps": config.frames_fps, "frame_fit": shape.frame_fit}
    clips = ClipDataset(videos, "test", *sampling, seed=0, frame_level=shape.frame_level, **views)
    _say_contract(clock, config, videos, shape)
    out = config.out_folder
    make_folder(out)
    if accelerator.is_main_process:
        (out / tables.UNREADABLE_FILE).unlink(missing_ok=True)  # written last: without it an evaluation is not complete
    model, workers = perceiver.outputs_and_features, config.num_workers
    predictions = predict_views(model, shape, clips, accelerator, config.batch_size, workers, "evaluating")
    if accelerator.is_main_process and predictions.videos.empty:
        write_metrics(out / tables.METRICS_FILE, {"num_expected": len(videos), "num_evaluated": 0})
        _write_unreadable(out, predictions.unreadable)
    metrics = tables.score_predictions(predictions, by_group)
    if accelerator.is_main_process:
        sources = {"model": config.model, "manifest": manifest, "root": videos.root}
        sources |= {"split": config.split, "fold": config.fold}
        sources |= {"fps": clock.fps, "frames_fps": config.frames_fps}
        known = {key: str(value) for key, value in sources.items() if value is not None}
        write_metrics(out / tables.METRICS_FILE, {**known, **origin, **metrics})
        _write_predictions(out, predictions, metrics, by_group)
        _write_unreadable(out, predictions.unreadable)
    accelerator.wait_for_everyone()
    return Evaluation(out, metrics, dict(predictions.unreadable))


def with_test_part(config: EvaluateConfig) -> EvaluateConfig:
    """The settings with the run's own test part, which is said, if neither `manifest` nor `dataset` is given.

    It is the test part of the fold that the run was trained on, or of its manifest the rows whose `split` is test, if it was
    trained on another split. Raises `UserError` if there is none.
    """
    if config.manifest is not None or config.dataset is not None:
        return config
    assert config.run_config is not None
    run = read_settings_file(config.run_config)
    trained_on, dataset = run.get("split"), run.get("dataset")
    root = config.root or (Path(run["root"]) if run.get("root") else None)
    if dataset is not None:
        fold = config.fold or run.get("fold")
        own = replace(config, dataset=Path(dataset), fold=fold, root=root)
        say(f"evaluating on the run's own test part: {dataset}{f', fold {fold}' if fold else ''}")
        return own
    if trained_on is None or run.get("manifest") is None or config.fold is not None:
        raise UserError(
            f"{config.run_config}: the run knows no test part, as it was trained on "
            f"{'all rows of ' if trained_on is None else ''}{run.get('manifest')}; give manifest or dataset"
        )
    split = config.split or "test"
    say(f"evaluating on the run's own test part: {run['manifest']}, split {split}")
    return replace(config, manifest=Path(run["manifest"]), split=split, root=root)


def _say_contract(clock: Clock, config: EvaluateConfig, videos: Manifest, model: ModelConfig) -> None:
    """Say where the test videos are not like those of the model's training."""
    rates, num_unknown = look_at_rates(videos, config.frames_fps)
    clock.say_notes(rates)
    if num_unknown and clock.fps is not None:
        say(FRAMES_NOTE)
    if found := find_crop(config.dataset, config.manifest, videos.root):
        folder, crop = found
        for name, value in model.face_crop.items():
            if crop.get(name, value) != value:
                say(
                    f"{folder}: the faces were cut out with {name} {crop[name]}, those of the model's training with {value}"
                )
    elif model.face_crop:
        cut = ", ".join(f"{name} {value}" for name, value in model.face_crop.items())
        say(
            f"the model was trained on faces cut out with {cut}, and nothing says how those of {videos.path} were cut; if they "
            "are whole frames, crop them first (svfap crop)"
        )


def provenance(config: EvaluateConfig, model: Model, manifest: Path, root: Path) -> dict[str, Any]:
    """What an evaluation's results depend on, as `metrics.json` holds it: digests of weights and labels, and settings.

    root: folder that the manifest's paths are relative to; the files of values per frame count if the model needs them.
    """
    settings: dict[str, Any] = {name: getattr(config, name) for name in ("num_segments", "num_crops", "precision")}
    settings |= {name: getattr(config, name) for name in ("fps", "frames_fps")}
    settings["invalid_marks"] = list(config.invalid_marks)
    settings["label_range"] = config.label_range and list(config.label_range)
    origin = {"weights": fingerprint(model), "manifest_digest": file_digest(manifest), "settings": settings}
    if model.config.frame_level and (digest := frame_values_digest(manifest, root)):
        origin["frame_values_digest"] = digest
    return origin


def _test_part(config: EvaluateConfig) -> tuple[Path, Path, tuple[float, float] | None]:
    """Manifest and root of the test part of the fold, and the range of its labels."""
    assert config.dataset is not None
    prepared = read_dataset(config.dataset)
    fold = prepared.fold(config.fold)
    if fold.test is None:
        raise UserError(f"{config.dataset}: fold {fold.name} has no test part; give manifest instead")
    return fold.test, config.root or prepared.root, config.label_range or prepared.label_range


def _write_predictions(
    out: Path, predictions: tables.EvaluationPredictions, metrics: dict[str, Any], by_group: bool
) -> None:
    """Write the tables, the features and the figure; tables and figures of an earlier evaluation are removed."""
    task, names, scored = predictions.task, predictions.names, predictions.videos
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
    if task == "classification":
        save_figure(confusion_matrix(metrics["confusion"], names), out / "confusion.png")
    else:
        found = tables.labelled_outputs(scored, out, task, names)
        assert found is not None
        save_figure(regression_scatter(found.targets, found.outputs, metrics["per_dimension"]), out / "scatter.png")


def _write_unreadable(out: Path, unreadable: Mapping[str, str]) -> None:
    tables.write_csv(out / tables.UNREADABLE_FILE, pd.DataFrame(sorted(unreadable.items()), columns=["path", "reason"]))
