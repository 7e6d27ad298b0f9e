"""Tasks in processes of this machine, one at a time in each, so that a process that dies costs one item at most.

(`concurrent.futures` gives up all that is under way when a process dies, and cannot say whose fault it was.)
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from multiprocessing.connection import Connection, wait

from svfap.jobs.task import EngineError, Task, Work, do

READY = "ready"
ATTEMPTS = 2  # for an item whose process died


def run_local(work: Work, tasks: Iterator[Task], num_workers: int) -> Iterator[tuple[Task, str | None]]:
    """Do the tasks, in this process (num_workers 0) or in so many others; yields each with None or the reason it failed."""
    if num_workers == 0:
        yield from ((task, do(work, task)) for task in tasks)
        return
    workers: list[_Worker] = []
    deaths: dict[str, int] = {}
    again: list[Task] = []  # whose process died
    try:
        while True:
            num_busy = sum(worker.task is not None for worker in workers)
            for new in _some(again, tasks, num_workers - num_busy):
                idle = next((worker for worker in workers if worker.task is None), None)
                if idle is None:
                    workers.append(idle := _Worker(work))
                idle.give(new)
            busy = {worker.pipe: worker for worker in workers if worker.task is not None}
            if not busy:
                return
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                task = worker.task
                assert task is not None
                try:
                    said = worker.pipe.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    how = worker.end()
                    deaths[task.key] = deaths.get(task.key, 0) + 1
                    if deaths[task.key] < ATTEMPTS:
                        again.append(task)
                    else:
                        yield task, f"the process that worked on it died {ATTEMPTS} times ({how})"
                    continue
                if said == READY:
                    worker.ready = True
                else:
                    worker.task = None
                    yield task, said[0]
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(timeout=5)
            worker.process.kill()  # one that is deaf to asking; the others are gone
            worker.process.join()


def _some(again: list[Task], tasks: Iterator[Task], number: int) -> Iterator[Task]:
    """So many of the tasks that are left, those to be done again first."""
    left = chain((again.pop() for _ in range(len(again))), tasks)
    for _ in range(number):
        task = next(left, None)
        if task is None:
            return
        yield task


class _Worker:
    """A process, the pipe to it, and the task that it has."""

    def __init__(self, work: Work) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads, such as torch's, may hang
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(work, theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe ends when the process does
        self.task: Task | None = None
        self.ready = False

    def give(self, task: Task) -> None:
        self.task = task
        with suppress(OSError):  # it is dead, as its pipe will say
            self.pipe.send(task)

    def end(self) -> str:
        """How the process ended. Raises `EngineError` if it did before it could do anything."""
        self.process.join()
        code = self.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        if not self.ready:
            raise EngineError(
                f"worker processes do not start ({how}); in a script of your own call this below `if __name__ == "
                "'__main__':`, or use num_workers=0"
            )
        return f"{how}, perhaps out of memory" if code == -signal.SIGKILL else how


def _serve(work: Work, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides when to stop
    pipe.send(READY)
    while True:
        try:
            task = pipe.recv()
        except EOFError:  # the main process is gone
            return
        pipe.send((do(work, task),))
