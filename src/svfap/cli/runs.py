"""`svfap runs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from svfap.console import counted, say, show
from svfap.errors import UserError
from svfap.reports.config import RunsConfig

if TYPE_CHECKING:
    import pandas as pd

WHERE_THERE_IS_ROOM = ("updated", "time", "loss", "data", "kind")  # the first of them are left out first
SETTINGS, SETTINGS_CHARACTERS = "settings that differ", 30  # more of them take several lines


def run(config: RunsConfig, folder: Path) -> None:
    """List the runs, and say why some have failed or cannot be read."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    from rich.console import Console

    from svfap.reports.listing import list_runs, runs_in_words
    from svfap.view.tables import to_terminal

    table = list_runs(folder, config)
    title, shown, left_out = f"{counted(len(table), 'run')} in {folder}", runs_in_words(table), []
    for name in WHERE_THERE_IS_ROOM:
        if name in shown and _width(shown) > Console().width:
            shown = shown.drop(columns=name)
            left_out.append(name)
    show(to_terminal(shown, title))
    if left_out:
        say(f"no room for {', '.join(left_out)}: a wider terminal, or --out, has them")
    for row in table.to_dict("records"):
        if row["reason"]:
            say(f"{row['run']} {'has failed' if row['state'] == 'failed' else 'cannot be read'}: {row['reason']}")
    if config.out is not None:
        say(f"table: {config.out}")


def _width(shown: pd.DataFrame) -> int:
    """Characters of the table in which no other cell is cut."""
    from svfap.view.tables import terminal_width

    if SETTINGS in shown:
        shown = shown.assign(**{SETTINGS: shown[SETTINGS].str.slice(stop=SETTINGS_CHARACTERS)})
    return terminal_width(shown)
