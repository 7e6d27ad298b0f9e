"""Training curves of a run, and of several folds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from svfap.errors import UserError
from svfap.metric_table import (
    MEAN_SCORE,
    is_percent,
    main_metric,
    metric_heading,
    metric_keys,
    metric_name,
    metric_scale,
)
from svfap.view.figures.base import MUTED, PALETTE, legend_below, legend_name, new_figure, styled

CURVES = metric_keys(tables=True, higher_is_better=True)  # validation metrics that are drawn
PROBED = ("uar", "ccc", "ccc_within_people")  # scores of probes that are drawn

Records = Sequence[Mapping[str, Any]]


class Curves:
    """A run's log on an axis of epochs, where the first epoch ends at 1; logs of version 0.2 count epochs from 0."""

    def __init__(self, records: Records) -> None:
        self.train = _latest(records, "train", ("epoch", "step"))
        self.validation = _latest(records, "val", ("epoch",))
        self.first = min((r["epoch"] for r in [*self.train, *self.validation]), default=0)
        self.losses = np.array([r["loss"] for r in self.train], dtype=float)  # NaN where a step had none

    def train_epochs(self) -> NDArray[np.float64]:
        """Position of each training record. Records are evenly spaced, so an unfinished epoch ends early."""
        epochs = pd.Series([record["epoch"] for record in self.train], dtype=int)
        numbers = epochs.groupby(epochs).cumcount() + 1
        return np.asarray(epochs - self.first + numbers / numbers.max())

    def metric(self, name: str) -> tuple[list[float], list[float]]:
        """Epochs and values of a validation metric, as printed; empty if it was not logged."""
        records = [r for r in self.validation if r.get(name) is not None]
        return [r["epoch"] - self.first + 1 for r in records], [metric_scale(name) * r[name] for r in records]

    def smooth(self) -> NDArray[np.float64] | None:
        """Centred moving average of the losses over about 1/25 of the records; None for a log too short to need it."""
        half = len(self.losses) // 50
        if half < 1:
            return None
        return pd.Series(self.losses).rolling(2 * half + 1, center=True, min_periods=1).mean().to_numpy()


def _main_of_heads(keys: Iterable[str]) -> list[str]:
    """The keys of the main metric of each of several heads: `mood/uar`, of frames where there are some: `mood/frame_uar`."""
    found: dict[str, str] = {}
    for key in keys:
        head, slash, metric = key.partition("/")
        is_main = metric.removeprefix("frame_") in map(main_metric, ("classification", "regression"))
        if slash and is_main and (metric.startswith("frame_") or head not in found):
            found[head] = key
    return list(found.values())


@styled
def loss_curves(records: Records, title: str = "") -> Figure:
    """Training loss and learning rate and, in a second panel, the validation metrics of `CURVES` over epochs.

    records: a run's log: `{"kind": "train", "epoch", "step", "loss", "lr"}` and `{"kind": "val", "epoch", <metric>...}`. The
    loss is None of a step without one. If a step was logged twice, the later record counts. Raises `UserError` without a record
    of training or validation.
    """
    log = Curves(records)
    _require_records([log])
    logged = dict.fromkeys(key for record in log.validation for key in record)
    metrics = [m for m in CURVES if m in logged] or [
        m for m in logged if m == MEAN_SCORE or m in _main_of_heads(logged)
    ]
    figure, (axes, *more) = new_figure(9.6 if metrics else 5.6, 3.5, 1, 2 if metrics else 1, title=title)
    x, losses, smooth = log.train_epochs(), log.losses, log.smooth()
    if smooth is not None:
        axes.plot(x, losses, color=PALETTE[0], linewidth=0.8, alpha=0.25)
    marker = "o" if len(losses) <= 12 else None
    axes.plot(x, losses if smooth is None else smooth, PALETTE[0], marker=marker, label="training")
    if any("loss" in r for r in log.validation):
        axes.plot(*log.metric("loss"), PALETTE[5], marker="o", label="validation")
    axes.set(xlabel="Epoch", ylabel="Loss")
    rates = np.array([r.get("lr", np.nan) for r in log.train], dtype=float)
    handles, names = axes.get_legend_handles_labels()
    if np.isfinite(rates).any():
        twin = axes.twinx()
        handles += twin.plot(x, rates, color=MUTED, linewidth=0.9, linestyle=(0, (4, 2)))
        names.append("learning rate")
        twin.grid(False)
        twin.set_ylim(bottom=0)
        twin.set_ylabel("Learning rate", color=MUTED)
        twin.ticklabel_format(style="sci", scilimits=(0, 0), axis="y")
        twin.yaxis.get_offset_text().set(fontsize=8, color=MUTED)
    # Above the plot, where it hides none of the lines of two scales.
    axes.legend(handles, names, loc="lower left", bbox_to_anchor=(0, 1.01), ncols=len(names), borderaxespad=0)
    for axes in more:
        for k, metric in enumerate(metrics):
            axes.plot(*log.metric(metric), PALETTE[k], marker="o", label=metric_name(metric))
        axes.set(xlabel="Epoch", ylabel="Validation, %" if all(map(is_percent, metrics)) else "Validation")
        axes.legend()
    for axes in (figure.axes[0], *more):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


@styled
def probe_curves(records: Records, title: str = "") -> Figure:
    """Scores of the frozen encoder's readers over epochs, a panel per score; of pixels a dashed line, of chance a dotted one.

    records: a run's log: `{"kind": "probe", "epoch", "<reader>_<features>_<score>"...}`, where epoch 0 is the untrained encoder.
    If an epoch was logged twice, the later record counts. Raises `UserError` without a record of a probe.
    """
    probes = _latest(records, "probe", ("epoch",))
    if not probes:
        raise UserError("the log holds no record of a probe")
    names = dict.fromkeys(name for record in probes for name in record if name.count("_") >= 2)
    scores = [key for key in PROBED if any(name.split("_", 2)[2] == key for name in names)]
    figure, panels = new_figure(4.8 * len(scores), 3.7, 1, len(scores), title=title)
    for axes, key in zip(panels, scores, strict=True):
        for number, name in enumerate(name for name in names if name.split("_", 2)[2] == key):
            reader, features, _ = name.split("_", 2)
            points = [(r["epoch"], metric_scale(key) * r[name]) for r in probes if name in r]
            color, label = PALETTE[number % len(PALETTE)], f"{reader}, {features}"
            if features == "pixels":
                axes.axhline(points[0][1], color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2, label=label)
            elif reader == "chance":
                axes.axhline(points[0][1], color=MUTED, linestyle=(0, (1, 2)), linewidth=1.2, label=reader)
            else:
                axes.plot(*zip(*points, strict=True), color=color, marker="o", label=label)
        axes.set(xlabel="Epoch", ylabel=metric_heading(key))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(figure, 3)
    return figure


@styled
def fold_curves(logs: Mapping[str, Records]) -> Figure:
    """Training loss of several folds in one panel and the first metric of `CURVES` that they log in another.

    logs: name of the fold -> its log, as for `loss_curves`. Raises `UserError` without a record of training or validation.
    """
    curves = {name: Curves(records) for name, records in logs.items()}
    _require_records(list(curves.values()))
    validation = [record for log in curves.values() for record in log.validation]
    metric = next((m for m in CURVES if any(m in record for record in validation)), None)
    figure, panels = new_figure(9.6 if metric else 5.6, 3.7, 1, 2 if metric else 1)
    for k, (name, log) in enumerate(curves.items()):
        style: dict[str, Any] = {"color": PALETTE[k % len(PALETTE)], "label": legend_name(name)}
        if log.train:
            smooth = log.smooth()
            panels[0].plot(log.train_epochs(), log.losses if smooth is None else smooth, **style)
        if metric and log.metric(metric)[0]:
            panels[1].plot(*log.metric(metric), marker="o", **style)
    panels[0].set(xlabel="Epoch", ylabel="Training loss")
    if metric:
        panels[1].set(xlabel="Epoch", ylabel=f"Validation {metric_heading(metric)}")
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(figure, 6)
    return figure


def _require_records(logs: Sequence[Curves]) -> None:
    if not any(log.train or log.validation for log in logs):
        raise UserError("log: no record of kind train or val; there is nothing to draw")


def _latest(records: Records, kind: str, key: Sequence[str]) -> list[Mapping[str, Any]]:
    """The records of a kind, sorted by `key`; of two with the same key the later one."""
    unique = {tuple(r.get(k, 0) for k in key): r for r in records if r.get("kind") == kind and "epoch" in r}
    return [unique[k] for k in sorted(unique)]
