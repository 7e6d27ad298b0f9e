"""Score a model on a manifest by multi-view testing, and write down what it said about every video."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import pandas as pd

from svfap.data.loader import ClipDataset
from svfap.data.manifest import read_manifest
from svfap.device import make_accelerator
from svfap.errors import UserError
from svfap.evaluate.metrics import predictions_table, write_metrics
from svfap.evaluate.views import NothingReadable, predict_views, score_predictions
from svfap.files import make_folder, write_atomically
from svfap.weights import load_model


def evaluate(
    model: str | Path,
    manifest: Path,
    out: Path,
    *,
    root: Path | None = None,
    split: str | None = None,
    num_segments: int = 2,
    num_crops: int = 2,
    batch_size: int = 8,
    num_workers: int = 0,
    precision: str = "auto",
) -> dict[str, Any]:
    """Average the scores of `num_segments` temporal × `num_crops` spatial views of every video (Sec. IV-B).

    Views that coincide are computed once. Writes `metrics.json`, `predictions.csv` and `unreadable.csv` into `out` and
    returns the metrics; `num_evaluated` < `num_expected` says that videos were unreadable. Under torchrun every video is
    scored by exactly one process. Raises `UserError`.
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
    accelerator = make_accelerator(precision)
    perceiver = load_model(model).to(accelerator.device).eval()
    config = perceiver.config
    if config.task not in ("classification", "regression"):
        raise UserError(f"{model}: is a {config.task} model; only classification and regression can be evaluated")
    task = cast(Literal["classification", "regression"], config.task)
    if not config.label_names:
        raise UserError(
            f"{model}: its config.json has no label_names; the manifest's labels cannot be matched to outputs"
        )
    names: dict[str, Any] = {"label_names" if task == "classification" else "dimensions": config.label_names}
    videos = read_manifest(manifest, root=root, task=task, split=split, **names)
    dataset = ClipDataset(
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
    try:
        predictions = predict_views(perceiver, config, dataset, accelerator, batch_size, num_workers, "evaluating")
    except NothingReadable as error:
        write_metrics(out / "metrics.json", {"num_expected": len(videos), "num_evaluated": 0})
        _write_unreadable(out, error.unreadable)
        raise
    metrics = score_predictions(predictions, config, videos)
    if accelerator.is_main_process:
        paths = [videos[i].key for i in predictions.index.tolist()]
        table = predictions_table(paths, predictions.outputs, config.label_names, predictions.targets, task)
        write_metrics(out / "metrics.json", {"model": str(model), "manifest": str(manifest), **metrics})
        write_atomically(out / "predictions.csv", table.to_csv(index=False))
        _write_unreadable(out, predictions.unreadable)
    accelerator.wait_for_everyone()
    return metrics


def _write_unreadable(out: Path, unreadable: dict[str, str]) -> None:
    table = pd.DataFrame(sorted(unreadable.items()), columns=["path", "reason"])
    write_atomically(out / "unreadable.csv", table.to_csv(index=False))
