"""What was measured, as tables for the terminal, Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import pandas as pd

from svfap.bench.config import JSON_FILE, MARKDOWN_FILE, BenchConfig
from svfap.bench.measure import BUSY, Rate, Row, shown
from svfap.bench.result import Benched
from svfap.console import counted
from svfap.files import write_atomically
from svfap.view.tables import to_markdown

WAITS = 0.1  # fraction of the time spent waiting that is worth a word
NOT_READ = "Reading was not measured: give --manifest or --dataset to see whether your videos are read fast enough."


def tables_of(done: Benched) -> dict[str, pd.DataFrame]:
    """Caption -> table."""
    tables = {
        "Steps and forward passes alone": [_step(row) for row in done.rows if row.precision and row.waiting is None],
        "Reading alone": [_reading(row) for row in done.rows if row.work.startswith("read for")],
        "Training fed by the loader": [_joint(row) for row in done.rows if row.waiting is not None],
    }
    return {caption: pd.DataFrame(rows) for caption, rows in tables.items() if rows}


def _step(row: Row) -> dict[str, str]:
    memory = "" if row.memory_bytes is None else f"{row.memory_bytes / 1e9:.2f}"
    return {"": f"{row.work}, {row.precision}", "batch": str(row.batch), "clips/s": str(row.rate), "peak GB": memory}


def _reading(row: Row) -> dict[str, str]:
    per_worker = shown(row.rate.median / row.workers)
    return {"": row.work, "workers": str(row.workers), "clips/s": str(row.rate), "per worker": per_worker}


def _joint(row: Row) -> dict[str, str]:
    how = {"": f"{row.work}, {row.precision}", "batch": str(row.batch), "workers": str(row.workers)}
    return {**how, "clips/s": str(row.rate), "waiting": f"{row.waiting:.0%}"}


def lines_of(done: Benched, reads: bool) -> dict[str, list[str]]:
    """Title -> what is to be said in words; only titles with something."""
    lines = {
        "Not measured": [f"{each.what}: {each.reason}" for each in done.dropped],
        "Notes": [*done.notes, *([] if reads else [NOT_READ])],
        "Who waits for whom": list(_waiting(done)),
        "Not known": list(done.advice.unknown),
    }
    return {title: each for title, each in lines.items() if each}


def _waiting(done: Benched) -> Iterator[str]:
    """Who waits for whom, in one line for each training."""
    for name, chosen in done.advice.training.items():
        if chosen.read is None:
            continue
        read, steps = shown(chosen.read.median), shown(chosen.step.median)
        workers = "1 worker reads" if chosen.workers == 1 else f"{chosen.workers} workers read"
        if chosen.keeps_up:
            line = f"{name}: the steps take {steps} clips/s, and {workers} {read}: the reader alone is fast enough"
        else:
            line = (
                f"{name}: the steps take {steps} clips/s, and not more than {read} ({workers} them): training waits for the "
                "reader. Pack the clips (`svfap pack`), or use more cores"
            )
        for row in done.rows:
            if row.work == f"{name} with reading":
                line += f". Together, on the same cores: {shown(row.rate.median)} clips/s, {row.waiting:.0%} of the time waiting"
                if chosen.keeps_up and row.waiting is not None and row.waiting > WAITS:
                    line += "; they take the cores from each other"
        yield line


def machine_lines(done: Benched) -> list[str]:
    machine = done.machine
    busy = (
        ""
        if machine["load_before"] is None
        else f"; load {machine['load_before']} before, {machine['load_after']} after"
    )
    if machine["load_before"] is not None and machine["load_before"] > BUSY * machine["cores"]:
        busy += ", so the machine was busy: measure again on an idle one"
    cores, threads = counted(machine["cores"], "core"), counted(machine["threads"], "thread")
    return [
        f"{machine['device']}; {machine['processor']}, {cores}, {threads}{busy}",
        f"svfap {machine['svfap']}, torch {machine['torch']}, Python {machine['python']}; {done.seconds:.0f} s; medians, and "
        "in brackets the slowest and the fastest of several times",
    ]


def to_text(done: Benched, reads: bool) -> str:
    """The report as Markdown."""
    parts = ["# svfap bench", _list(machine_lines(done))]
    parts += [f"## {caption}\n\n{to_markdown(table).rstrip()}" for caption, table in tables_of(done).items()]
    parts += [f"## {title}\n\n{_list(lines)}" for title, lines in lines_of(done, reads).items()]
    commands = "\n".join(f"    {command}" for command in done.advice.commands.values())
    return "\n\n".join([*parts, *(["## What follows", commands] if commands else [])]) + "\n"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def to_json(done: Benched, config: BenchConfig) -> str:
    """Everything, with each single measurement."""
    content = {"settings": asdict(config), **asdict(done)}
    for row, made in zip(content["rows"], done.rows, strict=True):
        row["rate"] = _rate(made.rate)
    for name, chosen in done.advice.training.items():
        for field in ("step", "read"):
            content["advice"]["training"][name][field] = _rate(getattr(chosen, field))
    return json.dumps(content, indent=2, default=str) + "\n"


def _rate(rate: Rate | None) -> dict[str, object] | None:
    return None if rate is None else {"clips_per_s": rate.median, "each": list(rate.each)}


def write_files(done: Benched, config: BenchConfig) -> None:
    """Write the JSON and the Markdown into `config.out`. Raises `UserError`."""
    assert config.out is not None
    write_atomically(config.out / JSON_FILE, to_json(done, config))
    write_atomically(config.out / MARKDOWN_FILE, to_text(done, config.reads))
