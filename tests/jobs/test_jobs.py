"""Jobs: restarts, failures, time-outs, workers that die, and a cluster that loses a machine."""

from __future__ import annotations

import csv
import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from svfap.errors import UserError
from svfap.jobs.run import result_of, run_jobs
from svfap.jobs.task import Task, do
from svfap.settings import JobSettings

HOSTILE = [
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "a/b.mp4",
        "a_b.mp4",
        "a/b.mov",
        "a b",
        "",
        ".",
        "..",
        ".hidden",
        "-rf",
        "~",
        "*",
    ),
    *(
        "CON",
        "line\nbreak",
        'quo"te,comma',
        "ünïcode é",
        "e\u0301",
        "x" * 5000,
        "nul\0byte",
        "bad\udcff",
        "%2e%2e",
        "A/B.mp4",
    ),
]


def write(payload: str, target: Path) -> None:
    """Write the payload, and beside the results one line for each time that this was called."""
    with (target.parent.parent / "calls.txt").open("a") as file:
        file.write(f"{payload}\n")
    target.write_text(payload)


def calls(out: Path) -> list[str]:
    return sorted((out / "calls.txt").read_text().split())


def results(out: Path, keys: list[str]) -> list[str]:
    return [result_of(out, key).read_text() for key in keys]


def items(number: int) -> list[tuple[str, str]]:
    return [(f"videos/{k}.mp4", str(k)) for k in range(number)]


def everything_below(out: Path) -> set[str]:
    """The names of all results and of any other files beside them."""
    return {entry.name for entry in out.glob("??/*")} | {entry.name for entry in out.glob("??/.*")}


def fail_on_odd(payload: str, target: Path) -> None:
    if int(payload) % 2:
        target.write_text("half")
        raise (UserError(f"{payload} is odd") if payload == "1" else ValueError(f"{payload}\nis odd"))
    write(payload, target)


def die(always: str, once: str, payload: str, target: Path) -> None:
    """The process dies at two payloads, at one of them every time."""
    write(payload, target)
    seen = target.parent.parent / f"died_{payload}"
    if payload == always or (payload == once and not seen.exists()):
        seen.touch()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_item_once_and_a_restart_does_only_what_is_left(tmp_path, num_workers):
    keys = [key for key, _ in items(7)]
    assert run_jobs(write, items(4), tmp_path, jobs=JobSettings(num_workers=num_workers)) == {}
    assert run_jobs(write, items(7), tmp_path, jobs=JobSettings(num_workers=num_workers)) == {}
    assert results(tmp_path, keys) == [str(k) for k in range(7)]
    assert calls(tmp_path) == [str(k) for k in range(7)]
    assert everything_below(tmp_path) == {result_of(tmp_path, key).name for key in keys}
    assert not (tmp_path / "failures.csv").exists()


def test_hostile_keys_neither_leave_the_folder_nor_collide(tmp_path):
    out = tmp_path / "deep" / "out"
    assert run_jobs(write, [(key, str(k)) for k, key in enumerate(HOSTILE)], out) == {}
    assert results(out, HOSTILE) == [str(k) for k in range(len(HOSTILE))]
    assert len(everything_below(out)) == len(HOSTILE)
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"out"}
    for key in HOSTILE:
        assert result_of(out, key).resolve().parent.parent == out
        assert len(result_of(out, key).name) <= 61
    assert run_jobs(fail_on_odd, [(key, "1") for key in HOSTILE], tmp_path / "failing").keys() == set(HOSTILE)
    with (tmp_path / "failing" / "failures.csv").open(newline="") as file:
        written = {row["key"] for row in csv.DictReader(file)}
    assert written == {key.replace("\udcff", "\\udcff") for key in HOSTILE}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_failures_are_listed_and_tried_again(tmp_path, num_workers):
    failures = run_jobs(fail_on_odd, items(5), tmp_path, jobs=JobSettings(num_workers=num_workers))
    assert failures == {"videos/1.mp4": "1 is odd", "videos/3.mp4": "ValueError: 3 is odd"}
    lines = (tmp_path / "failures.csv").read_text().splitlines()
    assert lines == ["key,reason", "videos/1.mp4,1 is odd", "videos/3.mp4,ValueError: 3 is odd"]
    assert len(everything_below(tmp_path)) == 3  # what was half written is gone
    assert run_jobs(write, items(5), tmp_path) == {}
    assert calls(tmp_path) == ["0", "1", "2", "3", "4"]
    assert not (tmp_path / "failures.csv").exists()


def test_a_process_that_dies_costs_its_item_after_a_second_try(tmp_path):
    failures = run_jobs(partial(die, "2", "4"), items(8), tmp_path, jobs=JobSettings(num_workers=2))
    assert failures == {
        "videos/2.mp4": "the process that worked on it died 2 times (SIGKILL, perhaps out of memory)",
    }
    kept = [k for k in range(8) if k != 2]
    assert results(tmp_path, [f"videos/{k}.mp4" for k in kept]) == [str(k) for k in kept]
    assert calls(tmp_path) == sorted([*map(str, range(8)), "2", "4"])
    assert len(everything_below(tmp_path)) == 7


def get_stuck(payload: str, target: Path) -> None:
    """Sleep at item 1; at item 2 hold the interpreter's lock, as a library may, so that no Python code runs."""
    write(payload, target)
    if payload == "1":
        time.sleep(100)
    if payload == "2":
        sum(range(10**12))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_item_that_takes_too_long_fails_alone_and_at_once(tmp_path, num_workers):
    jobs = JobSettings(num_workers=num_workers, item_timeout_s=2)
    failures = run_jobs(get_stuck, items(6), tmp_path, jobs=jobs)
    assert failures == dict.fromkeys(("videos/1.mp4", "videos/2.mp4"), "took longer than 2 s")
    assert "videos/2.mp4,took longer than 2 s" in (tmp_path / "failures.csv").read_text()
    assert calls(tmp_path) == [str(k) for k in range(6)]  # once each
    assert results(tmp_path, [f"videos/{k}.mp4" for k in (0, 3, 4, 5)]) == ["0", "3", "4", "5"]
    assert len(everything_below(tmp_path)) == 4
    assert run_jobs(write, items(6), tmp_path, jobs=jobs) == {}
    assert len(everything_below(tmp_path)) == 6


def test_an_item_has_taken_too_long_even_if_the_watchdog_wakes_up_late(tmp_path, monkeypatch):
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *_, **__: None)
    task = Task("0.mp4", 0.02, tmp_path / "0.txt")
    assert do(lambda seconds, target: time.sleep(seconds), task, timeout_s=0.01) == "took longer than 0.01 s"
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_dies_before_its_time_is_over_has_not_timed_out(tmp_path):
    failures = run_jobs(partial(die, "1", ""), items(2), tmp_path, jobs=JobSettings(item_timeout_s=60))
    assert failures == {"videos/1.mp4": "the process that worked on it died 2 times (SIGKILL, perhaps out of memory)"}


def exits(payload: str, target: Path) -> None:
    os._exit(0)


def test_a_process_that_exits_as_if_all_were_well_is_noticed(tmp_path):
    failures = run_jobs(exits, items(1), tmp_path, jobs=JobSettings(num_workers=1))
    assert failures == {"videos/0.mp4": "the process that worked on it died 2 times (exit status 0)"}


def test_items_are_taken_only_when_a_process_is_free(tmp_path):
    def endless():
        for number in range(10**9):
            assert number - len(list(tmp_path.glob("??/[!.]*"))) <= 2
            if number == 30:
                return
            yield f"videos/{number}.mp4", str(number)

    assert run_jobs(write, endless(), tmp_path, jobs=JobSettings(num_workers=2)) == {}
    assert len(calls(tmp_path)) == 30


def folder(payload: str, target: Path) -> None:
    target.mkdir()
    (target / "a.txt").write_text(payload)
    if payload == "1":
        raise OSError(28, "No space left on device")


def test_a_result_may_be_a_folder(tmp_path):
    assert run_jobs(folder, items(2), tmp_path) == {"videos/1.mp4": "OSError: No space left on device"}
    assert (result_of(tmp_path, "videos/0.mp4") / "a.txt").read_text() == "0"
    assert len(everything_below(tmp_path)) == 1


def nothing(payload: str, target: Path) -> None:
    pass


def test_work_that_writes_nothing_has_failed(tmp_path):
    assert run_jobs(nothing, items(1), tmp_path) == {"videos/0.mp4": "nothing was written"}


def test_keys_that_come_twice_and_other_settings_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"^videos/0\.mp4: comes twice"):
        run_jobs(write, [*items(2), *items(1)], tmp_path)
    run_jobs(write, items(2), tmp_path / "b", settings={"size_px": 224, "fps": None, "box": (1, 2)})
    run_jobs(write, items(2), tmp_path / "b", settings={"size_px": 224, "fps": None, "box": (1, 2)})
    with pytest.raises(UserError, match=r"b: was made with other settings \(size_px: 224 then, 160 now\); remove it"):
        run_jobs(write, items(2), tmp_path / "b", settings={"size_px": 160, "fps": None, "box": (1, 2)})
    (tmp_path / "b" / "settings.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        run_jobs(write, items(2), tmp_path / "b")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"engine": "spark"}, "engine='spark' is none of local, ray"),
        ({"num_workers": -1}, "num_workers=-1: must be at least 0"),
        ({"num_gpus": 1}, "num_gpus=1: is what a Ray task reserves"),
        ({"num_gpus": -1, "engine": "ray"}, "num_gpus=-1: must be at least 0"),
        ({"item_timeout_s": 0}, "item_timeout_s=0: must be a number of seconds above 0"),
        ({"item_timeout_s": float("nan")}, "item_timeout_s=nan: must be"),
    ],
)
def test_settings_that_cannot_be(fields, message):
    with pytest.raises(UserError, match=message):
        JobSettings(**fields)


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom svfap.jobs.run import run_jobs\nfrom svfap.settings import JobSettings\n"
        "from test_jobs import write, items\n"
        f"run_jobs(write, items(3), Path({str(tmp_path / 'out')!r}), jobs=JobSettings(num_workers=2))\n"
    )
    done = subprocess.run([sys.executable, script], env=_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "svfap.jobs.task.EngineError: worker processes do not start (exit status 1); in a script" in done.stderr


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}


def slowly(payload: str, target: Path) -> None:
    write(payload, target)
    time.sleep(0 if int(payload) < 3 else 60)


def test_ctrl_c_stops_cleanly_and_the_next_run_goes_on(tmp_path):
    out = tmp_path / "out"
    program = (
        "import signal\nfrom pathlib import Path\nfrom svfap.jobs.run import run_jobs\n"
        "from svfap.settings import JobSettings\nfrom test_jobs import slowly, items\n"
        # A shell starts what runs in the background with Ctrl-C ignored, and children inherit that.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "if __name__ == '__main__':\n    try:\n"
        f"        run_jobs(slowly, items(20), Path({str(out)!r}), jobs=JobSettings(num_workers=2))\n"
        "    except KeyboardInterrupt:\n        raise SystemExit(130)\n"
    )
    (tmp_path / "program.py").write_text(program)
    run = subprocess.Popen(
        [sys.executable, tmp_path / "program.py"],
        env=_environment(), stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        _wait_for(lambda: (out / "calls.txt").exists() and len(calls(out)) == 5)
        printed = None
        while printed is None:
            os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to the workers too
            with suppress(subprocess.TimeoutExpired):  # Python may lose one that comes while it cleans up an object
                printed = run.communicate(timeout=20)[1]
    finally:
        run.kill()
    assert run.returncode == 130
    assert "stopped with 3 done; the same command continues from there" in printed
    assert "Traceback" not in printed
    assert everything_below(out) == {result_of(out, f"videos/{k}.mp4").name for k in range(3)}
    assert run_jobs(write, items(20), out) == {}
    assert results(out, [key for key, _ in items(20)]) == [str(k) for k in range(20)]
    assert sorted(calls(out).count(str(k)) for k in range(20)) == [1] * 18 + [2] * 2


def forever(payload: str, target: Path) -> None:
    with (target.parent.parent / "pids.txt").open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(300)


def test_busy_workers_end_when_the_main_process_is_killed(tmp_path):
    out = tmp_path / "out"
    (tmp_path / "program.py").write_text(
        "from pathlib import Path\nfrom svfap.jobs.run import run_jobs\nfrom svfap.settings import JobSettings\n"
        "from test_jobs import forever, items\n"
        "if __name__ == '__main__':\n"
        f"    run_jobs(forever, items(4), Path({str(out)!r}), jobs=JobSettings(num_workers=2))\n"
    )
    run = subprocess.Popen([sys.executable, tmp_path / "program.py"], env=_environment())
    pids = out / "pids.txt"
    try:
        _wait_for(lambda: _num_words(pids) == 2)
    finally:
        run.kill()
        run.wait()
    _wait_for(lambda: not any(_is_running(int(pid)) for pid in pids.read_text().split()))


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait_for(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# Ray ----------------------------------------------------------------------------------------------------------------


def on_cluster(victim: str, payload: str, target: Path) -> None:
    """Record where this runs. One item kills its process every time, one fails.

    On the victim both processors get stuck, each after a while. The other machine waits for that before it ends an item, so
    that it cannot do all the work before the victim has begun.
    """
    import ray

    node = ray.get_runtime_context().get_node_id()
    begun = target.parent.parent / f"begun_{node}"
    with begun.open("a") as file:
        file.write(f"{payload}\n")
    if payload == "5":
        os.kill(os.getpid(), signal.SIGKILL)
    if payload == "6":
        raise ValueError("six")
    target.write_text(payload)
    stuck = begun.with_name("stuck.txt")
    if node != victim:
        _wait_for(lambda: _num_words(stuck) == 2)
    elif len(begun.read_text().split()) > 4:
        with stuck.open("a") as file:
            file.write(f"{payload}\n")
        time.sleep(300)


def _num_words(file: Path) -> int:
    return len(file.read_text().split()) if file.exists() else 0


@pytest.mark.slow
def test_a_ray_cluster_that_loses_a_machine_loses_no_item_and_doubles_none(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the extra `ray` is not installed: the cluster is not tested")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.setenv("PYTHONPATH", _environment()["PYTHONPATH"])
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        second = cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        lost, stuck = tmp_path / f"begun_{second.node_id}", tmp_path / "stuck.txt"

        def pull_the_plug() -> None:
            _wait_for(lambda: _num_words(stuck) == 2)
            cluster.remove_node(second, allow_graceful=False)

        thread = threading.Thread(target=pull_the_plug)
        thread.start()
        failures = run_jobs(partial(on_cluster, second.node_id), items(40), tmp_path, jobs=JobSettings(engine="ray"))
        thread.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert failures.keys() == {"videos/5.mp4", "videos/6.mp4"}
    assert failures["videos/5.mp4"].startswith("the process that worked on it died 2 times")
    assert failures["videos/6.mp4"] == "ValueError: six"
    whole = [k for k in range(40) if k not in (5, 6)]
    assert results(tmp_path, [f"videos/{k}.mp4" for k in whole]) == [str(k) for k in whole]
    assert everything_below(tmp_path) == {result_of(tmp_path, f"videos/{k}.mp4").name for k in whole}
    kept = next(file for file in tmp_path.glob("begun_*") if file != lost)
    begun_there, begun_here = set(lost.read_text().split()), kept.read_text().split()
    assert begun_there | set(begun_here) == {str(k) for k in range(40)}
    again = (begun_there & set(begun_here)) - {"5"}  # it ends its process, and is tried twice on whichever machine
    assert again == set(stuck.read_text().split())  # the items on the two processors that were lost, and no others
    assert sorted(begun_here.count(k) for k in again) == [1, 1]


def get_stuck_at_one(payload: str, target: Path) -> None:
    target.write_text(payload)
    if payload == "1":
        sum(range(10**12))


@pytest.mark.slow
def test_an_item_that_takes_too_long_on_ray_fails_alone(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.setenv("PYTHONPATH", _environment()["PYTHONPATH"])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
        jobs = JobSettings(engine="ray", item_timeout_s=3)
        failures = run_jobs(get_stuck_at_one, items(5), tmp_path, jobs=jobs)
    finally:
        ray.shutdown()
    assert failures == {"videos/1.mp4": "took longer than 3 s"}
    assert results(tmp_path, [f"videos/{k}.mp4" for k in (0, 2, 3, 4)]) == ["0", "2", "3", "4"]
    assert len(everything_below(tmp_path)) == 4
