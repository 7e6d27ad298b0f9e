"""What all figures share: the style, colours, axes, and writing a figure to a file.

Figures are made without pyplot, so there is no global state, no display, and no memory kept after use.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from svfap.errors import UserError
from svfap.files import write_atomically

F = TypeVar("F", bound=Callable[..., Any])

STYLE: dict[str, Any] = matplotlib.rc_params_from_file(
    str(files("svfap") / "view/svfap.mplstyle"), use_default_template=False
)
PALETTE: tuple[str, ...] = tuple(STYLE["axes.prop_cycle"].by_key()["color"])
INK, MUTED = STYLE["text.color"], STYLE["axes.labelcolor"]  # for text, and for secondary elements
BLUES = LinearSegmentedColormap.from_list("svfap_blues", ["#F7FAFC", "#9CC9E6", "#0072B2", "#003E66"])


def styled(function: F) -> F:
    """Decorator of every function that makes or writes a figure: matplotlib uses `svfap.mplstyle` within it."""
    decorated: F = matplotlib.rc_context(STYLE)(function)
    return decorated


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, *, title: str = "",
    heights: Sequence[float] | None = None, gap: float | None = None,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """A figure of `width` x `height` inches and its axes, row by row; called by functions that are `styled`.

    gap: space between the axes, as a fraction of their size; by default that of the style.
    """
    figure = Figure(figsize=(width, height))
    if gap is not None:
        figure.set_layout_engine("constrained", wspace=gap, hspace=gap)
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure, figure.subplots(rows, columns, squeeze=False, height_ratios=heights).ravel().tolist()


def panel_for_each(
    dimensions: Sequence[str], width: float, height: float, title: str = ""
) -> tuple[Figure, list[Axes]]:
    """A figure with one titled panel of `width` x `height` inches for each dimension, at most three in a row."""
    columns = min(len(dimensions), 3)
    rows = -(-len(dimensions) // columns)
    figure, panels = new_figure(width * columns, height * rows, rows, columns, title=title)
    for axes, name in zip(panels, dimensions, strict=False):
        axes.set_title(name, loc="left")
    for axes in panels[len(dimensions) :]:
        axes.set_visible(False)
    return figure, panels[: len(dimensions)]


def scatter(axes: Axes, x: NDArray[Any], y: NDArray[Any], number: int) -> None:
    """Points in the colour of a panel's number; more transparent the more there are, so that dense regions stay readable."""
    opacity = float(np.clip(60 / np.sqrt(len(x)) / 8, 0.05, 0.8))
    axes.scatter(x, y, s=16, color=PALETTE[number % len(PALETTE)], alpha=opacity, linewidths=0)


def hide_frame(axes: Axes) -> None:
    """Show only the content of the axes: no ticks, grid or border."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def legend_name(name: str) -> str:
    """A name for a legend, which would leave out one that begins with an underscore."""
    return f" {name}" if name.startswith("_") else name


def legend_below(figure: Figure, columns: int) -> None:
    """One legend for all axes, below them, with each label once."""
    found: dict[str, Any] = {}
    for axes in reversed(figure.axes):
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=columns)


def name_ticks(axes: Axes, names: Sequence[str], tilted: bool = False, angle: float = 30) -> None:
    """Names below the positions 0, 1, … of the x axis."""
    style: dict[str, Any] = {"rotation": angle, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(names)), names, **(style if tilted else {}))


@styled
def figure_bytes(figure: Figure, kind: str) -> bytes:
    """The figure as "png", "jpeg" (a quarter of the size if made of video frames), "pdf" or "svg"; PNGs are reproducible."""
    options: dict[str, Any] = {"png": {"metadata": {"Software": None}}, "jpeg": {"pil_kwargs": {"quality": 88}}}
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **options.get(kind, {}))
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write the figure atomically, in the format of the path's suffix (png, pdf, svg)."""
    kind = Path(path).suffix.removeprefix(".").lower()
    if kind not in ("png", "pdf", "svg"):
        raise UserError(f"{path}: figures are written as .png, .pdf or .svg; choose one of these")
    write_atomically(path, figure_bytes(figure, kind))
