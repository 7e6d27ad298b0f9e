"""Training curves of a run, and of several folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from svfap.errors import UserError
from svfap.metric_table import is_percent, metric_heading, metric_keys, metric_name, metric_scale
from svfap.view.figures.base import MUTED, PALETTE, legend_name, new_figure, styled

CURVES = metric_keys(tables=True, higher_is_better=True)  # validation metrics that are drawn


@styled
def loss_curves(records: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Training loss and learning rate and, in a second panel, the validation metrics over epochs.

    Args:
        records: a run's log: `{"kind": "train", "epoch", "step", "loss", "lr"}` and `{"kind": "val", "epoch",
            <metric>...}`. Where a resumed run wrote a step twice, the later record counts. The metrics of `CURVES`
            are drawn.

    Raises:
        UserError: no record of training or validation.
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
    axes.plot(x, losses if smooth is None else smooth, PALETTE[0], marker=marker, label="training loss")
    with_loss = [r for r in validation if "loss" in r]
    if with_loss:
        ends = [r["epoch"] - first + 1 for r in with_loss]
        axes.plot(ends, [r["loss"] for r in with_loss], PALETTE[5], marker="o", label="validation loss")
    axes.set(xlabel="Epoch", ylabel="Loss")
    rates = np.array([r.get("lr", np.nan) for r in train], dtype=float)
    handles, names = axes.get_legend_handles_labels()
    if np.isfinite(rates).any():
        twin = axes.twinx()
        handles += twin.plot(x, rates, color=MUTED, linewidth=0.9, linestyle=(0, (4, 2)))
        names.append("learning rate")
        twin.grid(False)
        twin.set_ylim(bottom=0)
        twin.ticklabel_format(style="sci", scilimits=(0, 0), axis="y")
        twin.yaxis.get_offset_text().set(fontsize=8, color=MUTED)
    axes.legend(handles, names)

    for axes in panels[1:]:
        for k, metric in enumerate(metrics):
            points = [(r["epoch"] - first + 1, r[metric]) for r in validation if metric in r]
            values = [metric_scale(metric) * p[1] for p in points]
            axes.plot([p[0] for p in points], values, PALETTE[k], marker="o", label=metric_name(metric))
        axes.set(xlabel="Epoch", ylabel="Validation, %" if all(map(is_percent, metrics)) else "Validation")
        axes.legend()
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@styled
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
        style: dict[str, Any] = {"color": PALETTE[k % len(PALETTE)], "label": legend_name(name)}
        first = min((r["epoch"] for r in [*train[name], *validation[name]]), default=0)
        losses = np.array([r["loss"] for r in train[name]], dtype=float)
        if len(losses):
            smooth = _smooth(losses)
            panels[0].plot(_epochs(train[name], first), losses if smooth is None else smooth, **style)
        if metric and (scored := [r for r in validation[name] if metric in r]):
            epochs, values = (
                [r["epoch"] - first + 1 for r in scored],
                [metric_scale(metric) * r[metric] for r in scored],
            )
            panels[1].plot(epochs, values, marker="o", **style)
    panels[0].set(xlabel="Epoch", ylabel="Training loss")
    if metric:
        panels[1].set(xlabel="Epoch", ylabel=f"Validation {metric_heading(metric)}")
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = dict(zip(*reversed(panels[-1].get_legend_handles_labels()), strict=True))
    handles |= dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=6)
    return figure


def _latest(records: Sequence[Mapping[str, Any]], kind: str, key: Sequence[str]) -> list[Mapping[str, Any]]:
    """The records of a kind, sorted by `key`; of two with the same key the later one."""
    unique = {tuple(r.get(k, 0) for k in key): r for r in records if r.get("kind") == kind and "epoch" in r}
    return [unique[k] for k in sorted(unique)]


def _epochs(train: Sequence[Mapping[str, Any]], first: int) -> NDArray[np.float64]:
    """Position of each record on the epoch axis. Records are evenly spaced, so an unfinished epoch ends early."""
    count: dict[int, int] = {}
    order = []
    for record in train:
        count[record["epoch"]] = count.get(record["epoch"], 0) + 1
        order.append(count[record["epoch"]])
    longest = max(count.values(), default=1)
    return np.array([r["epoch"] - first + i / longest for r, i in zip(train, order, strict=True)])


def _smooth(losses: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Centred moving average over about 1/25 of the records; None for a log too short to need it."""
    half = len(losses) // 50
    if half < 1:
        return None
    total = np.convolve(losses, np.ones(2 * half + 1), mode="same")
    return total / np.convolve(np.ones(len(losses)), np.ones(2 * half + 1), mode="same")
