"""What the tests of the server share: short videos, and waiting for a job."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from svfap.data.video import write_video
from svfap.serve.worker import Outcome, Progress, end_with_parent

TOKEN = "a token of the tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def make_video(path, num_frames=40, size=(48, 48), seed=0):
    """A picture that moves."""
    picture = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    write_video(path, [np.roll(picture, k, axis=1) for k in range(num_frames)], 25)
    return path


def submit(client, video, name=None, **settings):
    """The answer to a submission; video: a file, or bytes with a name."""
    content = video if isinstance(video, bytes) else video.read_bytes()
    settings = {"faces": "none", **settings}
    return client.post(
        "/v1/jobs", files={"file": (name or video.name, content)}, data={"settings": json.dumps(settings)}
    )


def wait_for(client, job, states=("done", "failed", "cancelled"), seconds=60):
    """The job once it is in one of these states."""
    for _ in range(20 * seconds):
        job = client.get(f"/v1/jobs/{job['id']}").json()
        if job["state"] in states:
            return job
        time.sleep(0.05)
    raise AssertionError(job)


def light_work(connection):
    """In place of `svfap.serve.worker.work`: starts at once, and writes two rows; of a video whose name begins with `long` for
    a minute."""
    end_with_parent()
    while True:
        try:
            order = connection.recv()
            table = Path(order.folder, "results", "affect.jsonl")
            table.parent.mkdir(exist_ok=True)
            table.write_text("".join(json.dumps({"video": order.name, "start_s": k}) + "\n" for k in range(2)))
            for count in range(3000 if order.name.startswith("long") else 1):
                connection.send(Progress(count + 1, 3000))
                time.sleep(0.02)
            connection.send(Outcome("", []))
        except (EOFError, OSError):
            return
