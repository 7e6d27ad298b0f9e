"""Score a model on a manifest by multi-view testing, and write down what it said about every video."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from svfap.data.loader import ClipDataset
from svfap.data.manifest import read_manifest
from svfap.data.prepared import read_dataset
from svfap.device import make_accelerator
from svfap.errors import UserError
from svfap.evaluate.metrics import predictions_table, write_metrics
from svfap.evaluate.views import (
    NothingReadable,
    Predictions,
    grouped,
    predict_views,
    score_predictions,
    scored_by_group,
)
from svfap.files import make_folder, write_atomically
from svfap.model.config import ModelConfig
from svfap.model.perceiver import Perceiver
from svfap.weights.folder import load_model


def evaluate(
    model: str | Path,
    manifest: Path | None,
    out: Path,
    *,
    dataset: Path | None = None,
    fold: str | None = None,
    root: Path | None = None,
    split: str | None = None,
    by_group: bool | None = None,
    num_segments: int = 2,
    num_crops: int = 2,
    batch_size: int = 8,
    num_workers: int = 0,
    precision: str = "auto",
) -> dict[str, Any]:
    """Average the scores of `num_segments` temporal × `num_crops` spatial views of every video (Sec. IV-B).

    dataset and fold, in place of manifest: the test part of a prepared dataset's fold. by_group: average over each group
    of videos and score it once; by default where the manifest has a column `group`.

    Views that coincide are computed once. Writes into `out` and returns the metrics:
      metrics.json     `num_evaluated` < `num_expected` says that videos were unreadable; `num_groups` where they are scored
      predictions.csv  one row per video; groups.csv: one per group
      frames.csv       one row per frame that a frame-level model was shown: path, frame (from 0), truth and prediction
      features.npz     `features` (N, D) float32, the means over views of what the head gets, and `paths` (N,)
      unreadable.csv   videos and reasons
    Under torchrun every video is scored by exactly one process. Raises `UserError`.
    """
    counts = {
        "num_segments": num_segments,
        "num_crops": num_crops,
        "batch_size": batch_size,
        "num_workers": num_workers,
    }
    for name, count in counts.items():
        least = 0 if name == "num_workers" else 1
        if count < least:
            raise UserError(f"{name}={count} must be at least {least}")
    if manifest is None or dataset is not None:
        manifest, root = _test_part(manifest, dataset, fold, root)
    elif fold is not None:
        raise UserError(f"fold={fold}: folds come with a dataset; give dataset in place of manifest")
    accelerator = make_accelerator(precision)
    perceiver = load_model(model).to(accelerator.device).eval()
    config = perceiver.config
    if config.task not in ("classification", "regression"):
        raise UserError(f"{model}: is a {config.task} model; only classification and regression can be evaluated")
    assert isinstance(perceiver, Perceiver)
    task = cast(Literal["classification", "regression"], config.task)
    if not config.label_names:
        raise UserError(
            f"{model}: its config.json has no label_names; the manifest's labels cannot be matched to outputs"
        )
    names: dict[str, Any] = {"label_names" if task == "classification" else "dimensions": config.label_names}
    videos = read_manifest(manifest, root=root, task=task, split=split, frame_level=config.frame_level, **names)
    grouping = scored_by_group(videos, config, by_group)
    clips = ClipDataset(
        videos,
        "test",
        config.num_frames,
        config.sampling_stride,
        config.img_size,
        seed=0,
        num_segments=num_segments,
        num_crops=num_crops,
        frame_level=config.frame_level,
    )
    make_folder(out)
    run = perceiver.outputs_and_features
    try:
        predictions = predict_views(run, config, clips, accelerator, batch_size, num_workers, "evaluating")
    except NothingReadable as error:
        write_metrics(out / "metrics.json", {"num_expected": len(videos), "num_evaluated": 0})
        _write_unreadable(out, error.unreadable)
        raise
    metrics = score_predictions(predictions, config, videos, grouping)
    if accelerator.is_main_process:
        source = {"model": model, "manifest": manifest, "root": videos.root, "split": split, "fold": fold}
        known = {word: str(value) for word, value in source.items() if value is not None}
        write_metrics(out / "metrics.json", {**known, **metrics})
        scored = [videos[i] for i in predictions.index.tolist()]
        paths = [sample.key for sample in scored]
        table = predictions_table(paths, predictions.outputs, config.label_names, predictions.targets, task)
        for name, texts in (("group", videos.groups), ("subject", videos.subjects)):
            if texts is not None:
                table.insert(1, name, texts[predictions.index])
        write_atomically(out / "predictions.csv", table.to_csv(index=False))
        for name in ("groups.csv", "frames.csv"):
            (out / name).unlink(missing_ok=True)  # of an evaluation before
        if config.frame_level:
            write_atomically(out / "frames.csv", _frames_table(paths, predictions, config).to_csv(index=False))
        if grouping:
            groups, *rest = grouped(predictions, videos)
            table = predictions_table(groups, rest[0], config.label_names, rest[1], task)
            write_atomically(out / "groups.csv", table.rename(columns={"path": "group"}).to_csv(index=False))
        assert predictions.features is not None
        buffer = io.BytesIO()
        np.savez_compressed(buffer, features=predictions.features, paths=np.array(paths))
        write_atomically(out / "features.npz", buffer.getvalue())
        _write_unreadable(out, predictions.unreadable)
    accelerator.wait_for_everyone()
    return metrics


def _test_part(manifest: Path | None, dataset: Path | None, fold: str | None, root: Path | None) -> tuple[Path, Path]:
    """Manifest and root of a fold's test part."""
    if (manifest is None) == (dataset is None):
        raise UserError("give either manifest (a CSV of test videos) or dataset (a folder of `svfap prepare`)")
    assert dataset is not None
    prepared = read_dataset(dataset)
    test = prepared.fold(fold).test
    if test is None:
        raise UserError(f"{dataset}: fold {prepared.fold(fold).name} has no test part; give manifest instead")
    return test, root or prepared.root


def _frames_table(paths: list[str], predictions: Predictions, config: ModelConfig) -> pd.DataFrame:
    """One row per frame, as `predictions_table`, with its number in the video in a column `frame`."""
    own = np.repeat(paths, [len(frames) for frames in predictions.frame_indices]).tolist()
    outputs, targets, indices = (
        np.concatenate(arrays)
        for arrays in (predictions.frame_outputs, predictions.frame_targets, predictions.frame_indices)
    )
    task = cast(Literal["classification", "regression"], config.task)
    table = predictions_table(own, outputs, config.label_names, targets, task)
    table.insert(1, "frame", indices)
    return table


def _write_unreadable(out: Path, unreadable: dict[str, str]) -> None:
    table = pd.DataFrame(sorted(unreadable.items()), columns=["path", "reason"])
    write_atomically(out / "unreadable.csv", table.to_csv(index=False))
