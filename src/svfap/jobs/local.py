"""Tasks in processes of this machine, each with a pipe of its own and one task at a time.

So a process that dies costs one item at most, and it is known which. (`concurrent.futures` gives up all tasks when a
process dies. Pools whose processes share one pipe, such as pebble's, lose track of a task whose process exits with status 0,
and import the work's modules one process after the other.)
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from threading import Thread

from svfap.jobs.task import ATTEMPTS, EngineError, Task, Work, do, timed_out, timeout_reason

READY = "ready"


def run_local(
    work: Work, tasks: Iterator[Task], num_workers: int, timeout_s: float | None = None
) -> Generator[tuple[Task, str | None]]:
    """Run the tasks in `num_workers` processes, or in this one if 0; yields each with None or the reason why it failed.

    timeout_s: limit for each task; as this process cannot be interrupted, one worker is then started even for 0.
    Raises `EngineError`.
    """
    if num_workers == 0 and timeout_s is None:
        yield from ((task, do(work, task)) for task in tasks)
        return
    workers: list[_Worker] = []
    retries: list[Task] = []
    deaths = Counter[str]()
    try:
        while True:
            busy = {worker.pipe: worker for worker in workers if worker.task is not None}
            while len(busy) < max(num_workers, 1):
                task = retries.pop() if retries else next(tasks, None)
                if task is None:
                    break
                worker = next((worker for worker in workers if worker.task is None), None)
                if worker is None:
                    workers.append(worker := _Worker(work, timeout_s))
                worker.give(task)
                busy[worker.pipe] = worker
            if not busy:
                return
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                task = worker.task
                assert task is not None
                try:
                    answer = worker.pipe.recv()
                except (EOFError, OSError):  # the process has died
                    workers.remove(worker)
                    cause = worker.cause_of_death()
                    deaths[task.key] += 1
                    if timed_out(task):
                        yield task, timeout_reason(timeout_s)
                    elif deaths[task.key] < ATTEMPTS:
                        retries.append(task)
                    else:
                        yield task, f"the process that worked on it died {ATTEMPTS} times ({cause})"
                    continue
                if answer == READY:
                    worker.ready = True
                else:
                    worker.task = None
                    yield task, answer[0]
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(timeout=5)
            worker.process.kill()  # for one that ignores SIGTERM; no effect on the others
            worker.process.join()


class _Worker:
    """A process, the pipe to it, and its task."""

    def __init__(self, work: Work, timeout_s: float | None) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads, such as torch's, may hang
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(work, timeout_s, far_end), daemon=True)
        self.process.start()
        far_end.close()  # so that the pipe is closed when the process ends
        self.task: Task | None = None
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
        return f"{cause}, perhaps out of memory" if code == -signal.SIGKILL else cause


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
