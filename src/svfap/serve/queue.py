"""Jobs one after another: threads that give each to a process, watch it, and see to what is old."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Condition, Event, Thread

from svfap.console import say
from svfap.errors import UserError
from svfap.serve.config import GIGA, MEGA, ServeConfig
from svfap.serve.fetch import fetch
from svfap.serve.inspection import Inspector
from svfap.serve.store import ENDED, RESULTS, Job, State, Store
from svfap.serve.worker import Order, Outcome, Progress, of_the_program, work
from svfap.shipped import list_models

MAX_DEATHS = 2  # of processes that predict a job, until it has failed
CLEAN_EVERY_S = 60.0
LOOK_EVERY_S = 0.1
RETRY_S = 5.0
SERVER_SETTINGS = ("device", "precision", "batch_size")


class Queue:
    """Carries out the jobs of a store, `config.num_workers` at a time, the oldest first.

    Jobs that a server before this one had begun are begun again, as often as that happens.

    Attributes:
        progress: id of a job that was begun since the start -> its last `Progress`.
        ended: state -> jobs that have ended. frames: read for them. restarts: of processes that died. Since the start.
    """

    def __init__(self, config: ServeConfig, store: Store, inspector: Inspector) -> None:
        self.config, self.store, self.inspector = config, store, inspector
        self.progress: dict[str, Progress] = {}
        self.ended = dict.fromkeys(ENDED, 0)
        self.frames = 0
        self.restarts = 0
        self._news, self._stopping = Condition(), Event()
        self._slots = [_Slot() for _ in range(config.num_workers)]
        self._threads: list[Thread] = []
        self._downloads = ThreadPoolExecutor(min(config.max_uploads, 8), "download")

    def start(self) -> None:
        """Start the threads and their processes."""
        for job in self.store.all(["running"]):
            self.store.change(job.id, state="queued")
        for job in self.store.all(["fetching"]):
            self.submit(job)
        self._threads = [Thread(target=self._serve, args=(slot,), daemon=True) for slot in self._slots]
        self._threads.append(Thread(target=self._clean, daemon=True))
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> None:
        """Take up a new job of the store."""
        if job.state == "fetching":
            self._downloads.submit(self._guarded, partial(self._download, job.id), job.id)
        self._tell()

    def cancel(self, job_id: str) -> bool:
        """Stop a job; False if it has ended already. What it has written so far is deleted."""
        if not self.store.end(job_id, "cancelled"):
            return False
        self.ended["cancelled"] += 1
        if not self._is_held(job_id):  # else its thread does so
            self._discard(job_id)
        return True

    def again(self, job: Job) -> bool:
        """Begin a job that has failed or was cancelled once more; False if it is in another state, or its file is gone."""
        self._wait_until_free(job.id)
        has_video = self.store.video_of(job).exists()
        if not has_video and job.address is None:
            return False
        state: State = "queued" if has_video else "fetching"
        if not self.store.change(job.id, only=["failed", "cancelled"], state=state, reason="", deaths=0, ended=None):
            return False
        self.submit(self.store[job.id])
        return True

    def remove(self, job_id: str) -> None:
        """Stop a job, and delete it with all its files."""
        self.cancel(job_id)
        self._wait_until_free(job_id)
        self.store.remove(job_id)
        self.progress.pop(job_id, None)

    def stop(self) -> None:
        """End the threads and processes; jobs that have not ended are begun again by the next server."""
        self._stopping.set()
        self._tell()
        for slot in self._slots:
            slot.kill()
        for thread in self._threads:
            thread.join(5)
        self._downloads.shutdown(wait=False, cancel_futures=True)

    @property
    def is_alive(self) -> bool:
        """Whether all threads are running."""
        return all(thread.is_alive() for thread in self._threads)

    def _is_held(self, job_id: str) -> bool:
        with self._news:
            return any(slot.job_id == job_id for slot in self._slots)

    def _wait_until_free(self, job_id: str) -> None:
        """Wait until no process works on a job that has ended; they are killed within moments."""
        for _ in range(100):
            if not self._is_held(job_id):
                return
            time.sleep(LOOK_EVERY_S)

    def _discard(self, job_id: str) -> None:
        """Delete the results of a job that was stopped."""
        shutil.rmtree(self.store.folder_of(job_id) / RESULTS, ignore_errors=True)
        self.store.measure(job_id)

    def _tell(self) -> None:
        with self._news:
            self._news.notify_all()

    def _serve(self, slot: _Slot) -> None:
        slot.start()
        while not self._stopping.is_set():
            with self._news:
                try:
                    job = self.store.claim()
                except sqlite3.Error as error:  # such as of a full disk
                    say(f"jobs.sqlite: {error}; trying again")
                    self._stopping.wait(RETRY_S)
                    continue
                if job is None:
                    self._news.wait(1.0)
                    continue
                slot.job_id = job.id
            try:
                self._guarded(partial(self._carry_out, slot, job), job.id)
            finally:
                slot.job_id = None

    def _carry_out(self, slot: _Slot, job: Job) -> None:
        began = time.monotonic()
        self.progress.pop(job.id, None)  # of a run before
        server = {name: getattr(self.config, name) for name in SERVER_SETTINGS}
        limits = self.config.max_length_s, self.config.max_megapixels
        folder = self.store.folder_of(job.id)
        settings = {**server, **job.settings, "model": _seen_from(folder, job.settings["model"])}
        order = Order(folder, job.name, settings, *limits)
        outcome = self._outcome(slot, order, job, began)
        frames = self.progress.get(job.id, Progress(0, None)).frames
        if outcome is None:
            if self._stopping.is_set():
                return
            if not self._is_running(job.id):
                self._discard(job.id)
                return
            self.restarts += 1
            deaths = job.deaths + 1
            if deaths < MAX_DEATHS:
                self.store.change(job.id, only=["running"], state="queued", deaths=deaths)
                return
            outcome = Outcome("the process that predicted it ended twice (killed, or out of memory)", [])
        self.frames += frames
        state: State = "failed" if outcome.reason else "done"
        self.store.change(job.id, notes=outcome.notes)
        if self.store.end(job.id, state, outcome.reason):
            self.ended[state] += 1
        else:  # cancelled in this moment
            self._discard(job.id)

    def _outcome(self, slot: _Slot, order: Order, job: Job, began: float) -> Outcome | None:
        """What came of an order; None if its process has ended."""
        limit = self.config.job_timeout_s
        connection = slot.start()
        try:
            connection.send(order)
            while True:
                if connection.poll(LOOK_EVERY_S):
                    message = connection.recv()
                    if isinstance(message, Outcome):
                        return message
                    self.progress[job.id] = message
                if self._stopping.is_set() or not self._is_running(job.id):
                    slot.kill()
                    return None
                if limit is not None and time.monotonic() - began > limit:
                    slot.kill()
                    return Outcome(f"takes longer than {limit:g} s, which is the most that a video may take", [])
        except (EOFError, OSError):
            slot.kill()
            return None

    def _is_running(self, job_id: str) -> bool:
        try:
            return self.store[job_id].state == "running"
        except KeyError:
            return False

    def _download(self, job_id: str) -> None:
        job = self.store[job_id]
        target = self.store.incoming / job.id / job.name
        target.parent.mkdir(exist_ok=True)

        def wanted() -> bool:
            return not self._stopping.is_set() and self.store[job_id].state == "fetching"

        try:
            room = int(self.config.max_disk_gb * GIGA) - self.store.size
            size = min(int(self.config.max_upload_mb * MEGA), room)
            if size <= 0:
                raise UserError(f"the {self.config.max_disk_gb:g} GB for uploads and results are full; delete jobs")
            assert job.address is not None
            with self.store.reserving(size):
                fetch(job.address, target, size, self.config.upload_timeout_s, wanted)
            self.inspector(target)
            target.replace(self.store.video_of(job))
        except UserError as error:
            if wanted() and self.store.end(job_id, "failed", str(error).removeprefix(f"{job.name}: ")):
                self.ended["failed"] += 1
        else:
            self.store.measure(job_id)
            self.store.change(job_id, only=["fetching"], state="queued")
            self._tell()
        finally:
            shutil.rmtree(target.parent, ignore_errors=True)

    def _guarded(self, act: Callable[[], None], job_id: str) -> None:
        """Do something with a job that may be deleted at any time."""
        try:
            act()
        except KeyError:
            pass
        except Exception as error:
            if self._stopping.is_set():
                return
            traceback.print_exc()
            with suppress(sqlite3.Error):  # the next server begins it again
                if self.store.end(job_id, "failed", of_the_program(error)):
                    self.ended["failed"] += 1

    def _clean(self) -> None:
        while not self._stopping.is_set():
            try:
                self.clean(time.time())
            except sqlite3.Error as error:
                say(f"jobs.sqlite: {error}; trying again")
            self._stopping.wait(CLEAN_EVERY_S)

    def clean(self, now: float) -> None:
        """Delete uploads and jobs that are kept no longer at this time, in seconds since 1970."""
        for job in self.store.all(ENDED):
            hours = (now - (job.ended or now)) / 3600
            if self.config.keep_results_h is not None and hours > self.config.keep_results_h:
                self.store.remove(job.id)
                continue
            is_due = self.config.keep_uploads_h is not None and hours > self.config.keep_uploads_h
            if is_due and self.store.video_of(job).exists():
                self.store.remove_upload(job)


def _seen_from(folder: Path, model: str) -> str:
    """The name of a model for a process in this folder, in which a relative path begins elsewhere."""
    if model in list_models() or not Path(model).exists() or Path(model).is_absolute():
        return model
    return os.path.relpath(model, folder)


class _Slot:
    """A process that predicts, started anew when it has died or was killed."""

    def __init__(self) -> None:
        self.job_id: str | None = None
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def start(self) -> Connection:
        """The connection to the process, which runs."""
        if self._process is None or not self._process.is_alive() or self._connection is None:
            self.kill()
            context = get_context("spawn")
            self._connection, other = context.Pipe()
            self._process = context.Process(target=work, args=(other,), daemon=True, name="svfap-worker")
            self._process.start()
            other.close()
        return self._connection

    def kill(self) -> None:
        """End the process at once."""
        process, connection, self._process, self._connection = self._process, self._connection, None, None
        if process is not None:
            process.kill()
            process.join(5)
        if connection is not None:
            connection.close()
