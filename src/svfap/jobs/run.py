"""Do something to each of many items, and go on where it stopped."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import time
from collections.abc import Generator, Iterable, Iterator, Sized
from pathlib import Path
from typing import Any, Literal, get_args

from svfap.console import console, progress_bar
from svfap.errors import UserError
from svfap.files import make_folder, write_atomically, writing_atomically
from svfap.jobs.local import run_local
from svfap.jobs.ray import run_ray
from svfap.jobs.task import PART, Task, Work, remove

Engine = Literal["local", "ray"]
SETTINGS, FAILURES = "settings.json", "failures.csv"


def run_bulk(
    work: Work,
    items: Iterable[tuple[str, Any]],
    out: Path,
    *,
    settings: dict[str, Any] | None = None,
    engine: Engine = "local",
    num_workers: int = 0,
    num_gpus: float = 0.0,
    description: str = "working",
    total: int | None = None,
) -> dict[str, str]:
    """Let `work(payload, target)` write a file or folder `target` for each (key, payload); returns key -> why it failed.

    Results appear whole, at `result_of(out, key)`; an item that has one is skipped, so a run that was broken off goes on
    when started again. What fails, for whatever reason, is returned and listed in `out`/failures.csv (key, reason), and
    tried again by the next run. A process that dies is replaced; its item is tried once more.

    work, payloads: what pickle can send to another process. settings: what the results depend on besides the items, as
    JSON has it; a folder with results of others is refused. engine: "local", or "ray" where `out` and all inputs lie on a
    file system that the machines share. num_workers: processes; 0 is this process, or all processors of the Ray cluster.
    num_gpus: those that a Ray task reserves. total: number of items, where `items` does not tell. One run at a time may
    use `out`. Raises `UserError` for a key that comes twice, for other settings, and for an engine that does not start.
    """
    check_engine(engine, num_workers, num_gpus)
    make_folder(out)
    _check_settings(out / SETTINGS, settings or {})
    finished = _look_through(out)
    failures: dict[str, str] = {}
    with progress_bar() as bar:
        known = total if total is not None else len(items) if isinstance(items, Sized) else None
        row = bar.add_task(description, total=known, note="")

        def tasks() -> Iterator[Task]:
            names: set[str] = set()
            for key, payload in items:
                target = result_of(out, key)
                if target.name in names:
                    raise UserError(f"{key}: comes twice; every item must have a key of its own")
                names.add(target.name)
                if target.name in finished:
                    bar.advance(row)
                else:
                    yield Task(key, payload, target)

        num_done, began = 0, time.monotonic()
        outcomes = _outcomes(work, tasks(), engine, num_workers, num_gpus)
        try:
            for task, reason in outcomes:
                if reason is None and not task.target.exists():
                    reason = f"its result is not to be seen in {out}; a cluster's machines must share that folder"
                if reason is not None:
                    failures[task.key] = reason
                num_done += 1
                failed = f", {len(failures)} failed" if failures else ""
                bar.update(row, advance=1, note=f"{num_done / (time.monotonic() - began):.3g}/s{failed}")
        except KeyboardInterrupt:
            done = num_done - len(failures) + len(finished)
            console.print(f"stopped with {done} done; the same command goes on from there", markup=False)
            raise
        finally:
            outcomes.close()  # the workers end here, before what they left is tidied up
            _look_through(out)
            write_failures(out / FAILURES, failures)
    return failures


def check_engine(engine: str, num_workers: int, num_gpus: float = 0.0) -> None:
    """Raises `UserError` for an engine that is none and for numbers that cannot be."""
    if engine not in get_args(Engine):
        raise UserError(f"engine={engine!r} is none of {', '.join(get_args(Engine))}")
    if num_workers < 0:
        raise UserError(f"num_workers={num_workers} must be at least 0")
    if num_gpus < 0 or (num_gpus and engine != "ray"):
        raise UserError(
            f"num_gpus={num_gpus:g}: is what a Ray task reserves, at least 0; leave it out with other engines"
        )


def result_of(out: Path, key: str) -> Path:
    """Where the result of a key lies or will lie: a readable name and 80 bits of the key's hash, in one of 256 folders."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9]+", "_", Path(key).stem).strip("_")[:40]
    return out / digest[:2] / f"{readable or 'item'}-{digest[:20]}"


def write_failures(path: Path, failures: dict[str, str], columns: tuple[str, str] = ("key", "reason")) -> None:
    """Write a CSV of what failed; where nothing did there is no such file."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    with writing_atomically(path) as file:
        rows = ([_printable(text) for text in row] for row in [columns, *sorted(failures.items())])
        csv.writer(file, lineterminator="\n").writerows(rows)


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()  # names of files need not be text


def _outcomes(
    work: Work, tasks: Iterator[Task], engine: Engine, num_workers: int, num_gpus: float
) -> Generator[tuple[Task, str | None]]:
    if engine == "ray":
        yield from run_ray(work, tasks, num_workers, num_gpus)
    else:
        yield from run_local(work, tasks, num_workers)


def _check_settings(file: Path, settings: dict[str, Any]) -> None:
    if not file.exists():
        write_atomically(file, json.dumps(settings, indent=2) + "\n")
        return
    try:
        former = json.loads(file.read_text())
    except ValueError:
        former = None
    if not isinstance(former, dict):
        raise UserError(f"{file}: is damaged, so that its results cannot be used; remove {file.parent}")
    words = sorted(word for word in {*former, *settings} if former.get(word) != settings.get(word))
    if words:
        other = ", ".join(f"{word} was {former.get(word)}, is {settings.get(word)}" for word in words)
        raise UserError(f"{file.parent}: holds results of other settings ({other}); remove it or choose another place")


def _look_through(out: Path) -> set[str]:
    """Names of all results; what was left half done is removed."""
    finished = set()
    for entry in out.glob("[0-9a-f][0-9a-f]/*"):
        if entry.name.startswith(".") and entry.suffix == PART:
            remove(entry)
        else:
            finished.add(entry.name)
    return finished
