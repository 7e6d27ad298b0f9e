"""The server: jobs through HTTP, with a real process that predicts."""

from __future__ import annotations

import json
import time

import pytest
from fastapi.testclient import TestClient

from svfap.serve.api import make_app
from svfap.serve.config import ServeConfig

TOKEN = "a token of the tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    config = ServeConfig(folder=tmp_path_factory.mktemp("server"), token=TOKEN, max_upload_mb=3, max_length_s=60)
    with TestClient(make_app(config, TOKEN), base_url="http://localhost", headers=BEARER) as client:
        yield client


def ended(client, job, seconds=60):
    for _ in range(10 * seconds):
        job = client.get(f"/v1/jobs/{job['id']}").json()
        if job["state"] in ("done", "failed", "cancelled"):
            return job
        time.sleep(0.1)
    raise AssertionError(job)


def submit(client, video, **settings):
    with video.open("rb") as file:
        return client.post("/v1/jobs", files={"file": (video.name, file)}, data={"settings": json.dumps(settings)})


@pytest.fixture(scope="module")
def done(client, faces):
    return ended(
        client, submit(client, next((faces / "videos").glob("test*.mp4")), faces="none").raise_for_status().json()
    )


def test_a_video_becomes_rows(client, done):
    assert (done["state"], done["reason"]) == ("done", "")
    rows = [json.loads(line) for line in client.get(f"/v1/jobs/{done['id']}/rows").text.splitlines()]
    assert len(rows) > 3 and rows[0]["video"] == done["name"]
    later = client.get(f"/v1/jobs/{done['id']}/rows", params={"start": 2}).text.splitlines()
    assert [json.loads(line) for line in later] == rows[2:]


def test_events_are_the_rows_and_end_with_the_state(client, done):
    text = client.get(f"/v1/jobs/{done['id']}/events").text
    events = [dict(line.split(": ", 1) for line in event.splitlines()) for event in text.strip().split("\n\n")]
    rows = client.get(f"/v1/jobs/{done['id']}/rows").text.splitlines()
    assert [json.loads(event["data"]) for event in events if event["event"] == "row"] == list(map(json.loads, rows))
    assert json.loads(events[-1]["data"])["state"] == "done"
    again = client.get(f"/v1/jobs/{done['id']}/events", headers={"Last-Event-ID": "1"}).text
    assert again.startswith("event: row") and "id: 2" in again.split("\n\n")[0]
