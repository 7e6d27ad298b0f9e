"""What a server knows of its jobs and does with them, below the routes of `svfap.serve.api`."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, get_type_hints
from urllib.parse import quote
from xml.etree import ElementTree

import pandas as pd
from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from starlette.exceptions import HTTPException

from svfap.errors import UserError
from svfap.faces.detect import check_detector
from svfap.predict.about import about_from, about_of
from svfap.predict.config import PredictConfig, RefineSettings, TableConfig
from svfap.predict.finish import finish_table
from svfap.predict.page import write_affect_pages
from svfap.predict.refine import refine
from svfap.predict.table import part_of, read_predictions
from svfap.serve.config import GIGA, MEGA, ServeConfig
from svfap.serve.fetch import safe_name
from svfap.serve.inspection import Inspector
from svfap.serve.queue import Queue
from svfap.serve.store import OVERLAY, PAGE, TABLE, Job, State, Store
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
ROWS_AT_ONCE = 1000
LARGEST = 1_000_000  # number in settings
LEAST_FREE = GIGA  # bytes of the disk that are left to others


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
        config = PredictConfig(**{name: value for name, value in given.items() if name != "overlay"}, out=None)
        check_detector(config.faces, config.landmarks)
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


def _write_persons(file: Path, video: str, persons: dict[str, str]) -> Path:
    """The file of names that `svfap table` takes."""
    rows = [(video, number, name) for number, name in persons.items()]
    pd.DataFrame(rows, columns=["video", "track", "person"]).to_csv(file, index=False)
    return file


def _beside(eaf: bytes, video: str) -> bytes:
    """An ELAN file whose video lies beside it."""
    document = ElementTree.fromstring(eaf)
    for media in document.iter("MEDIA_DESCRIPTOR"):
        media.set("MEDIA_URL", f"file:///{quote(video)}")  # ELAN asks for the file if it is at neither place
        media.set("RELATIVE_MEDIA_URL", f"./{video}")
    return ElementTree.tostring(document, encoding="utf-8", xml_declaration=True)
