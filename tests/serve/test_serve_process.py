"""`svfap serve` as a process of its own, and its Python client."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi_offline")
import httpx
import pandas as pd
from served import TOKEN, make_video

from svfap.errors import UserError
from svfap.predict.config import PredictConfig
from svfap.predict.predict import predict_videos
from svfap.serve.client import Client


class Process:
    """A server; its address is known once it listens."""

    def __init__(self, folder, *options):
        options = ["--port", "0", "--token", TOKEN, *options]
        command = [sys.executable, "-m", "svfap", "serve", "--folder", str(folder), *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.said = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.said)
        self.port = int(found[1]) if found else 0
        self.address = f"http://127.0.0.1:{self.port}"
        for _ in range(200 if found else 0):
            try:
                httpx.get(f"{self.address}/health")
                break
            except httpx.TransportError:
                time.sleep(0.05)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def server(folder):
    server = Process(folder / "jobs", "--upload_timeout_s", "1", "--max_upload_mb", "30")
    yield server
    if server.process.poll() is None:
        server.end(signal.SIGKILL)


def children(process):
    return [int(pid) for pid in open(f"/proc/{process.pid}/task/{process.pid}/children").read().split()]


def test_python_client(server, folder):
    video, seen = make_video(folder / "film.mp4"), []
    with Client(TOKEN, server.address) as client:
        job = client.submit(video, faces="none")
        rows = list(client.rows(job["id"], seen.append))
        expected = predict_videos(video, PredictConfig(faces="none", out=None)).table.assign(video="film.mp4")
        pd.testing.assert_frame_equal(pd.DataFrame(rows), expected, check_dtype=False)
        pd.testing.assert_frame_equal(client.wait(job["id"]), expected, check_dtype=False)
        assert [each["state"] for each in seen][-1] == client.jobs()[0]["state"] == "done"
        client.save(job["id"], "page", folder / "page.html")
        assert "film.mp4" in (folder / "page.html").read_text()
        for kind in ("csv", "parquet", "json", "vtt", "eaf"):
            client.save(job["id"], "table", folder / f"table.{kind}", format=kind, decimals=2)
        saved = pd.read_csv(folder / "table.csv")
        pd.testing.assert_frame_equal(saved, pd.read_parquet(folder / "table.parquet"), check_dtype=False)
        assert len(saved) == len(expected) and (folder / "table.vtt").read_text().startswith("WEBVTT")
        client.save(job["id"], "table", folder / "summary.csv", summary=True)
        assert len(pd.read_csv(folder / "summary.csv")) == 1
        for act, reason in (
            (lambda: client.submit(folder / "page.html"), "by its suffix"),
            (lambda: client.submit(folder / "none.mp4"), "cannot be read"),
            (lambda: client.submit(video, hop=1), "settings: hop: Extra inputs"),
            (lambda: client.submit("http://127.0.0.1:9/a.mp4"), "no public address"),
            (lambda: client.cancel(job["id"]), "has ended: done"),
            (lambda: client.save(job["id"], "table", folder / "x", format="doc"), "Input should be"),
            (lambda: client.job("x"), "no such job"),
        ):
            with pytest.raises(UserError, match=reason):
                act()
        client.delete(job["id"])
        with pytest.raises(UserError, match="no such job"):
            client.table(job["id"])
    with pytest.raises(UserError, match="needs the token"):
        Client("wrong", server.address).jobs()
    with pytest.raises(UserError, match="cannot be reached"):
        Client(TOKEN, "http://127.0.0.1:1").jobs()


def test_callers_that_are_slow_or_go_away(server, folder):
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
    form = b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 20000000\r\n\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n' + bytes(2_000_000)

    def connected(data):
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        connection.sendall(data)
        return connection

    silent, cut, slow = connected(b""), connected(head), connected(head + form + part)
    gone = connected(head + form + part)
    gone.close()
    assert b"408" in slow.recv(1000).splitlines()[0]
    assert silent.recv(10) == cut.recv(10) == b""  # ended by the server
    ask = {"headers": {"Authorization": f"Bearer {TOKEN}"}}
    for _ in range(100):
        numbers = httpx.get(f"{server.address}/metrics", **ask).text
        if "svfap_uploads 0.0" in numbers:
            break
        time.sleep(0.05)
    assert "svfap_uploads 0.0" in numbers and list((folder / "jobs" / "incoming").iterdir()) == []


@pytest.mark.slow
def test_a_hundred_follow_a_job_and_go_away(server, folder):
    with Client(TOKEN, server.address) as client:
        job = client.submit(make_video(folder / "followed.mp4", 400, (16, 16)), faces="none")
        request = (
            f"GET /v1/jobs/{job['id']}/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        )
        followers = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(100)]
        for each in followers:
            each.sendall(request.encode())
        assert all(each.recv(12) == b"HTTP/1.1 200" for each in followers)
        for each in followers[:50]:
            each.close()
        assert len(client.wait(job["id"])) > 10
        for each in followers[50:]:
            text = b""
            while b'"state":"done"' not in text.replace(b" ", b""):
                text += each.recv(1_000_000)
            each.close()


@pytest.mark.slow
def test_only_one_server_has_a_folder_or_a_port(server, folder):
    (folder / "file").write_text("")
    with ThreadPoolExecutor() as threads:  # they start at the same time
        others = ((folder / "jobs",), (folder / "others", "--port", str(server.port)), (folder / "file" / "below",))
        ended = list(threads.map(lambda options: Process(*options), others))
    for each, reason in zip(ended, ("is being written by another", "choose another --port", "folder="), strict=True):
        assert each.process.wait(20) == 1 and reason in each.said and "Traceback" not in each.said


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks up processes in /proc")
@pytest.mark.slow
def test_jobs_go_on_after_the_server_was_killed(server, folder):
    long, short = make_video(folder / "long.mp4", 800, (16, 16)), make_video(folder / "short.mp4")
    with Client(TOKEN, server.address) as client:
        jobs = [client.submit(each, faces="none") for each in (long, short)]
        while client.job(jobs[0]["id"])["state"] == "queued":
            time.sleep(0.02)
    processes = children(server.process)
    server.end(signal.SIGKILL)
    for _ in range(200):
        if not any(os.path.exists(f"/proc/{pid}") for pid in processes):
            break
        time.sleep(0.05)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in processes)  # they have ended with it
    again = Process(folder / "jobs")
    try:
        with Client(TOKEN, again.address) as client:
            tables = [client.wait(job["id"]) for job in jobs]
        for video, table in zip((long, short), tables, strict=True):
            expected = predict_videos(video, PredictConfig(faces="none", out=None)).table.assign(video=video.name)
            pd.testing.assert_frame_equal(table, expected, check_dtype=False)
    finally:
        assert again.end(signal.SIGTERM) in (0, -signal.SIGTERM)
