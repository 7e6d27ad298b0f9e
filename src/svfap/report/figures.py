"""The figures of runs and predictions, each a function from numbers to a matplotlib `Figure`.

Figures are made without pyplot, so there is no global state, no display, and no memory kept after use.
Colours are the Okabe-Ito set, told apart by colour-blind readers, lengthened with four of Paul Tol's.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from svfap.errors import UserError
from svfap.evaluate.metrics import regression_metrics
from svfap.files import write_atomically

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#5F5F5F",
           "#332288", "#999933", "#882255", "#44AA99")  # fmt: skip
INK, MUTED, GRID = "#1F2933", "#6B7785", "#E3E8EE"
BLUES = LinearSegmentedColormap.from_list("svfap_blues", ["#F7FAFC", "#9CC9E6", "#0072B2", "#003E66"])
DPI = 160

METRIC_NAMES = {
    "uar": "UAR", "war": "WAR", "weighted_f1": "Weighted F1", "micro_f1": "Micro F1", "macro_f1": "Macro F1", "f1": "F1",
    "ccc": "CCC", "pcc": "PCC", "accuracy": "1 − MAE", "mae": "MAE", "rmse": "RMSE", "loss": "Loss",
}  # fmt: skip
PERCENT = {"uar", "war", "weighted_f1", "micro_f1", "macro_f1"}  # written as percentages in the field


def metric_name(metric: str) -> str:
    """How a metric is written for readers: `uar` -> `UAR`."""
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def confusion_matrix(confusion: ArrayLike, label_names: Sequence[str], title: str = "") -> Figure:
    """Confusion matrix (K, K) of counts, rows = truth: cells coloured and annotated by their share of the row."""
    counts = np.asarray(confusion)
    num_classes = len(label_names)
    if counts.shape != (num_classes, num_classes):
        raise UserError(f"confusion: shape {counts.shape} does not fit {num_classes} label names")
    totals = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(totals, 1)
    side = max(4.2, 0.72 * num_classes + 1.6)
    figure, (axes,) = _figure(side + 0.4, side, title=title)
    axes.imshow(share, cmap=BLUES, vmin=0, vmax=1)
    size = 9 if num_classes <= 8 else 7.5
    for row, column in np.ndindex(counts.shape):
        ink = "white" if share[row, column] > 0.45 else INK
        text = f"{share[row, column]:.0%}\n" if totals[row] else ""
        axes.text(column, row - 0.13, text.strip(), ha="center", va="center", color=ink, fontsize=size + 1)
        axes.text(
            column, row + 0.22, f"{counts[row, column]:,}", ha="center", va="center", color=ink, fontsize=size - 2
        )
    tilt: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(num_classes), label_names, **(tilt if max(map(len, label_names)) > 6 else {}))
    axes.set_yticks(range(num_classes), label_names)
    # White lines between the cells.
    axes.set_xticks(np.arange(num_classes - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(num_classes - 1) + 0.5, minor=True)
    axes.grid(False)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    _label(axes, "Predicted", "True")
    return figure


def regression_scatter(
    targets: ArrayLike, predictions: ArrayLike, dimensions: Sequence[str], title: str = ""
) -> Figure:
    """Predictions over targets, both (N, K): one panel per dimension with the identity line, PCC, CCC and MAE."""
    scores = regression_metrics(targets, predictions, dimensions)["per_dimension"]
    truth, predicted = np.asarray(targets), np.asarray(predictions)
    columns = min(len(dimensions), 3)
    rows = -(-len(dimensions) // columns)
    figure, panels = _figure(3.5 * columns, 3.7 * rows, rows, columns, title=title)
    opacity = float(np.clip(60 / np.sqrt(len(truth)) / 8, 0.05, 0.8))
    for k, (axes, name) in enumerate(zip(panels, dimensions, strict=False)):
        low, high = (f(np.concatenate([truth[:, k], predicted[:, k]])) for f in (np.min, np.max))
        margin = 0.05 * (high - low) or 0.5
        limits = (low - margin, high + margin)
        axes.plot(limits, limits, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.scatter(truth[:, k], predicted[:, k], s=16, color=PALETTE[k % len(PALETTE)], alpha=opacity, linewidths=0)
        axes.set(xlim=limits, ylim=limits, aspect="equal")
        axes.set_title(name, fontsize=11, color=INK, loc="left")
        text = "\n".join(f"{metric_name(m)} {scores[name][m]:.3f}" for m in ("ccc", "pcc", "mae"))
        box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 2}
        axes.text(0.04, 0.96, text, transform=axes.transAxes, va="top", fontsize=8.5, color=INK, bbox=box)
        _label(axes, "Target", "Prediction" if k % columns == 0 else "")
    for axes in panels[len(dimensions) :]:
        axes.set_visible(False)
    return figure


def loss_curves(records: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Training loss with the learning rate as a thin line and, beside it, the validation metrics over epochs.

    Args:
        records: a run's log; `{"kind": "train", "epoch", "step", "loss", "lr"}` and `{"kind": "val", "epoch",
            <metric>...}`. Where a resumed run wrote a step twice, the later record counts. Of the metrics those in
            [-1, 1] that `METRIC_NAMES` knows are drawn.
    """
    train = _latest(records, "train", ("epoch", "step"))
    validation = _latest(records, "val", ("epoch",))
    metrics = [m for m in ("uar", "war", "ccc", "pcc", "accuracy") if any(m in r for r in validation)]
    if not train and not validation:
        raise UserError("log: no record of kind train or val; there is nothing to draw")
    figure, panels = _figure(9.6 if metrics else 5.6, 3.5, 1, 2 if metrics else 1, title=title)

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
    _label(axes, "Epoch", "Loss")
    rates = np.array([r.get("lr", np.nan) for r in train], dtype=float)
    handles, names = axes.get_legend_handles_labels()
    if np.isfinite(rates).any():
        twin = axes.twinx()
        handles += twin.plot(x, rates, color=MUTED, linewidth=0.9, linestyle=(0, (4, 2)))
        names.append("learning rate")
        _tidy(twin)
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
        _label(axes, "Epoch", "Validation, %" if percent else "Validation")
        axes.legend(**LEGEND)
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def comparison_bars(results: Mapping[str, Mapping[str, float]], metrics: Sequence[str], title: str = "") -> Figure:
    """One group of bars per metric and one bar per run, with its value; percentages where all metrics are such.

    Args:
        results: run name -> metric -> value. A metric that a run lacks leaves a gap.
        metrics: the groups, in order.
    """
    percent = all(metric in PERCENT for metric in metrics)
    scale = 100 if percent else 1
    width = 0.8 / max(len(results), 1)
    figure, (axes,) = _figure(max(4.8, 1.2 + len(metrics) * (0.5 + 0.62 * len(results))), 3.8, title=title)
    for i, (name, values) in enumerate(results.items()):
        drawn = [(g, scale * values[metric]) for g, metric in enumerate(metrics) if metric in values]
        position = [g + (i - (len(results) - 1) / 2) * width for g, _ in drawn]
        heights = [height for _, height in drawn]
        bars = axes.bar(position, heights, width * 0.92, color=PALETTE[i % len(PALETTE)], label=name, zorder=2)
        axes.bar_label(bars, fmt="%.1f" if percent else "%.3f", padding=2, fontsize=8.5, color=INK)
    axes.set_xticks(range(len(metrics)), [metric_name(metric) for metric in metrics])
    axes.tick_params(axis="x", length=0, labelsize=10)
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.12)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    _label(axes, "", "%" if percent else "")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, **LEGEND)
    return figure


def timeline(table: pd.DataFrame, title: str = "") -> Figure:
    """Affect over time from one row per window.

    Args:
        table: columns `start_s` and `end_s`, then either `prob_<name>` columns, drawn as stacked areas above a strip
            of the most probable label, or other numeric columns, drawn as lines. A row of NaN leaves a gap.
    """
    missing = {"start_s", "end_s"} - set(table.columns)
    if missing or table.empty:
        raise UserError(f"timeline: no {'rows' if table.empty else 'column ' + ', '.join(sorted(missing))}")
    table = table.sort_values("start_s")
    start, end = table["start_s"].to_numpy(float), table["end_s"].to_numpy(float)
    # Windows may overlap, so each value stands at its window's centre and the outermost reach to the video's ends.
    time = np.concatenate([start[:1], (start + end) / 2, end[-1:]])
    probable = [column for column in table.columns if column.startswith("prob_")]
    numeric = [c for c in table.select_dtypes("number").columns if c not in ("start_s", "end_s")]
    columns = probable or numeric
    if not columns:
        raise UserError("timeline: no prob_<name> and no numeric column; there is nothing to draw")
    values = table[columns].to_numpy(float)
    values = np.concatenate([values[:1], values, values[-1:]])
    names = [column.removeprefix("prob_") for column in columns]
    colors = [PALETTE[k % len(PALETTE)] for k in range(len(columns))]

    figure, panels = _figure(9.6, 3.7, 2 if probable else 1, 1, title=title, heights=(12, 1) if probable else None)
    axes = panels[0]
    if probable:
        top = np.cumsum(values, axis=1)
        bottom = top - values
        for k, name in enumerate(names):
            axes.fill_between(time, bottom[:, k], top[:, k], color=colors[k], alpha=0.85, linewidth=0, label=name)
        axes.set(ylim=(0, 1))
        axes.grid(False)
        _label(axes, "", "Probability")
        strip = panels[1]
        edges = np.concatenate([start[:1], (time[1:-2] + time[2:-1]) / 2, end[-1:]])
        for k in range(len(names)):
            inner = values[1:-1]
            mine = [i for i, row in enumerate(inner) if np.isfinite(row).all() and row.argmax() == k]
            strip.broken_barh([(edges[i], edges[i + 1] - edges[i]) for i in mine], (0, 1), color=colors[k], linewidth=0)
        strip.set(ylim=(0, 1), yticks=[0.5], yticklabels=["top"])
        strip.tick_params(axis="y", length=0)
        strip.grid(False)
        strip.spines[:].set_visible(False)
        axes.tick_params(axis="x", labelbottom=False)
    else:
        for k, name in enumerate(names):
            axes.plot(time, values[:, k], color=colors[k], linewidth=1.8, label=name)
        _label(axes, "", "Value")
    for axes in panels:
        axes.set_xlim(time[0], max(time[-1], time[0] + 1e-3))
    _label(panels[-1], "Time, s", "")
    handles, labels = panels[0].get_legend_handles_labels()
    # Top of the stack first, as the eye meets it.
    order = slice(None, None, -1 if probable else 1)
    figure.legend(handles[order], labels[order], loc="outside right upper", **LEGEND)
    return figure


def reconstruction_grid(
    original: NDArray[np.uint8],
    masked: NDArray[np.uint8],
    reconstruction: NDArray[np.uint8],
    titles: Sequence[str] = ("Original", "Masked", "Reconstructed"),
    num_columns: int = 8,
) -> Figure:
    """Three labelled rows of frames, each clip uint8 (T, H, W, 3); `num_columns` frames evenly spaced in time."""
    clips = (original, masked, reconstruction)
    for name, clip in zip(titles, clips, strict=True):
        _check_clip(clip, name)
        if clip.shape != original.shape:
            raise UserError(f"{name}: shape {clip.shape} differs from the original's {original.shape}")
    num_frames, height, width = original.shape[:3]
    picked = np.unique(np.linspace(0, num_frames - 1, min(num_columns, num_frames)).round().astype(int))
    figure, panels = _figure(1.3 * len(picked) + 0.4, 3 * 1.3 * height / width + 0.35, 3, len(picked), gap=0.02)
    for row, (name, clip) in enumerate(zip(titles, clips, strict=True)):
        for column, index in enumerate(picked):
            axes = panels[row * len(picked) + column]
            _picture(axes, clip[index])
            if row == 0:
                axes.set_title(f"frame {index + 1}", fontsize=8, color=MUTED, pad=3)
            if column == 0:
                axes.set_ylabel(name, fontsize=10, color=INK)
    return figure


def clip_sheet(clips: Sequence[NDArray[np.uint8]], titles: Sequence[str], num_columns: int = 6) -> Figure:
    """A grid of thumbnails: the middle frame of each clip, uint8 (T, H, W, 3), under its title."""
    if not clips or len(clips) != len(titles):
        raise UserError(f"clips: {len(clips)} clips for {len(titles)} titles; give one title a clip")
    for clip, name in zip(clips, titles, strict=True):
        _check_clip(clip, name)
    columns = min(num_columns, len(clips))
    rows = -(-len(clips) // columns)
    figure, panels = _figure(1.6 * columns, 1.85 * rows, rows, columns, gap=0.03)
    for axes, clip, name in zip(panels, clips, titles, strict=False):
        _picture(axes, clip[len(clip) // 2])
        axes.set_title(name, fontsize=8.5, color=INK, pad=3)
    for axes in panels[len(clips) :]:
        axes.set_visible(False)
    return figure


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG at `DPI`, the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write the figure atomically, in the format of the path's suffix (png, pdf, svg)."""
    path = Path(path)
    kind = path.suffix.removeprefix(".").lower()
    if kind == "png":
        write_atomically(path, png_bytes(figure))
    elif kind in ("pdf", "svg"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind)
        write_atomically(path, buffer.getvalue())
    else:
        raise UserError(f"{path}: figures are written as .png, .pdf or .svg; choose one of these")


LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": INK}


def _figure(
    width: float, height: float, rows: int = 1, columns: int = 1, *, title: str = "",
    heights: Sequence[float] | None = None, gap: float = 0.04,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """A figure of `width` x `height` inches and its tidied axes, row by row."""
    layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05, wspace=gap, hspace=gap)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout=layout)
    panels = figure.subplots(rows, columns, squeeze=False, height_ratios=heights).ravel().tolist()
    for axes in panels:
        _tidy(axes)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return figure, panels


def _tidy(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.grid(color=GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color("#C3CBD4")
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=9, length=3)


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=9.5, color=MUTED)
    axes.set_ylabel(y, fontsize=9.5, color=MUTED)


def _picture(axes: Axes, frame: NDArray[np.uint8]) -> None:
    axes.imshow(frame, interpolation="none")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _check_clip(clip: NDArray[np.uint8], name: str) -> None:
    if clip.ndim != 4 or clip.shape[-1] != 3 or clip.dtype != np.uint8 or not clip.size:
        raise UserError(f"{name}: a clip must be uint8 (T, H, W, 3), not {clip.dtype} {clip.shape}")


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
