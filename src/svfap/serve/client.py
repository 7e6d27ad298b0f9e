"""A client of `svfap serve`, in Python."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas as pd

from svfap.errors import UserError, first_line, require_package

if TYPE_CHECKING:
    import httpx

ENDED = ("done", "failed", "cancelled")
TRIES = 5  # to reach a server again that was lost while rows are followed

Job = dict[str, Any]  # as `GET /v1/jobs/ID` gives it


class Client:
    """Submits videos to a server and fetches what came of them. A job is a dict with `id`, `state`, `reason` and more.

    All methods raise `UserError` with the server's reason, or if it cannot be reached. Also a context manager.

    Args:
        token: the server's secret.
        address: of the server.
        timeout_s: without any answer.
    """

    def __init__(self, token: str, address: str = "http://127.0.0.1:8000", timeout_s: float = 60.0) -> None:
        package = require_package("httpx", "app", "Client")
        self._lost: type[Exception] = package.TransportError
        self._http: httpx.Client = package.Client(
            base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=timeout_s
        )

    def submit(self, video: str | Path, **settings: Any) -> Job:
        """Submit a file, or an http or https address that the server downloads. settings: options of `svfap predict`, such
        as model, faces and hop_s, and overlay=True."""
        data = {"settings": json.dumps(settings, default=str)}
        if isinstance(video, str) and video.startswith(("http://", "https://")):
            return self._json("POST", "/v1/jobs", data={**data, "address": video}, files={})
        path = Path(video)
        try:
            with path.open("rb") as file:
                return self._json("POST", "/v1/jobs", data=data, files={"file": (path.name, file)})
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None

    def job(self, job_id: str) -> Job:
        """The job as it is now."""
        return self._json("GET", f"/v1/jobs/{job_id}")

    def jobs(self) -> list[Job]:
        """All jobs of the server, the oldest first."""
        found: list[Job] = self._json("GET", "/v1/jobs")
        return found

    def rows(self, job_id: str, on_progress: Callable[[Job], None] | None = None) -> Iterator[dict[str, Any]]:
        """The rows as they are computed, until the job has ended. on_progress: gets the job when anything about it changes.

        If the server begins the job again, such as after a restart, rows that were given already are left out. Raises
        `UserError` if the job failed or was cancelled.
        """
        count, tries = 0, 0
        while True:
            number = count
            try:
                with self._http.stream(
                    "GET", f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": str(count - 1)}
                ) as answer:
                    _check(answer)
                    for event, data in _events(answer.iter_lines()):
                        tries = 0
                        if event == "restart":
                            number = 0
                        elif event == "row":
                            number += 1
                            if number > count:
                                count = number
                                yield data
                        elif event == "state":
                            if on_progress is not None:
                                on_progress(data)
                            if data["state"] in ENDED:
                                if data["state"] != "done":
                                    raise UserError(f"{data['name']}: {data['reason'] or data['state']}")
                                return
                self.job(job_id)  # raises if it was deleted
                tries += 1
            except self._lost as error:
                tries += 1
                if tries >= TRIES:
                    raise self._unreached(error) from None
            time.sleep(min(tries, 3))

    def wait(self, job_id: str, on_progress: Callable[[Job], None] | None = None) -> pd.DataFrame:
        """The table of a job once it is done, see `rows`."""
        for _ in self.rows(job_id, on_progress):
            pass
        return self.table(job_id)

    def table(self, job_id: str) -> pd.DataFrame:
        """The rows so far, of a job that is done all."""
        text = self._get(f"/v1/jobs/{job_id}/rows").decode()
        rows = [json.loads(line) for line in io.StringIO(text)]
        return pd.DataFrame(rows)

    def save(self, job_id: str, what: str, path: str | Path, **options: Any) -> None:
        """Write a result to a file. what: table, page, about, overlay or video. options: of a table, such as format="xlsx",
        smooth_s, baseline, decimals and summary; of a page, head."""
        content = self._get(f"/v1/jobs/{job_id}/{what}", params=options)
        try:
            Path(path).write_bytes(content)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from None

    def cancel(self, job_id: str) -> Job:
        """Stop a job."""
        return self._json("POST", f"/v1/jobs/{job_id}/cancel")

    def again(self, job_id: str) -> Job:
        """Begin a job that failed or was cancelled once more."""
        return self._json("POST", f"/v1/jobs/{job_id}/again")

    def delete(self, job_id: str) -> None:
        """Delete a job, its video and its results."""
        self._request("DELETE", f"/v1/jobs/{job_id}")

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _json(self, method: str, path: str, **kwargs: Any) -> Any:
        return self._request(method, path, **kwargs).json()

    def _get(self, path: str, **kwargs: Any) -> bytes:
        return bytes(self._request("GET", path, **kwargs).content)

    def _request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        try:
            return _check(self._http.request(method, path, **kwargs))
        except self._lost as error:
            raise self._unreached(error) from None

    def _unreached(self, error: Exception) -> UserError:
        return UserError(f"{self._http.base_url}: the server cannot be reached ({first_line(error)}); is it running?")


def _check(answer: httpx.Response) -> httpx.Response:
    """The answer itself. Raises `UserError` with its reason if it is a refusal."""
    if answer.is_success:
        return answer
    answer.read()
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.reason_phrase
    raise UserError(f"{detail} (status {answer.status_code})")


def _events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """(name, data) of server-sent events."""
    event: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            event[name] = event[name] + "\n" + value if name in event else value
        elif event:
            if "data" in event:
                yield event.get("event", "message"), json.loads(event["data"])
            event = {}
