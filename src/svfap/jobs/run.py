"""Apply a function to each of many items, restartable: a run that was interrupted continues where it stopped."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Sized
from contextlib import closing
from pathlib import Path
from typing import Any

from svfap.console import progress_bar, say
from svfap.errors import UserError
from svfap.files import make_folder, only_writer, printable, write_atomically, writing_atomically
from svfap.jobs.local import run_local
from svfap.jobs.ray import run_ray
from svfap.jobs.task import Task, Work, remove_unfinished
from svfap.settings import JobSettings, check_same_settings

SETTINGS, FAILURES = "settings.json", "failures.csv"


def run_jobs(
    work: Work,
    items: Iterable[tuple[str, Any]],
    out: Path,
    *,
    settings: dict[str, Any] | None = None,
    obsolete: Collection[str] = (),
    jobs: JobSettings = JobSettings(),  # noqa: B008 - frozen
    description: str = "working",
    total: int | None = None,
) -> dict[str, str]:
    """Let `work(payload, target)` write a file or folder `target` for each (key, payload); returns key -> why it failed.

    A result appears complete or not at all, at `result_of(out, key)`. Items that have one are skipped, so an interrupted run
    continues when it is started again. Items that failed, for whatever reason, are listed in `out`/failures.csv (key, reason)
    and tried again by the next run. A process that dies is replaced and its item is tried once more; an item that takes
    longer than `jobs.item_timeout_s` has failed.

    work, payloads: must be picklable. settings: what the results depend on besides the items, in JSON's types; a folder with
    results of other settings is refused. obsolete: names in stored settings to ignore, which earlier versions wrote. jobs: how
    the items are distributed; with engine "ray", `out` and all inputs must lie on a file system that the machines share.
    total: number of items, if `items` has no length. Raises `UserError` for a repeated key, for other settings, while another run
    uses `out`, and for an engine that does not start.
    """
    make_folder(out)
    if not has_settings(out / SETTINGS, settings or {}, "remove it or choose another folder", obsolete):
        write_atomically(out / SETTINGS, json.dumps(settings or {}, indent=2) + "\n")
    failures: dict[str, str] = {}
    with only_writer(out), progress_bar() as bar:
        finished = _clean(out)
        if total is None and isinstance(items, Sized):
            total = len(items)
        bar_id = bar.add_task(description, total=total, note="")

        def unfinished_tasks() -> Iterator[Task]:
            names: set[str] = set()
            for key, payload in items:
                target = result_of(out, key)
                if target.name in names:
                    raise UserError(f"{key}: comes twice; every item must have a key of its own")
                names.add(target.name)
                if target.name in finished:
                    bar.advance(bar_id)
                else:
                    yield Task(key, payload, target)

        num_done, start_s = 0, time.monotonic()
        try:
            # Closed first, so that the workers end before their unfinished files are removed.
            with closing(outcomes(work, unfinished_tasks(), jobs)) as ended:
                for task, reason in ended:
                    if reason is not None:
                        failures[task.key] = reason
                    num_done += 1
                    failed = f", {len(failures)} failed" if failures else ""
                    bar.update(bar_id, advance=1, note=f"{num_done / (time.monotonic() - start_s):.3g}/s{failed}")
        except KeyboardInterrupt:
            num_finished = num_done - len(failures) + len(finished)
            say(f"{description}: stopped with {num_finished} done; the same command continues from there")
            raise
        finally:
            _clean(out)
            write_failures(out / FAILURES, failures)
    return failures


def outcomes(work: Work, tasks: Iterator[Task], jobs: JobSettings) -> Generator[tuple[Task, str | None]]:
    """Do the tasks with the engine of `jobs`, in any order; yields each with None or the reason why it failed.

    Close the generator to end the processes. Raises `UserError` if the engine does not start.
    """
    engine = run_ray if jobs.engine == "ray" else run_local
    for task, reason in engine(work, tasks, jobs):
        if reason is None and not task.target.exists():
            reason = f"its result is not in {task.target.parent}; the machines of a cluster must share that folder"
        yield task, reason


def result_of(out: Path, key: str) -> Path:
    """Path of a key's result: a readable name and 80 bits of the key's hash, in one of 256 folders."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9]+", "_", Path(key).stem).strip("_")[:40]
    return out / digest[:2] / f"{readable or 'item'}-{digest[:20]}"


def write_failures(path: Path, failures: dict[str, str], columns: tuple[str, str] = ("key", "reason")) -> None:
    """Write the failures as CSV, sorted by key; without any, remove the file."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    with writing_atomically(path) as file:
        rows = ([printable(text) for text in row] for row in [columns, *sorted(failures.items())])
        csv.writer(file, lineterminator="\n").writerows(rows)


def has_settings(
    file: Path, settings: dict[str, Any], fix: str, obsolete: Collection[str] = (), where: Path | None = None
) -> bool:
    """Whether `file` exists. Raises `UserError` if it exists and contains other settings.

    fix: what the user can do then. where: the folder that the message names; default: that of the file.
    """
    if not file.exists():
        return False
    try:
        before = json.loads(file.read_text())
    except ValueError:
        before = None
    if not isinstance(before, dict):
        raise UserError(f"{file}: is damaged, so the results in its folder cannot be used; {fix}")
    check_same_settings(where or file.parent, before, json.loads(json.dumps(settings)), fix, obsolete)
    return True


def _clean(out: Path) -> set[str]:
    """Remove what interrupted work left behind; returns the names of all results."""
    folders = list(out.glob("[0-9a-f][0-9a-f]"))
    for folder in folders:
        remove_unfinished(folder)
    return {entry.name for folder in folders for entry in folder.iterdir()}
