"""Tasks on a Ray cluster: a lost machine costs time, but no item.

Ray's own retries are off, so that both engines count attempts alike and an item that kills its process is not retried
without end.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator
from typing import Any

from svfap.errors import require_package
from svfap.jobs.task import ATTEMPTS, EngineError, Queue, Task, Work, do, reason_of
from svfap.settings import JobSettings

ATTEMPTS_ON_LOST_MACHINES = 5  # a machine that is lost is hardly the item's fault
SUBMITTED_PER_CPU = 2  # one runs, one waits, so that no processor is idle


def connect() -> Any:
    """Ray, connected to the cluster of RAY_ADDRESS, to one on this machine, or to a new one. Raises `UserError`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns that this default will change
    ray = require_package("ray", "ray", "engine=ray")
    if not ray.is_initialized():
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise EngineError(f"cannot connect to a Ray cluster (RAY_ADDRESS): {reason_of(error)}") from None
    return ray


def run_ray(work: Work, tasks: Iterator[Task], jobs: JobSettings) -> Generator[tuple[Task, str | None]]:
    """Run the tasks, at most `num_workers` at a time (0: as many as the cluster has processors, and as many waiting).

    The time limit of a task starts when it does. Yields each task with None or the reason why it failed. Raises `EngineError`.
    """
    ray = connect()
    remote = ray.remote(num_cpus=1, num_gpus=jobs.num_gpus, max_retries=0)(do)
    submitted: dict[Any, Task] = {}
    queue = Queue(tasks, jobs.item_timeout_s)
    try:
        while True:
            limit = jobs.num_workers or SUBMITTED_PER_CPU * max(int(ray.cluster_resources().get("CPU", 1)), 1)
            while len(submitted) < limit and (task := queue.take()) is not None:
                submitted[remote.remote(work, task, jobs.item_timeout_s)] = task
            if not submitted:
                return
            for reference in ray.wait(list(submitted), num_returns=1)[0]:
                task = submitted.pop(reference)
                try:
                    yield task, ray.get(reference)
                except ray.exceptions.RayError as error:
                    lines = str(error).strip().splitlines() or [type(error).__name__]
                    machine_lost = isinstance(error, ray.exceptions.NodeDiedError)
                    counted = ("machine", ATTEMPTS_ON_LOST_MACHINES) if machine_lost else ("process", ATTEMPTS)
                    if reason := queue.died(task, lines[0].strip(), *counted):
                        yield task, reason
    finally:
        for reference in submitted:
            ray.cancel(reference, force=True)
