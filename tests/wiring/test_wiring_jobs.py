"""Every setting of jobs has its effect on how items are worked on. That each verb passes them on is tested with the verb."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

import svfap.jobs.ray as ray_engine
import svfap.jobs.run as jobs_module
from svfap.jobs.run import result_of, run_jobs
from svfap.settings import JobSettings

ITEMS = [(f"{number}.mp4", number) for number in range(4)]


def work(payload: int, target: Path) -> None:
    time.sleep(0.2)  # long enough for a second process to get an item
    target.write_text(str(os.getpid()))


def processes(out: Path, **settings: Any) -> set[int]:
    """The processes that worked."""
    assert run_jobs(work, ITEMS, out, jobs=JobSettings(**settings)) == {}
    return {int(result_of(out, key).read_text()) for key, _ in ITEMS}


def slow(payload: int, target: Path) -> None:
    time.sleep(0 if payload else 20)
    target.write_text("")


class FakeRay:
    """Does each task at once when it is waited for; notes what each reserves, and how many are submitted at a time."""

    class exceptions:
        class RayError(Exception): ...

        class NodeDiedError(RayError): ...

    def __init__(self) -> None:
        self.reserved: list[dict[str, Any]] = []
        self.most, self.limits = 0, set()
        self._results: dict[int, Any] = {}

    def remote(self, **resources: Any) -> Any:
        self.reserved.append(resources)

        def of(function: Any) -> Any:
            class Remote:
                def remote(_, work: Any, task: Any, timeout_s: float | None) -> int:
                    self.limits.add(timeout_s)
                    key = len(self.reserved) * 1000 + len(self._results) + len(self.limits) * 100_000
                    self._results[key] = (function, work, task)
                    self.most = max(self.most, len(self._results))
                    return key

            return Remote()

        return of

    def wait(self, references: list[int], num_returns: int) -> tuple[list[int], list[int]]:
        return references[:num_returns], references[num_returns:]

    def get(self, reference: int) -> Any:
        function, work, task = self._results.pop(reference)
        return function(work, task)

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1}


@pytest.fixture
def ray(monkeypatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(ray_engine, "connect", lambda: fake)
    return fake


def write(payload: int, target: Path) -> None:
    target.write_text(str(payload))


def test_engine(tmp_path, ray, monkeypatch):
    run_jobs(write, ITEMS, tmp_path / "ray", jobs=JobSettings(engine="ray"))
    assert len(ray.reserved) == 1
    run_jobs(write, ITEMS, tmp_path / "local", jobs=JobSettings(engine="local"))
    assert len(ray.reserved) == 1
    used = []
    monkeypatch.setattr(jobs_module, "run_local", lambda work, tasks, jobs: used.append(jobs) or (item for item in ()))
    run_jobs(write, ITEMS, tmp_path / "again", jobs=JobSettings(engine="local"))
    assert len(used) == 1


def test_num_workers(tmp_path):
    assert processes(tmp_path / "here", num_workers=0) == {os.getpid()}
    others = processes(tmp_path / "there", num_workers=2)
    assert len(others) == 2 and os.getpid() not in others


def test_num_workers_and_num_gpus_of_ray(tmp_path, ray):
    run_jobs(write, ITEMS, tmp_path / "a", jobs=JobSettings(engine="ray", num_workers=3, num_gpus=0.25))
    assert (ray.most, ray.reserved[-1]["num_gpus"]) == (3, 0.25)
    ray.most = 0
    run_jobs(write, ITEMS, tmp_path / "b", jobs=JobSettings(engine="ray"))
    assert (ray.most, ray.reserved[-1]["num_gpus"]) == (2, 0)  # one runs and one waits for each processor


def test_item_timeout_s(tmp_path, ray):
    failures = run_jobs(slow, ITEMS, tmp_path / "local", jobs=JobSettings(item_timeout_s=0.5))
    assert failures == {"0.mp4": "took longer than 0.5 s"}
    run_jobs(write, ITEMS, tmp_path / "ray", jobs=JobSettings(engine="ray", item_timeout_s=7.0))
    assert ray.limits == {7.0}


TESTED = {JobSettings: {"engine", "num_workers", "num_gpus", "item_timeout_s"}}
