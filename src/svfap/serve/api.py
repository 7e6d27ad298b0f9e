"""The REST interface: submit a video, follow it, fetch what came of it. `/docs` describes it in a browser."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import quote, urlsplit

import prometheus_client
from fastapi import Depends, FastAPI, File, Form, Header, Query, Request, UploadFile, WebSocket
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi_offline import FastAPIOffline
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from pydantic import Field
from starlette.exceptions import HTTPException

import svfap
from svfap.errors import UserError
from svfap.predict.table import of_head
from svfap.serve.camera import Cameras
from svfap.serve.config import MEGA, ServeConfig
from svfap.serve.fetch import check_address, check_public, name_of
from svfap.serve.limits import FORM_BYTES, Gate
from svfap.serve.pages import add_pages
from svfap.serve.server import ROWS_AT_ONCE, JobView, Server
from svfap.serve.store import ENDED, OVERLAY, PAGE, TABLE, Job, State

EVENTS_EVERY_S = 0.25
Format = Literal["csv", "parquet", "xlsx", "json", "jsonl", "eaf", "vtt"]
FORMATS: dict[Format, str] = {
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "json": "application/json",
    "jsonl": "application/x-ndjson",
    "eaf": "application/xml",
    "vtt": "text/vtt",
}
FULL = (errno.ENOSPC, errno.EDQUOT)
OPEN_PATHS = ("/", "/health", "/static/*", "/docs", "/redoc", "/openapi.json", "/static-offline-docs/*")
TAGS = [
    {"name": "jobs", "description": "One video each."},
    {"name": "results", "description": "What came of a video."},
    {"name": "server", "description": "What the server has and does."},
]


def make_app(config: ServeConfig, token: str) -> FastAPI:
    """The application: routes, and the gate before them. Raises `UserError`."""
    server = Server(config, token)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        server.start()
        yield
        await asyncio.to_thread(server.stop)

    app = FastAPIOffline(
        title="SVFAP", version=svfap.__version__, description=__doc__, openapi_tags=TAGS, lifespan=lifespan
    )
    app.state.server = server

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        said = (f"{'.'.join(str(part) for part in each['loc'][1:])}: {each['msg']}" for each in error.errors())
        return JSONResponse({"detail": "; ".join(said)}, 422)

    @app.exception_handler(UserError)
    async def refused(_: Request, error: UserError) -> Response:
        server.refused += 1
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(HTTPException)
    @app.exception_handler(OSError)
    async def failed(request: Request, error: HTTPException | OSError) -> Response:
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(cause, OSError) and cause.errno in FULL:  # also while an upload is read
            return JSONResponse({"detail": "the disk of the server is full; delete jobs, or try again later"}, 507)
        if isinstance(error, OSError):
            raise error
        return await http_exception_handler(request, error)

    app.router.route_class = _Route
    app.add_middleware(
        Gate,
        token=token,
        open_paths=OPEN_PATHS,
        is_local=config.is_local,
        max_bytes=int(config.max_upload_mb * MEGA),
        timeout_s=config.upload_timeout_s,
        admission=server.upload,
    )
    _add_jobs(app, server)
    _add_results(app, server)
    _add_server(app, server)
    add_pages(app, token)
    return app


class _Route(APIRoute):
    """A route whose forms hold one file and few short fields."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_small(request: Request) -> Response:
            return await handle(_Request(request.scope, request.receive))

        return handle_small


class _Request(Request):
    def form(self, **_: Any) -> Any:
        return super().form(max_files=1, max_fields=8, max_part_size=FORM_BYTES)


def _sent(content: bytes, kind: str, name: str | None) -> Response:
    """An answer, with a name as a file to save."""
    headers = {} if name is None else {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}"}
    return Response(content, media_type=kind, headers=headers)


def job_of(request: Request, job_id: str) -> Job:
    try:
        job: Job = request.app.state.server.store[job_id]
    except KeyError:
        raise HTTPException(404, "no such job") from None
    return job


WithJob = Annotated[Job, Depends(job_of)]
SmoothS = Annotated[float, Query(ge=0, le=3600, description="moving average over this many seconds")]
Baseline = Annotated[
    Literal["median"] | None, Query(description="subtract the median of each person, not of probabilities")
]
Decimals = Annotated[int | None, Query(ge=0, le=15)]


def _add_jobs(app: FastAPI, server: Server) -> None:
    @app.post("/v1/jobs", status_code=201, tags=["jobs"], summary="Submit a video or a picture")
    def submit(
        file: Annotated[UploadFile | None, File(description="the video")] = None,
        address: Annotated[
            str | None, Form(description="http or https address of the video, in place of a file")
        ] = None,
        settings: Annotated[str, Form(description="JSON object with `Settings`")] = "{}",
    ) -> JobView:
        """Give a file or an address, and settings if they are to differ from the defaults."""
        if (file is None) == (address is None):
            raise UserError("give either a file or an address")
        chosen = server.checked_settings(settings)
        if file is not None:
            job = server.take(file, chosen)
        else:
            if not server.config.addresses:
                raise UserError("this server takes files, not addresses")
            check_address(address or "")
            check_public(urlsplit(address or "").hostname or "")
            job = server.store.add(name_of(address or ""), chosen, address=address)
        server.queue.submit(job)
        return server.view(job)

    @app.get("/v1/jobs", tags=["jobs"], summary="All jobs")
    def jobs(state: Annotated[list[State] | None, Query()] = None) -> list[JobView]:
        return [server.view(job) for job in (server.store.all(state) if state else server.store.all())]

    @app.get("/v1/jobs/{job_id}", tags=["jobs"], summary="A job: its state and progress")
    def job(job: WithJob) -> JobView:
        return server.view(job)

    @app.post("/v1/jobs/{job_id}/cancel", tags=["jobs"], summary="Stop a job")
    def cancel(job: WithJob) -> JobView:
        if not server.queue.cancel(job.id):
            raise HTTPException(409, f"the job has ended: {server.store[job.id].state}")
        return server.view(server.store[job.id])

    @app.post("/v1/jobs/{job_id}/again", tags=["jobs"], summary="Begin a job that failed or was cancelled once more")
    def again(job: WithJob) -> JobView:
        if job.state not in ("failed", "cancelled"):
            raise HTTPException(409, f"the job has not failed: it is {job.state}")
        if (refusal := server.refusal(0)) is not None:
            raise HTTPException(*refusal)
        if not server.queue.again(job):
            raise HTTPException(409, "the video is not here any more; submit it again")
        return server.view(server.store[job.id])

    @app.delete("/v1/jobs/{job_id}", status_code=204, tags=["jobs"], summary="Delete a job, its video and its results")
    def delete(job: WithJob) -> None:
        server.queue.remove(job.id)

    @app.put("/v1/jobs/{job_id}/persons", tags=["jobs"], summary="Name faces; faces of one name are one person")
    def name_persons(job: WithJob, persons: dict[str, Annotated[str, Field(max_length=100)]]) -> JobView:
        """Numbers of faces (column `track`) and the names of the persons."""
        if not all(number.isdecimal() for number in persons):
            raise UserError('persons: the keys must be numbers of faces, such as "1"')
        if job.state != "done":
            raise HTTPException(409, f"the job is not done: {job.state}")
        server.name_persons(job, {number: name.strip() for number, name in persons.items() if name.strip()})
        return server.view(server.store[job.id])


def _add_results(app: FastAPI, server: Server) -> None:
    def file_of(job: Job, name: str) -> Path:
        path = server.store.result(job, name)
        if not path.exists():
            raise HTTPException(404, f"the job has no such result; it is {job.state}")
        return path

    @app.get("/v1/jobs/{job_id}/rows", tags=["results"], summary="Rows so far, as JSON lines")
    def rows(
        job: WithJob, start: Annotated[int, Query(ge=0, description="number of the first row")] = 0
    ) -> StreamingResponse:
        lines = (json.dumps(row) + "\n" for _, row in server.rows(job, start))
        return StreamingResponse(lines, media_type="application/x-ndjson")

    @app.get(
        "/v1/jobs/{job_id}/events", tags=["results"], response_class=EventSourceResponse, summary="Rows as they come"
    )
    async def events(
        job: WithJob, request: Request, last_event_id: Annotated[int, Header(ge=-1)] = -1
    ) -> AsyncIterator[ServerSentEvent]:
        """Server-sent events until the job has ended: `row` (its id is its number from 0), `state` (a job) when anything
        about the job changes, `restart` when rows begin again from 0."""
        number, offset, before = last_event_id + 1, 0, None
        skip = number
        while not await request.is_disconnected():
            look = await asyncio.to_thread(server.look, job.id, skip, offset)
            if look is None:
                return
            if look.is_shorter:  # begun again
                number = offset = skip = 0
                yield ServerSentEvent(event="restart", data={})  # browsers leave out events without data
                continue
            for behind, row in look.rows:
                offset = behind
                yield ServerSentEvent(event="row", id=str(number), data=row)
                number, skip = number + 1, 0
            if look.view != before:
                before = look.view
                yield ServerSentEvent(event="state", data=before)
            if len(look.rows) < ROWS_AT_ONCE:
                if look.view.state in ENDED:
                    return
                await asyncio.sleep(EVENTS_EVERY_S)

    @app.get("/v1/jobs/{job_id}/table", tags=["results"], summary="The table, in many formats")
    def table(
        job: WithJob,
        format: Format = "csv",
        summary: Annotated[bool, Query(description="a row per face or person instead")] = False,
        smooth_s: SmoothS = 0.0,
        baseline: Baseline = None,
        decimals: Decimals = None,
    ) -> Response:
        """As `svfap table` writes it, with the names of persons. eaf: tiers for ELAN; vtt: captions."""
        file_of(job, TABLE)
        chosen: dict[str, Any] = {"smooth_s": smooth_s, "baseline": baseline, "decimals": decimals}
        content, _ = server.table(job, format, summary, chosen)
        return _sent(content, FORMATS[format], f"{Path(job.name).stem}{'_summary' * summary}.{format}")

    @app.get("/v1/jobs/{job_id}/about", tags=["results"], summary="How a table was made")
    def about(
        job: WithJob,
        smooth_s: SmoothS = 0.0,
        baseline: Baseline = None,
        decimals: Decimals = None,
        download: bool = False,
    ) -> Response:
        """Of the table with the same choices, and the names of persons; `methods` is a paragraph for a paper."""
        file_of(job, TABLE)
        _, content = server.table(job, "csv", False, {"smooth_s": smooth_s, "baseline": baseline, "decimals": decimals})
        return _sent(content, "application/json", f"{Path(job.name).stem}.about.json" if download else None)

    @app.get("/v1/jobs/{job_id}/page", tags=["results"], summary="The interactive page")
    def page(job: WithJob, head: str = "", download: bool = False) -> FileResponse:
        """Of a model with several heads, `head` chooses one."""
        if head not in server.pages(job):
            raise HTTPException(404, f"the job has no such page; it is {job.state}")
        name = of_head(Path(job.name).with_suffix(".html"), head).name if download else None
        return FileResponse(of_head(server.store.result(job, PAGE), head), media_type="text/html", filename=name)

    @app.get("/v1/jobs/{job_id}/overlay", tags=["results"], summary="The video with the predictions drawn in")
    def overlay(job: WithJob) -> FileResponse:
        return FileResponse(file_of(job, OVERLAY), filename=f"{Path(job.name).stem}_overlay.mp4")

    @app.get("/v1/jobs/{job_id}/video", tags=["results"], summary="The video as it was given")
    def video(job: WithJob) -> FileResponse:
        path = server.store.video_of(job)
        if not path.exists():
            raise HTTPException(404, "the video is not here any more")
        return FileResponse(path)


def _add_server(app: FastAPI, server: Server) -> None:
    cameras = Cameras(server.config)
    registry = prometheus_client.CollectorRegistry()
    registry.register(_Collector(server))

    @app.get("/v1/models", tags=["server"], summary="Models to choose from; the first is the default")
    def models() -> list[str]:
        return server.config.models

    @app.websocket("/v1/camera")
    async def camera(socket: WebSocket, model: str = "") -> None:
        await cameras.serve(socket, model or server.config.models[0])

    @app.get("/health", tags=["server"], summary="Whether the server works")
    def health() -> JSONResponse:
        is_well = server.queue.is_alive
        return JSONResponse(
            {"status": "ok" if is_well else "broken", "version": svfap.__version__}, 200 if is_well else 503
        )

    @app.get("/metrics", tags=["server"], summary="Numbers for Prometheus")
    def metrics() -> PlainTextResponse:
        return PlainTextResponse(
            prometheus_client.generate_latest(registry), media_type=prometheus_client.CONTENT_TYPE_LATEST
        )


class _Collector:
    """Numbers of a server, looked up when they are asked for."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def collect(self) -> Iterator[Any]:
        server, queue = self.server, self.server.queue
        jobs = GaugeMetricFamily("svfap_jobs", "Jobs on the list", labels=["state"])
        for state in get_args(State):
            jobs.add_metric([state], server.store.count(state))
        yield jobs
        ended = CounterMetricFamily("svfap_jobs_ended", "Jobs that have ended since the start", labels=["state"])
        for state, number in queue.ended.items():
            ended.add_metric([state], number)
        yield ended
        yield CounterMetricFamily("svfap_frames", "Frames read since the start", value=queue.frames)
        yield CounterMetricFamily("svfap_refused", "Submissions refused since the start", value=server.refused)
        yield CounterMetricFamily("svfap_worker_restarts", "Processes that died", value=queue.restarts)
        yield GaugeMetricFamily("svfap_uploads", "Uploads under way", value=server.uploads)
        yield GaugeMetricFamily("svfap_disk_bytes", "Room that uploads and results take", value=server.store.size)
