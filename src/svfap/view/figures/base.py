"""What all figures share: colours, type, axes, and how a figure becomes a file.

Figures are made without pyplot, so there is no global state, no display, and no memory kept after use.
Colours are the Okabe-Ito set, told apart by colour-blind readers, lengthened with four of Paul Tol's.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from svfap.errors import UserError
from svfap.files import write_atomically

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#5F5F5F",
           "#332288", "#999933", "#882255", "#44AA99")  # fmt: skip
INK, MUTED, GRID = "#1F2933", "#6B7785", "#E3E8EE"
BLUES = LinearSegmentedColormap.from_list("svfap_blues", ["#F7FAFC", "#9CC9E6", "#0072B2", "#003E66"])
DPI = 160
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": INK}


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, *, title: str = "",
    heights: Sequence[float] | None = None, gap: float = 0.04,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """A figure of `width` x `height` inches and its tidied axes, row by row."""
    layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05, wspace=gap, hspace=gap)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout=layout)
    panels = figure.subplots(rows, columns, squeeze=False, height_ratios=heights).ravel().tolist()
    for axes in panels:
        tidy(axes)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return figure, panels


def tidy(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.grid(color=GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color("#C3CBD4")
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=9, length=3)


def label_axes(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=9.5, color=MUTED)
    axes.set_ylabel(y, fontsize=9.5, color=MUTED)


def legend_name(name: str) -> str:
    """A name for a legend, which would leave out one that begins with an underscore."""
    return f" {name}" if name.startswith("_") else name


def _take_literally(figure: Figure) -> None:
    """Names are no formulas: a `$` in one is a `$`."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG at `DPI`, the same bytes each time."""
    _take_literally(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def jpeg_bytes(figure: Figure) -> bytes:
    """The figure as a JPEG at `DPI`, a quarter of the PNG where it is made of frames."""
    _take_literally(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", dpi=DPI, facecolor="white", pil_kwargs={"quality": 88})
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write the figure atomically, in the format of the path's suffix (png, pdf, svg)."""
    path = Path(path)
    kind = path.suffix.removeprefix(".").lower()
    if kind == "png":
        write_atomically(path, png_bytes(figure))
    elif kind in ("pdf", "svg"):
        _take_literally(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind)
        write_atomically(path, buffer.getvalue())
    else:
        raise UserError(f"{path}: figures are written as .png, .pdf or .svg; choose one of these")
