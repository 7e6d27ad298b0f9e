"""Tasks on a Ray cluster: a machine that is lost costs time, no item.

Ray's own retries are off, so that both engines count alike and an item that kills its process is not tried for ever.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

from svfap.jobs.task import EngineError, Task, Work, do, reason_of

ATTEMPTS = 2  # for an item whose process died
LOSSES = 5  # for one whose machine was lost: no fault of the item
AHEAD = 2  # tasks under way for each processor, so that none waits for the next


def connect() -> Any:
    """Ray, connected to the cluster of RAY_ADDRESS, to one on this machine, or to a new one. Raises `EngineError`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report home
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of a default to come
    try:
        import ray
    except ImportError:
        raise EngineError("the engine ray needs the package ray; install it with pip install 'svfap[ray]'") from None
    if not ray.is_initialized():
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise EngineError(f"no Ray cluster to be had (RAY_ADDRESS): {reason_of(error)}") from None
    return ray


def run_ray(
    work: Work, tasks: Iterator[Task], num_workers: int, num_gpus: float = 0.0
) -> Iterator[tuple[Task, str | None]]:
    """Do the tasks, num_workers at a time (0: as many as the cluster has processors, and some in wait).

    num_gpus: what each reserves. Yields each with None or the reason why it failed.
    """
    ray = connect()
    remote = ray.remote(num_cpus=1, num_gpus=num_gpus, max_retries=0)(do)
    under_way: dict[Any, Task] = {}
    again: list[Task] = []
    deaths: dict[str, int] = {}
    losses: dict[str, int] = {}
    try:
        while True:
            most = num_workers or AHEAD * max(int(ray.cluster_resources().get("CPU", 1)), 1)
            while len(under_way) < most and (task := again.pop() if again else next(tasks, None)) is not None:
                under_way[remote.remote(work, task)] = task
            if not under_way:
                return
            for done in ray.wait(list(under_way), num_returns=1)[0]:
                task = under_way.pop(done)
                try:
                    reason = ray.get(done)
                except ray.exceptions.RayError as error:
                    lost = isinstance(error, ray.exceptions.NodeDiedError)
                    counts, most_often = (losses, LOSSES) if lost else (deaths, ATTEMPTS)
                    counts[task.key] = counts.get(task.key, 0) + 1
                    if counts[task.key] < most_often:
                        again.append(task)
                        continue
                    what = "machine" if lost else "process"
                    reason = f"the {what} that worked on it died {most_often} times ({_first_line(error)})"
                yield task, reason
    finally:
        for reference in under_way:
            ray.cancel(reference, force=True)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
