"""Small runs for the tests of training."""

from __future__ import annotations

import json
from pathlib import Path

from svfap.train.config import FinetuneConfig, PretrainConfig

QUICK = dict(preset="svfap_debug", sampling_stride=1, warmup_epochs=0.5, precision="fp32", num_workers=0)
# Nothing is drawn but the order of the clips.
PLAIN = dict(mixup=0, cutmix=0, rand_augment=False, crop_scale=(1.0, 1.0), erase_rate=0, flip_rate=0, drop_path_rate=0)


def pretraining(faces: Path, out: Path, **settings) -> PretrainConfig:
    quick = dict(manifest=faces / "pretrain.csv", epochs=3, batch_size=4, base_lr=0.2, out=out)
    return PretrainConfig(**{**QUICK, **quick, **settings})


def finetuning(faces: Path, out: Path, **settings) -> FinetuneConfig:
    quick = dict(manifest=faces / "train.csv", val_manifest=faces / "val.csv", epochs=2, batch_size=7, out=out)
    return FinetuneConfig(**{**QUICK, **quick, **settings})


def log(out: Path, kind: str = "train") -> list[dict]:
    """The lines of one kind in a run's log."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]
