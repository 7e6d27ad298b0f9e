"""`svfap table`."""

from __future__ import annotations

from pathlib import Path

from svfap.console import say
from svfap.predict.config import TableConfig


def run(config: TableConfig, table: Path) -> None:
    """Write the files, and say which."""
    from svfap.predict.finish import finish_table

    for file in finish_table(table, config):
        say(f"written: {file}")
