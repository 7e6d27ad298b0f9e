"""Load test of `svfap serve`: many clients at once, bad uploads in between, and the memory of its processes.

    python benchmarks/serve.py [--clients 50] [--bad 100] [--rounds 2] [--num_workers 2]

Starts a server of its own. In each round every client submits a short clip, follows its events to the end and compares the rows
with those of `svfap predict`; bad uploads are sent in between, and each must be refused with a reason. The run fails if a row is
lost, a bad upload is taken or refused without a reason, or the memory after the last round exceeds that after the first by more
than a tenth and 50 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from svfap.data.video import write_video
from svfap.predict.config import PredictConfig
from svfap.predict.predict import predict_videos

TOKEN = "the token of a benchmark"
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MOST_MB = 5


def make_clips(folder: Path, number: int, num_frames: int) -> list[Path]:
    """Clips of moving noise, each of other pixels."""
    clips = []
    for k in range(number):
        picture = np.random.default_rng(k).integers(0, 255, (64, 64, 3), np.uint8)
        clips.append(folder / f"clip_{k}.mp4")
        write_video(clips[-1], [np.roll(picture, shift, axis=1) for shift in range(num_frames)], 25)
    return clips


def bad_uploads(number: int, good: bytes) -> list[dict[str, Any]]:
    """Arguments of requests that must be refused."""
    kinds: list[dict[str, Any]] = [
        {"files": {"file": ("empty.mp4", b"")}},
        {"files": {"file": ("text.mp4", b"no video " * 100)}},
        {"files": {"file": ("cut.mp4", good[:200])}},
        {"files": {"file": ("list.mp4", b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n")}},
        {"files": {"file": ("program.exe", b"MZ")}},
        {"files": {"file": ("../../x.png", b"\x89PNG\r\n\x1a\n")}},
        {"files": {"file": ("large.mp4", bytes((MOST_MB + 1) * 10**6))}},
        {"files": {"file": ("a.mp4", good)}, "data": {"settings": '{"hop_s": NaN}'}},
        {"files": {"file": ("a.mp4", good)}, "data": {"settings": "[" * 10_000}},
        {"data": {"address": "http://169.254.169.254/a.mp4"}, "files": {}},
    ]
    return [kinds[k % len(kinds)] for k in range(number)]


class Memory(threading.Thread):
    """Megabytes of a process and of those that it has started, looked up twice a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.samples = pid, list[tuple[float, float, float]]()

    def run(self) -> None:
        while True:
            try:
                server, others = _rss(self.pid), sum(map(_rss, _children(self.pid)))
            except OSError:
                return
            self.samples.append((time.monotonic(), server, others))
            time.sleep(0.5)

    def between(self, start: float, end: float) -> tuple[float, float]:
        """The medians of the server and of its processes in this time."""
        found = [sample[1:] for sample in self.samples if start <= sample[0] <= end]
        server, others = np.median(np.array(found), axis=0)
        return float(server), float(others)


def _rss(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 1e6
    except FileNotFoundError:
        return 0.0


def _children(pid: int) -> list[int]:
    return [
        int(each) for task in Path(f"/proc/{pid}/task").iterdir() for each in (task / "children").read_text().split()
    ]


async def follow(client: httpx.AsyncClient, clip: Path) -> tuple[list[dict[str, Any]], float]:
    """The rows of a clip, and seconds from its submission to the first one."""
    began, first, rows = time.monotonic(), float("nan"), []
    files = {"file": (clip.name, clip.read_bytes())}
    answer = await client.post("/v1/jobs", files=files, data={"settings": '{"faces": "none"}'})
    assert answer.status_code == 201, answer.text
    name = ""
    async with client.stream("GET", f"/v1/jobs/{answer.json()['id']}/events") as events:
        async for line in events.aiter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data" and name == "row":
                first = first if rows else time.monotonic() - began
                rows.append(json.loads(value))
            elif field == "data" and name == "state":
                state = json.loads(value)
    assert state["state"] == "done", state
    return rows, first


async def refuse(client: httpx.AsyncClient, request: dict[str, Any]) -> int:
    answer = await client.post("/v1/jobs", **request)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["detail"], answer.text
    return answer.status_code


async def load(address: str, clips: list[Path], bad: list[dict[str, Any]]) -> tuple[list[Any], list[int]]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=120, limits=limits) as client:
        good = [follow(client, clip) for clip in clips]
        waiting = asyncio.Semaphore(10)

        async def some(request: dict[str, Any]) -> int:
            async with waiting:
                return await refuse(client, request)

        results = await asyncio.gather(*good, *map(some, bad))
    return list(results[: len(clips)]), list(results[len(clips) :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--bad", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--num_frames", type=int, default=40)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clips = make_clips(Path(folder), args.clients, args.num_frames)
        table = predict_videos(clips, PredictConfig(faces="none", out=None)).table
        expected = {
            Path(str(video)).name: rows.assign(video=Path(str(video)).name).to_dict("records")
            for video, rows in table.groupby("video")
        }
        command = [
            sys.executable,
            "-m",
            "svfap",
            "serve",
            "--port",
            "0",
            "--folder",
            f"{folder}/jobs",
            "--token",
            TOKEN,
        ]
        command += ["--num_workers", str(args.num_workers), "--max_upload_mb", str(MOST_MB), "--max_uploads", "200"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stderr.readline())
        assert found is not None
        threading.Thread(target=lambda: list(process.stderr or ()), daemon=True).start()
        memory = Memory(process.pid)
        memory.start()
        try:
            kept = []
            print(
                f"{'round':>5} {'jobs/min':>9} {'first row p50':>14} {'p95':>7} {'server MB':>10} {'processes MB':>13}"
            )
            for number in range(args.rounds + 1):
                began = time.monotonic()
                bad = bad_uploads(args.bad, clips[0].read_bytes()) if number else []
                results, statuses = asyncio.run(load(found[0], clips if number else clips[: 2 * args.num_workers], bad))
                seconds = time.monotonic() - began
                for rows, _ in results:
                    assert rows == expected[rows[0]["video"]]
                assert len({rows[0]["video"] for rows, _ in results}) == len(results)
                p50, p95 = np.percentile([first for _, first in results], [50, 95])
                time.sleep(2)
                server, others = memory.between(time.monotonic() - 2, time.monotonic())
                name = number or "warm"
                rate = 60 * len(results) / seconds
                print(f"{name:>5} {rate:9.0f} {p50:12.1f} s {p95:5.1f} s {server:10.0f} {others:13.0f}", flush=True)
                if number:
                    kept.append(server + others)
                    assert len(statuses) == args.bad
            assert kept[-1] < 1.1 * kept[0] + 50, f"memory grew: {kept}"
            num_jobs, num_bad = args.clients * args.rounds, args.bad * args.rounds
            print(f"{num_jobs} jobs, no row lost; {num_bad} bad uploads, each refused with a reason")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


if __name__ == "__main__":
    main()
