"""The list of jobs in a small SQLite file, which survives the server, and the files of each."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from threading import RLock
from typing import Any, Literal, get_args

from svfap.errors import UserError
from svfap.files import make_folder

State = Literal["fetching", "queued", "running", "done", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")
ID = "[0-9a-f]{32}"
RESULTS, TABLE, PAGE, OVERLAY = "results", "affect.jsonl", "page.html", "overlay.mp4"

COLUMNS = {
    "id": "TEXT PRIMARY KEY",
    "name": "TEXT NOT NULL",
    "address": "TEXT",
    "state": "TEXT NOT NULL",
    "settings": "TEXT NOT NULL",
    "notes": "TEXT NOT NULL DEFAULT '[]'",
    "persons": "TEXT NOT NULL DEFAULT '{}'",
    "reason": "TEXT NOT NULL DEFAULT ''",
    "deaths": "INTEGER NOT NULL DEFAULT 0",
    "size": "INTEGER NOT NULL DEFAULT 0",
    "created": "REAL NOT NULL",
    "started": "REAL",
    "ended": "REAL",
}
AS_JSON = ("settings", "notes", "persons")


@dataclass(frozen=True)
class Job:
    """One video and what is to be done with it.

    Attributes:
        id: 32 hexadecimal digits. name: of the file. address: that the file comes from, if it was not uploaded.
        settings: those of `PredictConfig` that the caller has chosen, and `overlay`, whether to draw one.
        notes: what was said about the video. persons: number of a face as text -> name of the person.
        reason: why the job has failed. deaths: of processes that predicted it. size: bytes of its files.
        created, started, ended: seconds since 1970.
    """

    id: str
    name: str
    address: str | None
    state: State
    settings: dict[str, Any]
    notes: list[str]
    persons: dict[str, str]
    reason: str
    deaths: int
    size: int
    created: float
    started: float | None
    ended: float | None


class Store:
    """All jobs of a server, in `FOLDER/jobs.sqlite`, with the files of a job in `FOLDER/jobs/ID`. Safe to use from threads.

    Raises `UserError` if the file cannot be opened or is none, or if the folder holds files of others.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.incoming = self.folder / "incoming"
        file = self.folder / "jobs.sqlite"
        for own in (self.folder / "jobs", self.incoming):
            if not file.exists() and own.exists() and any(own.iterdir()):
                raise UserError(f"{own}: holds files, but there is no {file.name} beside it; choose another --folder")
            make_folder(own)
        self._lock, self._reserved = RLock(), 0
        try:
            self._database = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
            self._database.row_factory = sqlite3.Row
            self._database.execute("PRAGMA journal_mode=WAL")
            columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
            self._database.execute(f"CREATE TABLE IF NOT EXISTS jobs ({columns})")
            self._database.execute("CREATE INDEX IF NOT EXISTS by_state ON jobs (state, created)")
            found = {row["name"] for row in self._database.execute("PRAGMA table_info(jobs)")}
        except sqlite3.Error as error:
            raise UserError(f"{file}: is no list of jobs ({error}); choose another --folder") from None
        if found != set(COLUMNS):
            raise UserError(f"{file}: is of another version of SVFAP; choose another --folder")
        self._remove_unlisted()

    def add(self, name: str, settings: dict[str, Any], *, address: str | None = None, job_id: str | None = None) -> Job:
        """A new job: queued, or of an address fetching. The folder of its files is made."""
        job_id = job_id or uuid.uuid4().hex
        make_folder(self.folder_of(job_id))
        state = "queued" if address is None else "fetching"
        with self._lock:
            self._database.execute(
                "INSERT INTO jobs (id, name, address, state, settings, created) VALUES (?, ?, ?, ?, ?, ?)",
                (job_id, name, address, state, json.dumps(settings), time.time()),
            )
        self.measure(job_id)
        return self[job_id]

    def __getitem__(self, job_id: str) -> Job:
        """Raises `KeyError`."""
        with self._lock:
            row = self._database.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row is None:
            raise KeyError(job_id)
        return _job(row)

    def all(self, states: Iterable[State] = get_args(State)) -> list[Job]:
        """The jobs in these states, the oldest first."""
        states = tuple(states)
        marks = ", ".join("?" * len(states))
        with self._lock:
            query = f"SELECT * FROM jobs WHERE state IN ({marks}) ORDER BY created, rowid"
            return [_job(row) for row in self._database.execute(query, states)]

    def count(self, *states: State) -> int:
        marks = ", ".join("?" * len(states))
        with self._lock:
            row = self._database.execute(f"SELECT COUNT(*) FROM jobs WHERE state IN ({marks})", states).fetchone()
        return int(row[0])

    def ahead(self, job: Job) -> int | None:
        """How many jobs wait before a queued one; None for another."""
        if job.state != "queued":
            return None
        query = "SELECT COUNT(*) FROM jobs WHERE state = 'queued' AND created < ?"
        with self._lock:
            return int(self._database.execute(query, (job.created,)).fetchone()[0])

    def claim(self) -> Job | None:
        """The oldest job that waits, which is running from now on; None if there is none."""
        with self._lock:
            row = self._database.execute(
                "UPDATE jobs SET state = 'running', started = ? WHERE id = (SELECT id FROM jobs "
                "WHERE state = 'queued' ORDER BY created, rowid LIMIT 1) RETURNING *",
                (time.time(),),
            ).fetchone()
        return None if row is None else _job(row)

    def change(self, job_id: str, *, only: Iterable[State] = get_args(State), **values: Any) -> bool:
        """Set columns of a job if it is in one of the states `only`; False if it is not, or gone."""
        values = {name: json.dumps(value) if name in AS_JSON else value for name, value in values.items()}
        only = tuple(only)
        assignments, marks = ", ".join(f"{name} = ?" for name in values), ", ".join("?" * len(only))
        with self._lock:
            done = self._database.execute(
                f"UPDATE jobs SET {assignments} WHERE id = ? AND state IN ({marks})", (*values.values(), job_id, *only)
            )
        return done.rowcount == 1

    def end(self, job_id: str, state: State, reason: str = "") -> bool:
        """End a job that has not ended; False if it has, or is gone."""
        self.measure(job_id)
        return self.change(
            job_id, only=("fetching", "queued", "running"), state=state, reason=reason, ended=time.time()
        )

    def remove(self, job_id: str) -> None:
        """Delete a job and its files."""
        with self._lock:
            self._database.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
        shutil.rmtree(self.folder_of(job_id), ignore_errors=True)

    def remove_upload(self, job: Job) -> None:
        """Delete the video of a job, and keep its results."""
        self.video_of(job).unlink(missing_ok=True)
        self.measure(job.id)

    def measure(self, job_id: str) -> None:
        """Look up how much room the files of a job take."""
        self.change(job_id, size=_size_below(self.folder_of(job_id)))

    @property
    def size(self) -> int:
        """Bytes of the files of all jobs, and of what is still arriving."""
        with self._lock:
            (known,) = self._database.execute("SELECT COALESCE(SUM(size), 0) FROM jobs").fetchone()
            return int(known) + self._reserved

    @contextmanager
    def reserving(self, num_bytes: int) -> Iterator[None]:
        """Count these bytes as taken until the block ends."""
        with self._lock:
            self._reserved += num_bytes
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= num_bytes

    def folder_of(self, job_id: str) -> Path:
        return self.folder / "jobs" / job_id

    def video_of(self, job: Job) -> Path:
        return self.folder_of(job.id) / job.name

    def result(self, job: Job, name: str) -> Path:
        return self.folder_of(job.id) / RESULTS / name

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def _remove_unlisted(self) -> None:
        """Delete uploads that had not arrived, and folders of jobs that were not listed yet, or not any more, when a server
        ended."""
        listed = {job.id for job in self.all()}
        for folder in (*(self.folder / "jobs").iterdir(), *self.incoming.iterdir()):
            if re.fullmatch(ID, folder.name) and (folder.parent == self.incoming or folder.name not in listed):
                shutil.rmtree(folder, ignore_errors=True)


def _job(row: sqlite3.Row) -> Job:
    values = {each.name: row[each.name] for each in fields(Job)}
    return Job(**{name: json.loads(value) if name in AS_JSON else value for name, value in values.items()})


def _size_below(folder: Path) -> int:
    """Bytes of the files in a folder, in which others come and go."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            size += path.stat().st_size if path.is_file() else 0
    return size
