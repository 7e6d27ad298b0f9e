"""The settings that follow from what was measured."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from svfap.bench.config import BenchConfig
from svfap.bench.measure import Rate, Row
from svfap.bench.work import Size
from svfap.train.config import FinetuneConfig, PretrainConfig

NEAR_BEST = 0.95  # a smaller batch that is as fast as that is taken
AHEAD = 1.1  # of the steps, a reader that keeps up with them
RECIPES: dict[str, Any] = {"pretrain": PretrainConfig, "finetune": FinetuneConfig}


@dataclass(frozen=True)
class Chosen:
    """Settings of a training: the recipe's `batch_size` in parts that are fast here, `accumulate_steps` of them.

    micro_batch: clips at a time. workers: that keep up with the steps, or the fastest ones if none do; None: not measured.
    step: rate of the steps alone. read: rate of the loader alone, with `workers`. keeps_up: whether it is faster.
    """

    precision: str
    batch_size: int
    accumulate_steps: int
    micro_batch: int
    step: Rate
    workers: int | None = None
    read: Rate | None = None
    keeps_up: bool | None = None


@dataclass(frozen=True)
class Advice:
    """training: the settings of pretrain and finetune. commands: command lines to paste, by verb."""

    training: dict[str, Chosen]
    commands: dict[str, str]


def advise(config: BenchConfig, size: Size, rows: Sequence[Row], videos: Mapping[str, int]) -> Advice:
    """Derive the settings. videos: the number of the user's videos for each training, where there are any."""
    training = {}
    for name, recipe in RECIPES.items():
        if (row := _choose([row for row in rows if row.work == name])) is not None:
            whole = min(recipe.__dataclass_fields__["batch_size"].default, videos.get(name, 10**9))
            micro = max(part for part in range(1, min(row.batch, whole) + 1) if whole % part == 0)
            readers = [each for each in rows if each.work == f"read for {name}"]
            training[name] = Chosen(row.precision or "", whole, whole // micro, micro, row.rate, *_reader(row, readers))
    commands = {name: _training_command(config, size, name, chosen) for name, chosen in training.items()}
    if (row := _choose([row for row in rows if row.work == "predict"])) is not None:
        model = config.model or "runs/finetune"
        commands["predict"] = shlex.join(
            [
                "svfap",
                "predict",
                "VIDEO",
                "--model",
                model,
                "--batch_size",
                str(row.batch),
                "--precision",
                row.precision or "",
            ]
        )
    return Advice(training, commands)


def _choose(rows: Sequence[Row]) -> Row | None:
    """The fastest, or the one with the smallest batch that is nearly as fast in the same precision."""
    if not rows:
        return None
    best = max(rows, key=lambda row: row.rate.median)
    near = [r for r in rows if r.precision == best.precision and r.rate.median >= NEAR_BEST * best.rate.median]
    return min(near, key=lambda row: row.batch)


def _reader(row: Row, readers: Sequence[Row]) -> tuple[int, Rate, bool] | tuple[()]:
    if not readers:
        return ()
    enough = [each for each in readers if each.rate.median >= AHEAD * row.rate.median]
    reader = enough[0] if enough else max(readers, key=lambda each: each.rate.median)
    return reader.workers, reader.rate, bool(enough)


def _training_command(config: BenchConfig, size: Size, name: str, chosen: Chosen) -> str:
    words = ["svfap", name, "--preset", size.preset]
    for setting, value in size.model.items():
        words += [f"--model.{setting}", str(list(value) if isinstance(value, tuple) else value)]
    words += ["--batch_size", str(chosen.batch_size), "--accumulate_steps", str(chosen.accumulate_steps)]
    words += ["--precision", chosen.precision]
    if chosen.workers is not None:
        words += ["--num_workers", str(chosen.workers)]
    if config.dataset is not None:
        words += ["--dataset", str(config.dataset)]
    else:
        words += ["--manifest", str(config.manifest or "VIDEOS.csv")]
    for setting in ("root", "split"):
        if (value := getattr(config, setting)) is not None:
            words += [f"--{setting}", str(value)]
    return shlex.join([*words, "--out", f"runs/{name}"])
