"""The REST interface: submit a video, follow it, fetch what came of it. `/docs` describes it in a browser."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import pandas as pd
import prometheus_client
from fastapi import Depends, FastAPI, File, Form, Header, Query, Request, UploadFile, WebSocket
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi_offline import FastAPIOffline
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from starlette.exceptions import HTTPException

import svfap
from svfap.errors import UserError
from svfap.predict.about import about_from, about_of
from svfap.predict.config import PredictConfig, RefineSettings, TableConfig
from svfap.predict.finish import finish_table
from svfap.predict.page import write_affect_pages
from svfap.predict.refine import refine
from svfap.predict.table import of_head, part_of, read_predictions
from svfap.serve.camera import Cameras
from svfap.serve.config import GIGA, MEGA, ServeConfig
from svfap.serve.fetch import check_address, check_public, name_of, safe_name
from svfap.serve.inspection import Inspector
from svfap.serve.limits import FORM_BYTES, Gate
from svfap.serve.pages import add_pages
from svfap.serve.queue import Queue
from svfap.serve.store import ENDED, OVERLAY, PAGE, TABLE, Job, State, Store
from svfap.serve.worker import Progress

# Of `PredictConfig`, that a caller may choose.
CALLER_SETTINGS = (
    "model",
    "faces",
    "detect_every",
    "min_face_px",
    "margin",
    "align",
    "border",
    "hop_s",
    "fps",
    "landmarks",
)
LEAST_KNOWN_S = 1.0  # of reading, before the time that is left is estimated
EVENTS_EVERY_S = 0.25
ROWS_AT_ONCE = 1000
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
LARGEST = 1_000_000  # number in settings
FULL = (errno.ENOSPC, errno.EDQUOT)
LEAST_FREE = GIGA  # bytes of the disk that are left to others
OPEN_PATHS = ("/", "/health", "/static/*", "/docs", "/redoc", "/openapi.json", "/static-offline-docs/*")
TAGS = [
    {"name": "jobs", "description": "One video each."},
    {"name": "results", "description": "What came of a video."},
    {"name": "server", "description": "What the server has and does."},
]


class Settings(
    create_model(  # type: ignore[misc]
        "Settings",
        **{
            each.name: (get_type_hints(PredictConfig)[each.name], each.default)
            for each in dataclasses.fields(PredictConfig)
            if each.name in CALLER_SETTINGS
        },
    )
):
    """Settings of a job, which are options of `svfap predict`; what is left out has their default."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    overlay: Annotated[bool, Field(description="also draw the predictions into the video")] = False


class JobView(BaseModel):
    """A job as callers see it. Times are seconds since 1970; `frames` and `total` are counted while it runs."""

    id: str
    name: str
    address: str | None
    state: State
    settings: dict[str, Any]
    notes: list[str]
    persons: dict[str, str]
    reason: str
    size: int
    created: float
    started: float | None
    ended: float | None
    frames: int | None = None
    total: int | None = None
    ahead: Annotated[int | None, Field(description="jobs before it in the queue")] = None
    seconds_left: Annotated[float | None, Field(description="estimated from the frames read so far")] = None
    pages: Annotated[list[str], Field(description="heads of the model that have a page; '' of the only one")] = []
    has_overlay: bool = False
    has_video: Annotated[bool, Field(description="the video has not been deleted yet")] = True


@dataclass(frozen=True)
class Look:
    """What is new of a job. rows: (byte behind it, row). is_shorter: there are fewer rows than before."""

    view: JobView
    rows: list[tuple[int, dict[str, Any]]]
    is_shorter: bool = False


class Server:
    """A store, its queue, and the views of them that the routes need."""

    def __init__(self, config: ServeConfig, token: str) -> None:
        self.config, self.token = config, token
        self.store = Store(config.folder)
        self.inspector = Inspector(config.max_megapixels, config.max_length_s)
        self.queue = Queue(config, self.store, self.inspector)
        self.uploads = 0
        self.refused = 0

    def start(self) -> None:
        tempfile.tempdir = str(self.store.incoming)  # where uploads wait until they are complete
        self.inspector.start()
        self.queue.start()

    def stop(self) -> None:
        self.queue.stop()
        self.inspector.close()
        self.store.close()
        tempfile.tempdir = None

    def view(self, job: Job) -> JobView:
        progress = self.queue.progress.get(job.id)
        return JobView(
            **{name: value for name, value in dataclasses.asdict(job).items() if name in JobView.model_fields},
            frames=None if progress is None else progress.frames,
            total=None if progress is None else progress.total,
            ahead=self.store.ahead(job),
            seconds_left=self._seconds_left(job, progress),
            pages=self.pages(job),
            has_overlay=self.store.result(job, OVERLAY).exists(),
            has_video=self.store.video_of(job).exists(),
        )

    @staticmethod
    def _seconds_left(job: Job, progress: Progress | None) -> float | None:
        if job.state != "running" or progress is None or not progress.total or progress.seconds < LEAST_KNOWN_S:
            return None
        return round(progress.seconds * (progress.total - progress.frames) / progress.frames, 1)

    def pages(self, job: Job) -> list[str]:
        """The heads that have a page, in alphabetical order; of a model with one head ''."""
        stem = Path(PAGE).stem
        found = (path.stem.removeprefix(stem) for path in self.store.result(job, PAGE).parent.glob(f"{stem}*.html"))
        return sorted(name.removeprefix("_") for name in found)

    @contextmanager
    def upload(self, num_bytes: int) -> Iterator[tuple[int, str] | None]:
        """While an upload is under way: None, or why it is refused, as status and reason."""
        if (refusal := self.refusal(num_bytes)) is not None:
            self.refused += 1
            yield refusal
            return
        self.uploads += 1
        try:
            with self.store.reserving(num_bytes):
                yield None
        finally:
            self.uploads -= 1

    def refusal(self, num_bytes: int) -> tuple[int, str] | None:
        """Why no new job of this size is taken now, as status and reason."""
        if self.store.count("fetching", "queued", "running") >= self.config.max_jobs:
            return 429, f"{self.config.max_jobs} jobs are waiting, which is the most; try again later"
        if self.uploads >= self.config.max_uploads:
            return 503, f"{self.config.max_uploads} uploads are under way, which is the most; try again in a moment"
        if self.store.size + num_bytes > self.config.max_disk_gb * GIGA:
            return 507, f"the {self.config.max_disk_gb:g} GB for uploads and results are full; delete jobs"
        if shutil.disk_usage(self.store.folder).free - num_bytes < LEAST_FREE:
            return 507, "the disk of the server is nearly full"
        return None

    def checked_settings(self, text: str) -> dict[str, Any]:
        """Settings of a job from their JSON, those that were given and the model. Raises `UserError`."""
        try:
            given = Settings.model_validate_json(text or "{}").model_dump(exclude_unset=True)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(f"settings: {f'{where}: ' if where else ''}{first['msg']}") from None
        for name, value in given.items():
            if isinstance(value, int | float) and abs(value) > LARGEST:
                raise UserError(f"settings: {name}: must be at most {LARGEST:,}")
        given.setdefault("model", self.config.models[0])
        if given["model"] not in self.config.models:
            raise UserError(f"settings: model: must be one of {', '.join(self.config.models)}")
        PredictConfig(**{name: value for name, value in given.items() if name != "overlay"}, out=None)
        return given

    def take(self, upload: UploadFile, settings: dict[str, Any]) -> Job:
        """A job for an uploaded file. Raises `UserError` for one that is no video, too large or too long."""
        job_id, name = uuid.uuid4().hex, safe_name(upload.filename or "")
        folder = self.store.incoming / job_id
        folder.mkdir()
        try:
            with (folder / name).open("wb") as file:
                shutil.copyfileobj(upload.file, file, MEGA)
            upload.file.close()
            if (folder / name).stat().st_size > self.config.max_upload_mb * MEGA:
                raise HTTPException(
                    413, f"{name}: is larger than {self.config.max_upload_mb:g} MB, which is the most that is taken"
                )
            self.inspector(folder / name)
            target = self.store.folder_of(job_id)
            target.mkdir()
            (folder / name).replace(target / name)
            return self.store.add(name, settings, job_id=job_id)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def table(self, job: Job, suffix: str, is_summary: bool, chosen: dict[str, Any]) -> tuple[bytes, bytes]:
        """A finished table in another format, refined as chosen, and how it was made, as JSON. Raises `UserError`."""
        folder = self.store.incoming / uuid.uuid4().hex
        folder.mkdir()
        try:
            source, out = self.store.result(job, TABLE), folder / f"table.{suffix}"
            if (rows := read_predictions(source)).empty and suffix in ("eaf", "vtt"):
                raise UserError(f"{job.name}: no face was found in it, so there is nothing to put into {suffix}")
            if job.persons and "track" in rows:
                chosen["persons"] = _write_persons(folder / "persons.csv", job.name, job.persons)
            chosen["out"] = folder / "table.csv" if is_summary else out
            chosen["summary"] = folder / f"summary.{suffix}" if is_summary else None
            finish_table(source, TableConfig(**chosen))
            about = json.loads(about_of(chosen["out"]).read_text("utf-8"))
            about["refined"] = [
                {**done, **({"persons": job.persons} if "persons" in done else {})} for done in about["refined"]
            ]
            about.pop("table")  # which callers do not have
            content = (chosen["summary"] or out).read_bytes()
            content = _beside(content, job.name) if suffix == "eaf" and not is_summary else content
            return content, json.dumps(about, indent=2, ensure_ascii=False).encode()
        except UserError as error:
            raise UserError(str(error).replace(f"{folder}/", "").replace(f"{source.parent}/", "")) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def name_persons(self, job: Job, persons: dict[str, str]) -> None:
        """Store the names of faces, and write the pages with them while the video is there.

        Raises `UserError` for a face that there is none of, and for one name of two faces that are in view together.
        """
        source = self.store.result(job, TABLE)
        rows = read_predictions(source)
        tracks = set(rows["track"].astype(int).astype(str)) if "track" in rows else set()
        if unknown := persons.keys() - tracks:
            raise UserError(
                f"persons: there is no face {', '.join(sorted(unknown))}; there are {', '.join(sorted(tracks)) or 'none'}"
            )
        file = _write_persons(self.store.incoming / f"{uuid.uuid4().hex}.csv", job.name, persons)
        try:
            named = refine(rows, RefineSettings(persons=file)) if persons else rows
        except UserError as error:
            raise UserError(str(error).replace(str(file), "persons")) from None
        finally:
            file.unlink()
        if (video := self.store.video_of(job)).exists():
            write_affect_pages(self.store.result(job, PAGE), named, {job.name: video}, about_from(source))
        self.store.change(job.id, persons=persons)

    def rows_file(self, job: Job) -> Path | None:
        """Where the rows of a job are now."""
        table = self.store.result(job, TABLE)
        return next((path for path in (part_of(table), table) if path.exists()), None)

    def look(self, job_id: str, start: int, offset: int) -> Look | None:
        """A job, and rows as `rows` gives them; None if the job is gone."""
        try:
            job = self.store[job_id]
        except KeyError:
            return None
        view = self.view(job)
        if offset and self._size(job) < offset:
            return Look(view, [], is_shorter=True)
        return Look(view, list(islice(self.rows(job, start, offset), ROWS_AT_ONCE)))

    def _size(self, job: Job) -> int:
        for _ in range(2):  # it may be renamed in between
            if (path := self.rows_file(job)) is not None:
                with suppress(FileNotFoundError):
                    return path.stat().st_size
        return 0

    def rows(self, job: Job, start: int, offset: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """(byte behind it, row) of rows from number `start` counted from byte `offset` on, as far as they are complete."""
        path = self.rows_file(job)
        if path is None:
            return
        try:
            with path.open("rb") as file:
                file.seek(offset)
                for number, line in enumerate(file):
                    if not line.endswith(b"\n"):
                        return
                    offset += len(line)
                    if number >= start:
                        yield offset, json.loads(line)
        except FileNotFoundError:  # renamed in this moment; the next look finds it
            return


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


def _write_persons(file: Path, video: str, persons: dict[str, str]) -> Path:
    """The file of names that `svfap table` takes."""
    rows = [(video, number, name) for number, name in persons.items()]
    pd.DataFrame(rows, columns=["video", "track", "person"]).to_csv(file, index=False)
    return file


def _sent(content: bytes, kind: str, name: str | None) -> Response:
    """An answer, with a name as a file to save."""
    headers = {} if name is None else {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}"}
    return Response(content, media_type=kind, headers=headers)


def _beside(eaf: bytes, video: str) -> bytes:
    """An ELAN file whose video lies beside it."""
    document = ElementTree.fromstring(eaf)
    for media in document.iter("MEDIA_DESCRIPTOR"):
        media.set("MEDIA_URL", f"file:///{quote(video)}")  # ELAN asks for the file if it is at neither place
        media.set("RELATIVE_MEDIA_URL", f"./{video}")
    return ElementTree.tostring(document, encoding="utf-8", xml_declaration=True)


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
