"""The server: jobs through HTTP, with a real process that predicts."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest
from fastapi.testclient import TestClient
from served import BEARER, TOKEN, light_work, make_video, submit, wait_for

from svfap.serve.api import make_app
from svfap.serve.config import ServeConfig
from svfap.serve.server import CALLER_SETTINGS
from svfap.serve.store import TABLE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def client(folder):
    """Of a server whose processes do not load a model."""
    config = ServeConfig(
        folder=folder / "jobs", token=TOKEN, max_upload_mb=3, max_length_s=60, max_jobs=6, keep_uploads_h=1
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("svfap.serve.queue.work", light_work)
        with TestClient(make_app(config, TOKEN), base_url="http://localhost", headers=BEARER) as client:
            yield client


@pytest.fixture(scope="module")
def video(folder):
    return make_video(folder / "short.mp4")


@pytest.fixture(scope="module")
def long_video(folder):
    """One that takes a minute, see `light_work`."""
    return make_video(folder / "long.mp4")


@pytest.fixture(scope="module")
def done(client, video):
    return wait_for(client, submit(client, video).raise_for_status().json())


def rows_of(client, job):
    return [json.loads(line) for line in client.get(f"/v1/jobs/{job['id']}/rows").text.splitlines()]


def process_of(client):
    return client.app.state.server.queue._slots[0]._process


def test_events_are_the_rows_and_end_with_the_state(client, done):
    text = client.get(f"/v1/jobs/{done['id']}/events").text
    events = [dict(line.split(": ", 1) for line in event.splitlines()) for event in text.strip().split("\n\n")]
    rows = rows_of(client, done)
    assert [json.loads(event["data"]) for event in events if event["event"] == "row"] == rows
    assert json.loads(events[-1]["data"])["state"] == "done"
    again = client.get(f"/v1/jobs/{done['id']}/events", headers={"Last-Event-ID": "0"}).text
    assert again.startswith("event: row") and "id: 1" in again.split("\n\n")[0]


def test_rows_that_begin_again_are_told_to_those_who_follow(client, done):
    server = client.app.state.server
    table = next(server.store.result(server.store[done["id"]], "").glob("affect.jsonl"))
    content, size = table.read_bytes(), table.stat().st_size
    try:
        table.write_bytes(content[: size // 2])
        assert server.look(done["id"], 0, size).is_shorter
        assert not server.look(done["id"], 0, size // 2).is_shorter
    finally:
        table.write_bytes(content)


def test_cancel_again_and_delete(client, long_video, video):
    first, second, third = (submit(client, long_video).json() for _ in range(3))
    wait_for(client, first, ("running",))
    assert client.get(f"/v1/jobs/{third['id']}").json()["ahead"] == 1
    assert client.post(f"/v1/jobs/{second['id']}/cancel").json()["state"] == "cancelled"
    assert client.post(f"/v1/jobs/{second['id']}/cancel").status_code == 409
    assert client.post(f"/v1/jobs/{first['id']}/cancel").json()["state"] == "cancelled"
    assert client.delete(f"/v1/jobs/{second['id']}").status_code == 204
    assert client.get(f"/v1/jobs/{second['id']}").status_code == 404
    begun = client.post(f"/v1/jobs/{first['id']}/again").json()
    assert begun["state"] == "queued" and begun["reason"] == ""
    assert client.post(f"/v1/jobs/{first['id']}/again").status_code == 409
    for job in (first, third):  # one of them runs
        assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
        assert not client.app.state.server.store.folder_of(job["id"]).exists()
    assert wait_for(client, submit(client, video).json())["state"] == "done"


def test_a_process_that_is_killed_once_is_replaced_and_twice_is_the_end(client, long_video):
    job = submit(client, long_video).json()
    wait_for(client, job, ("running",))
    first = process_of(client)
    first.kill()
    for _ in range(200):
        second = process_of(client)
        if second is not None and second is not first and client.get(f"/v1/jobs/{job['id']}").json()["frames"]:
            break
        time.sleep(0.05)
    second.kill()
    ended = wait_for(client, job)
    assert ended["state"] == "failed" and "ended twice" in ended["reason"]
    assert client.get("/health").json()["status"] == "ok"
    assert "svfap_worker_restarts_total 2.0" in client.get("/metrics").text
    client.delete(f"/v1/jobs/{job['id']}")


def test_jobs_and_room_are_limited(client, long_video, video, monkeypatch):
    jobs = [submit(client, long_video) for _ in range(7)]
    assert [each.status_code for each in jobs] == [201] * 6 + [429]
    assert "6 jobs are waiting" in jobs[-1].json()["detail"] and jobs[-1].headers["retry-after"]
    for job in jobs[:-1][::-1]:
        client.delete(f"/v1/jobs/{job.json()['id']}")
    server = client.app.state.server
    with server.store.reserving(50 * 10**9):
        full = submit(client, video)
    assert full.status_code == 507 and "delete jobs" in full.json()["detail"]
    monkeypatch.setattr(server, "uploads", 20)
    busy = submit(client, video)
    assert busy.status_code == 503 and "20 uploads" in busy.json()["detail"]
    assert server.store._reserved == 0


def test_a_disk_that_is_full_in_the_middle_of_an_upload(client, video, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "/srv/secret")

    monkeypatch.setattr("starlette.datastructures.UploadFile.write", full)
    answer = submit(client, video)
    assert answer.status_code == 507 and "full" in answer.json()["detail"] and "secret" not in answer.text


def test_what_is_old_is_deleted(client, video):
    job = wait_for(client, submit(client, video).json())
    server = client.app.state.server
    server.queue.clean(job["ended"] + 3500)
    assert client.get(f"/v1/jobs/{job['id']}").json()["has_video"]
    server.queue.clean(job["ended"] + 3700)
    assert not client.get(f"/v1/jobs/{job['id']}").json()["has_video"]
    assert client.get(f"/v1/jobs/{job['id']}/video").status_code == 404
    assert len(rows_of(client, job)) > 0


@pytest.fixture
def made(client, done, video):
    """A job whose table is made of these rows."""
    store, jobs = client.app.state.server.store, []

    def make(rows):
        job = store.add(done["name"], {"model": "movement"})
        jobs.append(job.id)
        store.change(job.id, state="done")
        shutil.copy(video, store.video_of(job))
        shutil.copytree(store.result(store[done["id"]], ""), store.result(job, ""))
        store.result(job, TABLE).write_text("".join(json.dumps({"video": done["name"], **row}) + "\n" for row in rows))
        return f"/v1/jobs/{job.id}"

    yield make
    for job_id in jobs:
        store.remove(job_id)


def rows_of_face(track, first_s, value):
    return [
        {"track": track, "start_s": first_s + k / 10, "end_s": first_s + (k + 1) / 10, "smile_width": value + k}
        for k in range(5)
    ]


def test_persons_and_choices_are_in_the_table_the_page_and_the_methods(client, made):
    job = made([*rows_of_face(1, 0.0, 0), *rows_of_face(2, 0.5, 10)])
    assert "Ada" not in client.get(f"{job}/page").text
    named = client.put(f"{job}/persons", json={"1": " Ada ", "2": "Ada"})
    assert named.json()["persons"] == {"1": "Ada", "2": "Ada"}
    table = pd.read_csv(io.BytesIO(client.get(f"{job}/table").content))
    assert set(table["person"]) == {"Ada"}
    assert "Ada" in client.get(f"{job}/page").text
    plain, about = (client.get(f"{job}/about", params=chosen).json() for chosen in ({}, {"smooth_s": 1, "decimals": 2}))
    assert plain["refined"] == [{"persons": {"1": "Ada", "2": "Ada"}}]
    assert about["refined"][0] | {"smooth_s": 1, "decimals": 2} == about["refined"][0]
    assert "over 1 s" in about["methods"] and "over 1 s" not in plain["methods"]
    eaf = client.get(f"{job}/table", params={"format": "eaf"}).text
    assert f'RELATIVE_MEDIA_URL="./{table["video"][0]}"' in eaf and "jobs" not in eaf
    assert client.put(f"{job}/persons", json={}).json()["persons"] == {}
    assert "Ada" not in client.get(f"{job}/page").text


def test_persons_that_cannot_be_are_refused(client, made, done):
    job = made([*rows_of_face(1, 0.0, 0), *rows_of_face(2, 0.2, 10)])
    for persons, reason in (
        ({"x": "Ada"}, "numbers of faces"),
        ({"1": "Ada", "7": "Eve"}, "no face 7; there are 1, 2"),
        ({"1": "Ada", "2": "Ada"}, "Ada"),  # in two places at once
    ):
        answer = client.put(f"{job}/persons", json=persons)
        assert answer.status_code == 422 and reason in answer.json()["detail"], answer.text
    assert client.get(job).json()["persons"] == {}


def test_a_video_without_a_face_has_a_table_without_rows(client, made):
    job = made([])
    for format in ("csv", "xlsx", "parquet", "jsonl", "json"):
        assert client.get(f"{job}/table", params={"format": format}).status_code == 200
    assert client.get(f"{job}/table").text.startswith("video,start_s,end_s")
    for format in ("eaf", "vtt"):
        answer = client.get(f"{job}/table", params={"format": format})
        assert answer.status_code == 422 and "no face was found" in answer.json()["detail"]


def test_a_folder_that_holds_other_files_is_left_alone(tmp_path):
    from svfap.errors import UserError
    from svfap.serve.store import Store

    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="choose another --folder"):
        Store(tmp_path)
    assert Path(tmp_path / "jobs" / "mine.txt").exists()


def test_the_page_has_a_field_for_every_setting_and_a_text_for_every_key():
    page, texts = (files("svfap.serve") / "page" / name for name in ("index.html", "strings.json"))
    fields = re.findall(r'<(?:input|select) name="(\w+)"', page.read_text())
    assert set(fields) == {*CALLER_SETTINGS, "overlay", "address"}
    keys = re.findall(r'data-(?:text|placeholder)="(\w+)"', page.read_text())
    assert keys and set(keys) <= json.loads(texts.read_text()).keys()
