"""`svfap export`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from svfap.console import counted, say, show
from svfap.export.config import ExportConfig
from svfap.files import check_new
from svfap.settings import require_weights

if TYPE_CHECKING:
    from svfap.export.export import Exported


def run(config: ExportConfig, model: str) -> None:
    """Export, and show how the file compares with the model."""
    require_weights(model)  # before torch is imported
    check_new(config.out, config.overwrite)
    from svfap.export.export import export_model

    done = export_model(model, config)
    show(_table(done))
    say(f"written: {done.out}")


def _table(done: Exported) -> Table:
    faces = "of synthetic faces" if done.synthetic else "of the videos"
    table = Table(
        title=f"{counted(done.num_clips, 'clip')} {faces}: differences to torch fp32, whose outputs spread by "
        f"{done.measured[0].spread:.1e} between clips; processor time of a clip",
        title_justify="left",
    )
    for column in ("", "largest error", "mean error", "top-1 kept", "ms", "speed", "MB"):
        table.add_column(column, justify="right" if column else "left")
    for each in done.measured:
        kept = "" if each.top1_kept is None else f"{each.top1_kept:.1%}"
        size = "" if each.megabytes is None else f"{each.megabytes:.1f}"
        errors = (f"{each.max_error:.1e}", f"{each.mean_error:.1e}")
        table.add_row(each.name, *errors, kept, f"{each.ms_per_clip:.1f}", f"{each.speed:.2f}×", size)
    return table
