"""Folders of trainings as they are left behind, without any training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


def write_training(
    out: Path, scores: Sequence[float] = (), *, kind: str = "finetune", finished: bool = True, key: str = "uar",
    test: float | None = None, **settings: Any,
) -> None:  # fmt: skip
    """A run with a validation score for each epoch (of pre-training a probe), losses 2, 1, … and 10 seconds an epoch."""
    out.mkdir(parents=True)
    given = {"manifest": "data/train.csv", "epochs": max(len(scores), 1), "base_lr": 0.001, **settings}
    given |= {"mask_ratio": 0.9} if kind == "pretrain" else {}
    (out / "config.yaml").write_text(yaml.safe_dump(given))
    lines: list[dict[str, Any]] = []
    for epoch, score in enumerate(scores, 1):
        lines += [{"kind": "train", "epoch": epoch, "step": 2 * epoch + n, "loss": (2 - n) / epoch} for n in range(2)]
        if kind == "pretrain":
            lines += [{"kind": "val", "epoch": epoch, "step": 2 * epoch + 1}]
            lines += [{"kind": "probe", "epoch": epoch, "step": 2 * epoch + 1, f"linear_last_{key}": score}]
        else:
            lines += [{"kind": "val", "epoch": epoch, "step": 2 * epoch + 1, key: score}]
    (out / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        (out / "metrics.json").write_text(
            json.dumps({"format_version": 2, "finished": True, "seconds": 10.0 * len(scores)})
        )
    if test is not None:
        (out / "evaluation").mkdir()
        (out / "evaluation" / "metrics.json").write_text(json.dumps({key: test, "manifest": "data/test.csv"}))
        (out / "evaluation" / "predictions.csv").write_text("path\n")
