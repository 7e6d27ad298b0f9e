"""Affect in a video over time, as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, islice

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svfap.errors import UserError
from svfap.predict.table import PROBABILITY, TIMES, by_face, value_columns, value_name
from svfap.predict.timeline import Timeline
from svfap.view.figures.base import PALETTE, legend_name, new_figure, styled

MAX_TRACKS = 8


def label_colors(number: int) -> list[str]:
    """Colours ("#rrggbb") of so many labels or dimensions, the same in figures, overlays and pages."""
    return list(islice(cycle(PALETTE), number))


@styled
def timeline(table: pd.DataFrame, title: str = "") -> Figure:
    """Affect over time from one row per window; a panel for each face. Of a single picture, bars.

    Args:
        table: columns `start_s` and `end_s`, then either `prob_<name>` columns, drawn as stacked areas above a strip
            of the most probable label, or other numeric columns, drawn as lines. Gaps (see `Timeline`) are left blank.
            With a column `track`, the `MAX_TRACKS` faces with most rows are drawn, in order.

    Raises:
        UserError: there are no rows, or these columns are missing.
    """
    if missing := sorted(set(TIMES) - set(table.columns)):
        raise UserError(f"timeline: no column {', '.join(missing)}")
    if table.empty:
        raise UserError("timeline: no rows")
    columns = value_columns(table)
    if not columns:
        raise UserError("timeline: no prob_<name> and no numeric column; there is nothing to draw")
    names = [value_name(column) for column in columns]
    probable = columns[0].startswith(PROBABILITY)
    tracks = {"": table}
    if "track" in table:
        faces = list(by_face(table.sort_values("track", kind="stable")))
        most = sorted(range(len(faces)), key=lambda k: -len(faces[k][1]))[:MAX_TRACKS]
        tracks = dict(faces[k] for k in sorted(most))
        if (left_out := len(faces) - len(tracks)) > 0:
            title = f"{title} ({len(tracks)} faces with most rows; {left_out} more are in the table)".strip()

    timelines = {name: Timeline.of_table(rows, columns) for name, rows in tracks.items()}
    if all(line.is_still for line in timelines.values()):
        return _bars(timelines, names, probable, title)
    per_track, height = (2, (12, 1)) if probable else (1, (1,))
    figure, panels = new_figure(
        9.6, 1.7 + 2.0 * len(tracks), per_track * len(tracks), 1, title=title, heights=height * len(tracks)
    )
    for k, (track, track_timeline) in enumerate(timelines.items()):
        axes = panels[per_track * k]
        if probable:
            _draw_stack(axes, panels[2 * k + 1], track_timeline, names)
        else:
            time, values = track_timeline.curve
            for name, color, column in zip(names, label_colors(len(names)), values.T, strict=True):
                axes.plot(time, column, color=color, label=legend_name(name))
        axes.set_ylabel(track or ("Probability" if probable else "Value"))
    first, last = float(table["start_s"].min()), float(table["end_s"].max())
    for axes in panels:
        axes.set_xlim(first, max(last, first + 1e-3))
        axes.tick_params(axis="x", labelbottom=axes is panels[-1])
    panels[-1].set_xlabel("Time, s")
    handles, labels = panels[0].get_legend_handles_labels()
    order = slice(None, None, -1 if probable else 1)  # the top of the stack first
    figure.legend(handles[order], labels[order], loc="outside right upper")
    return figure


def _bars(timelines: Mapping[str, Timeline], names: Sequence[str], probable: bool, title: str) -> Figure:
    """The values of the faces in one picture: a panel of bars for each."""
    height = 0.9 + (0.5 + 0.26 * len(names)) * len(timelines)
    figure, panels = new_figure(6.4, height, len(timelines), 1, title=title)
    values = np.concatenate([line.values for line in timelines.values()])
    for axes, (face, line) in zip(panels, timelines.items(), strict=True):
        axes.barh(range(len(names)), line.values[0], color=label_colors(len(names)))
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim((0, 1) if probable else (1.05 * min(values.min(), 0.0), 1.05 * max(values.max(), 0.0) or 1.0))
        axes.set_title(face, loc="left")
        axes.tick_params(axis="x", labelbottom=axes is panels[-1])
        axes.grid(False, axis="y")
    panels[-1].set_xlabel("Probability" if probable else "Value")
    return figure


def _draw_stack(axes: Axes, strip: Axes, timeline: Timeline, names: Sequence[str]) -> None:
    """Stacked probabilities, and below them a strip in the colour of the most probable label."""
    time, values = timeline.curve
    top = np.cumsum(values, axis=1)
    bottom = top - values
    bars = np.column_stack([timeline.edges[:, 0], timeline.durations])
    for k, (name, color) in enumerate(zip(names, label_colors(len(names)), strict=True)):
        axes.fill_between(time, bottom[:, k], top[:, k], color=color, alpha=0.85, linewidth=0, label=legend_name(name))
        chosen = timeline.values.argmax(axis=1) == k
        strip.broken_barh(bars[chosen].tolist(), (0, 1), color=color, linewidth=0)
    axes.set(ylim=(0, 1))
    axes.grid(False)
    strip.set(ylim=(0, 1), yticks=[0.5], yticklabels=["top"])
    strip.tick_params(axis="y", length=0)
    strip.grid(False)
    strip.spines[:].set_visible(False)
