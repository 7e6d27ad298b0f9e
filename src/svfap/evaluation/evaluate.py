"""Evaluate a model on a manifest by multi-view testing (Sec. IV-B), and write its scores and predictions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import pandas as pd
import torch
from accelerate import Accelerator

from svfap.console import say
from svfap.data.clip_dataset import ClipDataset
from svfap.data.heads import NoLabels
from svfap.data.manifest import Manifest
from svfap.data.prepared import say_crops
from svfap.data.rates import FRAMES_NOTE, Clock, look_at_rates
from svfap.device import make_accelerator
from svfap.errors import UserError
from svfap.evaluation import predictions as tables
from svfap.evaluation.config import EvaluateConfig
from svfap.evaluation.ensemble import average_predictions
from svfap.evaluation.evaluation_set import AnyModel, EvaluationSet, evaluation_set, with_own_test_part
from svfap.evaluation.label_map import LabelMap
from svfap.evaluation.metrics import read_metrics, write_metrics
from svfap.evaluation.views import Reader, predict_heads, reader_of
from svfap.files import make_folder, only_writer
from svfap.model.config import Head, ModelConfig
from svfap.model.perceiver import Perceiver
from svfap.view.figures.base import save_figure
from svfap.view.figures.scores import confusion_matrix, regression_scatter
from svfap.view.tables import write_table
from svfap.weights.described import require_names
from svfap.weights.exported import load_for_inference


class Evaluation(NamedTuple):
    """Where an evaluation was written, its metrics as in `metrics.json`, and why videos could not be read, by path.

    Of a model with several heads there is an evaluation in the folder NAME of each, and the metrics are {"heads": {NAME: …}}.
    """

    out: Path
    metrics: dict[str, Any]
    unreadable: dict[str, str]


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Evaluate with the outputs averaged over `num_segments` temporal × `num_crops` spatial views of every video.

    Views that coincide are computed once, and count as often as they occur. Under torchrun every video is
    evaluated by exactly one process. Writes into `config.out_folder`, of
    each of several heads into its folder HEAD there:
      metrics.json     scores with their 95% confidence intervals (`intervals`, see
                       `svfap.evaluation.predictions.score_intervals`), `num_expected` and `num_evaluated` videos, `num_groups`
                       where groups are scored, and `num_unannotated`: videos without an annotated frame among those shown,
                       which are not expected; `seen_in_training`: model -> how many of the videos it has seen
                       before (see `svfap.evaluation.seen.Seen`)
      predictions.csv  one row per video; groups.csv: one per group; frames.csv: one per frame shown to a frame-level model
                       (see `svfap.evaluation.predictions`)
      features.npz     for each video the head's input, averaged over views; not of an ensemble
      by_<column>.md, .csv, .tex   with `score_by`, the scores of the videos of each value
      unreadable.csv   videos that could not be read, with the reason
      confusion.png or scatter.png: the confusion matrix, or predictions over targets

    Raises:
        UserError: a model, manifest or dataset that cannot be used, labels that the model does not know, a folder that
            cannot be written or is being written by another evaluation; no video that can be read.
    """
    config = with_own_test_part(config)
    accelerator = make_accelerator(config.precision)
    models = [_load(name, accelerator.device) for name in config.models]
    if any(model.config.heads for model in models):
        return _evaluate_heads(config, models, accelerator)
    if config.head is not None:
        raise UserError(f"head={config.head}: {config.models[0]} has one output; leave `head` out")
    return _evaluate(evaluation_set(config, models), models, accelerator)


def _evaluate_heads(config: EvaluateConfig, models: Sequence[AnyModel], accelerator: Accelerator) -> Evaluation:
    """Evaluate each head as the model with it alone, once all can be evaluated.

    Raises `UserError` if the test set has no labels of any, and for an ensemble whose models have other heads.
    """
    heads = _heads(config, models)
    if config.label_map is not None and len(heads) > 1:
        raise UserError(
            f"label_map: is for one head; choose it with `head`, of {', '.join(head.name for head in heads)}"
        )

    def alone(head: str) -> list[AnyModel]:
        return [cast(Perceiver, model).of_head(head) for model in models]

    tests: dict[str, EvaluationSet] = {}
    for head in heads:
        part = replace(config, out=config.out_folder / head.name)
        try:
            tests[head.name] = evaluation_set(part, alone(head.name), head)
        except NoLabels as error:
            if config.head is not None:
                raise
            say(f"head {head.name} is not evaluated: {error}")
        except UserError as error:
            raise UserError(f"head {head.name}: {error}") from None
    if not tests:
        raise UserError(
            f"{config.manifest or config.dataset}: has no labels of {', '.join(head.name for head in heads)}"
        )
    found = {
        name: _evaluate(test, [model.to(accelerator.device) for model in alone(name)], accelerator)
        for name, test in tests.items()
    }
    unreadable = {path: reason for each in found.values() for path, reason in each.unreadable.items()}
    return Evaluation(config.out_folder, {"heads": {name: each.metrics for name, each in found.items()}}, unreadable)


def _heads(config: EvaluateConfig, models: Sequence[AnyModel]) -> list[Head]:
    """The heads that are evaluated. Raises `UserError` unless all models have them, and no others where none is chosen."""
    names = {
        name: [head.name for head in model.config.heads] for name, model in zip(config.models, models, strict=True)
    }
    one = "an ensemble predicts one thing"
    for name, of_model in names.items():
        if not of_model:
            raise UserError(f"{name}: has one output and no heads, as others have; {one}")
        if config.head not in (None, *of_model):
            raise UserError(f"head={config.head}: {name} has no such head; it has {', '.join(of_model)}")
    if config.head is None and len({frozenset(of_model) for of_model in names.values()}) > 1:
        common = sorted(set.intersection(*map(set, names.values())))
        fix = f"choose one that all have with `head`, of {', '.join(common)}" if common else "they have none in common"
        listed = "; ".join(f"{name} has {', '.join(sorted(of_model))}" for name, of_model in names.items())
        raise UserError(f"the models have different heads ({listed}), and {one}; {fix}")
    return [head for head in models[0].config.heads if config.head in (None, head.name)]


def _evaluate(test: EvaluationSet, models: Sequence[AnyModel], accelerator: Accelerator) -> Evaluation:
    """Evaluate models with one head."""
    config, videos, mapped, by_group, columns = test.config, test.videos, test.mapped, test.by_group, test.columns
    out = config.out_folder
    make_folder(out)
    with only_writer(out / tables.METRICS_FILE) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            # This file is written last: without it an evaluation is not complete.
            (out / tables.UNREADABLE_FILE).unlink(missing_ok=True)
        found = [_predict(model, config, videos, mapped, accelerator) for model in models]
        predictions = average_predictions(found)
        if accelerator.is_main_process and predictions.videos.empty:
            write_metrics(out / tables.METRICS_FILE, {"num_expected": len(videos), "num_evaluated": 0})
            _write_unreadable(out, predictions.unreadable)
        metrics = tables.score_predictions(predictions, by_group, intervals=accelerator.is_main_process)
        if accelerator.is_main_process:
            metrics |= {"left_out": test.left_out} if test.left_out else {}
            metrics |= {"label_map": mapped.record()} if mapped else {}
            metrics |= {"seen_in_training": test.seen} if test.seen else {}
            if columns:
                metrics["score_by"] = tables.scores_by(predictions, columns, by_group)
                for name, value_of in columns.items():
                    if name not in predictions.videos:
                        values = [value_of[path] for path in predictions.videos["path"]]
                        predictions.videos.insert(1, name, values)
            sources: dict[str, Any] = {
                "manifest": test.manifest,
                "root": videos.root,
                "split": config.split,
                "fold": config.fold,
            }
            sources |= {"fps": _clock(config, models[0].config).fps, "frames_fps": config.frames_fps}
            known: dict[str, Any] = {key: str(value) for key, value in sources.items() if value is not None}
            known |= {"model": config.models if len(models) > 1 else config.models[0]}
            known |= {} if test.head is None else {"head": test.head.name}
            earlier = read_metrics(out / tables.METRICS_FILE).get("score_by", {})
            write_metrics(out / tables.METRICS_FILE, {**known, **test.origin, **metrics})
            _write_predictions(out, predictions, metrics, by_group, earlier)
            _write_unreadable(out, predictions.unreadable)
        accelerator.wait_for_everyone()
    return Evaluation(out, metrics, dict(predictions.unreadable))


def _load(name: str, device: torch.device) -> AnyModel:
    """A model that can be evaluated, on the device. Raises `UserError`."""
    model = load_for_inference(name).to(device).eval()
    if model.config.task not in ("classification", "regression", "multitask"):
        raise UserError(f"{name}: is a {model.config.task} model; only classification and regression can be evaluated")
    assert isinstance(model, AnyModel)
    require_names(name, model.config)
    if not all(shape.label_names for shape in model.config.outputs.values()):
        raise UserError(
            f"{name}: its config.json has no label_names; the manifest's labels cannot be matched to outputs"
        )
    return model


def _clock(config: EvaluateConfig, shape: ModelConfig) -> Clock:
    return Clock.of(config.fps, shape.frame_rate, shape.span)


def _predict(
    model: AnyModel,
    config: EvaluateConfig,
    videos: Manifest,
    mapped: LabelMap | None,
    accelerator: Accelerator,
) -> tables.EvaluationPredictions:
    """The predictions of one model, for the classes and in the order of the videos' labels."""
    shape, clock = model.config, _clock(config, model.config)
    clips = ClipDataset(
        videos, "test", shape.num_frames, shape.sampling_stride, shape.img_size, seed=0,
        num_segments=config.num_segments, num_crops=config.num_crops, frame_fit=shape.frame_fit,
        frame_level=shape.frame_level, fps=clock.fps, frames_fps=config.frames_fps,
    )  # fmt: skip
    _say_contract(clock, config, videos, shape)
    names = videos.label_names or videos.dimensions or ()
    read: Reader = model.outputs_and_features
    if mapped is not None or names != shape.label_names or config.flip:
        sums = (mapped or LabelMap(names, {}, {name: name for name in names})).sums(shape.label_names)
        read = reader_of(read, torch.from_numpy(sums).to(accelerator.device), config.flip, shape.task)
    shown = replace(shape, label_names=names, num_outputs=len(names))
    found = predict_heads(read, shown, clips, accelerator, config.batch_size, config.num_workers, "evaluating")
    return found[""]


def _say_contract(clock: Clock, config: EvaluateConfig, videos: Manifest, model: ModelConfig) -> None:
    """Print in what the test videos differ from those of the model's training."""
    rates, num_unknown = look_at_rates(videos, config.frames_fps)
    clock.say_notes(rates)
    if num_unknown and clock.fps is not None:
        say(FRAMES_NOTE)
    say_crops(model.face_crop, videos.folders, videos.path)


def _write_predictions(
    out: Path,
    predictions: tables.EvaluationPredictions,
    metrics: dict[str, Any],
    by_group: bool,
    before: Collection[str],
) -> None:
    """Write the tables, the features and the figure; tables and figures of an earlier evaluation are removed.

    before: the columns by which the earlier one was scored.
    """
    scored = predictions.videos
    for stale in (tables.GROUPS_FILE, tables.FRAMES_FILE, tables.FEATURES_FILE, "confusion.png", "scatter.png"):
        (out / stale).unlink(missing_ok=True)
    for name in before:
        for suffix in ("md", "csv", "tex"):
            (out / f"by_{name}.{suffix}").unlink(missing_ok=True)
    tables.write_csv(out / tables.PREDICTIONS_FILE, predictions.videos)
    if predictions.frames is not None:
        tables.write_csv(out / tables.FRAMES_FILE, predictions.frames)
    if by_group:
        scored = tables.group_table(predictions)
        tables.write_csv(out / tables.GROUPS_FILE, scored)
    if predictions.features is not None:
        tables.write_features(out / tables.FEATURES_FILE, predictions.videos["path"].tolist(), predictions.features)
    for name, by_value in metrics.get("score_by", {}).items():
        write_table(out / f"by_{name}", tables.by_table(name, by_value, predictions.task), f"Scores by {name}.")
    if predictions.task == "classification":
        save_figure(confusion_matrix(metrics["confusion"], predictions.names), out / "confusion.png")
    else:
        targets, outputs = predictions.arrays(scored)
        save_figure(regression_scatter(targets, outputs, metrics["per_dimension"]), out / "scatter.png")


def _write_unreadable(out: Path, unreadable: Mapping[str, str]) -> None:
    tables.write_csv(out / tables.UNREADABLE_FILE, pd.DataFrame(sorted(unreadable.items()), columns=["path", "reason"]))
