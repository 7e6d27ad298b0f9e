"""Tasks in processes of this machine, each with a separate pipe and one task at a time.

A process that dies then affects only its task. (`concurrent.futures` fails all tasks when a process dies. Pools with one
pipe for all processes, such as pebble's, lose the task of a process that exits with status 0.)
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from threading import Thread

from svfap.jobs.task import EngineError, Queue, Task, Work, do
from svfap.settings import JobSettings

READY = "ready"


def run_local(work: Work, tasks: Iterator[Task], jobs: JobSettings) -> Generator[tuple[Task, str | None]]:
    """Run the tasks in `num_workers` processes, or in this one if 0; yields each with None or the reason why it failed.

    As this process cannot be interrupted, one worker is started even for 0 workers if there is a time limit. Raises
    `EngineError`.
    """
    if jobs.num_workers == 0 and jobs.item_timeout_s is None:
        yield from ((task, do(work, task)) for task in tasks)
        return
    queue = Queue(tasks, jobs.item_timeout_s)
    idle: list[_Worker] = []
    busy: dict[Connection, _Worker] = {}
    try:
        while True:
            while len(busy) < max(jobs.num_workers, 1) and (task := queue.take()) is not None:
                worker = idle.pop() if idle else _Worker(work, jobs.item_timeout_s)
                busy[worker.pipe] = worker
                worker.give(task)
            if not busy:
                return
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                try:
                    answer = worker.pipe.recv()
                except (EOFError, OSError):  # the process has died
                    del busy[worker.pipe]
                    if reason := queue.died(worker.task, worker.cause_of_death()):
                        yield worker.task, reason
                    continue
                if answer == READY:
                    worker.ready = True
                else:
                    idle.append(busy.pop(worker.pipe))
                    yield worker.task, answer[0]
    finally:
        workers = [*idle, *busy.values()]
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(timeout=5)
            worker.process.kill()  # for one that ignores SIGTERM; no effect on the others
            worker.process.join()


class _Worker:
    """A process, the pipe to it, and its latest task."""

    def __init__(self, work: Work, timeout_s: float | None) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads, such as torch's, may hang
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(work, timeout_s, far_end), daemon=True)
        self.process.start()
        far_end.close()  # so that the pipe is closed when the process ends
        self.ready = False

    def give(self, task: Task) -> None:
        self.task = task
        with suppress(OSError):  # the process has died, as reading from its pipe will show
            self.pipe.send(task)

    def cause_of_death(self) -> str:
        """How the process ended. Raises `EngineError` if that was before it could work."""
        self.process.join()
        code = self.process.exitcode or 0
        cause = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        if not self.ready:
            raise EngineError(
                f"worker processes do not start ({cause}); in a script of your own call this below `if __name__ == "
                "'__main__':`, or use num_workers=0 without item_timeout_s"
            )
        return f"{cause}, perhaps out of memory" if cause == "SIGKILL" else cause


def _serve(work: Work, timeout_s: float | None, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides when to stop
    Thread(target=_exit_with_parent, daemon=True).start()
    pipe.send(READY)
    with suppress(EOFError, ConnectionError):  # the main process has ended
        while True:
            pipe.send((do(work, pipe.recv(), timeout_s),))


def _exit_with_parent() -> None:
    """End this process at once when the main process has been killed, even in the middle of a task."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
