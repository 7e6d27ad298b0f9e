"""Affect in a video over time, as a figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from svfap.errors import UserError
from svfap.predict.timeline import runs_of
from svfap.view.figures.base import PALETTE, legend_name, new_figure, styled

NOT_AFFECT = ("start_s", "end_s", "track", "box_x", "box_y", "box_w", "box_h", "confidence")


MAX_TRACKS = 8


@styled
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
                axes.plot(time, values[:, n], color=color, label=legend_name(name))
        axes.set_ylabel(track or ("Probability" if probable else "Value"))
    first, last = float(table["start_s"].min()), float(table["end_s"].max())
    for axes in panels:
        axes.set_xlim(first, max(last, first + 1e-3))
        axes.tick_params(axis="x", labelbottom=axes is panels[-1])
    panels[-1].set_xlabel("Time, s")
    handles, labels = panels[0].get_legend_handles_labels()
    # Top of the stack first, as the eye meets it.
    order = slice(None, None, -1 if probable else 1)
    figure.legend(handles[order], labels[order], loc="outside right upper")
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
