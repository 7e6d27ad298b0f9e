"""Figures over time: a run's training, and affect in a video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from svfap.errors import UserError
from svfap.inference.rows import runs_of
from svfap.report.figures.base import (
    LEGEND,
    MUTED,
    PALETTE,
    PERCENT,
    label_axes,
    legend_name,
    metric_name,
    new_figure,
    tidy,
)

NOT_AFFECT = ("start_s", "end_s", "track", "box_x", "box_y", "box_w", "box_h", "confidence")
MAX_TRACKS = 8
CURVES = ("uar", "war", "ccc", "pcc", "accuracy")  # validation metrics that are drawn


def loss_curves(records: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Training loss with the learning rate as a thin line and, beside it, the validation metrics over epochs.

    Args:
        records: a run's log; `{"kind": "train", "epoch", "step", "loss", "lr"}` and `{"kind": "val", "epoch",
            <metric>...}`. Where a resumed run wrote a step twice, the later record counts. Of the metrics those in
            [-1, 1] that `METRIC_NAMES` knows are drawn.
    """
    train = _latest(records, "train", ("epoch", "step"))
    validation = _latest(records, "val", ("epoch",))
    metrics = [m for m in CURVES if any(m in r for r in validation)]
    if not train and not validation:
        raise UserError("log: no record of kind train or val; there is nothing to draw")
    figure, panels = new_figure(9.6 if metrics else 5.6, 3.5, 1, 2 if metrics else 1, title=title)

    axes = panels[0]
    first = min(r["epoch"] for r in [*train, *validation])
    x = _epochs(train, first)
    losses = np.array([r["loss"] for r in train], dtype=float)
    smooth = _smooth(losses)
    if smooth is not None:
        axes.plot(x, losses, color=PALETTE[0], linewidth=0.8, alpha=0.25)
    marker = "o" if len(losses) <= 12 else None
    axes.plot(x, losses if smooth is None else smooth, PALETTE[0], lw=1.8, marker=marker, ms=3.5, label="training loss")
    with_loss = [r for r in validation if "loss" in r]
    if with_loss:
        ends = [r["epoch"] - first + 1 for r in with_loss]
        axes.plot(ends, [r["loss"] for r in with_loss], PALETTE[5], lw=1.8, marker="o", ms=3.5, label="validation loss")
    label_axes(axes, "Epoch", "Loss")
    rates = np.array([r.get("lr", np.nan) for r in train], dtype=float)
    handles, names = axes.get_legend_handles_labels()
    if np.isfinite(rates).any():
        twin = axes.twinx()
        handles += twin.plot(x, rates, color=MUTED, linewidth=0.9, linestyle=(0, (4, 2)))
        names.append("learning rate")
        tidy(twin)
        twin.grid(False)
        twin.set_ylim(bottom=0)
        twin.ticklabel_format(style="sci", scilimits=(0, 0), axis="y")
        twin.yaxis.get_offset_text().set(fontsize=8, color=MUTED)
    axes.legend(handles, names, **LEGEND)

    for axes in panels[1:]:
        for k, metric in enumerate(metrics):
            points = [(r["epoch"] - first + 1, r[metric]) for r in validation if metric in r]
            scale = 100 if metric in PERCENT else 1
            axes.plot([p[0] for p in points], [scale * p[1] for p in points], PALETTE[k], lw=1.8, marker="o", ms=3.5,
                      label=metric_name(metric))  # fmt: skip
        percent = all(m in PERCENT for m in metrics)
        label_axes(axes, "Epoch", "Validation, %" if percent else "Validation")
        axes.legend(**LEGEND)
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def fold_curves(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Training loss of several folds in one panel and the first validation metric they share in another.

    Args:
        logs: fold -> records as in `loss_curves`; a fold without a record of training or validation is left out.
    """
    train = {name: _latest(records, "train", ("epoch", "step")) for name, records in logs.items()}
    validation = {name: _latest(records, "val", ("epoch",)) for name, records in logs.items()}
    metric = next((m for m in CURVES if any(m in r for records in validation.values() for r in records)), None)
    if not any(train.values()) and not any(validation.values()):
        raise UserError("log: no record of kind train or val; there is nothing to draw")
    figure, panels = new_figure(9.6 if metric else 5.6, 3.7, 1, 2 if metric else 1)
    for k, name in enumerate(logs):
        style: dict[str, Any] = {"color": PALETTE[k % len(PALETTE)], "lw": 1.6, "label": legend_name(name)}
        first = min((r["epoch"] for r in [*train[name], *validation[name]]), default=0)
        losses = np.array([r["loss"] for r in train[name]], dtype=float)
        if len(losses):
            smooth = _smooth(losses)
            panels[0].plot(_epochs(train[name], first), losses if smooth is None else smooth, **style)
        points = [(r["epoch"] - first + 1, r[metric]) for r in validation[name] if metric in r] if metric else []
        if points:
            scale = 100 if metric in PERCENT else 1
            panels[1].plot([p[0] for p in points], [scale * p[1] for p in points], marker="o", ms=3.5, **style)
    label_axes(panels[0], "Epoch", "Training loss")
    if metric:
        label_axes(panels[1], "Epoch", f"Validation {metric_name(metric)}{', %' if metric in PERCENT else ''}")
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = dict(zip(*reversed(panels[-1].get_legend_handles_labels()), strict=True))
    handles |= dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=6, **LEGEND)
    return figure


def timeline(table: pd.DataFrame, title: str = "") -> Figure:
    """Affect over time from one row per window; a panel for each track.

    Args:
        table: columns `start_s` and `end_s`, then either `prob_<name>` columns, drawn as stacked areas above a strip
            of the most probable label, or other numeric columns, drawn as lines. A row of NaN leaves a gap, and so does
            a time that no row covers. With a column `track`, the `MAX_TRACKS` tracks with most rows are drawn, in order.
    """
    missing = {"start_s", "end_s"} - set(table.columns)
    if missing or table.empty:
        raise UserError(f"timeline: no {'rows' if table.empty else 'column ' + ', '.join(sorted(missing))}")
    probable = [column for column in table.columns if column.startswith("prob_")]
    columns = probable or [c for c in table.select_dtypes("number").columns if c not in NOT_AFFECT]
    if not columns:
        raise UserError("timeline: no prob_<name> and no numeric column; there is nothing to draw")
    names = [column.removeprefix("prob_") for column in columns]
    tracks = {"": table}
    if "track" in table:
        shown = sorted(table["track"].value_counts().index[:MAX_TRACKS])
        tracks = {f"Face {track}": table[table["track"] == track] for track in shown}
        if (left_out := table["track"].nunique() - len(shown)) > 0:
            title = f"{title} ({len(shown)} faces with most rows; {left_out} more are in the table)".strip()

    per_track, height = (2, (12, 1)) if probable else (1, (1,))
    figure, panels = new_figure(
        9.6, 1.7 + 2.0 * len(tracks), per_track * len(tracks), 1, title=title, heights=height * len(tracks)
    )
    for k, (track, rows) in enumerate(tracks.items()):
        axes = panels[per_track * k]
        runs = runs_of(rows)
        if probable:
            _draw_stack(axes, panels[2 * k + 1], runs, columns, names)
        else:
            time, values = _joined(runs, columns)
            for n, name in enumerate(names):
                color = PALETTE[n % len(PALETTE)]
                axes.plot(time, values[:, n], color=color, linewidth=1.8, label=legend_name(name))
        label_axes(axes, "", track or ("Probability" if probable else "Value"))
    first, last = float(table["start_s"].min()), float(table["end_s"].max())
    for axes in panels:
        axes.set_xlim(first, max(last, first + 1e-3))
        axes.tick_params(axis="x", labelbottom=axes is panels[-1])
    label_axes(panels[-1], "Time, s", "")
    handles, labels = panels[0].get_legend_handles_labels()
    # Top of the stack first, as the eye meets it.
    order = slice(None, None, -1 if probable else 1)
    figure.legend(handles[order], labels[order], loc="outside right upper", **LEGEND)
    return figure


def _draw_stack(
    axes: Axes, strip: Axes, runs: Sequence[pd.DataFrame], columns: Sequence[str], names: Sequence[str]
) -> None:
    """Stacked probabilities, and below them a strip in the colour of the most probable label."""
    time, values = _joined(runs, columns)
    top = np.cumsum(values, axis=1)
    bottom = top - values
    for k, name in enumerate(names):
        color = PALETTE[k % len(PALETTE)]
        axes.fill_between(time, bottom[:, k], top[:, k], color=color, alpha=0.85, linewidth=0, label=legend_name(name))
        bars = []
        for run in runs:
            inner, (start, centers, end) = run[list(columns)].to_numpy(float), _times(run)
            edges = np.concatenate([[start], (centers[:-1] + centers[1:]) / 2, [end]])
            mine = [i for i, row in enumerate(inner) if np.isfinite(row).all() and row.argmax() == k]
            bars += [(edges[i], edges[i + 1] - edges[i]) for i in mine]
        strip.broken_barh(bars, (0, 1), color=color, linewidth=0)
    axes.set(ylim=(0, 1))
    axes.grid(False)
    strip.set(ylim=(0, 1), yticks=[0.5], yticklabels=["top"])
    strip.tick_params(axis="y", length=0)
    strip.grid(False)
    strip.spines[:].set_visible(False)


def _times(run: pd.DataFrame) -> tuple[float, NDArray[np.float64], float]:
    """Where a run begins, the centres of its windows, and where it ends."""
    start, end = run["start_s"].to_numpy(float), run["end_s"].to_numpy(float)
    return float(start[0]), (start + end) / 2, max(float(end[-1]), float(start[0]) + 1e-3)  # a still lasts no time


def _joined(runs: Sequence[pd.DataFrame], columns: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times (N,) and values (N, K), with NaN between runs.

    Windows may overlap, so each value stands at its window's centre and the outermost reach to the run's ends.
    """
    times, values = [], []
    for run in runs:
        (start, centers, end), inner = _times(run), run[list(columns)].to_numpy(float)
        times.append(np.concatenate([[start], centers, [end, np.nan]]))
        values.append(np.concatenate([inner[:1], inner, inner[-1:], np.full((1, len(columns)), np.nan)]))
    return np.concatenate(times)[:-1], np.concatenate(values)[:-1]


def _latest(records: Sequence[Mapping[str, Any]], kind: str, key: Sequence[str]) -> list[Mapping[str, Any]]:
    """Records of a kind in order of `key`, the later of two with the same one."""
    unique = {tuple(r.get(k, 0) for k in key): r for r in records if r.get("kind") == kind and "epoch" in r}
    return [unique[k] for k in sorted(unique)]


def _epochs(train: Sequence[Mapping[str, Any]], first: int) -> NDArray[np.float64]:
    """Position of each record on the epoch axis; records of an epoch are evenly spaced, an unfinished one is shorter."""
    count: dict[int, int] = {}
    order = []
    for record in train:
        count[record["epoch"]] = count.get(record["epoch"], 0) + 1
        order.append(count[record["epoch"]])
    longest = max(count.values(), default=1)
    return np.array([r["epoch"] - first + i / longest for r, i in zip(train, order, strict=True)])


def _smooth(losses: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Centred running mean over about 1/25 of the records; None for a record too short to need it."""
    half = len(losses) // 50
    if half < 1:
        return None
    total = np.convolve(losses, np.ones(2 * half + 1), mode="same")
    return total / np.convolve(np.ones(len(losses)), np.ones(2 * half + 1), mode="same")
