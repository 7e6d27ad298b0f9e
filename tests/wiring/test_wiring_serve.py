"""Every setting of `svfap serve` and `svfap app` has its effect."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("fastapi_offline")
from fastapi.testclient import TestClient
from observe import names_of

from svfap.data.video import write_video
from svfap.errors import UserError
from svfap.serve import queue as queue_module
from svfap.serve import serve as serve_module
from svfap.serve.api import make_app
from svfap.serve.config import AppConfig, ServeConfig
from svfap.serve.serve import serve, stored_token
from svfap.serve.worker import Outcome

TESTED = {ServeConfig: names_of(ServeConfig), AppConfig: names_of(AppConfig)}
TOKEN = "a token of the tests"
SETTINGS = {"device": "cpu", "precision": "fp32", "batch_size": 3}


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    import numpy as np

    path = tmp_path_factory.mktemp("video") / "a.mp4"
    write_video(path, np.zeros((30, 64, 64, 3), np.uint8), 25)
    return path


@pytest.fixture
def serving(tmp_path, monkeypatch):
    """A client of a server with these settings, whose processes are threads' functions: `orders` has what they were given."""
    orders, clients = [], []

    class Slot:
        def __init__(self):
            self.job_id = self.order = None

        def start(self):
            return self

        def send(self, order):
            self.order = order
            orders.append(order)

        def poll(self, seconds):
            time.sleep(0.01)
            return "slow" not in self.order.name

        def recv(self):
            return Outcome("", [])

        def kill(self):
            pass

    monkeypatch.setattr(queue_module, "_Slot", Slot)

    def start(config=ServeConfig, **settings):
        made = config(**{"folder": tmp_path / "jobs", "token": TOKEN, **settings})
        client = TestClient(
            make_app(made, TOKEN), base_url="http://localhost", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        clients.append(client.__enter__())
        client.orders = orders
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def submit(client, video, name="a.mp4", **data):
    return client.post("/v1/jobs", files={"file": (name, video.read_bytes())}, data=data)


def state(client, answer, seconds=5):
    for _ in range(100 * seconds):
        job = client.get(f"/v1/jobs/{answer.json()['id']}").json()
        if job["ended"]:
            break
        time.sleep(0.01)
    return job


def test_what_reaches_the_processes(serving, video, tmp_path, monkeypatch):
    (tmp_path / "own_model").mkdir()
    monkeypatch.chdir(tmp_path)
    client = serving(num_workers=2, max_length_s=9, max_megapixels=2, models=["movement", "own_model"], **SETTINGS)
    assert client.get("/v1/models").json() == ["movement", "own_model"]
    answers = [submit(client, video), submit(client, video, settings='{"model": "own_model", "hop_s": 1}')]
    assert [state(client, each)["state"] for each in answers] == ["done", "done"]
    second, first = sorted(client.orders, key=lambda order: order.settings["model"])
    assert first.settings == {**SETTINGS, "model": "movement"}
    assert second.settings == {**SETTINGS, "model": "../../../own_model", "hop_s": 1.0}
    assert (first.max_length_s, first.max_megapixels) == (9, 2)
    for number in range(3):
        submit(client, video, f"slow{number}.mp4")
    for _ in range(300):
        running = [each["name"] for each in client.get("/v1/jobs?state=running").json()]
        if len(running) == 2:
            break
        time.sleep(0.01)
    assert running == ["slow0.mp4", "slow1.mp4"]


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"max_upload_mb": 0.0001}, "taken"),
        ({"max_length_s": 0.5}, "at most 0 s"),
        ({"max_megapixels": 0.001}, "64 × 64 pixels"),
        ({"max_disk_gb": 0.0000005, "max_upload_mb": 0.0004}, "GB for uploads and results are full"),
        ({}, None),
    ],
)
def test_limits_of_a_file(serving, video, settings, reason):
    answer = submit(serving(**settings), video)
    assert (answer.status_code == 201) if reason is None else reason in answer.json()["detail"]


def test_max_jobs_and_job_timeout_s(serving, video):
    client = serving(max_jobs=1, job_timeout_s=0.5)
    first = submit(client, video, "slow.mp4")
    assert submit(client, video).status_code == 429
    assert "longer than 0.5 s" in state(client, first)["reason"]
    assert submit(client, video).status_code == 201


def test_max_uploads(serving, video):
    client = serving(max_uploads=1)
    with client.app.state.server.upload(1) as refusal:
        assert refusal is None
        assert "1 uploads are under way" in submit(client, video).json()["detail"]
    assert submit(client, video).status_code == 201


@pytest.mark.parametrize("is_allowed", [True, False])
def test_addresses(serving, is_allowed):
    answer = serving(addresses=is_allowed).post("/v1/jobs", data={"address": "http://10.0.0.1/a.mp4"}, files={})
    assert ("no public address" if is_allowed else "takes files, not addresses") in answer.json()["detail"]


@pytest.mark.parametrize("config, keeps", [(ServeConfig, False), (AppConfig, True)])
def test_what_is_kept(serving, video, config, keeps):
    client = serving(config, keep_results_h=48)
    job, queue = state(client, submit(client, video)), client.app.state.server.queue
    queue.clean(job["ended"] + 25 * 3600)
    assert client.get(f"/v1/jobs/{job['id']}").json()["has_video"] == keeps
    queue.clean(job["ended"] + 49 * 3600)
    assert client.get(f"/v1/jobs/{job['id']}").status_code == 404


def test_upload_timeout_s(serving):
    import asyncio

    from starlette.exceptions import HTTPException

    from svfap.serve.limits import _Exchange

    async def never():
        await asyncio.sleep(60)

    client = serving(upload_timeout_s=0.05)
    gate = next(each for each in client.app.user_middleware if "timeout_s" in each.kwargs)
    exchange = _Exchange(never, never, 0, gate.kwargs["timeout_s"])
    with pytest.raises(HTTPException, match="sends nothing for 0.05 s"):
        asyncio.run(exchange.receive())


def test_address_token_folder_and_browser(tmp_path, monkeypatch, capsys):
    served, opened = [], []
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: served.append(sockets[0].getsockname()))
    monkeypatch.setattr("uvicorn.Config.load", lambda self: None)
    monkeypatch.setattr(
        serve_module, "Timer", lambda seconds, act, args: type("", (), {"start": lambda _: opened.append(args[0])})()
    )
    serve(ServeConfig(folder=tmp_path / "a", port=0, token=TOKEN))
    serve(AppConfig(folder=tmp_path / "b", port=0, host="0.0.0.0"))
    serve(AppConfig(folder=tmp_path / "c", port=0, open_browser=False))
    said = capsys.readouterr().err.replace("\n", "")
    assert [host for host, _ in served] == ["127.0.0.1", "0.0.0.0", "127.0.0.1"]
    assert f"http://127.0.0.1:{served[0][1]}/?key={TOKEN}" in said and "can be reached by other machines" in said
    assert opened == [f"http://0.0.0.0:{served[1][1]}/?key={stored_token(tmp_path / 'b')}"]
    assert (tmp_path / "a" / "jobs.sqlite").exists() and not (tmp_path / "a" / "token").exists()
    taken = served[0][1]
    serve(ServeConfig(folder=tmp_path / "d", port=taken, token=TOKEN))
    assert served[-1][1] == taken
    with pytest.raises(UserError, match="at least 16"):
        ServeConfig(token="short")
