"""The settings that follow from what was measured, and from nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from svfap.bench.config import BenchConfig
from svfap.bench.measure import Rate, Row
from svfap.bench.work import Size
from svfap.train.config import FinetuneConfig, PretrainConfig

MORE = "--seconds gives more"  # said of what lacked the time
NEAR_BEST = 0.95  # a smaller batch that is as fast as that is taken
AHEAD = 1.1  # of the steps, a reader that keeps up with them
RECIPES: dict[str, Any] = {"pretrain": PretrainConfig, "finetune": FinetuneConfig}
Cut = Collection[tuple[str, str | None]]


@dataclass(frozen=True)
class Chosen:
    """Settings of a training: the recipe's `batch_size` in parts that are fast here, `accumulate_steps` of them.

    precision: None if only one of several was measured. micro_batch: clips at a time. workers: that keep up with the steps, or
    the fastest ones if none do; None: not known. step: rate of the steps alone. read: rate of the loader alone, with
    `workers`. keeps_up: whether it is faster.
    """

    precision: str | None
    batch_size: int
    accumulate_steps: int
    micro_batch: int
    step: Rate
    workers: int | None = None
    read: Rate | None = None
    keeps_up: bool | None = None


@dataclass(frozen=True)
class Advice:
    """training: the settings of pretrain and finetune. commands: command lines to paste, by verb. unknown: settings that do not
    follow from what was measured, and why."""

    training: dict[str, Chosen]
    commands: dict[str, str]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Videos:
    """Those of a training. given: settings that name them, for a command. count: how many are the user's, None: not given."""

    given: dict[str, Any]
    count: int | None


def advise(
    config: BenchConfig,
    size: Size,
    rows: Sequence[Row],
    cut: Cut,
    videos: Mapping[str, Videos],
    interrupted: bool = False,
) -> Advice:
    """Derive the settings. cut: (work, precision) that lacked the time for larger batches or more workers, or for any.
    interrupted: more time would not have helped."""
    more = "" if interrupted else f"; {MORE}"
    training, commands, unknown = {}, {}, list[str]()
    for name, recipe in RECIPES.items():
        row, precision, batch = _choose(name, rows, cut, more, unknown)
        if row is None or batch is None:
            continue
        whole, count = recipe.__dataclass_fields__["batch_size"].default, videos[name].count
        if count is not None and count < whole:
            whole = count - count % min(batch, count)
        micro = max(part for part in range(1, min(batch, whole) + 1) if whole % part == 0)
        reader = _reader(name, row, rows, cut, more, unknown)
        training[name] = Chosen(precision, whole, whole // micro, micro, row.rate, *reader)
        commands[name] = _training_command(size, name, training[name], videos[name].given)
    row, precision, batch = _choose("predict", rows, cut, more, unknown)
    if row is not None:
        trained = "runs/finetune" if "finetune" in commands else "MODEL"
        words = ["svfap", "predict", "VIDEO", "--model", config.model or trained]
        words += [] if batch is None else ["--batch_size", str(batch)]
        commands["predict"] = shlex.join([*words, *([] if precision is None else ["--precision", precision])])
    return Advice(training, commands, tuple(unknown))


def _choose(
    work: str, rows: Sequence[Row], cut: Cut, more: str, unknown: list[str]
) -> tuple[Row | None, str | None, int | None]:
    """The row of the fastest precision with the smallest batch that is nearly as fast; precision and batch, if they are known.

    Precisions are compared up to the largest batch that no lack of time has kept from any of them.
    """
    by_precision: dict[str | None, list[Row]] = {}
    for row in rows:
        if row.work == work:
            by_precision.setdefault(row.precision, []).append(row)
    cuts = [precision for each, precision in cut if each == work]
    if not by_precision:
        if cuts:
            unknown.append(f"{work}: nothing was measured, so no settings follow{more}")
        return None, None, None
    ends = [max(row.batch for row in by_precision[p]) for p in cuts if p in by_precision]
    common = min(ends, default=max(row.batch for row in rows))
    best = max(by_precision, key=lambda p: max(row.rate.median for row in by_precision[p] if row.batch <= common))
    fastest = max(row.rate.median for row in by_precision[best])
    row = min((r for r in by_precision[best] if r.rate.median >= NEAR_BEST * fastest), key=lambda r: r.batch)
    unknown += [
        f"{work}: whether {best} is faster than {other}: their ranges overlap, and the command takes {best} for its median. "
        "Measure longer (--seconds), on an idle machine"
        for other in by_precision
        if other != best and _overlap(by_precision[best], by_precision[other], common)
    ]
    missing = [str(precision) for precision in cuts if precision not in by_precision]
    is_compared = len(by_precision) > 1 or not missing
    if missing:
        follows = "" if is_compared else ", so no --precision follows"
        unknown.append(f"{work}: {' and '.join(missing)} was not measured{follows}{more}")
    if len(by_precision[best]) == 1 and best in cuts:
        no_command = "" if work == "predict" else ", nor a command"
        unknown.append(
            f"{work}: {best} was measured with batch {row.batch} only, so no batch size follows{no_command}{more}"
        )
        return row, best if is_compared else None, None
    if best in cuts:  # every doubling gained, or it would have been the last
        largest = max(each.batch for each in by_precision[best])
        unknown.append(
            f"{work}: {best} gained up to batch {largest}, the last that was measured; larger ones may be faster{more}"
        )
    return row, best if is_compared else None, row.batch


def _overlap(best: Sequence[Row], others: Sequence[Row], most: int) -> bool:
    """Whether the fastest rows of two precisions, with batches up to `most`, scatter so much that either may be the faster."""
    first, second = (max((r for r in rows if r.batch <= most), key=lambda r: r.rate.median) for rows in (best, others))
    return max(second.rate.each) > min(first.rate.each)


def _reader(
    name: str, row: Row, rows: Sequence[Row], cut: Cut, more: str, unknown: list[str]
) -> tuple[int, Rate, bool] | tuple[()]:
    work = f"read for {name}"
    readers = [each for each in rows if each.work == work]
    enough = [each for each in readers if each.rate.median >= AHEAD * row.rate.median]
    if not enough and (work, None) in cut:
        most = f"with more than {max(each.workers for each in readers)} workers " if readers else ""
        unknown.append(f"{name}: reading {most}was not measured, so no --num_workers follows{more}")
        return ()
    if not readers:
        return ()
    reader = min(enough, key=lambda each: each.workers) if enough else max(readers, key=lambda each: each.rate.median)
    return reader.workers, reader.rate, bool(enough)


def _training_command(size: Size, name: str, chosen: Chosen, given: Mapping[str, Any]) -> str:
    settings = {"preset": size.preset, **{f"model.{setting}": value for setting, value in size.model.items()}}
    settings |= {"batch_size": chosen.batch_size, "accumulate_steps": chosen.accumulate_steps}
    settings |= {"precision": chosen.precision, "num_workers": chosen.workers, **given, "out": f"runs/{name}"}
    words = ["svfap", name]
    for setting, value in settings.items():
        if value is not None:
            words += [f"--{setting}", str(list(value) if isinstance(value, tuple) else value)]
    return shlex.join(words)
