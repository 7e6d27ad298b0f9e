"""`svfap bench`."""

from __future__ import annotations

import time

from svfap.bench.config import JSON_FILE, MARKDOWN_FILE, BenchConfig
from svfap.console import say, show
from svfap.settings import require_weights


def run(config: BenchConfig) -> None:
    """Measure, and show the tables, who waits for whom, and the commands that follow; those so far after Ctrl-C."""
    began = time.monotonic()
    config.check_files()
    if config.model is not None:
        require_weights(config.model)  # before torch is imported
    from svfap.bench.bench import bench_machine
    from svfap.bench.report import lines_of, machine_lines, tables_of
    from svfap.view.tables import to_terminal

    done = bench_machine(config, began)
    show(*machine_lines(done), *(to_terminal(table, caption) for caption, table in tables_of(done).items()))
    for title, lines in lines_of(done, config.reads).items():
        show(f"{title}:", *(f"    {line}" for line in lines))
    if done.advice.commands:
        show("What follows:", *(f"    {command}" for command in done.advice.commands.values()))
    if config.out is not None:
        say(f"written: {config.out / JSON_FILE} and {MARKDOWN_FILE}")
    if done.interrupted:
        raise KeyboardInterrupt
