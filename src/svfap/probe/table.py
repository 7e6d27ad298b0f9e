"""The table of `svfap probe`: a row for each reader, features and encoder; as numbers, as text, and what its caption says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from svfap.console import counted
from svfap.evaluation.confidence import FEW, Interval, SubjectScore, intervals
from svfap.metric_table import interval_text, metric_heading, metric_name
from svfap.probe.config import EPOCHS, MIN_STEPS, ProbeConfig
from svfap.probe.parts import Parts
from svfap.probe.reading import MAIN

SET_NAMES = {"last": "last stage", "fused": "fused stages", "tokens": "all tokens", "pixels": "pixels"}
TRAINED, UNTRAINED, PIXELS, CHANCE = "trained", "untrained", "pixels", "chance"
COMPARED = ("uar", "ccc", "ccc_within_people")  # shown with their differences to the untrained encoder


class Row(NamedTuple):
    """What a row of the table is about: reader, features, and encoder (`trained`, `untrained`, `pixels`, `chance`)."""

    reader: str
    features: str
    encoder: str

    @property
    def name(self) -> str:
        """As printed."""
        if self.encoder == CHANCE:
            return CHANCE
        features = SET_NAMES.get(self.features, self.features.replace("_", " "))
        return f"{self.reader}, {features}" + (f", {self.encoder}" if self.encoder == UNTRAINED else "")


def main_key(table: pd.DataFrame) -> str:
    """The main score of a table of `Probed`: `uar` or `ccc`."""
    return "uar" if "uar" in set(table["score"]) else "ccc"


def bars_of(table: pd.DataFrame) -> dict[str, tuple[str, float, float, float]]:
    """Row as printed -> encoder, value, low, high of the main score, for `score_intervals`."""
    chosen = table[table["score"] == main_key(table)]
    columns = ("reader", "features", "encoder", "value", "low", "high")
    rows = chosen[list(columns)].itertuples(index=False, name=None)
    return {Row(*row[:3]).name: (row[2], *row[3:]) for row in rows}


def table_of(scores: Mapping[Row, Mapping[str, SubjectScore]], config: ProbeConfig) -> pd.DataFrame:
    """The table of `Probed`."""
    lines = []
    how = {"num_resamples": config.num_resamples, "seed": config.seed}
    for row, by_key in scores.items():
        found, nothing = _intervals(by_key, None, **how), Interval(math.nan, math.nan, math.nan)
        reference = scores.get(row._replace(encoder=UNTRAINED)) if row.encoder == TRAINED else None
        compared = _intervals(by_key, reference, **how) if reference is not None else {}
        lines += [(*row, key, *found[key], *compared.get(key, nothing)) for key in by_key]
    columns = [*Row._fields, "score", *Interval._fields, "difference", "difference_low", "difference_high"]
    return pd.DataFrame(lines, columns=columns)


def _intervals(
    scores: Mapping[str, SubjectScore], reference: Mapping[str, SubjectScore] | None, **how: int
) -> dict[str, Interval]:
    """Intervals; of a single video there are none, so the bounds are NaN."""
    if len(next(iter(scores.values())).sums) > 1:
        return intervals(scores, reference, **how)
    values = {key: score.value - (0 if reference is None else reference[key].value) for key, score in scores.items()}
    return {key: Interval(value, math.nan, math.nan) for key, value in values.items()}


def summary_of(table: pd.DataFrame, parts: Parts) -> pd.DataFrame:
    """The table as text: for each row the scores with their intervals, and the differences to the untrained encoder."""
    there = set(table["score"])
    keys = [key for key in MAIN[parts.task] if key in there]
    rows = []
    for which, lines in table.groupby(list(Row._fields), sort=False):
        cells = {"reader, features": Row(*map(str, which)).name}
        for _, line in lines[lines["score"].isin(keys)].set_index("score").loc[keys].reset_index().iterrows():
            key = line["score"]
            cells[metric_heading(key)] = interval_text(key, line["value"], line["low"], line["high"])
            if key in COMPARED:
                difference = (line["difference"], line["difference_low"], line["difference_high"])
                cells[f"{metric_name(key)} − untrained"] = interval_text(key, *difference, signed=True)
        rows.append(cells)
    return pd.DataFrame(rows)


def caption_of(
    model: str,
    config: ProbeConfig,
    parts: Parts,
    scores: Mapping[Row, Mapping[str, SubjectScore]],
    chosen: Mapping[str, Sequence[tuple[float, float]]],
    num_unreadable: int,
) -> str:
    """What was fitted and scored on whom, and what the intervals are."""
    fit, test = (np.unique(np.concatenate(rows)) for rows in zip(*parts.splits, strict=True))
    scored = parts.described(test)
    if config.cross_validates:
        data = f"{len(parts.splits)}-fold cross-validation over {scored}: each is scored by readers fitted on others"
    else:
        data = f"readers fitted on {parts.described(fit)}, scored on {scored}"
    if not parts.known:
        data += "; people are not known, so the same person may be in both parts"
    if num_unreadable:
        data += f"; INCOMPLETE: {counted(num_unreadable, 'video')} could not be read"
    views = f"outputs averaged over {config.num_segments} × {config.num_crops} views of each video"
    views += ", at every frame" if parts.frame_level else ""
    number = len(next(iter(next(iter(scores.values())).values())).sums)
    drawn = parts.units(test) if len(set(parts.people[test])) > 1 else "videos of the only person"
    text = f"Probes of {model} on {parts.title}: {data}. {views[0].upper()}{views[1:]}."
    if number > 1:
        text += f" In brackets 95% intervals: {config.num_resamples} bootstrap samples of the {number} {drawn}."
    if 1 < number < FEW:
        text += f" Warning: intervals from so few are not to be trusted; at least {FEW} people are needed."
    if parts.task == "regression":
        what = "means over " + ", ".join(parts.names) if len(parts.names) > 1 else f"of {parts.names[0]}"
        text += f" Scores are {what}."
    if "attentive" in config.kinds:
        text += f" {_about_attentive(config, chosen)}"
    text += " Untrained: the same encoder with random weights (seed 0), whose differences are paired."
    if any("within_people" in key for by_key in scores.values() for key in by_key):
        text += " Within people: each person's mean is subtracted from values and outputs."
    return text


def _about_attentive(config: ProbeConfig, chosen: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """How long the attentive readers were trained, and with which of the learning rates and weight decays that were tried."""
    seeds = f"means of {config.num_seeds} readers, " if config.num_seeds > 1 else ""
    epochs = config.attentive_epochs
    length = counted(epochs, "epoch") if epochs else f"at least {EPOCHS} epochs and {MIN_STEPS:,} steps"
    if epochs and epochs < EPOCHS:
        length += f" (fewer than {EPOCHS}, so scores may be too low)"
    tried = " / ".join(
        ", ".join(f"{each:g}" for each in given) for given in (config.attentive_rates, config.attentive_decays)
    )
    several = len(config.attentive_rates) * len(config.attentive_decays) > 1
    best = []
    for which, pairs in chosen.items():
        times = Counter(f"{rate:g} / {decay:g}" for rate, decay in pairs)
        folds = len(pairs) > 1
        best.append(
            f"{which} " + ", ".join(f"{pair} in {counted(n, 'fold')}" if folds else pair for pair, n in times.items())
        )
    settings = f"chosen from {tried}: {'; '.join(best)}" if several else tried
    return f"Attentive: {seeds}trained for {length}; learning rate / weight decay {settings}."
