"""Compare trained models on the same test set: which differences hold, and which may be chance.

One run for each row: the error is that of the test people, drawn by a bootstrap, the same people for both runs of a difference.
It says which of these trained models is better. Several runs for each row, such as three seeds of training: the error is that of
the trainings and of the people, by the model of `svfap.evaluation.replication`. It says which way of training is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from scipy.stats import binomtest

from svfap.console import counted
from svfap.errors import UserError
from svfap.evaluation.compared_runs import CommonRows, aligned, place_of_evaluation, read_run
from svfap.evaluation.confidence import FEW, NUM_RESAMPLES, SubjectScore, bootstrap_p, interval, least_p
from svfap.evaluation.config import CompareConfig
from svfap.evaluation.folds import differing_settings
from svfap.evaluation.metrics import write_metrics
from svfap.evaluation.predictions import EvaluationPredictions
from svfap.evaluation.replication import SIGNIFICANCE, holm, row_estimate, table_differences
from svfap.files import make_folder
from svfap.metric_table import METRICS, SupervisedTask, interval_text, metric_heading, metric_keys, p_text
from svfap.view.figures.base import save_figure
from svfap.view.figures.scores import score_intervals
from svfap.view.tables import write_table


class Difference(NamedTuple):
    """A row less the reference row: value, bounds of the 95% interval, p, and p after Holm's correction for all rows."""

    value: float
    low: float
    high: float
    p: float
    p_holm: float = math.nan


@dataclass(frozen=True)
class ComparedRow:
    """One row of a comparison.

    runs: the folders. scores: metric -> value, low, high of the mean over the runs. differences: metric -> to the reference row;
    empty for the reference. only_this, only_reference: videos that this row alone, or the reference alone, classifies rightly;
    mcnemar: p of the exact test that both are as many, after Holm's correction; NaN where it does not apply.
    """

    name: str
    runs: tuple[Path, ...]
    scores: dict[str, tuple[float, float, float]]
    differences: dict[str, Difference] = field(default_factory=dict)
    only_this: int = 0
    only_reference: int = 0
    mcnemar: float = math.nan


@dataclass(frozen=True)
class Comparison:
    """The result of `compare_runs`: the table (cells as text), its caption, and its rows as numbers."""

    table: pd.DataFrame
    caption: str
    rows: tuple[ComparedRow, ...]


def compare_runs(runs: Mapping[str, Sequence[str | Path]], config: CompareConfig | None = None) -> Comparison:
    """Compare runs that were evaluated on the same test set with a reference row, the first if the settings name no other.

    runs: name of each row -> folders of its runs, as many in each row: folders of `svfap finetune`, `svfap evaluate`, or of
    folds, whose predictions are pooled. What was scored there is compared: videos, groups of them, or frames.

    Writes compare.md, .csv, .tex, .json and .png into `config.out`, if it is given. Raises `UserError` for a folder without an
    evaluation or with a damaged one, runs of one row that were evaluated with other settings, test sets, labels or classes that
    differ, a metric of another task, and for one person or video alone.
    """
    config = config or CompareConfig()
    rows = {name: tuple(map(Path, folders)) for name, folders in runs.items()}
    _check_rows(rows, config.reference)
    read, lacks = {}, []
    for folder in [folder for folders in rows.values() for folder in folders]:
        read[folder], lacking = read_run(folder)
        lacks += lacking
    shared = aligned(read, lacks, config.allow_incomplete)
    settings = _settings_that_differ(rows, read)
    metrics = _metrics(config.chosen, shared.task)
    scores = {name: [shared.scores(folder) for folder in folders] for name, folders in rows.items()}
    reference = config.reference or next(iter(rows))
    compared = _compared(rows, scores, reference, metrics, shared)
    table = _table(compared, reference, metrics)
    caption = _caption(compared, reference, shared, settings)
    if config.out is not None:
        make_folder(config.out)
        write_table(config.out / "compare", table, caption)
        write_metrics(config.out / "compare.json", _numbers(compared, reference, caption, shared))
        bars = {
            row.name: ("reference" if row.name == reference else "compared", *row.scores[metrics[0]])
            for row in compared
        }
        save_figure(score_intervals(bars, metrics[0]), config.out / "compare.png")
    return Comparison(table, caption, tuple(compared))


def parse_rows(texts: Sequence[str]) -> dict[str, list[str]]:
    """Arguments `RUN`, or `NAME=RUN[,RUN...]`, as the rows of `compare_runs`; a run alone is named by its folder.

    Raises `UserError` for a name that occurs twice.
    """
    rows: dict[str, list[str]] = {}
    for text in texts:
        name, named, folders = text.partition("=")
        if not named or Path(text).is_dir():
            name, named, folders = text.rstrip("/"), "", text
        given = folders.split(",") if named else [folders]
        if not name.strip() or not all(each.strip() for each in given):
            raise UserError(f"{text!r}: write NAME=RUN or NAME=RUN,RUN,…, with a name and no empty run")
        if name in rows:
            same = [*map(Path, rows[name])] == [*map(Path, given)]
            fix = "each run can be compared once" if same else f"give another, as in NAME={folders}"
            raise UserError(f"{name}: {'is given twice' if same else 'two rows have this name'}; {fix}")
        rows[name] = given
    return rows


def _settings_that_differ(rows: Mapping[str, Sequence[Path]], read: Mapping[Path, EvaluationPredictions]) -> str:
    """In which settings of their evaluation rows differ, as text. Raises `UserError` where runs of one row differ."""
    for name, folders in rows.items():
        if differing := differing_settings({str(folder): read[folder] for folder in folders}):
            raise UserError(
                f"{name}: its runs were evaluated with other settings ({differing}); evaluate all with the same"
            )
    return differing_settings({name: read[folders[0]] for name, folders in rows.items()})


def _check_rows(rows: Mapping[str, tuple[Path, ...]], reference: str | None) -> None:
    if len(rows) < 2:
        raise UserError("give at least two runs; the first is the reference")
    if len({len(folders) for folders in rows.values()}) > 1:
        counted = ", ".join(f"{name} {len(folders)}" for name, folders in rows.items())
        raise UserError(f"each row needs as many runs as the others, paired in their order; given are {counted}")
    if reference is not None and reference not in rows:
        raise UserError(f"reference={reference!r} is none of the rows {', '.join(rows)}")
    folders = [folder for each in rows.values() for folder in each]
    first: dict[Path, Path] = {}
    for folder in folders:
        if (same := first.setdefault(place_of_evaluation(folder).resolve(), folder)) is not folder:
            also = "" if same == folder else f", also as {same}"
            raise UserError(f"{folder}: is given twice{also}; each run can be compared once")
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder of a run or an evaluation")


def _metrics(chosen: Sequence[str], task: SupervisedTask) -> list[str]:
    if unknown := [name for name in chosen if name not in metric_keys(task, tables=True)]:
        raise UserError(
            f"metrics={unknown[0]!r} is none of {', '.join(metric_keys(task, tables=True))}, which runs of {task} have"
        )
    return list(chosen) or list(metric_keys(task, summary=True))


def _compared(
    rows: Mapping[str, tuple[Path, ...]],
    scores: Mapping[str, Sequence[Mapping[str, SubjectScore]]],
    reference: str,
    metrics: Sequence[str],
    shared: CommonRows,
) -> list[ComparedRow]:
    names, others = list(rows), [name for name in rows if name != reference]
    single = len(rows[reference]) == 1
    found = {name: ComparedRow(name, rows[name], {}) for name in names}
    for metric in metrics:
        of = {name: [each[metric] for each in scores[name]] for name in names}
        if single:
            differences = {
                name: Difference(*interval(of[name][0], of[reference][0]), bootstrap_p(of[name][0], of[reference][0]))
                for name in others
            }
        else:
            estimates = table_differences([of[name] for name in names], names.index(reference))
            differences = {
                name: Difference(one.value, one.low, one.high, one.p)
                for name, one in zip(names, estimates, strict=True)
                if name != reference
            }
        corrected = holm([one.p for one in differences.values()])
        for name, p in zip(others, corrected, strict=True):
            found[name].differences[metric] = differences[name]._replace(p_holm=p)
        for name in names:
            whole = interval(of[name][0]) if single else row_estimate(of[name], limits=METRICS[metric].limits)
            found[name].scores[metric] = (whole[0], whole[1], whole[2])
    if shared.task == "regression" or not single:
        return list(found.values())
    right = {name: shared.hits(rows[name][0]) for name in names}
    counts = {
        name: (int((right[name] & ~right[reference]).sum()), int((right[reference] & ~right[name]).sum()))
        for name in others
    }
    tested = holm([mcnemar_p(*counts[name]) for name in others])
    for name, p in zip(others, tested, strict=True):
        old = found[name]
        found[name] = replace(old, only_this=counts[name][0], only_reference=counts[name][1], mcnemar=p)
    return list(found.values())


def mcnemar_p(only_one: int, only_other: int) -> float:
    """p of McNemar's exact test: of the videos that only one of two models classifies rightly, either has half."""
    number = only_one + only_other
    return float(binomtest(only_one, number).pvalue) if number else 1.0


def verdict(metric: str, found: Difference) -> str:
    """What a corrected test says: "better", "worse", or "no difference shown"."""
    if not found.p_holm < SIGNIFICANCE:
        return "no difference shown"
    return "better" if (found.value > 0) == METRICS[metric].higher_is_better else "worse"


def _table(rows: Sequence[ComparedRow], reference: str, metrics: Sequence[str]) -> pd.DataFrame:
    """A line for each score and row, and one for McNemar's test of each row."""
    lines = []
    for metric in metrics:
        for row in rows:
            cells = {
                "score": metric_heading(metric),
                "run": row.name,
                "value": interval_text(metric, *row.scores[metric]),
            }
            if row.name == reference:
                cells["difference"] = "reference"
            else:
                one = row.differences[metric]
                cells["difference"] = interval_text(metric, one.value, one.low, one.high, signed=True)
                cells |= {"p": p_text(one.p_holm), "what holds": verdict(metric, one)}
            lines.append(cells)
    for row in rows:
        if not math.isnan(row.mcnemar):
            counts = f"{row.only_this} : {row.only_reference}"
            lines.append({"score": "McNemar", "run": row.name, "difference": counts, "p": p_text(row.mcnemar)})
    return pd.DataFrame(lines).fillna("")


def _caption(rows: Sequence[ComparedRow], reference: str, shared: CommonRows, settings: str) -> str:
    """settings: those in which the evaluations of the rows differ."""
    number, people, drawn = len(shared.targets), shared.num_people, shared.people.kind
    parts = [f"Compared with {reference} on the same {counted(number, shared.unit)} of {counted(people, drawn)}"]
    if shared.missing:
        parts.append(f"INCOMPLETE: {shared.missing}")
    if settings:
        parts.append(f"the rows were evaluated with other settings, which may be what differs ({settings})")
    count = len(rows[0].runs)
    if count == 1:
        parts.append(
            f"in brackets 95% intervals, by {NUM_RESAMPLES} bootstrap samples of the {drawn}s, the same for both sides of "
            "a difference; p by the same samples, after Holm's correction for all rows of a score"
        )
        parts.append("they are of these trained models; another seed of training may differ by as much")
        least = least_p(people)
        if (corrected := min(1.0, least * (len(rows) - 1))) >= SIGNIFICANCE:
            after = f", {p_text(corrected)} after Holm's correction" if len(rows) > 2 else ""
            parts.append(
                f"of {counted(people, drawn)} p is never below {p_text(least)}{after}, so that no difference can be shown, "
                f"whatever the intervals are: test more {drawn}s"
            )
    else:
        parts.append(
            f"means over {count} runs each, paired in their order, with 95% intervals over runs and {drawn}s (Obuchowski "
            "and Rockette 1995), where its runs do not all score alike; p after Holm's correction for all rows of a score"
        )
    if len(rows) > 2:
        parts.append(
            "each interval is of one difference, without a correction for several rows, so that it may leave out 0 where p shows "
            "no difference"
        )
    if any(not math.isnan(row.mcnemar) for row in rows):
        parts.append(
            f"McNemar: {shared.unit}s that only this run and only {reference} classifies rightly, and p of the exact test, after "
            f"Holm's correction; it takes {shared.unit}s as independent, which those of one person are not"
        )
    if shared.people.caution:
        parts.append(shared.people.caution)
    if people < FEW:
        parts.append(f"intervals from fewer than {FEW} {drawn}s are not to be trusted")
    parts.append("no difference shown does not mean that there is none: the interval says what is still possible")
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts)


def _numbers(rows: Sequence[ComparedRow], reference: str, caption: str, shared: CommonRows) -> dict[str, Any]:
    """As in compare.json; what does not apply is null."""
    found = []
    for row in rows:
        scores = {key: _known(zip(("value", "low", "high"), score, strict=True)) for key, score in row.scores.items()}
        differences = {
            key: {**_known(one._asdict().items()), "verdict": verdict(key, one)} for key, one in row.differences.items()
        }
        tested = {"only_this": row.only_this, "only_reference": row.only_reference, "p_holm": row.mcnemar}
        mcnemar = None if math.isnan(row.mcnemar) else tested
        found.append(
            {"name": row.name, "runs": list(row.runs), "scores": scores, "differences": differences, "mcnemar": mcnemar}
        )
    return {
        "caption": caption, "reference": reference, "unit": shared.unit, "num_compared": len(shared.targets),
        "drawn": shared.people.kind, "num_drawn": shared.num_people, "rows": found,
    }  # fmt: skip


def _known(pairs: Any) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else float(value) for name, value in pairs}
